"""What a death in the middle of a call leaves behind: files, mounts and parked descriptors of containers and sandboxes that the zygote has no record of (the record comes last
when one is made and goes first when one is removed). Called by client.Runtime.sweep alone, while nobody makes or removes anything.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Collection

from agent.runtime import fdstore, loggerclient, syscalls

log = logging.getLogger("runtime")
CONTAINER_PARTS = ("log", "stdin", "tty")  # names in the guard's store


def sweep(run_dir: str, data_dir: str, containers: Collection[str], sandboxes: Collection[str]) -> list[str]:
    """Removes all that is not of these; gives the ids it found. Blocking. What cannot be removed is logged and left for the next time."""
    guard = fdstore.FdStore(os.path.join(run_dir, "guard.sock"))
    try:
        held = guard.get("")
        for fds in held.values():
            for fd in fds:
                os.close(fd)
        lost_containers = _lost_containers(run_dir, data_dir, held) - set(containers)
        lost_sandboxes = _lost_sandboxes(run_dir, held) - set(sandboxes)
        for lost, remove in ((lost_containers, _remove_container), (lost_sandboxes, _remove_sandbox)):
            for name in lost:
                try:
                    remove(run_dir, data_dir, name, guard)
                except OSError as e:
                    log.warning("cannot remove what is left of %s: %s", name, e)
        return sorted(lost_containers | lost_sandboxes)
    finally:
        guard.close()


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []


def _lost_containers(run_dir: str, data_dir: str, held: Collection[str]) -> set[str]:
    found = {*_names(os.path.join(run_dir, "containers")), *_names(os.path.join(data_dir, "containers"))}
    found |= {name.partition(".")[0] for name in _names(os.path.join(run_dir, "fifo"))}
    return found | {name.partition("/")[2] for name in held if name.partition("/")[0] in CONTAINER_PARTS}


def _lost_sandboxes(run_dir: str, held: Collection[str]) -> set[str]:
    found = {name.removesuffix(".shm") for name in _names(os.path.join(run_dir, "sandboxes")) if name.endswith(".shm")}
    return found | {name.partition("/")[2] for name in held if name.startswith("sandbox/")}


def _remove_container(run_dir: str, data_dir: str, container_id: str, guard: fdstore.FdStore) -> None:
    loggerclient.finish(run_dir, container_id, guard)
    for suffix in ("out", "err", "json", "json.new"):  # of FIFOs that the logger was never told of
        try:
            os.unlink(os.path.join(run_dir, "fifo", f"{container_id}.{suffix}"))
        except FileNotFoundError:
            continue
    for part in CONTAINER_PARTS:
        guard.drop(f"{part}/{container_id}")
    for base in (run_dir, data_dir):
        shutil.rmtree(os.path.join(base, "containers", container_id), ignore_errors=True)


def _remove_sandbox(run_dir: str, data_dir: str, sandbox_id: str, guard: fdstore.FdStore) -> None:
    unmount_shm(run_dir, sandbox_id)
    guard.drop(f"sandbox/{sandbox_id}")


def shm_path(run_dir: str, sandbox_id: str) -> str:
    return os.path.join(run_dir, "sandboxes", f"{sandbox_id}.shm")


def unmount_shm(run_dir: str, sandbox_id: str) -> None:
    """Idempotent. Raises OSError."""
    path = shm_path(run_dir, sandbox_id)
    if os.path.isdir(path):
        if os.path.ismount(path):
            syscalls.umount(path)
        os.rmdir(path)
