"""Writes a set of files so that a reader sees either all of the old ones or all of the new: files live in `..<time>/`, `..data` points there, and each name at the top
points through `..data` (the layout that Kubernetes' users know and reload by). Called by volumes.Volumes.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Mapping

from agent.volumes.payload import File

DATA = "..data"


def write(folder: str, files: Mapping[str, File], stamp: str, gid: int | None = None) -> bool:
    """Make `folder` hold exactly `files`; `stamp` names the new version (unique in the folder). False where it already did. `gid`: group that owns the files. Raises OSError."""
    current = _current(folder)
    if current is not None and _holds(os.path.join(folder, current), files):
        return False
    version = f"..{stamp}"
    base = os.path.join(folder, version)
    os.mkdir(base, 0o755)
    for path, file in files.items():
        _write_file(base, path, file, gid)
    _own(base, gid, 0o755)
    link = os.path.join(folder, "..data_tmp")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(link)
    os.symlink(version, link)
    os.rename(link, os.path.join(folder, DATA))
    _link_names(folder, {path.split("/", 1)[0] for path in files})
    if current is not None and current != version:
        shutil.rmtree(os.path.join(folder, current), ignore_errors=True)
    return True


def _current(folder: str) -> str | None:
    try:
        return os.readlink(os.path.join(folder, DATA))
    except FileNotFoundError:
        return None


def _holds(base: str, files: Mapping[str, File]) -> bool:
    found = set()
    for parent, _, names in os.walk(base):
        for name in names:
            path = os.path.join(parent, name)
            relative = os.path.relpath(path, base)
            wanted = files.get(relative)
            if wanted is None:
                return False
            with open(path, "rb") as f:
                if f.read() != wanted.data:
                    return False
            found.add(relative)
    return found == set(files) and os.path.isdir(base)


def _write_file(base: str, path: str, file: File, gid: int | None) -> None:
    target = os.path.join(base, path)
    parent = os.path.dirname(target)
    if parent != base:
        os.makedirs(parent, 0o755, exist_ok=True)
    fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with open(fd, "wb") as f:
        f.write(file.data)
        mode = file.mode
        if gid is not None:
            os.fchown(fd, -1, gid)
            mode |= 0o440
        os.fchmod(fd, mode)


def _own(folder: str, gid: int | None, mode: int) -> None:
    for parent, _, _ in os.walk(folder):
        if gid is not None:
            os.chown(parent, -1, gid)
        os.chmod(parent, mode | (0o2050 if gid is not None else 0))


def _link_names(folder: str, names: set[str]) -> None:
    for name in os.listdir(folder):
        path = os.path.join(folder, name)
        if not name.startswith("..") and name not in names and os.path.islink(path):
            os.unlink(path)
    for name in names:
        path = os.path.join(folder, name)
        if not os.path.islink(path):
            os.symlink(f"{DATA}/{name}", path)
