"""Deletes the pods that plan_podgc names, every pod_gc_period_s and soon after a node vanished. One key: the whole cluster."""

from __future__ import annotations

from apiserver.api import errors, kinds, timestamps, types
from apiserver.controllers.loop import Context, Controller
from apiserver.controllers.plan_podgc import Removal, plan_removals

__all__ = ["PodGC"]

ALL = "all"


class PodGC(Controller):
    name = "podgc"

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.nodes = self.watch(kinds.NODES, types.Node)
        self.pods = self.watch(kinds.PODS, types.Pod)
        self._missing_since: dict[str, float] = {}
        self.pods.add_handler(self._on_pod)
        self.nodes.add_handler(self._on_node)
        self.queue.add(ALL)

    def _on_node(self, old: types.Node | None, new: types.Node | None) -> None:
        if new is None:
            self.queue.add(ALL)

    def _on_pod(self, old: types.Pod | None, new: types.Pod | None) -> None:
        if new is not None and new.metadata.deletion_timestamp and not new.spec.node_name:
            self.queue.add(ALL)

    async def reconcile(self, key: str) -> None:
        now = self.config.clock()
        homes = {p.spec.node_name for p in self.pods.store.values() if p.spec.node_name}
        self._missing_since = {node: self._missing_since.get(node, now) for node in homes if node not in self.nodes.store}
        pods, quarantine_s = self.pods.store.values(), self.config.pod_gc_quarantine_s
        for removal in plan_removals(
            pods, self.nodes.store, self._missing_since, now=now, quarantine_s=quarantine_s, terminated_kept=self.config.terminated_pods_kept
        ):
            await self._remove(removal)
        waits = [since + self.config.pod_gc_quarantine_s - now for since in self._missing_since.values()]
        self.queue.add_after(key, min([self.config.pod_gc_period_s, *(w for w in waits if w > 0)]))

    async def _remove(self, removal: Removal) -> None:
        pod = removal.pod
        if removal.check_node and await self._node_exists(pod.spec.node_name):
            return
        meta = pod.metadata
        try:
            if removal.check_node and pod.status.phase not in ("Succeeded", "Failed"):
                await self._fail(pod)
            await self.client.delete(kinds.PODS, meta.name, meta.namespace, {"gracePeriodSeconds": 0, "preconditions": {"uid": meta.uid}})
        except (errors.NotFound, errors.Conflict):
            return
        self.log.info("%s: deleted, because %s", meta.key, removal.reason)

    async def _node_exists(self, name: str) -> bool:
        try:
            await self.client.get(kinds.NODES, name)
        except errors.NotFound:
            return False
        return True

    async def _fail(self, pod: types.Pod) -> None:
        """So that whoever owns the pod sees a failure, and why, before it is gone."""
        condition = {
            "type": "DisruptionTarget", "status": "True", "reason": "DeletionByPodGC", "message": "PodGC: node no longer exists",
            "lastTransitionTime": timestamps.format_time(self.config.now()), "lastProbeTime": None,
        }  # fmt: skip
        patch = {"metadata": {"uid": pod.metadata.uid}, "status": {"phase": "Failed", "conditions": [condition]}}
        await self.client.patch(kinds.PODS, pod.metadata.name, patch, pod.metadata.namespace, type="strategic", subresource="status")
