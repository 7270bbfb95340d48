"""Collects what its owners left behind, and serves the foreground and orphan finalizers, as plan_garbage says. Keys are uids.

Sees every kind that can be listed, watched and deleted: shared informers where other controllers have them, else its own that keep identities only.
"""

from __future__ import annotations

from typing import Any

from apiserver.api import errors, kinds, types
from apiserver.api.kinds import Resource
from apiserver.controllers import plan_garbage as plans
from apiserver.controllers.loop import Context, Controller
from apiserver.controllers.ownership import Graph, Identity, Item

__all__ = ["GarbageCollector", "watched_resources"]

MAX_ABSENT = 10_000


def watched_resources() -> list[Resource]:
    """Once per stored object: of several versions of a kind the first; no Events (they are owned by nothing and many)."""
    seen: dict[str, Resource] = {}
    for resource in kinds.RESOURCES:
        if resource.plural != "events" and {"list", "watch", "delete"} <= set(resource.verbs):
            seen.setdefault(resource.storage_prefix, resource)
    return list(seen.values())


class GarbageCollector(Controller):
    name = "garbage"

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.graph = Graph()
        self._absent: dict[tuple[str, str, str, str, str], bool] = {}
        for resource in watched_resources():
            self.watch(resource, Identity).add_handler(self._handler(resource))

    def _handler(self, resource: Resource) -> Any:
        def on_change(old: Any, new: Any) -> None:
            if old is not None and (new is None or _uid(new) != _uid(old)):
                self._vanished(Item.of(resource, old))
            if new is not None:
                self._observed(Item.of(resource, new))

        return on_change

    def _observed(self, item: Item) -> None:
        before = self.graph.items.get(item.uid)
        if not self.graph.observe(item):
            return
        if item.owners or item.deleting:
            self.queue.add(item.uid)
        if item.deleting and (before is None or not before.deleting or before.finalizers != item.finalizers):
            for dependent in self.graph.dependents_of(item.uid):
                self.queue.add(dependent.uid)
        if before is not None and before.owners != item.owners:
            self._wake_owners(before)
        if item.deleting:
            self._wake_owners(item)

    def _vanished(self, item: Item) -> None:
        self.graph.vanish(item.uid)
        for dependent in self.graph.dependents_of(item.uid):
            self._absent[plans.owner_key(dependent, types.OwnerReference(api_version=item.resource.api_version, kind=item.resource.kind, name=item.name, uid=item.uid))] = True
            self.queue.add(dependent.uid)
        self._wake_owners(item)
        while len(self._absent) > MAX_ABSENT:
            del self._absent[next(iter(self._absent))]

    def _wake_owners(self, item: Item) -> None:
        for owner in item.owners:
            known = self.graph.items.get(owner.uid)
            if known is not None and known.deleting:
                self.queue.add(owner.uid)

    async def reconcile(self, key: str) -> None:
        item = self.graph.items.get(key)
        if item is None:
            return
        match plans.plan_item(item, self.graph, self._absent):
            case plans.Ask(owners):
                for owner in owners:
                    self._absent[plans.owner_key(item, owner)] = await self._is_absent(item, owner)
                await self.reconcile(key)
            case plans.Delete(policy):
                await self._delete(item, policy)
            case plans.DropOwners(uids):
                await self._drop_owners(item, uids)
            case plans.Visit(dependents, orphan):
                await self._visit(item, dependents, orphan)
            case plans.Release(finalizer):
                await self._release(item, finalizer)

    async def _is_absent(self, item: Item, owner: types.OwnerReference) -> bool:
        """By the API server's word. A kind that is not served counts as present: better to keep too much."""
        resource = kinds.for_kind(owner.api_version, owner.kind)
        if resource is None:
            self.log.warning("%s: its owner's kind %s %s is not known here; kept", item.text, owner.api_version, owner.kind)
            return False
        if resource.namespaced and not item.namespace:
            self.log.warning("%s: a cluster-scoped object cannot be owned by the namespaced %s %s; kept", item.text, owner.kind, owner.name)
            return False
        try:
            found = await self.client.get(resource, owner.name, item.namespace if resource.namespaced else "")
        except errors.NotFound:
            return True
        return found["metadata"]["uid"] != owner.uid

    async def _delete(self, item: Item, policy: str) -> None:
        options = {"preconditions": {"uid": item.uid}, "propagationPolicy": policy}
        try:
            await self.client.delete(item.resource, item.name, item.namespace, options)
        except errors.NotFound:
            return
        self.log.info("%s: deleted (%s), its owners are gone", item.text, policy.lower())

    async def _drop_owners(self, item: Item, uids: frozenset[str]) -> None:
        current = await self._current(item)
        if current is None:
            return
        meta = current["metadata"]
        left = [o for o in meta.get("ownerReferences") or [] if o["uid"] not in uids]
        if len(left) != len(meta.get("ownerReferences") or []):
            patch = {"metadata": {"resourceVersion": meta["resourceVersion"], "uid": item.uid, "ownerReferences": left or None}}
            await self.client.patch(item.resource, item.name, patch, item.namespace)

    async def _visit(self, owner: Item, dependents: tuple[Item, ...], orphan: bool) -> None:
        for dependent in dependents:
            if orphan:
                await self._drop_owners(dependent, frozenset({owner.uid}))
                continue
            others = [o for o in dependent.owners if o.uid != owner.uid and o.uid in self.graph.items]
            if others:
                await self._drop_owners(dependent, frozenset({owner.uid}))
            else:
                await self._delete(dependent, "Foreground" if self.graph.dependents_of(dependent.uid) else "Background")

    async def _release(self, item: Item, finalizer: str) -> None:
        current = await self._current(item)
        if current is None:
            return
        meta = current["metadata"]
        left = [f for f in meta.get("finalizers") or [] if f != finalizer]
        if left != (meta.get("finalizers") or []):
            patch = {"metadata": {"resourceVersion": meta["resourceVersion"], "uid": item.uid, "finalizers": left or None}}
            await self.client.patch(item.resource, item.name, patch, item.namespace)
            self.log.info("%s: finalizer %s taken off", item.text, finalizer)

    async def _current(self, item: Item) -> dict[str, Any] | None:
        try:
            current = await self.client.get(item.resource, item.name, item.namespace)
        except errors.NotFound:
            return None
        return current if current["metadata"]["uid"] == item.uid else None


def _uid(obj: Any) -> str:
    return obj["metadata"]["uid"] if isinstance(obj, dict) else obj.metadata.uid
