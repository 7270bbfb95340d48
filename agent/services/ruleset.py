"""What the node's Service table must hold, as a value: Services and EndpointSlices → elements of its maps, and the difference between two such states. Pure; the only
module that knows what a Service means. Called by `proxy`.

The table's maps (their chains are in `skeleton`): `services`, `node_ports`, `node_ports_inner` lead a destination to the chain for its number of endpoints; that chain
draws a slot, and `slots` turns (destination, slot) into an endpoint. One endpoint's change therefore touches one slot, and the verdict where the number changed."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Object = Mapping[str, Any]
Key = tuple[str | int, ...]
SERVICE_LABEL = "kubernetes.io/service-name"
FOREIGN_PROXY_LABEL = "service.kubernetes.io/service-proxy-name"
NODE_PORT_ADDRESS, INNER_ADDRESS = "0.0.0.0", "0.0.0.1"  # stand for "any address of this node" in `slots`: seen from outside, and from its own pods and processes
DEFAULT_AFFINITY_S = 10_800  # sessionAffinityConfig.clientIP.timeoutSeconds
PROTOCOLS = ("TCP", "UDP")


@dataclass(frozen=True, slots=True)
class Chain:
    """The chain that spreads over `slots` endpoints; `front` says which address keys `slots`. With `timeout_s` clients keep their endpoint for so long."""

    front: str  # "cluster": the packet's own destination; "node": NODE_PORT_ADDRESS; "inner": INNER_ADDRESS
    slots: int
    timeout_s: int = 0

    @property
    def name(self) -> str:
        return f"{self.front}-{self.slots}" + (f"-sticky-{self.timeout_s}" if self.timeout_s else "")


Value = Chain | tuple[str, int] | None
Elements = dict[tuple[str, Key], Value]  # (map, key) → verdict, endpoint, or None in a set


@dataclass(frozen=True, slots=True)
class Node:
    """Where the rules are for."""

    addresses: frozenset[str]
    pods: ipaddress.IPv4Network
    cluster: ipaddress.IPv4Network

    def is_local(self, address: str) -> bool:
        return address in self.addresses or ipaddress.IPv4Address(address) in self.pods


@dataclass(frozen=True, slots=True)
class _Backend:
    address: str
    port: int
    ready: bool
    terminating: bool  # but still serving


@dataclass(slots=True)
class Changes:
    """What to delete, then what to add; an element whose value changes is in both."""

    delete: list[tuple[str, Key]] = field(default_factory=list)
    add: list[tuple[str, Key, Value]] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.delete or self.add)

    def __len__(self) -> int:
        return len(self.delete) + len(self.add)


def diff(old: Mapping[tuple[str, Key], Value], new: Mapping[tuple[str, Key], Value]) -> Changes:
    """The fewest operations that turn `old` into `new`."""
    changes = Changes()
    for where, value in old.items():
        if where not in new or new[where] != value:
            changes.delete.append(where)
    for where, value in new.items():
        if where not in old or old[where] != value:
            changes.add.append((*where, value))
    return changes


def plan_slots(previous: Sequence[tuple[str, int]], wanted: Collection[tuple[str, int]]) -> list[tuple[str, int]]:
    """Endpoints to slots, moving as few as possible: who stays, stays in place; newcomers, then the last ones, fill the holes."""
    left = set(wanted)
    slots: list[tuple[str, int] | None] = []
    for endpoint in previous:
        slots.append(endpoint if endpoint in left else None)
        left.discard(endpoint)
    newcomers = sorted(left)
    for index, holder in enumerate(slots):
        if holder is None and newcomers:
            slots[index] = newcomers.pop(0)
    packed: list[tuple[str, int] | None] = [*slots, *newcomers]
    index = 0
    while index < len(packed):
        if packed[index] is None:
            packed[index] = packed[-1]
            packed.pop()
        else:
            index += 1
    return [endpoint for endpoint in packed if endpoint]


def render_service(service: Object, slices: Iterable[Object], node: Node, previous: Mapping[tuple[str, Key], Value]) -> Elements:
    """One Service's elements. `previous`: what it had, so that slots keep their endpoints. Raises ValueError, KeyError, TypeError: the object makes no sense."""
    spec = service["spec"]
    if spec.get("type") == "ExternalName" or FOREIGN_PROXY_LABEL in (service["metadata"].get("labels") or {}):
        return {}
    addresses = [address for address in spec.get("clusterIPs") or [spec.get("clusterIP")] if address and address != "None" and ":" not in address]
    if not addresses:
        return {}
    outside = [address for address in spec.get("externalIPs") or () if ":" not in address]
    outside += [entry["ip"] for entry in ((service.get("status") or {}).get("loadBalancer") or {}).get("ingress") or () if ":" not in entry.get("ip", ":")]
    slices = list(slices)
    frontends = _Frontends(node, _affinity_s(spec), previous)
    for port in spec.get("ports") or ():
        protocol = port.get("protocol") or "TCP"
        if protocol not in PROTOCOLS:
            continue
        backends = _backends(slices, port.get("name") or "", protocol)
        everywhere, here = _usable(backends), _usable([backend for backend in backends if node.is_local(backend.address)])
        inside = here if spec.get("internalTrafficPolicy") == "Local" else everywhere
        external = here if spec.get("externalTrafficPolicy") == "Local" else everywhere
        proto, number = protocol.lower(), _port_number(port["port"])
        for address in addresses:
            frontends.add_address(str(ipaddress.IPv4Address(address)), proto, number, inside)
        for address in outside:
            frontends.add_address(str(ipaddress.IPv4Address(address)), proto, number, external)
        if port.get("nodePort") and spec.get("type") in ("NodePort", "LoadBalancer"):
            frontends.add_node_port(proto, _port_number(port["nodePort"]), external, everywhere)
    return frontends.elements


def _port_number(value: Any) -> int:
    if not isinstance(value, int) or not 0 < value < 65536:
        raise ValueError(f"{value!r} is not a port number")
    return value


def _affinity_s(spec: Object) -> int:
    if spec.get("sessionAffinity") != "ClientIP":
        return 0
    return int((((spec.get("sessionAffinityConfig") or {}).get("clientIP")) or {}).get("timeoutSeconds") or DEFAULT_AFFINITY_S)


def _backends(slices: Iterable[Object], name: str, protocol: str) -> list[_Backend]:
    found: dict[tuple[str, int], _Backend] = {}
    for piece in slices:
        if (piece.get("addressType") or "IPv4") != "IPv4":
            continue
        for port in piece.get("ports") or ():
            if (port.get("name") or "") != name or (port.get("protocol") or "TCP") != protocol or not port.get("port"):
                continue
            for endpoint in piece.get("endpoints") or ():
                conditions = endpoint.get("conditions") or {}
                ready = conditions.get("ready") is not False  # absent means ready (discovery.k8s.io/v1 EndpointConditions)
                terminating = bool(conditions.get("serving") and conditions.get("terminating"))
                for address in (endpoint.get("addresses") or ())[:1]:
                    key = (str(ipaddress.IPv4Address(address)), _port_number(port["port"]))
                    if key not in found or (ready and not found[key].ready):
                        found[key] = _Backend(*key, ready, terminating)
    return list(found.values())


def _usable(backends: Collection[_Backend]) -> set[tuple[str, int]]:
    """The ready ones; where there are none, those that still serve while they terminate (KEP-1669)."""
    chosen = [backend for backend in backends if backend.ready] or [backend for backend in backends if backend.terminating]
    return {(backend.address, backend.port) for backend in chosen}


class _Frontends:
    """Collects the elements of one Service."""

    def __init__(self, node: Node, affinity_s: int, previous: Mapping[tuple[str, Key], Value]) -> None:
        self._node, self._affinity_s, self._previous = node, affinity_s, previous
        self.elements: Elements = {}

    def add_address(self, address: str, proto: str, port: int, endpoints: set[tuple[str, int]]) -> None:
        if endpoints:
            self.elements["services", (address, proto, port)] = self._spread("cluster", address, proto, port, endpoints)
        else:
            self.elements["unserved", (address, proto, port)] = None

    def add_node_port(self, proto: str, port: int, external: set[tuple[str, int]], everywhere: set[tuple[str, int]]) -> None:
        """Without endpoints nothing is needed: a node that does not listen on the port refuses by itself."""
        if external:
            self.elements["node_ports", (proto, port)] = self._spread("node", NODE_PORT_ADDRESS, proto, port, external)
        if everywhere and everywhere != external:
            self.elements["node_ports_inner", (proto, port)] = self._spread("inner", INNER_ADDRESS, proto, port, everywhere)

    def _spread(self, front: str, address: str, proto: str, port: int, endpoints: set[tuple[str, int]]) -> Chain:
        before: list[tuple[str, int]] = []
        while isinstance(kept := self._previous.get(("slots", (address, proto, port, len(before)))), tuple):
            before.append(kept)
        for index, chosen in enumerate(plan_slots(before, endpoints)):
            self.elements["slots", (address, proto, port, index)] = chosen
            if self._affinity_s:
                self.elements["endpoints", (address, proto, port, *chosen)] = None
            self._add_endpoint(chosen[0])
        return Chain(front, len(endpoints), self._affinity_s)

    def _add_endpoint(self, address: str) -> None:
        if ipaddress.IPv4Address(address) in self._node.pods:
            self.elements["hairpin", (address, address)] = None
        elif not self._node.is_local(address) and ipaddress.IPv4Address(address) not in self._node.cluster:
            self.elements["foreign", (address,)] = None


def stale_udp(old: Mapping[tuple[str, Key], Value], new: Mapping[tuple[str, Key], Value]) -> set[tuple[str, int, str, int]]:
    """(destination, port, endpoint, its port) of UDP endpoints that are gone: connection tracking would keep sending to them for as long as the client talks."""

    def pairs(elements: Mapping[tuple[str, Key], Value]) -> set[tuple[str, int, str, int]]:
        return {(str(key[0]), int(key[2]), *value) for (name, key), value in elements.items() if name == "slots" and key[1] == "udp" and isinstance(value, tuple)}

    return pairs(old) - pairs(new)


class Ruleset:
    """The whole table's elements, by the Service that wants them. Invariant: an element that several want has the value of the first; it goes when the last lets go.
    So endpoints may be shared, and of two Services that claim one port (for an instant, while one is replaced) neither corrupts the other."""

    def __init__(self) -> None:
        self._owned: dict[str, Elements] = {}
        self._claims: dict[tuple[str, Key], dict[str, Value]] = {}

    def owners(self) -> Collection[str]:
        return self._owned.keys()

    def owned(self, owner: str) -> Elements:
        return self._owned.get(owner, {})

    def elements(self) -> Elements:
        return {where: next(iter(claims.values())) for where, claims in self._claims.items()}

    def replace(self, owner: str, elements: Elements) -> Changes:
        """`owner` now wants exactly these; {} means nothing any more."""
        before = self._owned.get(owner, {})
        touched = [where for where in before if where not in elements or elements[where] != before[where]]
        touched += [where for where in elements if where not in before]
        old = self._effective(touched)
        for where in touched:
            claims = self._claims.setdefault(where, {})
            if where in elements:
                claims[owner] = elements[where]
            else:
                claims.pop(owner, None)
            if not claims:
                del self._claims[where]
        if elements:
            self._owned[owner] = elements
        else:
            self._owned.pop(owner, None)
        return diff(old, self._effective(touched))

    def _effective(self, places: Iterable[tuple[str, Key]]) -> Elements:
        return {where: next(iter(claims.values())) for where in places if (claims := self._claims.get(where))}


def merge(parts: Iterable[Changes]) -> Changes:
    """Changes made one after the other, as one: all deletions before all additions. An element added and then deleted again vanishes."""
    deleted: set[tuple[str, Key]] = set()
    added: dict[tuple[str, Key], Value] = {}
    for part in parts:
        for where in part.delete:
            if where in added:
                del added[where]
            else:
                deleted.add(where)
        for name, key, value in part.add:
            added[name, key] = value
    return Changes(sorted(deleted, key=repr), [(*where, value) for where, value in added.items()])
