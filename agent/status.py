"""What the API is told of a pod: render_status() (pure), the patch that carries it, and the events that a change of it calls for. Workers send what this returns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from agent import observe, plan, podspec
from agent.observe import Failure, Observed
from agent.runtime import cri

ERR_IMAGE_PULL_SHOWN_S = 3.0
OWN_CONDITIONS = ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled")
JSON = dict[str, Any]


@dataclass(frozen=True, slots=True)
class NodeAddresses:
    host_ips: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _View:
    """What a rendering looks at; `old` is the status that the API holds."""

    desired: plan.Desired
    observed: Observed
    now: float
    old: Mapping[str, Any]
    backoff: plan.RestartBackoff

    @property
    def pod(self) -> podspec.Pod:
        return self.desired.pod


@dataclass(frozen=True, slots=True)
class PodEvent:
    """One event to record on the pod; `container` gives the fieldPath."""

    type: str
    reason: str
    message: str
    container: str = ""


def render_status(desired: plan.Desired, observed: Observed, now: float, node: NodeAddresses, backoff: plan.RestartBackoff = plan.RestartBackoff()) -> JSON:
    """The whole pod status (core/v1 PodStatus). Times that already stand in the pod's status are kept while what they mark has not changed."""
    pod = desired.pod
    old: JSON = dict(pod.get("status") or {})
    specs = podspec.containers(pod)
    view = _View(desired, observed, now, old, backoff)
    rendered = {c.name: _container_status(view, c) for c in specs}
    phase = _phase(view)
    status: JSON = {"phase": phase, "startTime": old.get("startTime") or podspec.format_time(now), "qosClass": podspec.qos_class(pod)}
    if plan.is_overdue(pod, now) and phase == "Failed":
        status |= {"reason": "DeadlineExceeded", "message": "Pod was active on the node longer than the specified deadline"}
    elif podspec.is_terminal(pod):
        status |= {k: old[k] for k in ("reason", "message") if old.get(k)}
    status["hostIP"] = node.host_ips[0] if node.host_ips else ""
    status["hostIPs"] = [{"ip": ip} for ip in node.host_ips]
    ip = _pod_ip(pod, observed, node) or old.get("podIP", "")
    if ip and (observed.sandbox is not None or phase in ("Succeeded", "Failed")):
        status["podIP"], status["podIPs"] = ip, [{"ip": ip}]
    for field, roles in (("initContainerStatuses", ("init", "sidecar")), ("containerStatuses", ("app",)), ("ephemeralContainerStatuses", ("ephemeral",))):
        listed = [rendered[c.name] for c in specs if c.role in roles]
        if listed:
            status[field] = listed
    status["conditions"] = _conditions(view, rendered, phase)
    if pod["metadata"].get("generation"):
        status["observedGeneration"] = pod["metadata"]["generation"]
    return status


def render_patch(pod: podspec.Pod, status: JSON) -> JSON | None:
    """A strategic merge patch for /status, or None where nothing differs. Conditions of others (readiness gates, disruption) are not touched;
    the uid makes it fail on another pod of the same name."""
    old = pod.get("status") or {}
    changed: JSON = {k: v for k, v in status.items() if k != "conditions" and old.get(k) != v}
    for gone in ("podIP", "podIPs", "reason", "message"):
        if gone in old and gone not in status:
            changed[gone] = None
    if changed.get("podIPs") and old.get("podIPs"):
        changed["podIPs"] = [{"$patch": "replace"}, *changed["podIPs"]]
    if changed.get("hostIPs") and old.get("hostIPs"):
        changed["hostIPs"] = [{"$patch": "replace"}, *changed["hostIPs"]]
    before = {c["type"]: c for c in old.get("conditions") or ()}
    conditions = [c for c in status["conditions"] if {k: v for k, v in before.get(c["type"], {}).items() if v is not None} != c]
    if conditions:
        changed["conditions"] = [_with_removals(c, before.get(c["type"], {})) for c in conditions]
    return {"metadata": {"uid": podspec.uid(pod)}, "status": changed} if changed else None


def _with_removals(condition: JSON, before: Mapping[str, Any]) -> JSON:
    """A merge keeps what is not named: say null for reason and message that no longer hold."""
    return condition | {k: None for k in ("reason", "message") if before.get(k) and k not in condition}


def is_urgent(pod: podspec.Pod, status: JSON) -> bool:
    """Whether someone waits for this status: a phase or a readiness that changed (the rest may be joined with what follows)."""
    old = pod.get("status") or {}
    return status["phase"] != (old.get("phase") or "Pending") or _ready(old) != _ready(status)


def _ready(status: Mapping[str, Any]) -> str:
    return next((c["status"] for c in status.get("conditions") or () if c["type"] == "Ready"), "False")


def _pod_ip(pod: podspec.Pod, observed: Observed, node: NodeAddresses) -> str:
    if pod["spec"].get("hostNetwork"):
        return node.host_ips[0] if node.host_ips and observed.sandbox is not None else ""
    return observed.ip if observed.networked else ""


def _phase(view: _View) -> str:
    """k8s.io/docs: Pod Lifecycle, pod phase. A phase once final stays."""
    desired, observed, now = view.desired, view.observed, view.now
    pod = desired.pod
    if podspec.is_terminal(pod):
        return str(view.old["phase"])
    latest = {c.name: (c, observed.latest(c.name)) for c in podspec.containers(pod) if c.role != "ephemeral"}
    ended = [s for _, s in latest.values() if s is not None and s.state == "exited"]
    running = any(s is not None and s.state == "running" for _, s in latest.values())
    apps = [s for c, s in latest.values() if c.role == "app"]
    if not running and (plan.is_finished(pod, observed, now) or (desired.terminating and ended)):
        counted = [s for c, s in latest.values() if c.role != "sidecar" and s is not None and s.state == "exited"]
        all_ran = all(s is not None for s in apps)
        return "Succeeded" if all_ran and all(s.exit_code == 0 for s in counted) and not plan.is_overdue(pod, now) else "Failed"
    return "Running" if any(s is not None and s.state in ("running", "exited") for s in apps) else "Pending"


def _lost(known: Mapping[str, Any]) -> JSON:
    """lastState of a container that the API knows and the node does not (it was rebooted, or taken down and up)."""
    state = known.get("state") or {}
    if not known.get("containerID"):
        return {}
    if "terminated" in state:
        return {"terminated": state["terminated"]}
    if "running" not in state:
        return {}
    text = "The container could not be located when the pod was started again"
    return {"terminated": {"exitCode": 137, "reason": "ContainerStatusUnknown", "message": text, "containerID": known["containerID"], **state["running"]}}


def _container_status(view: _View, container: podspec.ContainerSpec) -> JSON:
    observed = view.observed
    attempts = [a for a in observed.of(container.name) if a.state != "created"]
    latest = attempts[-1] if attempts else None
    known = _known(view.old, container.name)
    if latest is None and known is not None and (podspec.is_terminal(view.pod) or view.desired.terminating) and "terminated" in (known.get("state") or {}):
        return known
    status: JSON = {"name": container.name, "image": container.image, "imageID": observed.images.get(container.image, ""), "restartCount": 0, "ready": False, "started": False}
    state, last = _state(view, container, attempts)
    if latest is not None:
        status |= {"restartCount": observe.attempt(latest), "containerID": f"minik://{latest.id}", "image": latest.annotations.get(observe.ANNOTATION_IMAGE) or container.image,
                   "imageID": latest.annotations.get(observe.ANNOTATION_IMAGE_ID) or status["imageID"]}
    elif known is not None:
        status["restartCount"] = known.get("restartCount") or 0
        last = last or _lost(known) or known.get("lastState") or {}
    if latest is not None and latest.state == "running":
        verdict = observed.probes.get(latest.id) or observe.ProbeVerdict("startupProbe" not in container.spec, "readinessProbe" not in container.spec)
        status["started"] = verdict.started
        status["ready"] = verdict.started and verdict.ready and latest.id not in observed.stopping
    if container.role == "init":
        status["ready"] = latest is not None and latest.state == "exited" and latest.exit_code == 0
    return status | {"state": state, "lastState": last}


def _known(old: Mapping[str, Any], name: str) -> JSON | None:
    for field in ("initContainerStatuses", "containerStatuses", "ephemeralContainerStatuses"):
        for status in old.get(field) or ():
            if status.get("name") == name:
                return status
    return None


def _state(view: _View, container: podspec.ContainerSpec, attempts: list[cri.ContainerStatus]) -> tuple[JSON, JSON]:
    """(state, lastState)"""
    pod, observed = view.pod, view.observed
    latest = attempts[-1] if attempts else None
    before = _terminated(attempts[-2], observed) if len(attempts) > 1 else {}
    if latest is not None and latest.state == "running":
        return {"running": {"startedAt": podspec.format_time(latest.started_at)}}, before
    over = view.desired.terminating or podspec.is_terminal(pod) or plan.is_finished(pod, observed, view.now)
    if latest is not None and (over or not plan.will_restart(pod, container.role, latest)):
        return _terminated(latest, observed), before
    if over:
        return {"waiting": {"reason": "PodInitializing" if container.role == "app" and _has_init(pod) else "ContainerCreating"}}, before
    waiting = _waiting(view, container, latest)
    if latest is not None:
        if waiting["reason"] in ("ContainerCreating", "PodInitializing"):  # about to restart: what kubelet shows until it has
            return _terminated(latest, observed), before
        return {"waiting": waiting}, _terminated(latest, observed)
    return {"waiting": waiting}, {}


def _waiting(view: _View, container: podspec.ContainerSpec, latest: cri.ContainerStatus | None) -> JSON:
    pod, observed, now, backoff = view.pod, view.observed, view.now, view.backoff
    if latest is not None and latest.finished_at + backoff.delay_s(latest) > now:
        delay = format_duration(backoff.delay_s(latest))
        return {"reason": "CrashLoopBackOff", "message": f"back-off {delay} restarting failed container={container.name} pod={podspec.describe(pod)}"}
    if container.pull_policy == "Never" and container.image not in observed.images and observed.sandbox is not None:
        return {"reason": "ErrImageNeverPull", "message": f'Container image "{container.image}" is not present with pull policy of Never'}
    failure = observed.failures.get(f"pull/{container.name}")
    if failure is not None:
        return _pull_failure(container, failure, now)
    failure = observed.failures.get(f"start/{container.name}")
    if failure is not None:
        return {"reason": failure.reason, "message": failure.message}
    return {"reason": "PodInitializing" if container.role == "app" and _has_init(pod) else "ContainerCreating"}


def _pull_failure(container: podspec.ContainerSpec, failure: Failure, now: float) -> JSON:
    if failure.reason != "ErrImagePull" or now < failure.failed_at + ERR_IMAGE_PULL_SHOWN_S:
        return {"reason": failure.reason, "message": failure.message}
    return {"reason": "ImagePullBackOff", "message": f'Back-off pulling image "{container.image}": ErrImagePull: {failure.message}'}


def next_change_at(observed: Observed, now: float) -> float | None:
    """When the rendered status changes by time alone: ErrImagePull becomes ImagePullBackOff."""
    times = [f.failed_at + ERR_IMAGE_PULL_SHOWN_S for k, f in observed.failures.items() if k.startswith("pull/")]
    return min((t for t in times if t > now), default=None)


def _has_init(pod: podspec.Pod) -> bool:
    return bool(pod["spec"].get("initContainers"))


def _terminated(ended: cri.ContainerStatus, observed: Observed) -> JSON:
    reason = ended.reason or ("Completed" if ended.exit_code == 0 else "Error")
    state: JSON = {"exitCode": ended.exit_code, "reason": reason}
    message = ended.message or observed.messages.get(ended.id, "")
    if message:
        state["message"] = message
    state |= {"startedAt": podspec.format_time(ended.started_at), "finishedAt": podspec.format_time(ended.finished_at), "containerID": f"minik://{ended.id}"}
    return {"terminated": state}


def _conditions(view: _View, rendered: Mapping[str, JSON], phase: str) -> list[JSON]:
    pod, observed, now, old = view.pod, view.observed, view.now, view.old
    specs = podspec.containers(pod)
    finished = phase in ("Succeeded", "Failed")
    reason = "PodCompleted" if phase == "Succeeded" else "PodFailed"
    uninitialized = [c.name for c in specs if c.role in ("init", "sidecar") and not _initialized(c, rendered[c.name])]
    unready = [c.name for c in specs if c.role in ("app", "sidecar") and not rendered[c.name]["ready"]]
    sandboxed = observed.sandbox is not None and observed.sandbox.state == "ready" and observed.networked
    if finished and not uninitialized and phase == "Succeeded":
        initialized: JSON = {"status": "True", "reason": "PodCompleted"}
    elif uninitialized:
        initialized = {"status": "False", "reason": "ContainersNotInitialized", "message": f"containers with incomplete status: [{' '.join(uninitialized)}]"}
    else:
        initialized = {"status": "True"}
    if finished:
        containers: JSON = {"status": "False", "reason": reason}
    elif unready:
        containers = {"status": "False", "reason": "ContainersNotReady", "message": f"containers with unready status: [{' '.join(unready)}]"}
    else:
        containers = {"status": "True"}
    values = {
        "PodReadyToStartContainers": {"status": "True" if sandboxed else "False"},
        "Initialized": initialized,
        "Ready": _gated(pod, containers, old),
        "ContainersReady": containers,
        "PodScheduled": {"status": "True"},
    }
    before = {c["type"]: c for c in old.get("conditions") or ()}
    return [_stamped(kind, values[kind], before.get(kind), now) for kind in OWN_CONDITIONS]


def _initialized(container: podspec.ContainerSpec, status: JSON) -> bool:
    if container.role == "sidecar":
        return bool(status["started"])
    return bool(status["ready"])


def _gated(pod: podspec.Pod, containers: JSON, old: Mapping[str, Any]) -> JSON:
    """Ready is ContainersReady and every readiness gate (KEP-580)."""
    if containers["status"] != "True":
        return containers
    held = {c["type"]: c["status"] for c in old.get("conditions") or ()}
    for gate in pod["spec"].get("readinessGates") or ():
        kind = gate.get("conditionType", "")
        if kind not in held:
            return {"status": "False", "reason": "ReadinessGatesNotReady", "message": f'corresponding condition of pod readiness gate "{kind}" does not exist.'}
        if held[kind] != "True":
            return {"status": "False", "reason": "ReadinessGatesNotReady", "message": f'the status of pod readiness gate "{kind}" is not "True", but {held[kind]}'}
    return containers


def _stamped(kind: str, value: JSON, before: Mapping[str, Any] | None, now: float) -> JSON:
    same = before is not None and before.get("status") == value["status"]
    since = before.get("lastTransitionTime") if before is not None and same else None
    return {"type": kind, **value, "lastTransitionTime": since or podspec.format_time(now)}


def format_duration(seconds: float) -> str:
    """As Go's time.Duration prints whole seconds: 10s, 1m20s, 5m0s."""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"


def events_between(pod: podspec.Pod, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[PodEvent]:
    """Events that follow from a change of status alone: back-offs, and images that may not be pulled."""
    for field in ("initContainerStatuses", "containerStatuses"):
        for status in after.get(field) or ():
            waiting = (status.get("state") or {}).get("waiting") or {}
            known = _known(before, status["name"]) or {}
            was = (known.get("state") or {}).get("waiting") or {}
            if waiting.get("reason") == was.get("reason") and known.get("restartCount", 0) == status["restartCount"]:
                continue
            yield from _waiting_events(pod, status, waiting)


def _waiting_events(pod: podspec.Pod, status: JSON, waiting: JSON) -> Iterator[PodEvent]:
    name, image = status["name"], status["image"]
    match waiting.get("reason"):
        case "CrashLoopBackOff":
            yield PodEvent("Warning", "BackOff", f"Back-off restarting failed container {name} in pod {podspec.describe(pod)}", name)
        case "ImagePullBackOff":
            yield PodEvent("Normal", "BackOff", f'Back-off pulling image "{image}"', name)
            yield PodEvent("Warning", "Failed", "Error: ImagePullBackOff", name)
        case "ErrImageNeverPull":
            yield PodEvent("Warning", "ErrImageNeverPull", waiting["message"], name)
            yield PodEvent("Warning", "Failed", "Error: ErrImageNeverPull", name)
