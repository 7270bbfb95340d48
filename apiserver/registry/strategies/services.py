"""Services: which addresses and node ports one needs, filling them in and claiming them. Owns the fields clusterIP(s), ipFamilies, ipFamilyPolicy, nodePort and
healthCheckNodePort; the claims themselves are registry.addresses'. A claim is taken before the Service is written and given back after it is gone, so that a crash between the
two leaves at worst a claim nobody uses, which repair releases.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from apiserver.api import errors, kinds
from apiserver.registry import addresses, claims
from apiserver.registry.context import Object, RequestContext
from apiserver.registry.strategies import strategy

NONE = "None"
_WITH_NODE_PORTS = ("NodePort", "LoadBalancer")
Held = tuple[addresses.Allocator, str]
_TYPE_FIELDS = ("clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy")


class ServiceStrategy(strategy.Strategy):
    def __init__(self, resource: kinds.Resource, flags: strategy.Flags, ips: addresses.Allocator, ports: addresses.Allocator) -> None:
        super().__init__(resource, flags)
        self.ips, self.ports = ips, ports

    def prepare_create(self, ctx: RequestContext, obj: Object, now: float) -> None:
        super().prepare_create(ctx, obj, now)
        normalize(obj.get("spec"))

    def prepare_update(self, new: Object, old: Object) -> None:
        """What the client leaves out and the server chose is kept; what the new type has no use for goes."""
        super().prepare_update(new, old)
        spec, before = new.get("spec"), old["spec"]
        if not isinstance(spec, dict):
            return
        if needs_cluster_ip(spec) and needs_cluster_ip(before):
            keep_addresses(spec, before)
        if needs_node_ports(spec) and needs_node_ports(before):
            keep_node_ports(spec, before)
        drop_unneeded(spec, before)
        normalize(spec)

    async def reserve(self, new: Object, old: Object | None, *, dry_run: bool) -> strategy.Reservation | None:
        """Claims everything `new` needs and does not own yet. commit() gives back what only `old` needed, rollback() what only `new` needed."""
        claiming = _Claiming(self, new, claims.Owner.of(new), dry_run)
        try:
            await claiming.address(old)
            await claiming.node_ports(old)
        except errors.ApiError:
            await claiming.undo()
            raise
        if dry_run:
            return None
        needed = set(self.holdings(new))
        surplus = [held for held in self.holdings(old) if held not in needed] if old is not None else []

        async def commit() -> None:
            await release(surplus, claiming.owner)

        return strategy.Reservation(commit, claiming.undo) if claiming.taken or surplus else None

    async def released(self, old: Object) -> None:
        await release(self.holdings(old), claims.Owner.of(old))

    def holdings(self, obj: Object) -> list[Held]:
        """Everything a stored Service owns."""
        return [(self.ips, ip) for ip in cluster_ips(obj)] + [(self.ports, str(port)) for port in node_ports(obj)]


async def release(held: list[Held], owner: claims.Owner) -> None:
    for allocator, value in held:
        await allocator.held.release(value, owner)


@dataclass(slots=True)
class _Claiming:
    """One Service's claims in the making: fills `new` in place, remembers in `taken` what it took."""

    kind: ServiceStrategy
    new: Object
    owner: claims.Owner
    dry_run: bool
    taken: list[Held] = field(default_factory=list)
    chosen: dict[int, set[str]] = field(default_factory=dict)  # node port → protocols

    async def undo(self) -> None:
        if not self.dry_run:
            await release(self.taken, self.owner)

    async def address(self, old: Object | None) -> None:
        spec = self.new["spec"]
        asked = spec.get("clusterIP")
        if not needs_cluster_ip(spec) or asked == NONE or (asked and old is not None and asked in cluster_ips(old)):
            return
        try:
            if asked:
                value = await self.kind.ips.claim(asked, self.owner, dry_run=self.dry_run)
            else:
                value = await self.kind.ips.allocate(self.owner, dry_run=self.dry_run)
        except addresses.Exhausted as err:
            raise errors.InternalError(f"failed to allocate a serviceIP: {err}") from None
        except ValueError as err:
            why = f'Invalid value: ["{asked}"]: failed to allocate IP {asked}: {err}'
            raise self.kind.invalid(self.new, errors.Cause("spec.clusterIPs", "FieldValueInvalid", why)) from None
        spec["clusterIP"], spec["clusterIPs"] = value, [value]
        self.taken.append((self.kind.ips, value))

    async def node_ports(self, old: Object | None) -> None:
        spec = self.new["spec"]
        own = set(node_ports(old)) if old is not None else set()
        ports = spec.get("ports") or () if needs_node_ports(spec) else ()
        for index, port in enumerate(ports):
            if port.get("nodePort"):
                await self._asked(f"spec.ports[{index}].nodePort", port["nodePort"], port.get("protocol", "TCP"), own)
        for port in ports:
            if not port.get("nodePort") and allocates_node_ports(spec):
                port["nodePort"] = self._shared(port) or await self._any()
                self.chosen.setdefault(port["nodePort"], set()).add(port.get("protocol", "TCP"))
        if needs_health_check(spec):
            asked = spec.get("healthCheckNodePort")
            if not asked:
                spec["healthCheckNodePort"] = await self._any()
            elif asked not in own:
                await self._exactly("spec.healthCheckNodePort", asked)

    async def _asked(self, field: str, port: int, protocol: str, own: set[int]) -> None:
        if protocol in self.chosen.get(port, ()):
            why = f'Duplicate value: {{"protocol":"{protocol}","nodePort":{port}}}'
            raise self.kind.invalid(self.new, errors.Cause(field, "FieldValueDuplicate", why))
        if port not in own and port not in self.chosen:
            await self._exactly(field, port)
        self.chosen.setdefault(port, set()).add(protocol)

    def _shared(self, port: Object) -> int:
        """The node port of the same port under another protocol (DNS over TCP and UDP share one); 0 if there is none."""
        for other in self.new["spec"]["ports"]:
            number = other.get("nodePort")
            if number and other.get("port") == port.get("port") and port.get("protocol", "TCP") not in self.chosen.get(number, ()):
                return number
        return 0

    async def _any(self) -> int:
        try:
            value = await self.kind.ports.allocate(self.owner, dry_run=self.dry_run)
        except addresses.Exhausted as err:
            raise errors.InternalError(f"failed to allocate a nodePort: {err}") from None
        self.taken.append((self.kind.ports, value))
        return int(value)

    async def _exactly(self, field: str, port: int) -> None:
        try:
            self.taken.append((self.kind.ports, await self.kind.ports.claim(str(port), self.owner, dry_run=self.dry_run)))
        except ValueError as err:
            raise self.kind.invalid(self.new, errors.Cause(field, "FieldValueInvalid", f"Invalid value: {port}: {err}")) from None


def needs_cluster_ip(spec: Object) -> bool:
    return spec.get("type", "ClusterIP") != "ExternalName"


def needs_node_ports(spec: Object) -> bool:
    return spec.get("type") in _WITH_NODE_PORTS


def allocates_node_ports(spec: Object) -> bool:
    return spec.get("type") == "NodePort" or spec.get("allocateLoadBalancerNodePorts", True) is not False


def needs_health_check(spec: Object) -> bool:
    return spec.get("type") == "LoadBalancer" and spec.get("externalTrafficPolicy") == "Local"


def cluster_ips(obj: Object) -> list[str]:
    """The IPv4 ClusterIPs a stored Service owns; none for headless ones."""
    spec = obj.get("spec") or {}
    ips = spec.get("clusterIPs") or ([spec["clusterIP"]] if spec.get("clusterIP") else [])
    return [ip for ip in ips if ip and ip != NONE]


def node_ports(obj: Object) -> list[int]:
    """The NodePorts a stored Service owns, each once."""
    spec = obj.get("spec") or {}
    ports = [port["nodePort"] for port in spec.get("ports") or () if port.get("nodePort")]
    if spec.get("healthCheckNodePort"):
        ports.append(spec["healthCheckNodePort"])
    return list(dict.fromkeys(ports))


def keep_addresses(spec: Object, before: Object) -> None:
    if not spec.get("clusterIP") and not spec.get("clusterIPs"):
        for field in ("clusterIP", "clusterIPs"):
            if field in before:
                spec[field] = before[field]
    for field in ("ipFamilies", "ipFamilyPolicy"):
        if not spec.get(field) and field in before:
            spec[field] = before[field]


def keep_node_ports(spec: Object, before: Object) -> None:
    """A port without nodePort gets the one it had: matched by port and protocol, as kubectl apply merges them."""
    had = {(port.get("port"), port.get("protocol", "TCP")): port["nodePort"] for port in before.get("ports") or () if port.get("nodePort")}
    used = {port.get("nodePort") for port in spec.get("ports") or () if isinstance(port, dict)}
    for port in spec.get("ports") or ():
        if isinstance(port, dict) and not port.get("nodePort"):
            number = had.get((port.get("port"), port.get("protocol", "TCP")))
            if number and number not in used:
                port["nodePort"] = number
    if needs_health_check(spec) and needs_health_check(before) and not spec.get("healthCheckNodePort") and before.get("healthCheckNodePort"):
        spec["healthCheckNodePort"] = before["healthCheckNodePort"]


def drop_unneeded(spec: Object, before: Object) -> None:
    """A type change clears what only the old type used, where the client sent it back unchanged (kubectl edit, patch of spec.type)."""
    if not needs_cluster_ip(spec) and needs_cluster_ip(before):
        for field in _TYPE_FIELDS:
            if spec.get(field) == before.get(field):
                spec.pop(field, None)
    if not needs_node_ports(spec) and needs_node_ports(before):
        had = {port.get("nodePort") for port in before.get("ports") or ()}
        for port in spec.get("ports") or ():
            if isinstance(port, dict) and port.get("nodePort") in had:
                port.pop("nodePort", None)
        for field in ("externalTrafficPolicy", "allocateLoadBalancerNodePorts"):
            if spec.get(field) == before.get(field):
                spec.pop(field, None)
    if not needs_health_check(spec) and spec.get("healthCheckNodePort") == before.get("healthCheckNodePort"):
        spec.pop("healthCheckNodePort", None)


def normalize(spec: object) -> None:
    """clusterIP and clusterIPs from one another, families and their policy where absent."""
    if not isinstance(spec, dict) or not needs_cluster_ip(spec):
        return
    ip, ips = spec.get("clusterIP"), spec.get("clusterIPs")
    if ip and not ips:
        spec["clusterIPs"] = [ip]
    elif not ip and isinstance(ips, list) and ips:
        spec["clusterIP"] = ips[0]
    selectorless = spec.get("clusterIP") == NONE and not spec.get("selector")
    if not spec.get("ipFamilyPolicy"):
        spec["ipFamilyPolicy"] = "RequireDualStack" if selectorless else "SingleStack"
    if not spec.get("ipFamilies"):
        spec["ipFamilies"] = ["IPv4", "IPv6"] if spec["ipFamilyPolicy"] == "RequireDualStack" and selectorless else ["IPv4"]


def family_causes(new: Object) -> list[errors.Cause]:
    """What this (IPv4) cluster cannot give."""
    spec = new.get("spec") or {}
    if not needs_cluster_ip(spec):
        return []
    causes = []
    headless = spec.get("clusterIP") == NONE
    if spec.get("ipFamilyPolicy") == "RequireDualStack" and not headless:
        why = 'Invalid value: "RequireDualStack": this cluster is not configured for dual-stack services'
        causes.append(errors.Cause("spec.ipFamilyPolicy", "FieldValueInvalid", why))
    elif spec.get("ipFamilies") not in (["IPv4"], None) and not headless:
        causes.append(errors.Cause("spec.ipFamilies[0]", "FieldValueInvalid", f'Invalid value: "{spec["ipFamilies"][0]}": not configured on this cluster'))
    if spec.get("clusterIPs") and spec["clusterIPs"][0] != spec.get("clusterIP"):
        causes.append(errors.Cause("spec.clusterIPs", "FieldValueInvalid", f"Invalid value: {spec['clusterIPs']}: first value must match `clusterIP`".replace("'", '"')))
    if len(spec.get("clusterIPs") or ()) > 1:
        causes.append(errors.Cause("spec.clusterIPs", "FieldValueInvalid", f"Invalid value: {spec['clusterIPs']}: may only hold up to 1 values".replace("'", '"')))
    return causes
