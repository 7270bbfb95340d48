"""The scale subresource: autoscaling/v1 Scale made of a workload, and back. Pure; the registry writes what with_replicas() returns."""

from __future__ import annotations

from apiserver.api import errors, kinds, selectors
from apiserver.registry import metadata
from apiserver.registry.context import Object

API_VERSION = "autoscaling/v1"
_META = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")


def of(resource: kinds.Resource, obj: Object) -> Object:
    """The Scale of a workload; status.selector in the text form that HPAs and kubectl read."""
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    scale: Object = {
        "apiVersion": API_VERSION, "kind": "Scale", "metadata": {field: obj["metadata"][field] for field in _META if field in obj["metadata"]},
        "spec": {"replicas": spec.get("replicas", 1)}, "status": {"replicas": status.get("replicas", 0)},
    }  # fmt: skip
    selector = selector_text(resource, spec.get("selector"))
    if selector:
        scale["status"]["selector"] = selector
    return scale


def selector_text(resource: kinds.Resource, selector: Object | None) -> str:
    """`app=web,tier in (a,b)`; ReplicationControllers have a plain map."""
    if not selector:
        return ""
    if resource is kinds.REPLICATIONCONTROLLERS:
        return ",".join(f"{key}={value}" for key, value in sorted(selector.items()))
    terms = [f"{key}={value}" for key, value in sorted((selector.get("matchLabels") or {}).items())]
    for expression in selector.get("matchExpressions") or ():
        key, values = expression.get("key", ""), ",".join(sorted(expression.get("values") or ()))
        operator = expression.get("operator")
        terms.append({"In": f"{key} in ({values})", "NotIn": f"{key} notin ({values})", "Exists": key, "DoesNotExist": f"!{key}"}.get(str(operator), key))
    text = ",".join(terms)
    selectors.parse_labels(text)
    return text


def with_replicas(resource: kinds.Resource, scale: object, obj: Object, name: str, revision: int) -> Object:
    """The workload with the Scale's replicas, nothing else changed. Raises Invalid, Conflict, BadRequest."""
    if not isinstance(scale, dict) or scale.get("kind", "Scale") != "Scale":
        raise errors.BadRequest("the body of the request must be a Scale of autoscaling/v1")
    meta = metadata.of(scale)
    if meta.get("name", name) != name:
        raise errors.BadRequest(f"the name of the object ({meta['name']}) does not match the name on the URL ({name})")
    if meta.get("uid") and meta["uid"] != obj["metadata"].get("uid"):
        raise errors.Conflict(resource, name, f"Precondition failed: UID in precondition: {meta['uid']}, UID in object meta: {obj['metadata'].get('uid')}")
    metadata.check_resource_version(resource, name, meta.get("resourceVersion"), revision)
    replicas = (scale.get("spec") or {}).get("replicas", 0)
    if not isinstance(replicas, int) or isinstance(replicas, bool):
        raise errors.BadRequest("Scale: spec.replicas: must be an integer")
    if replicas < 0:
        why = f"Invalid value: {replicas}: must be greater than or equal to 0"
        raise errors.Invalid("autoscaling", "Scale", name, [errors.Cause("spec.replicas", "FieldValueInvalid", why)])
    return {**obj, "metadata": dict(obj["metadata"]), "spec": {**(obj.get("spec") or {}), "replicas": replicas}}
