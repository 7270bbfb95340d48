"""Rules of core/v1 kinds beside pods and services: nodes, namespaces, ConfigMaps, Secrets, accounts, volumes, quotas; Leases and Events. Pure; validation.py calls it."""

from __future__ import annotations

import base64
import binascii
import itertools
import json
from collections.abc import Iterator
from typing import Any

from apiserver.api import names, quantities
from apiserver.api.causes import at_least, forbidden, immutable, invalid, items, not_supported, one_of, required, section, strings
from apiserver.api.errors import BadRequest, Cause
from apiserver.api.validation_containers import quantity_causes
from apiserver.api.validation_scheduling import taint_causes

JSON = dict[str, Any]
MAX_DATA_BYTES = 1024 * 1024
ACCESS_MODES = ("ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod")
_IMMUTABLE_SET = "field is immutable when `immutable` is set"
_TOKEN_TYPE = "kubernetes.io/service-account-token"
_ACCOUNT_NAME = "kubernetes.io/service-account.name"
# The keys that a Secret of a type must have.
_SECRET_KEYS = {
    "kubernetes.io/dockercfg": (".dockercfg",), "kubernetes.io/dockerconfigjson": (".dockerconfigjson",), "kubernetes.io/ssh-auth": ("ssh-privatekey",),
    "kubernetes.io/tls": ("tls.crt", "tls.key"),
}


def node_causes(obj: JSON) -> Iterator[Cause]:
    spec, status = section(obj, "spec"), section(obj, "status")
    yield from taint_causes(spec, "spec")
    for where, value in strings(spec, "podCIDRs", "spec"):
        yield from (invalid(where, value, text) for text in names.cidr(value))
    for field in ("capacity", "allocatable"):
        for name, quantity in section(status, field).items():
            yield from quantity_causes(name, quantity, f"status.{field}[{name}]")


def node_update_causes(new: JSON, old: JSON) -> Iterator[Cause]:
    after, before = section(new, "spec"), section(old, "spec")
    if before.get("providerID") and after.get("providerID") != before["providerID"]:
        yield forbidden("spec.providerID", 'node updates may not change providerID except from "" to valid')
    if before.get("podCIDRs") and (after.get("podCIDRs") or [after.get("podCIDR")]) != before["podCIDRs"]:
        yield forbidden("spec.podCIDRs", "node updates may not change podCIDR except from \"\" to valid")


def namespace_causes(obj: JSON) -> Iterator[Cause]:
    for where, finalizer in strings(section(obj, "spec"), "finalizers", "spec"):
        yield from (invalid(where, finalizer, text) for text in names.qualified_name(finalizer))
        if "/" not in finalizer and finalizer != "kubernetes":
            yield invalid(where, finalizer, "name is neither a standard finalizer name nor is it fully qualified")


def config_map_causes(obj: JSON) -> Iterator[Cause]:
    text, binary = section(obj, "data"), section(obj, "binaryData")
    yield from _keys(text, "data")
    yield from _keys(binary, "binaryData")
    for key in binary:
        if key in text:
            yield invalid(f"data[{key}]", key, "duplicate of key present in binaryData")
    size = sum(len(value.encode()) for value in text.values() if isinstance(value, str)) + sum(len(value) * 3 // 4 for value in binary.values() if isinstance(value, str))
    yield from _size(size, "")


def config_map_update_causes(new: JSON, old: JSON) -> Iterator[Cause]:
    yield from _immutable_data(new, old, ("data", "binaryData"))


def _immutable_data(new: JSON, old: JSON, fields: tuple[str, ...]) -> Iterator[Cause]:
    if not old.get("immutable"):
        return
    if not new.get("immutable"):
        yield forbidden("immutable", _IMMUTABLE_SET)
    for field in fields:
        if (new.get(field) or {}) != (old.get(field) or {}):
            yield forbidden(field, _IMMUTABLE_SET)


def _keys(data: JSON, field: str) -> Iterator[Cause]:
    for key in data:
        yield from (invalid(f"{field}[{key}]", key, text) for text in names.config_key(key))


def _size(size: int, path: str) -> Iterator[Cause]:
    if size > MAX_DATA_BYTES:
        yield Cause(path or "[]", "FieldValueTooLong", f"Too long: may not be more than {MAX_DATA_BYTES} bytes")


def secret_causes(obj: JSON) -> Iterator[Cause]:
    data, kind = section(obj, "data"), obj.get("type", "Opaque")
    yield from _keys(data, "data")
    yield from _size(sum(len(value) * 3 // 4 for value in data.values() if isinstance(value, str)), "data")
    for key in _SECRET_KEYS.get(kind, ()):
        if key not in data:
            yield required(f"data[{key}]")
        elif kind.startswith("kubernetes.io/docker"):
            try:
                json.loads(base64.b64decode(data[key]))
            except (binascii.Error, ValueError):
                yield invalid(f"data[{key}]", "<secret contents redacted>", "invalid character in JSON: must be valid JSON")
    if kind == "kubernetes.io/basic-auth" and not {"username", "password"} & data.keys():
        yield required("data[username]")
        yield required("data[password]")
    if kind == _TOKEN_TYPE and not section(section(obj, "metadata"), "annotations").get(_ACCOUNT_NAME):
        yield required(f"metadata.annotations[{_ACCOUNT_NAME}]")


def secret_update_causes(new: JSON, old: JSON) -> Iterator[Cause]:
    yield from immutable("type", new.get("type"), old.get("type"))
    yield from _immutable_data(new, old, ("data",))


def service_account_causes(obj: JSON) -> Iterator[Cause]:
    for where, reference in items(obj, "imagePullSecrets", ""):
        if not reference.get("name"):
            yield required(f"{where}.name")


def lease_causes(obj: JSON) -> Iterator[Cause]:
    spec = section(obj, "spec")
    if isinstance(spec.get("leaseDurationSeconds"), int) and spec["leaseDurationSeconds"] <= 0:
        yield invalid("spec.leaseDurationSeconds", spec["leaseDurationSeconds"], "must be greater than 0")
    yield from at_least("spec.leaseTransitions", spec.get("leaseTransitions"))
    if spec.get("holderIdentity") == "":
        yield invalid("spec.holderIdentity", "", "must not be empty")


def event_causes(obj: JSON) -> Iterator[Cause]:
    namespace = section(obj, "metadata").get("namespace")
    involved = section(obj, "involvedObject").get("namespace") or ""
    if involved and involved != namespace:
        yield invalid("involvedObject.namespace", involved, "does not match event.namespace")
    if not involved and namespace not in ("default", "kube-system"):
        yield invalid("involvedObject.namespace", involved, "does not match event.namespace")
    if obj.get("eventTime"):
        for field, limit in (("reportingComponent", 253), ("reportingInstance", 128), ("action", 128), ("reason", 128)):
            value = obj.get(field) or ""
            shown = "reportingController" if field == "reportingComponent" else field
            if not value:
                yield required(shown)
            elif len(value) > limit:
                yield invalid(shown, "", f"can have at most {limit} characters")
        yield from one_of("type", obj.get("type", ""), ("Normal", "Warning"))
    if len((obj.get("message") or "").encode()) > 64 * 1024:
        yield invalid("message", "", "can have at most 65536 characters")


def binding_causes(obj: JSON) -> Iterator[Cause]:
    target = section(obj, "target")
    if target.get("kind") not in (None, "", "Node"):
        yield not_supported("target.kind", target["kind"], ("<empty>", "Node"))
    if not target.get("name"):
        yield required("target.name")


def claim_causes(obj: JSON) -> Iterator[Cause]:
    yield from claim_spec_causes(section(obj, "spec"), "spec")


def claim_spec_causes(spec: JSON, path: str) -> Iterator[Cause]:
    if not spec.get("accessModes"):
        yield required(f"{path}.accessModes", "at least 1 access mode is required")
    for where, mode in strings(spec, "accessModes", path):
        yield from one_of(where.rpartition("[")[0], mode, ACCESS_MODES)
    storage = section(section(spec, "resources"), "requests").get("storage")
    if storage is None:
        yield required(f"{path}.resources[storage]")
    else:
        yield from _positive(storage, f"{path}.resources[storage]")
    if spec.get("volumeMode"):
        yield from one_of(f"{path}.volumeMode", spec["volumeMode"], ("Block", "Filesystem"))


def claim_update_causes(new: JSON, old: JSON) -> Iterator[Cause]:
    after, before = dict(section(new, "spec")), dict(section(old, "spec"))
    wanted, had = (section(section(spec, "resources"), "requests").get("storage") for spec in (after, before))
    for spec in (after, before):
        spec.pop("resources", None)
        spec.pop("volumeAttributesClassName", None)
    if not before.get("volumeName"):
        for field in ("volumeName", "storageClassName"):
            before[field] = after.get(field, before.get(field))
            after.setdefault(field, before[field])
    if after != before:
        yield forbidden("spec", "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims")
    try:
        if wanted is not None and had is not None and quantities.parse(wanted) < quantities.parse(had):
            yield forbidden("spec.resources.requests.storage", "field can not be less than status.capacity")
    except BadRequest:
        return


def volume_causes(obj: JSON) -> Iterator[Cause]:
    spec = section(obj, "spec")
    if not spec.get("accessModes"):
        yield required("spec.accessModes")
    for where, mode in strings(spec, "accessModes", "spec"):
        yield from one_of(where.rpartition("[")[0], mode, ACCESS_MODES)
    storage = section(spec, "capacity").get("storage")
    if not spec.get("capacity"):
        yield required("spec.capacity")
    elif storage is None:
        yield not_supported("spec.capacity", sorted(spec["capacity"])[0], ("storage",))
    else:
        yield from _positive(storage, "spec.capacity[storage]")
    sources = [field for field in ("hostPath", "local", "nfs", "csi", "iscsi", "fc", "flexVolume", "cephfs", "rbd", "azureFile") if isinstance(spec.get(field), dict)]
    if not sources:
        yield required("spec", "must specify a volume type")
    yield from (forbidden(f"spec.{field}", "may not specify more than 1 volume type") for field in sources[1:])
    yield from one_of("spec.persistentVolumeReclaimPolicy", spec.get("persistentVolumeReclaimPolicy", "Retain"), ("Delete", "Recycle", "Retain"))
    if "local" in sources and not section(section(spec, "nodeAffinity"), "required"):
        yield required("spec.nodeAffinity", "Local volume requires node affinity")


def _positive(quantity: Any, path: str) -> Iterator[Cause]:
    try:
        value = quantities.parse(quantity)
    except BadRequest as err:
        yield invalid(path, quantity, err.message)
        return
    if value <= 0:
        yield invalid(path, str(quantity), "must be greater than zero")


def limit_range_causes(obj: JSON) -> Iterator[Cause]:
    seen: set[str] = set()
    for where, limit in items(section(obj, "spec"), "limits", "spec"):
        kind = limit.get("type") or ""
        if not kind:
            yield required(f"{where}.type")
        if kind in seen:
            yield Cause(f"{where}.type", "FieldValueDuplicate", f'Duplicate value: "{kind}"')
        seen.add(kind)
        for field in ("max", "min", "default", "defaultRequest"):
            if kind == "Pod" and field.startswith("default") and limit.get(field):
                yield forbidden(f"{where}.{field}", "may not be specified when `type` is 'Pod'")
            for name, quantity in section(limit, field).items():
                yield from quantity_causes(name, quantity, f"{where}.{field}[{name}]")
        yield from _ordered(limit, where)


def _ordered(limit: JSON, path: str) -> Iterator[Cause]:
    """min ≤ defaultRequest ≤ default ≤ max, for each resource."""
    order = ("min", "defaultRequest", "default", "max")
    for name in {name for field in order for name in section(limit, field)}:
        present = [(field, section(limit, field)[name]) for field in order if name in section(limit, field)]
        for (low, small), (high, big) in itertools.pairwise(present):
            try:
                wrong = quantities.parse(small) > quantities.parse(big)
            except BadRequest:
                return
            if wrong:
                yield invalid(f"{path}.{low}[{name}]", str(small), f"{low} value {small} is greater than {high} value {big}")


def quota_causes(obj: JSON) -> Iterator[Cause]:
    for name, quantity in section(section(obj, "spec"), "hard").items():
        where = f"spec.hard[{name}]"
        yield from (invalid(where, name, text) for text in names.qualified_name(name))
        try:
            if quantities.parse(quantity) < 0:
                yield invalid(where, str(quantity), "must be greater than or equal to 0")
        except BadRequest as err:
            yield invalid(where, quantity, err.message)
