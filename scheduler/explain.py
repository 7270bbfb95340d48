"""Why a pod fits nowhere: Kubernetes' one-line summary, then node by node with figures. Pure; called by the loop for FailedScheduling and PodScheduled=False."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from scheduler.filters import refuse, shortages
from scheduler.requests import PodRequest
from scheduler.snapshot import Snapshot

__all__ = ["Refusal", "explain"]

MAX_NODES_NAMED = 8


@dataclass(frozen=True, slots=True)
class Refusal:
    """`summary` as Kubernetes writes it; `details` names at most MAX_NODES_NAMED nodes; `by_node` has every node's reasons."""

    summary: str
    details: str
    by_node: dict[str, tuple[str, ...]]

    @property
    def message(self) -> str:
        return f"{self.summary} {self.details}".strip()


def explain(request: PodRequest, snapshot: Snapshot) -> Refusal:
    """For a request that decide() found no node for."""
    by_node = {node.name: refuse(node, request) for node in sorted(snapshot.known_nodes(), key=lambda n: n.name)}
    if not by_node:
        return Refusal("no nodes available to schedule pods", "", {})
    counts = Counter(reason for reasons in by_node.values() for reason in reasons)
    listed = sorted(f"{count} {reason}" for reason, count in counts.items())
    summary = f"0/{len(by_node)} nodes are available: {', '.join(listed)}."
    named = [f"{name}: {_detail(snapshot, name, request, reasons)}" for name, reasons in list(by_node.items())[:MAX_NODES_NAMED]]
    if len(by_node) > MAX_NODES_NAMED:
        named.append(f"and {len(by_node) - MAX_NODES_NAMED} more nodes")
    return Refusal(summary, f"[{'; '.join(named)}]", by_node)


def _detail(snapshot: Snapshot, name: str, request: PodRequest, reasons: tuple[str, ...]) -> str:
    figures = dict(shortages(snapshot.nodes[name], request))
    return ", ".join(f"{reason} ({figures[reason]})" if reason in figures else reason.removeprefix("node(s) ") for reason in reasons)
