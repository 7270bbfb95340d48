"""RBAC's evaluation: tables of one rule and one question, and bindings, aggregation and scope around them."""

import pytest

from apiserver.auth.attributes import Attributes, forbidden_text
from apiserver.auth.rbac import Policy, Rule
from apiserver.auth.user import UserInfo

JANE = UserInfo("jane", groups=("dev", "system:authenticated"))


def ask(verb, resource="pods", *, group="", sub="", namespace="a", name="", path="", user=JANE):
    return Attributes(user, verb, group, "" if path else resource, sub, "" if path else namespace, name, path)


RULES = [
    ({"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}, ask("get"), True),
    ({"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}, ask("list"), False),
    ({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}, ask("patch", "deployments", group="apps"), True),
    ({"verbs": ["get"], "apiGroups": ["apps"], "resources": ["pods"]}, ask("get"), False),
    ({"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}, ask("get", sub="log"), False),
    ({"verbs": ["get"], "apiGroups": [""], "resources": ["pods/log"]}, ask("get", sub="log"), True),
    ({"verbs": ["get"], "apiGroups": [""], "resources": ["pods/log"]}, ask("get"), False),
    ({"verbs": ["update"], "apiGroups": ["*"], "resources": ["*/scale"]}, ask("update", "deployments", group="apps", sub="scale"), True),
    ({"verbs": ["update"], "apiGroups": ["*"], "resources": ["*/scale"]}, ask("update", "deployments", group="apps"), False),
    ({"verbs": ["get"], "apiGroups": [""], "resources": ["pods"], "resourceNames": ["x"]}, ask("get", name="x"), True),
    ({"verbs": ["get"], "apiGroups": [""], "resources": ["pods"], "resourceNames": ["x"]}, ask("get", name="y"), False),
    ({"verbs": ["create"], "apiGroups": [""], "resources": ["pods"], "resourceNames": ["x"]}, ask("create"), False),
    ({"verbs": ["get"], "nonResourceURLs": ["/metrics"]}, ask("get", path="/metrics"), True),
    ({"verbs": ["get"], "nonResourceURLs": ["/metrics"]}, ask("get", path="/metrics/x"), False),
    ({"verbs": ["get"], "nonResourceURLs": ["/logs/*"]}, ask("get", path="/logs/a/b"), True),
    ({"verbs": ["*"], "nonResourceURLs": ["*"]}, ask("post", path="/anything"), True),
    ({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}, ask("get", path="/metrics"), False),
    ({"verbs": "get", "apiGroups": None, "resources": {"pods": 1}}, ask("get"), False),
]


@pytest.mark.parametrize(("rule", "question", "allowed"), RULES)
def test_a_rule_allows_exactly_what_it_says(rule, question, allowed):
    assert Rule.parse(rule).allows(question) is allowed


def role(name, rules, namespace="", **metadata):
    return {"metadata": {"name": name, **({"namespace": namespace} if namespace else {}), **metadata}, "rules": rules}


def binding(name, role_kind, role_name, subjects, namespace=""):
    metadata = {"name": name, **({"namespace": namespace} if namespace else {})}
    return {"metadata": metadata, "roleRef": {"kind": role_kind, "name": role_name}, "subjects": subjects}


READ_PODS = [{"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods"]}]
DEV = {"kind": "Group", "name": "dev"}


def test_a_role_binding_to_a_cluster_role_holds_in_its_namespace_only():
    policy = Policy([role("read", READ_PODS)], [], [], [binding("b", "ClusterRole", "read", [DEV], "a")])
    decision = policy.authorize(ask("get"))
    assert decision.allowed
    assert decision.reason == 'RBAC: allowed by RoleBinding "b/a" of ClusterRole "read" to Group "dev"'
    assert not policy.authorize(ask("get", namespace="b")).allowed
    assert not policy.authorize(ask("list", namespace="")).allowed


def test_a_cluster_role_binding_holds_everywhere():
    policy = Policy([role("read", READ_PODS)], [], [binding("b", "ClusterRole", "read", [DEV])], [])
    assert policy.authorize(ask("get", namespace="z")).allowed
    assert policy.authorize(ask("list", namespace="")).allowed


def test_a_role_is_found_in_the_bindings_namespace():
    roles = [role("read", READ_PODS, "a")]
    assert Policy([], roles, [], [binding("b", "Role", "read", [DEV], "a")]).authorize(ask("get")).allowed
    assert not Policy([], roles, [], [binding("b", "Role", "read", [DEV], "b")]).authorize(ask("get", namespace="b")).allowed


def test_service_accounts_are_subjects_with_a_namespace():
    account = UserInfo("system:serviceaccount:a:builder", groups=("system:serviceaccounts",))
    subject = {"kind": "ServiceAccount", "name": "builder", "namespace": "a"}
    policy = Policy([role("read", READ_PODS)], [], [binding("b", "ClusterRole", "read", [subject])], [])
    assert policy.authorize(ask("get", user=account)).allowed
    other = UserInfo("system:serviceaccount:b:builder")
    assert not policy.authorize(ask("get", user=other)).allowed


def test_an_aggregated_role_has_the_rules_its_selectors_match():
    admin = {"metadata": {"name": "admin"}, "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"to-admin": "true"}}]}, "rules": []}
    parts = [role("pods", READ_PODS, labels={"to-admin": "true"}), role("other", [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}])]
    policy = Policy([admin, *parts], [], [binding("b", "ClusterRole", "admin", [DEV])], [])
    assert policy.authorize(ask("get")).allowed
    assert not policy.authorize(ask("delete")).allowed
    assert policy.rules_for(JANE, "a") == READ_PODS


def test_a_binding_to_a_role_that_is_not_there_grants_nothing():
    policy = Policy([], [], [binding("b", "ClusterRole", "gone", [DEV, "nonsense", {"kind": "User"}])], [])
    assert not policy.authorize(ask("get")).allowed


@pytest.mark.parametrize(
    ("question", "text"),
    [
        (ask("get", name="x"), 'pods "x" is forbidden: User "jane" cannot get resource "pods" in API group "" in the namespace "a"'),
        (ask("list", "deployments", group="apps", namespace=""), 'deployments.apps is forbidden: User "jane" cannot list resource "deployments" in API group "apps" at the cluster scope'),
        (ask("get", name="x", sub="log"), 'pods "x" is forbidden: User "jane" cannot get resource "pods/log" in API group "" in the namespace "a"'),
        (ask("get", path="/metrics"), 'forbidden: User "jane" cannot get path "/metrics"'),
    ],
)
def test_a_refusal_is_worded_as_in_kubernetes(question, text):
    assert forbidden_text(question) == text
