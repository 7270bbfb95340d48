"""This machine as a Node: what it has (observe_machine), the Node object (render_*, pure), registration, status and the Lease that says it lives. Called by agent.__main__."""

from __future__ import annotations

import asyncio
import logging
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agent import podspec
from apiserver.api import errors, kinds
from apiserver.client.client import Client

log = logging.getLogger("node")
JSON = dict[str, Any]
VERSION = "v1.36.0"
LEASE_NAMESPACE = "kube-node-lease"
LEASE_PERIOD_S, LEASE_DURATION_S = 10.0, 40
STATUS_CHECK_S, STATUS_REPORT_S = 10.0, 300.0
EVICTION_MEMORY_BYTES = 100 << 20
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "ppc64le": "ppc64le", "s390x": "s390x", "riscv64": "riscv64"}


@dataclass(frozen=True, slots=True)
class Machine:
    """What the host has and is. Sizes in bytes."""

    cpus: int
    memory_bytes: int
    memory_available_bytes: int
    disk_bytes: int
    disk_free_bytes: int
    pids_max: int
    pids_used: int
    machine_id: str
    system_uuid: str
    boot_id: str
    kernel: str
    os_image: str
    machine: str

    @property
    def architecture(self) -> str:
        return ARCHITECTURES.get(self.machine, self.machine)


@dataclass(frozen=True, slots=True)
class NodeConfig:
    name: str
    ips: tuple[str, ...]
    port: int
    max_pods: int
    labels: Mapping[str, str]
    taints: Sequence[Mapping[str, str]] = ()


def observe_machine(data_dir: str) -> Machine:
    """Raises OSError where /proc cannot be read."""
    memory = dict(line.split(":", 1) for line in _read("/proc/meminfo").splitlines() if ":" in line)
    disk = os.statvfs(data_dir)
    loadavg = _read("/proc/loadavg").split()
    release = dict(line.split("=", 1) for line in _read("/etc/os-release").splitlines() if "=" in line)
    return Machine(
        cpus=len(os.sched_getaffinity(0)), memory_bytes=int(memory["MemTotal"].split()[0]) * 1024, memory_available_bytes=int(memory["MemAvailable"].split()[0]) * 1024,
        disk_bytes=disk.f_blocks * disk.f_frsize, disk_free_bytes=disk.f_bavail * disk.f_frsize,
        pids_max=int(_read("/proc/sys/kernel/pid_max") or 32768), pids_used=int(loadavg[3].split("/")[1]) if len(loadavg) > 3 else 0,
        machine_id=_read("/etc/machine-id"), system_uuid=_read("/sys/class/dmi/id/product_uuid") or _read("/etc/machine-id"),
        boot_id=_read("/proc/sys/kernel/random/boot_id"), kernel=platform.release(), os_image=release.get("PRETTY_NAME", "Linux").strip('"'), machine=platform.machine(),
    )  # fmt: skip


def _read(path: str) -> str:
    try:
        with open(path) as f:
            return f.read().strip()
    except OSError:
        return ""


def capacity(machine: Machine, max_pods: int) -> JSON:
    return {"cpu": str(machine.cpus), "memory": f"{machine.memory_bytes // 1024}Ki", "ephemeral-storage": f"{machine.disk_bytes // 1024}Ki", "pods": str(max_pods)}


def allocatable(machine: Machine, max_pods: int) -> JSON:
    """Capacity without what kubelet's default eviction thresholds keep free: 100 Mi of memory, a tenth of the disk."""
    memory = max(machine.memory_bytes - EVICTION_MEMORY_BYTES, 0)
    return capacity(machine, max_pods) | {"memory": f"{memory // 1024}Ki", "ephemeral-storage": str(machine.disk_bytes * 9 // 10)}


def labels(config: NodeConfig, machine: Machine) -> dict[str, str]:
    base = {"kubernetes.io/hostname": config.name, "kubernetes.io/os": "linux", "kubernetes.io/arch": machine.architecture}
    return {**{f"beta.{k}": base[k] for k in ("kubernetes.io/os", "kubernetes.io/arch")}, **base, **config.labels}


def render_node(config: NodeConfig, machine: Machine) -> JSON:
    """The Node to create; its status follows by render_status."""
    spec: JSON = {"taints": [dict(t) for t in config.taints]} if config.taints else {}
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": config.name, "labels": labels(config, machine)}, "spec": spec}


def render_status(config: NodeConfig, machine: Machine, not_ready: str, old: Mapping[str, Any], now: float) -> JSON:
    """core/v1 NodeStatus; `not_ready`: why no pod can run here, "" when they can. Transition times of conditions that did not change are kept."""
    addresses = [{"type": "InternalIP", "address": ip} for ip in config.ips] + [{"type": "Hostname", "address": config.name}]
    info = {
        "machineID": machine.machine_id, "systemUUID": machine.system_uuid, "bootID": machine.boot_id, "kernelVersion": machine.kernel, "osImage": machine.os_image,
        "containerRuntimeVersion": "minik://0.1.0", "kubeletVersion": VERSION, "kubeProxyVersion": VERSION, "operatingSystem": "linux", "architecture": machine.architecture,
    }  # fmt: skip
    return {
        "capacity": capacity(machine, config.max_pods), "allocatable": allocatable(machine, config.max_pods), "addresses": addresses, "nodeInfo": info,
        "daemonEndpoints": {"kubeletEndpoint": {"Port": config.port}}, "conditions": conditions(machine, not_ready, old, now),
    }  # fmt: skip


def conditions(machine: Machine, not_ready: str, old: Mapping[str, Any], now: float) -> list[JSON]:
    """The node conditions that kubelet reports (k8s.io/docs: Node Status)."""
    memory_low = machine.memory_available_bytes < EVICTION_MEMORY_BYTES
    disk_low = machine.disk_free_bytes * 10 < machine.disk_bytes
    pids_low = machine.pids_used * 10 > machine.pids_max * 9
    values = [
        ("MemoryPressure", memory_low, "KubeletHasInsufficientMemory" if memory_low else "KubeletHasSufficientMemory", f"kubelet has {'in' if memory_low else ''}sufficient memory available"),
        ("DiskPressure", disk_low, "KubeletHasDiskPressure" if disk_low else "KubeletHasNoDiskPressure", f"kubelet has {'' if disk_low else 'no '}disk pressure"),
        ("PIDPressure", pids_low, "KubeletHasInsufficientPID" if pids_low else "KubeletHasSufficientPID", f"kubelet has {'in' if pids_low else ''}sufficient PID available"),
        ("Ready", not not_ready, "KubeletNotReady" if not_ready else "KubeletReady", not_ready or "kubelet is posting ready status"),
    ]
    before = {c["type"]: c for c in old.get("conditions") or ()}
    stamp = podspec.format_time(now)
    result = []
    for kind, value, reason, message in values:
        text = "True" if value else "False"
        known = before.get(kind) or {}
        since = known.get("lastTransitionTime") if known.get("status") == text else None
        result.append({"type": kind, "status": text, "reason": reason, "message": message, "lastHeartbeatTime": stamp, "lastTransitionTime": since or stamp})
    return result


def without_heartbeat(status: Mapping[str, Any]) -> JSON:
    """What makes a status worth reporting before its time."""
    return {**status, "conditions": [{k: v for k, v in c.items() if k != "lastHeartbeatTime"} for c in status["conditions"]]}


class NodeReporter:
    """Registers the node and keeps its status and Lease. `not_ready()` says why no pod can run here, or ""."""

    def __init__(self, client: Client, config: NodeConfig, observe: Callable[[], Machine], not_ready: Callable[[], str], now: Callable[[], float]) -> None:
        self._client, self._config, self._observe, self._not_ready, self._now = client, config, observe, not_ready, now
        self._changed = asyncio.Event()
        self._reported: JSON | None = None
        self._reported_at = 0.0
        self._lease: JSON | None = None
        self.node: JSON = {}

    def changed(self) -> None:
        """Something that not_ready() looks at is different now."""
        self._changed.set()

    async def register(self) -> JSON:
        """Create the Node, or bring its labels up to date. Goes on trying while the server cannot be reached. Raises ApiError where it refuses."""
        machine, delay = self._observe(), 0.2
        while True:
            try:
                return await self._register(machine)
            except (errors.Unavailable, errors.Timeout, errors.TooManyRequests, errors.InternalError, OSError) as e:
                log.warning("cannot register node %s: %s (again in %g s)", self._config.name, e, delay)
                await asyncio.sleep(delay)
                delay = min(delay * 2, 5.0)

    async def _register(self, machine: Machine) -> JSON:
        name = self._config.name
        try:
            self.node = await self._client.get(kinds.NODES, name)
            wanted = labels(self._config, machine)
            if any((self.node["metadata"].get("labels") or {}).get(k) != v for k, v in wanted.items()):
                self.node = await self._client.patch(kinds.NODES, name, {"metadata": {"labels": wanted}})
        except errors.NotFound:
            try:
                self.node = await self._client.create(kinds.NODES, render_node(self._config, machine))
                log.info("node %s registered", name)
            except errors.AlreadyExists:
                return await self._register(machine)
        return self.node

    async def run_status(self) -> None:
        """Report on every change, and every 5 minutes without one."""
        while True:
            try:
                await self._report()
            except (errors.ApiError, OSError) as e:
                log.warning("node %s: cannot write its status: %s", self._config.name, e)
                if isinstance(e, errors.NotFound):
                    await self.register()
                await asyncio.sleep(1)
                continue
            except Exception:
                log.exception("node status")
            self._changed.clear()
            try:
                async with asyncio.timeout(STATUS_CHECK_S):
                    await self._changed.wait()
            except TimeoutError:
                pass

    async def _report(self) -> None:
        now = self._now()
        status = render_status(self._config, self._observe(), self._not_ready(), self.node.get("status") or {}, now)
        if self._reported is not None and now - self._reported_at < STATUS_REPORT_S and without_heartbeat(status) == self._reported:
            return
        self.node = await self._client.patch(kinds.NODES, self._config.name, {"status": status}, type="strategic", subresource="status")
        self._reported, self._reported_at = without_heartbeat(status), now

    async def run_lease(self) -> None:
        """Renew every 10 s; a missed renewal is tried again after 1 s."""
        while True:
            try:
                await self._renew()
                await asyncio.sleep(LEASE_PERIOD_S)
            except (errors.ApiError, OSError) as e:
                log.warning("node %s: cannot renew its lease: %s", self._config.name, e)
                self._lease = None
                await asyncio.sleep(1)
            except Exception:
                log.exception("node lease")
                await asyncio.sleep(LEASE_PERIOD_S)

    async def _renew(self) -> None:
        name, stamp = self._config.name, podspec.format_micro_time(self._now())
        spec = {"holderIdentity": name, "leaseDurationSeconds": LEASE_DURATION_S, "renewTime": stamp}
        if self._lease is None:
            try:
                self._lease = await self._client.get(kinds.LEASES, name, LEASE_NAMESPACE)
            except errors.NotFound:
                owner = {"apiVersion": "v1", "kind": "Node", "name": name, "uid": self.node.get("metadata", {}).get("uid", "")}
                meta = {"name": name, "namespace": LEASE_NAMESPACE, **({"ownerReferences": [owner]} if owner["uid"] else {})}
                self._lease = await self._client.create(kinds.LEASES, {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": meta, "spec": spec})
                return
        try:
            self._lease = await self._client.update(kinds.LEASES, {**self._lease, "spec": {**(self._lease.get("spec") or {}), **spec}})
        except (errors.Conflict, errors.NotFound):
            self._lease = None
            raise
