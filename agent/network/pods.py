"""Pods' links and routes on one node. Published interface; see the class."""

from __future__ import annotations


class PodNetwork:
    """A bridge `mk-<cluster>` whose address is the gateway; each pod a veth pair, a /32 and a default route through the gateway, so that all its traffic is routed."""

    def __init__(self, cluster: str, node_cidr: str, cluster_cidr: str, mtu: int = 0, service_cidr: str = "") -> None:
        """`mtu` 0: the uplink's (the link of the default route), else 1500. `service_cidr`: gets a route, so that connections which start on the node find a source address."""
        self.cluster, self.node_cidr, self.cluster_cidr, self.mtu, self.service_cidr = cluster, node_cidr, cluster_cidr, mtu, service_cidr

    def ensure(self) -> list[str]:
        """Host set-up, idempotent (call it at start, and again whenever). Returns warnings for the operator, such as a foreign FORWARD drop with the rule that would help. Raises OSError."""
        raise NotImplementedError

    def attach(self, netns_fd: int, ip: str, name_seed: str) -> None:
        """Gives the network namespace its lo, eth0 with `ip`/32 and routes: about 2 ms, blocking. Idempotent. `name_seed` (the sandbox id) must be unique over time. Raises OSError."""
        raise NotImplementedError

    def detach(self, ip: str, name_seed: str) -> None:
        """After (or before) the namespace is dropped: forgets the address's neighbour entry. The kernel deletes the link with the namespace; nothing here waits for it. Idempotent."""
        raise NotImplementedError

    def remove(self) -> None:
        """Deletes every link, route and neighbour of this cluster on this host. Idempotent."""
        raise NotImplementedError
