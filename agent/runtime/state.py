"""Durable state of the zygote: `<run>/containers/<id>/state.json`, `<run>/sandboxes/<id>.json`, and the guard's `<run>/exits/` records that it reads. A write is a rename, so
it is whole or not there; the run directory lives as long as the machine is up, as the containers do. Standard library only.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

STALE_EXIT_S = 3600.0
_PIDFD_GET_INFO, _PIDFD_INFO_EXIT = 0xC040FF0B, 8  # linux/pidfd.h, Linux 6.15
STATUS_FIELDS = ("id", "sandbox_id", "state", "pid", "created_at", "started_at", "finished_at", "exit_code", "reason", "message")
_DURABLE_FIELDS = (*STATUS_FIELDS, "start_time", "cgroup", "own_pid_namespace", "confirmed", "start_errno")


class Container:
    """One container as the zygote knows it; everything else is in its config.json. `confirmed`: its execve is known to have succeeded; until then a running one may be a
    child that waits for a word of a zygote that has died."""

    __slots__ = (*_DURABLE_FIELDS, "pidfd")

    def __init__(self, container_id: str, sandbox_id: str, cgroup: str, now: float) -> None:
        self.id, self.sandbox_id, self.cgroup = container_id, sandbox_id, cgroup
        self.state = "created"
        self.created_at, self.started_at, self.finished_at = now, 0.0, 0.0
        self.pid = self.start_time = self.exit_code = 0
        self.reason = self.message = ""
        self.own_pid_namespace = True
        self.confirmed = False
        self.start_errno = 0
        self.pidfd = -1

    def status(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in STATUS_FIELDS}

    def durable(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in _DURABLE_FIELDS}


def start_time(pid: int) -> int:
    """proc(5) stat field 22, clock ticks since boot: with the pid it names a process for as long as the machine is up. 0 where it is gone."""
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return 0
    try:
        data = os.read(fd, 4096)
        return int(data[data.rindex(b")") + 2 :].split()[19])
    except (OSError, ValueError):
        return 0
    finally:
        os.close(fd)


def process_name(pid: int) -> str:
    """proc(5) comm, "" where it is gone; execve sets it anew."""
    try:
        with open(f"/proc/{pid}/comm", "rb") as f:
            return f.read().rstrip(b"\n").decode(errors="replace")
    except OSError:
        return ""


def write_json(path: str, value: Any) -> None:
    fd = os.open(path + ".new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, json.dumps(value, separators=(",", ":")).encode())
    finally:
        os.close(fd)
    os.rename(path + ".new", path)


def read_json(path: str) -> Any:
    with open(path, "rb") as f:
        return json.loads(f.read())


class State:
    """The run directory."""

    def __init__(self, run_dir: str) -> None:
        self.containers_dir = os.path.join(run_dir, "containers")
        self.sandboxes_dir = os.path.join(run_dir, "sandboxes")
        self.exits_dir = os.path.join(run_dir, "exits")
        for path in (self.containers_dir, self.sandboxes_dir, self.exits_dir):
            os.makedirs(path, mode=0o700, exist_ok=True)

    def config(self, container_id: str) -> dict[str, Any]:
        """The client's record. Raises OSError, ValueError."""
        return read_json(f"{self.containers_dir}/{container_id}/config.json")

    def save(self, container: Container) -> None:
        write_json(f"{self.containers_dir}/{container.id}/state.json", container.durable())

    def load(self) -> tuple[list[Container], list[str]]:
        """(containers, names of what cannot be read)."""
        found, unreadable = [], []
        for name in os.listdir(self.containers_dir):
            try:
                saved = read_json(f"{self.containers_dir}/{name}/state.json")
                container = Container(saved["id"], saved["sandbox_id"], saved["cgroup"], saved["created_at"])
                for field in _DURABLE_FIELDS:
                    setattr(container, field, saved[field])
                found.append(container)
            except FileNotFoundError:
                continue  # its creation was never finished
            except (OSError, ValueError, KeyError) as e:
                unreadable.append(f"{name}: {e}")
        return found, unreadable

    def forget(self, container_id: str) -> None:
        """The client removes the rest of the directory."""
        try:
            os.unlink(f"{self.containers_dir}/{container_id}/state.json")
        except FileNotFoundError:
            return

    def save_sandbox(self, sandbox: dict[str, Any]) -> None:
        write_json(f"{self.sandboxes_dir}/{sandbox['config']['id']}.json", sandbox)

    def load_sandboxes(self) -> list[dict[str, Any]]:
        found = []
        for name in os.listdir(self.sandboxes_dir):
            if name.endswith(".json"):
                found.append(read_json(f"{self.sandboxes_dir}/{name}"))
        return found

    def forget_sandbox(self, sandbox_id: str) -> None:
        try:
            os.unlink(f"{self.sandboxes_dir}/{sandbox_id}.json")
        except FileNotFoundError:
            return

    def take_exit(self, pid: int, ticks: int) -> dict[str, Any] | None:
        """The guard's record of an orphan's end: {"code", "status", "time"} in waitid(2)'s terms."""
        try:
            return read_json(f"{self.exits_dir}/{pid}.{ticks}.json")
        except (FileNotFoundError, ValueError):
            return None

    def drop_exit(self, pid: int, ticks: int) -> None:
        """Once what it said is saved elsewhere."""
        try:
            os.unlink(f"{self.exits_dir}/{pid}.{ticks}.json")
        except FileNotFoundError:
            return

    def drop_stale_exits(self, now: float) -> None:
        """Records of orphans that were nobody's container."""
        for name in os.listdir(self.exits_dir):
            path = f"{self.exits_dir}/{name}"
            try:
                if now - os.stat(path).st_mtime > STALE_EXIT_S:
                    os.unlink(path)
            except FileNotFoundError:
                continue


def exit_code(code: int, status: int) -> int:
    """waitid(2)'s si_code and si_status as a shell tells them: 128 + N for death by signal N."""
    return status if code == os.CLD_EXITED else 128 + status


def exit_code_from_pidfd(pidfd: int) -> int | None:
    """PIDFD_GET_INFO tells it to anyone who held a pidfd, after the reaping too (Linux 6.15); None where the kernel does not."""
    info = ctypes.create_string_buffer(64)
    ctypes.c_uint64.from_buffer(info).value = _PIDFD_INFO_EXIT
    try:
        fcntl.ioctl(pidfd, _PIDFD_GET_INFO, info, True)
    except OSError:
        return None
    if not ctypes.c_uint64.from_buffer(info).value & _PIDFD_INFO_EXIT:
        return None
    status = ctypes.c_int32.from_buffer(info, 60).value
    return 128 + (status & 0x7F) if status & 0x7F else status >> 8 & 0xFF


def now() -> float:
    return time.time()
