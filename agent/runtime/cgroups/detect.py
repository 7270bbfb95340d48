"""Which cgroups this process sees, from /proc/self/mountinfo (proc(5)): the last mount on a path wins, since a test's host bind-mounts its own subtree over /sys/fs/cgroup."""

from __future__ import annotations

import errno
import os

from agent.runtime.cgroups import base, v1, v2

CONTROLLERS = ("cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids", "hugetlb", "net_cls", "net_prio", "perf_event", "rdma", "misc")


def parse_mountinfo(text: str) -> tuple[dict[str, tuple[str, ...]], list[str]]:
    """(v1 mount point → controllers, v2 mount points) of what is mounted, hidden mounts left out where a later one has the same path. Pure."""
    mounts: dict[str, tuple[str, str]] = {}
    for line in text.splitlines():
        left, _, right = line.partition(" - ")
        mountpoint = left.split()[4].replace("\\040", " ")
        fstype, _, options = right.split(" ", 2)
        mounts.pop(mountpoint, None)
        mounts[mountpoint] = (fstype, options)
    hierarchies = {}
    for mountpoint, (fstype, options) in mounts.items():
        if fstype == "cgroup":
            hierarchies[mountpoint] = tuple(o for o in options.split(",") if o in CONTROLLERS or o.startswith("name="))
    return hierarchies, [m for m, (fstype, _) in mounts.items() if fstype == "cgroup2"]


def driver(mountinfo: str | None = None) -> base.Driver:
    """v2 where its tree has the memory controller, else v1. Raises OSError(ENOSYS) where neither is usable."""
    if mountinfo is None:
        with open("/proc/self/mountinfo", encoding="utf-8") as f:
            mountinfo = f.read()
    hierarchies, unified = parse_mountinfo(mountinfo)
    for mountpoint in unified:
        if "memory" in base.read(f"{mountpoint}/cgroup.controllers").split():
            return v2.DriverV2(mountpoint)
    found: dict[tuple[str, ...], str] = {}
    for mountpoint, controllers in hierarchies.items():
        usable = controllers and os.path.exists(f"{mountpoint}/cgroup.procs")
        if usable and (controllers not in found or mountpoint.startswith("/sys/fs/cgroup/")):
            found[controllers] = mountpoint
    if not any("memory" in c for c in found):
        raise OSError(errno.ENOSYS, "cannot use cgroups: neither a cgroup v2 tree with the memory controller nor a v1 memory hierarchy is mounted")
    return v1.DriverV1([v1.Hierarchy(controllers, mountpoint) for controllers, mountpoint in found.items()])
