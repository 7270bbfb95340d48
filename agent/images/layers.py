"""Unpacked layers: `layers/<sha256 of the tar>/` (an overlay lower) beside `layers/<sha256>.json` (its size, and whether it is safely on disk). Invariant: a directory with
that name is complete and verified. Work in progress lives in `tmp/` and is renamed at the end. Called by the store, archive and fetch; several processes may share it."""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import secrets
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from agent.images.model import LayerError
from agent.images.streams import LayerStream
from agent.images.unpack import unpack


@cache
def boot_id() -> str:
    """This boot of the kernel (random(4)). A layer that was written in another boot and never synced may have lost its data to a power cut."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return "unknown"


@contextmanager
def locked(path: Path, operation: int) -> Iterator[None]:
    """flock(2) on a file; each call opens it anew, so threads exclude one another too. Raises BlockingIOError with LOCK_NB."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, operation)
        yield
    finally:
        os.close(fd)


class LayerDirectory:
    def __init__(self, root: Path) -> None:
        self.root, self.tmp = root / "layers", root / "tmp"
        for directory in (self.root, self.tmp):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def path(self, diff_id: str) -> str:
        return str(self.root / _hex(diff_id))

    def size_bytes(self, diff_id: str) -> int | None:
        """None where the layer is not here (or cannot be trusted after a crash of the machine)."""
        try:
            meta = json.loads((self.root / (_hex(diff_id) + ".json")).read_bytes())
            if meta["boot_id"] not in ("", boot_id()) or not os.path.isdir(self.path(diff_id)):
                return None
            return int(meta["size_bytes"])
        except (FileNotFoundError, ValueError, KeyError):
            return None

    def add(self, diff_id: str, chunks: Iterator[bytes], *, blob_digest: str = "", blob_size: int = -1) -> bool:
        """Unpacks a layer blob. False: it was here already, or another process finished it first (then `chunks` is not read). Raises LayerError, OSError."""
        with locked(self.tmp / (_hex(diff_id) + ".lock"), fcntl.LOCK_EX):
            if self.size_bytes(diff_id) is not None:
                return False
            work = self.tmp / f"{_hex(diff_id)[:16]}-{secrets.token_hex(4)}"
            work.mkdir(mode=0o755)
            try:
                size = self._unpack(diff_id, chunks, work, blob_digest, blob_size)
                self._commit(diff_id, work, size)
            except BaseException:
                shutil.rmtree(work, ignore_errors=True)
                raise
        return True

    def _unpack(self, diff_id: str, chunks: Iterator[bytes], work: Path, blob_digest: str, blob_size: int) -> int:
        root_fd = os.open(work, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        stream = LayerStream(chunks)
        try:
            size = unpack(stream, root_fd)
            stream.finish()
        except LayerError as error:
            raise LayerError(f"layer {blob_digest or diff_id}: {error}") from error
        finally:
            stream.close()
            os.close(root_fd)
        if blob_size >= 0 and stream.size != blob_size:
            raise LayerError(f"layer {blob_digest}: size mismatch: got {stream.size} bytes, expected {blob_size}")
        if blob_digest and stream.digest != blob_digest:
            raise LayerError(f"layer {blob_digest}: digest mismatch: got {stream.digest}")
        if stream.diff_id != diff_id:
            raise LayerError(f"layer {blob_digest or diff_id}: diffID mismatch: got {stream.diff_id}, the image configuration says {diff_id}")
        return size

    def _commit(self, diff_id: str, work: Path, size_bytes: int) -> None:
        final = self.root / _hex(diff_id)
        if final.exists():  # left by a boot that crashed: not trusted
            os.rename(final, self.tmp / f"stale-{secrets.token_hex(8)}")
        os.rename(work, final)
        self._write_meta(diff_id, size_bytes, boot_id())

    def _write_meta(self, diff_id: str, size_bytes: int, boot: str) -> None:
        write_atomically(self.root / (_hex(diff_id) + ".json"), json.dumps({"size_bytes": size_bytes, "boot_id": boot}).encode())

    def sync(self) -> None:
        """Makes what was unpacked in this boot safe against a power cut (syncfs(2)); seconds at worst. Pulls do it after they have reported their image."""
        pending = []
        for meta in self.root.glob("*.json"):
            with suppress(FileNotFoundError, ValueError, KeyError):
                content = json.loads(meta.read_bytes())
                if content["boot_id"] == boot_id():
                    pending.append(("sha256:" + meta.stem, content["size_bytes"]))
        if not pending:
            return
        fd = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if ctypes.CDLL(None, use_errno=True).syncfs(fd) != 0:
                raise OSError(ctypes.get_errno(), f"cannot syncfs {self.root}: {os.strerror(ctypes.get_errno())}")
        finally:
            os.close(fd)
        for diff_id, size_bytes in pending:
            if os.path.isdir(self.path(diff_id)):
                self._write_meta(diff_id, size_bytes, "")

    def collect(self, keep: Collection[str]) -> int:
        """Deletes every layer whose directory is not in `keep`, and all work in progress: only while no pull runs (the store sees to that). Returns bytes freed."""
        freed = 0
        for entry in list(self.root.iterdir()):
            if entry.suffix or str(entry) in keep:
                continue
            freed += self.size_bytes("sha256:" + entry.name) or 0
            entry.with_suffix(".json").unlink(missing_ok=True)
            doomed = self.tmp / f"doomed-{secrets.token_hex(8)}"
            os.rename(entry, doomed)  # first away, then deleted: a half-deleted layer never looks whole
        for entry in list(self.tmp.iterdir()):
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
        return freed


def write_atomically(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fdatasync(file.fileno())
        os.rename(temporary, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def _hex(digest: str) -> str:
    algorithm, _, value = digest.partition(":")
    if algorithm != "sha256" or len(value) != 64 or not set(value) <= set("0123456789abcdef"):
        raise LayerError(f"unsupported digest {digest!r}: only sha256 is")
    return value
