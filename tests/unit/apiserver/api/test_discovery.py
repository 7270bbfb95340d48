"""Discovery documents and conversions between versions."""

import json

import pytest

from apiserver.api import convert, discovery, kinds


@pytest.mark.parametrize("version", discovery.AGGREGATED_VERSIONS)
def test_aggregated_lists_everything_once(version):
    core, named = (json.loads(discovery.aggregated(path, version)) for path in ("/api", "/apis"))
    assert core["apiVersion"] == f"apidiscovery.k8s.io/{version}"
    listed = [
        (group["metadata"].get("name", ""), v["version"], resource["resource"])
        for document in (core, named) for group in document["items"] for v in group["versions"] for resource in v["resources"]
    ]
    assert sorted(listed) == sorted((r.group, r.version, r.plural) for r in kinds.RESOURCES)
    assert [group["metadata"].get("name") for group in core["items"]] == [None]


def test_legacy_documents_agree_with_the_aggregated_one():
    groups = json.loads(discovery.legacy("/apis"))["groups"]
    assert json.loads(discovery.legacy("/api", "10.0.0.1:6443"))["serverAddressByClientCIDRs"][0]["serverAddress"] == "10.0.0.1:6443"
    paths = ["/api/v1"] + [f"/apis/{v['groupVersion']}" for group in groups for v in group["versions"]]
    names = {(document["groupVersion"], entry["name"]) for document in (json.loads(discovery.legacy(path)) for path in paths) for entry in document["resources"]}
    assert names == {(r.api_version, name) for r in kinds.RESOURCES for name in (r.plural, *(f"{r.plural}/{s.name}" for s in r.subresources))}
    assert json.loads(discovery.legacy("/apis/autoscaling"))["preferredVersion"]["version"] == "v2"


@pytest.mark.parametrize("path", ["/apis/nope", "/apis/apps/v2", "/api/v2", "/apis/apps/v1/deployments", "/", "/apis//v1", "/version"])
def test_nothing_else_is_served(path):
    assert discovery.legacy(path) is None


def test_subresources_name_their_own_kind():
    resources = {entry["name"]: entry for entry in json.loads(discovery.legacy("/apis/apps/v1"))["resources"]}
    assert (resources["deployments/scale"]["kind"], resources["deployments/scale"]["group"]) == ("Scale", "autoscaling")
    assert resources["deployments/status"]["kind"] == "Deployment"
    assert resources["deployments"]["shortNames"] == ["deploy"]


EVENT = {
    "apiVersion": "v1", "kind": "Event", "metadata": {"name": "e"}, "involvedObject": {"kind": "Pod"}, "message": "m", "reason": "r", "source": {"component": "c"}, "count": 2,
    "firstTimestamp": "2025-01-01T00:00:00Z", "lastTimestamp": "2025-01-01T00:00:00Z", "reportingComponent": "c", "series": {"count": 1},
}


def test_events_go_over_and_come_back():
    other = convert.convert(EVENT, kinds.EVENTS, kinds.EVENTS_V1)
    assert (other["apiVersion"], other["note"], other["regarding"], other["deprecatedCount"]) == ("events.k8s.io/v1", "m", {"kind": "Pod"}, 2)
    assert convert.convert(other, kinds.EVENTS_V1, kinds.EVENTS) == EVENT
    assert convert.convert(EVENT, kinds.EVENTS, kinds.EVENTS) is EVENT


def test_autoscalers_go_over_and_come_back():
    metrics = [
        {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}},
        {"type": "Resource", "resource": {"name": "memory", "target": {"type": "AverageValue", "averageValue": "1Gi"}}},
    ]
    v2 = {
        "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "h"},
        "spec": {"maxReplicas": 3, "metrics": metrics, "behavior": {"scaleDown": {}}}, "status": {"conditions": [{"type": "x"}], "desiredReplicas": 1},
    }
    v1 = convert.convert(v2, kinds.HORIZONTALPODAUTOSCALERS, kinds.HORIZONTALPODAUTOSCALERS_V1)
    assert (v1["apiVersion"], v1["spec"]) == ("autoscaling/v1", {"maxReplicas": 3, "targetCPUUtilizationPercentage": 50})
    assert convert.convert(v1, kinds.HORIZONTALPODAUTOSCALERS_V1, kinds.HORIZONTALPODAUTOSCALERS) == v2


def test_other_pairs_are_refused():
    with pytest.raises(ValueError, match="no conversion"):
        convert.convert({}, kinds.PODS, kinds.NODES)
