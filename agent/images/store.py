"""The node's images on disk: names → configuration → unpacked layers. Owns `index.json`, `configs/`, `manifests/`; layers are `layers`' business. Called by the agent
(resolve, list, collect), by pulls and imports (record), and by `python -m agent.images`."""

from __future__ import annotations

import builtins
import fcntl
import json
import os
import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agent.images import reference as references
from agent.images.layers import LayerDirectory, locked, write_atomically
from agent.images.model import Image, ImageError, ImageNotFound, digest_of, parse_config

_ID = re.compile(r"(?:sha256:)?([0-9a-f]{64})")
Index = dict[str, dict[str, list[str]]]  # image id → {"references": […], "repo_digests": […]}


class ImageStore:
    """`ImageStore(data_dir + "/images")`: a directory shared safely by several processes. Calls are short and blocking (µs to ms) except `import_archive` and `collect`."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root)
        self.layers = LayerDirectory(self.root)
        for name in ("configs", "manifests"):
            (self.root / name).mkdir(mode=0o700, exist_ok=True)
        self._index: Index = {}
        self._index_version: tuple[int, int, int] | None = None
        self._parsed: dict[str, tuple[Any, tuple[str, ...]]] = {}

    def resolve(self, reference: str) -> Image | None:
        """The image of that reference (any form: `busybox`, full name, `name@sha256:…`, `sha256:<id>`), or None. Raises InvalidReference."""
        index = self._read_index()
        found = _ID.fullmatch(reference)
        if found:
            image_id = "sha256:" + found[1]
            return self._image(image_id, index[image_id]) if image_id in index else None
        parsed = references.parse(reference)
        for image_id, entry in index.items():
            if (f"{parsed.name}@{parsed.digest}" in entry["repo_digests"]) if parsed.digest else (str(parsed) in entry["references"]):
                return self._image(image_id, entry)
        return None

    def import_archive(self, path: str | os.PathLike[str], reference: str = "") -> builtins.list[Image]:
        """A docker-archive or OCI-layout tar (plain, gzip) or an OCI layout directory. `reference` names an image that the archive leaves unnamed. Raises ArchiveError, LayerError."""
        from agent.images import archive

        return archive.import_archive(self, path, reference)

    def list(self) -> builtins.list[Image]:
        """Images whose layers are all here, by first name."""
        found = [self._image(image_id, entry) for image_id, entry in self._read_index().items()]
        return sorted((image for image in found if image), key=lambda image: (image.references or image.repo_digests or (image.id,))[0])

    def remove(self, reference: str) -> None:
        """Forgets a name; with its last name goes the image (by id: all its names at once). Layers stay until `collect`. Raises ImageNotFound, InvalidReference."""
        found = _ID.fullmatch(reference)
        parsed = None if found else references.parse(reference)
        with self._changing() as index:
            for image_id, entry in builtins.list(index.items()):
                if found:
                    if image_id == "sha256:" + found[1]:
                        del index[image_id]
                        return
                    continue
                assert parsed is not None
                kind, name = ("repo_digests", f"{parsed.name}@{parsed.digest}") if parsed.digest else ("references", str(parsed))
                if name in entry[kind]:
                    entry[kind].remove(name)
                    if not entry["references"] and (kind == "references" or not entry["repo_digests"]):
                        del index[image_id]
                    return
        raise ImageNotFound(f"No such image: {reference}")

    def collect(self, in_use: Collection[str] = ()) -> int:
        """Deletes layers that no image needs and that are not among `in_use` (layer directories of existing containers), and left-overs of killed pulls. Does nothing
        while a pull runs. Returns bytes freed."""
        try:
            with locked(self.root / "pulls.lock", fcntl.LOCK_EX | fcntl.LOCK_NB):
                index = self._read_index()
                for kept, directory in ((set(index), self.root / "configs"), (self._manifests(index), self.root / "manifests")):
                    for file in builtins.list(directory.iterdir()):
                        if "sha256:" + file.name not in kept:
                            file.unlink()
                keep = {self.layers.path(diff_id) for image_id in index for diff_id in self._config(image_id)[1]}
                return self.layers.collect(keep | set(in_use))
        except BlockingIOError:
            return 0

    @contextmanager
    def adding(self) -> Iterator[None]:
        """Around a pull or import: keeps `collect` of any process from taking layers that no index entry names yet."""
        with locked(self.root / "pulls.lock", fcntl.LOCK_SH):
            yield

    def record(self, config: bytes, names: Sequence[str], repo_digests: Sequence[str] = (), manifests: Sequence[bytes] = ()) -> Image:
        """Enters an image whose layers are all unpacked; takes `names` away from whatever had them. Raises ImageError where a layer is missing."""
        image_id = digest_of(config)
        write_atomically(self.root / "configs" / image_id[7:], config)
        for manifest in manifests:
            write_atomically(self.root / "manifests" / digest_of(manifest)[7:], manifest)
        self._parsed.pop(image_id, None)
        with self._changing() as index:
            for other, entry in builtins.list(index.items()):
                entry["references"] = [name for name in entry["references"] if name not in names]
                if other != image_id and not entry["references"] and not entry["repo_digests"]:
                    del index[other]
            entry = index.setdefault(image_id, {"references": [], "repo_digests": []})
            entry["references"] += names
            entry["repo_digests"] += [digest for digest in repo_digests if digest not in entry["repo_digests"]]
        image = self._image(image_id, entry)
        if image is None:
            raise ImageError(f"image {image_id}: a layer is missing")
        return image

    def _image(self, image_id: str, entry: dict[str, builtins.list[str]]) -> Image | None:
        try:
            config, diff_ids = self._config(image_id)
        except (OSError, ValueError, ImageError):
            return None  # pulled again when next asked for
        sizes = [self.layers.size_bytes(diff_id) for diff_id in diff_ids]
        if None in sizes:
            return None
        paths = [self.layers.path(diff_id) for diff_id in diff_ids]
        return Image(image_id, tuple(entry["references"]), tuple(entry["repo_digests"]), paths, config, sum(size or 0 for size in sizes))

    def _config(self, image_id: str) -> tuple[Any, tuple[str, ...]]:
        if image_id not in self._parsed:
            document = json.loads((self.root / "configs" / image_id[7:]).read_bytes())
            self._parsed[image_id] = (parse_config(document), tuple(document["rootfs"]["diff_ids"]))
        return self._parsed[image_id]

    def _manifests(self, index: Index) -> set[str]:
        """Manifests that names point at, and those that these point at in turn."""
        kept = {digest.partition("@")[2] for entry in index.values() for digest in entry["repo_digests"]}
        for digest in builtins.list(kept):
            try:
                document = json.loads((self.root / "manifests" / digest[7:]).read_bytes())
            except (OSError, ValueError):
                continue
            kept.update(item.get("digest", "") for item in document.get("manifests") or ())
        return kept

    def _read_index(self) -> Index:
        path = self.root / "index.json"
        try:
            found = os.stat(path)
        except FileNotFoundError:
            return {}
        version = (found.st_ino, found.st_mtime_ns, found.st_size)
        if version != self._index_version:
            self._index, self._index_version = json.loads(path.read_bytes())["images"], version
        return self._index

    @contextmanager
    def _changing(self) -> Iterator[Index]:
        """The index under its lock; written back (atomically) on the way out."""
        with locked(self.root / "lock", fcntl.LOCK_EX):
            self._index_version = None
            index = self._read_index()
            before = json.dumps(index)
            try:
                yield index
            except BaseException:
                self._index_version = None
                raise
            if json.dumps(index) != before or not (self.root / "index.json").exists():
                write_atomically(self.root / "index.json", json.dumps({"version": 1, "images": index}, indent=1).encode())
            self._index_version = None
