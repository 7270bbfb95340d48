"""This host as `minik` finds it and leaves it: its address, its cgroup trees, what still runs or is mounted there. Effects only, each idempotent; up and down compose them."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import pathlib
import signal
import socket
import time

MNT_DETACH = 2
CGROUP_ROOT = pathlib.Path("/sys/fs/cgroup")


def default_address() -> str:
    """The IPv4 address this host is known by: that of the interface of the default route, else the first that is not loopback, else 127.0.0.1. Sends nothing: connect(2) on
    UDP only looks up the route (TEST-NET-1, RFC 5737)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        try:
            s.connect(("192.0.2.1", 9))
            return s.getsockname()[0]
        except OSError:
            pass
    for _, name in socket.if_nameindex():
        with contextlib.suppress(OSError):
            address = _interface_address(name)
            if not address.startswith("127."):
                return address
    return "127.0.0.1"


def _interface_address(name: str) -> str:
    import fcntl

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        packed = fcntl.ioctl(s.fileno(), 0x8915, name.encode()[:15].ljust(256, b"\0"))  # SIOCGIFADDR, netdevice(7)
    return socket.inet_ntoa(packed[20:24])


def port_holder(address: str, port: int) -> str:
    """Why nothing can listen on this TCP port, "" where it is free."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            s.bind((address, port))
        except OSError as e:
            return e.strerror or str(e)
    return ""


# --- cgroups


def cgroup_trees(parent: str, name: str) -> list[pathlib.Path]:
    """`<hierarchy>/<parent>/minik-<name>` in every mounted hierarchy of either version where it exists; a hierarchy reached by two paths is listed once."""
    found: dict[tuple[int, int], pathlib.Path] = {}
    for hierarchy in [CGROUP_ROOT, *sorted(p for p in CGROUP_ROOT.iterdir() if p.is_dir() and not p.is_symlink())]:
        tree = hierarchy / parent.strip("/") / f"minik-{name}"
        if (tree / "cgroup.procs").exists():
            info = tree.stat()
            found.setdefault((info.st_dev, info.st_ino), tree)
    return list(found.values())


def cgroup_pids(trees: list[pathlib.Path], part: str = "") -> set[int]:
    """Processes in `<tree>/<part>` and below."""
    pids: set[int] = set()
    for tree in trees:
        for folder, _, _ in os.walk(tree / part):
            with contextlib.suppress(OSError):
                pids.update(int(p) for p in pathlib.Path(folder, "cgroup.procs").read_text().split())
    pids.discard(0)
    return pids


def kill_pids(observe, timeout_s: float = 15.0) -> None:
    """SIGKILL what observe() names until it names nothing. Raises TimeoutError with the pids that are left."""
    deadline = time.monotonic() + timeout_s
    pids = observe()
    while pids:
        if time.monotonic() > deadline:
            raise TimeoutError(f"processes that do not die: {sorted(pids)}")
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)
        pids = observe()


def remove_cgroups(trees: list[pathlib.Path], timeout_s: float = 5.0) -> None:
    """rmdir from the leaves up; a cgroup whose last process is still being reaped is EBUSY for a moment."""
    deadline = time.monotonic() + timeout_s
    for tree in trees:
        for folder, _, _ in os.walk(tree, topdown=False):
            while True:
                try:
                    os.rmdir(folder)
                except FileNotFoundError:
                    break
                except OSError as e:
                    if e.errno != errno.EBUSY or time.monotonic() > deadline:
                        raise OSError(e.errno, f"cannot remove cgroup {folder}: {e.strerror}") from e
                    time.sleep(0.01)
                else:
                    break


# --- mounts


def mounts_below(*folders: str) -> list[str]:
    """Mount points under any of `folders`, deepest first (proc(5), mountinfo; octal escapes undone)."""
    points = []
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as f:
        for line in f:
            point = line.split(" ", 5)[4]
            for code, char in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
                point = point.replace(code, char)
            if any(point.startswith(folder.rstrip("/") + "/") for folder in folders):
                points.append(point)
    return points[::-1]


def unmount(points: list[str]) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    for point in points:
        if libc.umount2(os.fsencode(point), MNT_DETACH) and ctypes.get_errno() not in (errno.EINVAL, errno.ENOENT):
            code = ctypes.get_errno()
            raise OSError(code, f"cannot unmount {point}: {os.strerror(code)}")


# --- processes


def pss_kib(pid: int) -> int:
    """Proportional set size, proc(5) smaps_rollup; 0 where the process is gone."""
    try:
        with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as f:
            return next(int(line.split()[1]) for line in f if line.startswith("Pss:"))
    except (OSError, StopIteration):
        return 0
