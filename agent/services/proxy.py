"""Keeps this node's nftables table in step with Services and EndpointSlices. Owns table `ip minik-<cluster>` and touches no other. Called by the agent: `ensure` at start
and now and then, `sync` after the first lists, `update` on every change."""

from __future__ import annotations

import ipaddress
import logging
import subprocess
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from agent.services import conntrack, nfnetlink, ruleset, skeleton
from agent.services import nfnetlink as nl
from agent.services.ruleset import Chain, Changes, Key, Value

Object = Mapping[str, Any]
log = logging.getLogger("services")
_NONE: tuple[Object, ...] = ()


class ServiceProxy:
    """Table `ip minik-<cluster>`, and nothing else. Calls are blocking: `update` about a millisecond, `sync` some 20 µs per endpoint, `ensure` one `nft` (50 ms) when the table is missing."""

    def __init__(self, cluster: str, node_ips: Sequence[str], pod_cidr: str, cluster_cidr: str, node_port_range: str = "30000-32767", *, service_cidr: str = "") -> None:
        """`pod_cidr`: this node's. `service_cidr`: addresses in it that no Service has are rejected at once instead of timing out. Node ports are whatever the Services say;
        `node_port_range` is theirs to obey. Raises ValueError: an address or CIDR is malformed."""
        self.table = f"minik-{cluster}"
        self.node_port_range = node_port_range
        addresses = frozenset(str(ipaddress.IPv4Address(address)) for address in node_ips)
        self._node = ruleset.Node(addresses, ipaddress.IPv4Network(pod_cidr), ipaddress.IPv4Network(cluster_cidr))
        service = str(ipaddress.IPv4Network(service_cidr)) if service_cidr else ""
        self._skeleton, self._marker = skeleton.render(self.table, addresses, str(self._node.pods), str(self._node.cluster), service)
        self._rule_counts = skeleton.rule_counts(self._skeleton)
        self._rules = ruleset.Ruleset()
        self._seen: dict[str, tuple[Object, ...]] = {}  # what each Service was last rendered from
        self._chains: set[Chain] = set()
        self._filled = False  # the table holds what _rules says
        self._socket: nfnetlink.NetfilterSocket | None = None

    def ensure(self) -> None:
        """Makes the table where it is missing, of another version or flushed, and fills it with what was last synced. Idempotent; call it at start and now and then. Raises OSError."""
        if self._create() and self._rules.owners():
            self._fill()

    def _create(self) -> bool:
        """False: it was there."""
        if self._is_intact():
            return False
        self._filled = False
        try:
            result = subprocess.run(["nft", "-f", "-"], input=self._skeleton, capture_output=True, text=True, timeout=30, check=False)
        except subprocess.SubprocessError as error:
            raise OSError(f"cannot create nftables table {self.table}: {error}") from error
        if result.returncode:
            raise OSError(f"cannot create nftables table {self.table}: {result.stderr.strip().splitlines()[0] if result.stderr else 'nft failed'}")
        return True

    def _is_intact(self) -> bool:
        """`nft flush ruleset` takes the table away, `nft flush table` only its rules."""
        netfilter = self._netfilter()
        if self._marker not in netfilter.chains(self.table):
            return False
        present = netfilter.rule_counts(self.table)
        return all(present.get(chain) == count for chain, count in self._rule_counts.items())

    def sync(self, services: Mapping[str, Object], slices: Mapping[str, Object]) -> int:
        """Everything: `namespace/name` → Service, `namespace/name` → EndpointSlice (JSON dicts). The first call replaces whatever the table holds, in one transaction;
        later ones send differences. Returns the number of element operations sent. Raises OSError; an object that makes no sense is skipped and logged."""
        by_service = _by_service(slices.values())
        changes = [self._render(key, services.get(key), by_service.get(key, _NONE)) for key in {**services, **dict.fromkeys(self._seen)}]
        return self._apply(changes)

    def update(self, changed: Collection[str], services: Mapping[str, Object], slices: Mapping[str, Object]) -> int:
        """Like sync, looking at the Services named in `changed` (`namespace/name`) only: the hot path. `slices` may hold only those of the changed Services."""
        by_service = _by_service(slices.values())
        return self._apply([self._render(key, services.get(key), by_service.get(key, _NONE)) for key in changed])

    def remove(self) -> None:
        """Deletes the table. Idempotent."""
        netfilter = self._netfilter()
        if netfilter.chains(self.table):
            batch = nfnetlink.Batch(self.table)
            batch.delete_table()
            netfilter.commit(batch)
        self._filled = False
        netfilter.close()
        self._socket = None

    def _netfilter(self) -> nfnetlink.NetfilterSocket:
        if self._socket is None:
            self._socket = nfnetlink.NetfilterSocket()
        return self._socket

    def _render(self, key: str, service: Object | None, slices: tuple[Object, ...]) -> tuple[Changes, set[tuple[str, int, str, int]]]:
        sources = (service, *slices) if service is not None else ()
        seen = self._seen.get(key, ())
        if len(seen) == len(sources) and all(one is other for one, other in zip(seen, sources)):
            return Changes(), set()
        before = self._rules.owned(key)
        after: ruleset.Elements = {}
        if service is not None:
            self._seen[key] = sources  # type: ignore[assignment]
            try:
                after = ruleset.render_service(service, slices, self._node, before)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                log.warning("Service %s is skipped: %s: %s", key, type(error).__name__, error)
        else:
            self._seen.pop(key, None)
        return self._rules.replace(key, after), ruleset.stale_udp(before, after)

    def _apply(self, parts: Sequence[tuple[Changes, set[tuple[str, int, str, int]]]]) -> int:
        stale = {entry for _, gone in parts for entry in gone}
        if self._filled:
            changes = ruleset.merge(part for part, _ in parts if part)
            sent = len(changes)
            try:
                self._commit(changes)
            except nfnetlink.BatchError as error:
                log.warning("table %s is not as we left it (%s): filling it anew", self.table, error)
                sent = self._fill()
        else:
            sent = self._fill()
        if stale:
            conntrack.delete_udp(self._netfilter(), stale, self._node.addresses)
        return sent

    def _commit(self, changes: Changes) -> None:
        if not changes:
            return
        batch = nfnetlink.Batch(self.table)
        needed = {value for _, _, value in changes.add if isinstance(value, Chain)} - self._chains
        for chain in needed:
            batch.put_chain(chain.name, _rules(chain))
        for name, elements in _grouped((name, key, None) for name, key in changes.delete):
            batch.delete_elements(name, elements)
        for name, elements in _grouped(changes.add):
            batch.put_elements(name, elements)
        self._netfilter().commit(batch)
        self._chains |= needed

    def _fill(self) -> int:
        """The whole content in one transaction: packets meet the old rules or the new ones, never half of them. Clients' affinities stay."""
        self._filled = False
        self._create()
        elements = self._rules.elements()
        chains = {value for value in elements.values() if isinstance(value, Chain)}
        batch = nfnetlink.Batch(self.table)
        for name in skeleton.SETS:
            batch.flush_elements(name)
        for name in sorted(self._netfilter().chains(self.table)):
            if name.partition("-")[0] in ("cluster", "node", "inner") and "-" in name and name not in {chain.name for chain in chains}:
                batch.delete_chain(name)
        for chain in chains:
            batch.put_chain(chain.name, _rules(chain))
        for name, encoded in _grouped((*where, value) for where, value in elements.items()):
            batch.put_elements(name, encoded)
        self._netfilter().commit(batch)
        self._chains, self._filled = chains, True
        return len(elements)


def _by_service(slices: Iterable[Object]) -> dict[str, tuple[Object, ...]]:
    found: dict[str, tuple[Object, ...]] = {}
    for piece in slices:
        metadata = piece["metadata"]
        name = (metadata.get("labels") or {}).get(ruleset.SERVICE_LABEL)
        if name:
            key = f"{metadata.get('namespace', '')}/{name}"
            found[key] = (*found.get(key, ()), piece)
    return found


def _grouped(elements: Iterable[tuple[str, Key, Value]]) -> Iterable[tuple[str, list[bytes]]]:
    """Encoded elements by map."""
    groups: dict[str, list[bytes]] = {}
    for name, key, value in elements:
        encoded = nl.encode_key(skeleton.SETS[name][0], key)
        if isinstance(value, Chain):
            groups.setdefault(name, []).append(nl.element(encoded, chain=value.name))
        elif value is not None:
            groups.setdefault(name, []).append(nl.element(encoded, value=nl.encode_key(("ip", "port"), value)))
        else:
            groups.setdefault(name, []).append(nl.element(encoded))
    return groups.items()


_FRONTS = {"node": ruleset.NODE_PORT_ADDRESS, "inner": ruleset.INNER_ADDRESS}


def _rules(chain: Chain) -> list[list[bytes]]:
    """The rules of a spreading chain, as in nft(8): `dnat ip to ip daddr . meta l4proto . th dport . numgen random mod N map @slots`. With affinity first the remembered
    endpoint, if it is still one; else a fresh one, remembered."""

    def destination(register: int) -> list[bytes]:
        front = _FRONTS.get(chain.front)
        address = nl.load_value(register, nl.encode_field("ip", front)) if front else nl.load_payload(register, nl.NETWORK, 16, 4)
        return [address, nl.load_meta(register + 1, nl.META_L4PROTO), nl.load_payload(register + 2, nl.TRANSPORT, 2, 2)]

    first = nl.R0
    if not chain.timeout_s:
        return [[*destination(first), nl.load_random(first + 3, chain.slots), nl.lookup("slots", first, first), nl.dnat(first, first + 1)]]
    client = [nl.load_payload(first, nl.NETWORK, 12, 4), *destination(first + 1)]
    chosen = first + 4  # address, port
    forget = nl.dynset(nl.DYNSET_DELETE, "affinity", first, chosen)  # an update alone would refresh the old endpoint's entry, not replace it
    remember = nl.dynset(nl.DYNSET_UPDATE, "affinity", first, chosen, chain.timeout_s)
    return [
        [*client, nl.lookup("affinity", first, chosen), nl.lookup("endpoints", first + 1), remember, nl.dnat(chosen, chosen + 1)],
        [*client, nl.load_random(chosen, chain.slots), nl.lookup("slots", first + 1, chosen), forget, remember, nl.dnat(chosen, chosen + 1)],
    ]
