"""What to do next for one pod: plan_pod(desired, observed, now) → Plan. Pure: a function of its arguments alone; execute performs, workers repeat.

Invariants: all actions of one plan may run at the same time; an action whose key is in flight is never planned again; one container starts at a time, in the
order of the spec; nothing starts without sandbox, address, volumes and image; a pod that is deleted, gone or finished starts nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from agent import observe, podspec
from agent.observe import Observed
from agent.runtime import cri

VANISHED_GRACE_S = 1.0


@dataclass(frozen=True, slots=True)
class Desired:
    """What the API says: the last known pod, and whether it is gone from the API (deleted by force, or while the agent was away)."""

    pod: podspec.Pod
    vanished: bool = False
    vanished_grace_s: float = VANISHED_GRACE_S

    @property
    def terminating(self) -> bool:
        return self.vanished or bool(self.pod["metadata"].get("deletionTimestamp"))

    @property
    def grace_s(self) -> float:
        return self.vanished_grace_s if self.vanished else podspec.grace_s(self.pod)


@dataclass(frozen=True, slots=True)
class RestartBackoff:
    """Seconds a container waits before it starts again: the first restart at once, then initial_s doubling to max_s, forgotten after it ran reset_s
    (k8s.io/docs: Pod Lifecycle, container restarts)."""

    initial_s: float = 10.0
    max_s: float = 300.0
    reset_s: float = 600.0

    def delay_s(self, ended: cri.ContainerStatus) -> float:
        """How long after its end the next attempt may start."""
        return 0.0 if self._ran_long(ended) else float(ended.annotations.get(observe.ANNOTATION_BACKOFF) or 0)

    def next_s(self, previous: cri.ContainerStatus | None) -> float:
        """The delay to record on the attempt after `previous`: it holds once that attempt has ended too."""
        if previous is None:
            return 0.0
        delay = float(previous.annotations.get(observe.ANNOTATION_BACKOFF) or 0)
        return self.initial_s if delay == 0 or self._ran_long(previous) else min(delay * 2, self.max_s)

    def _ran_long(self, ended: cri.ContainerStatus) -> bool:
        return ended.started_at > 0 and ended.finished_at - ended.started_at >= self.reset_s


@dataclass(frozen=True, slots=True)
class MountVolumes:
    """Make every volume of the pod ready."""

    key: ClassVar[str] = "volumes"


@dataclass(frozen=True, slots=True)
class RunSandbox:
    """A new sandbox with an address; an older one of the pod goes first."""

    key: ClassVar[str] = "sandbox"


@dataclass(frozen=True, slots=True)
class StopSandbox:
    """The pod is finished: its namespaces and its address go, its ended containers and their logs stay."""

    sandbox_id: str
    key: ClassVar[str] = "sandbox"


@dataclass(frozen=True, slots=True)
class PullImage:
    container: str
    image: str
    attempt: int

    @property
    def key(self) -> str:
        return f"pull/{self.container}"


@dataclass(frozen=True, slots=True)
class StartContainer:
    """Create and start; `backoff_s` is recorded on it as the delay of the attempt after it."""

    container: str
    attempt: int
    backoff_s: float

    @property
    def key(self) -> str:
        return f"start/{self.container}"


@dataclass(frozen=True, slots=True)
class StopContainer:
    container_id: str
    container: str
    grace_s: float
    message: str  # of the Killing event

    @property
    def key(self) -> str:
        return f"stop/{self.container_id}/{self.grace_s:g}"


@dataclass(frozen=True, slots=True)
class RemoveContainer:
    container_id: str

    @property
    def key(self) -> str:
        return f"remove/{self.container_id}"


@dataclass(frozen=True, slots=True)
class Cancel:
    """Give up an action under way (a pull, once the pod is to go)."""

    target: str

    @property
    def key(self) -> str:
        return f"cancel/{self.target}"


@dataclass(frozen=True, slots=True)
class CleanUp:
    """Everything of the pod on this node goes: containers, sandbox, address, volumes, logs."""

    key: ClassVar[str] = "cleanup"


@dataclass(frozen=True, slots=True)
class DeletePod:
    """Write the last status and delete the pod from the API with grace 0."""

    key: ClassVar[str] = "delete"


Action = MountVolumes | RunSandbox | StopSandbox | PullImage | StartContainer | StopContainer | RemoveContainer | Cancel | CleanUp | DeletePod


@dataclass(frozen=True, slots=True)
class Plan:
    """Actions to launch now, and when (Unix seconds) to plan again if nothing happens before."""

    actions: tuple[Action, ...] = ()
    wake_at: float | None = None


class _Draft:
    """Actions filtered by what is in flight and by the back-off of earlier failures."""

    def __init__(self, observed: Observed, now: float) -> None:
        self.observed = observed
        self.now = now
        self.actions: list[Action] = []
        self.wake_at: float | None = None

    def add(self, action: Action) -> None:
        if action.key in self.observed.in_flight:
            return
        failure = self.observed.failures.get(action.key)
        if failure is not None and failure.retry_at > self.now:
            self.wake(failure.retry_at)
            return
        self.actions.append(action)

    def wake(self, at: float) -> None:
        self.wake_at = at if self.wake_at is None else min(self.wake_at, at)

    def done(self) -> Plan:
        return Plan(tuple(self.actions), self.wake_at)


def plan_pod(desired: Desired, observed: Observed, now: float, backoff: RestartBackoff = RestartBackoff()) -> Plan:
    """The actions that bring `observed` nearer to `desired`; empty when it is there, or when everything needed is under way."""
    draft = _Draft(observed, now)
    if desired.terminating:
        _plan_termination(draft, desired)
    elif podspec.is_terminal(desired.pod) or is_finished(desired.pod, observed, now):
        _plan_finished(draft, desired.pod)
    else:
        _plan_running(draft, desired.pod, backoff)
        deadline = deadline_at(desired.pod)
        if deadline is not None:
            draft.wake(deadline)
    return draft.done()


def deadline_at(pod: podspec.Pod) -> float | None:
    """When activeDeadlineSeconds runs out (Unix seconds); None without one or before the start."""
    seconds, start = pod["spec"].get("activeDeadlineSeconds"), (pod.get("status") or {}).get("startTime")
    return podspec.parse_time(start) + float(seconds) if seconds is not None and start else None


def is_overdue(pod: podspec.Pod, now: float) -> bool:
    deadline = deadline_at(pod)
    return deadline is not None and now >= deadline


def will_restart(pod: podspec.Pod, role: podspec.Role, ended: cri.ContainerStatus) -> bool:
    """Whether restartPolicy wants an ended container again."""
    policy = podspec.restart_policy(pod, role)
    return policy == "Always" or (policy == "OnFailure" and ended.exit_code != 0)


def is_finished(pod: podspec.Pod, observed: Observed, now: float) -> bool:
    """Its work is over: every app container ended for good, or an init container failed for good, or the deadline has passed."""
    if is_overdue(pod, now):
        return True
    apps = []
    for container in podspec.containers(pod):
        latest = observed.latest(container.name)
        ended_for_good = latest is not None and latest.state == "exited" and not will_restart(pod, container.role, latest)
        if container.role == "init" and ended_for_good and latest is not None and latest.exit_code != 0:
            return True
        if container.role == "app":
            apps.append(ended_for_good)
    return bool(apps) and all(apps)


def needs_pull(container: podspec.ContainerSpec, observed: Observed, attempt: int) -> bool:
    """imagePullPolicy, applied to what is there."""
    if container.pull_policy == "Never":
        return False
    present = container.image in observed.images
    return not present or (container.pull_policy == "Always" and observed.pulls.get(container.name) != attempt)


def next_attempt(pod: podspec.Pod, container: podspec.ContainerSpec, observed: Observed) -> int:
    """The number of the next start; when the node has lost its records (reboot), it goes on from the count in the API."""
    latest = observed.latest(container.name)
    if latest is not None:
        return observe.attempt(latest) + (1 if latest.state == "exited" else 0)
    status = pod.get("status") or {}
    for known in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())):
        if known.get("name") == container.name and (known.get("containerID") or "terminated" in (known.get("lastState") or {})):
            return int(known.get("restartCount") or 0) + 1
    return 0


def _plan_termination(draft: _Draft, desired: Desired) -> None:
    observed = draft.observed
    for key in observed.in_flight:
        if key.startswith("pull/"):
            draft.add(Cancel(key))
    if observed.cleaned:
        if not desired.vanished and not observed.deleted:
            draft.add(DeletePod())
        return
    _stop_all(draft, desired.pod, desired.grace_s)
    busy = any(key.startswith(("start/", "stop/", "sandbox", "volumes")) for key in observed.in_flight)
    if not busy and all(c.state != "running" for c in observed.containers):
        draft.add(CleanUp())


def _stop_all(draft: _Draft, pod: podspec.Pod, grace_s: float, why: str = "Stopping container {}") -> None:
    """Stop what runs; sidecars only once no app container runs (KEP-753)."""
    sidecars = {c.name for c in podspec.containers(pod) if c.role == "sidecar"}
    running = [c for c in draft.observed.containers if c.state == "running"]
    name_of = {c.id: c.labels.get(observe.LABEL_CONTAINER, "") for c in running}
    first = [c for c in running if name_of[c.id] not in sidecars] or running
    for container in first:
        under_way = draft.observed.stopping.get(container.id)
        if under_way is None or under_way > grace_s:
            draft.add(StopContainer(container.id, name_of[container.id], grace_s, why.format(name_of[container.id])))


def _plan_finished(draft: _Draft, pod: podspec.Pod) -> None:
    _stop_all(draft, pod, podspec.grace_s(pod))
    sandbox = draft.observed.sandbox
    if sandbox is not None and sandbox.state == "ready" and all(c.state != "running" for c in draft.observed.containers) and not draft.observed.in_flight:
        draft.add(StopSandbox(sandbox.config.id))


def _plan_running(draft: _Draft, pod: podspec.Pod, backoff: RestartBackoff) -> None:
    observed = draft.observed
    ready = observed.sandbox is not None and observed.sandbox.state == "ready" and observed.networked
    if not ready:
        draft.add(RunSandbox())
    if not observed.volumes_ready:
        draft.add(MountVolumes())
    starts_left = not any(key.startswith("start/") for key in observed.in_flight)
    for container in podspec.containers(pod):
        latest = observed.latest(container.name)
        current = latest if latest is None or observed.sandbox is None or latest.sandbox_id == observed.sandbox.config.id else None
        step = _container_step(pod, container, current)
        if step == "remove" and latest is not None:
            if f"start/{container.name}" not in observed.in_flight:  # left by an agent that died between create and start
                draft.add(RemoveContainer(latest.id))
        elif step == "start":
            start = _plan_start(draft, pod, container, backoff)
            if start is not None and ready and observed.volumes_ready and starts_left:
                before = len(draft.actions)
                draft.add(start)
                starts_left = len(draft.actions) == before
        elif step == "run" and current is not None:
            _keep_healthy(draft, pod, container, current)
        _drop_old_attempts(draft, container)
        if container.role in ("init", "sidecar") and not _passed(container, current, observed):
            _prefetch_rest(draft, pod, container)
            return


def _container_step(pod: podspec.Pod, container: podspec.ContainerSpec, current: cri.ContainerStatus | None) -> str:
    if current is None:
        return "start"
    if current.state == "created":
        return "remove"
    if current.state == "running":
        return "run"
    if container.role == "init" and current.exit_code == 0:
        return "done"
    return "start" if will_restart(pod, container.role, current) else "done"


def _passed(container: podspec.ContainerSpec, current: cri.ContainerStatus | None, observed: Observed) -> bool:
    """Whether the next container may start: an init container has succeeded, a sidecar has started."""
    if current is None:
        return False
    if container.role == "init":
        return current.state == "exited" and current.exit_code == 0
    if current.state == "exited":  # it once started; what follows does not wait for its restart
        return current.reason != "StartError"
    verdict = observed.probes.get(current.id)
    return current.state == "running" and (verdict.started if verdict is not None else "startupProbe" not in container.spec)


def _plan_start(draft: _Draft, pod: podspec.Pod, container: podspec.ContainerSpec, backoff: RestartBackoff) -> StartContainer | None:
    """The start that is due, or None: still backing off, or its image is not there yet (then the pull is planned)."""
    observed, latest = draft.observed, draft.observed.latest(container.name)
    if latest is not None and latest.state == "exited":
        due = latest.finished_at + backoff.delay_s(latest)
        if due > draft.now:
            draft.wake(due)
            return None
    attempt = next_attempt(pod, container, observed)
    if needs_pull(container, observed, attempt):
        draft.add(PullImage(container.name, container.image, attempt))
        return None
    if container.image not in observed.images:
        return None  # pull policy Never and nothing there: status says ErrImageNeverPull
    return StartContainer(container.name, attempt, backoff.next_s(latest))


def _prefetch_rest(draft: _Draft, pod: podspec.Pod, until: podspec.ContainerSpec) -> None:
    """Pull what later containers need while an init container still runs."""
    seen = False
    for container in podspec.containers(pod):
        attempt = next_attempt(pod, container, draft.observed)
        if seen and draft.observed.latest(container.name) is None and needs_pull(container, draft.observed, attempt):
            draft.add(PullImage(container.name, container.image, attempt))
        seen = seen or container.name == until.name


def _keep_healthy(draft: _Draft, pod: podspec.Pod, container: podspec.ContainerSpec, running: cri.ContainerStatus) -> None:
    verdict = draft.observed.probes.get(running.id)
    image = running.annotations.get(observe.ANNOTATION_IMAGE)
    if running.id in draft.observed.stopping:
        return
    if verdict is not None and verdict.unhealthy:
        probe = container.spec.get(f"{verdict.unhealthy}Probe") or {}
        grace = probe.get("terminationGracePeriodSeconds")
        grace_s = podspec.grace_s(pod) if grace is None else float(grace)
        draft.add(StopContainer(running.id, container.name, grace_s, f"Container {container.name} failed {verdict.unhealthy} probe, will be restarted"))
    elif image is not None and image != container.image:
        draft.add(StopContainer(running.id, container.name, podspec.grace_s(pod), f"Container {container.name} definition changed, will be restarted"))


def _drop_old_attempts(draft: _Draft, container: podspec.ContainerSpec) -> None:
    """Keep the last attempt and the one before it (lastState, logs --previous)."""
    for old in draft.observed.of(container.name)[:-2]:
        if old.state == "exited":
            draft.add(RemoveContainer(old.id))
