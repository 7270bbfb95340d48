"""Services and EndpointSlices as the API serves them, for the tests and the benchmark of agent/services."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def service(name: str, cluster_ip: str, ports: Sequence[tuple[int, str]] = ((80, "TCP"),), *, node_ports: Sequence[int] = (), **spec: Any) -> dict[str, Any]:
    listed = [{"name": f"p{i}", "port": port, "protocol": protocol, "targetPort": 8080} for i, (port, protocol) in enumerate(ports)]
    for port, node_port in zip(listed, node_ports):
        port["nodePort"] = node_port
    kind = spec.pop("type", "NodePort" if node_ports else "ClusterIP")
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "default"}, "spec": {"type": kind, "clusterIP": cluster_ip, "clusterIPs": [cluster_ip], "ports": listed, **spec}}


def slices(name: str, endpoints: Sequence[str | dict[str, Any]], ports: Sequence[tuple[int, str]] = ((8080, "TCP"),), suffix: str = "x") -> dict[str, Any]:
    items = [{"addresses": [each], "conditions": {"ready": True}} if isinstance(each, str) else each for each in endpoints]
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": f"{name}-{suffix}", "namespace": "default", "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4",
        "endpoints": items,
        "ports": [{"name": f"p{i}", "port": port, "protocol": protocol} for i, (port, protocol) in enumerate(ports)],
    }


def keyed(*objects: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {f"{each['metadata']['namespace']}/{each['metadata']['name']}": each for each in objects}
