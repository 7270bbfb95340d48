"""Keys: where a prefix ends, and which resource, namespace and name a key stands for. Pure. The stores and the watch cache call it."""

from __future__ import annotations

from typing import NamedTuple

# Kubernetes keeps these two under one directory: /registry/services/specs/… and /registry/services/endpoints/…
_SHARED_DIRECTORIES = frozenset({"services", "ranges"})


class Location(NamedTuple):
    """prefix `/registry/pods/`, namespace "" for cluster-scoped objects, name."""

    prefix: str
    namespace: str
    name: str


def prefix_end(prefix: str) -> bytes:
    """The smallest byte string greater than every key under `prefix`; b"\\0" (etcd's "to the end") for the empty prefix."""
    raw = prefix.encode()
    while raw:
        if raw[-1] < 0xFF:
            return raw[:-1] + bytes([raw[-1] + 1])
        raw = raw[:-1]
    return b"\0"


def locate(key: str) -> Location:
    """`/registry/pods/default/a` → (`/registry/pods/`, default, a); `/registry/nodes/n1` → (`/registry/nodes/`, "", n1).

    A first segment with a dot is an API group: `/registry/example.com/widgets/default/a` → (`/registry/example.com/widgets/`, default, a). A key too short to be an
    object's is its own directory's.
    """
    parts = key.split("/")  # "", "registry", directory, …
    depth = 4 if len(parts) > 4 and ("." in parts[2] or parts[2] in _SHARED_DIRECTORIES) else 3
    prefix, rest = "/".join(parts[:depth]) + "/", parts[depth:]
    if len(rest) >= 2:
        return Location(prefix, rest[0], "/".join(rest[1:]))
    return Location(prefix, "", rest[0] if rest else "")
