"""Keeps this node's nftables table in step with Services and EndpointSlices. Published interface; see the class."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

Object = Mapping[str, Any]


class ServiceProxy:
    """Table `ip minik-<cluster>`, and nothing else. Calls are blocking: `update` about a millisecond, `sync` some 20 µs per endpoint, `ensure` one `nft` (50 ms) when the table is missing."""

    def __init__(self, cluster: str, node_ips: Sequence[str], pod_cidr: str, cluster_cidr: str, node_port_range: str = "30000-32767", *, service_cidr: str = "") -> None:
        """`pod_cidr`: this node's. `service_cidr`: addresses in it that no Service has are rejected at once instead of timing out."""

    def ensure(self) -> None:
        """Makes the table where it is missing or of another version, and fills it with what was last synced. Idempotent; call it at start and now and then. Raises OSError."""
        raise NotImplementedError

    def sync(self, services: Mapping[str, Object], slices: Mapping[str, Object]) -> int:
        """Everything: `namespace/name` → Service, `namespace/name` → EndpointSlice (JSON dicts). The first call replaces whatever the table holds, in one transaction;
        later ones send differences. Returns the number of element operations sent. Raises OSError; an object that makes no sense is skipped and logged."""
        raise NotImplementedError

    def update(self, changed: Collection[str], services: Mapping[str, Object], slices: Mapping[str, Object]) -> int:
        """Like sync, looking at the Services named in `changed` (`namespace/name`) only: the hot path. `slices` may hold only those of the changed Services."""
        raise NotImplementedError

    def remove(self) -> None:
        """Deletes the table. Idempotent."""
        raise NotImplementedError
