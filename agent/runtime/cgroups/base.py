"""The driver's interface and what both versions share. Paths are relative to the hierarchy's visible root, e.g. "minik-c1/node1/pods/<uid>/<id>"; resources are OCI
linux.resources objects. Every failure is an OSError that names the file.
"""

from __future__ import annotations

import errno
import os
import signal
import time
from collections import namedtuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

Stats = namedtuple("Stats", "cpu_ns memory_bytes working_set_bytes memory_limit_bytes pids")
REMOVE_DEADLINE_S = 5.0
# What a container may use without asking (OCI runtime-spec, Default Devices; mknod alone is harmless): (type, major, minor, access), -1 = any.
DEFAULT_DEVICES = (
    ("c", -1, -1, "m"), ("b", -1, -1, "m"), ("c", 1, 3, "rwm"), ("c", 1, 5, "rwm"), ("c", 1, 7, "rwm"), ("c", 1, 8, "rwm"), ("c", 1, 9, "rwm"),
    ("c", 5, 0, "rwm"), ("c", 5, 1, "rwm"), ("c", 5, 2, "rwm"), ("c", 136, -1, "rwm"),
)  # fmt: skip


class Driver:
    """`version` is 1 or 2; `hierarchies`: what a container's /sys/fs/cgroup shows, as plan.Host wants it."""

    version = 0
    hierarchies: tuple | None = None

    def create(self, path: str, resources: Mapping[str, Any], *, leaf: bool) -> None:
        """Make the group (and its parents) and apply the limits. Processes may join only a leaf; only a leaf gets a device filter. Idempotent."""
        raise NotImplementedError

    def update(self, path: str, resources: Mapping[str, Any]) -> None:
        raise NotImplementedError

    def join_files(self, path: str) -> tuple[str, ...]:
        """Files that a process writes "0" to in order to join; none where `clone_into` does it."""
        raise NotImplementedError

    def clone_into(self, path: str) -> int:
        """A descriptor for CLONE_INTO_CGROUP, the caller's to close; -1 where the version has no such thing."""
        raise NotImplementedError

    def pids(self, path: str) -> list[int]:
        """Of the group and everything below it; nothing where it is gone."""
        raise NotImplementedError

    def kill(self, path: str) -> None:
        """SIGKILL to everything in it, however fast it forks. Idempotent."""
        raise NotImplementedError

    def oom_kills(self, path: str) -> int:
        """How many processes of the group the kernel killed for its memory limit."""
        raise NotImplementedError

    def stats(self, path: str) -> Stats:
        raise NotImplementedError

    def children(self, path: str) -> set[str]:
        """Names of the groups right below, in any hierarchy."""
        raise NotImplementedError

    def remove(self, path: str) -> None:
        """Only an empty group (no process) can go: waits a moment for the dead to leave. Idempotent."""
        raise NotImplementedError


def write(path: str, value: str) -> None:
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, value.encode())
        finally:
            os.close(fd)
    except OSError as e:
        raise OSError(e.errno, f"cannot write {value.strip()!r} to {path}: {os.strerror(e.errno or 0).lower()}") from e


def read(path: str) -> str:
    """Raises OSError; "" for a file that this kernel does not have."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return ""
    try:
        parts = []
        while part := os.read(fd, 65536):
            parts.append(part)
        return b"".join(parts).decode()
    except OSError as e:
        if e.errno == errno.ENODEV:  # removed while we read
            return ""
        raise
    finally:
        os.close(fd)


def read_int(path: str) -> int:
    """0 where the file is missing or says "max"."""
    text = read(path).strip()
    return int(text) if text.lstrip("-").isdigit() else 0


def flat_keyed(text: str) -> dict[str, int]:
    """cgroup files of "name number" lines."""
    found = {}
    for line in text.splitlines():
        name, _, value = line.partition(" ")
        if value.strip().isdigit():
            found[name] = int(value)
    return found


def device_rules(resources: Mapping[str, Any]) -> list[tuple[bool, str, int, int, str]]:
    """(allow, type "a"|"b"|"c", major, minor, access) in order, the default set first: everything else is refused, unless the spec says otherwise."""
    rules = [(False, "a", -1, -1, "rwm"), *((True, *d) for d in DEFAULT_DEVICES)]
    for r in resources.get("devices") or ():
        major, minor = r.get("major"), r.get("minor")
        rules.append((bool(r.get("allow")), r.get("type") or "a", -1 if major is None else major, -1 if minor is None else minor, r.get("access") or "rwm"))
    return rules


def children(folder: str) -> set[str]:
    try:
        return {entry.name for entry in os.scandir(folder) if entry.is_dir(follow_symlinks=False)}
    except FileNotFoundError:
        return set()


def kill_pids(pids: list[int]) -> None:
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def remove_tree(top: str) -> None:
    """rmdir of a cgroup directory and those below it (its files are the kernel's). Retries while the dead are still leaving. Raises OSError after REMOVE_DEADLINE_S."""
    try:
        os.rmdir(top)
        return
    except FileNotFoundError:
        return
    except OSError:
        folders = [folder for folder, _, _ in os.walk(top, topdown=False)]
    deadline = time.monotonic() + REMOVE_DEADLINE_S
    for folder in folders:
        pause_s = 0.0001
        while True:
            try:
                os.rmdir(folder)
            except FileNotFoundError:
                break
            except OSError as e:
                if e.errno != errno.EBUSY or time.monotonic() > deadline:
                    raise OSError(e.errno, f"cannot remove cgroup {folder}: {os.strerror(e.errno or 0).lower()}") from e
                time.sleep(pause_s)
                pause_s = min(pause_s * 2, 0.01)
                continue
            break
