"""The /openapi/v2 document as protobuf (`com.github.proto-openapi.spec.v2@v1.0+protobuf`): kubectl ≤ 1.27 applies and explains from it, Argo CD reads it. Pure, encoding only.
documents.py asks once and keeps the result.

Owns the field numbers of the messages used, from OpenAPIv2.proto of gnostic; a swagger field without a number here is left out. Extensions travel as YAML text, for which JSON will do.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import orjson

# Clients ask with an @, which is no valid media type to answer with: Go refuses to parse it.
ASKED = ("application/com.github.proto-openapi.spec.v2@v1.0+protobuf", "application/com.github.proto-openapi.spec.v2.v1.0+protobuf")
MEDIA_TYPE = ASKED[1]
JSON = Mapping[str, Any]


def encode(document: JSON) -> bytes:
    """A whole swagger 2.0 document."""
    info = document.get("info", {})
    return b"".join((
        _text(1, document.get("swagger", "2.0")),
        _bytes(2, _text(1, info.get("title", "")) + _text(2, info.get("version", ""))),
        _bytes(8, b"".join(_named(2, path, _path_item(item)) for path, item in document.get("paths", {}).items())),
        _bytes(9, b"".join(_named(1, name, _schema(schema)) for name, schema in document.get("definitions", {}).items())),
    ))  # fmt: skip


def _schema(schema: JSON) -> bytes:
    out = [writer(number, schema[name]) for name, (number, writer) in _SCHEMA.items() if name in schema]
    extra = schema.get("additionalProperties")
    if isinstance(extra, bool):
        out.append(_bytes(21, _flag(2, extra)))
    elif extra is not None:
        out.append(_bytes(21, _bytes(1, _schema(extra))))
    kind = schema.get("type")
    if kind:
        out.append(_bytes(22, b"".join(_text(1, name) for name in ([kind] if isinstance(kind, str) else kind))))
    if "items" in schema:
        out.append(_bytes(23, _bytes(1, _schema(schema["items"]))))
    if "properties" in schema:
        out.append(_bytes(25, b"".join(_named(1, name, _schema(value)) for name, value in schema["properties"].items())))
    return b"".join((*out, _extensions(31, schema)))


def _path_item(item: JSON) -> bytes:
    operations = b"".join(_bytes(number, _operation(item[method])) for method, number in _METHODS.items() if method in item)
    return operations + _parameters(9, item) + _extensions(10, item)


def _operation(operation: JSON) -> bytes:
    return b"".join((
        *(_text(1, tag) for tag in operation.get("tags", ())),
        _text(3, operation.get("description", "")),
        _text(5, operation.get("operationId", "")),
        *(_text(6, media) for media in operation.get("produces", ())),
        *(_text(7, media) for media in operation.get("consumes", ())),
        _parameters(8, operation),
        _bytes(9, b"".join(_named(1, code, _bytes(1, _response(response))) for code, response in operation.get("responses", {}).items())),
        _extensions(13, operation),
    ))  # fmt: skip


def _response(response: JSON) -> bytes:
    schema = _bytes(2, _bytes(1, _schema(response["schema"]))) if "schema" in response else b""
    return _text(1, response.get("description", "")) + schema


def _parameters(number: int, holder: JSON) -> bytes:
    return b"".join(_bytes(number, _bytes(1, _parameter(parameter))) for parameter in holder.get("parameters", ()))


def _parameter(parameter: JSON) -> bytes:
    """`number`s of the fields differ between body, query and path parameters."""
    place = parameter["in"]
    description, name, required = parameter.get("description", ""), parameter["name"], bool(parameter.get("required"))
    if place == "body":
        body = _text(1, description) + _text(2, name) + _text(3, place) + _flag(4, required)
        return _bytes(1, body + _bytes(5, _schema(parameter.get("schema", {}))))
    head = _flag(1, required) + _text(2, place) + _text(3, description) + _text(4, name)
    if place == "query":
        return _bytes(2, _bytes(3, head + _text(6, parameter.get("type", "")) + _flag(20, bool(parameter.get("uniqueItems")))))
    return _bytes(2, _bytes(4, head + _text(5, parameter.get("type", "")) + _flag(19, bool(parameter.get("uniqueItems")))))


def _extensions(number: int, holder: JSON) -> bytes:
    return b"".join(_named(number, name, _text(2, orjson.dumps(value).decode())) for name, value in holder.items() if name.startswith("x-"))


# protobuf's wire format (protobuf.dev/programming-guides/encoding): zero values are left out


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _bytes(number: int, payload: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(payload)) + payload


def _text(number: int, text: str) -> bytes:
    return _bytes(number, text.encode()) if text else b""


def _flag(number: int, value: bool) -> bytes:
    return _varint(number << 3) + b"\x01" if value else b""


def _integer(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(value & 0xFFFFFFFFFFFFFFFF) if value else b""


def _double(number: int, value: float) -> bytes:
    return _varint(number << 3 | 1) + struct.pack("<d", value) if value else b""


def _any(number: int, value: Any) -> bytes:
    return _bytes(number, _text(2, orjson.dumps(value).decode()))


def _named(number: int, name: str, value: bytes) -> bytes:
    return _bytes(number, _text(1, name) + _bytes(2, value))


def _repeated(write: Callable[[int, Any], bytes]) -> Callable[[int, Any], bytes]:
    return lambda number, values: b"".join(_each(write, number, values))


def _each(write: Callable[[int, Any], bytes], number: int, values: Any) -> Iterator[bytes]:
    for value in values:
        yield write(number, value)


_METHODS = {"get": 2, "put": 3, "post": 4, "delete": 5, "options": 6, "head": 7, "patch": 8}
_SCHEMA: dict[str, tuple[int, Callable[[int, Any], bytes]]] = {
    "$ref": (1, _text), "format": (2, _text), "title": (3, _text), "description": (4, _text), "default": (5, _any), "maximum": (7, _double), "minimum": (9, _double),
    "maxLength": (11, _integer), "minLength": (12, _integer), "pattern": (13, _text), "maxItems": (14, _integer), "minItems": (15, _integer), "uniqueItems": (16, _flag),
    "required": (19, _repeated(_text)), "enum": (20, _repeated(_any)), "allOf": (24, _repeated(lambda number, schema: _bytes(number, _schema(schema)))), "readOnly": (27, _flag),
}  # fmt: skip
