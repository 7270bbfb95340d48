"""Rules of kinds that hold a pod template: replica sets, deployments, daemon sets, stateful sets, jobs. Pure; validation.py calls it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from apiserver.api import selectors
from apiserver.api.causes import at_least, forbidden, immutable, invalid, items, not_supported, one_of, required, section
from apiserver.api.errors import BadRequest, Cause
from apiserver.api.validation_core import claim_spec_causes
from apiserver.api.validation_meta import annotation_causes, label_causes
from apiserver.api.validation_pod import pod_spec_causes
from apiserver.api.validation_scheduling import selector_causes

JSON = dict[str, Any]
_PERCENT = re.compile(r"[0-9]+%")
_STATEFUL_MAY_CHANGE = ("replicas", "ordinals", "template", "updateStrategy", "revisionHistoryLimit", "persistentVolumeClaimRetentionPolicy", "minReadySeconds")


def template_causes(spec: JSON, path: str, restart_policies: tuple[str, ...] = ("Always",)) -> Iterator[Cause]:
    """`<path>.template`: labels, annotations, pod spec, and the restart policies that the kind allows."""
    template, where = section(spec, "template"), f"{path}.template" if path else "template"
    metadata = section(template, "metadata")
    yield from label_causes(metadata.get("labels"), f"{where}.metadata.labels")
    yield from annotation_causes(metadata.get("annotations"), f"{where}.metadata.annotations")
    pod = section(template, "spec")
    yield from pod_spec_causes(pod, f"{where}.spec")
    if pod.get("ephemeralContainers"):
        yield forbidden(f"{where}.spec.ephemeralContainers", "ephemeral containers not allowed in pod template")
    policy = pod.get("restartPolicy", "Always")
    if policy not in restart_policies and policy in ("Always", "OnFailure", "Never"):
        if restart_policies == ("Always",):
            yield not_supported(f"{where}.spec.restartPolicy", policy, restart_policies)
        else:
            yield required(f"{where}.spec.restartPolicy", f"valid values: {', '.join(chr(34) + one + chr(34) for one in restart_policies)}")


def _selector(spec: JSON, path: str = "spec") -> Iterator[Cause]:
    """A selector that selects something, and the template's labels with it."""
    selector = spec.get("selector")
    if not isinstance(selector, dict):
        yield required(f"{path}.selector")
        return
    yield from selector_causes(selector, f"{path}.selector")
    if not selector.get("matchLabels") and not selector.get("matchExpressions"):
        yield invalid(f"{path}.selector", selector, "empty selector is invalid for deployment")
        return
    labels = section(section(section(spec, "template"), "metadata"), "labels")
    try:
        matches = selectors.from_label_selector(selector).matches(labels)
    except BadRequest:
        return  # selector_causes has named it
    if not matches:
        yield invalid(f"{path}.template.metadata.labels", labels, "`selector` does not match template `labels`")


def _counts(spec: JSON, *fields: str) -> Iterator[Cause]:
    for field in fields:
        yield from at_least(f"spec.{field}", spec.get(field))


def pod_template_causes(obj: JSON) -> Iterator[Cause]:
    yield from template_causes(obj, "", ("Always", "OnFailure", "Never"))


def replication_controller_causes(obj: JSON) -> Iterator[Cause]:
    spec = section(obj, "spec")
    yield from _counts(spec, "replicas", "minReadySeconds")
    selector = section(spec, "selector")
    if not selector:
        yield required("spec.selector")
    labels = section(section(section(spec, "template"), "metadata"), "labels")
    if any(labels.get(key) != value for key, value in selector.items()):
        yield invalid("spec.template.metadata.labels", labels, "`selector` does not match template `labels`")
    yield from template_causes(spec, "spec")


def replica_set_causes(obj: JSON) -> Iterator[Cause]:
    spec = section(obj, "spec")
    yield from _counts(spec, "replicas", "minReadySeconds")
    yield from _selector(spec)
    yield from template_causes(spec, "spec")


def deployment_causes(obj: JSON) -> Iterator[Cause]:
    spec = section(obj, "spec")
    yield from _counts(spec, "replicas", "minReadySeconds", "revisionHistoryLimit", "progressDeadlineSeconds")
    yield from _selector(spec)
    strategy = section(spec, "strategy")
    kind = strategy.get("type", "RollingUpdate")
    yield from one_of("spec.strategy.type", kind, ("Recreate", "RollingUpdate"))
    if kind == "Recreate" and strategy.get("rollingUpdate"):
        yield forbidden("spec.strategy.rollingUpdate", "may not be specified when strategy `type` is 'Recreate'")
    if kind == "RollingUpdate":
        yield from _rolling(section(strategy, "rollingUpdate"), "spec.strategy.rollingUpdate")
    if (spec.get("progressDeadlineSeconds") or 600) <= (spec.get("minReadySeconds") or 0):
        yield invalid("spec.progressDeadlineSeconds", spec.get("progressDeadlineSeconds"), "must be greater than minReadySeconds")
    yield from template_causes(spec, "spec")


def _rolling(rolling: JSON, path: str) -> Iterator[Cause]:
    zero = []
    for field in ("maxUnavailable", "maxSurge"):
        value = rolling.get(field)
        if isinstance(value, str):
            if not _PERCENT.fullmatch(value):
                yield invalid(f"{path}.{field}", value, "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')")
            elif field == "maxUnavailable" and int(value[:-1]) > 100:
                yield invalid(f"{path}.{field}", value, "must not be greater than 100%")
        yield from at_least(f"{path}.{field}", value)
        zero.append(value in (0, "0%"))
    if zero == [True, True]:
        yield invalid(f"{path}.maxUnavailable", rolling["maxUnavailable"], "may not be 0 when `maxSurge` is 0")


def daemon_set_causes(obj: JSON) -> Iterator[Cause]:
    spec = section(obj, "spec")
    yield from _counts(spec, "minReadySeconds", "revisionHistoryLimit")
    yield from _selector(spec)
    strategy = section(spec, "updateStrategy")
    yield from one_of("spec.updateStrategy.type", strategy.get("type", "RollingUpdate"), ("OnDelete", "RollingUpdate"))
    yield from _rolling(section(strategy, "rollingUpdate"), "spec.updateStrategy.rollingUpdate")
    yield from template_causes(spec, "spec")


def stateful_set_causes(obj: JSON) -> Iterator[Cause]:
    spec = section(obj, "spec")
    yield from _counts(spec, "replicas", "minReadySeconds", "revisionHistoryLimit")
    yield from one_of("spec.podManagementPolicy", spec.get("podManagementPolicy", "OrderedReady"), ("OrderedReady", "Parallel"))
    yield from one_of("spec.updateStrategy.type", section(spec, "updateStrategy").get("type", "RollingUpdate"), ("OnDelete", "RollingUpdate"))
    yield from _selector(spec)
    yield from template_causes(spec, "spec")
    for where, claim in items(spec, "volumeClaimTemplates", "spec"):
        if not section(claim, "metadata").get("name"):
            yield required(f"{where}.metadata.name")
        yield from claim_spec_causes(section(claim, "spec"), f"{where}.spec")


def selector_update_causes(new: JSON, old: JSON) -> Iterator[Cause]:
    yield from immutable("spec.selector", section(new, "spec").get("selector"), section(old, "spec").get("selector"))


def stateful_set_update_causes(new: JSON, old: JSON) -> Iterator[Cause]:
    after, before = section(new, "spec"), section(old, "spec")
    if any(after.get(field) != before.get(field) for field in after.keys() | before.keys() if field not in _STATEFUL_MAY_CHANGE):
        listed = ", ".join(f"'{field}'" for field in _STATEFUL_MAY_CHANGE[:-1])
        yield forbidden("spec", f"updates to statefulset spec for fields other than {listed} and 'minReadySeconds' are forbidden")


def revision_update_causes(new: JSON, old: JSON) -> Iterator[Cause]:
    yield from immutable("data", new.get("data"), old.get("data"))


def job_spec_causes(spec: JSON, path: str) -> Iterator[Cause]:
    for field in ("parallelism", "completions", "activeDeadlineSeconds", "backoffLimit", "ttlSecondsAfterFinished"):
        yield from at_least(f"{path}.{field}", spec.get(field))
    if spec.get("completionMode"):
        yield from one_of(f"{path}.completionMode", spec["completionMode"], ("Indexed", "NonIndexed"))
        if spec["completionMode"] == "Indexed" and spec.get("completions") is None:
            yield required(f"{path}.completions", "when completion mode is Indexed")
    if spec.get("podReplacementPolicy"):
        yield from one_of(f"{path}.podReplacementPolicy", spec["podReplacementPolicy"], ("Failed", "TerminatingOrFailed"))
    yield from template_causes(spec, path, ("OnFailure", "Never"))


def job_causes(obj: JSON) -> Iterator[Cause]:
    spec = section(obj, "spec")
    yield from job_spec_causes(spec, "spec")
    if isinstance(spec.get("selector"), dict):
        yield from _selector(spec)


def job_update_causes(new: JSON, old: JSON) -> Iterator[Cause]:
    after, before = section(new, "spec"), section(old, "spec")
    for field in ("selector", "template", "completionMode", "podFailurePolicy", "backoffLimitPerIndex", "managedBy", "successPolicy"):
        suspended = field == "template" and before.get("suspend") and not section(old, "status").get("startTime")
        if not suspended:
            yield from immutable(f"spec.{field}", after.get(field), before.get(field))
    if after.get("completionMode") != "Indexed":
        yield from immutable("spec.completions", after.get("completions"), before.get("completions"))


def cron_job_causes(obj: JSON) -> Iterator[Cause]:
    spec = section(obj, "spec")
    schedule = spec.get("schedule") or ""
    if not schedule:
        yield required("spec.schedule")
    elif problem := schedule_problem(schedule):
        yield invalid("spec.schedule", schedule, problem)
    yield from one_of("spec.concurrencyPolicy", spec.get("concurrencyPolicy", "Allow"), ("Allow", "Forbid", "Replace"))
    yield from _counts(spec, "startingDeadlineSeconds", "successfulJobsHistoryLimit", "failedJobsHistoryLimit")
    yield from job_spec_causes(section(section(spec, "jobTemplate"), "spec"), "spec.jobTemplate.spec")
    name = section(obj, "metadata").get("name") or ""
    if len(name) > 52:
        yield invalid("metadata.name", name, "must be no more than 52 characters")


_CRON_FIELDS = (("minute", 0, 59), ("hour", 0, 23), ("day of month", 1, 31), ("month", 1, 12), ("day of week", 0, 7))
_CRON_NAMES = {name: str(n) for n, name in enumerate(("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"), start=1)} | {
    name: str(n) for n, name in enumerate(("sun", "mon", "tue", "wed", "thu", "fri", "sat"))
}


def schedule_problem(schedule: str) -> str:
    """What is wrong with a cron expression (five fields, or @hourly …); empty: nothing."""
    if schedule in ("@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly") or re.fullmatch(r"@every [0-9hms.]+", schedule):
        return ""
    fields = schedule.split()
    if len(fields) != 5:
        return f"expected exactly 5 fields, found {len(fields)}: [{schedule}]"
    for text, (name, low, high) in zip(fields, _CRON_FIELDS, strict=True):
        for part in text.split(","):
            match = re.fullmatch(r"(\*|\?|[0-9a-z]+(?:-[0-9a-z]+)?)(?:/([0-9]+))?", part.lower())
            if match is None:
                return f"failed to parse {name} from {part}"
            ends = [] if match.group(1) in ("*", "?") else [_CRON_NAMES.get(end, end) for end in match.group(1).split("-")]
            if not all(end.isdigit() and low <= int(end) <= high for end in ends) or match.group(2) == "0":
                return f"{name} out of range ({low}-{high}): {part}"
            if len(ends) == 2 and int(ends[0]) > int(ends[1]):
                return f"beginning of range ({ends[0]}) beyond end of range ({ends[1]}): {part}"
    return ""
