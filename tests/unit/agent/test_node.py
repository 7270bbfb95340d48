"""The Node object, service variables and changes on their way to the proxy, and the agent's flags."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from agent import config, node
from agent.services_sync import ServiceSync

MACHINE = node.Machine(2, 4 << 30, 2 << 30, 100 << 30, 50 << 30, 32768, 100, "m", "s", "b", "6.1", "Debian", "x86_64")
CONFIG = node.NodeConfig("n1", ("192.0.2.7",), 10250, 110, {"zone": "a"})


def conditions(machine: node.Machine, not_ready: str = "", old: dict | None = None, now: float = 100.0) -> dict[str, dict]:
    return {c["type"]: c for c in node.render_status(CONFIG, machine, not_ready, old or {}, now)["conditions"]}


def test_capacity_and_allocatable():
    assert node.capacity(MACHINE, 110) == {"cpu": "2", "memory": "4194304Ki", "ephemeral-storage": "104857600Ki", "pods": "110"}
    assert node.allocatable(MACHINE, 110)["memory"] == "4091904Ki"


def test_labels_and_status():
    assert node.render_node(CONFIG, MACHINE)["metadata"]["labels"] == {
        "kubernetes.io/hostname": "n1", "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64", "beta.kubernetes.io/os": "linux", "beta.kubernetes.io/arch": "amd64", "zone": "a",
    }  # fmt: skip
    status = node.render_status(CONFIG, MACHINE, "", {}, 100)
    assert status["daemonEndpoints"] == {"kubeletEndpoint": {"Port": 10250}}
    assert status["addresses"] == [{"type": "InternalIP", "address": "192.0.2.7"}, {"type": "Hostname", "address": "n1"}]


@pytest.mark.parametrize(
    ("change", "kind", "reason"),
    [({"memory_available_bytes": 1}, "MemoryPressure", "KubeletHasInsufficientMemory"), ({"disk_free_bytes": 1}, "DiskPressure", "KubeletHasDiskPressure"), ({"pids_used": 32000}, "PIDPressure", "KubeletHasInsufficientPID")],
)
def test_pressure(change: dict, kind: str, reason: str):
    assert conditions(MACHINE)[kind]["status"] == "False"
    pressed = conditions(replace(MACHINE, **change))
    assert (pressed[kind]["status"], pressed[kind]["reason"], pressed["Ready"]["status"]) == ("True", reason, "True")


def test_readiness_and_transition_times():
    first = conditions(MACHINE, "no pod CIDR yet")
    assert (first["Ready"]["status"], first["Ready"]["reason"], first["Ready"]["message"]) == ("False", "KubeletNotReady", "no pod CIDR yet")
    later = conditions(MACHINE, "", {"conditions": list(first.values())}, 200.0)
    assert later["Ready"]["lastTransitionTime"] == "1970-01-01T00:03:20Z"
    assert later["DiskPressure"]["lastTransitionTime"] == "1970-01-01T00:01:40Z"
    assert later["DiskPressure"]["lastHeartbeatTime"] == "1970-01-01T00:03:20Z"


def test_this_machine_can_be_observed(tmp_path):
    machine = node.observe_machine(str(tmp_path))
    assert machine.cpus >= 1
    assert 0 < machine.memory_available_bytes < machine.memory_bytes
    assert 0 < machine.disk_free_bytes <= machine.disk_bytes


class FakeInformer:
    def __init__(self) -> None:
        self.store: dict = {}

    def add_handler(self, handler) -> None:
        self.handler = handler

    async def synced(self) -> None:
        pass

    def put(self, obj: dict) -> None:
        key = f"{obj['metadata']['namespace']}/{obj['metadata']['name']}"
        old, self.store[key] = self.store.get(key), obj
        self.handler(old, obj)

    def drop(self, key: str) -> None:
        self.handler(self.store.pop(key), None)


class RecordingProxy:
    def __init__(self) -> None:
        self.calls: asyncio.Queue = asyncio.Queue()
        self.broken = False

    def ensure(self) -> None:
        pass

    def sync(self, services, slices) -> int:
        self.calls.put_nowait(("sync", sorted(services), sorted(slices)))
        return 0

    def update(self, changed, services, slices) -> int:
        if self.broken:
            raise OSError("netlink says no")
        self.calls.put_nowait(("update", sorted(changed), sorted(slices)))
        return 0


def service(name: str, ip: str) -> dict:
    return {"metadata": {"name": name, "namespace": "ns"}, "spec": {"clusterIP": ip, "ports": [{"port": 80}]}}


def endpoint_slice(name: str, of: str) -> dict:
    return {"metadata": {"name": name, "namespace": "ns", "labels": {"kubernetes.io/service-name": of}}}


async def test_changes_reach_the_proxy_by_service_and_an_error_syncs_everything():
    services, slices, proxy = FakeInformer(), FakeInformer(), RecordingProxy()
    sync = ServiceSync(services, slices)  # type: ignore[arg-type]
    services.put(service("a", "10.43.0.2"))
    slices.put(endpoint_slice("a-1", "a"))
    assert sync.variables("ns", True)["A_SERVICE_HOST"] == "10.43.0.2"
    task = asyncio.create_task(sync.run(proxy))
    async with asyncio.timeout(10):
        assert await proxy.calls.get() == ("sync", ["ns/a"], ["ns/a-1"])
        slices.put(endpoint_slice("a-2", "a"))
        slices.put(endpoint_slice("b-1", "b"))
        assert await proxy.calls.get() == ("update", ["ns/a", "ns/b"], ["ns/a-1", "ns/a-2", "ns/b-1"])
        slices.drop("ns/a-1")
        assert await proxy.calls.get() == ("update", ["ns/a"], ["ns/a-2"])
        proxy.broken = True
        services.put(service("a", "10.43.0.3"))
        assert (await proxy.calls.get())[0] == "sync"
    assert sync.variables("ns", True)["A_SERVICE_HOST"] == "10.43.0.3"
    task.cancel()


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["--node-ip", "x"], "--node-ip: 'x' is not an IP address"), (["--cluster-cidr", "10.42.0.1/16"], "--cluster-cidr"), (["--max-pods", "0"], "--max-pods: must be at least 1"),
        (["--tls-cert-file", "x"], "belong together"), (["--node-labels", "x"], "--node-labels"),
    ],
)  # fmt: skip
def test_bad_flags_are_named(argv: list, text: str):
    with pytest.raises(config.FlagError, match=text):
        config.parse(argv)


def test_flags():
    got = config.parse(["--node-name", "n1", "--cluster-name", "c", "--node-ip", "192.0.2.7", "--cluster-dns", "10.43.0.10", "--node-labels", "a=b,c="])
    assert (got.run_dir, got.node_ips, got.cluster_dns, got.labels) == ("/run/minik/c/n1", ("192.0.2.7",), ("10.43.0.10",), {"a": "b", "c": ""})


def test_only_the_socket_of_that_name_is_taken():
    assert config.inherited_socket("kubelet", {"LISTEN_FDS": "1", "LISTEN_FDNAMES": "https", "LISTEN_PID": "7"}, 7) is None
    assert config.inherited_socket("kubelet", {"LISTEN_FDS": "1", "LISTEN_FDNAMES": "kubelet", "LISTEN_PID": "8"}, 7) is None
