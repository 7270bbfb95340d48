"""Decodes Kubernetes' protobuf request bodies (kubectl ≥ 1.32 sends them) into JSON documents. Never encodes. REST calls it for application/vnd.kubernetes.protobuf.

A body is the magic `k8s\\0` and a runtime.Unknown {typeMeta, raw, contentEncoding, contentType}; raw is the message of that kind. Field numbers come from the
committed protobuf_fields.json (see build_protobuf). The result is what Go's JSON encoder would have written: zero values that it omits are left out.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import orjson

from apiserver.api import timestamps
from apiserver.api.errors import BadRequest

JSON = dict[str, Any]
MAGIC = b"k8s\x00"
MAX_DEPTH = 100
_META_KINDS = frozenset(("DeleteOptions", "CreateOptions", "UpdateOptions", "PatchOptions", "ListOptions", "GetOptions", "Status"))
_OMIT = object()


@cache
def _table() -> JSON:
    return orjson.loads((Path(__file__).parent / "protobuf_fields.json").read_bytes())


def decode(body: bytes) -> JSON:
    """The JSON document of a protobuf body, with apiVersion and kind. Raises BadRequest: no magic, an unknown kind, a truncated or malformed message."""
    if not body.startswith(MAGIC):
        raise BadRequest("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")
    try:
        return _decode_unknown(body[len(MAGIC) :])
    except (ValueError, IndexError, struct.error, OverflowError) as err:
        raise BadRequest(f"cannot decode the protobuf body: {err}") from err


def _decode_unknown(data: bytes) -> JSON:
    api_version = kind = content_type = ""
    raw = b""
    for number, value in _fields(data):
        if number == 1:
            meta = {n: bytes(v).decode() for n, v in _fields(_bytes(value))}
            api_version, kind = meta.get(1, ""), meta.get(2, "")
        elif number == 2:
            raw = _bytes(value)
        elif number == 4:
            content_type = _bytes(value).decode()
    if content_type == "application/json":
        return orjson.loads(raw)
    group, _, version = api_version.rpartition("/")
    message = f"meta.v1.{kind}" if kind in _META_KINDS else f"{group.partition('.')[0] or 'core'}.{version}.{kind}"
    if message not in _table():
        raise BadRequest(f'no kind "{kind}" is registered for version "{api_version}" in protobuf')
    return {"apiVersion": api_version, "kind": kind, **_message(message, raw, 0)}


def _message(name: str, data: bytes, depth: int) -> JSON:
    """One message by its table; unknown fields are skipped, as protobuf does."""
    if depth > MAX_DEPTH:
        raise ValueError(f"nested deeper than {MAX_DEPTH} messages")
    fields = _table()[name]
    result: JSON = {}
    for number, value in _fields(data):
        entry = fields.get(str(number))
        if entry is None:
            continue
        field, kind = entry[0], entry[1]
        if field == "<inline>":
            result |= _message(kind, _bytes(value), depth + 1)
        elif kind.startswith("repeated "):
            result.setdefault(field, []).extend(_repeated(kind.removeprefix("repeated "), value, depth))
        elif kind.startswith("map<"):
            key, item = _map_entry(kind.removeprefix("map<string,").removesuffix(">"), value, depth)
            result.setdefault(field, {})[key] = item
        else:
            decoded = _value(kind, value, depth, keep_zero=len(entry) > 2)
            if decoded is not _OMIT:
                result[field] = decoded
    return result


def _value(kind: str, value: int | bytes, depth: int, *, keep_zero: bool) -> Any:
    scalar = _SCALARS.get(kind)
    if scalar is not None:
        decoded = scalar(value)
        return decoded if decoded or keep_zero else _OMIT
    special = _SPECIAL.get(kind)
    if special is not None:
        return special(_bytes(value))
    if kind.endswith((".ExtraValue", ".Verbs", ".AttestationValue")):
        return [bytes(item).decode() for number, item in _fields(_bytes(value)) if number == 1 and not isinstance(item, int)]
    return _message(kind, _bytes(value), depth + 1)


def _repeated(kind: str, value: int | bytes, depth: int) -> Iterator[Any]:
    if kind in ("int32", "int64", "bool") and not isinstance(value, int):
        position = 0
        while position < len(value):  # packed
            number, position = _varint(value, position)
            yield _SCALARS[kind](number)
    else:
        decoded = _value(kind, value, depth, keep_zero=True)
        yield None if decoded is _OMIT else decoded


def _map_entry(kind: str, value: int | bytes, depth: int) -> tuple[str, Any]:
    key, item = "", _value(kind, b"", depth, keep_zero=True)
    for number, part in _fields(_bytes(value)):
        if number == 1:
            key = _bytes(part).decode()
        elif number == 2:
            item = _value(kind, part, depth, keep_zero=True)
    return key, None if item is _OMIT else item


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(field number, varint | bytes) of a message. Raises ValueError or IndexError on a malformed one. Encoding: protobuf.dev, "Encoding"."""
    position = 0
    while position < len(data):
        tag, position = _varint(data, position)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            value: int | bytes
            value, position = _varint(data, position)
        elif wire in (1, 2, 5):
            if wire == 2:
                length, position = _varint(data, position)
            else:
                length = 8 if wire == 1 else 4
            if position + length > len(data):
                raise ValueError("unexpected EOF")
            value, position = data[position : position + length], position + length
        else:
            raise ValueError(f"wrong wire type {wire} for field {number}")
        yield number, value


def _varint(data: bytes, position: int) -> tuple[int, int]:
    result = shift = 0
    while True:
        if position >= len(data):
            raise ValueError("unexpected EOF")
        byte = data[position]
        position += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result, position
        shift += 7
        if shift > 63:
            raise ValueError("integer overflow")


def _bytes(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise ValueError("wrong wire type 0, expected length-delimited")
    return value


def _integer(value: int | bytes) -> int:
    if not isinstance(value, int):
        raise ValueError("wrong wire type, expected varint")
    value &= 0xFFFF_FFFF_FFFF_FFFF
    return value - 2**64 if value >= 2**63 else value


def _timestamp(data: bytes, *, micro: bool) -> Any:
    parts = {number: _integer(value) for number, value in _fields(data)}
    if not parts:
        return _OMIT  # Go's zero time
    seconds, nanos = parts.get(1, 0), parts.get(2, 0)
    if not micro:
        return timestamps.format_time(seconds)
    return f"{timestamps.format_time(seconds)[:-1]}.{nanos // 1000:06d}Z"


def _int_or_string(data: bytes) -> int | str:
    parts = dict(_fields(data))
    return _bytes(parts.get(3, b"")).decode() if parts.get(1) == 1 else _integer(parts.get(2, 0))


def _quantity(data: bytes) -> str:
    return next((_bytes(value).decode() for number, value in _fields(data) if number == 1), "0")


def _raw_json(data: bytes) -> Any:
    raw = next((_bytes(value) for number, value in _fields(data) if number == 1), b"")
    return orjson.loads(raw) if raw else _OMIT


def _duration(data: bytes) -> str:
    return f"{next((_integer(value) for _, value in _fields(data)), 0) / 1e9:g}s"


_SCALARS: dict[str, Callable[[Any], Any]] = {
    "string": lambda value: _bytes(value).decode(),
    "bytes": lambda value: base64.b64encode(_bytes(value)).decode(),
    "bool": lambda value: bool(_integer(value)),
    "int32": _integer,
    "int64": _integer,
}
_SPECIAL: dict[str, Callable[[bytes], Any]] = {
    "meta.v1.Time": lambda data: _timestamp(data, micro=False),
    "meta.v1.MicroTime": lambda data: _timestamp(data, micro=True),
    "meta.v1.Duration": _duration,
    "meta.v1.FieldsV1": _raw_json,
    "runtime.RawExtension": _raw_json,
    "util.intstr.IntOrString": _int_or_string,
    "api.resource.Quantity": _quantity,
}
