"""Pods: born Pending with a QoS class, bound once, ended with grace. Owns what is particular to pods in create, update, status and delete; binding, eviction and
ephemeral containers are in registry.podresources.
"""

from __future__ import annotations

from collections.abc import Iterator

from apiserver.api import quantities
from apiserver.registry.context import Object, RequestContext
from apiserver.registry.strategies import strategy

_QOS_RESOURCES = ("cpu", "memory")


class PodStrategy(strategy.Strategy):
    def prepare_create(self, ctx: RequestContext, obj: Object, now: float) -> None:
        super().prepare_create(ctx, obj, now)
        obj["status"] = {"phase": "Pending"}

    def complete_create(self, obj: Object) -> None:
        obj["status"]["qosClass"] = qos_class(obj["spec"])

    def prepare_update(self, new: Object, old: Object) -> None:
        super().prepare_update(new, old)
        spec, before = new.get("spec"), old["spec"]
        if isinstance(spec, dict) and before.get("ephemeralContainers"):
            spec["ephemeralContainers"] = before["ephemeralContainers"]
        elif isinstance(spec, dict):
            spec.pop("ephemeralContainers", None)

    def prepare_status(self, new: Object, old: Object) -> Object:
        result = super().prepare_status(new, old)
        qos = old.get("status", {}).get("qosClass")
        if qos:
            result["status"] = {**result["status"], "qosClass": qos}
        return result

    def grace_period(self, obj: Object, asked: int | None) -> int | None:
        """The period asked for, else the pod's own; nothing to wait for where no node has it or it has ended already. Negative counts as 1 (as in Kubernetes)."""
        if not obj["spec"].get("nodeName") or obj.get("status", {}).get("phase") in {"Succeeded", "Failed"}:
            return 0
        period = obj["spec"].get("terminationGracePeriodSeconds", 0) if asked is None else asked
        return 1 if period < 0 else period


def qos_class(spec: Object) -> str:
    """Guaranteed, Burstable or BestEffort from the requests and limits of cpu and memory (kubernetes.io/docs/concepts/workloads/pods/pod-qos). Raises ValueError
    on a malformed quantity."""
    any_set, guaranteed = False, True
    for resources in _resources(spec):
        requests, limits = resources.get("requests") or {}, resources.get("limits") or {}
        for name in _QOS_RESOURCES:
            request, limit = _amount(requests.get(name)), _amount(limits.get(name))
            any_set = any_set or bool(request or limit)
            guaranteed = guaranteed and bool(limit) and (request == limit or name not in requests)
    if not any_set:
        return "BestEffort"
    return "Guaranteed" if guaranteed else "Burstable"


def _resources(spec: Object) -> Iterator[Object]:
    if spec.get("resources"):
        yield spec["resources"]
        return
    for field in ("containers", "initContainers"):
        for container in spec.get(field) or ():
            yield container.get("resources") or {}


def _amount(quantity: object) -> object:
    """The quantity as a number, 0 where absent."""
    return 0 if quantity is None else quantities.parse(str(quantity))
