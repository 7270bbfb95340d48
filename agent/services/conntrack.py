"""Forgets connections that lead to endpoints which are gone (raw ctnetlink, kernel nfnetlink_conntrack.h). Needed for UDP only: a TCP client notices by itself, a UDP client
that keeps sending from one port keeps its entry, and so its dead endpoint, alive. Called by `proxy`."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Collection

from agent.services.nfnetlink import NESTED, NetfilterSocket, attribute, parse_attributes

_GET, _DELETE = (1 << 8) | 1, (1 << 8) | 2
_ORIGINAL, _REPLY = 1, 2
_UDP = 17


def _parse_tuple(data: bytes) -> tuple[str, str, int, int, int]:
    """(source, destination, protocol, source port, destination port)"""
    parts = parse_attributes(data)
    addresses, protocol = parse_attributes(parts.get(1, b"")), parse_attributes(parts.get(2, b""))
    numbers = [int.from_bytes(protocol.get(kind, b""), "big") for kind in (1, 2, 3)]
    return (socket.inet_ntoa(addresses[1]), socket.inet_ntoa(addresses[2]), *numbers) if 1 in addresses else ("", "", *numbers)  # type: ignore[return-value]


def delete_udp(netfilter: NetfilterSocket, stale: Collection[tuple[str, int, str, int]], node_addresses: Collection[str]) -> int:
    """Deletes entries that were sent to `destination:port` (0.0.0.0 and 0.0.0.1: any of the node's) and turned to `endpoint:port`. Returns how many. Raises OSError."""
    wanted = set()
    for destination, port, endpoint, endpoint_port in stale:
        for address in (*node_addresses, "127.0.0.1") if destination.startswith("0.0.0.") else (destination,):
            wanted.add((address, port, endpoint, endpoint_port))
    doomed = []
    for body in netfilter.dump(_GET):
        attributes = parse_attributes(body)
        _, destination, protocol, _, port = _parse_tuple(attributes[_ORIGINAL])
        if protocol != _UDP:
            continue
        endpoint, _, _, endpoint_port, _ = _parse_tuple(attributes[_REPLY])
        if (destination, port, endpoint, endpoint_port) in wanted:
            doomed.append(attribute(_ORIGINAL | NESTED, attributes[_ORIGINAL]))
    for original in doomed:
        code = netfilter.request(_DELETE, original)
        if code not in (0, errno.ENOENT):
            raise OSError(code, f"cannot delete a connection tracking entry: {os.strerror(code)}")
    return len(doomed)
