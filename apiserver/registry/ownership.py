"""Server-side apply: who owns which field of an object (metadata.managedFields), what an apply merges, removes and refuses. Pure; registry and writing call it.

managedFields are kept for objects that somebody has applied server-side, from then on: before, nobody asks, and every write would pay for it. What such an object had before
its first apply belongs to the manager `before-first-apply`, as in Kubernetes for objects older than the feature.
Source: kubernetes.io/docs/reference/using-api/server-side-apply.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import orjson

from apiserver.api import errors, kinds
from apiserver.registry import fieldsets
from apiserver.registry.context import Object
from apiserver.registry.fieldsets import Path

BEFORE = "before-first-apply"
KUBECTL = "kubectl"
LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
_SERVER_METADATA = frozenset(
    ["name", "namespace", "uid", "resourceVersion", "generation", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "managedFields", "generateName"]
)


@dataclass(frozen=True, slots=True)
class Manager:
    name: str
    operation: str  # Apply or Update
    api_version: str
    subresource: str = ""

    def text(self) -> str:
        """As conflict messages name it."""
        subresource = f" with subresource {self.subresource!r}".replace("'", '"') if self.subresource else ""
        return f'"{self.name}"{subresource}' + (f" using {self.api_version}" if self.operation == "Update" else "")


@dataclass(slots=True)
class Owned:
    paths: set[Path]
    time: str


Owners = dict[Manager, Owned]


def parse(obj: Object) -> Owners:
    """The owners in metadata.managedFields; malformed entries count as none."""
    owners: Owners = {}
    entries = obj["metadata"].get("managedFields")
    for entry in entries if isinstance(entries, list) else ():
        if isinstance(entry, dict) and entry.get("fieldsType") == "FieldsV1":
            manager = Manager(str(entry.get("manager", "")), str(entry.get("operation", "")), str(entry.get("apiVersion", "")), str(entry.get("subresource", "")))
            owners[manager] = Owned(fieldsets.decode(entry.get("fieldsV1")), str(entry.get("time", "")))
    return owners


def render(owners: Owners) -> list[Object]:
    """metadata.managedFields, managers without fields left out."""
    entries = []
    for manager, owned in owners.items():
        if owned.paths:
            entry = {
                "manager": manager.name, "operation": manager.operation, "apiVersion": manager.api_version, "time": owned.time, "fieldsType": "FieldsV1",
                "fieldsV1": fieldsets.encode(owned.paths),
            }  # fmt: skip
            entries.append(entry | ({"subresource": manager.subresource} if manager.subresource else {}))
    return entries


def check_applied(resource: kinds.Resource, name: str, applied: Any, field_manager: str) -> None:
    """What every applied configuration must have. Raises BadRequest, Invalid."""
    if not isinstance(applied, dict) or not isinstance(applied.get("metadata", {}), dict):
        raise errors.BadRequest("the applied configuration must be an object with metadata")
    if not field_manager:
        cause = errors.Cause("fieldManager", "FieldValueRequired", "Required value: is required for apply patch")
        raise errors.Invalid("meta.k8s.io", "PatchOptions", "", [cause])
    for field, want in (("apiVersion", resource.api_version), ("kind", resource.kind)):
        if applied.get(field) != want:
            raise errors.BadRequest(f"the {field} in the applied configuration ({applied.get(field)}) must be {want}")
    metadata = applied.get("metadata") or {}
    if metadata.get("managedFields"):
        raise errors.BadRequest("metadata.managedFields must be nil")
    if metadata.get("name", name) != name:
        raise errors.BadRequest(f"the name of the object ({metadata['name']}) does not match the name on the URL ({name})")


def first(resource: kinds.Resource, applied: Object, manager: Manager, now: str) -> list[Object]:
    """managedFields of an object that an apply creates."""
    return render({manager: Owned({path for path, _ in _fields(resource, applied)}, now)})


def apply(resource: kinds.Resource, live: Object, applied: Object, manager: Manager, *, force: bool, now: str) -> Object:
    """The live object with the applied configuration merged in, what this manager applied before and no longer does taken out, and the new managedFields.
    Raises Conflict naming every field another manager owns with another value, unless `force`."""
    kind, owners = fieldsets.root(resource), parse(live)
    have = dict(_fields(resource, live))
    if not owners:
        owners[Manager(BEFORE, "Update", resource.api_version)] = Owned(set(have), live["metadata"].get("creationTimestamp", now))
    wanted = dict(_fields(resource, applied))
    clashes = {path for path, value in wanted.items() if path in have and have[path] != value}
    if not force:
        _refuse_conflicts(owners, manager, clashes, _client_applied(resource, live) if manager.name == KUBECTL else set())
    previous = owners.pop(manager, Owned(set(), now))
    for owned in owners.values():
        owned.paths -= clashes
    others = _with_parents(path for owned in owners.values() for path in owned.paths)
    gone = previous.paths - wanted.keys() - others - _with_parents(wanted)
    result = fieldsets.merged(kind, {**live, "metadata": _plain(live["metadata"])}, {**applied, "metadata": applied.get("metadata") or {}})
    result = fieldsets.without(kind, result, gone) if gone else result
    unchanged = previous.paths == wanted.keys() and not clashes
    owners[manager] = Owned(set(wanted), previous.time if unchanged else now)
    metadata = {**(result.get("metadata") or {}), **{field: live["metadata"][field] for field in _SERVER_METADATA if field in live["metadata"]}}
    if (applied.get("metadata") or {}).get("resourceVersion"):
        metadata["resourceVersion"] = applied["metadata"]["resourceVersion"]
    if (applied.get("metadata") or {}).get("uid"):
        metadata["uid"] = applied["metadata"]["uid"]
    metadata["managedFields"] = render(owners)
    return {**result, "metadata": metadata}


def after_update(resource: kinds.Resource, old: Object, new: Object, manager: Manager, now: str) -> list[Object]:
    """managedFields after an ordinary write: what it changed is this manager's now; the old list where it changed nothing."""
    before, after = dict(_fields(resource, old)), dict(_fields(resource, new))
    changed = {path for path, value in after.items() if path not in before or before[path] != value}
    removed = before.keys() - after.keys()
    if not changed and not removed:
        return old["metadata"]["managedFields"]
    owners = parse(old)
    for other, owned in owners.items():
        if other != manager:
            owned.paths -= changed | removed
    mine = owners.setdefault(manager, Owned(set(), now))
    mine.paths, mine.time = (mine.paths - removed) | changed, now
    return render(owners)


def _client_applied(resource: kinds.Resource, live: Object) -> set[Path]:
    """What kubectl applied client-side before: kubectl may go on with those fields server-side without a conflict, as in Kubernetes."""
    try:
        last = orjson.loads((live["metadata"].get("annotations") or {}).get(LAST_APPLIED, "{}"))
        return {path for path, _ in _fields(resource, last)} if isinstance(last, dict) else set()
    except (orjson.JSONDecodeError, errors.BadRequest):
        return set()


def _refuse_conflicts(owners: Owners, manager: Manager, clashes: set[Path], allowed: set[Path]) -> None:
    found = []
    for other, owned in owners.items():
        paths = owned.paths & clashes - (allowed if other.name == BEFORE else set())
        found += [(fieldsets.text(path), other.text()) for path in paths if other != manager]
    found.sort()
    if not found:
        return
    causes = [{"reason": "FieldManagerConflict", "message": f"conflict with {owner}", "field": field} for field, owner in found]
    word = "conflict" if len(found) == 1 else "conflicts"
    listed = f"conflict with {found[0][1]}: {found[0][0]}" if len(found) == 1 else "conflicts with " + "; ".join(f"{owner}: {field}" for field, owner in found)
    raise errors.from_status({"code": 409, "reason": "Conflict", "message": f"Apply failed with {len(found)} {word}: {listed}", "details": {"causes": causes}})


def _fields(resource: kinds.Resource, obj: Object) -> Iterable[tuple[Path, Any]]:
    """Every field a document sets, without those that are the server's or say what it is."""
    metadata = _plain(obj.get("metadata") or {})
    plain = {key: value for key, value in obj.items() if key not in {"apiVersion", "kind", "metadata"}}
    if metadata:
        plain["metadata"] = metadata
    return ((path, value) for path, value in fieldsets.leaves(fieldsets.root(resource), plain) if path)


def _plain(metadata: Object) -> Object:
    return {key: value for key, value in metadata.items() if key not in _SERVER_METADATA}


def _with_parents(paths: Iterable[Path]) -> set[Path]:
    return {path[:end] for path in paths for end in range(1, len(path) + 1)}
