"""One HTTP request as the handlers see it: the path taken apart as Kubernetes does (RequestInfo), the query, the headers. Owns no behaviour: routes.py decides who
handles it. Everything beyond the path is parsed when first asked for, because most requests never ask.
"""

from __future__ import annotations

import urllib.parse
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from apiserver.api import errors, kinds
from apiserver.auth.attributes import Attributes
from apiserver.auth.user import UserInfo
from apiserver.rest import negotiation

if TYPE_CHECKING:
    from apiserver.rest.components import Components
    from apiserver.rest.connection import Connection

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
_NAMESPACE_SUBRESOURCES = ("status", "finalize")
_VERBS = {"GET": "get", "HEAD": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}


@dataclass(slots=True)
class Target:
    """What a path under /api or /apis names. `plural` is "" for discovery paths; `resource` None for what is not served; `subpath` what follows a proxy subresource."""

    group: str
    version: str
    plural: str = ""
    namespace: str = ""
    name: str = ""
    subresource: str = ""
    subpath: str = ""
    resource: kinds.Resource | None = None
    legacy_watch: bool = False
    malformed: bool = False


def parse_path(path: str) -> Target | None:
    """The target of a resource path, None for every other path (`/version`, `/api`, `/apis/apps/v1`)."""
    parts = path.split("/")  # "", api, v1, …
    if parts[-1] == "" and len(parts) > 3:
        parts.pop()
    if len(parts) < 4:
        return None
    if parts[1] == "api":
        target, rest = Target("", parts[2]), parts[3:]
    elif parts[1] == "apis" and len(parts) > 4:
        target, rest = Target(parts[2], parts[3]), parts[4:]
    else:
        return None
    if rest[0] == "watch" and len(rest) > 1:
        target.legacy_watch = True
        rest = rest[1:]
    if rest[0] == "namespaces" and len(rest) > 2 and not (len(rest) == 3 and rest[2] in _NAMESPACE_SUBRESOURCES):
        target.namespace = rest[1]
        rest = rest[2:]
        target.malformed = not target.namespace
    _name(target, rest)
    return target


def _name(target: Target, rest: list[str]) -> None:
    target.plural = rest[0]
    resource = target.resource = kinds.find(target.group, target.version, rest[0])
    if len(rest) > 1:
        target.name = rest[1]
        target.malformed |= not rest[1]
        if len(rest) > 2:
            target.subresource = rest[2]
            target.subpath = "/".join(rest[3:])
            target.malformed |= len(rest) > 3 and rest[2] != "proxy"
    if resource is not None:
        if resource.namespaced:
            target.malformed |= bool(target.name) and not target.namespace
        else:
            target.malformed |= bool(target.namespace)
        if target.plural == "namespaces":
            target.namespace = target.name


class Request:
    """`user` is set by authentication. `target` is None for paths that name no resource. `verb` is Kubernetes' (list, watch, deletecollection …)."""

    __slots__ = ("__dict__", "app", "method", "path", "receive", "scope", "send", "target", "user", "verb")
    user: UserInfo

    def __init__(self, app: Components, scope: Message, receive: Receive, send: Send) -> None:
        self.app, self.scope, self.receive, self.send = app, scope, receive, send
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.target = parse_path(self.path)
        self.verb = self._verb()

    def _verb(self) -> str:
        verb = _VERBS.get(self.method, self.method.lower())
        target = self.target
        if target is None:
            return self.method.lower()
        if verb == "get" and (target.legacy_watch or (b"watch=" in self.scope["query_string"] and self.flag("watch")) ) and not target.subresource:
            return "watch"
        if not target.name:
            return {"get": "list", "delete": "deletecollection"}.get(verb, verb)
        return verb

    @property
    def resource(self) -> kinds.Resource:
        """Only behind routes that have checked it."""
        assert self.target is not None
        assert self.target.resource is not None
        return self.target.resource

    @property
    def namespace(self) -> str:
        """"" for cluster-scoped resources, namespaces themselves among them, and for all namespaces."""
        assert self.target is not None
        return self.target.namespace if self.resource.namespaced else ""

    @property
    def name(self) -> str:
        assert self.target is not None
        return self.target.name

    @cached_property
    def headers(self) -> dict[bytes, bytes]:
        """Lower-case names; the last of several wins, except for Accept, which is a list."""
        headers = dict(self.scope["headers"])
        if len(headers) != len(self.scope["headers"]):
            accepts = [value for name, value in self.scope["headers"] if name == b"accept"]
            if len(accepts) > 1:
                headers[b"accept"] = b",".join(accepts)
        return headers

    def header(self, name: bytes) -> str:
        return self.headers.get(name, b"").decode("latin-1")

    @cached_property
    def query(self) -> dict[str, list[str]]:
        raw = self.scope["query_string"]
        if not raw:
            return {}
        try:
            return urllib.parse.parse_qs(raw.decode(), keep_blank_values=True, errors="strict", max_num_fields=1000)
        except ValueError as err:
            raise errors.BadRequest(f"cannot parse the query: {err}") from err

    def param(self, name: str) -> str:
        """The first value of a query parameter, "" where it is absent."""
        values = self.query.get(name)
        return values[0] if values else ""

    def flag(self, name: str) -> bool:
        """A boolean parameter: true unless absent or false/0 in any case, as Kubernetes converts them (the Python client sends `True`)."""
        values = self.query.get(name)
        return values is not None and values[0].lower() not in ("false", "0")

    def number(self, name: str, default: int = 0) -> int:
        """A whole number ≥ 0. Raises BadRequest naming the parameter."""
        text = self.param(name)
        if not text:
            return default
        try:
            value = int(text)
        except ValueError:
            raise errors.BadRequest(f'{name}: Invalid value: "{text}": must be a whole number') from None
        if value < 0:
            raise errors.BadRequest(f"{name}: Invalid value: {value}: must be greater than or equal to 0")
        return value

    @property
    def format(self) -> negotiation.Format:
        """Raises NotAcceptable."""
        return negotiation.negotiate(self.headers.get(b"accept", b""), listing=self.verb == "list")

    @property
    def pretty(self) -> bool:
        """Asked for by ?pretty, or by who asks: people look at what curl, wget and browsers show."""
        if b"pretty=" in self.scope["query_string"]:
            return self.flag("pretty")
        return self.headers.get(b"user-agent", b"").startswith((b"curl", b"Wget", b"Mozilla/"))

    @property
    def dry_run(self) -> bool:
        values = self.query.get("dryRun", [])
        if any(value != "All" for value in values):
            raise errors.BadRequest(f'Invalid value: {values}: dryRun: Unsupported value: "{values[0]}": supported values: "All"')
        return bool(values)

    @property
    def connection(self) -> Connection | None:
        """The socket below, where there is one (an in-process call has none)."""
        return self.scope.get("minik.connection")

    def attributes(self) -> Attributes:
        """What authorization is asked."""
        target = self.target
        if target is None:
            return Attributes(self.user, self.method.lower() if self.method != "HEAD" else "get", path=self.path)
        name = target.name
        if not name and self.verb in ("list", "watch", "deletecollection") and b"fieldSelector" in self.scope["query_string"]:
            name = self._selected("metadata.name")
        return Attributes(self.user, self.verb, target.group, target.plural, target.subresource, target.namespace, name)

    def _selected(self, path: str) -> str:
        """The value that a field selector demands of `path`."""
        from apiserver.api import selectors

        return selectors.parse_fields(self.param("fieldSelector")).exact(path) or ""

    @property
    def field_node(self) -> str:
        """spec.nodeName, where a list or watch is narrowed to one node."""
        return self._selected("spec.nodeName") if b"fieldSelector" in self.scope["query_string"] else ""
