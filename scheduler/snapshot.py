"""The scheduler's picture of the cluster: every node's free amounts, kept up to date change by change, with the pods it has assumed to be bound already.

Invariants: a pod (by uid) counts on at most one node; a node's free amounts are its allocatable minus the sum of what counts on it; every schedulable node stands in
exactly one bucket of one group. No I/O, clock or randomness. The loop changes it, decide only reads.

The index: nodes alike in size, taints and unschedulable form a Group; inside it they stand in buckets by their LeastAllocated score before the new pod. Placing one
pod lowers the score of all nodes of a group by the same amount, so the best node of a group is the first one that fits, from the highest bucket down, and a decision
looks at a few nodes per group instead of all.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from apiserver.api import quantities, types
from scheduler.filters import HARD_EFFECTS
from scheduler.requests import NATIVE, HostPort, PodRequest

__all__ = ["BUCKETS", "Group", "NodeInfo", "Snapshot"]

BUCKETS = 400
"""Steps of the index: four per point of Kubernetes' 0–100 score."""
GroupKey = tuple[int, int, bool, tuple[tuple[str, str, str], ...]]


class NodeInfo:
    """One node. `known` False: pods are bound to it, but the Node itself was never seen or is gone."""

    __slots__ = (
        "bucket", "cpu_milli", "ephemeral_bytes", "extended", "free_cpu_milli", "free_ephemeral_bytes", "free_extended", "free_memory_bytes", "free_pods", "group", "group_key", "known",
        "labels", "max_pods", "memory_bytes", "name", "place", "pods", "ports", "taints", "unschedulable", "weight_cpu_milli", "weight_memory_bytes",
    )  # fmt: skip

    def __init__(self, name: str) -> None:
        self.name, self.known, self.unschedulable = name, False, False
        self.labels: dict[str, str] = {}
        self.taints: tuple[types.Taint, ...] = ()
        self.cpu_milli = self.memory_bytes = self.ephemeral_bytes = self.max_pods = 0
        self.extended: dict[str, int] = {}
        self.free_cpu_milli = self.free_memory_bytes = self.free_ephemeral_bytes = self.free_pods = 0
        self.free_extended: dict[str, int] = {}
        self.weight_cpu_milli = self.weight_memory_bytes = 0
        self.ports: dict[HostPort, int] = {}
        self.pods: dict[str, PodRequest] = {}
        self.group: Group | None = None
        self.group_key: GroupKey = (0, 0, False, ())
        self.bucket = self.place = 0

    def rules(self) -> tuple[object, ...]:
        """What a Node's change can alter for pods."""
        return (self.cpu_milli, self.memory_bytes, self.ephemeral_bytes, self.max_pods, self.extended, self.labels, self.taints, self.unschedulable, self.known)

    @property
    def used_pods(self) -> int:
        return self.max_pods - self.free_pods

    def set_allocatable(self, allocatable: types.Quantities) -> None:
        old = (self.cpu_milli, self.memory_bytes, self.ephemeral_bytes, self.max_pods)
        self.cpu_milli = quantities.milli(allocatable.get("cpu", 0))
        self.memory_bytes = quantities.bytes_(allocatable.get("memory", 0))
        self.ephemeral_bytes = quantities.bytes_(allocatable.get("ephemeral-storage", 0))
        self.max_pods = quantities.bytes_(allocatable.get("pods", 0))
        extended = {k: quantities.bytes_(v) for k, v in allocatable.items() if k not in NATIVE}
        self.free_cpu_milli += self.cpu_milli - old[0]
        self.free_memory_bytes += self.memory_bytes - old[1]
        self.free_ephemeral_bytes += self.ephemeral_bytes - old[2]
        self.free_pods += self.max_pods - old[3]
        for name in {*extended, *self.extended}:
            self.free_extended[name] = self.free_extended.get(name, 0) + extended.get(name, 0) - self.extended.get(name, 0)
        self.extended = extended

    def count(self, pod: PodRequest, sign: int) -> None:
        """Takes a pod's amounts away (sign 1) or gives them back (-1)."""
        amounts = pod.amounts
        self.free_pods -= sign
        self.free_cpu_milli -= sign * amounts.cpu_milli
        self.free_memory_bytes -= sign * amounts.memory_bytes
        self.free_ephemeral_bytes -= sign * amounts.ephemeral_bytes
        self.weight_cpu_milli += sign * pod.weight_cpu_milli
        self.weight_memory_bytes += sign * pod.weight_memory_bytes
        for name, n in amounts.extended:
            self.free_extended[name] = self.free_extended.get(name, 0) - sign * n
        for port in pod.ports:
            left = self.ports.get(port, 0) + sign
            if left:
                self.ports[port] = left
            else:
                del self.ports[port]

    def fractions(self, cpu_milli: int = 0, memory_bytes: int = 0) -> tuple[float, float]:
        """Used cpu and memory, 0–1, with so much more on the node."""
        cpu = (self.weight_cpu_milli + cpu_milli) / self.cpu_milli if self.cpu_milli else 1.0
        memory = (self.weight_memory_bytes + memory_bytes) / self.memory_bytes if self.memory_bytes else 1.0
        return min(cpu, 1.0), min(memory, 1.0)


class Group:
    """Nodes alike. `full` holds those without room for one more pod: they are never looked at."""

    __slots__ = ("buckets", "full", "mask", "taints", "unschedulable")

    def __init__(self, unschedulable: bool, taints: tuple[types.Taint, ...]) -> None:
        self.unschedulable, self.taints = unschedulable, taints
        self.buckets: list[list[NodeInfo]] = [[] for _ in range(BUCKETS + 1)]
        self.full: set[str] = set()
        self.mask = 0

    def insert(self, node: NodeInfo) -> None:
        if node.free_pods < 1:
            self.full.add(node.name)
            node.bucket = -1
            return
        cpu, memory = node.fractions()
        node.bucket = int((2.0 - cpu - memory) / 2 * BUCKETS)
        bucket = self.buckets[node.bucket]
        node.place = len(bucket)
        bucket.append(node)
        self.mask |= 1 << node.bucket

    def remove(self, node: NodeInfo) -> None:
        if node.bucket < 0:
            self.full.discard(node.name)
            return
        bucket = self.buckets[node.bucket]
        last = bucket.pop()
        if last is not node:
            bucket[node.place] = last
            last.place = node.place
        if not bucket:
            self.mask &= ~(1 << node.bucket)


class Snapshot:
    """`generation` grows with every change that could make room or lift a rule: a refusal stays true while it stands still."""

    def __init__(self) -> None:
        self.nodes: dict[str, NodeInfo] = {}
        self.groups: dict[GroupKey, Group] = {}
        self.labels: dict[tuple[str, str], set[str]] = {}
        self.homes: dict[str, str] = {}
        self.known = 0
        self.generation = 0

    def set_node(self, node: types.Node) -> None:
        """A Node as it is now. Raises BadRequest for an allocatable quantity that is none; the former state then stands."""
        allocatable = node.status.allocatable or node.status.capacity
        for quantity in allocatable.values():
            quantities.parse(quantity)
        name = node.metadata.name
        info = self.nodes.get(name)
        if info is None:
            info = self.nodes[name] = NodeInfo(name)
        before = info.rules()
        self._detach(info)
        info.set_allocatable(allocatable)
        info.labels, info.unschedulable = dict(node.metadata.labels), node.spec.unschedulable
        info.taints = tuple(sorted(node.spec.taints, key=lambda t: (t.key, t.effect, t.value)))
        self._attach(info)
        self.generation += info.rules() != before

    def remove_node(self, name: str) -> None:
        """Its pods go on counting, should the node come back."""
        info = self.nodes.get(name)
        if info is None or not info.known:
            return
        self._detach(info)
        info.set_allocatable({})
        if not info.pods:
            del self.nodes[name]

    def place(self, pod: PodRequest, node_name: str) -> None:
        """The pod counts on that node from now on (bound, or assumed to be), and nowhere else."""
        if self.homes.get(pod.uid) == node_name:
            counted = self.nodes[node_name].pods[pod.uid]
            if (counted.amounts, counted.ports) == (pod.amounts, pod.ports):
                return
        self.remove_pod(pod.uid)
        info = self.nodes.get(node_name)
        if info is None:
            info = self.nodes[node_name] = NodeInfo(node_name)
        if info.group is not None:
            info.group.remove(info)
        info.pods[pod.uid] = pod
        info.count(pod, 1)
        self.homes[pod.uid] = node_name
        if info.group is not None:
            info.group.insert(info)

    def remove_pod(self, uid: str) -> None:
        name = self.homes.pop(uid, None)
        if name is None:
            return
        info = self.nodes[name]
        if info.group is not None:
            info.group.remove(info)
        info.count(info.pods.pop(uid), -1)
        self.generation += 1
        if info.group is not None:
            info.group.insert(info)
        elif not info.pods:
            del self.nodes[name]

    def known_nodes(self) -> Iterable[NodeInfo]:
        return (info for info in self.nodes.values() if info.known)

    def with_labels(self, wanted: tuple[tuple[str, str], ...]) -> set[str] | None:
        """Names of the nodes that carry the rarest of these labels; None: no label wanted."""
        sets = [self.labels.get(pair, set()) for pair in wanted]
        return min(sets, key=len) if sets else None

    def _attach(self, info: NodeInfo) -> None:
        info.known = True
        self.known += 1
        info.group_key = _group_key(info)
        group = self.groups.get(info.group_key)
        if group is None:
            group = self.groups[info.group_key] = Group(info.unschedulable, info.taints)
        info.group = group
        group.insert(info)
        for pair in info.labels.items():
            self.labels.setdefault(pair, set()).add(info.name)

    def _detach(self, info: NodeInfo) -> None:
        if info.group is None:
            return
        info.known = False
        self.known -= 1
        info.group.remove(info)
        if not info.group.mask and not info.group.full:
            del self.groups[info.group_key]
        info.group = None
        for pair in info.labels.items():
            names = self.labels[pair]
            names.discard(info.name)
            if not names:
                del self.labels[pair]


def _group_key(info: NodeInfo) -> GroupKey:
    """Memory counts in steps of a sixteenth of a doubling: machines of one kind differ by a few pages."""
    size = round(math.log2(info.memory_bytes) * 16) if info.memory_bytes > 0 else -1
    return info.cpu_milli, size, info.unschedulable, tuple((t.key, t.value, t.effect) for t in info.taints if t.effect in (*HARD_EFFECTS, "PreferNoSchedule"))
