"""The node's images on disk. Published interface; see the class."""

from __future__ import annotations

import os
from collections.abc import Collection

from agent.images.model import Image


class ImageStore:
    """`ImageStore(data_dir + "/images")`: a directory shared safely by several processes. Calls are short and blocking (µs to ms) except `import_archive` and `collect`."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = os.fspath(root)

    def resolve(self, reference: str) -> Image | None:
        """The image of that reference (any form: `busybox`, full name, `name@sha256:…`, `sha256:<id>`), or None. Raises InvalidReference."""
        raise NotImplementedError

    def import_archive(self, path: str | os.PathLike[str], reference: str = "") -> list[Image]:
        """A docker-archive or OCI-layout tar (plain, gzip) or an OCI layout directory. `reference` names an image that the archive leaves unnamed. Raises ArchiveError, LayerError."""
        raise NotImplementedError

    def list(self) -> list[Image]:
        raise NotImplementedError

    def remove(self, reference: str) -> None:
        """Forgets a name (or, by id, all names of an image). Layers stay until `collect`. Raises ImageNotFound."""
        raise NotImplementedError

    def collect(self, in_use: Collection[str] = ()) -> int:
        """Deletes layers that no image needs and that are not among `in_use` (layer directories of existing containers), and left-overs of killed pulls. Returns bytes freed."""
        raise NotImplementedError
