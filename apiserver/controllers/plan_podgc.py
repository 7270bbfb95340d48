"""Which pods nobody will ever finish. Pure. Called by podgc."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from apiserver.api import types

__all__ = ["Removal", "plan_removals"]


@dataclass(frozen=True, slots=True)
class Removal:
    """`check_node`: the node's absence was seen here only; ask the API server before deleting."""

    pod: types.Pod
    reason: str
    check_node: bool = False


def plan_removals(
    pods: Iterable[types.Pod], nodes: Iterable[str], missing_since: Mapping[str, float], *, now: float, quarantine_s: float, terminated_kept: int
) -> list[Removal]:
    """Orphans of vanished nodes (absent for `quarantine_s`), terminating pods that never had a node, and the oldest terminated ones above `terminated_kept`."""
    known, removals = set(nodes), list[Removal]()
    terminated: list[types.Pod] = []
    for pod in pods:
        node = pod.spec.node_name
        if node and node not in known:
            if now - missing_since.get(node, now) >= quarantine_s:
                removals.append(Removal(pod, f"its node {node} is gone", True))
        elif not node and pod.metadata.deletion_timestamp:
            removals.append(Removal(pod, "it is terminating and was never scheduled"))
        elif pod.status.phase in ("Succeeded", "Failed") and not pod.metadata.deletion_timestamp:
            terminated.append(pod)
    terminated.sort(key=lambda p: (p.metadata.creation_timestamp, p.metadata.key))
    surplus = max(len(terminated) - terminated_kept, 0) if terminated_kept > 0 else 0
    return removals + [Removal(pod, f"more than {terminated_kept} terminated pods") for pod in terminated[:surplus]]
