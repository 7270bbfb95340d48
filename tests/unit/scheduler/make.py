"""Nodes and pods in few words, as documents and as the views the scheduler reads."""

from __future__ import annotations

from typing import Any

from apiserver.api import types
from scheduler import requests
from scheduler.requests import PodRequest


def node_doc(name: str, *, cpu: str = "4", memory: str = "8Gi", pods: str = "110", labels: dict | None = None, taints: list | None = None, unschedulable: bool = False, **extended: str) -> dict:
    allocatable = {"cpu": cpu, "memory": memory, "pods": pods, "ephemeral-storage": "100Gi", **{k.replace("__", "/").replace("_", "."): v for k, v in extended.items()}}
    spec: dict[str, Any] = {"taints": taints or []}
    if unschedulable:
        spec["unschedulable"] = True
    return {"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, **(labels or {})}}, "spec": spec, "status": {"allocatable": allocatable}}


def node(name: str, **fields: Any) -> types.Node:
    return types.from_dict(types.Node, node_doc(name, **fields))


def pod_doc(name: str, *, cpu: str = "", memory: str = "", namespace: str = "default", requests_: dict | None = None, ports: list | None = None, **spec: Any) -> dict:
    asked = {**({"cpu": cpu} if cpu else {}), **({"memory": memory} if memory else {}), **(requests_ or {})}
    container = {"name": "c", "image": "i", "resources": {"requests": asked}, "ports": ports or []}
    return {
        "metadata": {"name": name, "namespace": namespace, "uid": f"uid-{name}"},
        "spec": {"containers": [container], "schedulerName": "default-scheduler", **spec},
        "status": {"phase": "Pending"},
    }


def pod(name: str, **fields: Any) -> types.Pod:
    return types.from_dict(types.Pod, pod_doc(name, **fields))


def request(name: str, **fields: Any) -> PodRequest:
    return requests.from_pod(pod(name, **fields))
