"""Pod networking on a host of its own: real links, real packets."""

import asyncio
import itertools
import os
import time
from collections.abc import Iterator

import pytest

from agent.network import foreign, netns, pods, rtnetlink
from agent.network.addresses import AddressPool
from tests.node import netlab


@pytest.fixture
def network() -> Iterator[pods.PodNetwork]:
    with netlab.host():
        made = pods.PodNetwork("t1", "10.142.0.0/22", "10.142.0.0/16", service_cidr="10.143.0.0/16")
        yield made
        made.remove()


def attach(network: pods.PodNetwork, address: str, seed: str) -> netlab.Machine:
    fd = netlab.new_netns()
    network.attach(fd, address, seed)
    return netlab.Machine(fd, address)


def test_pods_and_node_reach_one_another_by_the_gateway(network: pods.PodNetwork) -> None:
    assert network.ensure() == []
    a, b = attach(network, "10.142.0.5", "a"), attach(network, "10.142.3.254", "b")
    node = netlab.Machine(-1, "10.142.0.1")
    a.serve("a"), b.serve("b"), node.serve("node", 8080)
    assert a.ask(b.address) == ("b", a.address)
    assert b.ask(a.address) == ("a", b.address)
    assert node.ask(a.address) == ("a", "10.142.0.1")
    assert a.ask("10.142.0.1", 8080) == ("node", a.address)
    assert a.ask("127.0.0.1") == ("a", "127.0.0.1"), "lo is up"
    routes = netns.call_in(a.netns_fd, lambda: netlab.ip("route", "show"))
    assert routes.splitlines() == ["default via 10.142.0.1 dev eth0 proto static ", "10.142.0.1 dev eth0 proto static scope link "]
    assert "10.142.0.5/32" in netns.call_in(a.netns_fd, lambda: netlab.ip("addr", "show", "eth0"))
    for each in (a, b, node):
        each.close()


def test_everything_can_be_done_twice_and_by_another_process(network: pods.PodNetwork) -> None:
    network.ensure()
    pod = attach(network, "10.142.0.5", "a")
    again = pods.PodNetwork("t1", "10.142.0.0/22", "10.142.0.0/16", service_cidr="10.143.0.0/16")
    before = netlab.ip("-o", "link", "show"), netlab.ip("route", "show")
    again.ensure()
    again.attach(pod.netns_fd, "10.142.0.5", "a")
    assert (netlab.ip("-o", "link", "show"), netlab.ip("route", "show")) == before
    pod.serve("a")
    assert netlab.Machine(-1, "").ask("10.142.0.5")[0] == "a"
    again.detach("10.142.0.5", "a")
    again.detach("10.142.0.5", "a")
    pod.close()


def test_a_deleted_bridge_comes_back(network: pods.PodNetwork) -> None:
    network.ensure()
    netlab.ip("link", "del", network.bridge)
    pod = attach(network, "10.142.0.9", "x")
    pod.serve("x")
    assert netlab.Machine(-1, "").ask("10.142.0.9")[0] == "x"
    pod.close()


def test_another_node_cidr_replaces_the_old(network: pods.PodNetwork) -> None:
    network.ensure()
    pods.PodNetwork("t1", "10.142.4.0/22", "10.142.0.0/16").ensure()
    shown = netlab.ip("-o", "-4", "addr", "show", network.bridge)
    assert "10.142.4.1/22" in shown and "10.142.0.1" not in shown


def test_an_address_moves_to_a_new_pod_at_once(network: pods.PodNetwork) -> None:
    network.ensure()
    node = netlab.Machine(-1, "")
    for turn in range(5):
        pod = attach(network, "10.142.0.7", f"turn {turn}")
        pod.serve(f"pod{turn}")
        assert node.ask("10.142.0.7")[0] == f"pod{turn}"
        network.detach("10.142.0.7", f"turn {turn}")
        pod.close()
    node.close()


def test_mtu_follows_the_uplink_and_reaches_the_pod() -> None:
    with netlab.host():
        uplink = netlab.outside("up0", "192.0.2.1", "192.0.2.2")
        netlab.ip("link", "set", "up0", "mtu", "1400")
        netlab.ip("route", "add", "default", "via", "192.0.2.2")
        network = pods.PodNetwork("t1", "10.142.0.0/22", "10.142.0.0/16")
        network.ensure()
        pod = attach(network, "10.142.0.5", "a")
        assert network.mtu == 1400 and "mtu 1400" in netns.call_in(pod.netns_fd, lambda: netlab.ip("link", "show", "eth0"))
        network.remove()
        pod.close(), uplink.close()


def test_remove_leaves_nothing_and_spares_others() -> None:
    with netlab.host():
        network = pods.PodNetwork("t1", "10.142.0.0/22", "10.142.0.0/16", service_cidr="10.143.0.0/16")
        other = pods.PodNetwork("t2", "10.152.0.0/22", "10.152.0.0/16")
        other.ensure()
        kept = attach(other, "10.152.0.5", "a")
        before = netlab.ip("-o", "link", "show"), netlab.ip("route", "show", "table", "all"), netlab.ip("neigh", "show", "nud", "permanent")
        network.ensure()
        pod = attach(network, "10.142.0.5", "a")
        network.remove()
        network.remove()
        assert (netlab.ip("-o", "link", "show"), netlab.ip("route", "show", "table", "all"), netlab.ip("neigh", "show", "nud", "permanent")) == before
        pod.close(), kept.close()


def test_a_dropped_namespace_takes_its_link_along(network: pods.PodNetwork) -> None:
    network.ensure()
    pod = attach(network, "10.142.0.5", "a")
    name = pods.veth_name("t1", "a")
    assert name in netlab.ip("-o", "link", "show")
    pod.close()
    deadline = time.monotonic() + 10
    while name in netlab.ip("-o", "link", "show"):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_pod_cannot_pretend_to_be_another(network: pods.PodNetwork) -> None:
    network.ensure()
    a, b = attach(network, "10.142.0.5", "a"), attach(network, "10.142.0.6", "b")
    b.serve("b")
    a.do(lambda: netlab.ip("addr", "add", "10.142.0.77/32", "dev", "eth0"))
    with a.udp() as liar, b.udp() as listener:
        listener.bind((b.address, 99))
        liar.bind(("10.142.0.77", 0))
        liar.sendto(b"lie", (b.address, 99))
        with a.udp() as honest:
            honest.sendto(b"truth", (b.address, 99))
        assert listener.recvfrom(99)[0] == b"truth"
    a.close(), b.close()


def test_a_foreign_forward_drop_is_named_with_its_remedy(network: pods.PodNetwork) -> None:
    netlab.nft("table ip filter {\n chain FORWARD { type filter hook forward priority 0; policy drop; }\n chain USER { }\n }")
    [warning] = network.ensure()
    assert "table ip filter, chain FORWARD" in warning and "iptables -I FORWARD -s 10.142.0.0/16 -j ACCEPT; iptables -I FORWARD -d 10.142.0.0/16 -j ACCEPT" in warning
    netlab.nft("add rule ip filter FORWARD jump USER\nadd rule ip filter USER ip saddr 10.142.0.0/16 accept")
    assert network.ensure() == []
    assert list(foreign.parse_nft("not json", "10.142.0.0/16")) == []


def test_refuses_a_bridge_that_is_none(network: pods.PodNetwork) -> None:
    netlab.ip("link", "add", "mk-t1", "type", "veth", "peer", "name", "x")
    with pytest.raises(OSError, match="a link of that name exists and is no bridge"):
        network.ensure()


async def test_the_event_loops_thread_never_leaves_its_namespace(network: pods.PodNetwork) -> None:
    with netlab.host():
        here = os.stat("/proc/thread-self/ns/net").st_ino
        mine = pods.PodNetwork("t3", "10.142.0.0/22", "10.142.0.0/16")
        mine.ensure()
        fds = [netlab.new_netns() for _ in range(3)]
        for index, fd in enumerate(fds):
            mine.attach(fd, f"10.142.0.{index + 5}", str(index))
            await asyncio.sleep(0)
            assert os.stat("/proc/thread-self/ns/net").st_ino == here
        mine.remove()
        for fd in fds:
            os.close(fd)


def test_errors_name_what_failed(network: pods.PodNetwork) -> None:
    network.ensure()
    with rtnetlink.RouteSocket() as socket, pytest.raises(OSError, match=r"cannot add route 10\.9\.0\.0/16 via 203\.0\.113\.1"):
        socket.send([rtnetlink.add_route("10.9.0.0/16", 0, gateway="203.0.113.1")])
    with pytest.raises(OSError):
        network.attach(os.open("/dev/null", os.O_RDONLY), "10.142.0.5", "a")


def test_the_first_packet_already_arrives(network: pods.PodNetwork) -> None:
    network.ensure()
    for turn in range(40):
        pod = attach(network, f"10.142.1.{turn + 1}", f"turn {turn}")
        node = netlab.Machine(-1, "")
        with node.udp() as listener, pod.udp() as sender:
            listener.bind(("10.142.0.1", 0))
            sender.sendto(b"first", listener.getsockname())
            assert listener.recv(9) == b"first"
        pod.close()


def test_a_whole_pool_of_pods(network: pods.PodNetwork) -> None:
    network.ensure()
    pool = AddressPool("10.142.0.0/22")
    machines = [attach(network, pool.allocate(), str(i)) for i in range(30)]
    for machine in machines:
        machine.serve(machine.address)
    for one, other in itertools.pairwise(machines):
        assert one.ask(other.address) == (other.address, one.address)
    for machine in machines:
        machine.close()
