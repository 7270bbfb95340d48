"""Empties a terminating Namespace, resource by resource, waits for finalizers and running pods, then lets it go by /finalize. Keys are namespace names."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from typing import Any

from apiserver.api import errors, kinds, timestamps, types
from apiserver.api.kinds import Resource
from apiserver.client import requests
from apiserver.controllers import plan_namespaces as plans
from apiserver.controllers.loop import Context, Controller

__all__ = ["Namespaces"]

WAIT_S = 0.5
MAX_WAIT_S = 10.0


class Namespaces(Controller):
    name = "namespaces"

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.namespaces = self.watch(kinds.NAMESPACES)
        self.pods = self.watch(kinds.PODS, types.Pod)
        self.definitions = self.watch(kinds.CUSTOMRESOURCEDEFINITIONS)
        self._rounds: Counter[str] = Counter()
        self.namespaces.add_handler(self._on_namespace)
        self.pods.add_handler(self._on_pod)

    def _on_namespace(self, old: dict[str, Any] | None, new: dict[str, Any] | None) -> None:
        if new is not None and plans.is_terminating(new):
            self.queue.add(new["metadata"]["name"])

    def _on_pod(self, old: types.Pod | None, new: types.Pod | None) -> None:
        if new is None and old is not None and old.metadata.namespace in self._rounds:
            self.queue.add(old.metadata.namespace)

    async def reconcile(self, key: str) -> None:
        namespace = self.namespaces.store.get(key)
        if namespace is None or not plans.is_terminating(namespace):
            self._rounds.pop(key, None)
            return
        remaining = await self._delete_content(key)
        current = await self._current(key, namespace["metadata"]["uid"])
        if current is None:
            return
        conditions = plans.plan_conditions(current, remaining, timestamps.format_time(self.config.now()))
        if conditions is not None and (not remaining.done or self._rounds[key]):
            current = await self.client.patch(kinds.NAMESPACES, key, {"status": {"conditions": conditions}}, subresource="status")
        if remaining.done:
            await self.client.update(kinds.NAMESPACES, plans.finalized(current), subresource="finalize")
            self._rounds.pop(key, None)
            self.log.info("%s: empty, let go", key)
            return
        self._rounds[key] += 1
        self.log.info("%s: waiting for %s", key, dict(remaining.objects) or remaining.failures)
        self.queue.add_after(key, min(WAIT_S * 2 ** min(self._rounds[key] - 1, 8), MAX_WAIT_S))

    async def _current(self, name: str, uid: str) -> dict[str, Any] | None:
        try:
            current = await self.client.get(kinds.NAMESPACES, name)
        except errors.NotFound:
            return None
        return current if current["metadata"]["uid"] == uid else None

    async def _delete_content(self, namespace: str) -> plans.Remaining:
        """One round over every resource; what has no finalizer and no grace is gone afterwards."""
        objects: Counter[str] = Counter()
        finalizers: Counter[str] = Counter()
        failures: list[str] = []
        for resource in plans.deletable([*kinds.RESOURCES, *self._custom()]):
            try:
                for obj in await self._delete_all(resource, namespace):
                    objects[resource.group_resource] += 1
                    finalizers.update(obj["metadata"].get("finalizers") or [])
            except (errors.NotFound, errors.MethodNotAllowed):
                continue  # not served (any more)
            except errors.ApiError as e:
                failures.append(f"{resource.group_resource}: {e}")
            await asyncio.sleep(0)
        return plans.Remaining(objects, finalizers, tuple(failures))

    async def _delete_all(self, resource: Resource, namespace: str) -> list[dict[str, Any]]:
        found = (await self.client.list(resource, namespace))["items"]
        if not found:
            return []
        if any(not obj["metadata"].get("deletionTimestamp") for obj in found):
            if "deletecollection" in resource.verbs:
                await self.client.request("DELETE", requests.path_for(resource, namespace), body={"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background"})
            else:
                for obj in found:
                    await self.client.delete(resource, obj["metadata"]["name"], namespace)
        return (await self.client.list(resource, namespace))["items"]

    def _custom(self) -> list[Resource]:
        """The namespaced resources that CustomResourceDefinitions add."""
        return [resource for crd in self.definitions.store.values() if (resource := custom_resource(crd)) is not None]


def custom_resource(crd: Mapping[str, Any]) -> Resource | None:
    """How a CustomResourceDefinition's objects are reached, None where no version is served."""
    spec = crd["spec"]
    served = [v["name"] for v in spec.get("versions") or [] if v.get("served")]
    if not served:
        return None
    names = spec["names"]
    return Resource(spec["group"], served[0], names["kind"], names["plural"], names.get("singular", ""), spec.get("scope") == "Namespaced")
