"""Rules of Services, Endpoints, EndpointSlices, Ingresses and NetworkPolicies. Pure; validation.py calls it. Whether an address is free is the registry's business."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from apiserver.api import names
from apiserver.api.causes import duplicate, forbidden, immutable, invalid, items, one_of, required, section, show, strings, too_many
from apiserver.api.errors import Cause
from apiserver.api.validation_containers import PROTOCOLS, port_or_name_causes
from apiserver.api.validation_meta import label_causes
from apiserver.api.validation_scheduling import selector_causes

JSON = dict[str, Any]
TYPES = ("ClusterIP", "ExternalName", "LoadBalancer", "NodePort")
EXTERNAL = ("LoadBalancer", "NodePort")
MAX_AFFINITY_S = 86400
MAX_ENDPOINTS, MAX_ADDRESSES, MAX_SLICE_PORTS = 1000, 100, 100


def service_causes(obj: JSON) -> Iterator[Cause]:
    spec = section(obj, "spec")
    kind = spec.get("type", "ClusterIP")
    headless = spec.get("clusterIP") == "None"
    yield from one_of("spec.type", kind, TYPES)
    if not spec.get("ports") and not headless and kind != "ExternalName":
        yield required("spec.ports")
    if kind in EXTERNAL and headless:
        yield invalid("spec.clusterIPs[0]", "None", f"may not be set to 'None' for {kind} services")
    if kind == "ExternalName":
        yield from _external_name(spec)
    yield from _ports(spec, kind)
    yield from label_causes(spec.get("selector"), "spec.selector")
    yield from _affinity(spec)
    yield from _addresses(spec)
    yield from _policies(spec, kind)


def _external_name(spec: JSON) -> Iterator[Cause]:
    if spec.get("clusterIP"):
        yield forbidden("spec.clusterIPs", "may not be set when `type` is 'ExternalName'")
    name = (spec.get("externalName") or "").removesuffix(".")
    if not name:
        yield required("spec.externalName")
    else:
        yield from (invalid("spec.externalName", spec["externalName"], text) for text in names.dns_subdomain(name))


def _ports(spec: JSON, kind: str) -> Iterator[Cause]:
    seen_names: set[str] = set()
    seen_ports: set[tuple[str, Any]] = set()
    seen_node_ports: set[tuple[str, Any]] = set()
    several = len(spec.get("ports") or ()) > 1
    for where, port in items(spec, "ports", "spec"):
        name, protocol = port.get("name") or "", port.get("protocol", "TCP")
        if several and not name:
            yield required(f"{where}.name")
        elif name:
            yield from (invalid(f"{where}.name", name, text) for text in names.dns_label(name))
            if name in seen_names:
                yield duplicate(f"{where}.name", name)
            seen_names.add(name)
        yield from (invalid(f"{where}.port", port.get("port", 0), text) for text in names.port_number(port.get("port", 0)))
        yield from one_of(f"{where}.protocol", protocol, PROTOCOLS)
        if "targetPort" in port:
            yield from port_or_name_causes(port["targetPort"], f"{where}.targetPort")
        if port.get("appProtocol"):
            yield from (invalid(f"{where}.appProtocol", port["appProtocol"], text) for text in names.qualified_name(port["appProtocol"]))
        if (protocol, port.get("port")) in seen_ports:
            yield duplicate(where, {"port": port.get("port"), "protocol": protocol})
        seen_ports.add((protocol, port.get("port")))
        node_port = port.get("nodePort")
        if node_port:
            if kind not in EXTERNAL:
                yield forbidden(f"{where}.nodePort", f"may not be used when `type` is '{kind}'")
            yield from (invalid(f"{where}.nodePort", node_port, text) for text in names.port_number(node_port))
            if (protocol, node_port) in seen_node_ports:
                yield duplicate(f"{where}.nodePort", node_port)
            seen_node_ports.add((protocol, node_port))


def _affinity(spec: JSON) -> Iterator[Cause]:
    affinity, config = spec.get("sessionAffinity", "None"), spec.get("sessionAffinityConfig")
    yield from one_of("spec.sessionAffinity", affinity, ("ClientIP", "None"))
    if affinity == "ClientIP":
        seconds = section(section(spec, "sessionAffinityConfig"), "clientIP").get("timeoutSeconds")
        if seconds is None:
            yield required("spec.sessionAffinityConfig.clientIP.timeoutSeconds")
        elif not 0 < seconds <= MAX_AFFINITY_S:
            yield invalid("spec.sessionAffinityConfig.clientIP.timeoutSeconds", seconds, f"must be greater than 0 and less than {MAX_AFFINITY_S}")
    elif config:
        yield forbidden("spec.sessionAffinityConfig", f"must not be set when session affinity is {affinity}")


def _addresses(spec: JSON) -> Iterator[Cause]:
    for position, address in enumerate(spec.get("clusterIPs") or ([spec["clusterIP"]] if spec.get("clusterIP") else [])):
        if address not in ("", "None"):
            yield from (invalid(f"spec.clusterIPs[{position}]", address, text) for text in names.ip_address(address))
    for where, address in strings(spec, "externalIPs", "spec"):
        problems = names.ip_address(address)
        yield from (invalid(where, address, text) for text in problems)
        if not problems and address.startswith(("127.", "169.254.", "224.")):
            yield invalid(where, address, "may not be in the loopback, link-local or multicast range")
    for position, family in enumerate(spec.get("ipFamilies") or ()):
        yield from one_of(f"spec.ipFamilies[{position}]", family, ("IPv4", "IPv6"))
    if spec.get("ipFamilyPolicy"):
        yield from one_of("spec.ipFamilyPolicy", spec["ipFamilyPolicy"], ("PreferDualStack", "RequireDualStack", "SingleStack"))
    ranges = spec.get("loadBalancerSourceRanges")
    if ranges and spec.get("type") != "LoadBalancer":
        yield forbidden("spec.LoadBalancerSourceRanges", "may only be used when `type` is 'LoadBalancer'")
    for where, value in strings(spec, "loadBalancerSourceRanges", "spec"):
        yield from (invalid(where, value, text) for text in names.cidr(value.strip()))


def _policies(spec: JSON, kind: str) -> Iterator[Cause]:
    external, internal = spec.get("externalTrafficPolicy"), spec.get("internalTrafficPolicy")
    if external:
        if kind not in EXTERNAL and not spec.get("externalIPs"):
            yield invalid("spec.externalTrafficPolicy", external, "may only be set for externally-accessible services")
        yield from one_of("spec.externalTrafficPolicy", external, ("Cluster", "Local"))
    if internal:
        yield from one_of("spec.internalTrafficPolicy", internal, ("Cluster", "Local"))
    if spec.get("healthCheckNodePort") and not (kind == "LoadBalancer" and external == "Local"):
        yield invalid("spec.healthCheckNodePort", spec["healthCheckNodePort"], "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'")
    if spec.get("trafficDistribution"):
        yield from one_of("spec.trafficDistribution", spec["trafficDistribution"], ("PreferClose", "PreferSameNode", "PreferSameZone"))
    if spec.get("loadBalancerClass") and kind != "LoadBalancer":
        yield forbidden("spec.loadBalancerClass", "may only be used when `type` is 'LoadBalancer'")


def service_update_causes(new: JSON, old: JSON) -> Iterator[Cause]:
    """An allocated cluster address stays, unless the type changes to or from ExternalName."""
    after, before = section(new, "spec"), section(old, "spec")
    if before.get("type") != "ExternalName" and after.get("type") != "ExternalName" and before.get("clusterIP") and after.get("clusterIP") != before["clusterIP"]:
        yield invalid("spec.clusterIPs[0]", [after.get("clusterIP", "")], "may not change once set")
    if before.get("type") == after.get("type") == "LoadBalancer":
        yield from (
            invalid("spec.loadBalancerClass", after.get("loadBalancerClass"), "may not change once set")
            for _ in immutable("", after.get("loadBalancerClass"), before.get("loadBalancerClass"))
        )


def endpoints_causes(obj: JSON) -> Iterator[Cause]:
    for where, subset in items(obj, "subsets", ""):
        if not subset.get("addresses") and not subset.get("notReadyAddresses"):
            yield required(where, "must specify `addresses` or `notReadyAddresses`")
        for field in ("addresses", "notReadyAddresses"):
            for inner, address in items(subset, field, where):
                yield from (invalid(f"{inner}.ip", address.get("ip", ""), text) for text in names.ip_address(address.get("ip") or ""))
        yield from _endpoint_ports(subset, where, len(subset.get("ports") or ()) > 1)


def _endpoint_ports(parent: JSON, path: str, name_required: bool) -> Iterator[Cause]:
    seen: set[str] = set()
    for where, port in items(parent, "ports", path):
        name = port.get("name") or ""
        if not name and name_required:
            yield required(f"{where}.name")
        elif name:
            yield from (invalid(f"{where}.name", name, text) for text in names.dns_label(name))
        if name in seen:
            yield duplicate(f"{where}.name", name)
        seen.add(name)
        if port.get("port") is not None:
            yield from (invalid(f"{where}.port", port["port"], text) for text in names.port_number(port["port"]))
        if not port.get("protocol"):
            yield required(f"{where}.protocol")
        else:
            yield from one_of(f"{where}.protocol", port["protocol"], PROTOCOLS)


def slice_causes(obj: JSON) -> Iterator[Cause]:
    kind = obj.get("addressType")
    if not kind:
        yield required("addressType")
    else:
        yield from one_of("addressType", kind, ("FQDN", "IPv4", "IPv6"))
    endpoints = obj.get("endpoints") or ()
    if len(endpoints) > MAX_ENDPOINTS:
        yield too_many("endpoints", len(endpoints), MAX_ENDPOINTS)
        return
    for where, endpoint in items(obj, "endpoints", ""):
        addresses = endpoint.get("addresses") or ()
        if not addresses:
            yield required(f"{where}.addresses", "must contain at least 1 address")
        elif len(addresses) > MAX_ADDRESSES:
            yield too_many(f"{where}.addresses", len(addresses), MAX_ADDRESSES)
        check = names.dns_subdomain if kind == "FQDN" else names.ip_address
        for inner, address in strings(endpoint, "addresses", where):
            yield from (invalid(inner, address, text) for text in check(address))
            if kind in ("IPv4", "IPv6") and not check(address) and (":" in address) is (kind == "IPv4"):
                yield invalid(inner, address, f"must be a valid {kind} address")
        for field in ("hostname", "nodeName"):
            if endpoint.get(field):
                rule = names.dns_label if field == "hostname" else names.dns_subdomain
                yield from (invalid(f"{where}.{field}", endpoint[field], text) for text in rule(endpoint[field]))
    if len(obj.get("ports") or ()) > MAX_SLICE_PORTS:
        yield too_many("ports", len(obj["ports"]), MAX_SLICE_PORTS)
    yield from _endpoint_ports(obj, "", False)


def slice_update_causes(new: JSON, old: JSON) -> Iterator[Cause]:
    yield from immutable("addressType", new.get("addressType"), old.get("addressType"))


def ingress_causes(obj: JSON) -> Iterator[Cause]:
    spec = section(obj, "spec")
    if not spec.get("rules") and not spec.get("defaultBackend"):
        yield invalid("spec", {}, "either `defaultBackend` or `rules` must be specified")
    for where, rule in items(spec, "rules", "spec"):
        host = rule.get("host") or ""
        yield from (invalid(f"{where}.host", host, text) for text in (names.dns_subdomain(host.removeprefix("*.")) if host else []))
        http = section(rule, "http")
        if rule.get("http") is not None and not http.get("paths"):
            yield required(f"{where}.http.paths")
        for inner, path in items(http, "paths", f"{where}.http"):
            kind = path.get("pathType")
            if not kind:
                yield required(f"{inner}.pathType", "pathType must be specified")
            else:
                yield from one_of(f"{inner}.pathType", kind, ("Exact", "ImplementationSpecific", "Prefix"))
            if kind in ("Exact", "Prefix") and not str(path.get("path") or "").startswith("/"):
                yield invalid(f"{inner}.path", path.get("path", ""), "must be an absolute path")
            yield from _backend(section(path, "backend"), f"{inner}.backend")
    if spec.get("defaultBackend"):
        yield from _backend(section(spec, "defaultBackend"), "spec.defaultBackend")


def _backend(backend: JSON, path: str) -> Iterator[Cause]:
    service, resource = section(backend, "service"), backend.get("resource")
    if resource and service:
        yield invalid(path, "", "cannot set both resource and service backends")
    elif not resource:
        if not service.get("name"):
            yield required(f"{path}.service.name")
        port = section(service, "port")
        if port.get("name"):
            yield from (invalid(f"{path}.service.port.name", port["name"], text) for text in names.port_name(port["name"]))
        elif not port.get("number"):
            yield required(f"{path}.service.port", "port name or number is required")
        else:
            yield from (invalid(f"{path}.service.port.number", port["number"], text) for text in names.port_number(port["number"]))


def policy_causes(obj: JSON) -> Iterator[Cause]:
    spec = section(obj, "spec")
    yield from selector_causes(section(spec, "podSelector"), "spec.podSelector")
    for position, kind in enumerate(spec.get("policyTypes") or ()):
        yield from one_of(f"spec.policyTypes[{position}]", kind, ("Egress", "Ingress"))
    for direction, peers in (("ingress", "from"), ("egress", "to")):
        for where, rule in items(spec, direction, "spec"):
            for inner, port in items(rule, "ports", where):
                yield from one_of(f"{inner}.protocol", port.get("protocol", "TCP"), PROTOCOLS)
                if port.get("port") is not None:
                    yield from port_or_name_causes(port["port"], f"{inner}.port")
            for inner, peer in items(rule, peers, where):
                if not peer:
                    yield required(inner, "must specify a peer")
                block = section(peer, "ipBlock")
                if block:
                    yield from (invalid(f"{inner}.ipBlock.cidr", block.get("cidr", ""), text) for text in names.cidr(block.get("cidr") or ""))
                    if len(peer) > 1:
                        yield forbidden(inner, f"may not specify both ipBlock and another peer ({show(sorted(set(peer) - {'ipBlock'})[0])})")
