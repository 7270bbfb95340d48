"""The row of a pod as kubectl shows it: ready count, the one word of STATUS, restarts. Pure; tables.py calls it; minikctl's describe uses status_word.

STATUS is the most telling reason: what ails the first unfinished init container (`Init:0/2`, `Init:CrashLoopBackOff`), else the containers, else the phase; a pod that is
being deleted shows Terminating.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from apiserver.api import timestamps
from apiserver.api.errors import BadRequest
from apiserver.api.table_cells import JSON, NONE, age, section


@dataclass(slots=True)
class _Summary:
    reason: str
    ready: int = 0
    restarts: int = 0
    last_restart: str = ""

    def count(self, status: JSON) -> None:
        """Adds a container's restarts; remembers the latest time one of them had ended."""
        self.restarts += status.get("restartCount") or 0
        finished = section(section(status, "lastState"), "terminated").get("finishedAt") or ""
        self.last_restart = max(self.last_restart, finished)


def cells(obj: JSON, now: float) -> list[Any]:
    spec, status = section(obj, "spec"), section(obj, "status")
    summary = _summarize(obj)
    total = len(spec.get("containers") or ()) + sum(1 for container in spec.get("initContainers") or () if _is_sidecar(container))
    restarts = str(summary.restarts)
    if summary.restarts and summary.last_restart:
        try:
            restarts = f"{restarts} ({timestamps.human_duration(now - timestamps.parse(summary.last_restart))} ago)"
        except BadRequest:
            pass  # a time that nobody can read: the count alone
    ips = status.get("podIPs") or ()
    address = (ips[0].get("ip") if ips else status.get("podIP")) or NONE
    name = section(obj, "metadata").get("name") or ""
    return [
        name, f"{summary.ready}/{total}", summary.reason, restarts, age(obj, now), address, spec.get("nodeName") or NONE,
        status.get("nominatedNodeName") or NONE, _readiness_gates(spec, status),
    ]


def status_word(obj: JSON) -> str:
    """The STATUS column alone."""
    return _summarize(obj).reason


def _summarize(obj: JSON) -> _Summary:
    status = section(obj, "status")
    phase = status.get("phase") or ""
    summary = _Summary(status.get("reason") or phase)
    if _condition(status, "PodScheduled").get("reason") == "SchedulingGated":
        summary.reason = "SchedulingGated"
    sidecars = _Summary("")
    initializing = _init_containers(obj, summary, sidecars)
    if not initializing or _condition(status, "Initialized").get("status") == "True":
        summary.restarts, summary.last_restart = sidecars.restarts, sidecars.last_restart
        _containers(status, summary)
    if section(obj, "metadata").get("deletionTimestamp"):
        if status.get("reason") == "NodeLost":
            summary.reason = "Unknown"
        elif phase not in ("Succeeded", "Failed"):
            summary.reason = "Terminating"
    return summary


def _init_containers(obj: JSON, summary: _Summary, sidecars: _Summary) -> bool:
    """Whether an init container still holds the pod up; then it has named the reason."""
    wanted = section(obj, "spec").get("initContainers") or ()
    sidecar_names = {container.get("name") for container in wanted if _is_sidecar(container)}
    for position, container in enumerate(section(obj, "status").get("initContainerStatuses") or ()):
        summary.count(container)
        if container.get("name") in sidecar_names:
            sidecars.count(container)
        state = section(container, "state")
        terminated, waiting = state.get("terminated"), section(state, "waiting")
        if isinstance(terminated, dict) and not terminated.get("exitCode"):
            continue
        if container.get("name") in sidecar_names and container.get("started"):
            summary.ready += 1 if container.get("ready") else 0
            continue
        if isinstance(terminated, dict):
            summary.reason = f"Init:{_ending(terminated)}"
        elif waiting.get("reason") and waiting["reason"] != "PodInitializing":
            summary.reason = f"Init:{waiting['reason']}"
        else:
            summary.reason = f"Init:{position}/{len(wanted)}"
        return True
    return False


def _containers(status: JSON, summary: _Summary) -> None:
    """From the last container to the first, so that the first one's reason stands."""
    running = False
    for container in reversed(status.get("containerStatuses") or ()):
        summary.count(container)
        state = section(container, "state")
        terminated, waiting = state.get("terminated"), section(state, "waiting")
        if waiting.get("reason"):
            summary.reason = waiting["reason"]
        elif isinstance(terminated, dict):
            summary.reason = _ending(terminated)
        elif container.get("ready") and isinstance(state.get("running"), dict):
            running = True
            summary.ready += 1
    if summary.reason == "Completed" and running:
        summary.reason = "Running" if _condition(status, "Ready").get("status") == "True" else "NotReady"


def _ending(terminated: JSON) -> str:
    if terminated.get("reason"):
        return str(terminated["reason"])
    return f"Signal:{terminated['signal']}" if terminated.get("signal") else f"ExitCode:{terminated.get('exitCode', 0)}"


def _is_sidecar(container: JSON) -> bool:
    return container.get("restartPolicy") == "Always"


def _condition(status: JSON, kind: str) -> JSON:
    return next((condition for condition in status.get("conditions") or () if condition.get("type") == kind), {})


def _readiness_gates(spec: JSON, status: JSON) -> str:
    gates = spec.get("readinessGates") or ()
    if not gates:
        return NONE
    return f"{sum(1 for gate in gates if _condition(status, gate.get('conditionType', '')).get('status') == 'True')}/{len(gates)}"
