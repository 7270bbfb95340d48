"""Client, scheduler and controllers against the real API server, as processes: what they promise each other."""

from __future__ import annotations

import asyncio
import contextlib
import pathlib
import signal
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio

from apiserver.api import errors, kinds, types
from apiserver.client.client import Client
from apiserver.client.informer import Informer
from tests.fakes.cluster import ControlPlane

Obj = dict[str, Any]


@pytest.fixture
def plane(tmp_path: pathlib.Path):
    made = ControlPlane(tmp_path)
    made.start_apiserver()
    yield made
    made.stop()


@pytest_asyncio.fixture
async def client(plane: ControlPlane) -> AsyncIterator[Client]:
    async with Client(plane.config()) as c:
        yield c


async def until(read: Callable[[], Any], timeout_s: float = 30.0) -> Any:
    """The first true result of `await read()`; NotFound counts as false."""
    async with asyncio.timeout(timeout_s):
        while True:
            with contextlib.suppress(errors.NotFound, errors.Unavailable):
                if found := await read():
                    return found
            await asyncio.sleep(0.02)


async def gone(client: Client, resource: kinds.Resource, name: str, namespace: str = "") -> None:
    async def check() -> bool:
        try:
            await client.get(resource, name, namespace)
        except errors.NotFound:
            return True
        return False

    await until(check)


def node(name: str, cpu: str = "4") -> Obj:
    status = {
        "allocatable": {"cpu": cpu, "memory": "8Gi", "pods": "110"},
        "capacity": {"cpu": cpu, "memory": "8Gi", "pods": "110"},
        "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady", "lastHeartbeatTime": "2026-01-01T00:00:00Z", "lastTransitionTime": "2026-01-01T00:00:00Z"}],
    }
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "status": status}


def pod(name: str, namespace: str = "default", cpu: str = "100m", **meta: Any) -> Obj:
    container = {"name": "c", "image": "localhost/busybox:1", "resources": {"requests": {"cpu": cpu}}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": namespace, "labels": {"app": "web"}, **meta}, "spec": {"containers": [container]}}


async def account_ready(client: Client, namespace: str = "default") -> None:
    await until(lambda: client.get(kinds.SERVICEACCOUNTS, "default", namespace))


async def bound(client: Client, name: str, namespace: str = "default") -> str:
    async def read() -> str:
        return (await client.get(kinds.PODS, name, namespace))["spec"].get("nodeName", "")

    return await until(read)


async def make_ready(client: Client, name: str, ip: str, namespace: str = "default") -> None:
    condition = {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}
    status = {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "conditions": [condition]}
    await client.patch(kinds.PODS, name, {"status": status}, namespace, type="strategic", subresource="status")


async def test_namespaces_have_their_account_and_ca_and_go_with_their_content(client: Client, plane: ControlPlane) -> None:
    for name in ("default", "kube-system", "kube-public", "kube-node-lease"):
        await account_ready(client, name)
    await client.create(kinds.NAMESPACES, {"metadata": {"name": "web"}})
    bundle = await until(lambda: client.get(kinds.CONFIGMAPS, "kube-root-ca.crt", "web"))
    assert bundle["data"]["ca.crt"].encode() == (plane.pki / "ca.crt").read_bytes()
    await account_ready(client, "web")
    await client.create(kinds.CONFIGMAPS, {"metadata": {"name": "held", "finalizers": ["example.com/wait"]}}, "web")
    await client.create(kinds.PODS, pod("p", "web"))
    await client.delete(kinds.NAMESPACES, "web")

    async def waits() -> Obj | None:
        found = await client.get(kinds.NAMESPACES, "web")
        texts = [c["message"] for c in found["status"].get("conditions") or [] if c["status"] == "True"]
        return found if any("example.com/wait in 1 resource instances" in text for text in texts) else None

    assert (await until(waits))["status"]["phase"] == "Terminating"
    await client.patch(kinds.CONFIGMAPS, "held", {"metadata": {"finalizers": None}}, "web")
    await gone(client, kinds.NAMESPACES, "web")
    assert (await client.list(kinds.CONFIGMAPS, "web"))["items"] == []


async def test_a_pod_is_bound_and_one_without_room_says_why(client: Client, plane: ControlPlane) -> None:
    plane.start_scheduler()
    await account_ready(client)
    await client.create(kinds.NODES, node("n1"))
    given = await until(lambda: has_cidr(client, "n1"))
    assert given["spec"]["podCIDRs"] == [given["spec"]["podCIDR"]] == ["10.42.0.0/22"]
    await client.create(kinds.PODS, pod("small"))
    await client.create(kinds.PODS, pod("large", cpu="5"))
    assert await bound(client, "small") == "n1"

    async def refused() -> Obj | None:
        conditions = (await client.get(kinds.PODS, "large", "default"))["status"].get("conditions") or []
        return next((c for c in conditions if c["type"] == "PodScheduled" and c["status"] == "False"), None)

    condition = await until(refused)
    assert condition["reason"] == "Unschedulable" and condition["message"].startswith("0/1 nodes are available: 1 Insufficient cpu.")
    assert "n1: Insufficient cpu (asks 5, free 3900m of 4)" in condition["message"]

    async def told() -> bool:
        events = (await client.list(kinds.EVENTS, "default"))["items"]
        return {"Scheduled", "FailedScheduling"} <= {e["reason"] for e in events}

    await until(told)
    await client.create(kinds.NODES, node("n2", cpu="16"))
    assert await bound(client, "large") == "n2"


async def has_cidr(client: Client, name: str) -> Obj | None:
    found = await client.get(kinds.NODES, name)
    return found if found["spec"].get("podCIDR") else None


async def test_endpoints_follow_ready_pods_and_go_with_the_service(client: Client, plane: ControlPlane) -> None:
    plane.start_scheduler()
    await account_ready(client)
    await client.create(kinds.NODES, node("n1"))
    await client.create(kinds.SERVICES, {"metadata": {"name": "web"}, "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]}}, "default")
    for n in range(3):
        await client.create(kinds.PODS, pod(f"p{n}"))
        await bound(client, f"p{n}")
        await make_ready(client, f"p{n}", f"10.42.0.{n + 2}")

    async def ready() -> set[str]:
        slices = (await client.list(kinds.ENDPOINTSLICES, "default", label_selector="kubernetes.io/service-name=web"))["items"]
        return {e["addresses"][0] for s in slices for e in s["endpoints"] if e["conditions"]["ready"]}

    async def has(wanted: set[str]) -> bool:
        return await ready() == wanted

    await until(lambda: has({"10.42.0.2", "10.42.0.3", "10.42.0.4"}))
    (made,) = (await client.list(kinds.ENDPOINTSLICES, "default", label_selector="kubernetes.io/service-name=web"))["items"]
    assert made["ports"] == [{"name": "", "protocol": "TCP", "port": 8080}]
    await client.delete(kinds.PODS, "p0", "default", {"gracePeriodSeconds": 0})
    await until(lambda: has({"10.42.0.3", "10.42.0.4"}))
    await client.delete(kinds.SERVICES, "web", "default")
    await gone(client, kinds.ENDPOINTSLICES, made["metadata"]["name"], "default")
    await gone(client, kinds.ENDPOINTS, "web", "default")


async def test_owned_objects_follow_the_deletion_policy(client: Client) -> None:
    await account_ready(client)
    owners = {}
    for policy in ("Background", "Foreground", "Orphan"):
        name = policy.lower()
        owners[policy] = await client.create(kinds.CONFIGMAPS, {"metadata": {"name": name}}, "default")
        reference = {"apiVersion": "v1", "kind": "ConfigMap", "name": name, "uid": owners[policy]["metadata"]["uid"], "blockOwnerDeletion": True}
        await client.create(kinds.SECRETS, {"metadata": {"name": f"of-{name}", "ownerReferences": [reference]}}, "default")
    for policy in owners:
        await client.delete(kinds.CONFIGMAPS, policy.lower(), "default", {"propagationPolicy": policy})
    for policy in owners:
        await gone(client, kinds.CONFIGMAPS, policy.lower(), "default")
    await gone(client, kinds.SECRETS, "of-background", "default")
    await gone(client, kinds.SECRETS, "of-foreground", "default")
    left = await client.get(kinds.SECRETS, "of-orphan", "default")
    assert not left["metadata"].get("ownerReferences")


async def test_nothing_is_lost_when_the_api_server_is_killed(client: Client, plane: ControlPlane) -> None:
    """An informer, the scheduler and the embedded loops live through kill -9 of the API server in the middle of 60 pods."""
    plane.start_scheduler()
    await account_ready(client)
    await client.create(kinds.NODES, node("n1", cpu="64"))
    informer = Informer(client, kinds.PODS, decode=types.Pod)
    told: dict[str, str] = {}

    def on_change(old: types.Pod | None, new: types.Pod | None) -> None:
        if new is not None:
            told[new.metadata.name] = new.spec.node_name

    informer.add_handler(on_change)
    watching = asyncio.ensure_future(informer.run())
    for n in range(60):
        if n in (20, 40):
            plane.kill("apiserver")
            plane.start_apiserver()

        async def create(n: int = n) -> bool:
            try:
                await client.create(kinds.PODS, pod(f"p{n}"))
            except errors.AlreadyExists:
                pass
            return True

        await until(create)
    for n in range(60):
        assert await bound(client, f"p{n}") == "n1"

    async def all_told() -> bool:
        return told == {f"p{n}": "n1" for n in range(60)}

    await until(all_told)
    watching.cancel()


async def test_separate_processes_end_cleanly_and_hand_over(tmp_path: pathlib.Path) -> None:
    plane = ControlPlane(tmp_path, controllers="separate")
    try:
        plane.start_apiserver()
        plane.start_controllers("--leader-elect-identity", "first")
        plane.start_scheduler("--leader-elect", "--leader-elect-identity", "first")
        async with Client(plane.config()) as client:
            await account_ready(client)
            await client.create(kinds.NODES, node("n1"))
            await client.create(kinds.PODS, pod("p"))
            assert await bound(client, "p") == "n1"
            for name, lease in (("controllers", "kube-controller-manager"), ("scheduler", "kube-scheduler")):
                assert (await client.get(kinds.LEASES, lease, "kube-system"))["spec"]["holderIdentity"] == "first"
                assert plane.kill(name, signal.SIGTERM) == 0, plane.log(name)
                assert (await client.get(kinds.LEASES, lease, "kube-system"))["spec"].get("holderIdentity") is None
            plane.start_controllers("--leader-elect-identity", "second")
            plane.start_scheduler("--leader-elect", "--leader-elect-identity", "second")
            await client.create(kinds.NAMESPACES, {"metadata": {"name": "later"}})
            await account_ready(client, "later")
            await client.create(kinds.PODS, pod("q", "later"))
            assert await bound(client, "q", "later") == "n1"
    finally:
        plane.stop()
