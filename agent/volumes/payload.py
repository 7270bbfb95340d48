"""Which files a configMap, secret, downwardAPI or projected volume holds. Pure: objects and tokens are handed in. Called by volumes.Volumes."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from agent import downward, podspec

DEFAULT_MODE = 0o644
Objects = Mapping[tuple[str, str], Mapping[str, Any] | None]  # ("ConfigMap" | "Secret", name) → object


class VolumeError(Exception):
    """The volume cannot be made now; the text is for the FailedMount event."""


@dataclass(frozen=True, slots=True)
class File:
    data: bytes
    mode: int = DEFAULT_MODE


@dataclass(frozen=True, slots=True)
class TokenSpec:
    """One serviceAccountToken projection."""

    audience: str
    expiration_s: int


@dataclass(frozen=True, slots=True)
class Reference:
    kind: str
    name: str
    optional: bool


PAYLOAD_TYPES = ("configMap", "secret", "downwardAPI", "projected")


def references(volume: Mapping[str, Any]) -> list[Reference]:
    """The ConfigMaps and Secrets that the volume reads."""
    found = []
    for source in _sources(volume):
        if source.get("configMap"):
            found.append(Reference("ConfigMap", source["configMap"].get("name", ""), bool(source["configMap"].get("optional"))))
        if source.get("secret"):
            said = source["secret"]
            found.append(Reference("Secret", said.get("name") or said.get("secretName", ""), bool(said.get("optional"))))
    return found


def tokens(volume: Mapping[str, Any]) -> list[TokenSpec]:
    return [_token_spec(s["serviceAccountToken"]) for s in _sources(volume) if s.get("serviceAccountToken")]


def is_sensitive(volume: Mapping[str, Any]) -> bool:
    """Whether its files must never reach a disk."""
    return any(s.get("secret") or s.get("serviceAccountToken") for s in _sources(volume))


def _sources(volume: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    if volume.get("projected") is not None:
        return list(volume["projected"].get("sources") or ())
    return [{k: volume[k] for k in ("configMap", "secret", "downwardAPI") if volume.get(k) is not None}]


def _token_spec(said: Mapping[str, Any]) -> TokenSpec:
    return TokenSpec(said.get("audience") or "", int(said.get("expirationSeconds") or 3600))


def render(pod: podspec.Pod, volume: Mapping[str, Any], objects: Objects, token: Callable[[TokenSpec], str], facts: downward.Facts) -> dict[str, File]:
    """Relative path → file. Raises VolumeError."""
    own: Mapping[str, Any] = next((volume[k] for k in PAYLOAD_TYPES if volume.get(k) is not None), {})
    default = own.get("defaultMode")
    mode = DEFAULT_MODE if default is None else int(default)
    files: dict[str, File] = {}
    for source in _sources(volume):
        for field, kind in (("configMap", "ConfigMap"), ("secret", "Secret")):
            if source.get(field) is not None:
                files |= _from_object(pod, kind, source[field], objects, mode)
        if source.get("downwardAPI") is not None:
            files |= _from_downward(pod, source["downwardAPI"], mode, facts)
        if source.get("serviceAccountToken"):
            said = source["serviceAccountToken"]
            files[_safe(said.get("path", ""))] = File(token(_token_spec(said)).encode(), mode)
        if source.get("clusterTrustBundle") is not None:
            raise VolumeError("projected source clusterTrustBundle is not supported")
    return files


def _from_object(pod: podspec.Pod, kind: str, said: Mapping[str, Any], objects: Objects, mode: int) -> dict[str, File]:
    name, optional = said.get("name") or said.get("secretName", ""), bool(said.get("optional"))
    found = objects.get((kind, name))
    if found is None:
        if optional:
            return {}
        raise VolumeError(f'{kind.lower()} "{name}" not found')
    data = object_data(kind, found)
    items = said.get("items")
    if not items:
        return {_safe(k): File(v, mode) for k, v in data.items()}
    files = {}
    for item in items:
        if item["key"] in data:
            files[_safe(item.get("path", ""))] = File(data[item["key"]], _mode(item, mode))
        elif not optional:
            raise VolumeError(f"{kind.lower()} references non-existent {kind.lower().removesuffix('map')} key: {item['key']}")
    return files


def object_data(kind: str, found: Mapping[str, Any]) -> dict[str, bytes]:
    if kind == "Secret":
        return {k: base64.b64decode(v) for k, v in (found.get("data") or {}).items()}
    data = {k: v.encode() for k, v in (found.get("data") or {}).items()}
    return data | {k: base64.b64decode(v) for k, v in (found.get("binaryData") or {}).items()}


def _from_downward(pod: podspec.Pod, said: Mapping[str, Any], mode: int, facts: downward.Facts) -> dict[str, File]:
    files = {}
    for item in said.get("items") or ():
        try:
            if item.get("fieldRef"):
                text = downward.field_value(pod, item["fieldRef"].get("fieldPath", ""), facts)
            else:
                text = downward.resource_value(pod, item.get("resourceFieldRef") or {}, "", facts)
        except downward.FieldError as e:
            raise VolumeError(str(e)) from None
        files[_safe(item.get("path", ""))] = File(text.encode(), _mode(item, mode))
    return files


def _mode(item: Mapping[str, Any], default: int) -> int:
    return default if item.get("mode") is None else int(item["mode"])


def _safe(path: str) -> str:
    """Only relative paths below the volume. Raises VolumeError."""
    if not path or path.startswith("/") or ".." in path.split("/") or path.startswith(".."):
        raise VolumeError(f"invalid path {path!r}: must be relative and must not contain or start with '..'")
    return path
