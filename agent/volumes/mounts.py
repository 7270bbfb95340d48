"""tmpfs mounts of this node (mount(2), umount2(2)). Blocking, microseconds. Called by volumes.Volumes alone."""

from __future__ import annotations

import ctypes
import os

MS_NOSUID, MS_NODEV, MS_NOEXEC = 2, 4, 8
MNT_DETACH = 2

_libc = ctypes.PyDLL(None, use_errno=True)
_libc.mount.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p)
_libc.umount2.argtypes = (ctypes.c_char_p, ctypes.c_int)


def mount_tmpfs(path: str, size_bytes: int = 0, mode: int = 0o777) -> None:
    """`size_bytes` 0: half of the memory (tmpfs(5)). Raises OSError."""
    options = f"mode={mode:o}" + (f",size={size_bytes}" if size_bytes else "")
    if _libc.mount(b"tmpfs", os.fsencode(path), b"tmpfs", MS_NOSUID | MS_NODEV, options.encode()) < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"cannot mount tmpfs at {path}: {os.strerror(code)}")


def umount(path: str) -> None:
    """Lazily. Raises OSError."""
    if _libc.umount2(os.fsencode(path), MNT_DETACH) < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"cannot unmount {path}: {os.strerror(code)}")


def is_tmpfs(path: str) -> bool:
    """Whether the file system that holds `path` is a tmpfs, by /proc/self/mountinfo (proc(5))."""
    path = os.path.realpath(path)
    best, kind = "", ""
    with open("/proc/self/mountinfo") as f:
        for line in f:
            left, _, right = line.partition(" - ")
            point = left.split(" ")[4].encode().decode("unicode_escape")
            if (path == point or path.startswith(point.rstrip("/") + "/")) and len(point) >= len(best):
                best, kind = point, right.split(" ", 1)[0]
    return kind == "tmpfs"


def mounts_below(folder: str) -> list[str]:
    """Mount points at or below `folder`, deepest first."""
    folder = os.path.realpath(folder)
    found = []
    with open("/proc/self/mountinfo") as f:
        for line in f:
            point = line.split(" ")[4].encode().decode("unicode_escape")
            if point == folder or point.startswith(folder + "/"):
                found.append(point)
    return sorted(found, key=len, reverse=True)
