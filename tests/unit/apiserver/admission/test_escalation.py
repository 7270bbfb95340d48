"""Nobody grants what they do not have."""

from __future__ import annotations

import pytest

from apiserver.admission import escalation
from apiserver.api import errors, kinds
from apiserver.auth.user import UserInfo
from apiserver.registry.context import AdmissionRequest


def rule(groups="", resources="pods", verbs="get", names="") -> dict:
    made = {"apiGroups": groups.split(",") , "resources": resources.split(","), "verbs": verbs.split(",")}
    return {**made, "resourceNames": names.split(",")} if names else made


@pytest.mark.parametrize(
    ("held", "granted", "expected"),
    [
        ([rule()], rule(), True),
        ([rule(verbs="*")], rule(verbs="get,list"), True),
        ([rule(verbs="get"), rule(verbs="list")], rule(verbs="get,list"), True),
        ([rule(verbs="get")], rule(verbs="get,list"), False),
        ([rule(names="a")], rule(), False),
        ([rule()], rule(names="a"), True),
        ([rule(names="a,b")], rule(names="a"), True),
        ([rule(groups="*", resources="*", verbs="*")], rule(groups="apps", resources="deployments", verbs="*"), True),
        ([rule(resources="*/scale")], rule(resources="deployments/scale"), True),
        ([rule(resources="deployments")], rule(resources="deployments/scale"), False),
        ([{"nonResourceURLs": ["/healthz/*"], "verbs": ["get"]}], {"nonResourceURLs": ["/healthz/x"], "verbs": ["get"]}, True),
        ([rule(groups="*", resources="*", verbs="*")], {"nonResourceURLs": ["/x"], "verbs": ["get"]}, False),
        ([], {"apiGroups": [], "resources": [], "verbs": []}, True),
    ],
)
def test_covered(held, granted, expected):
    assert escalation.covered(held, [granted]) is expected


class Roles:
    def __init__(self, role):
        self.role = role

    async def read(self, resource, namespace, name, *, fresh=False):
        return self.role if name == "r" else None

    def cached(self, resource, namespace, name):
        return None

    def list_cached(self, resource, namespace=""):
        return []


def _request(resource, obj, old=None, groups=()):
    return AdmissionRequest("UPDATE" if old else "CREATE", UserInfo("eve", groups=groups), resource, "", "default", obj["metadata"]["name"], obj, old, False, [])


def _plugin(held, role=None):
    async def rules_for(user, namespace):
        return held

    return escalation.Escalation(Roles(role), rules_for)


ROLE = {"metadata": {"name": "r"}, "rules": [rule(verbs="get,delete")]}
BINDING = {"metadata": {"name": "b"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "r"}, "subjects": [{"kind": "User", "name": "eve"}]}


async def test_roles():
    with pytest.raises(errors.Forbidden, match="attempting to grant RBAC permissions not currently held"):
        await _plugin([rule()]).validate(_request(kinds.ROLES, ROLE))
    await _plugin([rule(verbs="get,delete")]).validate(_request(kinds.ROLES, ROLE))
    await _plugin([rule("rbac.authorization.k8s.io", "roles", "escalate")]).validate(_request(kinds.ROLES, ROLE))
    await _plugin([]).validate(_request(kinds.ROLES, ROLE, groups=("system:masters",)))
    await _plugin([]).validate(_request(kinds.ROLES, {**ROLE, "metadata": {"name": "r", "labels": {}}}, old=ROLE))


async def test_bindings():
    with pytest.raises(errors.Forbidden, match="not currently held"):
        await _plugin([rule()], ROLE).validate(_request(kinds.ROLEBINDINGS, BINDING))
    await _plugin([rule(verbs="get,delete")], ROLE).validate(_request(kinds.ROLEBINDINGS, BINDING))
    await _plugin([rule("rbac.authorization.k8s.io", "roles", "bind", "r")], ROLE).validate(_request(kinds.ROLEBINDINGS, BINDING))
    with pytest.raises(errors.NotFound, match=r"roles\.rbac\.authorization\.k8s\.io"):
        await _plugin([rule()], ROLE).validate(_request(kinds.ROLEBINDINGS, {**BINDING, "roleRef": {"kind": "Role", "name": "nope"}}))
