"""What a Service may own: ClusterIPs out of the service range, NodePorts out of the port range. Pools are pure (which values exist, in which order they are tried);
Allocator puts claims behind them. Service strategy, repair and bootstrap call it.

As in Kubernetes, a value chosen by the server comes from the upper part of the range while there is one free, so that values chosen by people (the lower part) seldom clash.
"""

from __future__ import annotations

import ipaddress
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from apiserver.registry import claims

_RANDOM_TRIES = 8


class OutOfRange(ValueError):
    """The text names the value and the valid range."""


class Exhausted(ValueError):
    """Every value of the pool is claimed."""


class Taken(ValueError):
    """Another object has the value."""


class Pool(Protocol):
    @property
    def size(self) -> int: ...

    @property
    def reserved(self) -> int:
        """How many of the first values are left to people."""

    def value(self, index: int) -> str: ...
    def check(self, value: str) -> str:
        """The value in its normal form. Raises OutOfRange."""


@dataclass(frozen=True, slots=True)
class AddressPool:
    """The usable addresses of an IPv4 network: all but its first and last."""

    network: ipaddress.IPv4Network

    @classmethod
    def parse(cls, cidr: str) -> AddressPool:
        """Raises ValueError on a malformed CIDR or one with fewer than 4 addresses."""
        network = ipaddress.IPv4Network(cidr)
        if network.num_addresses < 4:
            raise ValueError(f"service range {cidr} is too small: at least 4 addresses are needed")
        return cls(network)

    @property
    def size(self) -> int:
        return self.network.num_addresses - 2

    @property
    def reserved(self) -> int:
        """min(max(16, size/16), 256), nothing in small ranges (KEP-3070)."""
        return 0 if self.size <= 16 else min(max(16, self.size // 16), 256)

    def value(self, index: int) -> str:
        return str(self.network.network_address + 1 + index)

    def check(self, value: str) -> str:
        try:
            address = ipaddress.IPv4Address(value)
        except ValueError:
            raise OutOfRange(f"{value!r} is not a valid IPv4 address") from None
        if not 1 <= int(address) - int(self.network.network_address) <= self.size:
            raise OutOfRange(f"the provided IP ({value}) is not in the valid range. The range of valid IPs is {self.network}")
        return str(address)


@dataclass(frozen=True, slots=True)
class PortPool:
    """Ports first..last, both included."""

    first: int
    last: int

    @property
    def size(self) -> int:
        return self.last - self.first + 1

    @property
    def reserved(self) -> int:
        """min(max(16, size/32), 128), nothing in small ranges (KEP-3668)."""
        return 0 if self.size < 32 else min(max(16, self.size // 32), 128)

    def value(self, index: int) -> str:
        return str(self.first + index)

    def check(self, value: str) -> str:
        if not value.isdigit() or not self.first <= int(value) <= self.last:
            raise OutOfRange(f"provided port is not in the valid range. The range of valid ports is {self.first}-{self.last}")
        return str(int(value))


class Allocator:
    """Raises OutOfRange, Taken, Exhausted, each with Kubernetes' text."""

    def __init__(self, pool: Pool, held: claims.Claims, rng: random.Random, taken_text: str) -> None:
        self.pool, self.held, self.rng, self.taken_text = pool, held, rng, taken_text

    async def claim(self, value: str, owner: claims.Owner, *, dry_run: bool = False) -> str:
        """Exactly this value."""
        value = self.pool.check(value)
        if dry_run:
            held = (await self.held.all()).get(value)
            if held is not None and held.owner.uid != owner.uid:
                raise Taken(self.taken_text)
        elif not await self.held.take(value, owner):
            raise Taken(self.taken_text)
        return value

    async def allocate(self, owner: claims.Owner, *, dry_run: bool = False) -> str:
        """Any free value; on a dry run one that is free now, without taking it."""
        if not dry_run:
            for _ in range(_RANDOM_TRIES):
                value = self.pool.value(self.rng.randrange(self.pool.reserved, self.pool.size))
                if await self.held.take(value, owner):
                    return value
        used = await self.held.all()
        for value in self.candidates(used):
            if dry_run or await self.held.take(value, owner):
                return value
        raise Exhausted("range is full")

    def candidates(self, used: object) -> Iterator[str]:
        """Every value not in `used`, the upper part first, each part from a random place on."""
        size, reserved = self.pool.size, self.pool.reserved
        for low, high in ((reserved, size), (0, reserved)):
            if high > low:
                start = self.rng.randrange(high - low)
                for step in range(high - low):
                    value = self.pool.value(low + (start + step) % (high - low))
                    if value not in used:  # type: ignore[operator]
                        yield value
