"""On which node a pod goes. Pure: a request, a snapshot and a random generator in, a Decision out; the same three give the same answer.

Only nodes that pass every filter are chosen. Among them: fewest untolerated PreferNoSchedule taints, most weight of preferred node affinity, then Kubernetes'
LeastAllocated score (0–100), then the better balance of cpu and memory, then chance. Which nodes are compared: all of them for a pod that a selector narrows to
few or that has preferences; otherwise, per group of like nodes (snapshot.Group), up to SAMPLE fitting ones from the highest bucket of the index that has any: exact by
score within a quarter of a point, sampled among equals. Called by the loop; explain.py says why not.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass

from scheduler.filters import admits, fits, matches_node, matches_term, ports_free, untolerated
from scheduler.requests import PodRequest
from scheduler.snapshot import Group, NodeInfo, Snapshot

__all__ = ["Decision", "decide", "score"]

SAMPLE = 8
FEW = 256
Rank = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Decision:
    """`node` "" = it fits nowhere. `looked_at` nodes were examined, `rank` is the winner's (for logs and tests)."""

    node: str
    looked_at: int = 0
    rank: Rank = (0, 0, 0, 0)


def score(node: NodeInfo, request: PodRequest) -> tuple[int, int]:
    """(LeastAllocated, balance), both 0–100, with the pod on the node. LeastAllocated is the mean of the free shares of cpu and memory, each in whole points."""
    cpu, memory = node.fractions(request.weight_cpu_milli, request.weight_memory_bytes)
    return (int(100 * (1 - cpu)) + int(100 * (1 - memory))) // 2, int(100 * (1 - abs(cpu - memory) / 2))


class _Best:
    """Keeps the highest rank; among equals each candidate with the same chance."""

    __slots__ = ("equals", "node", "rank", "rng")

    def __init__(self, rng: random.Random) -> None:
        self.node: NodeInfo | None = None
        self.rank: Rank = (0, 0, 0, 0)
        self.rng, self.equals = rng, 0

    def offer(self, node: NodeInfo, rank: Rank) -> None:
        if self.node is None or rank > self.rank:
            self.node, self.rank, self.equals = node, rank, 1
        elif rank == self.rank:
            self.equals += 1
            if self.rng.random() * self.equals < 1:
                self.node = node


def decide(request: PodRequest, snapshot: Snapshot, rng: random.Random) -> Decision:
    best = _Best(rng)
    narrowed = snapshot.with_labels(request.node_selector)
    if request.preferred:
        looked_at = _compare_all(request, _sorted(snapshot, snapshot.nodes if narrowed is None else narrowed), best)
    elif narrowed is not None and len(narrowed) <= FEW:
        looked_at = _compare_all(request, _sorted(snapshot, narrowed), best)
    else:
        looked_at = sum(_compare_group(request, group, best) for group in snapshot.groups.values() if admits(group.unschedulable, group.taints, request.tolerations))
    return Decision(best.node.name if best.node else "", looked_at, best.rank)


def _sorted(snapshot: Snapshot, names: Iterable[str]) -> list[NodeInfo]:
    return [info for name in sorted(names) if (info := snapshot.nodes[name]).known]


def _compare_all(request: PodRequest, nodes: list[NodeInfo], best: _Best) -> int:
    for node in nodes:
        if admits(node.unschedulable, node.taints, request.tolerations) and fits(node, request) and _rest_passes(node, request):
            avoided = _avoided(node.taints, request)
            best.offer(node, (-avoided, _preference(node, request), *score(node, request)))
    return len(nodes)


def _compare_group(request: PodRequest, group: Group, best: _Best) -> int:
    """From the highest bucket down to the first with a fitting node; starts inside a bucket at random, so that equals share the load."""
    looked_at, mask = 0, group.mask
    rank_head = (-_avoided(group.taints, request), 0)
    simple = not (request.node_selector or request.required or request.ports)
    while mask:
        top = mask.bit_length() - 1
        mask ^= 1 << top
        bucket = group.buckets[top]
        found, start = 0, int(best.rng.random() * len(bucket))
        for at in range(len(bucket)):
            node = bucket[at + start - len(bucket)]
            looked_at += 1
            if fits(node, request) and (simple or _rest_passes(node, request)):
                best.offer(node, (*rank_head, *score(node, request)))
                found += 1
                if found >= SAMPLE:
                    break
        if found:
            break
    return looked_at


def _rest_passes(node: NodeInfo, request: PodRequest) -> bool:
    return matches_node(request, node.labels, node.name) and (not request.ports or ports_free(request.ports, node.ports))


def _avoided(taints: Iterable[object], request: PodRequest) -> int:
    return sum(untolerated((t,), request.tolerations, ("PreferNoSchedule",)) is not None for t in taints)  # type: ignore[arg-type]


def _preference(node: NodeInfo, request: PodRequest) -> int:
    return sum(weight for weight, term in request.preferred if matches_term(term, node.labels, node.name))
