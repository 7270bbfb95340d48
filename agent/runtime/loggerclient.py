"""The runtime's side of container logs: makes a container's FIFOs, parks them in the guard, tells the logger, and later asks it to drain and forget.

Blocking calls of some tens of microseconds (`create`) or as long as the drain takes (`finish`, which has an asyncio twin).
"""

from __future__ import annotations

import asyncio
import json
import os
import socket

from agent.runtime.fdstore import FdStore


def _request(run_dir: str, op: str, container_id: str) -> socket.socket:
    s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    try:
        s.settimeout(30)
        s.connect(os.path.join(run_dir, "logger.sock"))
        s.send(json.dumps({"op": op, "id": container_id}).encode())
    except OSError as e:
        s.close()
        raise OSError(e.errno, f"cannot reach the logger of {run_dir}: {e.strerror or e}") from e
    return s


def _remember(run_dir: str, container_id: str, config: dict) -> str:
    folder = os.path.join(run_dir, "fifo")
    os.makedirs(folder, mode=0o700, exist_ok=True)
    path = os.path.join(folder, f"{container_id}.json")
    with open(path + ".new", "w", encoding="utf-8") as f:
        json.dump(config, f)
    os.rename(path + ".new", path)
    return folder


def create(run_dir: str, container_id: str, log_path: str, store: FdStore) -> tuple[int, int]:
    """(stdout, stderr): ends for the container, the caller's to close. The guard holds the FIFOs open, so what is written stays readable while no logger runs.
    Raises OSError."""
    folder = os.path.join(run_dir, "fifo")
    os.makedirs(folder, mode=0o700, exist_ok=True)
    held: list[int] = []
    ends: list[int] = []
    try:
        for suffix in ("out", "err"):
            path = os.path.join(folder, f"{container_id}.{suffix}")
            try:
                os.mkfifo(path, 0o600)
            except FileExistsError:
                pass
            held.append(os.open(path, os.O_RDWR | os.O_CLOEXEC))
            ends.append(os.open(path, os.O_RDWR | os.O_CLOEXEC))  # not O_WRONLY: with guard and logger dead nobody reads, and SIGPIPE would kill who writes
        store.put(f"log/{container_id}", held)
        _remember(run_dir, container_id, {"log_path": log_path})
        _request(run_dir, "add", container_id).close()  # the logger's socket is the guard's: the request waits there for a logger that is being restarted
    except OSError:
        for fd in ends:
            os.close(fd)
        raise
    finally:
        for fd in held:
            os.close(fd)
    return ends[0], ends[1]


def create_terminal(run_dir: str, container_id: str, log_path: str, master_fd: int, store: FdStore) -> None:
    """Log what appears on a terminal: its master is parked in the guard and read by the logger alone. Raises OSError."""
    store.put(f"log/{container_id}", [master_fd])
    _remember(run_dir, container_id, {"log_path": log_path, "tty": True})
    _request(run_dir, "add", container_id).close()


def finish(run_dir: str, container_id: str, store: FdStore, attempts: int = 3) -> None:
    """Returns when every byte written so far is in the log file, and the FIFOs are gone. Idempotent; a logger killed meanwhile is asked again. Raises OSError."""
    while True:
        attempts -= 1
        try:
            with _request(run_dir, "finish", container_id) as s:
                answer = s.recv(65536)
            if answer:
                break
        except OSError:
            if not attempts:
                raise
        if not attempts:
            raise OSError(f"the logger of {run_dir} died while it finished {container_id}")
    error = json.loads(answer).get("error")
    if error:
        raise OSError(f"cannot finish the log of {container_id}: {error}")
    store.drop(f"log/{container_id}")


async def finish_async(run_dir: str, container_id: str, store: FdStore) -> None:
    """finish() in a worker thread, with its own connection to the guard."""
    own = FdStore(store.path)
    try:
        await asyncio.to_thread(finish, run_dir, container_id, own)
    finally:
        own.close()
