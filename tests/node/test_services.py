"""Follow the packet: Services on a host of its own, with real pods, an outside client, and real sockets."""

from __future__ import annotations

import json
import socket
import struct
import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from agent.network.pods import PodNetwork, mac_of
from agent.services.proxy import ServiceProxy
from tests.fakes.services import keyed, service, slices
from tests.node import netlab

NODE, CLIENT = "192.0.2.1", "192.0.2.2"
VIP = "10.143.0.20"
FAR_NODE, FAR_POD = "198.51.100.2", "10.142.4.9"


@dataclass
class Lab:
    """A node with pods, an outside client on one link and another node (with a pod's address of its own) on the next."""

    network: PodNetwork
    proxy: ServiceProxy
    node: netlab.Machine
    client: netlab.Machine
    far: netlab.Machine
    pods: list[netlab.Machine] = field(default_factory=list)

    def pod(self, address: str, name: str = "", port: int = 8080) -> netlab.Machine:
        fd = netlab.new_netns()
        self.network.attach(fd, address, f"{address}{len(self.pods)}")
        made = netlab.Machine(fd, address)
        made.serve(name or address, port)
        self.pods.append(made)
        return made

    def sync(self, *objects: dict[str, Any]) -> int:
        return self.proxy.sync(keyed(*(o for o in objects if o["kind"] == "Service")), keyed(*(o for o in objects if o["kind"] == "EndpointSlice")))


def make_proxy() -> ServiceProxy:
    return ServiceProxy("t1", [NODE], "10.142.0.0/22", "10.142.0.0/16", service_cidr="10.143.0.0/16")


@pytest.fixture
def lab() -> Iterator[Lab]:
    with netlab.host():
        network = PodNetwork("t1", "10.142.0.0/22", "10.142.0.0/16", service_cidr="10.143.0.0/16")
        network.ensure()
        client = netlab.outside("out0", NODE, CLIENT)
        far = netlab.outside("far0", "198.51.100.1", FAR_NODE)
        far.do(lambda: (netlab.ip("addr", "add", f"{FAR_POD}/32", "dev", "lo"), netlab.ip("route", "add", "10.142.0.0/22", "via", "198.51.100.1")))
        netlab.ip("route", "add", "10.142.4.0/22", "via", FAR_NODE)
        proxy = make_proxy()
        proxy.ensure()
        made = Lab(network, proxy, netlab.Machine(-1, NODE), client, far)
        yield made
        proxy.remove()
        network.remove()
        for machine in (*made.pods, client, far, made.node):
            machine.close()


def refused(machine: netlab.Machine, address: str, port: int = 80) -> bool:
    with pytest.raises(OSError) as caught:
        machine.ask(address, port)
    return isinstance(caught.value, ConnectionRefusedError)


def table_dump() -> list[dict[str, Any]]:
    """The tables without handles and affinities."""
    items = json.loads(subprocess.run(["nft", "-j", "list", "ruleset"], check=True, capture_output=True, text=True).stdout)["nftables"]
    for item in items:
        for each in item.values():
            each.pop("handle", None)
            if "elem" in each:
                each["elem"] = sorted(each["elem"], key=json.dumps)
    return sorted((item for item in items if "metainfo" not in item), key=json.dumps)


def test_cluster_ip_spreads_over_ready_pods_from_everywhere(lab: Lab) -> None:
    a, b, other = lab.pod("10.142.0.5"), lab.pod("10.142.0.6"), lab.pod("10.142.0.7")
    not_ready = {"addresses": [other.address], "conditions": {"ready": False}}
    assert lab.sync(service("web", VIP), slices("web", [a.address, b.address, not_ready])) > 0
    for source, seen_as in ((other, other.address), (lab.node, "10.142.0.1")):
        answers = Counter(source.ask(VIP) for _ in range(60))
        assert set(answers) == {(a.address, seen_as), (b.address, seen_as)}
        assert min(answers.values()) >= 10, answers


def test_hairpin_a_pod_reaches_itself_through_its_service(lab: Lab) -> None:
    a = lab.pod("10.142.0.5")
    lab.sync(service("web", VIP, node_ports=[30080]), slices("web", [a.address]))
    assert a.ask(VIP) == (a.address, "10.142.0.1")
    assert a.ask(NODE, 30080) == (a.address, "10.142.0.1")


def test_node_port_from_outside_from_the_node_from_pods_and_by_localhost(lab: Lab) -> None:
    a, other = lab.pod("10.142.0.5"), lab.pod("10.142.0.7")
    lab.sync(service("web", VIP, node_ports=[30080]), slices("web", [a.address]))
    assert lab.client.ask(NODE, 30080) == (a.address, CLIENT), "a local endpoint sees the client"
    assert lab.node.ask(NODE, 30080)[0] == a.address
    assert other.ask(NODE, 30080) == (a.address, other.address)
    assert lab.node.ask("127.0.0.1", 30080) == (a.address, "10.142.0.1")
    assert refused(lab.client, NODE, 30081)


def test_endpoints_on_another_node(lab: Lab) -> None:
    lab.far.serve("far", 8080)
    here = lab.pod("10.142.0.5")
    lab.sync(service("web", VIP, node_ports=[30080]), slices("web", [FAR_POD]))
    assert here.ask(VIP) == ("far", here.address), "pods keep their address within the cluster"
    assert lab.node.ask(VIP) == ("far", "10.142.0.1")
    assert lab.client.ask(NODE, 30080) == ("far", "198.51.100.1"), "masqueraded: the reply has to come back this way"


def test_host_network_endpoints_here_and_there(lab: Lab) -> None:
    lab.far.serve("far", 6443)
    lab.node.serve("here", 6443)
    pod = lab.pod("10.142.0.5")
    lab.sync(service("api", VIP, [(443, "TCP")], node_ports=[30443]), slices("api", [FAR_NODE], [(6443, "TCP")]))
    assert pod.ask(VIP, 443) == ("far", "198.51.100.1")
    assert lab.node.ask(VIP, 443) == ("far", "198.51.100.1")
    assert lab.client.ask(NODE, 30443) == ("far", "198.51.100.1")
    lab.sync(service("api", VIP, [(443, "TCP")]), slices("api", [NODE], [(6443, "TCP")]))
    assert pod.ask(VIP, 443) == ("here", pod.address)
    assert lab.node.ask(VIP, 443)[0] == "here"


def test_pods_leaving_the_cluster_are_masqueraded(lab: Lab) -> None:
    lab.client.serve("outside", 80)
    pod = lab.pod("10.142.0.5")
    assert pod.ask(CLIENT) == ("outside", NODE)
    lab.far.serve("far", 80)
    assert pod.ask(FAR_POD) == ("far", pod.address)


def test_no_endpoints_is_refused_at_once(lab: Lab) -> None:
    pod = lab.pod("10.142.0.5")
    lab.sync(service("web", VIP, [(80, "TCP"), (53, "UDP")], node_ports=[30080]))
    for source in (pod, lab.node):
        assert refused(source, VIP)
        assert refused(source, VIP, 81), "a port that the Service does not have"
        assert refused(source, "10.143.7.7"), "an address that no Service has"
    assert refused(lab.client, NODE, 30080)
    with pod.udp() as asker:
        asker.connect((VIP, 53))
        asker.send(b"?")
        with pytest.raises(ConnectionRefusedError):
            asker.recv(10)
    lab.sync(service("web", VIP, [(80, "TCP"), (53, "UDP")]), slices("web", [pod.address]))
    assert pod.ask(VIP)[0] == pod.address
    lab.sync(service("web", VIP, [(80, "TCP"), (53, "UDP")]), slices("web", []))
    assert refused(lab.node, VIP)


def test_external_traffic_policy_local(lab: Lab) -> None:
    lab.far.serve("far", 8080)
    here, other = lab.pod("10.142.0.5"), lab.pod("10.142.0.7")
    local = service("web", VIP, node_ports=[30080], externalTrafficPolicy="Local")
    lab.sync(local, slices("web", [here.address, FAR_POD]))
    assert {lab.client.ask(NODE, 30080) for _ in range(20)} == {(here.address, CLIENT)}
    assert {other.ask(NODE, 30080)[0] for _ in range(40)} == {here.address, "far"}, "from within the cluster all endpoints serve"
    lab.sync(local, slices("web", [FAR_POD]))
    assert refused(lab.client, NODE, 30080)
    assert lab.node.ask(NODE, 30080)[0] == "far" and other.ask(VIP)[0] == "far"


def test_session_affinity_keeps_a_client_until_its_endpoint_goes(lab: Lab) -> None:
    pods = [lab.pod(f"10.142.0.{i}") for i in range(10, 16)]
    web = service("web", VIP, node_ports=[30080], sessionAffinity="ClientIP", sessionAffinityConfig={"clientIP": {"timeoutSeconds": 100}})
    addresses = [pod.address for pod in pods]
    lab.sync(web, slices("web", addresses))
    chosen = {source.address: {source.ask(VIP)[0] for _ in range(12)} for source in (*pods, lab.node)}
    assert all(len(answers) == 1 for answers in chosen.values()), chosen
    assert len(set().union(*chosen.values())) > 1, "different clients, different endpoints"
    assert len({lab.client.ask(NODE, 30080)[0] for _ in range(12)}) == 1
    [favourite] = chosen[lab.node.address]
    for gone in [address for address in addresses if address != favourite][:3]:
        addresses.remove(gone)
        lab.sync(web, slices("web", addresses))
        assert lab.node.ask(VIP)[0] == favourite, "others' going moves nobody"
    addresses.remove(favourite)
    lab.sync(web, slices("web", addresses))
    again = {lab.node.ask(VIP)[0] for _ in range(12)}
    assert len(again) == 1 and again <= set(addresses)


def test_udp_and_the_end_of_an_endpoint(lab: Lab) -> None:
    a, b = lab.pod("10.142.0.5"), lab.pod("10.142.0.6")
    a.serve_udp("a"), b.serve_udp("b")
    dns = service("dns", VIP, [(53, "UDP")], node_ports=[30053])
    lab.sync(dns, slices("dns", [a.address], [(53, "UDP")]))
    with lab.pod("10.142.0.9").udp() as inside, lab.client.udp() as outside:
        for asker, target in ((inside, (VIP, 53)), (outside, (NODE, 30053))):
            asker.connect(target)
            asker.send(b"?")
            assert asker.recv(99).split()[0] == b"a"
        lab.sync(dns, slices("dns", [b.address], [(53, "UDP")]))
        for asker in (inside, outside):
            asker.send(b"?")
            assert asker.recv(99).split()[0] == b"b", "the old connection tracking entry must not outlive its endpoint"


def test_many_endpoints_all_get_their_share(lab: Lab) -> None:
    pod = lab.pod("10.142.0.5")
    for port in range(9000, 9100):
        pod.serve(str(port), port)
    pieces = [slices("web", [pod.address], [(port, "TCP")], suffix=str(port)) for port in range(9000, 9100)]
    lab.sync(service("web", VIP), *pieces)
    answers = Counter(lab.node.ask(VIP)[0] for _ in range(600))
    assert len(answers) > 90 and max(answers.values()) < 30


def test_changes_are_small_and_end_where_a_fresh_start_would(lab: Lab) -> None:
    others = [service(f"s{i}", f"10.143.1.{i}") for i in range(1, 60)]
    more = [slices(f"s{i}", ["10.142.0.5", "10.142.0.6"]) for i in range(1, 60)]
    web = service("web", VIP, node_ports=[30080])
    lab.sync(web, *others, *more, slices("web", ["10.142.0.5", "10.142.0.6"]))
    assert lab.sync(web, *others, *more, slices("web", ["10.142.0.5", "10.142.0.6"])) == 0
    changed = keyed(slices("web", ["10.142.0.5", "10.142.0.6", "10.142.0.7"]))
    assert lab.proxy.update(["default/web"], keyed(web), changed) <= 8
    renewed = keyed(slices("web", ["10.142.0.8", "10.142.0.6", "10.142.0.7"]))
    assert lab.proxy.update(["default/web"], keyed(web), renewed) <= 8
    incremental = table_dump()
    fresh = make_proxy()
    fresh.sync(keyed(web, *others), {**keyed(*more), **renewed})
    assert contents(table_dump()) == contents(incremental)


def contents(items: list[dict[str, Any]]) -> dict[str, list[str]]:
    """Elements of every map; which slot an endpoint has is history, that it has one is not."""
    found: dict[str, list[str]] = {}
    for item in items:
        for each in (item.get("map"), item.get("set")):
            if each and "elem" in each:
                elements = [[key["concat"][:3], value] for key, value in each["elem"]] if each["name"] == "slots" else each["elem"]
                found[each["name"]] = sorted(json.dumps(element) for element in elements)
    assert {"services", "slots", "hairpin"} <= set(found)
    return found


def test_a_restarted_agent_converges_whatever_the_table_holds(lab: Lab) -> None:
    pod = lab.pod("10.142.0.5")
    web, piece = service("web", VIP), slices("web", [pod.address])
    lab.sync(web, piece, service("old", "10.143.0.99"), slices("old", ["10.142.0.8", "10.142.0.9", "10.142.0.10"]))
    subprocess.run(["nft", "add", "element", "ip", "minik-t1", "slots", "{ 10.143.0.20 . tcp . 80 . 7 : 10.142.0.77 . 1 }"], check=True)
    subprocess.run(["nft", "add", "rule", "ip", "minik-t1", "cluster-1", "drop"], check=True)
    second = make_proxy()
    second.ensure()
    assert lab.node.ask(VIP)[0] == pod.address, "nothing is torn down before the first sync"
    second.sync(keyed(web), keyed(piece))
    text = subprocess.run(["nft", "list", "table", "ip", "minik-t1"], check=True, capture_output=True, text=True).stdout
    assert "10.142.0.77" not in text and "10.143.0.99" not in text and "cluster-3" not in text
    assert lab.node.ask(VIP)[0] == pod.address
    assert second.sync(keyed(web), keyed(piece)) == 0


def test_a_deleted_or_damaged_table_is_restored(lab: Lab) -> None:
    a, b = lab.pod("10.142.0.5"), lab.pod("10.142.0.6")
    web = service("web", VIP)
    lab.sync(web, slices("web", [a.address]))
    netlab.nft("flush ruleset")
    lab.proxy.ensure()
    assert lab.node.ask(VIP)[0] == a.address
    netlab.nft("delete table ip minik-t1")
    lab.sync(web, slices("web", [b.address]))
    assert lab.node.ask(VIP)[0] == b.address
    netlab.nft("flush map ip minik-t1 services\nflush map ip minik-t1 slots")
    lab.sync(web, slices("web", [a.address]))
    assert lab.node.ask(VIP)[0] == a.address


def test_senseless_objects_are_skipped_and_do_no_harm(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    pod = lab.pod("10.142.0.5")
    lab.sync(
        service("web", VIP),
        slices("web", [pod.address]),
        service("headless", "None"),
        service("six", "fd00::1"),
        {"kind": "Service", "metadata": {"name": "broken", "namespace": "default"}, "spec": {"clusterIP": "not an address", "ports": [{"port": 80}]}},
        {"kind": "Service", "metadata": {"name": "empty", "namespace": "default"}},
        service("ports", "10.143.0.77", [(99999, "TCP")]),
    )
    assert lab.node.ask(VIP)[0] == pod.address
    assert {record.args[0] for record in caplog.records} == {"default/broken", "default/empty", "default/ports"}  # type: ignore[index]


def test_established_connections_survive_changes(lab: Lab) -> None:
    a, b = lab.pod("10.142.0.5"), lab.pod("10.142.0.6")
    listener = a.do(lambda: socket.create_server(("0.0.0.0", 9000)))
    lab.sync(service("web", VIP), slices("web", [a.address], [(9000, "TCP")]))
    client = b.do(lambda: socket.create_connection((VIP, 80), 5))
    server, _ = listener.accept()
    lab.sync(service("web", VIP), slices("web", [b.address], [(9000, "TCP")]))
    make_proxy().sync(keyed(service("web", VIP)), keyed(slices("web", [b.address], [(9000, "TCP")])))
    client.sendall(b"still here")
    assert server.recv(99) == b"still here"
    for each in (client, server, listener):
        each.close()


def test_a_moved_node_port_and_external_ips(lab: Lab) -> None:
    a = lab.pod("10.142.0.5")
    netlab.ip("addr", "add", "203.0.113.9/32", "dev", "lo")
    lab.client.do(lambda: netlab.ip("route", "add", "203.0.113.9/32", "via", NODE))
    lab.sync(service("web", VIP, node_ports=[30080], externalIPs=["203.0.113.9"]), slices("web", [a.address]))
    assert lab.client.ask("203.0.113.9", 80)[0] == a.address
    lab.sync(service("web", VIP, node_ports=[30090]), slices("web", [a.address]))
    assert refused(lab.client, NODE, 30080) and lab.client.ask(NODE, 30090)[0] == a.address
    assert refused(lab.client, "203.0.113.9", 80)


def datagram(source: str, destination: str, port: int, content: bytes) -> bytes:
    """A whole Ethernet frame from a pod to its gateway, whatever the addresses in it."""
    header = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 28 + len(content), 1, 0, 64, 17, 0, socket.inet_aton(source), socket.inet_aton(destination))
    total = sum(struct.unpack("!10H", header))
    total = (total & 0xFFFF) + (total >> 16)
    header = header[:10] + struct.pack("!H", ~(total + (total >> 16)) & 0xFFFF) + header[12:]
    return mac_of("10.142.0.1") + mac_of(source) + b"\x08\x00" + header + struct.pack("!HHHH", 5555, port, 8 + len(content), 0) + content


def test_loopback_addresses_from_the_wire_are_dropped(lab: Lab) -> None:
    """route_localnet on the pods' links must not open the node's own loopback services to them."""
    pod = lab.pod("10.142.0.5")
    wire = pod.do(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0))
    wire.bind(("eth0", 0))
    with wire, lab.node.udp() as listener:
        listener.bind(("0.0.0.0", 7777))
        wire.send(datagram(pod.address, "127.0.0.1", 7777, b"to loopback"))
        wire.send(datagram(pod.address, "10.142.0.1", 7777, b"to the gateway"))
        assert listener.recv(99) == b"to the gateway"
        netlab.nft("flush chain ip minik-t1 martians")
        wire.send(datagram(pod.address, "127.0.0.1", 7777, b"to loopback"))
        assert listener.recv(99) == b"to loopback", "the frame itself was good"


def test_remove_leaves_nothing_and_spares_other_tables(lab: Lab) -> None:
    netlab.nft("table ip other {\n}")
    lab.sync(service("web", VIP), slices("web", ["10.142.0.5"]))
    lab.proxy.remove()
    lab.proxy.remove()
    assert subprocess.run(["nft", "list", "tables"], check=True, capture_output=True, text=True).stdout == "table ip other\n"
    lab.proxy.ensure()


@pytest.mark.parametrize("what", [["ruleset"], ["table", "ip", "minik-t1"]])
def test_a_flush_by_others_is_mended(lab: Lab, what: list[str]) -> None:
    a = lab.pod("10.142.0.5")
    lab.sync(service("web", VIP), slices("web", [a.address]))
    lab.proxy.ensure()
    before = table_dump()
    subprocess.run(["nft", "flush", *what], check=True)
    assert table_dump() != before
    lab.proxy.ensure()
    assert table_dump() == before
    assert a.ask(VIP) == (a.address, "10.142.0.1")
