"""Watches nodes' heartbeats (Leases and status), marks silent ones, taints ill ones, and sends pods away when their toleration runs out. Keys are node names.

Time is measured by when a heartbeat was seen here, never by the node's own clock. Where no node at all is ready, nobody is sent away: then it is us who cannot see.
"""

from __future__ import annotations

from apiserver.api import errors, kinds, types
from apiserver.controllers import plan_nodes as plans
from apiserver.controllers.loop import Context, Controller

__all__ = ["NodeLifecycle"]

LEASE_NAMESPACE = "kube-node-lease"


class NodeLifecycle(Controller):
    name = "nodelifecycle"

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._heard: dict[str, float] = {}
        self._status: dict[str, tuple[str, ...]] = {}
        self._pods: dict[str, set[str]] = {}
        self.nodes = self.watch(kinds.NODES, types.Node)
        self.pods = self.watch(kinds.PODS, types.Pod)
        self.leases = self.watch(kinds.LEASES, types.Lease)
        self.nodes.add_handler(self._on_node)
        self.pods.add_handler(self._on_pod)
        self.leases.add_handler(self._on_lease)

    def _on_node(self, old: types.Node | None, new: types.Node | None) -> None:
        if new is None:
            assert old is not None
            self._heard.pop(old.metadata.name, None)
            self._status.pop(old.metadata.name, None)
            return
        name = new.metadata.name
        beats = tuple(c.last_heartbeat_time for c in new.status.conditions if c.last_heartbeat_time and c.status != "Unknown")
        if self._status.get(name) != beats:
            self._status[name] = beats
            self._heard[name] = self.config.clock()
        self.queue.add(name)

    def _on_lease(self, old: types.Lease | None, new: types.Lease | None) -> None:
        if new is not None and new.metadata.namespace == LEASE_NAMESPACE and (old is None or old.spec.renew_time != new.spec.renew_time):
            self._heard[new.metadata.name] = self.config.clock()

    def _on_pod(self, old: types.Pod | None, new: types.Pod | None) -> None:
        if old is not None and old.spec.node_name and (new is None or new.spec.node_name != old.spec.node_name):
            self._pods.get(old.spec.node_name, set()).discard(old.metadata.key)
        if new is not None and new.spec.node_name:
            self._pods.setdefault(new.spec.node_name, set()).add(new.metadata.key)
            node = self.nodes.store.get(new.spec.node_name)
            if (old is None or not old.spec.node_name) and node is not None and any(t.effect == "NoExecute" for t in node.spec.taints):
                self.queue.add(new.spec.node_name)

    async def reconcile(self, key: str) -> None:
        node = self.nodes.store.get(key)
        if node is None:
            return
        now, silent_s = self.config.now(), self.config.clock() - self._heard.setdefault(key, self.config.clock())
        plan = plans.plan_node(node, silent_s, self.config.node_grace_s, now)
        try:
            if plan.conditions is not None:
                self.log.warning("%s: no heartbeat for %.0f s: Ready is Unknown", key, silent_s)
                await self.client.patch(kinds.NODES, key, {"status": {"conditions": plan.conditions}}, type="strategic", subresource="status")
                self.context.recorder.event(kinds.NODES, node, "Normal", "NodeNotReady", f"Node {key} status is now: NodeNotReady")
            if plan.taints is not None:
                patch = {"metadata": {"resourceVersion": node.metadata.resource_version} if plan.conditions is None else {}, "spec": {"taints": plan.taints}}
                await self.client.patch(kinds.NODES, key, patch)
                self.log.info("%s: taints are now %s", key, ", ".join(f"{t['key']}:{t['effect']}" for t in plan.taints) or "none")
        except errors.NotFound:
            return
        ready = plans.is_ready(node) and plan.conditions is None
        if not ready:
            await self._mark_pods(key, now)
        next_s = self.config.node_grace_s + 0.1 - silent_s if silent_s <= self.config.node_grace_s else self.config.node_grace_s
        due = await self._evict(node, now)
        self.queue.add_after(key, min(max(next_s, 0.1), due - now if due is not None else next_s))

    def _pods_on(self, node: str) -> list[types.Pod]:
        pods = (self.pods.store.get(key) for key in sorted(self._pods.get(node, ())))
        return [pod for pod in pods if pod is not None]

    async def _mark_pods(self, node: str, now: float) -> None:
        for pod in self._pods_on(node):
            condition = plans.plan_pod_not_ready(pod, now)
            if condition is None:
                continue
            try:
                patch = {"metadata": {"uid": pod.metadata.uid}, "status": {"conditions": [condition]}}
                await self.client.patch(kinds.PODS, pod.metadata.name, patch, pod.metadata.namespace, type="strategic", subresource="status")
            except errors.NotFound:
                continue

    async def _evict(self, node: types.Node, now: float) -> float | None:
        """Deletes the pods whose time is over; when the next one's is, Unix seconds."""
        if not any(t.effect == "NoExecute" for t in node.spec.taints):
            return None
        blind = not any(plans.is_ready(n) for n in self.nodes.store.values())
        taints = [t for t in node.spec.taints if not (blind and t.key in (plans.NOT_READY, plans.UNREACHABLE))]
        upcoming: list[float] = []
        for pod in self._pods_on(node.metadata.name):
            due = plans.eviction_due(taints, pod.spec.tolerations, now)
            if due is None or pod.metadata.deletion_timestamp or pod.status.phase in ("Succeeded", "Failed"):
                continue
            if due > now:
                upcoming.append(due)
                continue
            try:
                await self.client.delete(kinds.PODS, pod.metadata.name, pod.metadata.namespace, {"preconditions": {"uid": pod.metadata.uid}})
            except (errors.NotFound, errors.Conflict):
                continue
            self.log.info("%s: evicted from %s by its taints", pod.metadata.key, node.metadata.name)
            self.context.recorder.event(kinds.PODS, pod, "Normal", "TaintManagerEviction", f"Marking for deletion Pod {pod.metadata.key}")
        return min(upcoming, default=None)
