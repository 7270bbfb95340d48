"""Image references: `busybox` → docker.io/library/busybox:latest, as Docker and containerd normalise them. Pure. Called by the store, the puller and the agent
(imagePullPolicy asks for `Reference.tag`)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from agent.images.model import InvalidReference

DEFAULT_REGISTRY = "docker.io"
DEFAULT_TAG = "latest"
MAX_NAME = 255

_COMPONENT = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_PATH = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_DOMAIN = re.compile(r"(?:\[[0-9a-fA-F:]+\]|[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?)*)(?::[0-9]+)?")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}")


@dataclass(frozen=True, slots=True)
class Reference:
    """A normalised reference: `registry/repository[:tag][@digest]`. `tag` is "" only where a digest is given instead. `explicit_tag` says whether the user wrote one."""

    registry: str
    repository: str
    tag: str = ""
    digest: str = ""
    explicit_tag: bool = False

    @property
    def name(self) -> str:
        return f"{self.registry}/{self.repository}"

    @property
    def is_localhost(self) -> bool:
        """`localhost/…` without a port: images made here, which no registry is expected to have."""
        return self.registry == "localhost"

    def __str__(self) -> str:
        return self.name + (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")


def parse(text: str) -> Reference:
    """Raises InvalidReference in the words that kubelet's users know: `couldn't parse image name "X": …`."""

    def bad(why: str) -> InvalidReference:
        return InvalidReference(f'couldn\'t parse image name "{text}": {why}')

    rest, at, digest = text.partition("@")
    if at and not _DIGEST.fullmatch(digest):
        raise bad("invalid reference format: the digest is not sha256:<64 hex digits>")
    registry, path = _split_domain(rest)
    tag = ""
    colon = path.rfind(":")
    if colon > path.rfind("/"):
        path, tag = path[:colon], path[colon + 1 :]
        if not _TAG.fullmatch(tag):
            raise bad("invalid reference format")
    if not _DOMAIN.fullmatch(registry) or not path:
        raise bad("invalid reference format")
    if registry == DEFAULT_REGISTRY and "/" not in path:
        path = "library/" + path
    if not _PATH.fullmatch(path):
        raise bad(f"invalid reference format: repository name ({path}) must be lowercase" if _PATH.fullmatch(path.lower()) else "invalid reference format")
    if len(registry) + 1 + len(path) > MAX_NAME:
        raise bad(f"repository name must not be more than {MAX_NAME} characters")
    return Reference(registry, path, tag or ("" if digest else DEFAULT_TAG), digest, bool(tag))


def _split_domain(text: str) -> tuple[str, str]:
    """The first component is a registry where it has a dot or a port, is `localhost`, or has capitals (github.com/distribution/reference, normalize.go's rule)."""
    first, slash, rest = text.partition("/")
    if not slash or not ("." in first or ":" in first or first == "localhost" or first.lower() != first):
        return DEFAULT_REGISTRY, text
    if first == "index.docker.io":
        first = DEFAULT_REGISTRY
    return first, rest
