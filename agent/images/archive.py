"""Imports images from files: docker-archive (`docker save`) and OCI image layouts (image-layout.md), as a tar, a gzipped tar or a directory. Called by `ImageStore.import_archive`."""

from __future__ import annotations

import json
import os
import posixpath
import re
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.images import manifests, streams, tar
from agent.images import reference as references
from agent.images.model import ArchiveError, Image, ImageError, LayerError, Platform, digest_of
from agent.images.store import ImageStore

_CHUNK = 1 << 20
_MAX_DOCUMENT = 8 << 20
_NAME_KEYS = ("io.containerd.image.name", "org.opencontainers.image.ref.name")


@dataclass(frozen=True, slots=True)
class _Candidate:
    """An image found in an archive: where its parts are."""

    names: tuple[str, ...]
    config: bytes
    layers: tuple[tuple[str, str], ...]  # (file in the archive, blob digest or "")
    manifest: bytes = b""
    manifest_digest: str = ""


class _Files:
    """A directory of named files."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def chunks(self, name: str) -> Iterator[bytes]:
        path = self._path / name
        if ".." in name.split("/") or not path.is_file() or not path.resolve().is_relative_to(self._path.resolve()):
            raise ArchiveError(f"the archive has no {name}")
        with path.open("rb") as file:
            while data := file.read(_CHUNK):
                yield data

    def has(self, name: str) -> bool:
        return (self._path / name).is_file()

    def document(self, name: str) -> bytes:
        data = b""
        for chunk in self.chunks(name):
            data += chunk
            if len(data) > _MAX_DOCUMENT:
                raise ArchiveError(f"{name} in the archive is larger than {_MAX_DOCUMENT} bytes")
        return data

    def json(self, name: str) -> Any:
        try:
            return json.loads(self.document(name))
        except ValueError as error:
            raise ArchiveError(f"{name} in the archive is not valid JSON: {error}") from error


class _Counted:
    """tar.Stream over a plain file, remembering its offset."""

    def __init__(self, fd: int, size: int) -> None:
        self._fd, self._size, self.offset = fd, size, 0

    def read_exactly(self, size: int) -> bytes:
        data = os.pread(self._fd, size, self.offset)
        if len(data) != size:
            raise LayerError("truncated archive: unexpected EOF")
        self.offset += size
        return data

    def read_block(self) -> bytes | None:
        return None if self.offset >= self._size else self.read_exactly(512)

    def skip(self, size: int) -> None:
        self.offset += size
        if self.offset > self._size:
            raise LayerError("truncated archive: unexpected EOF")


class _TarFiles(_Files):
    """The members of a plain tar, read in place."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._members: dict[str, tuple[int, int]] = {}
        self._links: dict[str, str] = {}
        counted = _Counted(fd, os.fstat(fd).st_size)
        for member in tar.members(counted):
            name = posixpath.normpath(member.text)
            if member.kind == tar.REGULAR:
                self._members[name] = (counted.offset, member.size)
                counted.skip(member.size + -member.size % tar.BLOCK)
            elif member.kind in (tar.SYMLINK, tar.LINK):  # older `docker save` links equal layers
                target = member.linkname.decode("utf-8", "replace")
                self._links[name] = posixpath.normpath(posixpath.join(posixpath.dirname(name), target) if member.kind == tar.SYMLINK else target)

    def _find(self, name: str) -> tuple[int, int] | None:
        name = posixpath.normpath(name)
        return self._members.get(self._links.get(name, name))

    def has(self, name: str) -> bool:
        return self._find(name) is not None

    def chunks(self, name: str) -> Iterator[bytes]:
        found = self._find(name)
        if found is None:
            raise ArchiveError(f"the archive has no {name}")
        offset, size = found
        while size:
            data = os.pread(self._fd, min(size, _CHUNK), offset)
            if not data:
                raise ArchiveError(f"{name} in the archive is truncated")
            offset, size = offset + len(data), size - len(data)
            yield data


def import_archive(store: ImageStore, path: str | os.PathLike[str], reference: str = "") -> list[Image]:
    """See ImageStore.import_archive."""
    source = Path(path)
    try:
        if source.is_dir():
            return _import(store, _Files(source), reference)
        with source.open("rb") as file:
            if file.read(2) != b"\x1f\x8b":
                return _import(store, _TarFiles(file.fileno()), reference)
            file.seek(0)
            with tempfile.TemporaryFile(dir=store.layers.tmp) as plain:
                for chunk in streams.decompress(iter(lambda: file.read(_CHUNK), b"")):
                    plain.write(chunk)
                plain.flush()
                return _import(store, _TarFiles(plain.fileno()), reference)
    except FileNotFoundError as error:
        raise ArchiveError(f"cannot import {source}: no such file") from error
    except (ImageError, KeyError, TypeError) as error:
        raise ArchiveError(f"cannot import {source}: {error}") from error


def _import(store: ImageStore, files: _Files, reference: str) -> list[Image]:
    if files.has("manifest.json"):
        candidates = list(_docker_archive(files))
    elif files.has("index.json"):
        candidates = list(_oci_layout(files))
    else:
        raise ArchiveError("it is neither a docker-archive (manifest.json) nor an OCI layout (index.json)")
    if not candidates:
        raise ArchiveError("it contains no image")
    if reference and len(candidates) > 1:
        raise ArchiveError(f"it contains {len(candidates)} images: one reference cannot name them all")
    images = []
    with store.adding():
        for candidate in candidates:
            names = [reference] if reference else list(candidate.names)
            if not names:
                raise ArchiveError("the image in it has no name: give one (--reference)")
            images.append(_add(store, files, candidate, [references.parse(name) for name in names]))
    return images


def _add(store: ImageStore, files: _Files, candidate: _Candidate, names: list[references.Reference]) -> Image:
    config = json.loads(candidate.config)
    diff_ids = (config.get("rootfs") or {}).get("diff_ids") or []
    if len(diff_ids) != len(candidate.layers):
        raise ArchiveError(f"the image has {len(candidate.layers)} layers, its configuration names {len(diff_ids)}")
    with ThreadPoolExecutor(max_workers=3, thread_name_prefix="unpack") as pool:
        jobs = [pool.submit(store.layers.add, diff_id, files.chunks(name), blob_digest=digest) for diff_id, (name, digest) in zip(diff_ids, candidate.layers)]
        for job in jobs:
            job.result()
    digests = sorted({f"{name.name}@{candidate.manifest_digest}" for name in names}) if candidate.manifest_digest else []
    return store.record(candidate.config, [str(name) for name in names], digests, [candidate.manifest] if candidate.manifest else [])


def _docker_archive(files: _Files) -> Iterator[_Candidate]:
    for entry in files.json("manifest.json"):
        yield _Candidate(tuple(entry.get("RepoTags") or ()), files.document(entry["Config"]), tuple((name, "") for name in entry.get("Layers") or ()))


def _oci_layout(files: _Files) -> Iterator[_Candidate]:
    for descriptor in files.json("index.json").get("manifests") or ():
        annotations = descriptor.get("annotations") or {}
        name = next((annotations[key] for key in _NAME_KEYS if annotations.get(key)), "")
        if name and re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name):
            name = f"localhost/{name.lower()}"  # a bare tag: as `podman load` does
        manifest = _blob(files, descriptor["digest"])
        document = manifests.parse(manifest, descriptor.get("mediaType", ""))
        if isinstance(document, manifests.Index):
            chosen = document.choose(Platform.host())
            manifest = _blob(files, chosen.digest)
            document = manifests.parse(manifest, chosen.media_type)
        if not isinstance(document, manifests.Manifest):
            raise ArchiveError(f"an index within an index: {descriptor['digest']}")
        layers = tuple((_blob_path(layer.digest), layer.digest) for layer in document.layers)
        yield _Candidate((name,) if name else (), _blob(files, document.config.digest), layers, manifest, digest_of(manifest))


def _blob_path(digest: str) -> str:
    if not re.fullmatch(r"sha256:[0-9a-f]{64}", digest):
        raise ArchiveError(f"unsupported digest {digest!r}: only sha256 is")
    return "blobs/sha256/" + digest[7:]


def _blob(files: _Files, digest: str) -> bytes:
    data = files.document(_blob_path(digest))
    if digest_of(data) != digest:
        raise ArchiveError(f"blob {digest}: digest mismatch: got {digest_of(data)}")
    return data
