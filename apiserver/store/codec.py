"""How an object becomes stored bytes, and how its resourceVersion gets in without re-encoding. Pure; owns no state. The registry encodes, the watch cache splices.

Stored bytes never hold resourceVersion: the store's revision is known only after the commit (etcd reveals it in the answer), so it is written into a fixed place,
the front of `metadata`, when the bytes are read. The first three fields are always apiVersion, kind, metadata, which is what makes that place findable.
"""

from __future__ import annotations

from typing import Any

import orjson

_METADATA = b'"metadata":{'
_VERSION = b'"resourceVersion":"'


def encode(obj: dict[str, Any]) -> bytes:
    """JSON of `obj` with apiVersion, kind and metadata first and without metadata.resourceVersion. `obj` is not changed.

    Raises ValueError naming what is wrong: apiVersion or kind not a non-empty string, metadata not an object, a value JSON cannot hold.
    """
    for field in ("apiVersion", "kind"):
        if not isinstance(obj.get(field), str) or not obj[field]:
            raise ValueError(f"cannot encode object: {field} must be a non-empty string")
    metadata = obj.get("metadata", {})
    if not isinstance(metadata, dict):
        raise ValueError("cannot encode object: metadata must be an object")
    if "resourceVersion" in metadata:
        metadata = {k: v for k, v in metadata.items() if k != "resourceVersion"}
    ordered = {"apiVersion": obj["apiVersion"], "kind": obj["kind"], "metadata": metadata}
    for field, value in obj.items():
        if field not in ordered:
            ordered[field] = value
    try:
        return orjson.dumps(ordered)
    except (TypeError, RecursionError) as err:  # orjson's JSONEncodeError is a TypeError
        raise ValueError(f"cannot encode object: {err}") from err


def decode(data: bytes) -> dict[str, Any]:
    """The object in stored or spliced bytes."""
    obj = orjson.loads(data)
    if not isinstance(obj, dict):
        raise ValueError("cannot decode object: not a JSON object")
    return obj


def is_object(value: bytes) -> bool:
    """Whether stored bytes are an encoded object; claims and counters under other keys are not."""
    return value.startswith(b'{"apiVersion":') and value.find(_METADATA) > 0


def splice(value: bytes, revision: int) -> bytes:
    """encode()'s bytes with `"resourceVersion":"<revision>"` as the first field of metadata. Raises ValueError where `value` is not of encode()'s making.

    The first `"metadata":{` is the object's own: before it stand only two strings, in which a quotation mark would be escaped.
    """
    at = value.find(_METADATA)
    if at < 0:
        raise ValueError("cannot splice resourceVersion: no metadata in stored bytes")
    at += len(_METADATA)
    comma = b"" if value[at : at + 1] == b"}" else b","
    return b'%b"resourceVersion":"%d"%b%b' % (value[:at], revision, comma, value[at:])


def resplice(data: bytes, revision: int) -> bytes:
    """splice()'s bytes with another revision: the last state of a deleted object carries the deletion's revision."""
    start = data.find(_METADATA + _VERSION)
    if start < 0:
        raise ValueError("cannot replace resourceVersion: not at the front of metadata")
    start += len(_METADATA) + len(_VERSION)
    return b"%b%d%b" % (data[:start], revision, data[data.index(b'"', start) :])
