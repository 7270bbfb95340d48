"""One kind in several versions: Events of core/v1 ↔ events.k8s.io/v1, HorizontalPodAutoscalers of autoscaling/v1 ↔ v2. Pure; documents go in and new ones come out.

The registry calls it where the version asked for is not the stored one. Refuses pairs that are not the same kind.
"""

from __future__ import annotations

from typing import Any

import orjson

from apiserver.api import kinds
from apiserver.api.kinds import Resource

JSON = dict[str, Any]
# core/v1 name → events.k8s.io/v1 name (API reference, Event events.k8s.io/v1)
_EVENT_FIELDS = {
    "involvedObject": "regarding", "message": "note", "source": "deprecatedSource", "firstTimestamp": "deprecatedFirstTimestamp",
    "lastTimestamp": "deprecatedLastTimestamp", "count": "deprecatedCount", "reportingComponent": "reportingController",
}
_EVENT_FIELDS_BACK = {new: old for old, new in _EVENT_FIELDS.items()}
# What autoscaling/v1 has no field for travels in these annotations, as JSON of the v2 form.
_METRICS = "autoscaling.alpha.kubernetes.io/metrics"
_CURRENT_METRICS = "autoscaling.alpha.kubernetes.io/current-metrics"
_BEHAVIOR = "autoscaling.alpha.kubernetes.io/behavior"
_CONDITIONS = "autoscaling.alpha.kubernetes.io/conditions"


def convert(obj: JSON, source: Resource, target: Resource) -> JSON:
    """The object in the target's version; the same object where the versions agree. Raises ValueError for kinds that have no conversion."""
    if source.api_version == target.api_version and source.kind == target.kind:
        return obj
    step = _STEPS.get((source, target))
    if step is None:
        raise ValueError(f"no conversion from {source.group_kind}/{source.version} to {target.group_kind}/{target.version}")
    return {**step(obj), "apiVersion": target.api_version, "kind": target.kind}


def event_to_v1(obj: JSON) -> JSON:
    return {_EVENT_FIELDS.get(key, key): value for key, value in obj.items()}


def event_from_v1(obj: JSON) -> JSON:
    converted = {_EVENT_FIELDS_BACK.get(key, key): value for key, value in obj.items()}
    converted.setdefault("involvedObject", {})
    return converted


def autoscaler_to_v2(obj: JSON) -> JSON:
    annotations = dict((obj.get("metadata") or {}).get("annotations") or {})
    spec, status = dict(obj.get("spec") or {}), dict(obj.get("status") or {})
    metrics = _loads(annotations.pop(_METRICS, None), [])
    percentage = spec.pop("targetCPUUtilizationPercentage", None)
    if percentage is not None:
        metrics.insert(0, _cpu_metric("target", {"type": "Utilization", "averageUtilization": percentage}))
    if metrics:
        spec["metrics"] = metrics
    for holder, field, annotation in ((spec, "behavior", _BEHAVIOR), (status, "conditions", _CONDITIONS), (status, "currentMetrics", _CURRENT_METRICS)):
        value = _loads(annotations.pop(annotation, None), None)
        if value:
            holder[field] = value
    current = status.pop("currentCPUUtilizationPercentage", None)
    if current is not None:
        status["currentMetrics"] = [_cpu_metric("current", {"averageUtilization": current}), *status.get("currentMetrics", ())]
    return _rebuilt(obj, annotations, spec, status)


def autoscaler_from_v2(obj: JSON) -> JSON:
    annotations = dict((obj.get("metadata") or {}).get("annotations") or {})
    spec, status = dict(obj.get("spec") or {}), dict(obj.get("status") or {})
    cpu, rest = _take_cpu(spec.pop("metrics", None) or [], "target")
    if cpu is not None:
        spec["targetCPUUtilizationPercentage"] = cpu
    current, current_rest = _take_cpu(status.pop("currentMetrics", None) or [], "current")
    if current is not None:
        status["currentCPUUtilizationPercentage"] = current
    leftovers = ((_METRICS, rest), (_CURRENT_METRICS, current_rest), (_BEHAVIOR, spec.pop("behavior", None)), (_CONDITIONS, status.pop("conditions", None)))
    annotations |= {name: orjson.dumps(value).decode() for name, value in leftovers if value}
    return _rebuilt(obj, annotations, spec, status)


def _cpu_metric(field: str, value: JSON) -> JSON:
    return {"type": "Resource", "resource": {"name": "cpu", field: value}}


def _take_cpu(metrics: list[JSON], field: str) -> tuple[int | None, list[JSON]]:
    """The first CPU utilisation among the metrics, and the other metrics."""
    for position, metric in enumerate(metrics):
        resource = metric.get("resource") or {}
        value = (resource.get(field) or {}).get("averageUtilization")
        if metric.get("type") == "Resource" and resource.get("name") == "cpu" and value is not None:
            return value, metrics[:position] + metrics[position + 1 :]
    return None, metrics


def _rebuilt(obj: JSON, annotations: JSON, spec: JSON, status: JSON) -> JSON:
    metadata = {key: value for key, value in (obj.get("metadata") or {}).items() if key != "annotations"}
    if annotations:
        metadata["annotations"] = annotations
    return {**obj, "metadata": metadata, "spec": spec} | ({"status": status} if "status" in obj or status else {})


def _loads(text: Any, default: Any) -> Any:
    """An annotation's JSON; one that a user garbled counts as absent, as in Kubernetes."""
    try:
        value = orjson.loads(text) if isinstance(text, str) else default
    except orjson.JSONDecodeError:
        return default
    return value if default is None or isinstance(value, type(default)) else default


_STEPS = {
    (kinds.EVENTS, kinds.EVENTS_V1): event_to_v1,
    (kinds.EVENTS_V1, kinds.EVENTS): event_from_v1,
    (kinds.HORIZONTALPODAUTOSCALERS_V1, kinds.HORIZONTALPODAUTOSCALERS): autoscaler_to_v2,
    (kinds.HORIZONTALPODAUTOSCALERS, kinds.HORIZONTALPODAUTOSCALERS_V1): autoscaler_from_v2,
}
