"""The loops on the small API of tests/fakes: each scenario as a user would set it up, awaited by what the API then holds."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from apiserver import controllers
from apiserver.api import kinds
from apiserver.client.client import Client
from apiserver.client.inprocess import AsgiTransport
from apiserver.controllers.config import Config
from tests.fakes.api import FakeApi


class Time:
    """Wall and monotonic clock in one; the test turns it."""

    def __init__(self) -> None:
        self.t = 1_800_000_000.0

    def __call__(self) -> float:
        return self.t


@contextlib.asynccontextmanager
async def running(api: FakeApi, time: Time) -> AsyncIterator[None]:
    config = Config(root_ca="PEM", now=time, clock=time, pod_gc_period_s=0.05, node_grace_s=40, identity="test")
    task = asyncio.ensure_future(controllers.run(Client(transport=AsgiTransport(api)), config))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
async def api(time: Time) -> AsyncIterator[FakeApi]:
    api = FakeApi()
    async with running(api, time):
        yield api


def meta(name: str, namespace: str = "d", **fields) -> dict:
    return {"metadata": {"name": name, "namespace": namespace, **fields}}


def pod(name: str, *, ip: str = "10.42.0.9", ready: str = "True", node: str = "n1", **fields) -> dict:
    status = {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "conditions": [{"type": "Ready", "status": ready}]}
    return {**meta(name, labels={"app": "web"}, **fields), "spec": {"nodeName": node, "containers": [{"name": "c"}]}, "status": status}


def node(name: str, ready: str = "True") -> dict:
    return {"metadata": {"name": name}, "spec": {}, "status": {"conditions": [{"type": "Ready", "status": ready}]}}


WEB = {**meta("web"), "spec": {"selector": {"app": "web"}, "clusterIP": "10.43.0.5", "ports": [{"port": 80, "targetPort": 8080}]}}


def addresses(api: FakeApi) -> dict[str, bool]:
    return {e["addresses"][0]: e["conditions"]["ready"] for s in api.all(kinds.ENDPOINTSLICES, "d") for e in s["endpoints"]}


async def test_endpoints_follow_pods_and_services(api: FakeApi) -> None:
    await api.put(kinds.PODS, pod("a", ip="10.42.0.1"))
    await api.put(kinds.SERVICES, WEB)
    await api.until(lambda: addresses(api) == {"10.42.0.1": True})
    await api.put(kinds.PODS, pod("b", ip="10.42.0.2", ready="False"))
    await api.until(lambda: addresses(api) == {"10.42.0.1": True, "10.42.0.2": False})
    await api.put(kinds.PODS, pod("b", ip="10.42.0.2"))
    await api.until(lambda: addresses(api) == {"10.42.0.1": True, "10.42.0.2": True})
    await api.drop(kinds.PODS, "a", "d")
    await api.until(lambda: addresses(api) == {"10.42.0.2": True})
    await api.until(lambda: [s["addresses"][0]["ip"] for s in api.read(kinds.ENDPOINTS, "web", "d")["subsets"]] == ["10.42.0.2"])
    assert len(api.all(kinds.ENDPOINTSLICES)) == 1
    (made,) = api.all(kinds.ENDPOINTSLICES)
    await api.drop(kinds.ENDPOINTSLICES, made["metadata"]["name"], "d")
    await api.until(lambda: addresses(api) == {"10.42.0.2": True})
    await api.drop(kinds.SERVICES, "web", "d")
    await api.until(lambda: not api.all(kinds.ENDPOINTSLICES) and not api.all(kinds.ENDPOINTS))


async def test_a_burst_of_pods_makes_no_double_slices(api: FakeApi) -> None:
    await api.put(kinds.SERVICES, WEB)
    for n in range(130):
        await api.put(kinds.PODS, pod(f"p{n}", ip=f"10.42.1.{n}"))
        if n % 10 == 0:
            api.cut_watches()
        await asyncio.sleep(0)
    await api.until(lambda: len(addresses(api)) == 130, 30)
    uids = [e["targetRef"]["uid"] for s in api.all(kinds.ENDPOINTSLICES) for e in s["endpoints"]]
    assert len(uids) == len(set(uids)) and len(api.all(kinds.ENDPOINTSLICES)) == 2


async def test_every_namespace_gets_its_account_and_bundle(api: FakeApi) -> None:
    await api.put(kinds.NAMESPACES, {"metadata": {"name": "d"}, "status": {"phase": "Active"}})
    await api.until(lambda: api.read(kinds.SERVICEACCOUNTS, "default", "d") and api.read(kinds.CONFIGMAPS, "kube-root-ca.crt", "d"))
    await api.drop(kinds.SERVICEACCOUNTS, "default", "d")
    await api.put(kinds.CONFIGMAPS, {**api.read(kinds.CONFIGMAPS, "kube-root-ca.crt", "d"), "data": {"ca.crt": "forged"}})
    await api.until(lambda: api.read(kinds.SERVICEACCOUNTS, "default", "d") and api.read(kinds.CONFIGMAPS, "kube-root-ca.crt", "d")["data"] == {"ca.crt": "PEM"})


async def test_a_namespace_goes_when_its_content_has(api: FakeApi) -> None:
    await api.put(kinds.NAMESPACES, {"metadata": {"name": "d"}, "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}})
    await api.put(kinds.CONFIGMAPS, meta("a"))
    await api.put(kinds.SECRETS, meta("held", finalizers=["x/y"]))
    await api.put(kinds.CONFIGMAPS, meta("other", "elsewhere"))
    await api.until(lambda: api.read(kinds.SERVICEACCOUNTS, "default", "d"))
    await api.put(kinds.NAMESPACES, {**api.read(kinds.NAMESPACES, "d"), "status": {"phase": "Terminating"}, "metadata": {"name": "d", "deletionTimestamp": "2026-01-01T00:00:00Z"}})

    def conditions() -> dict[str, str]:
        found = (api.read(kinds.NAMESPACES, "d") or {}).get("status", {}).get("conditions") or []
        return {c["type"]: c["message"] for c in found if c["status"] == "True"}

    await api.until(lambda: "x/y in 1 resource instances" in conditions().get("NamespaceFinalizersRemaining", ""))
    assert api.all(kinds.CONFIGMAPS, "d") == []
    held = api.read(kinds.SECRETS, "held", "d")
    await api.put(kinds.SECRETS, {**held, "metadata": {**held["metadata"], "finalizers": []}})
    await api.until(lambda: api.read(kinds.NAMESPACES, "d") is None)
    assert api.read(kinds.CONFIGMAPS, "other", "elsewhere")


async def test_pod_cidrs_are_unique_also_after_a_restart(time: Time) -> None:
    api = FakeApi()

    def cidrs() -> dict[str, str]:
        return {n["metadata"]["name"]: n["spec"].get("podCIDR", "") for n in api.all(kinds.NODES)}

    async with running(api, time):
        for n in range(10):
            await api.put(kinds.NODES, node(f"n{n}"))
        await api.until(lambda: all(cidrs().values()))
    first = cidrs()
    await api.drop(kinds.NODES, "n3")
    async with running(api, time):
        for n in range(10, 14):
            await api.put(kinds.NODES, node(f"n{n}"))
        await api.until(lambda: all(cidrs().values()))
    assert len(set(cidrs().values())) == 13
    assert {k: v for k, v in cidrs().items() if k in first} == {k: v for k, v in first.items() if k != "n3"}
    assert first["n3"] in cidrs().values()


async def test_a_silent_node_is_tainted_and_its_pods_leave_then_it_comes_back(api: FakeApi, time: Time) -> None:
    def lease(name: str, at: float) -> dict:
        return {"metadata": {"name": name, "namespace": "kube-node-lease"}, "spec": {"holderIdentity": name, "renewTime": f"2026-01-01T00:00:{int(at) % 60:02}.000000Z"}}

    def taints(name: str) -> set[str]:
        return {t["key"].rpartition("/")[2] for t in (api.read(kinds.NODES, name) or {}).get("spec", {}).get("taints") or []}

    for name in ("n1", "n2"):
        await api.put(kinds.NODES, node(name))
    await api.put(kinds.PODS, pod("stays") | {"spec": {"nodeName": "n1", "containers": [], "tolerations": [{"operator": "Exists"}]}})
    await api.put(kinds.PODS, pod("leaves"))
    await api.put(kinds.PODS, pod("elsewhere", node="n2"))
    await api.until(lambda: all(n["spec"].get("podCIDR") for n in api.all(kinds.NODES)) and len(api.all(kinds.NODES)) == 2)
    for step in range(1, 10):  # n2's Lease moves, n1's does not
        time.t += 10
        await api.put(kinds.LEASES, lease("n2", step))
        await api.put(kinds.NODES, {**api.read(kinds.NODES, "n1"), "metadata": {"name": "n1", "labels": {"step": str(step)}}})
        await api.put(kinds.NAMESPACES, {"metadata": {"name": f"mark{step}"}, "status": {"phase": "Active"}})
        await api.until(lambda step=step: api.read(kinds.SERVICEACCOUNTS, "default", f"mark{step}"))  # the loops have seen what came before
    await api.until(lambda: taints("n1") == {"unreachable"} and api.read(kinds.PODS, "leaves", "d") is None)
    assert {c["type"]: c["status"] for c in api.read(kinds.NODES, "n1")["status"]["conditions"]}["Ready"] == "Unknown"
    assert api.read(kinds.PODS, "stays", "d")["status"]["conditions"][0]["status"] == "False"
    assert taints("n2") == set() and api.read(kinds.PODS, "elsewhere", "d")
    await api.put(kinds.LEASES, lease("n1", 5))
    await api.put(kinds.NODES, {**api.read(kinds.NODES, "n1"), "status": node("n1")["status"]})
    await api.until(lambda: taints("n1") == set())


async def test_pods_of_a_vanished_node_are_collected_after_the_quarantine(api: FakeApi, time: Time) -> None:
    await api.put(kinds.NODES, node("n1"))
    await api.put(kinds.PODS, pod("p"))
    await api.until(lambda: api.read(kinds.NODES, "n1")["spec"].get("podCIDR"))
    await api.drop(kinds.NODES, "n1")
    for n in range(3):  # rounds of the collector that take these and leave the orphan alone
        await api.put(kinds.PODS, pod(f"never{n}", node="", deletionTimestamp="2026-01-01T00:00:00Z", finalizers=["x/y"]))
        await api.until(lambda n=n: ("DELETE", f"/api/v1/namespaces/d/pods/never{n}") in api.requests)
    assert api.read(kinds.PODS, "p", "d")
    time.t += 41
    await api.until(lambda: api.read(kinds.PODS, "p", "d") is None)


async def test_dependents_go_with_their_owner_and_orphans_stay(api: FakeApi) -> None:
    first = await api.put(kinds.REPLICASETS, meta("r"))
    second = await api.put(kinds.REPLICASETS, meta("s", finalizers=["orphan"]))
    third = await api.put(kinds.REPLICASETS, meta("t", finalizers=["foregroundDeletion"]))

    def owned(by: dict) -> list[dict]:
        return [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": by["metadata"]["name"], "uid": by["metadata"]["uid"], "blockOwnerDeletion": True}]

    await api.put(kinds.PODS, pod("a", ownerReferences=owned(first)))
    await api.put(kinds.PODS, pod("b", ownerReferences=owned(second)))
    await api.put(kinds.PODS, pod("c", ownerReferences=owned(third)))
    await api.put(kinds.PODS, pod("lost", ownerReferences=[{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "never", "uid": "never-there"}]))
    await api.until(lambda: api.read(kinds.PODS, "lost", "d") is None)
    assert all(api.read(kinds.PODS, name, "d") for name in "abc")
    await api.drop(kinds.REPLICASETS, "r", "d")
    for each in (second, third):
        await api.put(kinds.REPLICASETS, {**each, "metadata": {**each["metadata"], "deletionTimestamp": "2026-01-01T00:00:00Z"}})
    await api.until(lambda: not api.all(kinds.REPLICASETS) and api.read(kinds.PODS, "a", "d") is None and api.read(kinds.PODS, "c", "d") is None)
    assert not api.read(kinds.PODS, "b", "d")["metadata"].get("ownerReferences")
