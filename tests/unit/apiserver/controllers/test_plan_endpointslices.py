from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from apiserver.api import types
from apiserver.controllers import plan_endpointslices as plans


def service(**spec: Any) -> types.Service:
    spec = {"selector": {"app": "web"}, "ports": [{"name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP"}], "clusterIP": "10.43.0.9", **spec}
    return types.from_dict(types.Service, {"metadata": {"name": "web", "namespace": "d", "uid": "su", "labels": {"team": "x"}}, "spec": spec})


def pod(n: int, *, ready: bool = True, ip: str | None = None, ending: bool = False, phase: str = "Running", ports: list | None = None, **spec: Any) -> types.Pod:
    address = f"10.42.{n // 250}.{n % 250}" if ip is None else ip
    meta = {"name": f"p{n:03}", "namespace": "d", "uid": f"u{n}", **({"deletionTimestamp": "2026-01-01T00:00:00Z"} if ending else {})}
    status = {"phase": phase, "podIP": address, "podIPs": [{"ip": address}] if address else [], "conditions": [{"type": "Ready", "status": str(ready)}]}
    containers = [{"name": "c", "ports": ports or []}]
    return types.from_dict(types.Pod, {"metadata": meta, "spec": {"nodeName": "n1", "containers": containers, **spec}, "status": status})


def apply(plan: plans.SlicePlan, existing: list[dict], serial: list[int]) -> list[dict]:
    """What a server would hold after the plan."""
    slices = {s["metadata"]["name"]: s for s in existing}
    for name in plan.delete:
        del slices[name]
    for each in plan.update:
        slices[each["metadata"]["name"]] = each
    for each in plan.create:
        serial[0] += 1
        name = f"{each['metadata']['generateName']}{serial[0]:04}"
        slices[name] = {**each, "metadata": {**each["metadata"], "name": name}}
    return list(slices.values())


def settle(svc: types.Service, pods: list[types.Pod], existing: list[dict] | None = None) -> list[dict]:
    serial = [len(existing or [])]
    plan = plans.plan_slices(svc, pods, existing or [], lambda node: "z1")
    slices = apply(plan, existing or [], serial)
    assert not plans.plan_slices(svc, pods, slices, lambda node: "z1"), "a plan applied to its own result is empty"
    return slices


def test_one_slice_with_everything_a_consumer_reads() -> None:
    (made,) = settle(service(), [pod(1), pod(2, ready=False)])
    assert made["metadata"]["labels"] == {"team": "x", "kubernetes.io/service-name": "web", "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io"}
    assert made["metadata"]["ownerReferences"][0] == {"apiVersion": "v1", "kind": "Service", "name": "web", "uid": "su", "controller": True, "blockOwnerDeletion": True}
    assert made["addressType"] == "IPv4" and made["ports"] == [{"name": "http", "protocol": "TCP", "port": 8080}]
    assert made["endpoints"][0] == {
        "addresses": ["10.42.0.1"], "conditions": {"ready": True, "serving": True, "terminating": False},
        "targetRef": {"kind": "Pod", "namespace": "d", "name": "p001", "uid": "u1"}, "nodeName": "n1", "zone": "z1",
    }  # fmt: skip
    assert made["endpoints"][1]["conditions"] == {"ready": False, "serving": False, "terminating": False}


def test_conditions_of_ending_pods_and_publish_not_ready() -> None:
    def conditions(svc: types.Service, each: types.Pod) -> dict:
        return settle(svc, [each])[0]["endpoints"][0]["conditions"]

    assert conditions(service(), pod(1, ending=True)) == {"ready": False, "serving": True, "terminating": True}
    assert conditions(service(publishNotReadyAddresses=True), pod(1, ready=False)) == {"ready": True, "serving": False, "terminating": False}
    (empty,) = settle(service(), [pod(1, phase="Succeeded"), pod(2, phase="Failed"), pod(3, ip="")])
    assert empty["endpoints"] == []


def test_named_ports_are_resolved_pod_by_pod() -> None:
    svc = service(ports=[{"name": "http", "port": 80, "targetPort": "web"}])
    old, new = [pod(n, ports=[{"name": "web", "containerPort": port, "protocol": "TCP"}]) for n, port in ((1, 8080), (2, 9090))]
    slices = settle(svc, [old, new, pod(3)])
    assert sorted((s["ports"][0]["port"], s["endpoints"][0]["targetRef"]["name"]) for s in slices) == [(8080, "p001"), (9090, "p002")]


def test_headless_hostnames_and_target_port_by_default() -> None:
    svc = service(clusterIP="None", ports=[{"port": 53, "protocol": "UDP"}])
    (made,) = settle(svc, [pod(1, hostname="db-0", subdomain="web"), pod(2, hostname="db-1", subdomain="other")])
    assert made["metadata"]["labels"]["service.kubernetes.io/headless"] == ""
    assert [e.get("hostname") for e in made["endpoints"]] == ["db-0", None]
    assert made["ports"] == [{"name": "", "protocol": "UDP", "port": 53}]


def test_an_address_family_each() -> None:
    dual = types.from_dict(types.Pod, {"metadata": {"name": "p", "namespace": "d", "uid": "u"}, "status": {"phase": "Running", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]}})
    slices = settle(service(ipFamilies=["IPv4", "IPv6"]), [dual])
    assert sorted((s["addressType"], s["endpoints"][0]["addresses"]) for s in slices) == [("IPv4", ["10.0.0.1"]), ("IPv6", ["fd00::1"])]


def test_one_pod_more_changes_one_slice() -> None:
    slices = settle(service(), [pod(n) for n in range(250)])
    assert sorted(len(s["endpoints"]) for s in slices) == [50, 100, 100]
    plan = plans.plan_slices(service(), [pod(n) for n in range(251)], slices, lambda node: "z1")
    assert (len(plan.create), len(plan.update), plan.delete) == (0, 1, [])
    plan = plans.plan_slices(service(), [pod(n) for n in range(250) if n != 7], slices, lambda node: "z1")
    assert (len(plan.create), len(plan.update), plan.delete) == (0, 1, [])


def test_somebody_elses_services() -> None:
    assert plans.wants_endpoints(service())
    assert not plans.wants_endpoints(service(selector={}))
    assert not plans.wants_endpoints(service(type="ExternalName"))


PODS = st.dictionaries(st.integers(0, 320), st.tuples(st.booleans(), st.booleans(), st.sampled_from([8080, 9090, 0])), max_size=320)


@settings(max_examples=40, deadline=None)
@given(st.lists(PODS, min_size=1, max_size=4))
def test_slices_follow_any_history(history) -> None:
    svc = service(ports=[{"name": "http", "port": 80, "targetPort": "web"}])
    slices: list[dict] = []
    serial = [0]
    for state in history:
        pods = [pod(n, ready=r, ending=e, ports=[{"name": "web", "containerPort": port}] if port else []) for n, (r, e, port) in state.items()]
        slices = apply(plans.plan_slices(svc, pods, slices, lambda node: ""), slices, serial)
        assert not plans.plan_slices(svc, pods, slices, lambda node: "")
        found = {}
        for each in slices:
            assert len(each["endpoints"]) <= plans.MAX_ENDPOINTS
            for endpoint in each["endpoints"]:
                uid = endpoint["targetRef"]["uid"]
                assert uid not in found, "an address is in one slice only"
                found[uid] = (endpoint["conditions"]["serving"], endpoint["conditions"]["terminating"], each["ports"][0]["port"])
        assert found == {f"u{n}": value for n, value in state.items() if value[2]}
        assert slices


def test_legacy_endpoints() -> None:
    pods = [pod(1), pod(2, ready=False), pod(3, ending=True)]
    made = plans.plan_endpoints(service(), pods, None)
    assert made is not None
    (subset,) = made["subsets"]
    assert [a["ip"] for a in subset["addresses"]] == ["10.42.0.1"] and [a["ip"] for a in subset["notReadyAddresses"]] == ["10.42.0.2"]
    assert subset["ports"] == [{"name": "http", "port": 8080, "protocol": "TCP"}]
    assert plans.plan_endpoints(service(), pods, made) is None
    assert plans.plan_endpoints(service(), [], made)["subsets"] == []
