"""Who owns whom: every object's identity, owners and finalizers as a graph, kept by observe() and vanish(). Pure data; plan_garbage reads it, garbage feeds it.

Invariant: `dependents[uid]` holds exactly the uids of the items whose ownerReferences name `uid`, whether or not the owner was ever seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from apiserver.api import types
from apiserver.api.kinds import Resource

__all__ = ["Graph", "Identity", "Item", "Meta"]


class Meta(types.View):
    """The part of metadata that ownership needs (labels and annotations would only cost memory)."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    deletion_timestamp: str = ""
    owner_references: list[types.OwnerReference] = []
    finalizers: list[str] = []


class Identity(types.View):
    """Any object, seen as an owner or a dependent."""

    metadata: Meta = msgspec.field(default_factory=Meta)


@dataclass(frozen=True, slots=True)
class Item:
    resource: Resource
    uid: str
    name: str
    namespace: str
    owners: tuple[types.OwnerReference, ...] = ()
    finalizers: frozenset[str] = frozenset()
    deleting: bool = False

    @property
    def text(self) -> str:
        return f"{self.resource.group_resource} {self.namespace}/{self.name}" if self.namespace else f"{self.resource.group_resource} {self.name}"

    @staticmethod
    def of(resource: Resource, obj: Any) -> Item:
        """From any typed view, or a dict."""
        if isinstance(obj, dict):
            obj = types.from_dict(Identity, obj)
        meta = obj.metadata
        return Item(resource, meta.uid, meta.name, meta.namespace, tuple(meta.owner_references), frozenset(meta.finalizers), bool(meta.deletion_timestamp))


class Graph:
    def __init__(self) -> None:
        self.items: dict[str, Item] = {}
        self.dependents: dict[str, set[str]] = {}

    def observe(self, item: Item) -> bool:
        """False where nothing changed that matters here."""
        old = self.items.get(item.uid)
        if old == item:
            return False
        self.items[item.uid] = item
        before = {o.uid for o in old.owners} if old else set()
        after = {o.uid for o in item.owners}
        for uid in after - before:
            self.dependents.setdefault(uid, set()).add(item.uid)
        for uid in before - after:
            self._unlink(uid, item.uid)
        return True

    def vanish(self, uid: str) -> Item | None:
        item = self.items.pop(uid, None)
        if item is not None:
            for owner in item.owners:
                self._unlink(owner.uid, uid)
        return item

    def dependents_of(self, uid: str) -> list[Item]:
        return [self.items[d] for d in sorted(self.dependents.get(uid, ())) if d in self.items]

    def _unlink(self, owner: str, dependent: str) -> None:
        uids = self.dependents.get(owner)
        if uids is not None:
            uids.discard(dependent)
            if not uids:
                del self.dependents[owner]
