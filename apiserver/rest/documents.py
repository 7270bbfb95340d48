"""What the API says of itself: discovery (legacy and aggregated, as Accept asks) and the OpenAPI documents with their hashes. Owns negotiation and caching headers; the
documents are api's."""

from __future__ import annotations

import asyncio
import hashlib
from functools import cache

import orjson

from apiserver.api import discovery, errors, schema
from apiserver.rest import negotiation, respond, swagger_protobuf
from apiserver.rest.request import Request

_VARY = (b"vary", b"Accept")


async def discover(request: Request) -> None:
    """/api, /apis, /apis/<group>, /api/v1, /apis/<group>/<version>. Raises NotFound."""
    path = request.path.rstrip("/")
    if path in ("/api", "/apis"):
        version = _aggregated_version(request.header(b"accept"))
        if version:
            await _tagged(request, discovery.aggregated(path, version), f"application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList".encode())
            return
    host = request.header(b"host")
    data = discovery.legacy(path, host if path == "/api" else "")
    if data is None:
        raise errors.NotFound()
    await respond.document(request, 200, data)


def _aggregated_version(accept: str) -> str:
    """The first discovery version asked for that is served, "" where plain JSON is wanted before any."""
    for clause in negotiation.parse_accept(accept):
        if clause.media in ("application/json", "*/*", "application/*"):
            asked = clause.parameters
            if not asked.get("as"):
                return ""
            if asked["as"] == "APIGroupDiscoveryList" and asked.get("g") == "apidiscovery.k8s.io" and asked.get("v") in discovery.AGGREGATED_VERSIONS:
                return asked["v"]
    return ""


@cache
def _etag(data: bytes) -> bytes:
    return b'"' + hashlib.sha512(data).hexdigest().upper().encode() + b'"'


async def _tagged(request: Request, data: bytes, content_type: bytes) -> None:
    """An answer with an ETag; 304 where the client has it already."""
    etag = _etag(data)
    headers = [(b"content-type", content_type), (b"etag", etag), _VARY]
    if etag in [tag.strip() for tag in request.headers.get(b"if-none-match", b"").split(b",")]:
        await request.send({"type": "http.response.start", "status": 304, "headers": headers})
        await request.send({"type": "http.response.body", "body": b""})
        return
    await respond.raw(request.send, 200, data, headers)


async def openapi_v3(request: Request) -> None:
    """/openapi/v3 (the index) and /openapi/v3/<group-version>; immutable where the URL carries the hash that the index gave."""
    path = request.path.removeprefix("/openapi/v3").strip("/")
    _only_json(request)
    if not path:
        await respond.document(request, 200, orjson.dumps(schema.openapi_v3_index()))
        return
    data = schema.openapi_v3(path)
    etag = _etag(data)
    headers = [(b"content-type", b"application/json"), (b"etag", etag), _VARY]
    if request.param("hash"):
        headers.append((b"cache-control", b"public, immutable"))
    if etag in request.headers.get(b"if-none-match", b""):
        await request.send({"type": "http.response.start", "status": 304, "headers": headers})
        await request.send({"type": "http.response.body", "body": b""})
        return
    await respond.raw(request.send, 200, data, headers)


async def openapi_v2(request: Request) -> None:
    """JSON, or protobuf for whom that comes first in Accept."""
    accept = request.header(b"accept")
    for clause in negotiation.parse_accept(accept):
        if clause.media in swagger_protobuf.ASKED:
            await _tagged(request, await asyncio.to_thread(_swagger_as_protobuf), swagger_protobuf.MEDIA_TYPE.encode())
            return
        if clause.media in ("application/json", "*/*", "application/*"):
            break
    _only_json(request)
    await _tagged(request, schema.openapi_v2(), b"application/json")


@cache
def _swagger_as_protobuf() -> bytes:
    return swagger_protobuf.encode(orjson.loads(schema.openapi_v2()))


def _only_json(request: Request) -> None:
    """Raises NotAcceptable for a client that takes protobuf alone; `application/json` in any dress will do."""
    accept = request.header(b"accept")
    if accept and not any(clause.media in ("application/json", "*/*", "application/*") for clause in negotiation.parse_accept(accept)):
        raise errors.NotAcceptable(("application/json",))
