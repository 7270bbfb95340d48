"""What a cluster has from its first second: namespaces, RBAC defaults, PriorityClasses, Service `kubernetes` and its EndpointSlice. Called by apiserver/__main__ at every
start, before the first request is served; idempotent, and safe beside other API servers on the same store.
"""

from __future__ import annotations

import asyncio
import ipaddress
from dataclasses import dataclass, field
from typing import Any

import orjson

from apiserver.api import errors, kinds
from apiserver.registry import addresses, rbac
from apiserver.registry.context import Config, Object, RequestContext
from apiserver.registry.registry import MERGE_PATCH, Registry

NAMESPACES = ("default", "kube-system", "kube-public", "kube-node-lease")
PRIORITY_CLASSES = {
    "system-cluster-critical": (2000000000, "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary."),
    "system-node-critical": (2000001000, "Used for system critical pods that must not be moved from their current node."),
}
SERVICE = "kubernetes"


@dataclass(frozen=True, slots=True)
class ServerIdentity:
    """The API server as a user of its own registry."""

    name: str = "system:apiserver"
    uid: str = ""
    groups: tuple[str, ...] = ("system:masters",)
    extra: dict[str, Any] = field(default_factory=dict)


def _context() -> RequestContext:
    return RequestContext(ServerIdentity(), field_manager="kube-apiserver", field_validation="Strict")


async def ensure(registry: Registry) -> None:
    """Creates what is missing and (re-)writes the `kubernetes` EndpointSlice to Config.advertise_address:advertise_port. Never changes what a user changed, except
    for RBAC objects annotated rbac.authorization.kubernetes.io/autoupdate: "true", whose missing rules and subjects come back. Starts nothing that keeps running."""
    # Together, so that a new cluster's first writes share their disk syncs.
    await asyncio.gather(*(_create_missing(registry, kinds.NAMESPACES, "", {"metadata": {"name": name}}) for name in NAMESPACES))
    await asyncio.gather(
        *(_create_missing(registry, kinds.PRIORITYCLASSES, "", _priority_class(name)) for name in PRIORITY_CLASSES),
        *(_reconcile(registry, kinds.CLUSTERROLES, rbac.cluster_role(name), "rules") for name in rbac.CLUSTER_ROLES),
        *(_reconcile(registry, kinds.CLUSTERROLEBINDINGS, rbac.cluster_role_binding(name), "subjects") for name in rbac.CLUSTER_ROLE_BINDINGS),
        _create_missing(registry, kinds.SERVICES, "default", _service(registry.config)),
        _write_slice(registry),
    )


def _priority_class(name: str) -> Object:
    value, text = PRIORITY_CLASSES[name]
    return {"metadata": {"name": name}, "value": value, "description": text}


async def _create_missing(registry: Registry, resource: kinds.Resource, namespace: str, obj: Object) -> Object | None:
    """Answers the object that was there already, None where it was made now."""
    name = obj["metadata"]["name"]
    present = await registry.storage.read(resource, namespace, name, fresh=True)
    if present is not None:
        return present
    try:
        await registry.create(_context(), resource, namespace, orjson.loads(orjson.dumps(obj)))
    except errors.AlreadyExists:
        return await registry.storage.read(resource, namespace, name, fresh=True)
    return None


async def _reconcile(registry: Registry, resource: kinds.Resource, wanted: Object, items: str) -> None:
    """Puts missing rules or subjects back where autoupdate is on; what somebody added stays."""
    present = await _create_missing(registry, resource, "", wanted)
    if present is None or (present["metadata"].get("annotations") or {}).get(rbac.AUTOUPDATE) != "true":
        return
    have = present.get(items) or []
    missing = [item for item in wanted[items] if item not in have]
    if missing:
        await registry.patch(_context(), resource, "", wanted["metadata"]["name"], MERGE_PATCH, {items: [*have, *missing]})


def _service(config: Config) -> Object:
    """The first address of the service range, port 443, no selector: its endpoints are the API servers themselves."""
    ip = addresses.AddressPool.parse(config.service_cluster_ip_range).value(0)
    port = {"name": "https", "port": 443, "protocol": "TCP", "targetPort": config.advertise_port}
    return {
        "metadata": {"name": SERVICE, "labels": {"component": "apiserver", "provider": "kubernetes"}},
        "spec": {"clusterIP": ip, "clusterIPs": [ip], "type": "ClusterIP", "sessionAffinity": "None", "ports": [port]},
    }


async def ensure_service(registry: Registry) -> None:
    """Makes Service `kubernetes` and its endpoints again if somebody deleted them; what is there stays as it is (another API server may have written it)."""
    await _create_missing(registry, kinds.SERVICES, "default", _service(registry.config))
    await _create_missing(registry, kinds.ENDPOINTSLICES, "default", _slice(registry.config))
    await _create_missing(registry, kinds.ENDPOINTS, "default", _endpoints(registry.config))


def _port(config: Config) -> Object:
    return {"name": "https", "port": config.advertise_port, "protocol": "TCP"}


def _slice(config: Config) -> Object:
    family = "IPv6" if ipaddress.ip_address(config.advertise_address).version == 6 else "IPv4"
    return {
        "metadata": {"name": SERVICE, "labels": {"kubernetes.io/service-name": SERVICE}}, "addressType": family,
        "endpoints": [{"addresses": [config.advertise_address], "conditions": {"ready": True}}], "ports": [_port(config)],
    }  # fmt: skip


def _endpoints(config: Config) -> Object:
    metadata = {"name": SERVICE, "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}}
    return {"metadata": metadata, "subsets": [{"addresses": [{"ip": config.advertise_address}], "ports": [_port(config)]}]}


async def _write_slice(registry: Registry) -> None:
    """EndpointSlice and Endpoints `kubernetes` say where this server is reached now."""
    wanted, endpoints = _slice(registry.config), _endpoints(registry.config)
    present = await _create_missing(registry, kinds.ENDPOINTSLICES, "default", wanted)
    if present is not None and present.get("addressType") != wanted["addressType"]:  # immutable
        await registry.delete(_context(), kinds.ENDPOINTSLICES, "default", SERVICE, {})
        await _create_missing(registry, kinds.ENDPOINTSLICES, "default", wanted)
    elif present is not None:
        await registry.patch(_context(), kinds.ENDPOINTSLICES, "default", SERVICE, MERGE_PATCH, {**wanted, "metadata": {"labels": wanted["metadata"]["labels"]}})
    if await _create_missing(registry, kinds.ENDPOINTS, "default", endpoints) is not None:
        await registry.patch(_context(), kinds.ENDPOINTS, "default", SERVICE, MERGE_PATCH, {"subsets": endpoints["subsets"]})
