"""What the control loops are told, as one value. Made by the API server's wiring (embedded) or by __main__ (separate)."""

from __future__ import annotations

import ipaddress
import random
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field

__all__ = ["Config"]


@dataclass(frozen=True)
class Config:
    """`root_ca` is the PEM that pods get as ca.crt. Durations are Kubernetes' defaults. `now` is wall seconds, `clock` monotonic seconds.

    `leader_elect` False only where no second process can run the loops (an embedded store). Raises ValueError for CIDRs that do not fit together."""

    cluster_cidr: str = "10.42.0.0/16"
    node_cidr_mask_size: int = 22
    root_ca: str = ""
    leader_elect: bool = True
    identity: str = field(default_factory=socket.gethostname)
    node_grace_s: float = 40.0
    pod_gc_period_s: float = 20.0
    pod_gc_quarantine_s: float = 40.0
    terminated_pods_kept: int = 12500
    workers: int = 4
    legacy_endpoints: bool = True
    now: Callable[[], float] = time.time
    clock: Callable[[], float] = time.monotonic
    rng: random.Random = field(default_factory=random.Random)

    def __post_init__(self) -> None:
        network = ipaddress.ip_network(self.cluster_cidr)
        if not network.prefixlen <= self.node_cidr_mask_size <= network.max_prefixlen:
            raise ValueError(f"--node-cidr-mask-size: {self.node_cidr_mask_size} does not fit into --cluster-cidr {self.cluster_cidr}")
