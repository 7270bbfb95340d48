"""Request bodies: read with a limit, decoded by Content-Type (JSON, YAML, protobuf; the patch types). Refuses what is too large (413), of an unknown type (415), or no
document (400). Called by the writing handlers.
"""

from __future__ import annotations

import asyncio
from typing import Any

import orjson

from apiserver.api import errors, kinds, schema
from apiserver.rest.components import MAX_BODY_BYTES
from apiserver.rest.request import Request

JSON, YAML, PROTOBUF = "application/json", "application/yaml", "application/vnd.kubernetes.protobuf"
PATCHES = ("application/json-patch+json", "application/merge-patch+json", "application/strategic-merge-patch+json", "application/apply-patch+yaml")
_YAMLS = (YAML, "application/x-yaml", "text/yaml")
_FIRST_BYTES_S, _WHOLE_BODY_S = 30.0, 60.0


async def read(request: Request) -> bytes:
    """The whole body. Raises RequestEntityTooLarge (as soon as Content-Length says so), Timeout for a body that does not come, BadRequest for one cut short."""
    length = request.headers.get(b"content-length", b"")
    if length.isdigit() and int(length) > MAX_BODY_BYTES:
        raise errors.RequestEntityTooLarge(MAX_BODY_BYTES)
    connection = request.connection
    if connection is not None and connection.body_complete:
        message = await request.receive()
        return message["body"] if message["type"] == "http.request" else b""
    try:
        async with asyncio.timeout(_WHOLE_BODY_S):
            return await _collect(request)
    except TimeoutError:
        raise errors.Timeout("the body of the request did not arrive in time") from None


async def _collect(request: Request) -> bytes:
    chunks, size = [], 0
    while True:
        message = await request.receive()
        if message["type"] != "http.request":
            raise errors.BadRequest("the request was cut off inside its body")
        chunks.append(message.get("body", b""))
        size += len(chunks[-1])
        if size > MAX_BODY_BYTES:
            raise errors.RequestEntityTooLarge(MAX_BODY_BYTES)
        if not message.get("more_body", False):
            return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def media_type(request: Request) -> str:
    return request.header(b"content-type").partition(";")[0].strip().lower()


async def read_object(request: Request, resource: kinds.Resource | None, warnings: list[str], validation: str = "Ignore") -> dict[str, Any]:
    """The body as an object. With `validation` Strict or Warn, JSON keys given twice are an error or land in `warnings`. Raises BadRequest, UnsupportedMediaType."""
    body = await read(request)
    media = media_type(request)
    if media not in (JSON, "", PROTOBUF, *_YAMLS):
        raise errors.UnsupportedMediaType((JSON, YAML, PROTOBUF))
    if not body:
        raise errors.BadRequest("the request has an empty body")
    if media == PROTOBUF:
        return _protobuf(body)
    obj = parse_yaml(body) if media in _YAMLS else parse_json(body, resource)
    if not isinstance(obj, dict):
        raise errors.BadRequest(f"the object provided is unrecognized{_must_be(resource)}: the body is not an object")
    # Duplicates are looked for only where the bytes are not exactly what the decoded object encodes to: kubectl and most clients send them so.
    if resource is not None and validation != "Ignore" and media in (JSON, "") and not _as_encoded(obj, body):
        problems = schema.duplicate_fields(body)
        if problems and validation == "Strict":
            raise schema.strict_error(resource, problems)
        warnings.extend(problems)
    return obj


def _as_encoded(obj: dict[str, Any], body: bytes) -> bool:
    """Raises BadRequest for what nests too deeply to be encoded, and so to be stored."""
    try:
        return orjson.dumps(obj) == body
    except (TypeError, ValueError) as err:
        raise errors.BadRequest(f"cannot encode object: {err}") from err


async def read_options(request: Request) -> dict[str, Any]:
    """DeleteOptions out of the body and the query, which some clients prefer; {} without either."""
    body = await read(request)
    options: dict[str, Any] = {}
    if body:
        media = media_type(request)
        if media not in (JSON, "", PROTOBUF, *_YAMLS):
            raise errors.UnsupportedMediaType((JSON, YAML, PROTOBUF))
        decoded = _protobuf(body) if media == PROTOBUF else parse_yaml(body) if media in _YAMLS else parse_json(body, None)
        if decoded is not None and not isinstance(decoded, dict):
            raise errors.BadRequest("the body of the request must be DeleteOptions")
        options = decoded or {}
    if request.query:
        _options_from_query(request, options)
    return options


def _options_from_query(request: Request, options: dict[str, Any]) -> None:
    if request.param("gracePeriodSeconds"):
        options.setdefault("gracePeriodSeconds", request.number("gracePeriodSeconds"))
    if request.param("propagationPolicy"):
        options.setdefault("propagationPolicy", request.param("propagationPolicy"))
    if request.param("orphanDependents"):
        options.setdefault("orphanDependents", request.flag("orphanDependents"))
    if request.dry_run:
        options.setdefault("dryRun", ["All"])


async def read_patch(request: Request) -> tuple[str, Any]:
    """(media type, decoded patch). Raises UnsupportedMediaType naming the patch types."""
    media = media_type(request)
    if media not in PATCHES:
        raise errors.UnsupportedMediaType(PATCHES)
    body = await read(request)
    if not body:
        raise errors.BadRequest("the request has an empty body")
    return media, parse_yaml(body) if media.endswith("yaml") else parse_json(body, None, "error decoding patch")


def parse_json(body: bytes, resource: kinds.Resource | None, prefix: str = "") -> Any:
    """Raises BadRequest, also for what nests too deeply."""
    try:
        return orjson.loads(body)
    except (ValueError, RecursionError) as err:
        text = prefix or f"the object provided is unrecognized{_must_be(resource)}: couldn't get version/kind; json parse error"
        raise errors.BadRequest(f"{text}: {err}") from err


def parse_yaml(body: bytes) -> Any:
    """The one document of a YAML body. Raises BadRequest."""
    from apiserver.api import manifests

    try:
        documents = manifests.load(body.decode(), "the body of the request")
    except ValueError as err:
        raise errors.BadRequest(f"error converting YAML to JSON: {err}") from err
    if len(documents) != 1:
        raise errors.BadRequest(f"the body of the request must hold one YAML document, not {len(documents)}")
    return documents[0].obj


def _protobuf(body: bytes) -> Any:
    from apiserver.api import protobuf

    return protobuf.decode(body)


def _must_be(resource: kinds.Resource | None) -> str:
    return f" (must be of type {resource.kind})" if resource is not None else ""
