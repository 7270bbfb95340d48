"""Gives every Node without spec.podCIDR its block. One worker, and the API server claims each block in the store: no two nodes ever share one. Keys are node names."""

from __future__ import annotations

from apiserver.api import errors, kinds, types
from apiserver.controllers.loop import Context, Controller
from apiserver.controllers.plan_ipam import Exhausted, plan_pod_cidr

__all__ = ["NodeIpam"]


class NodeIpam(Controller):
    """`_given` are blocks handed out (or refused by the API server as taken) that the informer does not show yet, by node."""

    name = "nodeipam"

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.nodes = self.watch(kinds.NODES, types.Node)
        self._given: dict[str, str] = {}
        self._refused: set[str] = set()
        self.nodes.add_handler(self._on_node)

    def _on_node(self, old: types.Node | None, new: types.Node | None) -> None:
        if new is None:
            assert old is not None
            self._given.pop(old.metadata.name, None)
            self._refused.clear()
            for node in self.nodes.store.values():
                if not node.spec.pod_cidr:
                    self.queue.add(node.metadata.name)
        elif new.spec.pod_cidr:
            self._given.pop(new.metadata.name, None)
        else:
            self.queue.add(new.metadata.name)

    async def reconcile(self, key: str) -> None:
        node = self.nodes.store.get(key)
        if node is None or node.spec.pod_cidr or key in self._given:
            return
        taken = [n.spec.pod_cidr for n in self.nodes.store.values()] + list(self._given.values()) + list(self._refused)
        try:
            cidr = plan_pod_cidr(self.config.cluster_cidr, self.config.node_cidr_mask_size, taken)
        except Exhausted as e:
            self.context.recorder.event(kinds.NODES, node, "Warning", "CIDRNotAvailable", f"Node {key} status is now: CIDRNotAvailable: {e}")
            self._refused.clear()
            raise
        self._given[key] = cidr  # before the first await: another worker must not see the block as free
        patch = {"metadata": {"uid": node.metadata.uid}, "spec": {"podCIDR": cidr, "podCIDRs": [cidr]}}
        try:
            await self.client.patch(kinds.NODES, key, patch)
        except errors.NotFound:
            self._given.pop(key, None)
        except errors.Invalid:
            self._given.pop(key, None)
            self._refused.add(cidr)
            raise
        except errors.ApiError:
            self._given.pop(key, None)
            raise
        else:
            self.log.info("%s: podCIDR %s", key, cidr)
