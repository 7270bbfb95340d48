"""The small pure plans: namespaces, service accounts, addresses, node health, pod garbage."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apiserver.api import kinds, types
from apiserver.controllers import plan_ipam, plan_namespaces, plan_nodes, plan_podgc, plan_serviceaccounts
from apiserver.controllers.config import Config

NOW = 1_800_000_000.0
STAMP = "2027-01-15T08:00:00Z"


def node(ready: str | None = "True", *, taints: list | None = None, unschedulable: bool = False, **conditions: str) -> types.Node:
    listed = [{"type": "Ready", "status": ready}] if ready else []
    listed += [{"type": k, "status": v} for k, v in conditions.items()]
    return types.from_dict(types.Node, {"metadata": {"name": "n"}, "spec": {"taints": taints or [], "unschedulable": unschedulable}, "status": {"conditions": listed}})


def keys(taints: list[dict] | None) -> set[tuple[str, str]] | None:
    return None if taints is None else {(t["key"].removeprefix("node.kubernetes.io/"), t["effect"]) for t in taints}


@pytest.mark.parametrize(
    ("given_node", "silent_s", "taints"),
    [
        (node(), 39, None),
        (node(), 41, {("unreachable", "NoSchedule"), ("unreachable", "NoExecute")}),
        (node("False"), 0, {("not-ready", "NoSchedule"), ("not-ready", "NoExecute")}),
        (node(None), 0, {("not-ready", "NoSchedule"), ("not-ready", "NoExecute")}),
        (node(unschedulable=True), 0, {("unschedulable", "NoSchedule")}),
        (node(MemoryPressure="True", DiskPressure="False"), 0, {("memory-pressure", "NoSchedule")}),
        (node(taints=[{"key": "mine", "effect": "NoSchedule"}, {"key": "node.kubernetes.io/unreachable", "effect": "NoExecute"}]), 0, {("mine", "NoSchedule")}),
    ],
)  # fmt: skip
def test_taints_follow_conditions(given_node: types.Node, silent_s: float, taints) -> None:
    assert keys(plan_nodes.plan_node(given_node, silent_s, 40, NOW).taints) == taints


def test_a_silent_nodes_conditions_become_unknown_once() -> None:
    plan = plan_nodes.plan_node(node(), 41, 40, NOW)
    by_type = {c["type"]: c for c in plan.conditions}
    assert set(by_type) == {"Ready", "MemoryPressure", "DiskPressure", "PIDPressure"}
    assert by_type["Ready"]["reason"] == "NodeStatusUnknown" and by_type["Ready"]["message"] == "Kubelet stopped posting node status."
    assert by_type["PIDPressure"]["reason"] == "NodeStatusNeverUpdated"
    after = node("Unknown", MemoryPressure="Unknown", DiskPressure="Unknown", PIDPressure="Unknown", taints=plan.taints)
    assert plan_nodes.plan_node(after, 100, 40, NOW) == plan_nodes.NodePlan(None, None)
    back = node("True", MemoryPressure="False", DiskPressure="False", PIDPressure="False", taints=plan.taints)
    assert plan_nodes.plan_node(back, 0, 40, NOW).taints == []


def taint(effect: str = "NoExecute", added: str = STAMP) -> types.Taint:
    return types.Taint(key="k", effect=effect, time_added=added)


def toleration(seconds: int | None = None, **fields: Any) -> types.Toleration:
    return types.Toleration(**{"key": "k", "operator": "Exists", "toleration_seconds": seconds, **fields})


@pytest.mark.parametrize(
    ("taints", "tolerations", "due"),
    [
        ([], [], None),
        ([taint("NoSchedule")], [], None),
        ([taint()], [], NOW),
        ([taint()], [toleration()], None),
        ([taint()], [toleration(effect="NoSchedule")], NOW),
        ([taint()], [toleration(300)], NOW + 300),
        ([taint(added="2027-01-15T07:59:00Z")], [toleration(300), toleration(100)], NOW + 40),
        ([taint()], [toleration(-5)], NOW),
        ([taint(added="nonsense")], [toleration(10)], NOW + 10),
        ([taint()], [toleration(operator="", value="other")], NOW),
    ],
)  # fmt: skip
def test_when_a_pod_must_leave(taints, tolerations, due) -> None:
    assert plan_nodes.eviction_due(taints, tolerations, NOW) == due


def test_pods_of_a_silent_node_are_not_ready() -> None:
    ready = types.from_dict(types.Pod, {"metadata": {"name": "p"}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}})
    assert plan_nodes.plan_pod_not_ready(ready, NOW)["status"] == "False"
    assert plan_nodes.plan_pod_not_ready(types.Pod(), NOW) is None


@given(st.sets(st.integers(0, 63)), st.integers(0, 3))
def test_pod_cidrs_never_overlap_and_all_are_used(taken: set[int], junk: int) -> None:
    blocks = [str(b) for b in ipaddress.ip_network("10.42.0.0/16").subnets(new_prefix=22)]
    given_out = [blocks[n] for n in taken] + ["nonsense", "192.168.0.0/16", "fd00::/64"][:junk]
    if len(taken) == 64:
        with pytest.raises(plan_ipam.Exhausted, match="all 64 blocks"):
            plan_ipam.plan_pod_cidr("10.42.0.0/16", 22, given_out)
        return
    assert plan_ipam.plan_pod_cidr("10.42.0.0/16", 22, given_out) == next(b for n, b in enumerate(blocks) if n not in taken)


def test_blocks_of_another_size_are_respected() -> None:
    assert plan_ipam.plan_pod_cidr("10.42.0.0/16", 22, ["10.42.0.0/20"]) == "10.42.16.0/22"
    assert plan_ipam.plan_pod_cidr("10.42.0.0/16", 22, ["10.42.0.0/24", "10.42.5.0/24"]) == "10.42.8.0/22"
    with pytest.raises(ValueError, match="--node-cidr-mask-size"):
        Config(cluster_cidr="10.42.0.0/24", node_cidr_mask_size=22)


def test_what_is_deleted_with_a_namespace() -> None:
    plurals = [r.plural for r in plan_namespaces.deletable(kinds.RESOURCES)]
    assert {"pods", "services", "configmaps", "secrets", "deployments", "leases", "endpointslices"} <= set(plurals)
    assert plurals.count("events") == 1 and not {"nodes", "namespaces", "clusterroles", "bindings"} & set(plurals)


def test_namespace_conditions_in_kubernetes_words() -> None:
    namespace = {"metadata": {"name": "n"}, "spec": {"finalizers": ["kubernetes", "other"]}, "status": {"phase": "Terminating"}}
    remaining = plan_namespaces.Remaining({"pods": 2}, {"x/y": 1}, ("widgets.example.com: refused",))
    conditions = plan_namespaces.plan_conditions(namespace, remaining, STAMP)
    by_type = {c["type"]: (c["status"], c["message"]) for c in conditions}
    assert by_type["NamespaceContentRemaining"] == ("True", "Some resources are remaining: pods has 2 resource instances")
    assert by_type["NamespaceFinalizersRemaining"] == ("True", "Some content in the namespace has finalizers remaining: x/y in 1 resource instances")
    assert "widgets.example.com: refused" in by_type["NamespaceDeletionContentFailure"][1]
    assert not remaining.done and plan_namespaces.Remaining({}, {}).done
    assert plan_namespaces.plan_conditions({**namespace, "status": {"conditions": conditions}}, remaining, "later") is None
    assert plan_namespaces.finalized(namespace)["spec"]["finalizers"] == ["other"]


def test_accounts_and_bundles() -> None:
    assert plan_serviceaccounts.plan_default_account("n", True) is None
    assert plan_serviceaccounts.plan_default_account("n", False)["metadata"] == {"name": "default", "namespace": "n"}
    made = plan_serviceaccounts.plan_root_ca("n", None, "PEM")
    assert made["data"] == {"ca.crt": "PEM"} and made["metadata"]["name"] == "kube-root-ca.crt"
    assert plan_serviceaccounts.plan_root_ca("n", made, "PEM") is None
    assert plan_serviceaccounts.plan_root_ca("n", {**made, "data": {"ca.crt": "old"}}, "PEM")["data"] == {"ca.crt": "PEM"}
    assert plan_serviceaccounts.plan_root_ca("n", None, "") is None


def test_pods_nobody_will_finish() -> None:
    def pod(name: str, node_name: str = "", phase: str = "Running", ending: bool = False, made: str = "") -> types.Pod:
        meta = {"name": name, "namespace": "d", "creationTimestamp": made, **({"deletionTimestamp": STAMP} if ending else {})}
        return types.from_dict(types.Pod, {"metadata": meta, "spec": {"nodeName": node_name}, "status": {"phase": phase}})

    pods = [
        pod("lives", "n1"), pod("orphan", "gone"), pod("fresh-orphan", "just-gone"), pod("never-scheduled", ending=True), pod("pending"),
        pod("old", "n1", "Succeeded", made="2026-01-01T00:00:00Z"), pod("new", "n1", "Failed", made="2026-02-01T00:00:00Z"),
    ]  # fmt: skip
    removals = plan_podgc.plan_removals(pods, ["n1"], {"gone": 0.0, "just-gone": 90.0}, now=100, quarantine_s=40, terminated_kept=1)
    assert {(r.pod.metadata.name, r.check_node) for r in removals} == {("orphan", True), ("never-scheduled", False), ("old", False)}
