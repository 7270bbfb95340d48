"""What the client writes down for the zygote before a container exists: `<run>/containers/<id>/config.json`, immutable from then on (the zygote writes state.json beside it).
Turns a cri.ContainerConfig into that record; called by client.Runtime.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Mapping
from typing import Any

from agent.runtime import cri, seccomp, spec

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")


def check_id(what: str, name: str) -> None:
    """Ids become file and cgroup names. Raises RuntimeServiceError(EINVAL)."""
    if not _ID.fullmatch(name):
        raise cri.RuntimeServiceError(errno.EINVAL, f"{what} id {name!r}: must be 1 to 128 letters, digits, '_', '.' or '-', beginning with a letter or digit")


def folder(run_dir: str, container_id: str) -> str:
    return os.path.join(run_dir, "containers", container_id)


def is_bind(mount: Mapping[str, Any]) -> bool:
    options = mount.get("options") or ()
    return mount.get("type") in ("bind", "none") or "bind" in options or "rbind" in options


def build(config: cri.ContainerConfig, shm_path: str, seccomp_dir: str) -> dict[str, Any]:
    """The record: the validated spec, with the pod's /dev/shm in place of a private one and the seccomp profile compiled to a file. Raises RuntimeServiceError(EINVAL)."""
    check_id("container", config.id)
    for i, layer in enumerate(config.layers):
        if not layer.startswith("/"):
            raise cri.RuntimeServiceError(errno.EINVAL, f"cannot create container {config.id}: layers[{i}]: must be an absolute path, is {layer!r}")
    container_spec = dict(config.spec)
    try:
        spec.validate_spec(container_spec)
        linux = dict(container_spec.get("linux") or {})
        profile = linux.pop("seccomp", None)
        program = seccomp.cached(profile, (container_spec["process"].get("capabilities") or {}).get("bounding") or (), seccomp_dir) if profile else ""
    except ValueError as e:
        raise cri.RuntimeServiceError(errno.EINVAL, f"cannot create container {config.id}: {e}") from e
    container_spec["linux"] = linux
    container_spec["mounts"] = [_shared_shm(m, shm_path) for m in container_spec.get("mounts") or ()]
    return {
        "id": config.id,
        "sandbox_id": config.sandbox_id,
        "spec": container_spec,
        "seccomp": program,
        "layers": list(config.layers),
        "log_path": config.log_path,
        "labels": dict(config.labels),
        "annotations": dict(config.annotations),
        "tty": config.tty,
        "stdin": config.stdin,
    }


def _shared_shm(mount: Mapping[str, Any], shm_path: str) -> Mapping[str, Any]:
    if shm_path and mount.get("destination") == "/dev/shm" and mount.get("type") == "tmpfs" and mount.get("source") == "shm":
        return {"destination": "/dev/shm", "type": "bind", "source": shm_path, "options": ["rbind", "nosuid", "noexec", "nodev"]}
    return mount


def write(run_dir: str, record: Mapping[str, Any]) -> None:
    path = folder(run_dir, record["id"])
    os.makedirs(path, mode=0o700, exist_ok=True)
    target = os.path.join(path, "config.json")
    with open(target + ".new", "w", encoding="utf-8") as f:
        json.dump(record, f, separators=(",", ":"))
    os.rename(target + ".new", target)


def read(run_dir: str, container_id: str) -> dict[str, Any]:
    """Raises NotFoundError."""
    try:
        with open(os.path.join(folder(run_dir, container_id), "config.json"), encoding="utf-8") as f:
            return json.load(f)
    except FileNotFoundError:
        raise cri.NotFoundError(f"no container {container_id}") from None


def remove(run_dir: str, container_id: str) -> None:
    shutil.rmtree(folder(run_dir, container_id), ignore_errors=True)
