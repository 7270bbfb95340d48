"""A volumeMount's subPath: where it really is, and never outside its volume. Called by execute."""

from __future__ import annotations

import os

from agent.volumes.payload import VolumeError


def resolve(volume: str, sub_path: str) -> str:
    """The absolute path of `sub_path` in `volume`, symbolic links followed; a missing one is made as a directory. Raises VolumeError where it leaves the volume."""
    if sub_path.startswith("/") or ".." in sub_path.split("/"):
        raise VolumeError(f"subPath {sub_path!r}: must be relative and must not contain '..'")
    root = os.path.realpath(volume)
    target = os.path.realpath(os.path.join(root, sub_path))
    if target != root and not target.startswith(root.rstrip("/") + "/"):
        raise VolumeError(f"subPath {sub_path!r} leads out of its volume")
    if not os.path.lexists(target):
        try:
            os.makedirs(target, 0o755)
        except OSError as e:
            raise VolumeError(f"failed to create subPath directory {sub_path!r}: {e.strerror}") from None
    return target
