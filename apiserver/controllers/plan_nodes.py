"""What a node's silence or illness means: its conditions, its taints, and when its pods must go. Pure; all times are given.

Conditions, taints, reasons and texts are Kubernetes' node lifecycle controller's. Called by nodelifecycle.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from apiserver.api import errors, timestamps, types

__all__ = ["NodePlan", "eviction_due", "is_ready", "plan_node", "plan_pod_not_ready"]

Obj = dict[str, Any]
NOT_READY = "node.kubernetes.io/not-ready"
UNREACHABLE = "node.kubernetes.io/unreachable"
UNSCHEDULABLE = "node.kubernetes.io/unschedulable"
PRESSURES = {
    "MemoryPressure": "node.kubernetes.io/memory-pressure", "DiskPressure": "node.kubernetes.io/disk-pressure",
    "PIDPressure": "node.kubernetes.io/pid-pressure", "NetworkUnavailable": "node.kubernetes.io/network-unavailable",
}  # fmt: skip
WATCHED = ("Ready", "MemoryPressure", "DiskPressure", "PIDPressure")
OURS = {NOT_READY, UNREACHABLE, UNSCHEDULABLE, *PRESSURES.values()}


@dataclass(frozen=True)
class NodePlan:
    """`conditions` to patch into status (only changed ones), `taints` the whole new list; None where nothing changes."""

    conditions: list[Obj] | None
    taints: list[Obj] | None


def is_ready(node: types.Node) -> bool:
    return any(c.type == "Ready" and c.status == "True" for c in node.status.conditions)


def plan_node(node: types.Node, silent_s: float, grace_s: float, now: float) -> NodePlan:
    """`silent_s`: how long neither the Lease nor the status of the node has been seen to change. `now` Unix seconds."""
    conditions = {c.type: c.status for c in node.status.conditions}
    changed: list[Obj] = []
    if silent_s > grace_s:
        changed = [_unknown(kind, node, timestamps.format_time(now)) for kind in WATCHED if conditions.get(kind) != "Unknown"]
        conditions |= {c["type"]: "Unknown" for c in changed}
    taints = _plan_taints(node, conditions, timestamps.format_time(now))
    return NodePlan(changed or None, taints)


def _unknown(kind: str, node: types.Node, now: str) -> Obj:
    known = any(c.type == kind for c in node.status.conditions)
    return {
        "type": kind, "status": "Unknown", "lastTransitionTime": now,
        "reason": "NodeStatusUnknown" if known else "NodeStatusNeverUpdated",
        "message": "Kubelet stopped posting node status." if known else "Kubelet never posted node status.",
    }  # fmt: skip


def _plan_taints(node: types.Node, conditions: dict[str, str], now: str) -> list[Obj] | None:
    wanted: list[tuple[str, str]] = []
    ready = conditions.get("Ready")
    if ready != "True":  # also a node that has not said anything yet
        key = UNREACHABLE if ready == "Unknown" else NOT_READY
        wanted += [(key, "NoSchedule"), (key, "NoExecute")]
    wanted += [(key, "NoSchedule") for kind, key in PRESSURES.items() if conditions.get(kind) == "True"]
    if node.spec.unschedulable:
        wanted.append((UNSCHEDULABLE, "NoSchedule"))
    have = {(t.key, t.effect) for t in node.spec.taints}
    if {pair for pair in have if pair[0] in OURS} == set(wanted):
        return None
    kept = [_taint(t) for t in node.spec.taints if t.key not in OURS or (t.key, t.effect) in wanted]
    added = [{"key": key, "effect": effect, "timeAdded": now} for key, effect in wanted if (key, effect) not in have]
    return kept + added


def _taint(taint: types.Taint) -> Obj:
    full = {"key": taint.key, "value": taint.value, "effect": taint.effect, "timeAdded": taint.time_added}
    return {k: v for k, v in full.items() if v}


def eviction_due(taints: Iterable[types.Taint], tolerations: Sequence[types.Toleration], now: float) -> float | None:
    """When (Unix seconds) a pod must leave a node with these taints; None = it may stay. A taint without timeAdded counts from `now`."""
    due: float | None = None
    for taint in taints:
        if taint.effect != "NoExecute":
            continue
        matching = [t for t in tolerations if _tolerates(t, taint)]
        if not matching:
            return now
        limits = [t.toleration_seconds for t in matching if t.toleration_seconds is not None]
        if limits:
            at = _since(taint, now) + max(min(limits), 0)
            due = at if due is None else min(due, at)
    return due


def _since(taint: types.Taint, now: float) -> float:
    try:
        return timestamps.parse(taint.time_added) if taint.time_added else now
    except errors.BadRequest:
        return now


def _tolerates(toleration: types.Toleration, taint: types.Taint) -> bool:
    if (toleration.effect and toleration.effect != taint.effect) or (toleration.key and toleration.key != taint.key):
        return False
    if toleration.operator == "Exists":
        return True
    return bool(toleration.key) and toleration.value == taint.value


def plan_pod_not_ready(pod: types.Pod, now: float) -> Obj | None:
    """The Ready=False condition for a pod whose node is silent: nobody else can say so. None where it is not ready anyway."""
    if any(c.type == "Ready" and c.status == "True" for c in pod.status.conditions):
        return {
            "type": "Ready", "status": "False", "reason": "NodeNotReady", "message": "Node is not ready",
            "lastTransitionTime": timestamps.format_time(now), "lastProbeTime": None,
        }  # fmt: skip
    return None
