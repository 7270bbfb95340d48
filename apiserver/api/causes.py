"""Builds Causes in Kubernetes' words (apimachinery's field.Error: reason and body per kind of mistake). Pure; every validation module uses it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from apiserver.api.errors import Cause

JSON = dict[str, Any]


def show(value: Any) -> str:
    """A value as field errors print it: strings quoted, the rest as JSON."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True)


def required(path: str, detail: str = "") -> Cause:
    return Cause(path, "FieldValueRequired", f"Required value: {detail}" if detail else "Required value")


def invalid(path: str, value: Any, detail: str) -> Cause:
    return Cause(path, "FieldValueInvalid", f"Invalid value: {show(value)}: {detail}")


def not_supported(path: str, value: Any, supported: Iterable[str]) -> Cause:
    return Cause(path, "FieldValueNotSupported", f"Unsupported value: {show(value)}: supported values: {', '.join(map(show, sorted(supported)))}")


def duplicate(path: str, value: Any) -> Cause:
    return Cause(path, "FieldValueDuplicate", f"Duplicate value: {show(value)}")


def forbidden(path: str, detail: str) -> Cause:
    return Cause(path, "FieldValueForbidden", f"Forbidden: {detail}")


def not_found(path: str, value: Any) -> Cause:
    return Cause(path, "FieldValueNotFound", f"Not found: {show(value)}")


def too_long(path: str, limit: int) -> Cause:
    return Cause(path, "FieldValueTooLong", f"Too long: may not be more than {limit} bytes")


def too_many(path: str, count: int, limit: int) -> Cause:
    return Cause(path, "FieldValueTooMany", f"Too many: {count}: must have at most {limit} items")


IMMUTABLE = "field is immutable"


def immutable(path: str, new: Any, old: Any) -> Iterator[Cause]:
    if new != old:
        yield invalid(path, new, IMMUTABLE)


def one_of(path: str, value: Any, supported: Iterable[str]) -> Iterator[Cause]:
    """An enumeration; an empty value is for the caller to refuse."""
    if value not in supported:
        yield not_supported(path, value if value is not None else "", supported)


def at_least(path: str, value: Any, limit: int = 0) -> Iterator[Cause]:
    """A number not below the limit; absent is fine."""
    if isinstance(value, int) and value < limit:
        yield invalid(path, value, f"must be greater than or equal to {limit}" if limit == 0 else f"must be greater than {limit - 1}")


def between(path: str, value: Any, low: int, high: int) -> Iterator[Cause]:
    if isinstance(value, int) and not low <= value <= high:
        yield invalid(path, value, f"must be between {low} and {high}, inclusive")


def section(parent: Any, key: str) -> JSON:
    """The object at a key; empty where there is none."""
    value = parent.get(key) if isinstance(parent, dict) else None
    return value if isinstance(value, dict) else {}


def items(parent: Any, key: str, path: str) -> Iterator[tuple[str, JSON]]:
    """(path, element) of a list of objects: `spec.containers[0]`. A null element counts as an empty object."""
    value = parent.get(key) if isinstance(parent, dict) else None
    for position, item in enumerate(value if isinstance(value, list) else ()):
        yield f"{path}.{key}[{position}]" if path else f"{key}[{position}]", item if isinstance(item, dict) else {}


def strings(parent: Any, key: str, path: str) -> Iterator[tuple[str, str]]:
    """(path, element) of a list of strings."""
    value = parent.get(key) if isinstance(parent, dict) else None
    for position, item in enumerate(value if isinstance(value, list) else ()):
        yield f"{path}.{key}[{position}]" if path else f"{key}[{position}]", item if isinstance(item, str) else ""
