"""Which EndpointSlices (and which legacy Endpoints object) a Service should have. Pure: Service, pods and what exists in; what to create, update, delete out.

Invariants: every ready address of every port is in exactly one slice; a slice has one address type, one set of port numbers and at most MAX_ENDPOINTS endpoints;
an endpoint stays in its slice while it lives; a plan applied to its own result is empty. Source of the rules: Kubernetes' EndpointSlice concept and API reference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from apiserver.api import types

__all__ = ["MAX_ENDPOINTS", "SERVICE_NAME", "SlicePlan", "plan_endpoints", "plan_slices", "relevant", "wants_endpoints"]

Obj = dict[str, Any]
Ports = tuple[tuple[str, str, int, str], ...]
MAX_ENDPOINTS = 100
MAX_LEGACY_ADDRESSES = 1000
SERVICE_NAME = "kubernetes.io/service-name"
MANAGED_BY = "endpointslice.kubernetes.io/managed-by"
CONTROLLER = "endpointslice-controller.k8s.io"
HEADLESS = "service.kubernetes.io/headless"


@dataclass
class SlicePlan:
    """`delete` holds names."""

    create: list[Obj] = field(default_factory=list)
    update: list[Obj] = field(default_factory=list)
    delete: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.create or self.update or self.delete)


def wants_endpoints(service: types.Service) -> bool:
    """Services without a selector are somebody else's to fill; ExternalName has none."""
    return bool(service.spec.selector) and service.spec.type != "ExternalName" and not service.metadata.deletion_timestamp


def relevant(pod: types.Pod) -> tuple[object, ...]:
    """What of a pod shows in a slice: two pods with equal values make equal slices."""
    meta, spec, status = pod.metadata, pod.spec, pod.status
    return (meta.uid, tuple(meta.labels.items()), bool(meta.deletion_timestamp), status.phase in ("Succeeded", "Failed"), tuple(ip.ip for ip in status.pod_ips), status.pod_ip,
            _is_ready(pod), spec.node_name, spec.hostname, spec.subdomain)  # fmt: skip


def plan_slices(service: types.Service, pods: Iterable[types.Pod], existing: Iterable[Obj], zone_of: Callable[[str], str]) -> SlicePlan:
    """`pods` are those the selector matches; `existing` the slices labelled with the Service and managed by us; zone_of(node name) may give ""."""
    plan = SlicePlan()
    groups = _desired(service, pods, zone_of)
    by_group: dict[tuple[str, Ports], list[Obj]] = {}
    for each in sorted(existing, key=lambda s: s["metadata"]["name"]):
        by_group.setdefault((each.get("addressType", ""), _slice_ports(each)), []).append(each)
    for family in _families(service):
        if not any(f == family for f, _ in groups):
            groups[family, next((p for f, p in by_group if f == family), ())] = {}  # a placeholder: "none" is an answer too
    for group, slices in by_group.items():
        if group not in groups:
            plan.delete += [each["metadata"]["name"] for each in slices]
    for group, endpoints in groups.items():
        _fill(plan, service, group, endpoints, by_group.get(group, []))
    return plan


def _fill(plan: SlicePlan, service: types.Service, group: tuple[str, Ports], endpoints: dict[str, Obj], slices: list[Obj]) -> None:
    """Endpoints that a slice holds stay in it, the rest fills gaps, then new slices."""
    left = dict(endpoints)
    kept: list[tuple[Obj, list[Obj]]] = []
    for each in slices:
        mine = [left.pop(key) for old in each.get("endpoints") or [] if (key := _endpoint_key(old)) in left]
        kept.append((each, mine))
    waiting = list(left.values())
    for _, mine in sorted(kept, key=lambda item: -len(item[1])):
        room = MAX_ENDPOINTS - len(mine)
        mine += waiting[:room]
        waiting = waiting[room:]
    need_placeholder = not endpoints
    for each, mine in kept:
        if not mine and not need_placeholder:
            plan.delete.append(each["metadata"]["name"])
            continue
        need_placeholder = need_placeholder and bool(mine)
        wanted = _slice(service, *group, mine)
        if _differs(each, wanted):
            meta = {**each["metadata"], "labels": wanted["metadata"]["labels"], "ownerReferences": wanted["metadata"]["ownerReferences"]}
            plan.update.append({**each, **wanted, "metadata": meta})
    while waiting or need_placeholder:
        need_placeholder = False
        plan.create.append(_slice(service, *group, waiting[:MAX_ENDPOINTS]))
        waiting = waiting[MAX_ENDPOINTS:]


def _desired(service: types.Service, pods: Iterable[types.Pod], zone_of: Callable[[str], str]) -> dict[tuple[str, Ports], dict[str, Obj]]:
    groups: dict[tuple[str, Ports], dict[str, Obj]] = {}
    families = _families(service)
    for pod in sorted(pods, key=lambda p: p.metadata.name):
        if pod.status.phase in ("Succeeded", "Failed"):
            continue
        ports = _ports_on(service, pod)
        for family in families:
            address = _address(pod, family)
            if address and (ports or not service.spec.ports):
                endpoint = _endpoint(service, pod, address, zone_of(pod.spec.node_name))
                groups.setdefault((family, ports), {})[_endpoint_key(endpoint)] = endpoint
    return groups


def _families(service: types.Service) -> list[str]:
    if service.spec.ip_families:
        return list(service.spec.ip_families)
    return ["IPv6" if ":" in service.spec.cluster_ip else "IPv4"]


def _address(pod: types.Pod, family: str) -> str:
    addresses = [ip.ip for ip in pod.status.pod_ips] or [pod.status.pod_ip]
    return next((a for a in addresses if a and (":" in a) == (family == "IPv6")), "")


def _is_ready(pod: types.Pod) -> bool:
    return any(c.type == "Ready" and c.status == "True" for c in pod.status.conditions)


def _endpoint(service: types.Service, pod: types.Pod, address: str, zone: str) -> Obj:
    serving, terminating = _is_ready(pod), bool(pod.metadata.deletion_timestamp)
    ready = service.spec.publish_not_ready_addresses or (serving and not terminating)
    endpoint: Obj = {
        "addresses": [address],
        "conditions": {"ready": ready, "serving": serving, "terminating": terminating},
        "targetRef": {"kind": "Pod", "namespace": pod.metadata.namespace, "name": pod.metadata.name, "uid": pod.metadata.uid},
    }
    if pod.spec.node_name:
        endpoint["nodeName"] = pod.spec.node_name
    if zone:
        endpoint["zone"] = zone
    if pod.spec.hostname and pod.spec.subdomain == service.metadata.name:
        endpoint["hostname"] = pod.spec.hostname
    return endpoint


def _endpoint_key(endpoint: Obj) -> str:
    return f"{(endpoint.get('targetRef') or {}).get('uid', '')} {endpoint['addresses'][0]}"


def _ports_on(service: types.Service, pod: types.Pod) -> Ports:
    """The Service's ports as numbers on this pod; a port whose name the pod does not have is left out."""
    found = []
    for port in service.spec.ports:
        number = _target_port(port, pod)
        if number:
            found.append((port.name, port.protocol or "TCP", number, port.app_protocol))
    return tuple(found)


def _target_port(port: types.ServicePort, pod: types.Pod) -> int:
    target = port.target_port
    if isinstance(target, int) or target.isdigit():
        return int(target) or port.port
    sidecars = [c for c in pod.spec.init_containers if c.restart_policy == "Always"]
    for container in [*pod.spec.containers, *sidecars]:
        for candidate in container.ports:
            if candidate.name == target and (candidate.protocol or "TCP") == (port.protocol or "TCP"):
                return candidate.container_port
    return 0 if target else port.port


def _slice(service: types.Service, family: str, ports: Ports, endpoints: list[Obj]) -> Obj:
    meta = service.metadata
    labels = {k: v for k, v in meta.labels.items() if k not in (SERVICE_NAME, MANAGED_BY, HEADLESS)}
    labels |= {SERVICE_NAME: meta.name, MANAGED_BY: CONTROLLER}
    if service.spec.cluster_ip == "None":
        labels[HEADLESS] = ""
    owner = {"apiVersion": "v1", "kind": "Service", "name": meta.name, "uid": meta.uid, "controller": True, "blockOwnerDeletion": True}
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"generateName": f"{meta.name}-", "namespace": meta.namespace, "labels": labels, "ownerReferences": [owner]},
        "addressType": family,
        "endpoints": sorted(endpoints, key=_endpoint_key),
        "ports": [{"name": name, "protocol": protocol, "port": number, **({"appProtocol": app} if app else {})} for name, protocol, number, app in ports],
    }


def _slice_ports(each: Obj) -> Ports:
    return tuple((p.get("name") or "", p.get("protocol") or "TCP", p.get("port") or 0, p.get("appProtocol") or "") for p in each.get("ports") or [])


def _differs(have: Obj, wanted: Obj) -> bool:
    meta, wanted_meta = have["metadata"], wanted["metadata"]
    if meta.get("labels") != wanted_meta["labels"] or meta.get("ownerReferences") != wanted_meta["ownerReferences"]:
        return True
    return sorted(have.get("endpoints") or [], key=_endpoint_key) != wanted["endpoints"]


def plan_endpoints(service: types.Service, pods: Iterable[types.Pod], existing: Obj | None) -> Obj | None:
    """The legacy Endpoints object to write, None where it is right already. Holds at most 1,000 addresses, as Kubernetes does."""
    by_ports: dict[Ports, tuple[list[Obj], list[Obj]]] = {}
    count = 0
    family = _families(service)[0]
    for pod in sorted(pods, key=lambda p: p.metadata.name):
        address, ports, ending = _address(pod, family), _ports_on(service, pod), bool(pod.metadata.deletion_timestamp)
        if pod.status.phase in ("Succeeded", "Failed") or not address or (ending and not service.spec.publish_not_ready_addresses) or count >= MAX_LEGACY_ADDRESSES:
            continue
        count += 1
        ready = _is_ready(pod) or service.spec.publish_not_ready_addresses
        by_ports.setdefault(ports, ([], []))[not ready].append(_legacy_address(service, pod, address))
    subsets = [_subset(ports, *addresses) for ports, addresses in sorted(by_ports.items())]
    labels = {**service.metadata.labels, MANAGED_BY.replace("endpointslice", "endpoints"): "endpoint-controller"}
    if service.spec.cluster_ip == "None":
        labels[HEADLESS] = ""
    if existing is not None and (existing.get("subsets") or []) == subsets and (existing["metadata"].get("labels") or {}) == labels:
        return None
    meta = existing["metadata"] if existing else {"name": service.metadata.name, "namespace": service.metadata.namespace}
    return {"apiVersion": "v1", "kind": "Endpoints", "metadata": {**meta, "labels": labels}, "subsets": subsets}


def _legacy_address(service: types.Service, pod: types.Pod, address: str) -> Obj:
    found = _endpoint(service, pod, address, "")
    return {"ip": address, **{k: found[k] for k in ("hostname", "nodeName", "targetRef") if k in found}}


def _subset(ports: Ports, ready: Sequence[Obj], not_ready: Sequence[Obj]) -> Obj:
    subset: Obj = {}
    if ready:
        subset["addresses"] = list(ready)
    if not_ready:
        subset["notReadyAddresses"] = list(not_ready)
    if ports:
        subset["ports"] = [
            {**({"name": name} if name else {}), "port": number, "protocol": protocol, **({"appProtocol": app} if app else {})} for name, protocol, number, app in ports
        ]
    return subset
