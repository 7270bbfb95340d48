"""Namespaces from Active to gone, nodes, certificate requests, and what bootstrap makes."""

from __future__ import annotations

import random

import pytest

from apiserver.api import errors, kinds
from apiserver.auth.user import UserInfo
from apiserver.registry import bootstrap, context, rbac, registry

NAMESPACES, NODES = kinds.NAMESPACES, kinds.NODES
NODE = UserInfo("system:node:n1", groups=("system:nodes", "system:authenticated"))


async def test_a_namespace_ends_in_two_steps(world):
    made = await world.create(NAMESPACES, {"metadata": {"name": "dev"}})
    assert (made["spec"], made["status"]) == ({"finalizers": ["kubernetes"]}, {"phase": "Active"})
    assert made["metadata"]["labels"] == {"kubernetes.io/metadata.name": "dev"}
    ending, finished = await world.delete(NAMESPACES, "dev")
    assert not finished
    assert ending["status"]["phase"] == "Terminating"
    with pytest.raises(errors.Forbidden) as caught:
        await world.create(kinds.CONFIGMAPS, {"metadata": {"name": "c"}}, namespace="dev")
    assert caught.value.message == 'configmaps "c" is forbidden: unable to create new content in namespace dev because it is being terminated'
    assert caught.value.details["causes"][0]["reason"] == "NamespaceTerminating"
    again, finished = await world.delete(NAMESPACES, "dev")
    assert (again, finished) == (ending, False)
    await world.update(NAMESPACES, {**ending, "spec": {"finalizers": []}}, sub="finalize")
    with pytest.raises(errors.NotFound):
        await world.get(NAMESPACES, "dev")


async def test_an_update_cannot_take_the_finalizer_away(world):
    made = await world.create(NAMESPACES, {"metadata": {"name": "dev"}})
    changed = await world.update(NAMESPACES, {**made, "spec": {}, "status": {"phase": "Terminating"}, "metadata": {"name": "dev", "labels": {"a": "b"}}})
    assert changed["spec"] == made["spec"]
    assert changed["status"] == made["status"]
    assert changed["metadata"]["labels"] == {"a": "b", "kubernetes.io/metadata.name": "dev"}


@pytest.mark.parametrize("name", bootstrap.NAMESPACES)
async def test_the_clusters_own_namespaces_stay(world, name):
    with pytest.raises(errors.Forbidden, match="this namespace may not be deleted"):
        await world.delete(NAMESPACES, name)


async def test_a_node_registers_itself_and_only_itself(world):
    status = {"capacity": {"cpu": "2"}, "allocatable": {"cpu": "2"}}
    made = await world.create(NODES, {"metadata": {"name": "n1", "labels": {"kubernetes.io/hostname": "n1"}}, "status": status}, user=NODE)
    assert made["status"]["capacity"] == {"cpu": "2"}
    await world.patch(NODES, "n1", {"status": {"nodeInfo": {"architecture": "amd64", "bootID": "b", "containerRuntimeVersion": "", "kernelVersion": "", "kubeProxyVersion": "", "kubeletVersion": "", "machineID": "", "operatingSystem": "", "osImage": "", "systemUUID": ""}}}, sub="status", user=NODE)
    for change, text in [
        ({"spec": {"taints": [{"key": "a", "effect": "NoSchedule"}]}}, "not allowed to modify taints"),
        ({"metadata": {"labels": {"node-restriction.kubernetes.io/x": "y"}}}, "not allowed to modify labels: node-restriction.kubernetes.io/x"),
    ]:
        with pytest.raises(errors.Forbidden, match=text):
            await world.patch(NODES, "n1", change, user=NODE)
    with pytest.raises(errors.Forbidden, match='node "n1" is not allowed to modify node "n2"'):
        await world.create(NODES, {"metadata": {"name": "n2"}}, user=NODE)
    lease = {"metadata": {"name": "n1"}, "spec": {"holderIdentity": "n1"}}
    await world.create(kinds.LEASES, lease, namespace="kube-node-lease", user=NODE)
    for wrong, namespace in (({"metadata": {"name": "n2"}}, "kube-node-lease"), (lease, "default")):
        with pytest.raises(errors.Forbidden, match="can only access"):
            await world.create(kinds.LEASES, wrong, namespace=namespace, user=NODE)


async def test_who_asks_for_a_certificate_is_written_by_the_server(world):
    spec = {"request": "Zm9v", "signerName": "kubernetes.io/kube-apiserver-client", "usages": ["client auth"], "username": "root", "groups": ["system:masters"]}
    made = await world.create(kinds.CERTIFICATESIGNINGREQUESTS, {"metadata": {"name": "r"}, "spec": spec}, user=UserInfo("eve", groups=("system:authenticated",)))
    assert (made["spec"]["username"], made["spec"]["groups"]) == ("eve", ["system:authenticated"])
    condition = {"type": "Approved", "status": "True", "reason": "r", "message": "m"}
    await world.patch(kinds.CERTIFICATESIGNINGREQUESTS, "r", {"status": {"conditions": [condition]}}, sub="status")
    assert "conditions" not in (await world.get(kinds.CERTIFICATESIGNINGREQUESTS, "r"))["status"] or not (await world.get(kinds.CERTIFICATESIGNINGREQUESTS, "r"))["status"]["conditions"]
    approved = await world.update(kinds.CERTIFICATESIGNINGREQUESTS, {"metadata": {"name": "r"}, "spec": spec, "status": {"conditions": [condition]}}, sub="approval")
    assert approved["status"]["conditions"][0]["type"] == "Approved"
    assert approved["spec"]["username"] == "eve"


async def test_bootstrap_makes_the_cluster(world):
    for name in bootstrap.NAMESPACES:
        assert (await world.get(NAMESPACES, name))["status"]["phase"] == "Active"
    service = await world.get(kinds.SERVICES, "kubernetes")
    assert service["spec"]["clusterIP"] == "10.43.0.1"
    assert service["spec"]["ports"][0] == {"name": "https", "port": 443, "protocol": "TCP", "targetPort": 6443}
    slice_ = await world.get(kinds.ENDPOINTSLICES, "kubernetes")
    assert (slice_["endpoints"][0]["addresses"], slice_["ports"][0]["port"]) == (["192.0.2.1"], 6443)
    assert slice_["metadata"]["labels"]["kubernetes.io/service-name"] == "kubernetes"
    assert (await world.get(kinds.PRIORITYCLASSES, "system-node-critical"))["value"] == 2000001000
    role = await world.get(kinds.CLUSTERROLES, "cluster-admin")
    assert {"nonResourceURLs": ["*"], "verbs": ["*"]} in role["rules"]
    assert len(await world.keys("/registry/clusterrolebindings/")) == len(rbac.CLUSTER_ROLE_BINDINGS)


async def test_bootstrap_again_changes_nothing(world):
    before = await world.store.revision()
    await bootstrap.ensure(world.registry)
    assert await world.store.revision() == before


async def test_bootstrap_puts_back_rules_and_moves_the_endpoint(world):
    await world.patch(kinds.CLUSTERROLES, "view", {"rules": [{"apiGroups": ["x"], "resources": ["y"], "verbs": ["get"]}]})
    await world.patch(kinds.CLUSTERROLES, "edit", {"metadata": {"annotations": {rbac.AUTOUPDATE: "false"}}, "rules": []})
    config = context.Config(advertise_address="192.0.2.9", advertise_port=7443)
    other = registry.Registry(world.store, world.cache, world.registry.writer.admission, config, now=lambda: world.clock[0], rng=random.Random(1))
    await bootstrap.ensure(other)
    view = await world.get(kinds.CLUSTERROLES, "view")
    assert len(view["rules"]) == len(rbac.CLUSTER_ROLES["view"]) + 1
    assert not (await world.get(kinds.CLUSTERROLES, "edit")).get("rules")
    slice_ = await world.get(kinds.ENDPOINTSLICES, "kubernetes")
    assert (slice_["endpoints"][0]["addresses"], slice_["ports"][0]["port"]) == (["192.0.2.9"], 7443)


async def test_a_deleted_service_kubernetes_comes_back_and_another_servers_endpoint_stays(world):
    await world.delete(kinds.SERVICES, "kubernetes")
    await world.patch(kinds.ENDPOINTSLICES, "kubernetes", {"endpoints": [{"addresses": ["192.0.2.77"], "conditions": {"ready": True}}]})
    await bootstrap.ensure_service(world.registry)
    assert (await world.get(kinds.SERVICES, "kubernetes"))["spec"]["clusterIP"] == "10.43.0.1"
    assert (await world.get(kinds.ENDPOINTSLICES, "kubernetes"))["endpoints"][0]["addresses"] == ["192.0.2.77"]
