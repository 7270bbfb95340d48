"""Label and field selectors, parsed once and matched often. Pure; raises BadRequest with Kubernetes' texts. Called by REST, the watch cache, the controllers and both CLIs.

Grammar of label selectors: `a=b, a==b, a!=b, a in (b,c), a notin (b), a, !a, a>1, a<1`; of field selectors: `path=value`, `path!=value`, `\\` escapes `,` `=` `\\`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from apiserver.api.errors import BadRequest

_TOKEN = re.compile(r"\s*(,|\(|\)|==|!=|=|!|>|<|[^\s,()=!<>]+)")
_NAME = re.compile(r"[A-Za-z0-9](?:[-A-Za-z0-9_.]*[A-Za-z0-9])?")
_DNS = re.compile(r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?(?:\.[a-z0-9](?:[-a-z0-9]*[a-z0-9])?)*")
_OPERATORS = {"=": "in", "==": "in", "!=": "notin", ">": "gt", "<": "lt"}
_SYMBOLS = frozenset((",", "(", ")", "=", "==", "!=", "!", ">", "<"))


@dataclass(frozen=True, slots=True)
class Requirement:
    """One term. operator: in, notin, exists, absent, gt, lt. `notin` also holds where the key is missing, as in Kubernetes."""

    key: str
    operator: str
    values: tuple[str, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        value = labels.get(self.key)
        match self.operator:
            case "in":
                return value is not None and value in self.values
            case "notin":
                return value is None or value not in self.values
            case "exists":
                return value is not None
            case "absent":
                return value is None
        try:
            number, limit = int(value or ""), int(self.values[0])
        except ValueError:
            return False
        return number > limit if self.operator == "gt" else number < limit


@dataclass(frozen=True, slots=True)
class LabelSelector:
    """All requirements must hold; without any, everything matches, unless `nothing` (a null selector in an object)."""

    requirements: tuple[Requirement, ...] = ()
    nothing: bool = False

    def matches(self, labels: Mapping[str, str] | None) -> bool:
        if self.nothing:
            return False
        labels = labels or {}
        return all(requirement.matches(labels) for requirement in self.requirements)

    @property
    def empty(self) -> bool:
        return not self.requirements and not self.nothing

    def exact(self) -> dict[str, str]:
        """The labels that must have one exact value: what an index can look up."""
        return {r.key: r.values[0] for r in self.requirements if r.operator == "in" and len(r.values) == 1}


EVERYTHING = LabelSelector()
NOTHING = LabelSelector(nothing=True)


def parse_labels(text: str | None) -> LabelSelector:
    """`?labelSelector=` and `-l`. Raises BadRequest."""
    if not text or not text.strip():
        return EVERYTHING
    tokens = _tokenize(text)
    requirements = []
    position = 0
    while position < len(tokens):
        requirement, position = _requirement(tokens, position, text)
        requirements.append(requirement)
        if position < len(tokens):
            if tokens[position] != ",":
                raise _unable(text, f"found '{tokens[position]}', expected: ',' or 'end of string'")
            position += 1
            if position == len(tokens):
                raise _unable(text, "found '', expected: identifier after ','")
    return LabelSelector(tuple(requirements))


def from_label_selector(selector: Mapping[str, Any] | None) -> LabelSelector:
    """A LabelSelector object (`matchLabels`, `matchExpressions`); null selects nothing, an empty one everything. Raises BadRequest."""
    if selector is None:
        return NOTHING
    requirements = [_checked(key, "in", (value,)) for key, value in (selector.get("matchLabels") or {}).items()]
    for expression in selector.get("matchExpressions") or ():
        operator = {"In": "in", "NotIn": "notin", "Exists": "exists", "DoesNotExist": "absent"}.get(expression.get("operator", ""))
        if operator is None:
            raise BadRequest(f'"{expression.get("operator", "")}" is not a valid label selector operator')
        values = tuple(expression.get("values") or ())
        if operator in ("in", "notin") and not values:
            raise BadRequest("values: Invalid value: []: for 'in', 'notin' operators, values set can't be empty")
        if operator in ("exists", "absent") and values:
            raise BadRequest("values: Invalid value: values set must be empty for exists and does not exist")
        requirements.append(_checked(expression.get("key", ""), operator, values))
    return LabelSelector(tuple(requirements))


def from_map(labels: Mapping[str, str] | None) -> LabelSelector:
    """A plain map (`Service.spec.selector`); empty or null selects nothing, as a Service without selector has no pods."""
    return LabelSelector(tuple(Requirement(k, "in", (v,)) for k, v in labels.items())) if labels else NOTHING


@dataclass(frozen=True, slots=True)
class FieldSelector:
    """(path, equal?, value) terms; all must hold. A path that an object lacks counts as the empty string."""

    terms: tuple[tuple[str, bool, str], ...] = ()

    def matches(self, fields: Mapping[str, str]) -> bool:
        return all((fields.get(path, "") == value) is equal for path, equal, value in self.terms)

    @property
    def empty(self) -> bool:
        return not self.terms

    def exact(self, path: str) -> str | None:
        """The one value that `path` must have, else None."""
        return next((value for p, equal, value in self.terms if p == path and equal), None)

    def paths(self) -> set[str]:
        return {path for path, _, _ in self.terms}


def parse_fields(text: str | None) -> FieldSelector:
    """`?fieldSelector=`. Raises BadRequest on a term without an operator or with a wrong escape."""
    terms = []
    for term in _split_escaped(text or ""):
        if not term:
            continue
        match = re.match(r"((?:[^=!\\]|\\.)*?)(!=|==|=)(.*)", term, re.DOTALL)
        if match is None:
            raise BadRequest(f"invalid selector: '{text}'; can't understand '{term}'")
        terms.append((match.group(1), match.group(2) != "!=", _unescape(match.group(3))))
    return FieldSelector(tuple(terms))


def _split_escaped(text: str) -> list[str]:
    return [m.group(0) for m in re.finditer(r"(?:[^,\\]|\\.?)+", text, re.DOTALL)]


def _unescape(value: str) -> str:
    if re.search(r"(?<!\\)(?:\\\\)*\\(?![\\,=])", value):
        raise BadRequest(f"invalid field selector: invalid escape sequence in '{value}'")
    if re.search(r"(?<!\\)(?:\\\\)*=", value):
        raise BadRequest(f"invalid field selector: unescaped '=' in '{value}'")
    return re.sub(r"\\([\\,=])", r"\1", value)


def _tokenize(text: str) -> list[str]:
    tokens, position = [], 0
    stripped = text.rstrip()
    while position < len(stripped):
        match = _TOKEN.match(stripped, position)
        assert match is not None  # the pattern takes any character
        tokens.append(match.group(1))
        position = match.end()
    return tokens


def _requirement(tokens: list[str], at: int, text: str) -> tuple[Requirement, int]:
    if tokens[at] == "!":
        key = _identifier(tokens, at + 1, text)
        return _checked(key, "absent", ()), at + 2
    key = _identifier(tokens, at, text)
    at += 1
    if at == len(tokens) or tokens[at] == ",":
        return _checked(key, "exists", ()), at
    operator = tokens[at]
    if operator in ("in", "notin"):
        values, at = _value_list(tokens, at + 1, text)
        return _checked(key, operator, values), at
    if operator not in _OPERATORS:
        raise _unable(text, f"found '{operator}', expected: in, notin, =, ==, !=, gt, lt")
    at += 1
    value = tokens[at] if at < len(tokens) and tokens[at] not in _SYMBOLS else ""
    if not value and at < len(tokens) and tokens[at] != ",":
        raise _unable(text, f"found '{tokens[at]}', expected: identifier")
    return _checked(key, _OPERATORS[operator], (value,)), at + 1 if value else at


def _value_list(tokens: list[str], at: int, text: str) -> tuple[tuple[str, ...], int]:
    if at >= len(tokens) or tokens[at] != "(":
        raise _unable(text, f"found '{tokens[at] if at < len(tokens) else ''}', expected: '('")
    values, current = [], ""
    for position in range(at + 1, len(tokens)):
        token = tokens[position]
        if token in (",", ")"):
            values.append(current)
            current = ""
            if token == ")":
                return tuple(dict.fromkeys(values)), position + 1
        elif token in _SYMBOLS or current:
            raise _unable(text, f"found '{token}', expected: ',' or ')'")
        else:
            current = token
    raise _unable(text, "found '', expected: ',' or ')'")


def _identifier(tokens: list[str], at: int, text: str) -> str:
    token = tokens[at] if at < len(tokens) else ""
    if not token or token in _SYMBOLS:
        raise _unable(text, f"found '{token}', expected: !, identifier, or 'end of string'")
    return token


def _checked(key: str, operator: str, values: tuple[str, ...]) -> Requirement:
    prefix, slash, name = key.rpartition("/")
    if not _NAME.fullmatch(name) or len(name) > 63 or (slash and (not _DNS.fullmatch(prefix) or len(prefix) > 253)):
        raise BadRequest(
            f'unable to parse requirement: <nil>: Invalid value: "{key}": name part must consist of alphanumeric characters, \'-\', \'_\' or \'.\', and must start and '
            "end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
        )
    for value in values:
        if operator in ("gt", "lt"):
            if not re.fullmatch(r"-?[0-9]+", value):
                raise BadRequest(f'unable to parse requirement: values[0][{key}]: Invalid value: "{value}": for \'Gt\', \'Lt\' operators, the value must be an integer')
        elif value and (not _NAME.fullmatch(value) or len(value) > 63):
            raise BadRequest(
                f'unable to parse requirement: values[0][{key}]: Invalid value: "{value}": a valid label must be an empty string or consist of alphanumeric characters, '
                "'-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is "
                "'(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
            )
    return Requirement(key, operator, values)


def _unable(text: str, why: str) -> BadRequest:
    return BadRequest(f"unable to parse requirement: {why} (in selector '{text}')")
