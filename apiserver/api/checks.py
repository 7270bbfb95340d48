"""What a JSON value may be for each scalar of the schema, and Go's words when it is not. Pure; only schema.py calls it, on every create and update.

The wording follows Go's encoding/json, because people search for it: `json: cannot unmarshal string into Go struct field Container.spec.containers.ports of type int32`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from apiserver.api import quantities, timestamps
from apiserver.api.errors import BadRequest

GO_TYPES = {
    "double": "float64", "bytes": "[]uint8", "time": "v1.Time", "micro-time": "v1.MicroTime", "quantity": "resource.Quantity", "int-or-string": "intstr.IntOrString",
    "object": "map[string]interface {}", "any": "interface {}",
}
MAX_DEPTH = 128  # of free-form values; orjson refuses to encode at about twice that
_NOT_BASE64 = re.compile(r"[^A-Za-z0-9+/=]")
_BASE64 = re.compile(r"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?")


class WrongType(Exception):
    """A value that Go could not decode; the text is Go's. `path` may carry indexes, Go's text never does."""

    def __init__(self, value: Any, struct: str, path: str, go_type: str) -> None:
        shown = re.sub(r"\[\d+\]", "", path)
        super().__init__(f"json: cannot unmarshal {json_kind(value)} into Go struct field {struct}.{shown} of type {go_type}")
        self.path = path


class Unparsable(WrongType):
    """A string of the wrong syntax: a time, a quantity, base64. Go's text names no field here; ours begins with its path."""

    def __init__(self, path: str, message: str) -> None:
        Exception.__init__(self, f"{path}: {message}")
        self.path = path


def json_kind(value: Any) -> str:
    """How Go's decoder names a JSON value."""
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, str):
        return "string"
    if isinstance(value, float):
        return f"number {value}"
    if isinstance(value, int):
        return "number"
    return "array" if isinstance(value, list) else "null" if value is None else "object"


def _string(value: Any) -> bool:
    return value.__class__ is str or value is None


def _bool(value: Any) -> bool:
    return value.__class__ is bool or value is None


def _int32(value: Any) -> bool:
    return (value.__class__ is int and -0x8000_0000 <= value <= 0x7FFF_FFFF) or value is None


def _int64(value: Any) -> bool:
    return (value.__class__ is int and -0x8000_0000_0000_0000 <= value <= 0x7FFF_FFFF_FFFF_FFFF) or value is None


def _double(value: Any) -> bool:
    return value.__class__ in (int, float) or value is None


def _bytes(value: Any) -> bool:
    return value is None or (value.__class__ is str and _base64_fault(value) is None)


def _time(value: Any) -> bool:
    if value is None or value == "":
        return True
    try:
        timestamps.parse(value)
    except BadRequest:
        return False
    return value.__class__ is str


def _quantity(value: Any) -> bool:
    if value is None:
        return True
    try:
        quantities.parse(value)
    except BadRequest:
        return False
    return True


def _int_or_string(value: Any) -> bool:
    return value.__class__ is str or _int32(value)


def _object(value: Any) -> bool:
    return (value.__class__ is dict and _any(value)) or value is None


def _any(value: Any) -> bool:
    """Anything, but not deeper than it could be written back. Raises RecursionError, which check_fields answers."""
    if value.__class__ in (dict, list) and _deeper_than(value, MAX_DEPTH):
        raise RecursionError(f"nested deeper than {MAX_DEPTH}")
    return True


def _deeper_than(value: Any, limit: int) -> bool:
    level = [value]
    for _ in range(limit):
        level = [inner for one in level for inner in (one.values() if one.__class__ is dict else one) if inner.__class__ in (dict, list)]
        if not level:
            return False
    return True


SCALARS: dict[str, Callable[[Any], bool]] = {
    "string": _string, "bool": _bool, "int32": _int32, "int64": _int64, "double": _double, "bytes": _bytes, "time": _time, "micro-time": _time,
    "quantity": _quantity, "int-or-string": _int_or_string, "object": _object, "any": _any,
}


def array_of(item: Callable[[Any], bool]) -> Callable[[Any], bool]:
    def check(value: Any) -> bool:
        if value.__class__ is not list:
            return value is None
        for one in value:  # noqa: SIM110 - a generator would double the cost of the hot path
            if not item(one):
                return False
        return True

    return check


def map_of(item: Callable[[Any], bool]) -> Callable[[Any], bool]:
    def check(value: Any) -> bool:
        if value.__class__ is not dict:
            return value is None
        for one in value.values():  # noqa: SIM110 - as above
            if not item(one):
                return False
        return True

    return check


def require(kind: str, value: Any, struct: str, path: str) -> None:
    """Raises WrongType (Unparsable for a string of the wrong syntax) where the value is no `kind`."""
    if SCALARS[kind](value):
        return
    if kind == "quantity":
        raise Unparsable(path, quantities.FORMAT_ERROR)
    if isinstance(value, str):
        if kind == "bytes":
            raise Unparsable(path, f"illegal base64 data at input byte {_base64_fault(value)}")
        if kind in ("time", "micro-time"):
            raise Unparsable(path, f'parsing time "{value}" as "2006-01-02T15:04:05{".000000" if kind == "micro-time" else ""}Z07:00": cannot parse "{value}" as "2006"')
    wrong = WrongType(value, struct, path, GO_TYPES.get(kind, kind) if kind != "int-or-string" else "int32")
    if isinstance(value, int) and not isinstance(value, bool):
        wrong.args = (str(wrong).replace("unmarshal number", f"unmarshal number {value}", 1),) if kind in ("int32", "int64", "int-or-string") else wrong.args
    raise wrong


def _base64_fault(text: str) -> int | None:
    """The index of the first byte that is not base64, None where all is well. Line breaks inside are allowed, as in Go."""
    if "\n" in text or "\r" in text:
        text = text.replace("\n", "").replace("\r", "")
    match = _BASE64.match(text)
    if match is None or match.end() == len(text):
        return None
    foreign = _NOT_BASE64.search(text)
    return foreign.start() if foreign else match.end()


def duplicate_paths(body: bytes) -> list[str]:
    """The paths of keys given twice in one object of a JSON text; empty for a text that does not parse."""
    found = False
    doubled: dict[int, list[str]] = {}
    keep: list[dict[str, Any]] = []

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal found
        obj = dict(items)
        if len(obj) != len(items):
            found = True
            seen: set[str] = set()
            doubled[id(obj)] = list(dict.fromkeys(key for key, _ in items if key in seen or seen.add(key)))  # type: ignore[func-returns-value]
            keep.append(obj)
        return obj

    try:
        root = json.loads(body, object_pairs_hook=pairs)
    except (ValueError, RecursionError):
        return []
    return _doubled_paths(root, "", doubled) if found else []


def _doubled_paths(value: Any, path: str, doubled: dict[int, list[str]]) -> list[str]:
    paths: list[str] = []
    if isinstance(value, dict):
        paths += [f"{path}.{key}" if path else key for key in doubled.get(id(value), ())]
        for key, item in value.items():
            paths += _doubled_paths(item, f"{path}.{key}" if path else key, doubled)
    elif isinstance(value, list):
        for position, item in enumerate(value):
            paths += _doubled_paths(item, f"{path}[{position}]", doubled)
    return paths
