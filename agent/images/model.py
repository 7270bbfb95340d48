"""What an image is to its users: values and errors, no I/O. Every other module here speaks in these; the agent reads `Image` and catches `ImageError`."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


class ImageError(Exception):
    """Base: the text is one line a user can act on."""


class InvalidReference(ImageError, ValueError):
    """The reference cannot be parsed (kubelet's InvalidImageName)."""


class ImageNotFound(ImageError, KeyError):
    """No such image in this store."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else "image not found"


class ImagePullError(ImageError):
    """A pull failed (kubelet's ErrImagePull). `retriable` is False where trying again cannot help (unknown tag, wrong digest, no such platform)."""

    def __init__(self, text: str, *, retriable: bool = True) -> None:
        super().__init__(text)
        self.retriable = retriable


class LayerError(ImageError):
    """A layer's content is refused: truncated, wrong digest, or a member that would leave the layer's directory."""


class ArchiveError(ImageError):
    """An archive to import is not a docker-archive nor an OCI layout, or is damaged."""


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """The `config` object of an image configuration (OCI image-spec, config.md); absent lists and texts are empty."""

    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    working_dir: str = ""
    user: str = ""
    stop_signal: str = ""
    volumes: tuple[str, ...] = ()
    exposed_ports: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Image:
    """An image ready to run. `id`: `sha256:<hex>` of the configuration. `references`: full names with tags; `repo_digests`: `repository@sha256:…`. `layers`: directories
    for overlay's lowerdir, bottom first. `size_bytes`: of the unpacked layers."""

    id: str
    references: tuple[str, ...]
    repo_digests: tuple[str, ...]
    layers: list[str]
    config: ImageConfig
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Auth:
    """Credentials for one registry: a user and password (basic, or exchanged for a bearer token), or an identity token (OAuth2 refresh token)."""

    username: str = ""
    password: str = ""
    identity_token: str = ""


@dataclass(frozen=True, slots=True)
class Platform:
    os: str = "linux"
    architecture: str = "amd64"
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(p for p in (self.os, self.architecture, self.variant) if p)

    @classmethod
    def host(cls) -> Platform:
        machine = os.uname().machine
        known = {
            "x86_64": ("amd64", ""),
            "aarch64": ("arm64", "v8"),
            "armv7l": ("arm", "v7"),
            "armv6l": ("arm", "v6"),
            "i686": ("386", ""),
            "ppc64le": ("ppc64le", ""),
            "s390x": ("s390x", ""),
            "riscv64": ("riscv64", ""),
        }
        architecture, variant = known.get(machine, (machine, ""))
        return cls("linux", architecture, variant)


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def parse_config(document: Mapping[str, Any]) -> ImageConfig:
    """An image configuration document → ImageConfig. Raises ImageError where a field has the wrong type."""
    config = document.get("config") or {}
    try:
        return ImageConfig(
            entrypoint=tuple(config.get("Entrypoint") or ()),
            cmd=tuple(config.get("Cmd") or ()),
            env=tuple(config.get("Env") or ()),
            working_dir=config.get("WorkingDir") or "",
            user=str(config.get("User") or ""),
            stop_signal=str(config.get("StopSignal") or ""),
            volumes=tuple(sorted(config.get("Volumes") or ())),
            exposed_ports=tuple(sorted(config.get("ExposedPorts") or ())),
            labels=dict(config.get("Labels") or {}),
        )
    except (TypeError, ValueError, AttributeError) as error:
        raise ImageError(f"image configuration is malformed: {error}") from error
