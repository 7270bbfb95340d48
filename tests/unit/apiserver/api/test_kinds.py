"""The table of resources: complete against the schema, unambiguous, and found by every name a user may type."""

import pytest

from apiserver.api import kinds, schema


def test_every_resource_has_a_definition():
    assert [r.plural for r in kinds.RESOURCES if schema.for_resource(r) is None] == []


def test_plurals_and_kinds_are_unique_within_a_version():
    assert len({(r.group, r.version, r.plural) for r in kinds.RESOURCES}) == len(kinds.RESOURCES)
    assert len({(r.api_version, r.kind) for r in kinds.RESOURCES}) == len(kinds.RESOURCES)


def test_storage_prefixes_are_shared_by_versions_of_one_kind_only():
    kinds_of = {}
    for resource in kinds.RESOURCES:
        if "create" in resource.verbs and len(resource.verbs) > 1:
            kinds_of.setdefault(resource.storage_prefix, set()).add(resource.kind)
    assert [prefix for prefix, names in kinds_of.items() if len(names) > 1] == []


@pytest.mark.parametrize(
    ("name", "resource"),
    [
        ("po", kinds.PODS), ("Pods", kinds.PODS), ("pod", kinds.PODS), ("deployments.apps", kinds.DEPLOYMENTS), ("deploy.v1.apps", kinds.DEPLOYMENTS),
        ("ev", kinds.EVENTS), ("events.events.k8s.io", kinds.EVENTS_V1), ("hpa", kinds.HORIZONTALPODAUTOSCALERS), ("hpa.v1.autoscaling", kinds.HORIZONTALPODAUTOSCALERS_V1),
        ("svc", kinds.SERVICES), ("crd", kinds.CUSTOMRESOURCEDEFINITIONS), ("nonsense", None), ("pods.apps", None), ("", None),
    ],
)
def test_lookup(name, resource):
    assert kinds.lookup(name) is resource


def test_keys_are_those_of_kubernetes():
    assert kinds.PODS.key("default", "x") == "/registry/pods/default/x"
    assert kinds.SERVICES.key("default", "x") == "/registry/services/specs/default/x"
    assert kinds.NODES.key("ignored", "n") == "/registry/minions/n"
    assert kinds.EVENTS_V1.key("a", "b") == kinds.EVENTS.key("a", "b")
    assert kinds.PODS.key_prefix("default") == "/registry/pods/default/"
    assert kinds.PODS.key_prefix() == "/registry/pods/"
    assert kinds.NODES.key_prefix("ignored") == "/registry/minions/"


def test_paths():
    assert kinds.PODS.path("default", "x", "status") == "/api/v1/namespaces/default/pods/x/status"
    assert kinds.DEPLOYMENTS.path() == "/apis/apps/v1/deployments"
    assert kinds.NODES.path("ignored", "n") == "/api/v1/nodes/n"


def test_find_and_for_kind_agree():
    for resource in kinds.RESOURCES:
        assert kinds.find(resource.group, resource.version, resource.plural) is resource
        assert kinds.for_kind(resource.api_version, resource.kind) is resource
    assert kinds.find("", "v2", "pods") is None


def test_stored_versions_are_served():
    for resource in kinds.RESOURCES:
        assert kinds.for_kind(resource.storage_api_version, resource.kind) is not None
