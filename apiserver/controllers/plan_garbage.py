"""What becomes of an object whose owners are gone or going. Pure: the graph and what is known of absent owners in, one instruction out.

Rules of Kubernetes' garbage collection (docs: concepts/architecture/garbage-collection): background, foreground (`foregroundDeletion`) and orphan finalizers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from apiserver.api import kinds, types
from apiserver.controllers.ownership import Graph, Item

__all__ = ["FOREGROUND", "ORPHAN", "Ask", "Delete", "DropOwners", "Instruction", "Keep", "Release", "Visit", "owner_key", "plan_item"]  # fmt: skip

FOREGROUND, ORPHAN = "foregroundDeletion", "orphan"


@dataclass(frozen=True, slots=True)
class Keep:
    """Nothing to do."""


@dataclass(frozen=True, slots=True)
class Ask:
    """These owners are not in the graph: the API server has to say whether they exist."""

    owners: tuple[types.OwnerReference, ...]


@dataclass(frozen=True, slots=True)
class Delete:
    policy: str


@dataclass(frozen=True, slots=True)
class DropOwners:
    """Some owners stay: forget the others."""

    uids: frozenset[str]


@dataclass(frozen=True, slots=True)
class Release:
    """Being deleted, and what the finalizer waited for has happened: take it off."""

    finalizer: str


@dataclass(frozen=True, slots=True)
class Visit:
    """Being deleted: first these dependents. `orphan`: take the owner off them; else delete them."""

    dependents: tuple[Item, ...]
    orphan: bool


Instruction = Keep | Ask | Delete | DropOwners | Release | Visit


def owner_key(item: Item, owner: types.OwnerReference) -> tuple[str, str, str, str, str]:
    """Identifies what a reference means, seen from `item`: absent answers are remembered under it."""
    resource = kinds.for_kind(owner.api_version, owner.kind)
    namespace = item.namespace if resource is None or resource.namespaced else ""
    return owner.api_version, owner.kind, namespace, owner.name, owner.uid


def plan_item(item: Item, graph: Graph, absent: Mapping[tuple[str, str, str, str, str], bool]) -> Instruction:
    """`absent`: owners the API server was asked about (True: not there)."""
    if item.deleting:
        return _plan_deleting(item, graph)
    if not item.owners:
        return Keep()
    solid: list[types.OwnerReference] = []
    waiting: list[types.OwnerReference] = []
    dangling: list[types.OwnerReference] = []
    unknown: list[types.OwnerReference] = []
    for reference in item.owners:
        owner = graph.items.get(reference.uid)
        if owner is not None and _is_meant(owner, reference, item):
            (waiting if owner.deleting and FOREGROUND in owner.finalizers and reference.block_owner_deletion else solid).append(reference)
        elif owner is not None or absent.get(owner_key(item, reference)) is True:
            dangling.append(reference)
        elif absent.get(owner_key(item, reference)) is None:
            unknown.append(reference)
        else:
            solid.append(reference)
    if unknown:
        return Ask(tuple(unknown))
    if solid:
        gone = frozenset(r.uid for r in (*dangling, *waiting))
        return DropOwners(gone) if gone else Keep()
    if waiting and graph.dependents_of(item.uid):
        return Delete("Foreground")
    return Delete(_policy(item))


def _is_meant(owner: Item, reference: types.OwnerReference, item: Item) -> bool:
    """The same object by kind, name and scope, not only by uid: an owner in another namespace is none."""
    if owner.name != reference.name or owner.resource.kind != reference.kind or owner.resource.group != reference.api_version.rpartition("/")[0]:
        return False
    return not owner.resource.namespaced or owner.namespace == item.namespace


def _policy(item: Item) -> str:
    if ORPHAN in item.finalizers:
        return "Orphan"
    return "Foreground" if FOREGROUND in item.finalizers else "Background"


def _plan_deleting(item: Item, graph: Graph) -> Instruction:
    dependents = graph.dependents_of(item.uid)
    if ORPHAN in item.finalizers:
        return Visit(tuple(dependents), True) if dependents else Release(ORPHAN)
    if FOREGROUND in item.finalizers:
        blocking = [d for d in dependents if any(o.uid == item.uid and o.block_owner_deletion for o in d.owners)]
        if not blocking:
            return Release(FOREGROUND)
        todo = tuple(d for d in blocking if not d.deleting)
        return Visit(todo, False) if todo else Keep()
    return Keep()
