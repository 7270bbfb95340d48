"""The client's sans-I/O core: what to send for a verb on a resource, and what an answer means. Shared by every transport, asyncio and blocking.

Owns paths, queries, headers, content types and the way from a Status to an exception. Opens nothing, waits for nothing, and imports neither asyncio nor orjson.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote, urlencode

from apiserver.api import errors

if TYPE_CHECKING:
    from apiserver.api.kinds import Resource

__all__ = [
    "IDEMPOTENT", "JSON", "PATCH_TYPES", "TABLE", "Request", "Response", "ServerUnreachable", "build", "decode_error", "list_query", "path_for", "retry_after_s", "watch_query",
]

JSON = "application/json"
TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"
PATCH_TYPES = {
    "merge": "application/merge-patch+json",
    "strategic": "application/strategic-merge-patch+json",
    "json": "application/json-patch+json",
    "apply": "application/apply-patch+yaml",
}
IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS"})
MAX_RETRIES = 5
Query = Mapping[str, "str | int | bool | list[str] | None"]


class ServerUnreachable(errors.Unavailable):
    """No answer: refused, reset, timed out in the handshake. `sent` False = the server cannot have seen the request; True = the outcome is unknown."""

    def __init__(self, server: str, cause: object, *, sent: bool = False) -> None:
        super().__init__(f"cannot reach {server}: {cause}")
        self.sent = sent


class Request(NamedTuple):
    """`target` is path plus query as it goes on the wire (without the server's path prefix)."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""


class Response(NamedTuple):
    """Header names are lower-case."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


def path_for(resource: Resource, namespace: str = "", name: str = "", subresource: str = "") -> str:
    """`/api/v1/namespaces/ns/pods/name/status`. An empty namespace of a namespaced resource means all of them. Raises ValueError for a name that is no path segment."""
    if name and resource.namespaced and not namespace:
        raise ValueError(f"{resource.plural} {name!r}: a namespace is needed")
    return resource.path(_segment(namespace), _segment(name), subresource)


def _segment(name: str) -> str:
    if name in (".", "..") or "/" in name or "%" in name:
        raise ValueError(f"{name!r} is not a name: it may not be '.', '..' or contain '/' or '%'")
    return quote(name, safe="")


def list_query(*, label_selector: str = "", field_selector: str = "", limit: int = 0, continue_token: str = "", resource_version: str = "") -> dict[str, str]:
    """Only what is set, under Kubernetes' names."""
    query = {
        "labelSelector": label_selector,
        "fieldSelector": field_selector,
        "limit": str(limit) if limit else "",
        "continue": continue_token,
        "resourceVersion": resource_version,
    }
    return {k: v for k, v in query.items() if v}


def watch_query(*, resource_version: str = "", label_selector: str = "", field_selector: str = "", timeout_s: int = 0, bookmarks: bool = True) -> dict[str, str]:
    query = list_query(label_selector=label_selector, field_selector=field_selector, resource_version=resource_version)
    query["watch"] = "true"
    if bookmarks:
        query["allowWatchBookmarks"] = "true"
    if timeout_s:
        query["timeoutSeconds"] = str(timeout_s)
    return query


def build(method: str, path: str, *, query: Query | None = None, body: bytes | None = None, content_type: str = JSON, accept: str = JSON) -> Request:
    """Booleans travel as true/false, None is left out, a list repeats its key."""
    target = path
    if query:
        pairs = [(k, item) for k, v in query.items() if v is not None for item in (v if isinstance(v, list) else [v])]
        encoded = urlencode([(k, ("true" if v else "false") if isinstance(v, bool) else v) for k, v in pairs])
        target = f"{path}{'&' if '?' in path else '?'}{encoded}" if encoded else path
    headers: tuple[tuple[str, str], ...] = (("accept", accept),)
    if body is not None:
        headers += (("content-type", content_type),)
    return Request(method, target, headers, body or b"")


def decode_error(response: Response) -> errors.ApiError:
    """The exception that a response of 400 and above stands for: its Status, or (from a proxy, say) its text."""
    try:
        document = json.loads(response.body)
    except ValueError:
        document = None
    if isinstance(document, dict) and document.get("kind") == "Status":
        return errors.from_status({**document, "code": document.get("code") or response.status})
    text = response.body[:500].decode(errors="replace").strip() or f"the server answered {response.status} without a text"
    return errors.from_status({"kind": "Status", "status": "Failure", "code": response.status, "message": text, "reason": _REASONS.get(response.status, "")})


_REASONS = {
    400: "BadRequest", 401: "Unauthorized", 403: "Forbidden", 404: "NotFound", 405: "MethodNotAllowed", 406: "NotAcceptable", 409: "Conflict", 410: "Expired",
    415: "UnsupportedMediaType", 422: "Invalid", 429: "TooManyRequests", 500: "InternalError", 503: "ServiceUnavailable", 504: "Timeout",
}  # fmt: skip


def retry_after_s(response: Response, attempt: int) -> float | None:
    """Seconds to wait before sending the very same request again, None = do not. Only answers that say "not done, come back": 429, and 503 with Retry-After."""
    header = response.headers.get("retry-after", "")
    if attempt >= MAX_RETRIES or not (response.status == 429 or (response.status == 503 and header)):
        return None
    return min(float(header), 30.0) if header.isdigit() else min(0.1 * 2**attempt, 2.0)
