"""Which fields a document sets, as sets of paths, and merging by them: the arithmetic of server-side apply. Pure; ownership calls it.

A path is a tuple of FieldsV1 segments: `f:spec`, `k:{"name":"web"}` (an item of a list keyed by fields), `v:"a"` (an item of a set). Lists and objects that the schema calls
atomic are leaves. Source: kubernetes.io/docs/reference/using-api/server-side-apply and the format description of FieldsV1 in the API reference.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson

from apiserver.api import errors, kinds, schema

Path = tuple[str, ...]
# Structs (and maps of strings, by field) that Kubernetes marks x-kubernetes-map-type: atomic.
_ATOMIC_STRUCTS = frozenset(
    ["LabelSelector", "LocalObjectReference", "ObjectFieldSelector", "ObjectReference", "SecretKeySelector", "ConfigMapKeySelector", "ResourceFieldSelector", "NodeSelector", "NodeSelectorTerm", "TypedLocalObjectReference", "SecretReference", "OwnerReference", "EndpointAddress", "TopologySelectorTerm", "ScopeSelector", "RoleRef"]
)
_ATOMIC_FIELDS = frozenset({"selector", "nodeSelector"})
_KEY_DEFAULTS = {"protocol": "TCP"}
_ANY = schema.Type("any")
_MISSING = object()


def root(resource: kinds.Resource) -> schema.Type:
    definition = schema.for_resource(resource)
    return schema.Type("struct", definition.name) if definition else _ANY


def children_type(kind: schema.Type, field: str) -> schema.Type:
    """The type of a field of a struct or map; unknown fields are untyped."""
    if kind.kind == "struct":
        return schema.by_name(kind.definition).fields.get(field, _ANY)
    return kind.element or _ANY


def is_atomic(kind: schema.Type, field: str, value: Any) -> bool:
    """Whether a value counts as one thing: scalars, untyped or atomic lists, references."""
    if isinstance(value, dict):
        return kind.definition.rpartition(".")[2] in _ATOMIC_STRUCTS or (kind.kind == "map" and field in _ATOMIC_FIELDS)
    if isinstance(value, list):
        return kind.list_type not in {"map", "set"}
    return True


def item_segment(kind: schema.Type, item: Any) -> str:
    """How an item of a list of type map or set is named. Raises BadRequest where a key is missing."""
    if kind.list_type == "set":
        return "v:" + orjson.dumps(item).decode()
    if not isinstance(item, dict):
        raise errors.BadRequest("an item of a keyed list must be an object")
    keys = {}
    for key in kind.list_keys:
        value = item.get(key, _KEY_DEFAULTS.get(key, _MISSING))
        if value is _MISSING:
            raise errors.BadRequest(f"an item of a list keyed by {', '.join(kind.list_keys)} lacks {key}")
        keys[key] = value
    return "k:" + orjson.dumps(keys, option=orjson.OPT_SORT_KEYS).decode()


def leaves(kind: schema.Type, value: Any, field: str = "", path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Every path a document sets, with the value there; an item of a keyed list is a path of its own (value None) besides its fields."""
    if is_atomic(kind, field, value) or not value:
        yield path, value
    elif isinstance(value, dict):
        for key, child in value.items():
            yield from leaves(children_type(kind, key), child, key, (*path, f"f:{key}"))
    elif kind.list_type == "set":
        for item in value:
            yield (*path, item_segment(kind, item)), item
    else:
        for item in value:
            here = (*path, item_segment(kind, item))
            element = kind.element or _ANY
            if is_atomic(element, "", item):
                yield here, item
                continue
            yield here, None
            yield from leaves(element, item, "", here)


def merged(kind: schema.Type, live: Any, applied: Any, field: str = "") -> Any:
    """`live` with everything `applied` sets. Neither is changed; parts of both are shared."""
    if is_atomic(kind, field, applied) or type(live) is not type(applied):
        return applied
    if isinstance(applied, dict):
        result = dict(live)
        for key, value in applied.items():
            result[key] = merged(children_type(kind, key), live[key], value, key) if key in live else value
        return result
    if kind.list_type == "set":
        return [*live, *(item for item in applied if item not in live)]
    wanted = {item_segment(kind, item): item for item in applied}
    items = [merged(kind.element or _ANY, item, wanted.pop(item_segment(kind, item), item)) for item in live]
    return [*items, *wanted.values()]


def without(kind: schema.Type, value: Any, gone: set[Path], field: str = "", path: Path = ()) -> Any:
    """`value` without the paths in `gone`; an object or list that becomes empty by it goes as well (None). The keys of an item that stays, stay."""
    if path in gone and (is_atomic(kind, field, value) or not value):
        return None
    if not any(other[: len(path)] == path for other in gone) or is_atomic(kind, field, value):
        return value
    if isinstance(value, dict):
        result = {}
        for key, child in value.items():
            left = without(children_type(kind, key), child, gone, key, (*path, f"f:{key}"))
            if left is not None:
                result[key] = left
        return result or None
    return _items_without(kind, value, gone, path)


def _items_without(kind: schema.Type, value: list[Any], gone: set[Path], path: Path) -> Any:
    items = []
    for item in value:
        here = (*path, item_segment(kind, item))
        if here in gone:
            continue
        left = item if kind.list_type == "set" else without(kind.element or _ANY, item, gone, "", here)
        if isinstance(item, dict) and kind.list_keys:
            left = {**{key: item[key] for key in kind.list_keys if key in item}, **(left or {})}
        items.append(left)
    return items or None


def encode(paths: set[Path]) -> dict[str, Any]:
    """FieldsV1: nested objects; a path that is also the start of others has a "." member."""
    tree: dict[str, Any] = {}
    for path in sorted(paths):
        node = tree
        for segment in path:
            node = node.setdefault(segment, {})
    for path in paths:
        node = tree
        for segment in path:
            node = node[segment]
        if node:
            node["."] = {}
    return tree


def decode(tree: Any, path: Path = ()) -> set[Path]:
    """The paths of a FieldsV1; anything malformed counts as nothing."""
    if not isinstance(tree, dict):
        return set()
    if not tree:
        return {path} if path else set()
    found: set[Path] = set()
    for segment, child in tree.items():
        found |= {path} if segment == "." else decode(child, (*path, segment))
    return found


def text(path: Path) -> str:
    """`.spec.containers[name="web"].image`, as conflict messages name fields."""
    parts = []
    for segment in path:
        if segment.startswith("f:"):
            parts.append("." + segment[2:])
        elif segment.startswith("k:"):
            keys = orjson.loads(segment[2:])
            parts.append("[" + ",".join(f"{key}={orjson.dumps(value).decode()}" for key, value in keys.items()) + "]")
        else:
            parts.append(f"[={segment[2:]}]")
    return "".join(parts)
