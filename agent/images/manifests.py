"""Image manifests and indexes, of OCI (image-spec manifest.md, image-index.md) and Docker (distribution spec v2.2), as values. Pure. Called by fetch and archive."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from agent.images.model import ImageError, Platform

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
ACCEPT = ", ".join((OCI_INDEX, DOCKER_LIST, OCI_MANIFEST, DOCKER_MANIFEST))


@dataclass(frozen=True, slots=True)
class Descriptor:
    media_type: str
    digest: str
    size: int
    platform: Platform | None = None


@dataclass(frozen=True, slots=True)
class Manifest:
    config: Descriptor
    layers: tuple[Descriptor, ...]


@dataclass(frozen=True, slots=True)
class Index:
    manifests: tuple[Descriptor, ...]

    def choose(self, platform: Platform) -> Descriptor:
        """The first entry for the platform: same variant before any; entries without a platform last. Raises ImageError in containerd's words."""
        fitting = [d for d in self.manifests if d.platform and (d.platform.os, d.platform.architecture) == (platform.os, platform.architecture)]
        for descriptor in fitting:
            if descriptor.platform and descriptor.platform.variant == platform.variant:
                return descriptor
        if fitting:
            return fitting[0]
        for descriptor in self.manifests:
            if descriptor.platform is None:
                return descriptor
        have = ", ".join(sorted({str(d.platform) for d in self.manifests})) or "none"
        raise ImageError(f"no match for platform in manifest: {platform} is needed, it has {have}")


def parse(data: bytes, media_type: str = "") -> Manifest | Index:
    """By `mediaType` in the document, else the one it came with, else its shape. Raises ImageError."""
    try:
        document = json.loads(data)
        kind = document.get("mediaType") or media_type.partition(";")[0].strip()
        if document.get("schemaVersion") == 1:
            raise ImageError("the image has a schema 1 manifest, which registries and runtimes no longer support: push it again")
        if kind in (OCI_INDEX, DOCKER_LIST) or "manifests" in document:
            return Index(tuple(_descriptor(item) for item in document["manifests"]))
        if kind in (OCI_MANIFEST, DOCKER_MANIFEST) or "config" in document:
            return Manifest(_descriptor(document["config"]), tuple(_descriptor(item) for item in document.get("layers") or ()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ImageError(f"malformed manifest: {type(error).__name__}: {error}") from error
    raise ImageError(f"unsupported manifest type {kind!r}")


def _descriptor(item: dict[str, Any]) -> Descriptor:
    platform = item.get("platform")
    return Descriptor(
        item.get("mediaType") or "",
        item["digest"],
        int(item.get("size", -1)),
        Platform(platform.get("os", ""), platform.get("architecture", ""), platform.get("variant", "")) if platform else None,
    )
