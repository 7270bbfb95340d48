"""cgroup v1: one hierarchy a controller (or several mounted together). kernel's Documentation/admin-guide/cgroup-v1. See base.Driver."""

from __future__ import annotations

import errno
import os
import time
from collections import namedtuple

from agent.runtime.cgroups import base

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

# `controllers`: ("cpu", "cpuacct") or ("name=systemd",); `mountpoint`: where this process sees the hierarchy.
Hierarchy = namedtuple("Hierarchy", "controllers mountpoint")
_UNLIMITED_MEMORY = 1 << 62
_FREEZE_DEADLINE_S = 2.0


class DriverV1(base.Driver):
    version = 1

    def __init__(self, hierarchies: Sequence[Hierarchy]) -> None:
        self._all = tuple(hierarchies)
        self._by_controller = {c: h.mountpoint for h in hierarchies for c in h.controllers}
        self.hierarchies = tuple(_shown(h) for h in hierarchies)

    def _path(self, controller: str, path: str) -> str:
        mountpoint = self._by_controller.get(controller)
        if mountpoint is None:
            raise OSError(errno.ENOSYS, f"cannot limit {path}: this host has no {controller} controller")
        return f"{mountpoint}/{path}"

    def create(self, path: str, resources: Mapping[str, Any], *, leaf: bool) -> None:
        for h in self._all:
            target = f"{h.mountpoint}/{path}"
            try:
                os.mkdir(target, 0o755)
            except FileExistsError:
                continue
            except FileNotFoundError:
                self._make_parents(h, path)
                try:
                    os.mkdir(target, 0o755)
                except FileExistsError:
                    continue
            except OSError as e:
                raise OSError(e.errno, f"cannot make cgroup {target}: {os.strerror(e.errno or 0).lower()}") from e
            if "cpuset" in h.controllers:
                self._fill_cpuset(target)
        self.update(path, resources)
        if leaf and "devices" in self._by_controller:
            self._set_devices(self._path("devices", path), resources)

    def _make_parents(self, h: Hierarchy, path: str) -> None:
        current = h.mountpoint
        for part in path.split("/")[:-1]:
            current += "/" + part
            try:
                os.mkdir(current, 0o755)
            except FileExistsError:
                pass
            if "cpuset" in h.controllers:
                self._fill_cpuset(current)
                base.write(f"{current}/cgroup.clone_children", "1")  # children made from now on start with our cpus and mems

    @staticmethod
    def _fill_cpuset(folder: str) -> None:
        """A cpuset without cpus and mems takes no process (write of a pid: ENOSPC)."""
        for name in ("cpuset.cpus", "cpuset.mems"):
            if not base.read(f"{folder}/{name}").strip():
                base.write(f"{folder}/{name}", base.read(f"{os.path.dirname(folder)}/{name}").strip())

    def update(self, path: str, resources: Mapping[str, Any]) -> None:
        cpu = resources.get("cpu") or {}
        if cpu.get("shares"):
            base.write(self._path("cpu", path) + "/cpu.shares", str(cpu["shares"]))
        if cpu.get("period"):
            base.write(self._path("cpu", path) + "/cpu.cfs_period_us", str(cpu["period"]))
        if cpu.get("quota"):
            base.write(self._path("cpu", path) + "/cpu.cfs_quota_us", str(cpu["quota"] if cpu["quota"] > 0 else -1))
        for name in ("cpus", "mems"):
            if cpu.get(name):
                base.write(self._path("cpuset", path) + f"/cpuset.{name}", cpu[name])
        self._set_memory(path, resources.get("memory") or {})
        limit = (resources.get("pids") or {}).get("limit")
        if limit is not None:
            base.write(self._path("pids", path) + "/pids.max", str(limit) if limit > 0 else "max")

    def _set_memory(self, path: str, memory: Mapping[str, Any]) -> None:
        limit, swap = memory.get("limit"), memory.get("swap")
        if limit or swap:
            folder = self._path("memory", path)
            files = [(f"{folder}/memory.limit_in_bytes", limit), (f"{folder}/memory.memsw.limit_in_bytes", swap)]
            wanted = [(name, value) for name, value in files if value and os.path.exists(name)]
            for attempt in (wanted, list(reversed(wanted))):  # memsw must never be below limit: growing and shrinking need opposite orders
                try:
                    for name, value in attempt:
                        base.write(name, str(value if value > 0 else -1))
                    break
                except OSError as e:
                    if e.errno != errno.EINVAL or attempt is not wanted:
                        raise
        if memory.get("reservation"):
            base.write(self._path("memory", path) + "/memory.soft_limit_in_bytes", str(memory["reservation"]))
        if memory.get("disableOOMKiller"):
            base.write(self._path("memory", path) + "/memory.oom_control", "1")
        if memory.get("swappiness") is not None:
            base.write(self._path("memory", path) + "/memory.swappiness", str(memory["swappiness"]))

    @staticmethod
    def _set_devices(folder: str, resources: Mapping[str, Any]) -> None:
        for allow, kind, major, minor, access in base.device_rules(resources):
            if kind == "a":
                base.write(f"{folder}/devices.{'allow' if allow else 'deny'}", "a")
            else:
                numbers = f"{'*' if major < 0 else major}:{'*' if minor < 0 else minor}"
                base.write(f"{folder}/devices.{'allow' if allow else 'deny'}", f"{kind} {numbers} {access}")

    def join_files(self, path: str) -> tuple[str, ...]:
        return tuple(f"{h.mountpoint}/{path}/tasks" for h in self._all)

    def clone_into(self, path: str) -> int:
        return -1

    def _freezer(self) -> str:
        return "freezer" if "freezer" in self._by_controller else next(iter(self._by_controller))

    def pids(self, path: str) -> list[int]:
        found = []
        for folder, _, _ in os.walk(f"{self._by_controller[self._freezer()]}/{path}"):
            found += [int(p) for p in base.read(f"{folder}/cgroup.procs").split()]
        return found

    def kill(self, path: str) -> None:
        """Frozen first, so that nothing forks away meanwhile; a thawed process finds its SIGKILL pending."""
        state = f"{self._by_controller[self._freezer()]}/{path}/freezer.state"
        if not os.path.exists(state):
            base.kill_pids(self.pids(path))
            return
        base.write(state, "FROZEN")
        try:
            deadline = time.monotonic() + _FREEZE_DEADLINE_S
            while base.read(state).strip() == "FREEZING" and time.monotonic() < deadline:
                time.sleep(0.001)
            base.kill_pids(self.pids(path))
        finally:
            base.write(state, "THAWED")

    def oom_kills(self, path: str) -> int:
        folder = self._by_controller.get("memory")
        return base.flat_keyed(base.read(f"{folder}/{path}/memory.oom_control")).get("oom_kill", 0) if folder else 0

    def stats(self, path: str) -> base.Stats:
        cpu, memory, pids = (self._by_controller.get(c, "") for c in ("cpuacct", "memory", "pids"))
        usage = base.read_int(f"{memory}/{path}/memory.usage_in_bytes")
        inactive = base.flat_keyed(base.read(f"{memory}/{path}/memory.stat")).get("total_inactive_file", 0)
        limit = base.read_int(f"{memory}/{path}/memory.limit_in_bytes")
        return base.Stats(
            cpu_ns=base.read_int(f"{cpu}/{path}/cpuacct.usage"),
            memory_bytes=usage,
            working_set_bytes=max(0, usage - inactive),
            memory_limit_bytes=0 if limit >= _UNLIMITED_MEMORY else limit,
            pids=base.read_int(f"{pids}/{path}/pids.current"),
        )

    def children(self, path: str) -> set[str]:
        return {name for h in self._all for name in base.children(f"{h.mountpoint}/{path}")}

    def remove(self, path: str) -> None:
        for h in self._all:
            base.remove_tree(f"{h.mountpoint}/{path}")


def _shown(h: Hierarchy) -> tuple[str, str, tuple[str, ...]]:
    """(directory, mount options, symlinks) for a container's own /sys/fs/cgroup, in the layout that programs expect: "cpu,cpuacct" with links cpu and cpuacct."""
    name = ",".join(c.removeprefix("name=") for c in h.controllers)
    options = ",".join(h.controllers) if not h.controllers[0].startswith("name=") else f"none,{h.controllers[0]}"
    return name, options, tuple(h.controllers) if len(h.controllers) > 1 else ()
