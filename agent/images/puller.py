"""Pulls and imports without holding up an event loop: each runs in a process of its own, posix_spawned. The agent calls `pull` and `import_archive`."""

from __future__ import annotations

import os

from agent.images.model import Auth, Image
from agent.images.store import ImageStore


async def pull(store: ImageStore, reference: str, auth: Auth | None = None) -> Image:
    """Fetches, verifies, unpacks and records an image. Concurrent pulls share layers. Raises InvalidReference, ImagePullError (the whole text is for the pod's event)."""
    raise NotImplementedError


async def import_archive(store: ImageStore, path: str | os.PathLike[str], reference: str = "") -> list[Image]:
    """`ImageStore.import_archive` in a process of its own."""
    raise NotImplementedError
