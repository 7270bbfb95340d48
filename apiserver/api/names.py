"""What names, labels, ports and addresses may look like: each check gives the texts of what is wrong (none: fine). Pure; validation and minikctl's create call it.

Texts and patterns are those of Kubernetes' API reference, "Object Names and IDs" and "Labels and Selectors" (RFC 1123, RFC 1035, RFC 6335 section 5.1).
"""

from __future__ import annotations

import ipaddress
import re

_LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_LABEL_RE = re.compile(_LABEL)
_SUBDOMAIN = rf"{_LABEL}(\.{_LABEL})*"
_SUBDOMAIN_RE = re.compile(_SUBDOMAIN)
_LABEL_1035 = r"[a-z]([-a-z0-9]*[a-z0-9])?"
_LABEL_1035_RE = re.compile(_LABEL_1035)
_QUALIFIED = r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]"
_QUALIFIED_RE = re.compile(_QUALIFIED)
_LABEL_VALUE = rf"({_QUALIFIED})?"
_CONFIG_KEY_RE = re.compile(r"[-._a-zA-Z0-9]+")
_ENV_NAME_RE = re.compile(r"[ -<>-~]+")

LABEL_TEXT = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character "
    f"(e.g. 'my-name',  or '123-abc', regex used for validation is '{_LABEL}')"
)
SUBDOMAIN_TEXT = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character "
    f"(e.g. 'example.com', regex used for validation is '{_SUBDOMAIN}')"
)
LABEL_1035_TEXT = (
    "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character "
    f"(e.g. 'my-name',  or 'abc-123', regex used for validation is '{_LABEL_1035}')"
)
QUALIFIED_TEXT = (
    "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character "
    f"(e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '{_QUALIFIED}')"
)
LABEL_VALUE_TEXT = (
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character "
    f"(e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '{_LABEL_VALUE}')"
)
CONFIG_KEY_TEXT = (
    "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', "
    "regex used for validation is '[-._a-zA-Z0-9]+')"
)
IP_TEXT = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"
CIDR_TEXT = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"


def _check(value: str, limit: int, pattern: re.Pattern[str], text: str) -> list[str]:
    problems = [f"must be no more than {limit} characters"] if len(value) > limit else []
    return problems if pattern.fullmatch(value) else [*problems, text]


def dns_label(value: str) -> list[str]:
    """RFC 1123 label: namespaces, containers, volumes."""
    return _check(value, 63, _LABEL_RE, LABEL_TEXT)


def dns_subdomain(value: str) -> list[str]:
    """RFC 1123 subdomain: most objects."""
    return _check(value, 253, _SUBDOMAIN_RE, SUBDOMAIN_TEXT)


def dns_1035_label(value: str) -> list[str]:
    """RFC 1035 label: services."""
    return _check(value, 63, _LABEL_1035_RE, LABEL_1035_TEXT)


def path_segment(value: str) -> list[str]:
    """A name that only has to fit into a URL: roles and bindings."""
    if value in (".", ".."):
        return [f"may not be '{value}'"]
    return [f"may not contain '{character}'" for character in "/%" if character in value]


def qualified_name(value: str) -> list[str]:
    """`app` or `example.com/app`: label and annotation keys, taints, finalizers."""
    prefix, slash, name = value.rpartition("/")
    problems = []
    if "/" in prefix:
        return [f"a qualified name must consist of alphanumeric characters, '-', '_' or '.' with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName'): {QUALIFIED_TEXT}"]
    if slash:
        problems += [f"prefix part {text}" for text in (["must be non-empty"] if not prefix else dns_subdomain(prefix))]
    if not name:
        problems.append("name part must be non-empty")
    elif len(name) > 63:
        problems.append("name part must be no more than 63 characters")
    if not _QUALIFIED_RE.fullmatch(name):
        problems.append(QUALIFIED_TEXT)
    return problems


def label_value(value: str) -> list[str]:
    if value == "":
        return []
    return _check(value, 63, _QUALIFIED_RE, LABEL_VALUE_TEXT)


def config_key(value: str) -> list[str]:
    """A key of a ConfigMap or Secret."""
    problems = _check(value, 253, _CONFIG_KEY_RE, CONFIG_KEY_TEXT)
    if value in (".", ".."):
        problems.append(f"must not be '{value}'")
    elif value.startswith(".."):
        problems.append("must not start with '..'")
    return problems


def env_name(value: str) -> list[str]:
    return [] if _ENV_NAME_RE.fullmatch(value) else ["a valid environment variable name must consist only of printable ASCII characters other than '='"]


def port_name(value: str) -> list[str]:
    """RFC 6335 service name."""
    problems = []
    if len(value) > 15:
        problems.append("must be no more than 15 characters")
    if not re.fullmatch(r"[-a-z0-9]*", value):
        problems.append("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)")
    if not re.search(r"[a-z]", value):
        problems.append("must contain at least one letter (a-z)")
    if "--" in value:
        problems.append("must not contain consecutive hyphens")
    if value.startswith("-") or value.endswith("-"):
        problems.append("must not begin or end with a hyphen")
    return problems


def port_number(value: int) -> list[str]:
    return [] if 1 <= value <= 65535 else ["must be between 1 and 65535, inclusive"]


def ip_address(value: str) -> list[str]:
    try:
        ipaddress.ip_address(value)
    except ValueError:
        return [IP_TEXT]
    return [] if "%" not in value else [IP_TEXT]


def cidr(value: str) -> list[str]:
    try:
        ipaddress.ip_network(value, strict=False)
    except ValueError:
        return [CIDR_TEXT]
    return [] if "/" in value else [CIDR_TEXT]
