"""Services: addresses and node ports claimed, kept, given back, and repaired after a crash."""

from __future__ import annotations

import asyncio

import pytest

from apiserver.api import errors, kinds
from apiserver.registry import claims, repair

SERVICES = kinds.SERVICES
IPS, PORTS = claims.PREFIX + "clusterips/", claims.PREFIX + "nodeports/"
KUBERNETES = "10.43.0.1"


async def test_a_cluster_ip_is_chosen_and_the_fields_filled(world):
    made = await world.create(SERVICES, world.service())
    spec = made["spec"]
    assert spec["clusterIP"].startswith("10.43.")
    assert spec["clusterIPs"] == [spec["clusterIP"]]
    assert (spec["type"], spec["ipFamilies"], spec["ipFamilyPolicy"], spec["sessionAffinity"], spec["internalTrafficPolicy"]) == (
        "ClusterIP", ["IPv4"], "SingleStack", "None", "Cluster",
    )  # fmt: skip
    assert spec["ports"] == [{"port": 80, "protocol": "TCP", "targetPort": 80}]
    assert made["status"] == {"loadBalancer": {}}
    assert sorted(await world.keys(IPS)) == sorted([KUBERNETES, spec["clusterIP"]])


async def test_an_address_asked_for(world):
    made = await world.create(SERVICES, world.service(clusterIP="10.43.0.10"))
    assert made["spec"]["clusterIPs"] == ["10.43.0.10"]
    with pytest.raises(errors.Invalid, match=r"failed to allocate IP 10.43.0.10: provided IP is already allocated"):
        await world.create(SERVICES, world.service("two", clusterIP="10.43.0.10"))
    with pytest.raises(errors.Invalid, match=r"not in the valid range. The range of valid IPs is 10.43.0.0/16"):
        await world.create(SERVICES, world.service("two", clusterIP="10.44.0.10"))
    assert sorted(await world.keys(IPS)) == [KUBERNETES, "10.43.0.10"]


async def test_a_refused_service_leaves_no_claim(world):
    before = await world.keys(IPS)
    ports = [{"name": "a", "port": 80, "nodePort": 30001}, {"name": "b", "port": 81, "nodePort": 1}]
    with pytest.raises(errors.Invalid):
        await world.create(SERVICES, world.service(type="NodePort", ports=ports))
    await world.create(SERVICES, world.service())
    with pytest.raises(errors.AlreadyExists):
        await world.create(SERVICES, world.service(type="NodePort"))
    assert len(await world.keys(IPS)) == len(before) + 1
    assert await world.keys(PORTS) == []


async def test_headless_and_external_names_own_nothing(world):
    headless = await world.create(SERVICES, world.service(clusterIP="None"))
    assert headless["spec"]["clusterIPs"] == ["None"]
    await world.create(SERVICES, {"metadata": {"name": "ext"}, "spec": {"type": "ExternalName", "externalName": "example.com"}})
    assert "clusterIP" not in (await world.get(SERVICES, "ext"))["spec"]
    assert await world.keys(IPS) == [KUBERNETES]


async def test_node_ports(world):
    ports = [{"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53, "protocol": "TCP"}, {"name": "web", "port": 80, "nodePort": 30080}]
    made = await world.create(SERVICES, world.service(type="NodePort", ports=ports))
    dns, dns_tcp, web = (port["nodePort"] for port in made["spec"]["ports"])
    assert dns == dns_tcp
    assert web == 30080
    assert made["spec"]["externalTrafficPolicy"] == "Cluster"
    assert sorted(await world.keys(PORTS)) == sorted(["30080", str(dns)])
    with pytest.raises(errors.Invalid, match=r"spec.ports\[0\].nodePort: Invalid value: 30080: provided port is already allocated"):
        await world.create(SERVICES, world.service("two", type="NodePort", ports=[{"port": 80, "nodePort": 30080}]))
    with pytest.raises(errors.Invalid, match="The range of valid ports is 30000-32767"):
        await world.create(SERVICES, world.service("two", type="NodePort", ports=[{"port": 80, "nodePort": 80}]))


async def test_an_update_keeps_what_the_server_chose(world):
    made = await world.create(SERVICES, world.service(type="NodePort"))
    again = await world.update(SERVICES, {**world.service(type="NodePort"), "metadata": {"name": "web", "labels": {"a": "b"}}})
    for field in ("clusterIP", "clusterIPs", "ports", "ipFamilies", "ipFamilyPolicy"):
        assert again["spec"][field] == made["spec"][field]
    with pytest.raises(errors.Invalid, match="may not change once set"):
        await world.patch(SERVICES, "web", {"spec": {"clusterIP": "10.43.0.77", "clusterIPs": ["10.43.0.77"]}})


async def test_changing_the_type_gives_back_and_takes(world):
    made = await world.create(SERVICES, world.service(type="NodePort"))
    plain = await world.patch(SERVICES, "web", {"spec": {"type": "ClusterIP"}})
    assert "nodePort" not in plain["spec"]["ports"][0]
    assert "externalTrafficPolicy" not in plain["spec"]
    assert plain["spec"]["clusterIP"] == made["spec"]["clusterIP"]
    assert await world.keys(PORTS) == []
    await world.patch(SERVICES, "web", {"spec": {"type": "ExternalName", "externalName": "example.com"}})
    assert await world.keys(IPS) == [KUBERNETES]
    back = await world.patch(SERVICES, "web", {"spec": {"type": "NodePort", "externalName": None}})
    assert sorted(await world.keys(IPS)) == sorted([KUBERNETES, back["spec"]["clusterIP"]])
    assert await world.keys(PORTS) == [str(back["spec"]["ports"][0]["nodePort"])]


async def test_deleting_gives_back(world):
    await world.create(SERVICES, world.service(type="NodePort"))
    gone, finished = await world.delete(SERVICES, "web")
    assert finished
    assert gone["kind"] == "Service"
    assert await world.keys(IPS) == [KUBERNETES]
    assert await world.keys(PORTS) == []


async def test_dry_run_shows_an_address_and_takes_none(world):
    made = await world.create(SERVICES, world.service(type="NodePort"), dry_run=True)
    assert made["spec"]["clusterIP"].startswith("10.43.")
    assert 30000 <= made["spec"]["ports"][0]["nodePort"] <= 32767
    assert await world.keys(IPS) == [KUBERNETES]
    assert await world.keys(PORTS) == []


async def test_many_at_once_never_share(world):
    made = await asyncio.gather(*(world.create(SERVICES, world.service(f"s{i}", type="NodePort")) for i in range(40)))
    assert len({s["spec"]["clusterIP"] for s in made}) == 40
    assert len({s["spec"]["ports"][0]["nodePort"] for s in made}) == 40


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ({"ipFamilyPolicy": "RequireDualStack"}, "this cluster is not configured for dual-stack services"),
        ({"ipFamilies": ["IPv6"]}, "not configured on this cluster"),
        ({"clusterIP": "10.43.0.5", "clusterIPs": ["10.43.0.6"]}, "first value must match"),
    ],
)
async def test_what_this_cluster_cannot_give(world, spec, text):
    with pytest.raises(errors.Invalid, match=text):
        await world.create(SERVICES, world.service(**spec))


async def test_repair_after_a_crash_between_claim_and_write(world):
    made = await world.create(SERVICES, world.service(type="NodePort"))
    ip, port = made["spec"]["clusterIP"], str(made["spec"]["ports"][0]["nodePort"])
    owned = world.registry.owned
    await owned.ips.claim("10.43.9.9", claims.Owner("default", "never-written", "u1"))
    await world.store.delete(IPS + ip)
    await world.store.delete(PORTS + port)
    assert sorted(await repair.repair(world.registry)) == [f"ClusterIP {ip} of default/web: claimed again", f"NodePort {port} of default/web: claimed again"]
    assert "10.43.9.9" in await world.keys(IPS)
    world.clock[0] += claims.GRACE_S + 1
    assert await repair.repair(world.registry) == ["ClusterIP 10.43.9.9: released, default/never-written does not use it"]
    assert await repair.repair(world.registry) == []
    assert sorted(await world.keys(IPS)) == sorted([KUBERNETES, ip])


async def test_repair_takes_over_a_claim_of_an_object_that_is_gone(world):
    made = await world.create(SERVICES, world.service())
    ip = made["spec"]["clusterIP"]
    [claim] = [c for c in (await world.registry.owned.ips.held.all()).values() if c.value == ip]
    await world.registry.owned.ips.held.replace(claim, claims.Owner("default", "old", "gone"))
    [line] = await repair.repair(world.registry)
    assert "taken over from default/old" in line
    assert (await world.registry.owned.ips.held.all())[ip].owner.uid == made["metadata"]["uid"]


async def test_no_two_nodes_have_one_pod_cidr(world):
    for name in ("n1", "n2"):
        await world.create(kinds.NODES, {"metadata": {"name": name}})
    await world.patch(kinds.NODES, "n1", {"spec": {"podCIDR": "10.42.0.0/22", "podCIDRs": ["10.42.0.0/22"]}})
    with pytest.raises(errors.Invalid, match="already used by another node"):
        await world.patch(kinds.NODES, "n2", {"spec": {"podCIDR": "10.42.0.0/22", "podCIDRs": ["10.42.0.0/22"]}})
    await world.delete(kinds.NODES, "n1")
    await world.patch(kinds.NODES, "n2", {"spec": {"podCIDR": "10.42.0.0/22", "podCIDRs": ["10.42.0.0/22"]}})
