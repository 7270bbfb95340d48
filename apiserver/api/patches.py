"""Patches: JSON patch (RFC 6902), merge patch (RFC 7386), strategic merge patch, and the three-way patches of a client-side apply. Pure: documents are never changed in place.

Strategic merge follows Kubernetes' sig-api-machinery/strategic-merge-patch.md; merge keys and strategies come from the schema. Called by the registry (to apply) and by
minikctl (to compute). Refuses malformed patches with BadRequest, patches that do not fit the document with Unprocessable.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import orjson

from apiserver.api import patch_lists, schema
from apiserver.api.errors import BadRequest, Unprocessable
from apiserver.api.kinds import Resource
from apiserver.api.patch_lists import DELETE_PRIMITIVES, DIRECTIVE, RETAIN_KEYS, SET_ORDER, field_type
from apiserver.api.schema import Type

JSON = dict[str, Any]
MAX_OPERATIONS = 10_000


def json_patch(doc: JSON, ops: Any) -> Any:
    """RFC 6902. Raises BadRequest for operations that are none, Unprocessable for a failed test or a path that is not there."""
    import jsonpatch  # only here: it takes 10 ms to import

    if not isinstance(ops, list):
        raise BadRequest("cannot decode the JSON patch: expected a list of operations")
    if len(ops) > MAX_OPERATIONS:
        raise BadRequest(f"The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {len(ops)}")
    try:
        return jsonpatch.JsonPatch(ops).apply(orjson.loads(orjson.dumps(doc)), in_place=True)
    except jsonpatch.InvalidJsonPatch as err:
        raise BadRequest(f"cannot decode the JSON patch: {err}") from err
    except jsonpatch.JsonPatchTestFailed as err:
        raise Unprocessable(f"the server rejected our request due to an error in our request: testing value failed: {err}") from err
    except (jsonpatch.JsonPatchException, jsonpatch.JsonPointerException, KeyError, IndexError, TypeError, ValueError, AttributeError) as err:
        raise Unprocessable(f"the server rejected our request due to an error in our request: {err}") from err


def merge_patch(doc: Any, patch: Any) -> Any:
    """RFC 7386: null removes, objects merge, everything else replaces. Raises BadRequest for a patch too deep to walk."""
    try:
        return _merge_patch(doc, patch)
    except RecursionError as err:
        raise BadRequest("the patch is nested too deeply") from err


def _merge_patch(doc: Any, patch: Any) -> Any:
    if not isinstance(patch, dict):
        return patch
    result = dict(doc) if isinstance(doc, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = _merge_patch(result.get(key), value)
    return result


def strategic_merge(resource: Resource, doc: JSON, patch: JSON) -> JSON:
    """Applies a strategic merge patch. Raises BadRequest naming the wrong directive or list."""
    if not isinstance(patch, dict):
        raise BadRequest("cannot decode the strategic merge patch: expected an object")
    definition = schema.for_resource(resource)
    root = Type("struct", definition.name) if definition else Type("any")
    try:
        return _merge_map(doc, patch, root)
    except RecursionError as err:
        raise BadRequest("the patch is nested too deeply") from err


def three_way_strategic(resource: Resource, original: JSON, modified: JSON, current: JSON) -> JSON:
    """The patch that makes `current` what `modified` says and removes what `original` (last applied) had and `modified` no longer has. {}: nothing to do."""
    definition = schema.for_resource(resource)
    root = Type("struct", definition.name) if definition else Type("any")
    return _diff_map(_Three(original, modified, current), root)


def three_way_merge(original: Any, modified: JSON, current: JSON) -> JSON:
    """The same as a merge patch (lists replace), for kinds without a schema."""
    original = original if isinstance(original, dict) else {}
    patch: JSON = {}
    for key, value in modified.items():
        if value is None:
            if key in current:
                patch[key] = None
        elif key in current and isinstance(value, dict) and isinstance(current[key], dict):
            inner = three_way_merge(original.get(key), value, current[key])
            if inner:
                patch[key] = inner
        elif key not in current or not same(value, current[key]):
            patch[key] = value
    patch |= {key: None for key in original if key not in modified and key in current}
    return patch


def same(left: Any, right: Any) -> bool:
    """JSON equality: unlike Python's, 1 is not true."""
    if left.__class__ is not right.__class__:
        return isinstance(left, int | float) and isinstance(right, int | float) and not isinstance(left, bool) and not isinstance(right, bool) and left == right
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(value, right[key]) for key, value in left.items())
    if isinstance(left, list):
        return len(left) == len(right) and all(map(same, left, right))
    return bool(left == right)


# ---- applying


def _merge_map(doc: JSON, patch: JSON, kind: Type) -> JSON:
    if DIRECTIVE in patch:
        return _directive(patch)
    result = dict(doc)
    fields = dict(patch)
    if RETAIN_KEYS in fields:
        _retain(result, fields)
    order = {name.removeprefix(SET_ORDER): fields.pop(name) for name in list(fields) if name.startswith(SET_ORDER)}
    removed = {name.removeprefix(DELETE_PRIMITIVES): fields.pop(name) for name in list(fields) if name.startswith(DELETE_PRIMITIVES)}
    for key, values in removed.items():
        if isinstance(result.get(key), list):
            gone = patch_lists.require_list(values, DELETE_PRIMITIVES + key)
            result[key] = [item for item in result[key] if item not in gone]
    for key, value in fields.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = _merge_value(result.get(key), value, field_type(kind, key), key)
    for key, wanted in order.items():
        if isinstance(result.get(key), list):
            before = doc.get(key)
            result[key] = patch_lists.reorder(result[key], wanted, before if isinstance(before, list) else [], field_type(kind, key), key)
    return result


def _merge_value(old: Any, value: Any, kind: Type, key: str) -> Any:
    if isinstance(value, dict):
        if not isinstance(old, dict) or "replace" in kind.strategies:
            return _merge_map({}, value, kind)
        return _merge_map(old, value, kind)
    if isinstance(value, list):
        if "merge" not in kind.strategies:
            return _without_directives(value)
        return _merge_list(old if isinstance(old, list) else [], value, kind, key)
    return value


def _merge_list(old: list[Any], patch: list[Any], kind: Type, key: str) -> list[Any]:
    """Elements that the patch names stand in its order, the others keep their place before those that they stood before (as Kubernetes does it)."""
    if not any(isinstance(item, dict) for item in patch):
        if not all(_scalar(item) for item in [*old, *patch]):
            return patch
        return patch_lists.reorder(list(dict.fromkeys([*old, *patch])), patch, old, kind, key)
    if not all(isinstance(item, dict) for item in [*patch, *old]):
        raise BadRequest(f"cannot merge list {key}: expected objects only")
    merge_key, element = kind.merge_key, kind.element or Type("any")
    result, rest = patch_lists.apply_directives(old, patch, merge_key, key)
    for item in rest:
        if not merge_key:
            raise BadRequest(f"cannot merge lists without merge key for {key}")
        position = patch_lists.find(result, merge_key, patch_lists.key_of(item, merge_key, key))
        if position is None:
            result.append(_merge_map({}, item, element))
        else:
            result[position] = _merge_map(result[position], item, element)
    return patch_lists.reorder(result, rest, old, kind, key) if rest else result


def _directive(patch: JSON) -> JSON:
    if patch[DIRECTIVE] == "replace":
        return _without_directives({key: value for key, value in patch.items() if key != DIRECTIVE})
    if patch[DIRECTIVE] == "delete":
        return {}
    raise BadRequest(f"invalid strategic merge patch: unknown $patch directive {patch[DIRECTIVE]!r}")


def _retain(doc: JSON, fields: JSON) -> None:
    """$retainKeys: whatever the document has beyond the listed keys goes."""
    kept = patch_lists.require_list(fields.pop(RETAIN_KEYS), RETAIN_KEYS)
    stray = [key for key, value in fields.items() if value is not None and not key.startswith("$") and key not in kept]
    if stray:
        raise BadRequest(f"invalid strategic merge patch: $retainKeys lacks the patched field {stray[0]}")
    for key in [key for key in doc if key not in kept]:
        del doc[key]


def _without_directives(value: Any) -> Any:
    """A value as it goes into the document: no nulls in objects, no directives."""
    if isinstance(value, dict):
        return {key: _without_directives(item) for key, item in value.items() if item is not None and not key.startswith(("$patch", "$retainKeys", SET_ORDER, DELETE_PRIMITIVES))}
    return [_without_directives(item) for item in value if not _is_directive(item)] if isinstance(value, list) else value


def _is_directive(item: Any) -> bool:
    return isinstance(item, dict) and DIRECTIVE in item and item[DIRECTIVE] in ("replace", "delete")


def _scalar(value: Any) -> bool:
    return not isinstance(value, dict | list)


# ---- computing


class _Three(NamedTuple):
    """One value as last applied, as wanted, and as it is."""

    original: Any
    modified: Any
    current: Any


def _diff_map(three: _Three, kind: Type) -> JSON:
    original = three.original if isinstance(three.original, dict) else {}
    patch: JSON = {}
    for key, value in three.modified.items():
        if value is None:
            if key in three.current:
                patch[key] = None
        elif key not in three.current:
            patch[key] = value
        else:
            _diff_value(patch, key, _Three(original.get(key), value, three.current[key]), field_type(kind, key))
    patch |= {key: None for key in original if key not in three.modified and key in three.current}
    return patch


def _diff_value(patch: JSON, key: str, three: _Three, kind: Type) -> None:
    """Puts into the patch what turns the current value of a field into the wanted one."""
    value, current = three.modified, three.current
    if isinstance(value, dict) and isinstance(current, dict) and "replace" not in kind.strategies:
        inner = _diff_map(three, kind)
        if inner:
            patch[key] = inner | ({RETAIN_KEYS: sorted(value)} if "retainKeys" in kind.strategies else {})
    elif isinstance(value, list) and isinstance(current, list) and "merge" in kind.strategies:
        _diff_list(patch, key, three._replace(original=three.original if isinstance(three.original, list) else []), kind)
    elif not same(value, current):
        patch[key] = value


def _diff_list(patch: JSON, key: str, three: _Three, kind: Type) -> None:
    if patch_lists.mergeable(kind.merge_key, *three):
        _diff_objects(patch, key, three, kind)
    elif all(isinstance(item, str) for items in three for item in items) and len({*three.modified}) == len(three.modified):
        patch_lists.diff_primitives(patch, key, *three)
    elif not same(three.modified, three.current):
        # A key given twice (port 53 over UDP and TCP), or missing: only replacing the list says what is meant.
        objects = any(isinstance(item, dict) for item in three.modified)
        patch[key] = [*three.modified, {DIRECTIVE: "replace"}] if objects or not three.modified else three.modified


def _diff_objects(patch: JSON, key: str, three: _Three, kind: Type) -> None:
    merge_key, element = kind.merge_key, kind.element or Type("any")
    before, now = ({item[merge_key]: item for item in items} for items in (three.original, three.current))
    changes: list[JSON] = []
    for item in three.modified:
        name = item[merge_key]
        if name not in now:
            changes.append(item)
            continue
        inner = _diff_map(_Three(before.get(name), item, now[name]), element)
        if inner:
            changes.append({merge_key: name, **inner} | ({RETAIN_KEYS: sorted(item)} if "retainKeys" in kind.strategies else {}))
    wanted = [item[merge_key] for item in three.modified]
    changes += [{DIRECTIVE: "delete", merge_key: name} for name in before if name not in wanted and name in now]
    if changes:
        patch[key] = changes
    if changes or [name for name in now if name in wanted] != wanted:
        patch[SET_ORDER + key] = [{merge_key: name} for name in wanted]
