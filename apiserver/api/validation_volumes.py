"""Rules of a pod's volumes: one source each, and what each source needs. Pure; validation_pod.py calls it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from apiserver.api import names, quantities
from apiserver.api.causes import duplicate, forbidden, invalid, items, one_of, required
from apiserver.api.defaults_pod import VOLUME_SOURCES
from apiserver.api.errors import BadRequest, Cause
from apiserver.api.validation_containers import field_ref_causes, relative_path_causes, resource_field_causes

JSON = dict[str, Any]
HOST_PATH_TYPES = ("", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket")
_VOLUME_FIELDS = frozenset(("metadata.labels", "metadata.annotations"))
_PROJECTIONS = ("secret", "configMap", "downwardAPI", "serviceAccountToken", "clusterTrustBundle", "podCertificate")
_MODE_TEXT = "must be a number between 0 and 0777 (octal), both inclusive"


def volume_causes(spec: JSON, path: str) -> Iterator[Cause]:
    seen: set[str] = set()
    for where, volume in items(spec, "volumes", path):
        name = volume.get("name")
        if not name:
            yield required(f"{where}.name")
        else:
            yield from (invalid(f"{where}.name", name, text) for text in names.dns_label(name))
            if name in seen:
                yield duplicate(f"{where}.name", name)
            seen.add(name)
        chosen = [field for field in volume if field in VOLUME_SOURCES and isinstance(volume[field], dict)]
        if not chosen:
            yield required(where, "must specify a volume type")
        yield from (forbidden(f"{where}.{field}", "may not specify more than 1 volume type") for field in chosen[1:])
        for field in chosen[:1]:
            check = _CHECKS.get(field)
            if check is not None:
                yield from check(volume[field], f"{where}.{field}")


def _empty_dir(source: JSON, path: str) -> Iterator[Cause]:
    if source.get("sizeLimit") is None:
        return
    try:
        negative = quantities.parse(source["sizeLimit"]) < 0
    except BadRequest as err:
        yield invalid(f"{path}.sizeLimit", source["sizeLimit"], err.message)
        return
    if negative:
        yield forbidden(f"{path}.sizeLimit", "SizeLimit field must be a valid resource quantity")


def _host_path(source: JSON, path: str) -> Iterator[Cause]:
    target = source.get("path")
    if not target:
        yield required(f"{path}.path")
    elif ".." in target.split("/"):
        yield invalid(f"{path}.path", target, "must not contain '..'")
    yield from one_of(f"{path}.type", source.get("type", ""), HOST_PATH_TYPES)


def _config_map(source: JSON, path: str) -> Iterator[Cause]:
    if not source.get("name"):
        yield required(f"{path}.name")
    yield from _mode(source.get("defaultMode"), f"{path}.defaultMode")
    yield from _key_paths(source, path)


def _secret(source: JSON, path: str) -> Iterator[Cause]:
    if not source.get("secretName"):
        yield required(f"{path}.secretName")
    yield from _mode(source.get("defaultMode"), f"{path}.defaultMode")
    yield from _key_paths(source, path)


def _claim(source: JSON, path: str) -> Iterator[Cause]:
    if not source.get("claimName"):
        yield required(f"{path}.claimName")


def _image(source: JSON, path: str) -> Iterator[Cause]:
    if not source.get("reference"):
        yield required(f"{path}.reference")
    if source.get("pullPolicy"):
        yield from one_of(f"{path}.pullPolicy", source["pullPolicy"], ("Always", "IfNotPresent", "Never"))


def _downward(source: JSON, path: str) -> Iterator[Cause]:
    yield from _mode(source.get("defaultMode"), f"{path}.defaultMode")
    for where, item in items(source, "items", path):
        yield from _file_path(item.get("path"), f"{where}.path")
        yield from _mode(item.get("mode"), f"{where}.mode")
        chosen = [field for field in ("fieldRef", "resourceFieldRef") if isinstance(item.get(field), dict)]
        if len(chosen) > 1:
            yield invalid(where, "resource", "fieldRef and resourceFieldRef can not be specified simultaneously")
        elif not chosen:
            yield required(where, "one of fieldRef and resourceFieldRef is required")
        elif chosen[0] == "fieldRef":
            yield from field_ref_causes(item["fieldRef"], f"{where}.fieldRef", _VOLUME_FIELDS)
        else:
            if not item["resourceFieldRef"].get("containerName"):
                yield required(f"{where}.resourceFieldRef.containerName")
            yield from resource_field_causes(item["resourceFieldRef"], f"{where}.resourceFieldRef")


def _projected(source: JSON, path: str) -> Iterator[Cause]:
    yield from _mode(source.get("defaultMode"), f"{path}.defaultMode")
    for where, projection in items(source, "sources", path):
        chosen = [field for field in _PROJECTIONS if isinstance(projection.get(field), dict)]
        if not chosen:
            yield required(where, "must specify at least 1 projected volume source")
        yield from (forbidden(where, "may not specify more than 1 volume type") for _ in chosen[1:])
        for field in chosen[:1]:
            value, inner = projection[field], f"{where}.{field}"
            if field in ("secret", "configMap"):
                if not value.get("name"):
                    yield required(f"{inner}.name")
                yield from _key_paths(value, inner)
            elif field == "downwardAPI":
                yield from _downward(value, inner)
            elif field == "serviceAccountToken":
                if isinstance(value.get("expirationSeconds"), int) and value["expirationSeconds"] < 600:
                    yield invalid(f"{inner}.expirationSeconds", value["expirationSeconds"], "may not specify a duration less than 10 minutes")
                yield from _file_path(value.get("path"), f"{inner}.path")


def _key_paths(source: JSON, path: str) -> Iterator[Cause]:
    for where, item in items(source, "items", path):
        if not item.get("key"):
            yield required(f"{where}.key")
        yield from _file_path(item.get("path"), f"{where}.path")
        yield from _mode(item.get("mode"), f"{where}.mode")


def _file_path(value: Any, path: str) -> Iterator[Cause]:
    if not value:
        yield required(path)
        return
    yield from relative_path_causes(value, path)
    if value.startswith("..") and ".." not in value.split("/"):
        yield invalid(path, value, "must not start with '..'")


def _mode(value: Any, path: str) -> Iterator[Cause]:
    if isinstance(value, int) and not 0 <= value <= 0o777:
        yield invalid(path, value, _MODE_TEXT)


_CHECKS = {
    "emptyDir": _empty_dir, "hostPath": _host_path, "configMap": _config_map, "secret": _secret, "persistentVolumeClaim": _claim, "image": _image,
    "downwardAPI": _downward, "projected": _projected,
}


def volume_names(spec: JSON) -> frozenset[str]:
    """What containers may mount."""
    return frozenset(volume["name"] for _, volume in items(spec, "volumes", "") if volume.get("name"))
