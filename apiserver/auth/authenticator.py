"""Who a request comes from: an identity given by the process itself, a bearer token (static file, ServiceAccount JWT), a client certificate, else anonymous for the open
paths only. Owns no key; composes certificates, tokenfile and serviceaccounts. REST calls `authenticate` once per request.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from apiserver.api import errors
from apiserver.auth import jwt, user
from apiserver.auth.certificates import Peer
from apiserver.auth.serviceaccounts import Issuer
from apiserver.auth.user import UserInfo

OPEN_PATHS = ("/healthz", "/livez", "/readyz", "/version")


def is_open(path: str) -> bool:
    """Whether anybody may GET this path: the health endpoints with their single checks, and the version."""
    return path.startswith(OPEN_PATHS) and (path in OPEN_PATHS or path.startswith(("/healthz/", "/livez/", "/readyz/")) or path == "/version/")


class Authenticator:
    """`now` gives Unix seconds. A wrong credential is an error also where anonymous would do, as in Kubernetes."""

    def __init__(self, tokens: Mapping[str, UserInfo], issuer: Issuer | None, now: Callable[[], float]) -> None:
        self._tokens, self._issuer, self._now = tokens, issuer, now

    def authenticate(self, path: str, headers: Iterable[tuple[bytes, bytes]], peer: Peer | None) -> UserInfo:
        """Raises Unauthorized. `headers` as in an ASGI scope (lower-case names)."""
        for name, value in headers:
            if name == b"authorization":
                return self._bearer(value)
            if name == b"sec-websocket-protocol" and b"base64url.bearer.authorization.k8s.io." in value:
                return self._websocket_bearer(value)
        if peer is not None and peer.user is not None:
            if peer.expires_s <= self._now():
                raise errors.Unauthorized()
            return peer.user
        if is_open(path):
            return user.anonymous()
        raise errors.Unauthorized()

    def _bearer(self, header: bytes) -> UserInfo:
        scheme, _, token = header.decode("latin-1").partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise errors.Unauthorized()
        try:
            return self.identify(token.strip())[0]
        except jwt.InvalidToken:
            raise errors.Unauthorized() from None

    def _websocket_bearer(self, header: bytes) -> UserInfo:
        """Browsers cannot set Authorization on a WebSocket: the token comes as a subprotocol, base64url."""
        for protocol in header.decode("latin-1").split(","):
            prefix, dot, encoded = protocol.strip().rpartition(".")
            if dot and prefix == "base64url.bearer.authorization.k8s.io":
                try:
                    return self._bearer(b"Bearer " + jwt.decode_part(encoded.encode()))
                except jwt.InvalidToken:
                    break
        raise errors.Unauthorized()

    def identify(self, token: str, audiences: Sequence[str] = ()) -> tuple[UserInfo, list[str]]:
        """User and audiences of a token (for TokenReview too). Raises jwt.InvalidToken."""
        known = self._tokens.get(token)
        if known is not None:
            return known, list(audiences)
        if self._issuer is None:
            raise jwt.InvalidToken("unknown token")
        return self._issuer.authenticate(token, audiences)
