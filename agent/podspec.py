"""Reading a Pod (a plain dict of the API) in the agent's words: its containers by role, policies, grace, quality of service. Pure; writes nothing, asks nobody."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from typing import Any, Literal

from apiserver.api import quantities

Role = Literal["init", "sidecar", "app", "ephemeral"]
Pod = Mapping[str, Any]

DEFAULT_GRACE_S = 30


@dataclass(frozen=True, slots=True)
class ContainerSpec:
    """One container of a pod: its role decides order and restarts ("sidecar" is an init container with restartPolicy: Always)."""

    name: str
    role: Role
    image: str
    spec: Mapping[str, Any]

    @property
    def pull_policy(self) -> str:
        """Always | IfNotPresent | Never; where unset, Kubernetes' rule: Always for `:latest` or no tag."""
        said = self.spec.get("imagePullPolicy")
        if said:
            return str(said)
        last = self.image.rsplit("/", 1)[-1]
        return "IfNotPresent" if "@" in last or (":" in last and not last.endswith(":latest")) else "Always"


def uid(pod: Pod) -> str:
    return str(pod["metadata"]["uid"])


def key(pod: Pod) -> str:
    """namespace/name"""
    return f"{pod['metadata'].get('namespace', '')}/{pod['metadata']['name']}"


def describe(pod: Pod) -> str:
    """name_namespace(uid): how kubelet's messages call a pod."""
    meta = pod["metadata"]
    return f"{meta['name']}_{meta.get('namespace', '')}({meta['uid']})"


def containers(pod: Pod) -> list[ContainerSpec]:
    """All containers in the order in which they start: init and sidecar, app, ephemeral."""
    spec = pod["spec"]
    found = [_container(c, "sidecar" if c.get("restartPolicy") == "Always" else "init") for c in spec.get("initContainers") or ()]
    found += [_container(c, "app") for c in spec.get("containers") or ()]
    found += [_container(c, "ephemeral") for c in spec.get("ephemeralContainers") or ()]
    return found


def _container(spec: Mapping[str, Any], role: Role) -> ContainerSpec:
    return ContainerSpec(spec["name"], role, spec.get("image", ""), spec)


def restart_policy(pod: Pod, role: Role) -> str:
    """Always | OnFailure | Never for a container of that role. Init containers of an Always pod restart on failure only."""
    if role == "sidecar":
        return "Always"
    if role == "ephemeral":
        return "Never"
    policy = str(pod["spec"].get("restartPolicy") or "Always")
    return "OnFailure" if role == "init" and policy == "Always" else policy


def grace_s(pod: Pod) -> float:
    """Seconds between TERM and KILL: what the deletion asked for, else the spec's."""
    asked = pod["metadata"].get("deletionGracePeriodSeconds")
    if pod["metadata"].get("deletionTimestamp") and asked is not None:
        return float(asked)
    said = pod["spec"].get("terminationGracePeriodSeconds")
    return float(DEFAULT_GRACE_S if said is None else said)


def is_terminal(pod: Pod) -> bool:
    """The API already holds a final phase: such a pod never runs again."""
    return (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")


def qos_class(pod: Pod) -> str:
    """Guaranteed | Burstable | BestEffort (k8s.io/docs: Pod Quality of Service Classes)."""
    said = (pod.get("status") or {}).get("qosClass")
    if said:
        return str(said)
    guaranteed, any_set = True, False
    for container in containers(pod):
        if container.role == "ephemeral":
            continue
        resources = container.spec.get("resources") or {}
        limits, requests = resources.get("limits") or {}, resources.get("requests") or {}
        for name in ("cpu", "memory"):
            limit, request = limits.get(name), requests.get(name)
            any_set = any_set or _positive(limit) or _positive(request)
            if not _positive(limit) or (request is not None and quantities.parse(request) != quantities.parse(limit or 0)):
                guaranteed = False
    if not any_set:
        return "BestEffort"
    return "Guaranteed" if guaranteed else "Burstable"


def _positive(quantity: Any) -> bool:
    return quantity is not None and quantities.parse(quantity) > Decimal(0)


@lru_cache(maxsize=4096)
def parse_time(text: str) -> float:
    """RFC 3339 → Unix seconds."""
    return datetime.datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def format_time(seconds: float) -> str:
    """Unix seconds → RFC 3339 in whole seconds, as metav1.Time."""
    return datetime.datetime.fromtimestamp(int(seconds), datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def format_micro_time(seconds: float) -> str:
    """Unix seconds → RFC 3339 with microseconds, as metav1.MicroTime."""
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
