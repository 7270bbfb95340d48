"""Client certificates as identities: CN is the user, every O a group. Pure; TLS has verified the chain before. The authenticator calls it once per connection."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Any

from apiserver.auth.user import AUTHENTICATED, UserInfo

COMMON_NAME, ORGANIZATION = "commonName", "organizationName"


def parse_subject(certificate: Mapping[str, Any]) -> UserInfo | None:
    """UserInfo of `SSLSocket.getpeercert()`'s dict; None without a CN (the certificate then says nobody)."""
    name, groups = "", []
    for rdn in certificate.get("subject", ()):
        for attribute, value in rdn:
            if attribute == COMMON_NAME:
                name = value
            elif attribute == ORGANIZATION and value not in groups:
                groups.append(value)
    return UserInfo(name, groups=(*groups, AUTHENTICATED)) if name else None


def parse_expiry(certificate: Mapping[str, Any]) -> float:
    """notAfter in Unix seconds; 0 where it is missing or unreadable (which counts as expired)."""
    try:
        return float(ssl.cert_time_to_seconds(certificate["notAfter"]))
    except (KeyError, ValueError):
        return 0.0


class Peer:
    """What one TLS connection proved: made when it opens, read by every request on it."""

    __slots__ = ("expires_s", "user")

    def __init__(self, certificate: Mapping[str, Any] | None) -> None:
        self.user = parse_subject(certificate) if certificate else None
        self.expires_s = parse_expiry(certificate) if certificate else 0.0
