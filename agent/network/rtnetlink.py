"""Raw rtnetlink (rtnetlink(7), netlink(7)): requests packed by hand and sent in one batch, since pod networking is on the way of every pod start. Knows the messages, not
what they are for. Called by `pods` and `uplink`."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

NETLINK_ROUTE = 0
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP, NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE = 1, 4, 0x300, 0x100, 0x200, 0x400
NLMSG_ERROR, NLMSG_DONE = 2, 3
RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_NEWNEIGH = 28
IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_OPERSTATE, IFLA_LINKINFO, IFLA_NET_NS_FD = 1, 3, 4, 16, 18, 28
IFLA_INFO_KIND, IFLA_INFO_DATA, VETH_INFO_PEER = 1, 2, 1
IFA_ADDRESS, IFA_LOCAL = 1, 2
RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_PREFSRC = 1, 4, 5, 7
NDA_DST, NDA_LLADDR = 1, 2
IFF_UP = 1
RT_SCOPE_UNIVERSE, RT_SCOPE_LINK = 0, 253
RT_TABLE_MAIN, RTPROT_STATIC, RTN_UNICAST = 254, 4, 1
NUD_PERMANENT = 0x80
NLA_F_NESTED = 0x8000


def attribute(kind: int, payload: bytes) -> bytes:
    length = len(payload) + 4
    return struct.pack("=HH", length, kind) + payload + bytes(-length % 4)


def nested(kind: int, *attributes: bytes) -> bytes:
    return attribute(kind | NLA_F_NESTED, b"".join(attributes))


def u32(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("=I", value))


def text(kind: int, value: str) -> bytes:
    return attribute(kind, value.encode() + b"\0")


def ipv4(kind: int, address: str) -> bytes:
    return attribute(kind, ipaddress.IPv4Address(address).packed)


@dataclass(frozen=True, slots=True)
class Request:
    """One message. `what` tells a human what failed; errnos in `ignore` mean that it is already so."""

    type: int
    flags: int
    body: bytes
    what: str
    ignore: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Link:
    index: int
    name: str
    mtu: int
    kind: str
    address: bytes
    operational: bool  # carrier and all: packets are sent, not dropped


def _ifinfo(index: int = 0, flags: int = 0, change: int = 0) -> bytes:
    return struct.pack("=BxHiII", socket.AF_UNSPEC, 0, index, flags, change)


def new_bridge(name: str, mac: bytes, mtu: int) -> Request:
    body = _ifinfo() + text(IFLA_IFNAME, name) + attribute(IFLA_ADDRESS, mac) + u32(IFLA_MTU, mtu) + nested(IFLA_LINKINFO, text(IFLA_INFO_KIND, "bridge"))
    return Request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body, f"create bridge {name}", (errno.EEXIST,))


@dataclass(frozen=True, slots=True)
class VethPair:
    name: str
    mac: bytes
    mtu: int
    peer_name: str
    peer_mac: bytes
    peer_netns_fd: int


def new_veth(pair: VethPair) -> Request:
    """The peer is born in its namespace. Neither end may be created up (the kernel's veth.c: ENOTCONN)."""
    peer = _ifinfo() + text(IFLA_IFNAME, pair.peer_name) + attribute(IFLA_ADDRESS, pair.peer_mac) + u32(IFLA_MTU, pair.mtu) + u32(IFLA_NET_NS_FD, pair.peer_netns_fd)
    info = nested(IFLA_LINKINFO, text(IFLA_INFO_KIND, "veth"), nested(IFLA_INFO_DATA, attribute(VETH_INFO_PEER | NLA_F_NESTED, peer)))
    body = _ifinfo() + text(IFLA_IFNAME, pair.name) + attribute(IFLA_ADDRESS, pair.mac) + u32(IFLA_MTU, pair.mtu) + info
    return Request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body, f"create veth {pair.name}")


def link_up(index: int, mtu: int = 0, mac: bytes = b"") -> Request:
    settings = (u32(IFLA_MTU, mtu) if mtu else b"") + (attribute(IFLA_ADDRESS, mac) if mac else b"")
    return Request(RTM_NEWLINK, 0, _ifinfo(index, IFF_UP, IFF_UP) + settings, f"set link {index} up")


def delete_link(index: int) -> Request:
    return Request(RTM_DELLINK, 0, _ifinfo(index), f"delete link {index}", (errno.ENODEV,))


def _ifaddr(index: int, interface: str) -> bytes:
    address, _, prefix = interface.partition("/")
    return struct.pack("=BBBBI", socket.AF_INET, int(prefix), 0, RT_SCOPE_UNIVERSE, index) + ipv4(IFA_LOCAL, address) + ipv4(IFA_ADDRESS, address)


def add_address(index: int, interface: str) -> Request:
    """`interface`: address/prefix."""
    return Request(RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, _ifaddr(index, interface), f"add address {interface}")


def delete_address(index: int, interface: str) -> Request:
    return Request(RTM_DELADDR, 0, _ifaddr(index, interface), f"delete address {interface}", (errno.EADDRNOTAVAIL,))


def _rtmsg(cidr: str, scope: int) -> bytes:
    network = ipaddress.IPv4Network(cidr)
    header = struct.pack("=BBBBBBBBI", socket.AF_INET, network.prefixlen, 0, 0, RT_TABLE_MAIN, RTPROT_STATIC, scope, RTN_UNICAST, 0)
    return header + (ipv4(RTA_DST, str(network.network_address)) if network.prefixlen else b"")


def add_route(cidr: str, index: int, *, gateway: str = "", source: str = "") -> Request:
    """Replaces a route to the same network. Without `gateway` the network is on the link."""
    body = _rtmsg(cidr, RT_SCOPE_UNIVERSE if gateway else RT_SCOPE_LINK) + u32(RTA_OIF, index)
    body += (ipv4(RTA_GATEWAY, gateway) if gateway else b"") + (ipv4(RTA_PREFSRC, source) if source else b"")
    return Request(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, body, f"add route {cidr}" + (f" via {gateway}" if gateway else ""))


def delete_route(cidr: str, index: int) -> Request:
    return Request(RTM_DELROUTE, 0, _rtmsg(cidr, RT_SCOPE_LINK) + u32(RTA_OIF, index), f"delete route {cidr}", (errno.ESRCH, errno.ENODEV))


def add_neighbour(index: int, address: str, mac: bytes) -> Request:
    body = struct.pack("=BxxxiHBB", socket.AF_INET, index, NUD_PERMANENT, 0, 0) + ipv4(NDA_DST, address) + attribute(NDA_LLADDR, mac)
    return Request(RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, body, f"add neighbour {address}")


class RouteSocket:
    """A netlink socket of the network namespace that the calling thread is in when it is made; it stays with that namespace."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_ROUTE)
        self._socket.bind((0, 0))
        self._sequence = 0

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> RouteSocket:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def send(self, requests: Sequence[Request]) -> None:
        """All in one sendmsg; the kernel goes on after a failure, so what follows a failed request may have happened. Raises OSError ("cannot <what>: …") for the first one."""
        if not requests:
            return
        first = self._sequence + 1
        data = b""
        for request in requests:
            self._sequence += 1
            data += struct.pack("=IHHII", 16 + len(request.body), request.type, NLM_F_REQUEST | NLM_F_ACK | request.flags, self._sequence, 0) + request.body
            data += bytes(-len(data) % 4)
        self._socket.send(data)
        failure: OSError | None = None
        waiting = len(requests)
        while waiting:
            for kind, sequence, body in self._receive():
                if kind != NLMSG_ERROR or not first <= sequence <= self._sequence:
                    continue
                waiting -= 1
                code = -struct.unpack_from("=i", body)[0]
                request = requests[sequence - first]
                if code and code not in request.ignore and failure is None:
                    failure = OSError(code, f"cannot {request.what}: {os.strerror(code)}")
        if failure:
            raise failure

    def dump(self, kind: int, body: bytes) -> Iterator[bytes]:
        """Bodies of a dump's messages. Raises OSError."""
        self._sequence += 1
        self._socket.send(struct.pack("=IHHII", 16 + len(body), kind, NLM_F_REQUEST | NLM_F_DUMP, self._sequence, 0) + body)
        while True:
            for found, sequence, payload in self._receive():
                if sequence != self._sequence:
                    continue
                if found == NLMSG_DONE:
                    return
                if found == NLMSG_ERROR:
                    code = -struct.unpack_from("=i", payload)[0]
                    raise OSError(code, f"cannot dump: {os.strerror(code)}")
                yield payload

    def _receive(self) -> list[tuple[int, int, bytes]]:
        data = self._socket.recv(1 << 17)
        messages = []
        while len(data) >= 16:
            length, kind, _, sequence, _ = struct.unpack_from("=IHHII", data)
            messages.append((kind, sequence, data[16:length]))
            data = data[(length + 3) & ~3 :]
        return messages

    def links(self) -> list[Link]:
        return [_parse_link(body) for body in self.dump(RTM_GETLINK, _ifinfo())]

    def link(self, name: str) -> Link | None:
        body = _ifinfo() + text(IFLA_IFNAME, name)
        self._sequence += 1
        self._socket.send(struct.pack("=IHHII", 16 + len(body), RTM_GETLINK, NLM_F_REQUEST, self._sequence, 0) + body)
        while True:
            for kind, sequence, payload in self._receive():
                if sequence != self._sequence:
                    continue
                if kind != NLMSG_ERROR:
                    return _parse_link(payload)
                code = -struct.unpack_from("=i", payload)[0]
                if code == errno.ENODEV:
                    return None
                raise OSError(code, f"cannot look up link {name}: {os.strerror(code)}")

    def addresses(self, index: int) -> set[str]:
        """`address/prefix` texts of a link."""
        found = set()
        for body in self.dump(RTM_GETADDR, struct.pack("=BBBBI", socket.AF_INET, 0, 0, 0, 0)):
            _, prefix, _, _, owner = struct.unpack_from("=BBBBI", body)
            local = parse_attributes(body[8:]).get(IFA_LOCAL)
            if owner == index and local:
                found.add(f"{ipaddress.IPv4Address(local)}/{prefix}")
        return found

    def default_link(self) -> int:
        """Index of the link that the main table's default route leaves by, 0 where there is none."""
        for body in self.dump(RTM_GETROUTE, struct.pack("=BBBBBBBBI", socket.AF_INET, 0, 0, 0, 0, 0, 0, 0, 0)):
            _, prefix, _, _, table, _, _, kind, _ = struct.unpack_from("=BBBBBBBBI", body)
            attributes = parse_attributes(body[12:])
            if prefix == 0 and table == RT_TABLE_MAIN and kind == RTN_UNICAST and RTA_OIF in attributes:
                return int(struct.unpack("=I", attributes[RTA_OIF])[0])
        return 0


def parse_attributes(data: bytes) -> dict[int, bytes]:
    found = {}
    while len(data) >= 4:
        length, kind = struct.unpack_from("=HH", data)
        if length < 4:
            break
        found[kind & 0x3FFF] = data[4:length]
        data = data[(length + 3) & ~3 :]
    return found


def _parse_link(body: bytes) -> Link:
    _, _, index, _, _ = struct.unpack_from("=BxHiII", body)
    attributes = parse_attributes(body[16:])
    info = parse_attributes(attributes.get(IFLA_LINKINFO, b""))

    def number(kind: int) -> int:
        return int(struct.unpack("=I", attributes[kind])[0]) if kind in attributes else 0

    name = attributes[IFLA_IFNAME].rstrip(b"\0").decode()
    kind = info.get(IFLA_INFO_KIND, b"").rstrip(b"\0").decode()
    return Link(index, name, number(IFLA_MTU), kind, attributes.get(IFLA_ADDRESS, b""), attributes.get(IFLA_OPERSTATE) == b"\6")
