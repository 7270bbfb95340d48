"""imagePullSecrets → credentials for one registry (k8s.io/docs: Pull an Image from a Private Registry). Pure. Called by execute."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterable, Mapping
from typing import Any

from agent.images.model import Auth

DOCKER_HUB_NAMES = ("docker.io", "index.docker.io", "registry-1.docker.io")


def for_registry(registry: str, repository: str, secrets: Iterable[Mapping[str, Any]]) -> Auth | None:
    """The credentials of the longest entry that covers registry/repository, or None. Secrets that cannot be read count as empty."""
    best: tuple[int, Auth] | None = None
    for secret in secrets:
        for name, entry in _entries(secret).items():
            host, _, path = name.removeprefix("https://").removeprefix("http://").rstrip("/").partition("/")
            path = path.removeprefix("v1").removeprefix("v2").strip("/")
            same = host == registry or (host in DOCKER_HUB_NAMES and registry in DOCKER_HUB_NAMES)
            covers = not path or repository == path or repository.startswith(path + "/")
            auth = _auth(entry)
            if same and covers and auth is not None and (best is None or len(path) > best[0]):
                best = (len(path), auth)
    return best[1] if best else None


def _entries(secret: Mapping[str, Any]) -> Mapping[str, Any]:
    data = secret.get("data") or {}
    try:
        if ".dockerconfigjson" in data:
            return json.loads(base64.b64decode(data[".dockerconfigjson"])).get("auths") or {}
        if ".dockercfg" in data:
            return json.loads(base64.b64decode(data[".dockercfg"]))
    except (ValueError, AttributeError):
        pass
    return {}


def _auth(entry: Any) -> Auth | None:
    if not isinstance(entry, dict):
        return None
    user, password = entry.get("username") or "", entry.get("password") or ""
    if not user and entry.get("auth"):
        try:
            user, _, password = base64.b64decode(entry["auth"]).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return None
    token = entry.get("identitytoken") or ""
    return Auth(user, password, token) if user or token else None
