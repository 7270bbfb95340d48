"""Which part of the cluster's pod addresses a node gets. Pure.

Invariant: no two nodes' podCIDRs overlap; a node that has one keeps it. The lowest free block is taken, so that a small cluster's routes stay in one place.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

__all__ = ["Exhausted", "plan_pod_cidr"]

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Exhausted(Exception):
    """No block of the wanted size is free."""


def plan_pod_cidr(cluster_cidr: str, mask_size: int, taken: Iterable[str]) -> str:
    """The first `/mask_size` of cluster_cidr that overlaps none of `taken` (texts that are no CIDR are ignored). Raises Exhausted."""
    cluster = ipaddress.ip_network(cluster_cidr)
    base, step = int(cluster.network_address), 1 << (cluster.max_prefixlen - mask_size)
    blocks = 1 << (mask_size - cluster.prefixlen)
    used: set[int] = set()
    for network in _parse(taken, cluster):
        first = (int(network.network_address) - base) // step
        last = (int(network.broadcast_address) - base) // step
        used.update(range(max(first, 0), min(last, blocks - 1) + 1))
    free = next((n for n in range(blocks) if n not in used), None)
    if free is None:
        raise Exhausted(f"all {blocks} blocks of /{mask_size} in {cluster_cidr} are taken")
    return f"{ipaddress.ip_address(base + free * step)}/{mask_size}"


def _parse(texts: Iterable[str], cluster: Network) -> Iterable[Network]:
    for text in texts:
        try:
            network = ipaddress.ip_network(text, strict=False)
        except ValueError:
            continue
        if network.version == cluster.version and network.overlaps(cluster):  # type: ignore[arg-type]
            yield network
