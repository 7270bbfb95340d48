"""Pods' links and routes on one node: a gateway address on a bridge without ports, and per pod a veth pair and a route, all of it by raw rtnetlink. The kernel's own state is
the only state, so any process may ensure, attach or remove at any time. Called by the agent; refuses to touch links that do not carry the cluster's name."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import ipaddress
import os
import time
from pathlib import Path

from agent.network import foreign, netns
from agent.network import rtnetlink as rt

DEFAULT_MTU = 1500
_POD_LINK, _LO_INDEX = "eth0", 1
_MAX_NAME = 15  # IFNAMSIZ - 1
_SETTLE_TRIES = 50


def bridge_name(cluster: str) -> str:
    """`mk-<cluster>`, at most 15 characters: longer names end in a hash of the whole."""
    name = f"mk-{cluster}"
    return name if len(name) <= _MAX_NAME else f"mk-{cluster[:5]}-{hashlib.sha256(cluster.encode()).hexdigest()[:6]}"


def _prefix(cluster: str) -> str:
    return "mk" + hashlib.sha256(cluster.encode()).hexdigest()[:4]


def veth_name(cluster: str, name_seed: str) -> str:
    """Of 15 characters, known as this cluster's by the first 6; a name that no other pod had, since the kernel keeps a deleted link's name for a while."""
    return _prefix(cluster) + hashlib.sha256(name_seed.encode()).hexdigest()[:9]


def _settle(socket: rt.RouteSocket, name: str) -> None:
    """The kernel starts a link's queue from a work queue: a first packet sent before that (a DNS query, say) would be dropped. Asking for the link runs that work
    (rtnl_getlink, since Linux 6.8); older kernels get a moment for it."""
    for _ in range(_SETTLE_TRIES):
        link = socket.link(name)
        if link is None or link.operational:
            return
        time.sleep(0.001)


def mac_of(address: str) -> bytes:
    """A locally administered MAC made of the address: an address that moves on to another pod needs no new neighbour entry anywhere."""
    return b"\x0a\x58" + ipaddress.IPv4Address(address).packed


class PodNetwork:
    """The gateway's address is on the bridge `mk-<cluster>`, which has no ports; each pod has a veth pair of its own, a /32, and a default route through the gateway, which
    answers on the host's end. Not for several threads at once. So all traffic of pods is routed: Service rules see it, br_netfilter or not, and no pod can reach, or pretend to be, another on the link."""

    def __init__(self, cluster: str, node_cidr: str, cluster_cidr: str, mtu: int = 0, service_cidr: str = "") -> None:
        """`mtu` 0: the uplink's (the link of the default route), else 1500. `service_cidr`: gets a route, so that connections which start on the node find a source address.
        Raises ValueError: a CIDR is malformed."""
        self.cluster, self.mtu = cluster, mtu
        self.network, self.cluster_network = ipaddress.IPv4Network(node_cidr), ipaddress.IPv4Network(cluster_cidr)
        self.service_network = ipaddress.IPv4Network(service_cidr) if service_cidr else None
        self.bridge = bridge_name(cluster)
        self.gateway = str(self.network.network_address + 1)
        self._bridge_index = 0
        self._socket: rt.RouteSocket | None = None

    def ensure(self) -> list[str]:
        """Host set-up, idempotent (call it at start, and again whenever). Returns warnings for the operator, such as a foreign FORWARD drop with the rule that would help. Raises OSError."""
        socket = self._route_socket()
        links = {link.index: link for link in socket.links()}
        if not self.mtu:
            uplink = links.get(socket.default_link())
            self.mtu = uplink.mtu if uplink else DEFAULT_MTU
        socket.send([rt.new_bridge(self.bridge, mac_of(self.gateway), self.mtu)])
        bridge = socket.link(self.bridge)
        if bridge is None or bridge.kind != "bridge":
            raise OSError(errno.EEXIST, f"cannot use {self.bridge} as the pods' bridge: a link of that name exists and is no bridge")
        self._bridge_index = bridge.index
        wanted = f"{self.gateway}/{self.network.prefixlen}"
        requests = [rt.delete_address(bridge.index, address) for address in socket.addresses(bridge.index) - {wanted}]  # the node had another CIDR
        requests += [rt.link_up(bridge.index, self.mtu, mac_of(self.gateway)), rt.add_address(bridge.index, wanted)]
        if self.service_network:
            requests.append(rt.add_route(str(self.service_network), bridge.index, source=self.gateway))
        socket.send(requests)
        self._sysctl("ip_forward", "1")
        return foreign.forward_warnings(str(self.cluster_network))

    def attach(self, netns_fd: int, ip: str, name_seed: str) -> None:
        """Gives the network namespace its lo, eth0 with `ip`/32 and routes: about 2 ms, blocking. Idempotent. `name_seed` (the sandbox id) must be unique over time. Raises OSError."""
        try:
            self._attach(netns_fd, ip, name_seed)
        except OSError:
            bridge = self._route_socket().link(self.bridge)
            if bridge is not None and bridge.index == self._bridge_index:
                raise
            self.ensure()  # the bridge was deleted under us
            self._attach(netns_fd, ip, name_seed)

    def _attach(self, netns_fd: int, ip: str, name_seed: str) -> None:
        if not self._bridge_index:
            self.ensure()
        name, gateway_mac = veth_name(self.cluster, name_seed), mac_of(self.gateway)
        pair = rt.VethPair(name, gateway_mac, self.mtu, _POD_LINK, mac_of(ip), netns_fd)
        host = self._route_socket()
        inside = netns.call_in(netns_fd, rt.RouteSocket)
        with inside:
            try:
                host.send([rt.new_veth(pair)])
            except OSError as error:
                if error.errno != errno.EEXIST:
                    raise
            port, pod = host.link(name), inside.link(_POD_LINK)
            if port is None or pod is None or pod.address != mac_of(ip):
                raise OSError(errno.EEXIST, f"cannot attach {ip}: the namespace or the link {name} is another pod's")
            # from here on all is idempotent: an attach that was cut short can be done again
            self._sysctl(f"conf/{name}/rp_filter", "1")
            self._sysctl(f"conf/{name}/route_localnet", "1")  # replies to the node's own 127.0.0.1:<NodePort> connections
            host.send([rt.link_up(port.index), rt.add_neighbour(port.index, ip, mac_of(ip)), rt.add_route(f"{ip}/32", port.index, source=self.gateway)])
            inside.send(
                [
                    rt.link_up(_LO_INDEX),
                    rt.link_up(pod.index),
                    rt.add_address(pod.index, f"{ip}/32"),
                    rt.add_neighbour(pod.index, self.gateway, gateway_mac),
                    rt.add_route(f"{self.gateway}/32", pod.index),
                    rt.add_route("0.0.0.0/0", pod.index, gateway=self.gateway),
                ]
            )
            _settle(host, name)
            _settle(inside, _POD_LINK)

    def detach(self, ip: str, name_seed: str) -> None:
        """After (or before) the namespace is dropped: takes the address's route away at once. The kernel deletes the link with the namespace; nothing here waits for it. Idempotent."""
        socket = self._route_socket()
        port = socket.link(veth_name(self.cluster, name_seed))
        if port is not None:
            socket.send([rt.delete_route(f"{ip}/32", port.index)])

    def remove(self) -> None:
        """Deletes every link of this cluster on this host, with its addresses, routes and neighbours. Idempotent."""
        socket = self._route_socket()
        links = socket.links()
        mine = {self.bridge: "bridge"} | {link.name: "veth" for link in links if link.name.startswith(_prefix(self.cluster)) and len(link.name) == _MAX_NAME}
        socket.send([rt.delete_link(link.index) for link in links if mine.get(link.name) == link.kind])
        self._bridge_index = 0
        socket.close()
        self._socket = None

    def _route_socket(self) -> rt.RouteSocket:
        if self._socket is None:
            self._socket = rt.RouteSocket()
        return self._socket

    def _sysctl(self, name: str, value: str) -> None:
        path = Path("/proc/sys/net/ipv4", name)
        if path.read_text().strip() == value:
            return
        with contextlib.suppress(FileNotFoundError):
            try:
                path.write_text(value)
            except OSError as error:
                raise OSError(error.errno, f"cannot set {path} to {value}: {os.strerror(error.errno or 0)}") from error
