"""The rows of kinds that hold a pod template: deployments, replica sets, daemon sets, stateful sets, jobs. Pure; tables.py calls it."""

from __future__ import annotations

from typing import Any

from apiserver.api import table_cells, timestamps
from apiserver.api.errors import BadRequest
from apiserver.api.table_cells import JSON, NONE, age, section


def containers(template: JSON) -> tuple[str, str]:
    """("a,b", "image-a,image-b")"""
    listed = section(template, "spec").get("containers") or ()
    return ",".join(c.get("name", "") for c in listed), ",".join(c.get("image", "") for c in listed)


def _name(obj: JSON) -> str:
    return str(section(obj, "metadata").get("name") or "")


def _parts(obj: JSON) -> tuple[JSON, JSON, list[Any]]:
    """(spec, status, the wide cells: containers, images, selector)"""
    spec = section(obj, "spec")
    selector = spec.get("selector")
    shown = table_cells.selector(selector) if isinstance(selector, dict) and {"matchLabels", "matchExpressions"} & selector.keys() else table_cells.labels(selector)
    return spec, section(obj, "status"), [*containers(section(spec, "template")), shown]


def deployment(obj: JSON, now: float) -> list[Any]:
    spec, status, wide = _parts(obj)
    ready = f"{status.get('readyReplicas') or 0}/{spec.get('replicas', 0)}"
    return [_name(obj), ready, status.get("updatedReplicas") or 0, status.get("availableReplicas") or 0, age(obj, now), *wide]


def replica_set(obj: JSON, now: float) -> list[Any]:
    spec, status, wide = _parts(obj)
    return [_name(obj), spec.get("replicas", 0), status.get("replicas") or 0, status.get("readyReplicas") or 0, age(obj, now), *wide]


def daemon_set(obj: JSON, now: float) -> list[Any]:
    spec, status, wide = _parts(obj)
    fields = ("desiredNumberScheduled", "currentNumberScheduled", "numberReady", "updatedNumberScheduled", "numberAvailable")
    node_selector = section(section(section(spec, "template"), "spec"), "nodeSelector")
    return [_name(obj), *(status.get(field) or 0 for field in fields), table_cells.labels(node_selector), age(obj, now), *wide]


def stateful_set(obj: JSON, now: float) -> list[Any]:
    spec, status, wide = _parts(obj)
    return [_name(obj), f"{status.get('readyReplicas') or 0}/{spec.get('replicas', 0)}", age(obj, now), *wide[:2]]


def job(obj: JSON, now: float) -> list[Any]:
    spec, status, wide = _parts(obj)
    succeeded = status.get("succeeded") or 0
    if spec.get("completions") is not None:
        completions = f"{succeeded}/{spec['completions']}"
    else:
        parallelism = spec.get("parallelism") or 0
        completions = f"{succeeded}/1 of {parallelism}" if parallelism > 1 else f"{succeeded}/1"
    duration = ""
    if status.get("startTime"):
        try:
            end = timestamps.parse(status["completionTime"]) if status.get("completionTime") else now
            duration = timestamps.human_duration(end - timestamps.parse(status["startTime"]))
        except BadRequest:
            duration = table_cells.UNKNOWN
    return [_name(obj), _job_status(obj), completions, duration, age(obj, now), *wide]


def _job_status(obj: JSON) -> str:
    true = {condition.get("type") for condition in section(obj, "status").get("conditions") or () if condition.get("status") == "True"}
    for condition, word in (("Complete", "Complete"), ("Failed", "Failed")):
        if condition in true:
            return word
    if section(obj, "metadata").get("deletionTimestamp"):
        return "Terminating"
    for condition, word in (("Suspended", "Suspended"), ("FailureTarget", "FailureTarget"), ("SuccessCriteriaMet", "SuccessCriteriaMet")):
        if condition in true:
            return word
    return "Running"


def cron_job(obj: JSON, now: float) -> list[Any]:
    spec, status = section(obj, "spec"), section(obj, "status")
    last = table_cells.since(status["lastScheduleTime"], now) if status.get("lastScheduleTime") else NONE
    suspended = "True" if spec.get("suspend") else "False"
    job_spec = section(section(spec, "jobTemplate"), "spec")
    wide = [*containers(section(job_spec, "template")), table_cells.selector(job_spec.get("selector"))]
    return [_name(obj), spec.get("schedule") or "", spec.get("timeZone") or NONE, suspended, len(status.get("active") or ()), last, age(obj, now), *wide]
