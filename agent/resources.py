"""Requests and limits as cgroup values (OCI linux.resources) and OOM scores. Pure. Called by translate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agent import podspec
from apiserver.api import quantities

PERIOD_US = 100_000
MIN_QUOTA_US = 1_000
MIN_SHARES, MAX_SHARES = 2, 262_144


def cpu_shares(milli: int) -> int:
    """cgroup v1 cpu.shares of so many milli-CPUs (1 CPU = 1024)."""
    return min(max(milli * 1024 // 1000, MIN_SHARES), MAX_SHARES)


def _milli(values: Mapping[str, Any]) -> int | None:
    return quantities.milli(values["cpu"]) if values.get("cpu") is not None else None


def _bytes(values: Mapping[str, Any]) -> int | None:
    return quantities.bytes_(values["memory"]) if values.get("memory") is not None else None


def container_resources(container: podspec.ContainerSpec, pids_limit: int = 0) -> dict[str, Any]:
    """OCI linux.resources of one container; `pids_limit` 0 = none. A request that is not set is its limit."""
    spec = container.spec.get("resources") or {}
    limits, requests = spec.get("limits") or {}, spec.get("requests") or {}
    limit, request = _milli(limits), _milli(requests)
    return _oci(request if request is not None else limit, limit, _bytes(limits), pids_limit)


def pod_resources(pod: podspec.Pod, pids_limit: int = 0) -> dict[str, Any]:
    """OCI linux.resources of the pod's own cgroup: the sum of its containers (init containers count by the largest), limited only where each of them is."""
    shares = 0
    cpu_limit: int | None = 0
    memory_limit: int | None = 0
    init = {"shares": 0, "cpu": 0, "memory": 0}
    for container in podspec.containers(pod):
        if container.role == "ephemeral":
            continue
        spec = container.spec.get("resources") or {}
        limits, requests = spec.get("limits") or {}, spec.get("requests") or {}
        cpu, memory = _milli(limits), _bytes(limits)
        asked = _milli(requests)
        asked = asked if asked is not None else cpu or 0
        if container.role == "init":
            init = {"shares": max(init["shares"], asked), "cpu": max(init["cpu"], cpu or 0), "memory": max(init["memory"], memory or 0)}
            cpu_limit, memory_limit = (None if cpu is None else cpu_limit), (None if memory is None else memory_limit)
            continue
        shares += asked
        cpu_limit = None if cpu_limit is None or cpu is None else cpu_limit + cpu
        memory_limit = None if memory_limit is None or memory is None else memory_limit + memory
    cpu_limit = None if cpu_limit is None else max(cpu_limit, init["cpu"])
    memory_limit = None if memory_limit is None else max(memory_limit, init["memory"])
    overhead = pod["spec"].get("overhead") or {}
    if memory_limit is not None:
        memory_limit += _bytes(overhead) or 0
    if cpu_limit is not None:
        cpu_limit += _milli(overhead) or 0
    return _oci(max(shares, init["shares"]), cpu_limit, memory_limit, pids_limit)


def _oci(request_milli: int | None, limit_milli: int | None, memory_bytes: int | None, pids_limit: int) -> dict[str, Any]:
    cpu: dict[str, Any] = {"shares": cpu_shares(request_milli or 0)}
    if limit_milli:
        cpu |= {"quota": max(limit_milli * PERIOD_US // 1000, MIN_QUOTA_US), "period": PERIOD_US}
    result: dict[str, Any] = {"cpu": cpu}
    if memory_bytes:
        result["memory"] = {"limit": memory_bytes}
    if pids_limit > 0:
        result["pids"] = {"limit": pids_limit}
    return result


def oom_score_adj(pod: podspec.Pod, container: podspec.ContainerSpec, capacity_bytes: int) -> int:
    """Who is killed first when the node runs out (k8s.io/docs: Node-pressure Eviction, node out of memory behavior)."""
    if pod["spec"].get("priorityClassName") in ("system-node-critical",):
        return -997
    qos = podspec.qos_class(pod)
    if qos == "Guaranteed":
        return -997
    if qos == "BestEffort":
        return 1000
    request = _bytes((container.spec.get("resources") or {}).get("requests") or {}) or 0
    score = 1000 - 1000 * request // max(capacity_bytes, 1)
    return min(max(score, 3), 999)
