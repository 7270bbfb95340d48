"""Pods through the registry: creation with admission, status, binding, eviction, ephemeral containers, graceful deletion."""

from __future__ import annotations

import asyncio

import orjson
import pytest

from apiserver.api import errors, kinds
from apiserver.auth.user import UserInfo

PODS = kinds.PODS
NODE = UserInfo("system:node:n1", groups=("system:nodes", "system:authenticated"))


async def test_a_new_pod_is_what_kubernetes_makes_of_it(world):
    made = await world.create(PODS, {**world.pod(), "status": {"phase": "Running"}})
    spec = made["spec"]
    assert made["status"] == {"phase": "Pending", "qosClass": "BestEffort"}
    assert (spec["serviceAccountName"], spec["serviceAccount"], spec["priority"], spec["preemptionPolicy"]) == ("default", "default", 0, "PreemptLowerPriority")
    assert [t["key"] for t in spec["tolerations"]] == ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"]
    [volume] = spec["volumes"]
    assert volume["name"].startswith("kube-api-access-")
    assert [next(iter(source)) for source in volume["projected"]["sources"]] == ["serviceAccountToken", "configMap", "downwardAPI"]
    assert spec["containers"][0]["volumeMounts"] == [{"name": volume["name"], "readOnly": True, "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}]
    assert (spec["restartPolicy"], spec["terminationGracePeriodSeconds"], spec["schedulerName"], spec["dnsPolicy"]) == ("Always", 30, "default-scheduler", "ClusterFirst")


@pytest.mark.parametrize(
    ("resources", "qos"),
    [
        ({}, "BestEffort"),
        ({"requests": {"cpu": "100m"}}, "Burstable"),
        ({"limits": {"cpu": "1", "memory": "1Gi"}}, "Guaranteed"),
        ({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1000m", "memory": "1024Mi"}}, "Guaranteed"),
        ({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}}, "Burstable"),
        ({"limits": {"memory": "1Gi"}}, "Burstable"),
    ],
)
async def test_qos(world, resources, qos):
    obj = world.pod()
    obj["spec"]["containers"][0]["resources"] = resources
    assert (await world.create(PODS, obj))["status"]["qosClass"] == qos


async def test_an_invalid_pod_names_its_field(world):
    with pytest.raises(errors.Invalid) as caught:
        await world.create(PODS, {"metadata": {"name": "p"}, "spec": {"containers": []}})
    assert caught.value.message == 'Pod "p" is invalid: spec.containers: Required value'


async def test_binding(world):
    await world.create(PODS, world.pod())
    status = await world.bind("web", "n1")
    assert (status["status"], status["code"]) == ("Success", 201)
    bound = await world.get(PODS, "web")
    assert bound["spec"]["nodeName"] == "n1"
    [condition] = bound["status"]["conditions"]
    assert (condition["type"], condition["status"]) == ("PodScheduled", "True")
    with pytest.raises(errors.Conflict, match='pod web is already assigned to node "n1"'):
        await world.bind("web", "n2")
    with pytest.raises(errors.NotFound):
        await world.bind("nope", "n1")
    with pytest.raises(errors.Invalid, match=r"target.name: Required value"):
        await world.registry.create_subresource(world.ctx(), PODS, "default", "web", "binding", {"metadata": {"name": "web"}, "target": {}})


async def test_one_of_many_schedulers_wins(world):
    await world.create(PODS, world.pod())
    outcomes = await asyncio.gather(*(world.bind("web", f"n{i}") for i in range(5)), return_exceptions=True)
    assert sum(isinstance(outcome, dict) for outcome in outcomes) == 1
    assert all(isinstance(outcome, dict | errors.Conflict) for outcome in outcomes)


async def test_bindings_by_the_collection(world):
    await world.create(PODS, world.pod())
    body = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "web", "annotations": {"a": "b"}}, "target": {"kind": "Node", "name": "n1"}}
    await world.registry.create(world.ctx(), kinds.BINDINGS, "default", body)
    bound = await world.get(PODS, "web")
    assert (bound["spec"]["nodeName"], bound["metadata"]["annotations"]) == ("n1", {"a": "b"})


async def test_status_keeps_the_spec_and_the_spec_keeps_the_status(world):
    made = await world.create(PODS, world.pod())
    status = {"phase": "Running", "podIP": "10.42.0.5", "qosClass": "Guaranteed"}
    reported = await world.patch(PODS, "web", {"status": status, "spec": {"nodeName": "n9"}}, sub="status")
    assert reported["status"] == {**status, "qosClass": "BestEffort"}
    assert reported["spec"] == made["spec"]
    labelled = await world.patch(PODS, "web", {"metadata": {"labels": {"x": "y"}}, "status": {"phase": "Failed"}})
    assert labelled["status"]["phase"] == "Running"
    assert labelled["metadata"]["generation"] == 1


async def test_image_is_mutable_and_the_rest_is_not(world):
    made = await world.create(PODS, world.pod())
    changed = await world.patch(PODS, "web", [{"op": "replace", "path": "/spec/containers/0/image", "value": "busybox:2"}], kind="application/json-patch+json")
    assert changed["metadata"]["generation"] == made["metadata"]["generation"] + 1
    with pytest.raises(errors.Invalid, match="pod updates may not change fields other than"):
        await world.patch(PODS, "web", {"spec": {"hostNetwork": True}})


async def test_a_put_that_leaves_out_the_computed_priority_keeps_it(world):
    made = await world.create(PODS, world.pod())
    for field in ("priority", "preemptionPolicy"):
        del made["spec"][field]
    made["spec"]["containers"][0]["image"] = "busybox:2"
    changed = await world.update(PODS, made)
    assert (changed["spec"]["priority"], changed["spec"]["preemptionPolicy"]) == (0, "PreemptLowerPriority")


async def test_graceful_deletion(world):
    await world.create(PODS, world.pod())
    await world.bind("web")
    ending, finished = await world.delete(PODS, "web")
    assert not finished
    assert ending["metadata"]["deletionGracePeriodSeconds"] == 30
    again, finished = await world.delete(PODS, "web")
    assert (again, finished) == (ending, False)
    with pytest.raises(errors.Conflict, match="being deleted"):
        await world.bind("web", "n2")
    gone, finished = await world.delete(PODS, "web", {"gracePeriodSeconds": 0, "preconditions": {"uid": ending["metadata"]["uid"]}})
    assert finished
    assert gone["kind"] == "Pod"
    with pytest.raises(errors.NotFound):
        await world.get(PODS, "web")


async def test_an_unscheduled_pod_goes_at_once(world):
    await world.create(PODS, world.pod())
    gone, finished = await world.delete(PODS, "web")
    assert finished
    assert gone["metadata"]["name"] == "web"


def _budget(**status) -> dict:
    return {"metadata": {"name": "b"}, "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}}}


async def test_eviction_asks_the_budget(world):
    async def evict(name="web"):
        return orjson.loads(await world.registry.create_subresource(world.ctx(), PODS, "default", name, "eviction", {"metadata": {"name": name}}))

    for name in ("web", "web2"):
        await world.create(PODS, {**world.pod(name), "metadata": {"name": name, "labels": {"app": "web"}}})
        await world.bind(name)
        await world.patch(PODS, name, {"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}}, sub="status")
    await world.create(kinds.PODDISRUPTIONBUDGETS, _budget())
    status = {"disruptionsAllowed": 1, "currentHealthy": 2, "desiredHealthy": 1, "expectedPods": 2, "observedGeneration": 1}
    await world.patch(kinds.PODDISRUPTIONBUDGETS, "b", {"status": status}, sub="status")
    await world.seen()
    assert (await evict())["status"] == "Success"
    assert (await world.get(PODS, "web"))["metadata"]["deletionTimestamp"]
    after = (await world.get(kinds.PODDISRUPTIONBUDGETS, "b"))["status"]
    assert (after["disruptionsAllowed"], list(after["disruptedPods"])) == (0, ["web"])
    with pytest.raises(errors.TooManyRequests, match=r"Cannot evict pod as it would violate the pod's disruption budget"):
        await evict("web2")
    assert "deletionTimestamp" not in (await world.get(PODS, "web2"))["metadata"]


async def test_ephemeral_containers_can_only_be_added(world):
    await world.create(PODS, world.pod())
    debugger = {"name": "dbg", "image": "busybox", "command": ["sh"]}
    patch = {"spec": {"ephemeralContainers": [debugger], "hostNetwork": True}}
    changed = await world.patch(PODS, "web", patch, sub="ephemeralcontainers", kind="application/strategic-merge-patch+json")
    [container] = changed["spec"]["ephemeralContainers"]
    assert (container["imagePullPolicy"], container["command"]) == ("Always", ["sh"])
    assert "hostNetwork" not in changed["spec"]
    assert changed["metadata"]["generation"] == 2
    with pytest.raises(errors.Invalid, match="may not be removed"):
        await world.patch(PODS, "web", {"spec": {"ephemeralContainers": []}}, sub="ephemeralcontainers")
    kept = await world.patch(PODS, "web", {"metadata": {"labels": {"a": "b"}}, "spec": {"ephemeralContainers": []}})
    assert [c["name"] for c in kept["spec"]["ephemeralContainers"]] == ["dbg"]


async def test_a_node_touches_only_its_own_pods(world):
    for name, node in (("mine", "n1"), ("other", "n2")):
        await world.create(PODS, world.pod(name))
        await world.bind(name, node)
    await world.patch(PODS, "mine", {"status": {"phase": "Running"}}, sub="status", user=NODE)
    with pytest.raises(errors.Forbidden, match=r'node "n1" can only update pod status for pods with spec.nodeName set to itself'):
        await world.patch(PODS, "other", {"status": {"phase": "Running"}}, sub="status", user=NODE)
    with pytest.raises(errors.Forbidden, match=r"can only delete pods with spec.nodeName set to itself"):
        await world.delete(PODS, "other", user=NODE)
    with pytest.raises(errors.Forbidden):
        await world.create(PODS, world.pod("new"), user=NODE)
    with pytest.raises(errors.Forbidden):
        await world.patch(PODS, "mine", {"metadata": {"labels": {"a": "b"}}}, user=NODE)
    _, finished = await world.delete(PODS, "mine", {"gracePeriodSeconds": 0}, user=NODE)
    assert finished


async def test_tokens(world):
    made = await world.create(PODS, world.pod())
    await world.bind("web", "n1")

    async def token(spec, user=NODE):
        body = {"spec": spec}
        return orjson.loads(await world.registry.create_subresource(world.ctx(user), kinds.SERVICEACCOUNTS, "default", "default", "token", body))

    await world.seen()
    bound = {"kind": "Pod", "apiVersion": "v1", "name": "web", "uid": made["metadata"]["uid"]}
    answer = await token({"audiences": ["api"], "expirationSeconds": 3607, "boundObjectRef": bound})
    assert orjson.loads(answer["status"]["token"])[:2] == ["default", "default"]
    assert answer["status"]["expirationTimestamp"] == "2023-11-14T23:13:27Z"
    with pytest.raises(errors.Forbidden, match="not bound to a pod"):
        await token({})
    with pytest.raises(errors.Conflict, match="the UID in the bound object reference"):
        await token({"boundObjectRef": {**bound, "uid": "x"}}, user=world.ctx().user)
    with pytest.raises(errors.Invalid, match="less than 10 minutes"):
        await token({"expirationSeconds": 10}, user=world.ctx().user)
    with pytest.raises(errors.NotFound, match='pods "nope" not found'):
        await token({"boundObjectRef": {**bound, "name": "nope"}}, user=world.ctx().user)
