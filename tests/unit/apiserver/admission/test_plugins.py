"""The plugins' pure parts, as tables; how they work within a write is in ../registry."""

from __future__ import annotations

import random

import pytest

from apiserver.admission import noderestriction, priority, serviceaccounts, tolerations
from apiserver.api import errors, kinds
from apiserver.auth.user import UserInfo
from apiserver.registry.context import AdmissionRequest


class Shelf:
    """A Reader over a dict, whose objects may appear after some reads."""

    def __init__(self, objects: dict | None = None, after: int = 0) -> None:
        self.objects, self.after, self.reads = objects or {}, after, 0

    async def read(self, resource, namespace, name, *, fresh=False):
        self.reads += 1
        return self.objects.get((resource.plural, namespace, name)) if self.reads > self.after else None

    def cached(self, resource, namespace, name):
        return self.objects.get((resource.plural, namespace, name))

    def list_cached(self, resource, namespace=""):
        return [obj for (plural, _, _), obj in self.objects.items() if plural == resource.plural]


def request(obj: dict, resource: kinds.Resource = kinds.PODS) -> AdmissionRequest:
    return AdmissionRequest("CREATE", UserInfo("u"), resource, "", "default", obj["metadata"]["name"], obj, None, False, [])


@pytest.mark.parametrize(
    ("present", "added"),
    [
        ([], [tolerations.NOT_READY, tolerations.UNREACHABLE]),
        ([{"operator": "Exists"}], []),
        ([{"operator": "Exists", "effect": "NoSchedule"}], [tolerations.NOT_READY, tolerations.UNREACHABLE]),
        ([{"key": tolerations.NOT_READY, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5}], [tolerations.UNREACHABLE]),
    ],
)
def test_tolerations(present, added):
    spec = {"tolerations": list(present)} if present else {}
    tolerations.add_tolerations(spec)
    assert [t["key"] for t in spec.get("tolerations", [])[len(present) :]] == added
    once = list(spec.get("tolerations", []))
    tolerations.add_tolerations(spec)
    assert spec.get("tolerations", []) == once


@pytest.mark.parametrize(
    ("key", "may"),
    [
        ("zone", True), ("example.com/x", True), ("kubernetes.io/hostname", True), ("topology.kubernetes.io/zone", True), ("node.kubernetes.io/x", True),
        ("a.kubelet.kubernetes.io/x", True), ("node-role.kubernetes.io/control-plane", False), ("kubernetes.io/x", False), ("x.k8s.io/y", False),
        ("node-restriction.kubernetes.io/x", False), ("a.node-restriction.kubernetes.io/x", False), ("notkubernetes.io/x", True),
    ],
)  # fmt: skip
def test_labels_a_node_may_set(key, may):
    assert noderestriction.may_label(key) is may


def test_only_a_name_and_its_group_make_a_node():
    assert noderestriction.node_of(UserInfo("system:node:a", groups=("system:nodes",))) == "a"
    assert noderestriction.node_of(UserInfo("system:node:a")) == ""
    assert noderestriction.node_of(UserInfo("a", groups=("system:nodes",))) == ""


@pytest.mark.parametrize(
    ("pod", "account", "wants"),
    [({}, {}, True), ({"automountServiceAccountToken": False}, {}, False), ({}, {"automountServiceAccountToken": False}, False),
     ({"automountServiceAccountToken": True}, {"automountServiceAccountToken": False}, True)],
)  # fmt: skip
def test_who_gets_a_token(pod, account, wants):
    assert serviceaccounts.wants_token(pod, account) is wants


def test_a_container_with_something_at_the_path_is_left_alone():
    own = {"name": "mine", "mountPath": serviceaccounts.MOUNT_PATH}
    spec = {"containers": [{"name": "a", "volumeMounts": [own]}], "initContainers": [{"name": "i"}]}
    serviceaccounts.mount_token(spec, "kube-api-access-x")
    assert spec["containers"][0]["volumeMounts"] == [own]
    assert spec["initContainers"][0]["volumeMounts"][0]["name"] == "kube-api-access-x"
    serviceaccounts.mount_token(spec, "kube-api-access-y")
    assert len(spec["volumes"]) == 1
    alone = {"containers": [{"name": "a", "volumeMounts": [own]}]}
    serviceaccounts.mount_token(alone, "kube-api-access-x")
    assert "volumes" not in alone


async def test_a_pod_waits_for_a_new_namespaces_account_but_not_for_another():
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    account = {"metadata": {"name": "default"}, "imagePullSecrets": [{"name": "s"}]}
    shelf = Shelf({("serviceaccounts", "default", "default"): account}, after=3)
    plugin = serviceaccounts.ServiceAccountAdmission(shelf, random.Random(1), sleep)
    pod = {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a"}]}}
    await plugin.admit(request(pod))
    assert len(waits) == 3
    assert pod["spec"]["imagePullSecrets"] == [{"name": "s"}]
    with pytest.raises(errors.Forbidden, match='pods "p" is forbidden: error looking up service account default/builder: serviceaccount "builder" not found'):
        await plugin.admit(request({"metadata": {"name": "p"}, "spec": {"serviceAccountName": "builder", "containers": []}}))
    assert len(waits) == 3


def _class(name: str, value: int, **more) -> dict:
    return {("priorityclasses", "", name): {"metadata": {"name": name}, "value": value, **more}}


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({}, {"priorityClassName": "low", "priority": 5, "preemptionPolicy": "Never"}),
        ({"priorityClassName": "high"}, {"priorityClassName": "high", "priority": 100, "preemptionPolicy": "PreemptLowerPriority"}),
        ({"priorityClassName": "nope"}, "no PriorityClass with name nope was found"),
        ({"priorityClassName": "high", "priority": 3}, r"the integer value of priority \(3\) must not be provided"),
    ],
)
async def test_priorities(spec, expected):
    shelf = Shelf({**_class("low", 5, globalDefault=True, preemptionPolicy="Never"), **_class("high", 100)})
    pod = {"metadata": {"name": "p"}, "spec": spec}
    if isinstance(expected, str):
        with pytest.raises(errors.Forbidden, match=expected):
            await priority.PriorityAdmission(shelf).admit(request(pod))
    else:
        await priority.PriorityAdmission(shelf).admit(request(pod))
        assert pod["spec"] == expected


async def test_one_global_default():
    shelf = Shelf(_class("low", 5, globalDefault=True))
    with pytest.raises(errors.Forbidden, match="low is already marked as globalDefault"):
        await priority.PriorityAdmission(shelf).validate(request({"metadata": {"name": "b"}, "globalDefault": True}, kinds.PRIORITYCLASSES))
