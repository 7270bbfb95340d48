"""The zygote's own mount namespace: small, since every container's start copies it, and read-only but for what it must write. Called once, by zygote.main.

It must be re-executed afterwards: then /proc/self/exe of a container's process leads, until its execve, to a read-only mount, and an image cannot use it to overwrite the
host's interpreter (what CVE-2019-5736 did to runc). Standard library only.
"""

from __future__ import annotations

import os

from agent.runtime import syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_KERNEL = ("/", "/proc", "/sys", "/sys/fs/cgroup")


def mapped_files(maps: str) -> set[str]:
    """Paths of /proc/self/maps: the interpreter and its libraries. Pure."""
    return {line.split(None, 5)[5] for line in maps.splitlines() if line.count("/") and len(line.split(None, 5)) == 6 and line.split(None, 5)[5].startswith("/")}


def mount_points(mountinfo: str) -> list[str]:
    """In the order in which they were mounted. Pure; proc(5)."""
    return [line.split()[4].replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\") for line in mountinfo.splitlines()]


def superfluous(points: Sequence[str], needed: Iterable[str], trees: Iterable[str]) -> list[str]:
    """What to unmount, last first: all that neither holds a needed path nor lies in one of `trees`. Pure."""
    keep = [*needed, *trees, *_KERNEL]
    inside = ("/sys/fs/cgroup/", *(t.rstrip("/") + "/" for t in trees))

    def wanted(point: str) -> bool:
        return point.startswith(inside) or any(k == point or k.startswith(point.rstrip("/") + "/") for k in keep)

    return [p for p in reversed(points) if not wanted(p)]


def enter(writable: Sequence[str], readable: Sequence[str]) -> None:
    """`writable`: [run directory, data directory]; `readable`: files and directories that this program needs. What other mounts hold is out of sight from then on: image
    layers lie in the data directory (mount sources come as descriptors). Raises OSError."""
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.mount("", "/", "", syscalls.MS_REC | syscalls.MS_PRIVATE)
    with open("/proc/self/maps", encoding="utf-8") as f:
        needed = mapped_files(f.read()) | {os.path.realpath(p) for p in readable}
    run_dir, *data = [os.path.realpath(p) for p in writable]
    with open("/proc/self/mountinfo", encoding="utf-8") as f:
        points = mount_points(f.read())
    for point in superfluous(points, [*needed, run_dir], data):
        try:
            syscalls.umount(point)
        except OSError:
            continue  # hidden under another mount, or gone with its parent
    for path in (run_dir, *data):
        syscalls.mount(path, path, "", syscalls.MS_BIND | (syscalls.MS_REC if path != run_dir else 0))
    syscalls.mount_setattr("/", syscalls.MOUNT_ATTR_RDONLY, recursive=True)
    for path in ("/proc", "/sys/fs/cgroup", run_dir, *data):
        syscalls.mount_setattr(path, 0, attr_clr=syscalls.MOUNT_ATTR_RDONLY, recursive=True)
