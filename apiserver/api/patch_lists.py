"""Lists inside strategic merge patches: finding elements by merge key, $patch directives in lists, $setElementOrder. Pure; only patches.py calls it."""

from __future__ import annotations

from functools import cache
from typing import Any

from apiserver.api import schema
from apiserver.api.errors import BadRequest
from apiserver.api.schema import Type

JSON = dict[str, Any]
DIRECTIVE, RETAIN_KEYS, SET_ORDER, DELETE_PRIMITIVES = "$patch", "$retainKeys", "$setElementOrder/", "$deleteFromPrimitiveList/"
_UNTYPED = Type("any")


@cache
def _fields(definition: str) -> dict[str, Type]:
    return schema.by_name(definition).fields


def field_type(kind: Type, key: str) -> Type:
    """The type of a field inside a value of type `kind`; untyped where the schema does not say."""
    if kind.kind == "struct":
        return _fields(kind.definition).get(key, _UNTYPED)
    return (kind.element or _UNTYPED) if kind.kind == "map" else _UNTYPED


def require_list(value: Any, name: str) -> list[Any]:
    if not isinstance(value, list):
        raise BadRequest(f"invalid strategic merge patch: {name} must be a list")
    return value


def key_of(item: JSON, merge_key: str, where: str) -> Any:
    if merge_key not in item:
        raise BadRequest(f"invalid strategic merge patch: {where}: map: {item} does not contain declared merge key: {merge_key}")
    return item[merge_key]


def find(items: list[JSON], merge_key: str, value: Any) -> int | None:
    return next((position for position, item in enumerate(items) if merge_key in item and item[merge_key] == value), None)


def apply_directives(old: list[JSON], patch: list[JSON], merge_key: str, where: str) -> tuple[list[JSON], list[JSON]]:
    """(what is left of the list, the patch's elements to merge).

    {"$patch": "replace"} makes the other elements of the patch the list as they stand, "delete" removes the element of the same key.
    """
    result, rest, replace = list(old), [], False
    for item in patch:
        directive = item.get(DIRECTIVE)
        if directive is None:
            rest.append(item)
        elif directive == "replace":
            replace = True
            if len(item) > 1:
                rest.append({key: value for key, value in item.items() if key != DIRECTIVE})
        elif directive == "delete":
            if not merge_key:
                raise BadRequest(f"delete patch type with no merge key defined for {where}")
            name = key_of(item, merge_key, where)
            result = [one for one in result if one.get(merge_key) != name]
        else:
            raise BadRequest(f"invalid strategic merge patch: {where}: unknown $patch directive {directive!r}")
    return (rest, []) if replace else (result, rest)


def reorder(merged: list[Any], wanted: Any, before: list[Any], kind: Type, where: str) -> list[Any]:
    """$setElementOrder: the listed elements in the listed order; the others (the server's own) keep their place relative to them as it was before."""
    wanted = require_list(wanted, SET_ORDER + where)
    if kind.merge_key and any(isinstance(item, dict) for item in [*merged, *wanted]):
        names = [key_of(item, kind.merge_key, where) if isinstance(item, dict) else item for item in wanted]
    else:
        names = wanted

    def name_of(item: Any) -> Any:
        return item.get(kind.merge_key) if isinstance(item, dict) else item

    listed = sorted((item for item in merged if name_of(item) in names), key=lambda item: names.index(name_of(item)))
    old_names = [name_of(item) for item in before]
    others = [item for item in merged if name_of(item) not in names]
    return _interleave(others, listed, [name_of(item) for item in others], [name_of(item) for item in listed], old_names)


def _interleave(others: list[Any], listed: list[Any], other_names: list[Any], listed_names: list[Any], old: list[Any]) -> list[Any]:
    """An element of `others` goes first only where both heads stood in the old list, in that order."""
    place = {_hashable(name): position for position, name in reversed(list(enumerate(old)))}
    result, left, right = [], 0, 0
    while left < len(others) and right < len(listed):
        a, b = place.get(_hashable(other_names[left])), place.get(_hashable(listed_names[right]))
        if a is not None and b is not None and a < b:
            result.append(others[left])
            left += 1
        else:
            result.append(listed[right])
            right += 1
    return result + others[left:] + listed[right:]


def _hashable(value: Any) -> Any:
    return value if isinstance(value, str | int | float | None) else repr(value)


def mergeable(merge_key: str, *lists: list[Any]) -> bool:
    """Whether every element of every list is an object with a merge key of its own."""
    if not merge_key:
        return False
    for items in lists:
        names = [item.get(merge_key) if isinstance(item, dict) else None for item in items]
        if any(name is None or isinstance(name, dict | list) for name in names) or len(set(names)) != len(names):
            return False
    return True


def diff_primitives(patch: JSON, key: str, original: list[Any], value: list[Any], current: list[Any]) -> None:
    """Additions, $deleteFromPrimitiveList and $setElementOrder for a list of scalars (finalizers)."""
    added = [item for item in value if item not in current]
    gone = [item for item in original if item not in value and item in current]
    if added:
        patch[key] = added
    if gone:
        patch[DELETE_PRIMITIVES + key] = gone
    if added or gone or [item for item in current if item in value] != value:
        patch[SET_ORDER + key] = value
