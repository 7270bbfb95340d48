"""Metadata rules for every kind: names, namespaces, labels, annotations, finalizers, owners, and what of it may change. Pure; validation.py calls it first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from apiserver.api import kinds, names
from apiserver.api.causes import forbidden, immutable, invalid, items, required, section, strings, too_long
from apiserver.api.errors import Cause
from apiserver.api.kinds import Resource

JSON = dict[str, Any]
ANNOTATIONS_LIMIT_BYTES = 256 * 1024
STANDARD_FINALIZERS = frozenset(("kubernetes", "orphan", "foregroundDeletion"))

_NAME_RULES: dict[Resource, Callable[[str], list[str]]] = {
    kinds.NAMESPACES: names.dns_label, kinds.SERVICES: names.dns_1035_label, kinds.ROLES: names.path_segment, kinds.ROLEBINDINGS: names.path_segment,
    kinds.CLUSTERROLES: names.path_segment, kinds.CLUSTERROLEBINDINGS: names.path_segment, kinds.STATEFULSETS: names.dns_subdomain, kinds.IPADDRESSES: names.ip_address,
}


def metadata_causes(resource: Resource, obj: JSON) -> Iterator[Cause]:
    metadata = section(obj, "metadata")
    rule = _NAME_RULES.get(resource, names.dns_subdomain)
    generate_name = metadata.get("generateName")
    if generate_name:
        # What is appended makes a trailing dash or dot valid.
        masked = generate_name[:-1] + "a" if generate_name[-1] in "-." else generate_name
        yield from (invalid("metadata.generateName", generate_name, text) for text in rule(masked) if "no more than" not in text)
    name = metadata.get("name")
    if name:
        yield from (invalid("metadata.name", name, text) for text in rule(name))
    elif not generate_name:
        yield required("metadata.name", "name or generateName is required")
    namespace = metadata.get("namespace")
    if resource.namespaced:
        if not namespace:
            yield required("metadata.namespace")
        else:
            yield from (invalid("metadata.namespace", namespace, text) for text in names.dns_label(namespace))
    elif namespace:
        yield forbidden("metadata.namespace", "not allowed on this type")
    if isinstance(metadata.get("generation"), int) and metadata["generation"] < 0:
        yield invalid("metadata.generation", metadata["generation"], "must be greater than or equal to 0")
    yield from label_causes(metadata.get("labels"), "metadata.labels")
    yield from annotation_causes(metadata.get("annotations"), "metadata.annotations")
    yield from _finalizer_causes(metadata)
    yield from _owner_causes(metadata)


def label_causes(labels: Any, path: str) -> Iterator[Cause]:
    for key, value in (labels if isinstance(labels, dict) else {}).items():
        yield from (invalid(path, key, text) for text in names.qualified_name(key))
        yield from (invalid(path, value, text) for text in names.label_value(value if isinstance(value, str) else ""))


def annotation_causes(annotations: Any, path: str) -> Iterator[Cause]:
    size = 0
    for key, value in (annotations if isinstance(annotations, dict) else {}).items():
        yield from (invalid(path, key, text) for text in names.qualified_name(key.lower()))
        size += len(key.encode()) + len(str(value).encode())
    if size > ANNOTATIONS_LIMIT_BYTES:
        yield too_long(path, ANNOTATIONS_LIMIT_BYTES)


def _finalizer_causes(metadata: JSON) -> Iterator[Cause]:
    found = set()
    for _, finalizer in strings(metadata, "finalizers", "metadata"):
        found.add(finalizer)
        yield from (invalid("metadata.finalizers", finalizer, text) for text in names.qualified_name(finalizer))
        if "/" not in finalizer and finalizer not in STANDARD_FINALIZERS:
            yield invalid("metadata.finalizers", finalizer, "name is neither a standard finalizer name nor is it fully qualified")
    if found >= {"orphan", "foregroundDeletion"}:
        yield invalid("metadata.finalizers", metadata["finalizers"], "finalizer orphan and foregroundDeletion cannot be both set")


def _owner_causes(metadata: JSON) -> Iterator[Cause]:
    controllers = []
    for path, owner in items(metadata, "ownerReferences", "metadata"):
        if not str(owner.get("apiVersion") or "").rpartition("/")[2]:
            yield invalid(f"{path}.apiVersion", owner.get("apiVersion", ""), "version must not be empty")
        yield from (invalid(f"{path}.{field}", "", "must not be empty") for field in ("kind", "name", "uid") if not owner.get(field))
        if owner.get("apiVersion") == "v1" and owner.get("kind") == "Event":
            yield invalid(path, f"{owner['apiVersion']}, Kind={owner['kind']}", "is disallowed from being an owner")
        if owner.get("controller"):
            controllers.append(f"{owner.get('kind', '')}/{owner.get('name', '')}")
    if len(controllers) > 1:
        text = f"Only one reference can have Controller set to true. Found \"true\" in references for {' and '.join(controllers)}"
        yield invalid("metadata.ownerReferences", metadata["ownerReferences"], text)


def metadata_update_causes(resource: Resource, new: JSON, old: JSON) -> Iterator[Cause]:
    after, before = section(new, "metadata"), section(old, "metadata")
    for field in ("name", "namespace", "uid", "creationTimestamp"):
        yield from immutable(f"metadata.{field}", after.get(field), before.get(field))
    for field in ("deletionTimestamp", "deletionGracePeriodSeconds"):
        if before.get("deletionTimestamp"):
            yield from immutable(f"metadata.{field}", after.get(field), before.get(field))
    if before.get("deletionTimestamp"):
        added = [finalizer for finalizer in after.get("finalizers") or () if finalizer not in (before.get("finalizers") or ())]
        if added:
            listed = ", ".join(f'"{one}"' for one in added)
            yield forbidden("metadata.finalizers", f"no new finalizers can be added if the object is being deleted, found new finalizers []string{{{listed}}}")
