"""Makes a pod's volumes ready on this node, keeps their content current, and takes them away. Called by execute; all state is on disk or re-read, so that a new agent
goes on where the last one stopped. Secrets and tokens live on a tmpfs below the run directory, everything else in the pod's folder of the data directory.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import stat
import time
from collections.abc import Callable, Mapping
from typing import Any

from agent import downward, podspec
from agent.volumes import atomic, mounts, payload
from agent.volumes.payload import VolumeError
from agent.volumes.sources import Sources
from agent.volumes.tokens import Tokens
from apiserver.api import errors, quantities

HOST_PATH_CHECKS: dict[str, tuple[Callable[[int], bool], str]] = {
    "Directory": (stat.S_ISDIR, "directory"), "DirectoryOrCreate": (stat.S_ISDIR, "directory"), "File": (stat.S_ISREG, "file"), "FileOrCreate": (stat.S_ISREG, "file"),
    "Socket": (stat.S_ISSOCK, "socket"), "CharDevice": (stat.S_ISCHR, "character device"), "BlockDevice": (stat.S_ISBLK, "block device"),
}  # fmt: skip


class Volumes:
    """`data_dir/pods/<uid>/volumes` and `run_dir/pods/<uid>/volumes`."""

    def __init__(self, data_dir: str, run_dir: str, sources: Sources, tokens: Tokens) -> None:
        self._disk = os.path.join(data_dir, "pods")
        self._memory = os.path.join(run_dir, "pods")
        self._sources = sources
        self._tokens = tokens

    def prepare(self) -> None:
        """Once at start: the folders, root's alone, and a tmpfs where the run directory is none. Raises OSError."""
        for folder in (self._disk, self._memory):
            os.makedirs(folder, 0o700, exist_ok=True)
            os.chmod(folder, 0o700)
        if not mounts.is_tmpfs(self._memory):
            mounts.mount_tmpfs(self._memory, mode=0o700)

    async def mount(self, pod: podspec.Pod, facts: downward.Facts) -> dict[str, str]:
        """Volume name → path on this host. Idempotent; also brings changed ConfigMaps, Secrets and tokens in. Raises VolumeError naming the volume."""
        paths = {}
        for volume in pod["spec"].get("volumes") or ():
            try:
                paths[volume["name"]] = await self._mount(pod, volume, facts)
            except VolumeError as e:
                raise VolumeError(f'MountVolume.SetUp failed for volume "{volume["name"]}" : {e}') from None
            except (errors.ApiError, OSError) as e:
                raise VolumeError(f'MountVolume.SetUp failed for volume "{volume["name"]}" : {e}') from e
        return paths

    async def _mount(self, pod: podspec.Pod, volume: Mapping[str, Any], facts: downward.Facts) -> str:
        if volume.get("emptyDir") is not None:
            return self._empty_dir(pod, volume)
        if volume.get("hostPath") is not None:
            return _host_path(volume["hostPath"])
        if any(volume.get(kind) is not None for kind in payload.PAYLOAD_TYPES):
            return await self._payload(pod, volume, facts)
        kind = next((k for k in volume if k != "name"), "")
        if kind == "persistentVolumeClaim":
            raise VolumeError(f'persistentVolumeClaim "{volume[kind].get("claimName", "")}": persistent volumes are not supported on this node; use emptyDir or hostPath')
        raise VolumeError(f"volume type {kind or 'none'} is not supported on this node")

    async def _payload(self, pod: podspec.Pod, volume: Mapping[str, Any], facts: downward.Facts) -> str:
        uid, namespace = podspec.uid(pod), pod["metadata"].get("namespace", "")
        wanted = payload.references(volume)
        specs = payload.tokens(volume)
        objects, tokens = await asyncio.gather(
            asyncio.gather(*(self._sources.get(uid, r.kind, namespace, r.name) for r in wanted)),
            asyncio.gather(*(self._tokens.get(pod, s) for s in specs)),
        )
        found = {(r.kind, r.name): o for r, o in zip(wanted, objects, strict=True)}
        texts = dict(zip(specs, tokens, strict=True))
        files = payload.render(pod, volume, found, texts.__getitem__, facts)
        kind = next(k for k in payload.PAYLOAD_TYPES if volume.get(k) is not None)
        folder = self._folder(self._memory if payload.is_sensitive(volume) else self._disk, uid, kind, volume["name"])
        os.makedirs(folder, 0o755, exist_ok=True)
        gid = fs_group(pod)
        if gid is not None:
            os.chown(folder, -1, gid)
        atomic.write(folder, files, f"{time.strftime('%Y_%m_%d_%H_%M_%S', time.gmtime())}.{time.monotonic_ns()}", gid)
        return folder

    def _folder(self, base: str, uid: str, kind: str, name: str) -> str:
        return os.path.join(base, uid, "volumes", f"kubernetes.io~{kind}", name)

    def _empty_dir(self, pod: podspec.Pod, volume: Mapping[str, Any]) -> str:
        folder = self._folder(self._disk, podspec.uid(pod), "empty-dir", volume["name"])
        fresh = not os.path.isdir(folder)
        os.makedirs(folder, 0o777, exist_ok=True)
        said = volume["emptyDir"]
        medium = said.get("medium") or ""
        if medium == "Memory" and not os.path.ismount(folder):
            limit = said.get("sizeLimit")
            mounts.mount_tmpfs(folder, quantities.bytes_(limit) if limit is not None else 0)
            fresh = True
        elif medium not in ("", "Memory"):
            raise VolumeError(f"emptyDir.medium {medium} is not supported")
        if fresh:
            gid = fs_group(pod)
            os.chmod(folder, 0o777 if gid is None else 0o2777)
            if gid is not None:
                os.chown(folder, -1, gid)
        return folder

    def renew_at(self, pod_uid: str) -> float | None:
        """When mount() should run again because a token is due (Unix seconds)."""
        return self._tokens.renew_at(pod_uid)

    def tear_down(self, pod_uid: str) -> None:
        """Everything of the pod in both folders; what hostPath points to stays. Idempotent. Raises OSError."""
        self._sources.release(pod_uid)
        self._tokens.forget(pod_uid)
        for base in (self._disk, self._memory):
            folder = os.path.join(base, pod_uid)
            if not os.path.isdir(folder):
                continue
            if base == self._disk and os.path.isdir(os.path.join(folder, "volumes", "kubernetes.io~empty-dir")):
                for point in mounts.mounts_below(folder):
                    mounts.umount(point)
            shutil.rmtree(folder)

    def orphans(self, known: set[str]) -> list[str]:
        """Pod uids with folders here that nobody knows any more."""
        found = {name for base in (self._disk, self._memory) if os.path.isdir(base) for name in os.listdir(base)}
        return sorted(found - known)


def fs_group(pod: podspec.Pod) -> int | None:
    gid = (pod["spec"].get("securityContext") or {}).get("fsGroup")
    return None if gid is None else int(gid)


def _host_path(said: Mapping[str, Any]) -> str:
    """The path, checked or made by its type (k8s.io/docs: Volumes, hostPath)."""
    path, kind = said["path"], said.get("type") or ""
    if kind in ("", "DirectoryOrCreate") and not os.path.lexists(path):
        os.makedirs(path, 0o755)
    elif kind == "FileOrCreate" and not os.path.lexists(path):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644))
    if kind:
        if kind not in HOST_PATH_CHECKS:
            raise VolumeError(f"hostPath type {kind} is not known")
        check, what = HOST_PATH_CHECKS[kind]
        try:
            right = check(os.stat(path).st_mode)
        except FileNotFoundError:
            raise VolumeError(f"hostPath type check failed: {path} does not exist") from None
        if not right:
            raise VolumeError(f"hostPath type check failed: {path} is not a {what}")
    return path
