"""cgroup v2: the unified tree; processes only in leaves. kernel's Documentation/admin-guide/cgroup-v2.rst. See base.Driver."""

from __future__ import annotations

import errno
import os

from agent.runtime.cgroups import base, devices_bpf

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

_WANTED = ("cpu", "memory", "pids", "cpuset", "io", "hugetlb")


def weight_from_shares(shares: int) -> int:
    """cpu.shares 2–262144 (1024 is normal) to cpu.weight 1–10000, the linear map of OCI's crun and of Kubernetes' KEP-2254."""
    return max(1, min(10000, 1 + (max(2, min(262144, shares)) - 2) * 9999 // 262142))


class DriverV2(base.Driver):
    version = 2
    hierarchies = None

    def __init__(self, mountpoint: str) -> None:
        self._root = mountpoint

    def create(self, path: str, resources: Mapping[str, Any], *, leaf: bool) -> None:
        parts = path.split("/")
        current = self._root
        for part in parts:
            self._delegate(current)
            current += "/" + part
            try:
                os.mkdir(current, 0o755)
            except FileExistsError:
                pass
            except OSError as e:
                raise OSError(e.errno, f"cannot make cgroup {current}: {os.strerror(e.errno or 0).lower()}") from e
        self.update(path, resources)
        if leaf:
            devices_bpf.attach(current, base.device_rules(resources))

    @staticmethod
    def _delegate(folder: str) -> None:
        """Give the group's controllers to its children."""
        available = set(base.read(f"{folder}/cgroup.controllers").split())
        enabled = set(base.read(f"{folder}/cgroup.subtree_control").split())
        missing = [c for c in _WANTED if c in available - enabled]
        if not missing:
            return
        try:
            base.write(f"{folder}/cgroup.subtree_control", " ".join(f"+{c}" for c in missing))
        except OSError:
            for controller in missing:  # one that cannot be delegated (cpu with real-time tasks) must not keep the others
                try:
                    base.write(f"{folder}/cgroup.subtree_control", f"+{controller}")
                except OSError as e:
                    if e.errno == errno.EBUSY and controller in ("memory", "pids"):
                        raise OSError(e.errno, f"cannot use cgroup {folder} as a parent: processes are in it (cgroup v2 allows them only in leaves)") from e

    def update(self, path: str, resources: Mapping[str, Any]) -> None:
        folder = f"{self._root}/{path}"
        for name, value in settings(resources).items():
            try:
                base.write(f"{folder}/{name}", value)
            except OSError as e:
                if name == "memory.swap.max" and e.errno == errno.ENOENT:  # a kernel without swap accounting
                    continue
                raise

    def join_files(self, path: str) -> tuple[str, ...]:
        return ()

    def clone_into(self, path: str) -> int:
        return os.open(f"{self._root}/{path}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def pids(self, path: str) -> list[int]:
        found = []
        for folder, _, _ in os.walk(f"{self._root}/{path}"):
            found += [int(p) for p in base.read(f"{folder}/cgroup.procs").split()]
        return found

    def kill(self, path: str) -> None:
        folder = f"{self._root}/{path}"
        if not os.path.isdir(folder):
            return
        if os.path.exists(f"{folder}/cgroup.kill"):  # Linux 5.14
            base.write(f"{folder}/cgroup.kill", "1")
            return
        base.write(f"{folder}/cgroup.freeze", "1")
        try:
            base.kill_pids(self.pids(path))
        finally:
            base.write(f"{folder}/cgroup.freeze", "0")

    def oom_kills(self, path: str) -> int:
        return base.flat_keyed(base.read(f"{self._root}/{path}/memory.events")).get("oom_kill", 0)

    def stats(self, path: str) -> base.Stats:
        folder = f"{self._root}/{path}"
        usage = base.read_int(f"{folder}/memory.current")
        return base.Stats(
            cpu_ns=base.flat_keyed(base.read(f"{folder}/cpu.stat")).get("usage_usec", 0) * 1000,
            memory_bytes=usage,
            working_set_bytes=max(0, usage - base.flat_keyed(base.read(f"{folder}/memory.stat")).get("inactive_file", 0)),
            memory_limit_bytes=base.read_int(f"{folder}/memory.max"),
            pids=base.read_int(f"{folder}/pids.current"),
        )

    def children(self, path: str) -> set[str]:
        return base.children(f"{self._root}/{path}")

    def remove(self, path: str) -> None:
        base.remove_tree(f"{self._root}/{path}")


def settings(resources: Mapping[str, Any]) -> dict[str, str]:
    """OCI linux.resources as files of cgroup v2, in the order to write them; `unified` last, as it is the more particular. Pure."""
    found: dict[str, str] = {}
    cpu, memory = resources.get("cpu") or {}, resources.get("memory") or {}
    if cpu.get("shares"):
        found["cpu.weight"] = str(weight_from_shares(cpu["shares"]))
    if cpu.get("quota") or cpu.get("period"):
        quota = cpu.get("quota") or -1
        found["cpu.max"] = f"{quota if quota > 0 else 'max'} {cpu.get('period') or 100_000}"
    if cpu.get("burst"):
        found["cpu.max.burst"] = str(cpu["burst"])
    for name in ("cpus", "mems"):
        if cpu.get(name):
            found[f"cpuset.{name}"] = cpu[name]
    limit, swap = memory.get("limit"), memory.get("swap")
    if limit:
        found["memory.max"] = str(limit) if limit > 0 else "max"
    if swap:
        found["memory.swap.max"] = "max" if swap < 0 else str(max(0, swap - (limit or 0)))  # v1's swap counts memory too
    if memory.get("reservation"):
        found["memory.low"] = str(memory["reservation"])
    pids = (resources.get("pids") or {}).get("limit")
    if pids is not None:
        found["pids.max"] = str(pids) if pids > 0 else "max"
    return found | dict(resources.get("unified") or {})
