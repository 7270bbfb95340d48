"""The asyncio client: verbs on resources as dicts, watches as batches of lines. Every component of the control plane and the agent talks through one of these.

Retries only what the server said it did not do (429, 503 with Retry-After) and reads; anything else that fails is the caller's to decide, as an
apiserver.api.errors exception (requests.ServerUnreachable where there was no answer). Owns no cache: that is informer.Informer.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any

import orjson

from apiserver.client import requests
from apiserver.client.config import ClientConfig
from apiserver.client.requests import Query, Request, Response, ServerUnreachable
from apiserver.client.transport import Stream, Transport

if TYPE_CHECKING:
    from apiserver.api.kinds import Resource

__all__ = ["Client"]

Obj = dict[str, Any]
Lines = list[bytes]
READ_ATTEMPTS = 3


class Client:
    """`Client(config)` over sockets, or `Client(transport=AsgiTransport(app))` in process. `timeout_s` bounds each request (a watch: only until its head)."""

    def __init__(self, config: ClientConfig | None = None, *, transport: Transport | None = None, timeout_s: float = 30.0) -> None:
        if transport is None:
            from apiserver.client.http11 import HttpTransport

            if config is None:
                raise ValueError("Client needs a config or a transport")
            transport = HttpTransport(config)
        self.config, self.transport, self.timeout_s = config, transport, timeout_s

    async def close(self) -> None:
        await self.transport.close()

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    # raw
    async def request(
        self, method: str, path: str, *, query: Query | None = None, body: bytes | Obj | None = None, content_type: str = requests.JSON, accept: str = requests.JSON
    ) -> Response:
        """The answer of a status below 400; others are raised. `body` dicts are sent as JSON."""
        data = body if body is None or isinstance(body, bytes) else orjson.dumps(body)
        return await self._send(requests.build(method, path, query=query, body=data, content_type=content_type, accept=accept))

    async def _send(self, request: Request) -> Response:
        attempt = 0
        while True:
            try:
                response = await self.transport.request(request, self.timeout_s)
            except ServerUnreachable as e:
                attempt += 1
                if attempt >= READ_ATTEMPTS or (e.sent and request.method not in requests.IDEMPOTENT):
                    raise
                await asyncio.sleep(0.05 * attempt)
                continue
            if response.status < 400:
                return response
            wait_s = requests.retry_after_s(response, attempt)
            if wait_s is None:
                raise requests.decode_error(response)
            attempt += 1
            await asyncio.sleep(wait_s)

    async def stream(self, method: str, path: str, *, query: Query | None = None, body: bytes | None = None, accept: str = requests.JSON) -> Stream:
        """An answer that goes on (a log, a watch). Raises the Status of 400 and above. The caller closes it."""
        stream = await self.transport.stream(requests.build(method, path, query=query, body=body, accept=accept), self.timeout_s)
        if stream.status < 400:
            return stream
        try:
            chunks = [chunk async for chunk in _chunks(stream)]
        finally:
            await stream.aclose()
        raise requests.decode_error(Response(stream.status, stream.headers, b"".join(chunks)))

    # verbs
    async def get(self, resource: Resource, name: str, namespace: str = "", *, subresource: str = "") -> Obj:
        return orjson.loads((await self.request("GET", requests.path_for(resource, namespace, name, subresource))).body)

    async def list_bytes(self, resource: Resource, namespace: str = "", **selection: Any) -> bytes:
        """One page as it came; `selection` as in requests.list_query."""
        return (await self.request("GET", requests.path_for(resource, namespace), query=requests.list_query(**selection))).body

    async def list(
        self, resource: Resource, namespace: str = "", *, label_selector: str = "", field_selector: str = "", limit: int = 0, resource_version: str = "", continue_token: str = ""
    ) -> Obj:
        """One page (`limit` 0 = everything); metadata.continue leads to the next."""
        body = await self.list_bytes(
            resource, namespace, label_selector=label_selector, field_selector=field_selector, limit=limit, resource_version=resource_version, continue_token=continue_token
        )
        return orjson.loads(body)

    async def create(self, resource: Resource, obj: Mapping[str, Any], namespace: str = "", *, name: str = "", subresource: str = "") -> Obj:
        """POST; with `name` and `subresource` to that subresource (binding, eviction, token). The namespace defaults to the object's own."""
        namespace = namespace or _namespace(obj)
        return orjson.loads((await self.request("POST", requests.path_for(resource, namespace, name, subresource), body=orjson.dumps(obj))).body)

    async def update(self, resource: Resource, obj: Mapping[str, Any], namespace: str = "", *, subresource: str = "") -> Obj:
        """PUT under the object's own name; compare-and-swap where it carries a resourceVersion (raises Conflict)."""
        path = requests.path_for(resource, namespace or _namespace(obj), obj["metadata"]["name"], subresource)
        return orjson.loads((await self.request("PUT", path, body=orjson.dumps(obj))).body)

    async def patch(self, resource: Resource, name: str, patch: Any, namespace: str = "", *, type: str = "merge", subresource: str = "", query: Query | None = None) -> Obj:
        """`type` merge | strategic | json | apply."""
        path = requests.path_for(resource, namespace, name, subresource)
        return orjson.loads((await self.request("PATCH", path, query=query, body=orjson.dumps(patch), content_type=requests.PATCH_TYPES[type])).body)

    async def delete(self, resource: Resource, name: str, namespace: str = "", options: Mapping[str, Any] | None = None) -> Obj:
        """`options` is a DeleteOptions without its kind: gracePeriodSeconds, preconditions, propagationPolicy."""
        return orjson.loads((await self.request("DELETE", requests.path_for(resource, namespace, name), body=_delete_options(options))).body)

    async def delete_collection(self, resource: Resource, namespace: str = "", *, label_selector: str = "", field_selector: str = "", options: Mapping[str, Any] | None = None) -> Obj:
        query = requests.list_query(label_selector=label_selector, field_selector=field_selector)
        return orjson.loads((await self.request("DELETE", requests.path_for(resource, namespace), query=query, body=_delete_options(options))).body)

    # watches
    async def watch_lines(self, resource: Resource, namespace: str = "", **selection: Any) -> AsyncGenerator[Lines, None]:
        """Whole lines (`{"type":…,"object":…}`), as many at once as have arrived; `selection` as in requests.watch_query. Ends when the server ends the watch;
        raises ServerUnreachable when it is cut. Close it with aclose() (contextlib.aclosing)."""
        stream = await self.stream("GET", requests.path_for(resource, namespace), query=requests.watch_query(**selection))
        try:
            rest = b""
            async for chunk in _chunks(stream):
                *lines, rest = (rest + chunk).split(b"\n")
                if lines:
                    yield lines
        finally:
            await stream.aclose()

    async def watch(
        self, resource: Resource, namespace: str = "", *, label_selector: str = "", field_selector: str = "", resource_version: str = "", timeout_s: int = 0, bookmarks: bool = False
    ) -> AsyncIterator[tuple[str, Obj]]:
        """(ADDED | MODIFIED | DELETED | BOOKMARK, object). An ERROR event is raised (410: errors.Expired)."""
        lines = self.watch_lines(
            resource, namespace, label_selector=label_selector, field_selector=field_selector, resource_version=resource_version, timeout_s=timeout_s, bookmarks=bookmarks
        )
        async for batch in lines:
            for line in batch:
                event = orjson.loads(line)
                if event["type"] == "ERROR":
                    raise requests.decode_error(Response(event["object"].get("code", 500), {}, orjson.dumps(event["object"])))
                yield event["type"], event["object"]


async def _chunks(stream: Stream) -> AsyncIterator[bytes]:
    while data := await stream.read():
        yield data


def _namespace(obj: Mapping[str, Any]) -> str:
    return (obj.get("metadata") or {}).get("namespace", "")


def _delete_options(options: Mapping[str, Any] | None) -> bytes | None:
    return orjson.dumps({"kind": "DeleteOptions", "apiVersion": "v1", **options}) if options else None
