"""Which addresses of a node's pod CIDR are taken. Pure: no I/O; the agent restores it from what runs."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable


class AddressesExhausted(Exception):
    """No address is free: the text names the CIDR."""


class AddressPool:
    """IPv4 addresses as texts. The network address, the gateway (first) and the broadcast address are never given out. An address given back is the last to be
    given out again, so that neither neighbour caches nor connection tracking meet its new owner soon."""

    def __init__(self, cidr: str) -> None:
        """Raises ValueError: not an IPv4 network of at least 4 addresses."""
        network = ipaddress.IPv4Network(cidr)
        if network.prefixlen > 30:
            raise ValueError(f"pod CIDR {cidr} is too small: at least a /30 is needed")
        self.network = network
        self.gateway = str(network.network_address + 1)
        self._first = int(network.network_address) + 2
        self._last = int(network.broadcast_address) - 1
        self._next = self._first
        self._taken: set[int] = set()
        self._freed: dict[int, None] = {}  # in the order of their release

    def __len__(self) -> int:
        return len(self._taken)

    def __contains__(self, address: str) -> bool:
        return int(ipaddress.IPv4Address(address)) in self._taken

    def restore(self, addresses: Iterable[str]) -> None:
        """Marks addresses of running pods as taken; those outside the CIDR are ignored (the node's CIDR has changed: they are nobody's here). New addresses
        are given out after the highest one restored."""
        for address in addresses:
            value = int(ipaddress.IPv4Address(address))
            if self._first <= value <= self._last:
                self._taken.add(value)
                self._freed.pop(value, None)
                self._next = max(self._next, value + 1)

    def allocate(self) -> str:
        """Raises AddressesExhausted."""
        while self._next <= self._last:
            value = self._next
            self._next += 1
            if value not in self._taken and value not in self._freed:
                return self._take(value)
        for value in range(self._first, self._last + 1):  # skipped by restore()
            if value not in self._taken and value not in self._freed:
                return self._take(value)
        for value in self._freed:
            return self._take(value)
        raise AddressesExhausted(f"no free address in {self.network}: {len(self._taken)} are taken")

    def release(self, address: str) -> None:
        """Idempotent."""
        value = int(ipaddress.IPv4Address(address))
        if value in self._taken:
            self._taken.discard(value)
            self._freed[value] = None

    def _take(self, value: int) -> str:
        self._freed.pop(value, None)
        self._taken.add(value)
        return str(ipaddress.IPv4Address(value))
