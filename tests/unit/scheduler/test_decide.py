from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler import filters
from scheduler.decide import decide, score
from scheduler.explain import explain
from scheduler.requests import PodRequest
from scheduler.snapshot import Snapshot
from tests.unit.scheduler.make import node, request

GB = 1 << 30


def snapshot_of(*nodes) -> Snapshot:
    snapshot = Snapshot()
    for each in nodes:
        snapshot.set_node(each)
    return snapshot


def choose(snapshot: Snapshot, asked: PodRequest, seed: int = 0) -> str:
    return decide(asked, snapshot, random.Random(seed)).node


def taint(key: str, value: str = "", effect: str = "NoSchedule") -> dict:
    return {"key": key, "value": value, "effect": effect}


def affinity(*expressions: dict, fields: list | None = None) -> dict:
    term = {"matchExpressions": list(expressions), "matchFields": fields or []}
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}}


def expression(key: str, operator: str, *values: str) -> dict:
    return {"key": key, "operator": operator, "values": list(values)}


@pytest.mark.parametrize(
    ("nodes", "asked", "message"),
    [
        ([], {}, "no nodes available to schedule pods"),
        ([node("a", cpu="1")], {"cpu": "2"}, "0/1 nodes are available: 1 Insufficient cpu. [a: Insufficient cpu (asks 2, free 1 of 1)]"),
        ([node("a", cpu="1", memory="1Gi")], {"cpu": "1500m", "memory": "2Gi"},
         "0/1 nodes are available: 1 Insufficient cpu, 1 Insufficient memory. [a: Insufficient cpu (asks 1500m, free 1 of 1), Insufficient memory (asks 2048Mi, free 1024Mi of 1024Mi)]"),
        ([node("a", cpu="1"), node("b", taints=[taint("k", "v")]), node("c", taints=[taint("k", "v")])], {"cpu": "2"},
         "0/3 nodes are available: 1 Insufficient cpu, 2 node(s) had untolerated taint {k: v}. "
         "[a: Insufficient cpu (asks 2, free 1 of 1); b: had untolerated taint {k: v}; c: had untolerated taint {k: v}]"),
        ([node("a", unschedulable=True)], {}, "0/1 nodes are available: 1 node(s) were unschedulable. [a: were unschedulable]"),
        ([node("a", pods="0")], {}, "0/1 nodes are available: 1 Too many pods. [a: Too many pods (0 of 0)]"),
        ([node("a")], {"nodeSelector": {"disk": "ssd"}}, "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector. [a: didn't match Pod's node affinity/selector]"),
        ([node("a")], {"requests_": {"example.com/gpu": "1"}}, "0/1 nodes are available: 1 Insufficient example.com/gpu. [a: Insufficient example.com/gpu (asks 1, free 0 of 0)]"),
        ([node("a", taints=[taint("k", effect="NoExecute")])], {"tolerations": [{"key": "k", "operator": "Exists", "effect": "NoSchedule"}]},
         "0/1 nodes are available: 1 node(s) had untolerated taint {k: }. [a: had untolerated taint {k: }]"),
    ],
)  # fmt: skip
def test_refusals_in_kubernetes_words_and_node_by_node(nodes, asked: dict, message: str) -> None:
    snapshot = snapshot_of(*nodes)
    made = request("p", **asked)
    assert choose(snapshot, made) == ""
    assert explain(made, snapshot).message == message


def test_a_taken_host_port_refuses_the_second_pod() -> None:
    snapshot = snapshot_of(node("a"))
    first = request("p", ports=[{"containerPort": 80, "hostPort": 80}])
    snapshot.place(first, "a")
    assert choose(snapshot, request("q", ports=[{"containerPort": 80, "hostPort": 80, "hostIP": "10.0.0.1"}])) == ""
    assert choose(snapshot, request("r", ports=[{"containerPort": 80, "hostPort": 80, "protocol": "UDP"}])) == "a"
    snapshot.remove_pod(first.uid)
    assert choose(snapshot, request("q", ports=[{"containerPort": 80, "hostPort": 80}])) == "a"


@pytest.mark.parametrize(
    ("spec", "allowed"),
    [
        ({"nodeSelector": {"zone": "z1"}}, {"a"}),
        ({"affinity": affinity(expression("zone", "In", "z1", "z2"))}, {"a", "b"}),
        ({"affinity": affinity(expression("zone", "NotIn", "z1"))}, {"b", "c"}),
        ({"affinity": affinity(expression("zone", "Exists"))}, {"a", "b"}),
        ({"affinity": affinity(expression("zone", "DoesNotExist"))}, {"c"}),
        ({"affinity": affinity(expression("rank", "Gt", "1"))}, {"b"}),
        ({"affinity": affinity(expression("rank", "Lt", "2"))}, {"a"}),
        ({"affinity": affinity(fields=[expression("metadata.name", "In", "c")])}, {"c"}),
        ({"affinity": affinity()}, set()),
        ({"tolerations": [{"operator": "Exists"}]}, {"a", "b", "c", "tainted", "cordoned"}),
        ({"tolerations": [{"key": "k", "value": "v"}]}, {"a", "b", "c", "tainted"}),
        ({"tolerations": [{"key": "k", "value": "other"}]}, {"a", "b", "c"}),
    ],
)
def test_who_may_take_the_pod(spec: dict, allowed: set[str]) -> None:
    snapshot = snapshot_of(
        node("a", labels={"zone": "z1", "rank": "1"}), node("b", labels={"zone": "z2", "rank": "2"}), node("c"),
        node("tainted", taints=[taint("k", "v")]), node("cordoned", unschedulable=True),
    )  # fmt: skip
    made = request("p", **spec)
    assert {choose(snapshot, made, seed) for seed in range(60)} - {""} == allowed
    assert {name for name, reasons in explain(made, snapshot).by_node.items() if not reasons} == allowed


def test_the_emptiest_node_wins_then_the_better_balanced() -> None:
    snapshot = snapshot_of(node("a"), node("b"), node("small", cpu="2", memory="4Gi"))
    snapshot.place(request("x", cpu="1", memory="2Gi"), "a")
    assert {choose(snapshot, request("p", cpu="1", memory="2Gi"), s) for s in range(20)} == {"b"}
    snapshot = snapshot_of(node("skewed"), node("even"))
    snapshot.place(request("x", cpu="2", memory="200Mi"), "skewed")
    snapshot.place(request("y", cpu="1", memory="2248Mi"), "even")
    ranks = {n: score(snapshot.nodes[n], request("p", cpu="1", memory="1Gi")) for n in ("skewed", "even")}
    assert ranks["skewed"][0] == ranks["even"][0] and ranks["even"][1] > ranks["skewed"][1]
    assert {choose(snapshot, request("p", cpu="1", memory="1Gi"), s) for s in range(20)} == {"even"}


def test_soft_rules() -> None:
    snapshot = snapshot_of(node("a", taints=[taint("k", effect="PreferNoSchedule")]), node("b", cpu="1", memory="2Gi"))
    assert choose(snapshot, request("p", cpu="500m")) == "b"
    assert choose(snapshot, request("p", cpu="2")) == "a"
    preferred = {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 5, "preference": {"matchExpressions": [expression("x", "Exists")]}}]}}
    snapshot = snapshot_of(node("a"), node("b", cpu="1", memory="2Gi", labels={"x": "1"}))
    assert choose(snapshot, request("p", cpu="500m", affinity=preferred)) == "b"


def test_equals_share_the_load() -> None:
    snapshot = snapshot_of(*(node(f"n{i}") for i in range(20)))
    chosen = {choose(snapshot, request("p"), seed) for seed in range(400)}
    assert len(chosen) == 20


NODES = st.lists(
    st.tuples(st.integers(0, 8), st.integers(0, 8), st.integers(0, 4), st.sampled_from(["", "x", "y"]), st.sampled_from(["", "NoSchedule", "PreferNoSchedule"]), st.booleans()),
    min_size=0, max_size=6,
)  # fmt: skip
PODS = st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 4), st.sampled_from([None, "x", "y"]), st.booleans(), st.booleans()), max_size=25)


def build(nodes) -> Snapshot:
    return snapshot_of(
        *(
            node(f"n{i}", cpu=str(cpu), memory=f"{gb}Gi", pods=str(pods), labels={"l": label} if label else {}, taints=[taint("k", "v", effect)] if effect else [], unschedulable=off)
            for i, (cpu, gb, pods, label, effect, off) in enumerate(nodes)
        )
    )


def ask(n: int, cpu: int, gb: int, label: str | None, tolerant: bool, port: bool) -> PodRequest:
    fields: dict = {"nodeSelector": {"l": label}} if label else {}
    if tolerant:
        fields["tolerations"] = [{"key": "k", "operator": "Exists"}]
    if port:
        fields["ports"] = [{"containerPort": 80, "hostPort": 80}]
    return request(f"p{n}", cpu=f"{cpu}m", memory=f"{gb}Gi", **fields)


@settings(max_examples=150, deadline=None)
@given(NODES, PODS, st.integers(0, 1000), st.data())
def test_never_overcommits_is_repeatable_and_explains_every_refusal(nodes, pods, seed: int, data) -> None:
    snapshot, twin = build(nodes), build(nodes)
    rng, twin_rng = random.Random(seed), random.Random(seed)
    placed: list[PodRequest] = []
    for n, fields in enumerate(pods):
        made = ask(n, *fields)
        decision = decide(made, snapshot, rng)
        assert decision == decide(made, twin, twin_rng)
        refusal = explain(made, snapshot)
        may = {name for name, reasons in refusal.by_node.items() if not reasons}
        assert set(refusal.by_node) == {f"n{i}" for i in range(len(nodes))}
        if decision.node:
            assert decision.node in may
            for each in (snapshot, twin):
                each.place(made, decision.node)
            placed.append(made)
        else:
            assert not may, "a node that nothing speaks against was not found"
        if placed and data.draw(st.integers(0, 4)) == 0:
            gone = placed.pop(data.draw(st.integers(0, len(placed) - 1)))
            for each in (snapshot, twin):
                each.remove_pod(gone.uid)
        check(snapshot)


def check(snapshot: Snapshot) -> None:
    """The snapshot's invariants, from the pods up."""
    for info in snapshot.nodes.values():
        pods = list(info.pods.values())
        assert info.free_pods == info.max_pods - len(pods) >= 0
        assert info.free_cpu_milli == info.cpu_milli - sum(p.amounts.cpu_milli for p in pods)
        assert info.free_memory_bytes == info.memory_bytes - sum(p.amounts.memory_bytes for p in pods)
        assert info.free_cpu_milli >= 0 and info.free_memory_bytes >= 0
        assert all(n == 1 for n in info.ports.values())
        assert (info.name in info.group.full) if info.bucket < 0 else info.group.buckets[info.bucket][info.place] is info
    for group in snapshot.groups.values():
        assert group.mask == sum(1 << i for i, bucket in enumerate(group.buckets) if bucket)
    assert snapshot.homes == {uid: info.name for info in snapshot.nodes.values() for uid in info.pods}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["set", "remove", "place", "drop"]), st.integers(0, 3), st.integers(0, 5), st.integers(0, 3)), max_size=50))
def test_the_snapshot_is_the_sum_of_its_changes(steps) -> None:
    """Whatever the order of node and pod changes, what is left is what a fresh snapshot of the same state has."""
    snapshot, nodes, homes = Snapshot(), {}, {}
    for what, n, p, size in steps:
        match what:
            case "set":
                nodes[n] = node(f"n{n}", cpu=str(10 + size), memory="64Gi", taints=[taint("t", str(size))] if size > 1 else [])
                snapshot.set_node(nodes[n])
            case "remove":
                nodes.pop(n, None)
                snapshot.remove_node(f"n{n}")
            case "place":
                homes[p] = (n, size)
                snapshot.place(request(f"p{p}", cpu=str(size), memory="1Gi"), f"n{n}")
            case "drop":
                homes.pop(p, None)
                snapshot.remove_pod(f"uid-p{p}")
    fresh = Snapshot()
    for each in nodes.values():
        fresh.set_node(each)
    for p, (n, size) in homes.items():
        fresh.place(request(f"p{p}", cpu=str(size), memory="1Gi"), f"n{n}")

    def state(s: Snapshot):
        return (
            {i.name: (i.known, i.free_cpu_milli, i.free_memory_bytes, i.free_pods, i.bucket if i.known else None, sorted(i.pods)) for i in s.nodes.values()},
            s.homes, s.known, set(s.groups), s.labels,
        )  # fmt: skip

    assert state(snapshot) == state(fresh)


@pytest.mark.parametrize("seed", range(3))
def test_the_index_finds_what_a_full_scan_finds(seed: int) -> None:
    """300 nodes of three sizes, filled one pod at a time: the chosen node's score is never more than a point below the best one."""
    rng = random.Random(seed)
    sizes = [("4", "8Gi"), ("16", "64Gi"), ("8", "16Gi")]
    snapshot = snapshot_of(*(node(f"n{i}", cpu=sizes[i % 3][0], memory=sizes[i % 3][1]) for i in range(300)))
    for n in range(1500):
        made = request(f"p{n}", cpu=f"{rng.choice([100, 250, 1000])}m", memory=f"{rng.choice([64, 512, 2048])}Mi")
        decision = decide(made, snapshot, rng)
        best = max((score(i, made)[0] for i in snapshot.known_nodes() if filters.fits(i, made)), default=None)
        if best is None:
            assert decision.node == ""
            continue
        assert decision.rank[2] >= best - 1
        snapshot.place(made, decision.node)


def test_few_nodes_are_looked_at_in_a_large_cluster() -> None:
    snapshot = snapshot_of(*(node(f"n{i}") for i in range(2000)))
    rng = random.Random(0)
    looked_at = []
    for n in range(500):
        made = request(f"p{n}", cpu="100m", memory="64Mi")
        decision = decide(made, snapshot, rng)
        snapshot.place(made, decision.node)
        looked_at.append(decision.looked_at)
    assert max(looked_at) <= 16
