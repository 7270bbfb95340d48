"""What is: the values from which plan and status are computed, and the view that keeps the runtime's side of them current.

The view lists once, then follows the runtime's events; workers also feed it the statuses that their own calls return. Called by workers and execute.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from agent.runtime import cri

LABEL_POD_NAME = "io.kubernetes.pod.name"
LABEL_POD_NAMESPACE = "io.kubernetes.pod.namespace"
LABEL_POD_UID = "io.kubernetes.pod.uid"
LABEL_CONTAINER = "io.kubernetes.container.name"
ANNOTATION_RESTARTS = "io.kubernetes.container.restartCount"
ANNOTATION_GRACE = "io.kubernetes.pod.terminationGracePeriod"
ANNOTATION_MESSAGE_PATH = "io.kubernetes.container.terminationMessagePath"
ANNOTATION_MESSAGE_POLICY = "io.kubernetes.container.terminationMessagePolicy"
ANNOTATION_IP = "minik.io/pod-ip"
ANNOTATION_IMAGE = "minik.io/image"
ANNOTATION_IMAGE_ID = "minik.io/image-id"
ANNOTATION_BACKOFF = "minik.io/restart-backoff-s"
ANNOTATION_LOG = "minik.io/log-path"
ANNOTATION_STOP_SIGNAL = "minik.io/stop-signal"


@dataclass(frozen=True, slots=True)
class Failure:
    """The last attempt at one action failed: why, since when, how often in a row, and not before when it is tried again (Unix seconds)."""

    reason: str
    message: str
    count: int
    failed_at: float
    retry_at: float


@dataclass(frozen=True, slots=True)
class ProbeVerdict:
    """What the probes say of one running container (by its id). `unhealthy` names the probe because of which it must be restarted."""

    started: bool = True
    ready: bool = True
    unhealthy: str = ""


@dataclass(frozen=True, slots=True)
class Observed:
    """One pod on this node, as of now. `pulls`: container name → attempt for which its image was pulled; `stopping`: container id → grace with which a stop is under way;
    `in_flight`: keys of actions under way; `messages`: container id → termination message."""

    sandbox: cri.SandboxStatus | None = None
    networked: bool = False
    containers: tuple[cri.ContainerStatus, ...] = ()
    volumes_ready: bool = False
    images: Mapping[str, str] = field(default_factory=dict)  # reference → image id, present in the store
    pulls: Mapping[str, int] = field(default_factory=dict)
    failures: Mapping[str, Failure] = field(default_factory=dict)
    in_flight: frozenset[str] = frozenset()
    stopping: Mapping[str, float] = field(default_factory=dict)
    probes: Mapping[str, ProbeVerdict] = field(default_factory=dict)
    messages: Mapping[str, str] = field(default_factory=dict)
    cleaned: bool = False
    deleted: bool = False

    @property
    def ip(self) -> str:
        return self.sandbox.config.annotations.get(ANNOTATION_IP, "") if self.sandbox is not None else ""

    def of(self, name: str) -> list[cri.ContainerStatus]:
        """The container's attempts, oldest first."""
        return sorted((c for c in self.containers if c.labels.get(LABEL_CONTAINER) == name), key=attempt)

    def latest(self, name: str) -> cri.ContainerStatus | None:
        attempts = self.of(name)
        return attempts[-1] if attempts else None


def attempt(status: cri.ContainerStatus) -> int:
    """0 for the first start of a container, then one more each restart."""
    return int(status.annotations.get(ANNOTATION_RESTARTS) or 0)


class RuntimeView:
    """The runtime's sandboxes and containers by pod uid. `on_change(uid)` is called after each change."""

    def __init__(self, runtime: cri.RuntimeService, on_change: Callable[[str], None]) -> None:
        self._runtime = runtime
        self._on_change = on_change
        self._containers: dict[str, dict[str, cri.ContainerStatus]] = {}
        self._sandboxes: dict[str, dict[str, cri.SandboxStatus]] = {}
        self._changes = 0

    async def relist(self) -> bool:
        """Take the runtime's word for everything; pods that differ are told. False where things kept changing meanwhile, so that its word may be old."""
        for _ in range(5):
            before = self._changes
            sandboxes, containers = await self._runtime.list_sandboxes(), await self._runtime.list_containers()
            if self._changes == before:
                self._replace(sandboxes, containers)
                return True
        return False

    def _replace(self, sandboxes: list[cri.SandboxStatus], containers: list[cri.ContainerStatus]) -> None:
        old_sandboxes, old_containers = self._sandboxes, self._containers
        self._sandboxes, self._containers = {}, {}
        for sandbox in sandboxes:
            self._sandboxes.setdefault(sandbox.config.labels.get(LABEL_POD_UID, ""), {})[sandbox.config.id] = sandbox
        for container in containers:
            pod_uid = container.labels.get(LABEL_POD_UID, "")
            before = old_containers.get(pod_uid, {}).get(container.id)
            newer = before if before is not None and before.state == "exited" else container
            self._containers.setdefault(pod_uid, {})[container.id] = newer
        for pod_uid in {*old_sandboxes, *old_containers, *self._sandboxes, *self._containers}:
            if old_sandboxes.get(pod_uid) != self._sandboxes.get(pod_uid) or old_containers.get(pod_uid) != self._containers.get(pod_uid):
                self._on_change(pod_uid)

    async def follow(self) -> None:
        """Apply the runtime's events until cancelled; raises when the stream breaks (the caller connects, relists and follows again)."""
        async for status in self._runtime.events():
            self.saw_container(status)

    def uids(self) -> set[str]:
        return {uid for uid in (*self._sandboxes, *self._containers) if uid and (self._sandboxes.get(uid) or self._containers.get(uid))}

    def sandboxes(self, pod_uid: str) -> list[cri.SandboxStatus]:
        """Newest last."""
        return sorted(self._sandboxes.get(pod_uid, {}).values(), key=lambda s: s.created_at)

    def containers(self, pod_uid: str) -> tuple[cri.ContainerStatus, ...]:
        return tuple(self._containers.get(pod_uid, {}).values())

    def saw_container(self, status: cri.ContainerStatus) -> None:
        """A newer status; an exited container never goes back to running, whatever order events come in."""
        self._changes += 1
        pod_uid = status.labels.get(LABEL_POD_UID, "")
        known = self._containers.setdefault(pod_uid, {})
        before = known.get(status.id)
        if before == status or (before is not None and before.state == "exited" and status.state != "exited"):
            return
        known[status.id] = status
        self._on_change(pod_uid)

    def saw_sandbox(self, status: cri.SandboxStatus) -> None:
        self._changes += 1
        pod_uid = status.config.labels.get(LABEL_POD_UID, "")
        self._sandboxes.setdefault(pod_uid, {})[status.config.id] = status
        self._on_change(pod_uid)

    def sandbox_stopped(self, pod_uid: str, sandbox_id: str) -> None:
        self._changes += 1
        sandbox = self._sandboxes.get(pod_uid, {}).get(sandbox_id)
        if sandbox is not None and sandbox.state != "notready":
            self._sandboxes[pod_uid][sandbox_id] = replace(sandbox, state="notready")
            self._on_change(pod_uid)

    def forget_container(self, pod_uid: str, container_id: str) -> None:
        self._changes += 1
        self._containers.get(pod_uid, {}).pop(container_id, None)

    def forget_pod(self, pod_uid: str) -> None:
        self._changes += 1
        self._containers.pop(pod_uid, None)
        self._sandboxes.pop(pod_uid, None)
