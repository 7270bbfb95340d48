"""Answers onto the wire: ready JSON bytes with their length, documents in the form that was asked for, errors as Status. Owns the headers of every answer. Refuses to decide
anything: handlers say status and content. Called by all handlers and by app.py for errors.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import orjson

from apiserver.api import errors, kinds
from apiserver.rest import negotiation, representations
from apiserver.rest.request import Request, Send

Headers = list[tuple[bytes, bytes]]
_JSON = (b"content-type", b"application/json")
_NO_CACHE = (b"cache-control", b"no-cache, private")
_PIECE_BYTES = 1 << 20


async def raw(send: Send, status: int, body: bytes, headers: Iterable[tuple[bytes, bytes]] = (_JSON,)) -> None:
    """One complete answer. A large body goes out in pieces, each waiting for the socket, so that it neither blocks others nor is copied whole."""
    start = [*headers, _NO_CACHE, (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": start})
    if len(body) <= _PIECE_BYTES:
        await send({"type": "http.response.body", "body": body})
        return
    view = memoryview(body)
    for at in range(0, len(body), _PIECE_BYTES):
        await send({"type": "http.response.body", "body": bytes(view[at : at + _PIECE_BYTES]), "more_body": at + _PIECE_BYTES < len(body)})
        await asyncio.sleep(0)


async def document(request: Request, status: int, data: bytes, resource: kinds.Resource | None = None, warnings: Iterable[str] = ()) -> None:
    """A JSON document as the client wants it: as it is, as Table, as PartialObjectMetadata, as YAML, indented. Raises NotAcceptable."""
    form = request.format
    headers = [_JSON]
    if form.shape and resource is not None:
        data = representations.reshape(form, resource, data, request)
    if form.media == negotiation.YAML:
        headers = [(b"content-type", b"application/yaml")]
        data = to_yaml(data)
    elif request.pretty:
        data = orjson.dumps(orjson.loads(data), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    for text in warnings:
        headers.append((b"warning", warning(text)))
    await raw(request.send, status, data, headers)


async def value(request: Request, status: int, obj: Any) -> None:
    """A dict as a document (discovery, reviews, Status)."""
    await document(request, status, orjson.dumps(obj))


async def text(send: Send, status: int, body: str, content_type: bytes = b"text/plain; charset=utf-8") -> None:
    await raw(send, status, body.encode(), [(b"content-type", content_type), (b"x-content-type-options", b"nosniff")])


async def failure(send: Send, err: errors.ApiError) -> None:
    """Status, always JSON: a client that cannot read its error is worse off than one that gets a type it did not ask for."""
    headers: Headers = [_JSON]
    if err.code == 401:
        headers.append((b"www-authenticate", b'Bearer realm="kubernetes-master"'))
    retry_after = err.details.get("retryAfterSeconds")
    if retry_after:
        headers.append((b"retry-after", b"%d" % int(retry_after)))
    if err.code == 413:
        headers.append((b"connection", b"close"))  # the rest of the body is never read
    await raw(send, err.code, orjson.dumps(errors.to_status(err)), headers)


def warning(message: str) -> bytes:
    """RFC 7234 §5.5 warn-value: 299 - "text", as kubectl prints it."""
    clean = "".join(c if c.isprintable() else " " for c in message).replace("\\", "\\\\").replace('"', '\\"')
    return f'299 - "{clean}"'.encode()


def to_yaml(data: bytes) -> bytes:
    import yaml

    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    return yaml.dump(orjson.loads(data), Dumper=dumper, sort_keys=False, allow_unicode=True, default_flow_style=False).encode()
