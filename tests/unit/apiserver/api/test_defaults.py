"""Defaults: what Kubernetes fills in, and that filling in twice changes nothing."""

import copy

import pytest

from apiserver.api import defaults, defaults_pod, kinds, schema

POD = {"metadata": {"name": "p", "namespace": "d"}, "spec": {"containers": [{"name": "a", "image": "x"}]}}


def defaulted(resource, obj):
    obj = copy.deepcopy(obj)
    defaults.apply(resource, obj)
    return obj


def test_a_pod():
    assert defaulted(kinds.PODS, POD)["spec"] == {
        "containers": [
            {"name": "a", "image": "x", "imagePullPolicy": "Always", "resources": {}, "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File"}
        ],
        "dnsPolicy": "ClusterFirst", "enableServiceLinks": True, "restartPolicy": "Always", "schedulerName": "default-scheduler", "securityContext": {},
        "terminationGracePeriodSeconds": 30,
    }


def test_containers_in_detail():
    container = {
        "name": "a", "image": "x:1", "ports": [{"containerPort": 80}],
        "livenessProbe": {"httpGet": {"port": 80}, "periodSeconds": 0}, "resources": {"limits": {"cpu": 1, "memory": "1024Ki"}, "requests": {"cpu": "0.5"}},
        "env": [{"name": "N", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}, {"name": "L", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}}],
    }
    pod = defaulted(kinds.PODS, {"spec": {"containers": [container], "hostNetwork": True, "serviceAccount": "s"}})
    found = pod["spec"]["containers"][0]
    assert found["imagePullPolicy"] == "IfNotPresent"
    assert found["ports"] == [{"containerPort": 80, "protocol": "TCP", "hostPort": 80}]
    assert found["livenessProbe"] == {
        "httpGet": {"port": 80, "path": "/", "scheme": "HTTP"}, "timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3,
    }
    assert found["resources"] == {"limits": {"cpu": "1", "memory": "1Mi"}, "requests": {"memory": "1Mi", "cpu": "500m"}}
    assert found["env"][0]["valueFrom"]["fieldRef"]["apiVersion"] == "v1"
    assert found["env"][1]["valueFrom"]["resourceFieldRef"]["divisor"] == "0"
    assert (pod["spec"]["serviceAccountName"], pod["spec"]["serviceAccount"]) == ("s", "s")


@pytest.mark.parametrize(
    ("image", "policy"),
    [
        ("x", "Always"), ("x:latest", "Always"), ("x:1", "IfNotPresent"), ("host:5000/x", "Always"), ("host:5000/x:2", "IfNotPresent"),
        ("x@sha256:" + "0" * 64, "IfNotPresent"), ("x:latest@sha256:" + "0" * 64, "IfNotPresent"),
    ],
)
def test_pull_policy(image, policy):
    assert defaults_pod.pull_policy(image) == policy


def test_volumes():
    volumes = [
        {"name": "e"}, {"name": "c", "configMap": {"name": "x"}}, {"name": "h", "hostPath": {"path": "/x"}}, {"name": "m", "emptyDir": {"sizeLimit": "1024Mi"}},
        {"name": "p", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}, {"downwardAPI": {"items": [{"path": "l", "fieldRef": {"fieldPath": "metadata.labels"}}]}}]}},
    ]
    found = defaulted(kinds.PODS, {"spec": {"volumes": volumes}})["spec"]["volumes"]
    assert found[0] == {"name": "e", "emptyDir": {}}
    assert found[1]["configMap"]["defaultMode"] == 0o644
    assert found[2]["hostPath"]["type"] == ""
    assert found[3]["emptyDir"]["sizeLimit"] == "1Gi"
    assert found[4]["projected"]["sources"][0]["serviceAccountToken"]["expirationSeconds"] == 3600
    assert found[4]["projected"]["sources"][1]["downwardAPI"]["items"][0]["fieldRef"]["apiVersion"] == "v1"


def test_services():
    spec = defaulted(kinds.SERVICES, {"spec": {"ports": [{"port": 80}], "type": "NodePort", "sessionAffinity": "ClientIP"}})["spec"]
    assert spec == {
        "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}], "type": "NodePort", "sessionAffinity": "ClientIP",
        "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 10800}}, "externalTrafficPolicy": "Cluster", "internalTrafficPolicy": "Cluster",
    }
    plain = defaulted(kinds.SERVICES, {"spec": {"ports": [{"port": 80, "targetPort": "http"}]}})["spec"]
    assert (plain["type"], plain["sessionAffinity"], plain["ports"][0]["targetPort"]) == ("ClusterIP", "None", "http")
    assert "externalTrafficPolicy" not in plain


def test_deployments_and_templates():
    deployment = defaulted(kinds.DEPLOYMENTS, {"spec": {"template": {"metadata": {"creationTimestamp": None}, "spec": POD["spec"]}}})
    spec = deployment["spec"]
    assert (spec["replicas"], spec["revisionHistoryLimit"], spec["progressDeadlineSeconds"]) == (1, 10, 600)
    assert spec["strategy"] == {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "25%", "maxSurge": "25%"}}
    assert spec["template"]["spec"]["dnsPolicy"] == "ClusterFirst"
    assert "enableServiceLinks" not in spec["template"]["spec"]
    assert spec["template"]["metadata"] == {}
    assert "rollingUpdate" not in defaulted(kinds.DEPLOYMENTS, {"spec": {"strategy": {"type": "Recreate"}}})["spec"]["strategy"]


def test_namespaces_and_others():
    namespace = defaulted(kinds.NAMESPACES, {"metadata": {"name": "n", "labels": {"a": "b"}}})
    assert namespace["metadata"]["labels"] == {"a": "b", "kubernetes.io/metadata.name": "n"}
    assert (namespace["spec"], namespace["status"]) == ({"finalizers": ["kubernetes"]}, {"phase": "Active"})
    assert defaulted(kinds.SECRETS, {})["type"] == "Opaque"
    assert defaulted(kinds.NODES, {"status": {"capacity": {"cpu": "2.0"}}})["status"]["allocatable"] == {"cpu": "2"}
    assert defaulted(kinds.NETWORKPOLICIES, {"spec": {"egress": [{}]}})["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert defaulted(kinds.ROLEBINDINGS, {"roleRef": {"kind": "Role", "name": "r"}, "subjects": [{"kind": "User", "name": "u"}]})["subjects"][0]["apiGroup"]


def test_nulls_count_as_absent():
    pod = defaulted(kinds.PODS, {"metadata": {"name": "p", "labels": None}, "spec": {"restartPolicy": None, "containers": [{"name": "a", "command": None, "image": "x:1"}]}})
    assert "labels" not in pod["metadata"]
    assert pod["spec"]["restartPolicy"] == "Always"
    assert "command" not in pod["spec"]["containers"][0]


@pytest.mark.parametrize("resource", kinds.RESOURCES, ids=lambda r: r.group_resource)
def test_defaults_are_idempotent_and_fit_the_schema(resource):
    template = {"spec": copy.deepcopy(POD["spec"])}
    spec = {"template": template, "jobTemplate": {"spec": {"template": copy.deepcopy(template)}}, "ports": [{"port": 1}], **copy.deepcopy(POD["spec"])}
    definition = schema.for_resource(resource)
    obj = {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": {"name": "x"}}
    if "spec" in definition.fields and definition.fields["spec"].kind == "struct":
        fields = schema.by_name(definition.fields["spec"].definition).fields
        obj["spec"] = {key: value for key, value in spec.items() if key in fields}
    if schema.check_fields(resource, obj):
        pytest.skip(f"the sample does not fit {resource.kind}")
    once = defaulted(resource, obj)
    assert schema.check_fields(resource, once) == []
    assert defaulted(resource, once) == once


@pytest.mark.parametrize("obj", [{"spec": "x"}, {"spec": {"containers": "x", "volumes": {}}}, {"spec": {"containers": [1, None]}}, {"metadata": []}, {"spec": {"template": 1, "ports": 3}}])
@pytest.mark.parametrize("resource", [kinds.PODS, kinds.DEPLOYMENTS, kinds.SERVICES, kinds.NAMESPACES, kinds.NODES, kinds.JOBS])
def test_wrong_types_are_left_for_others_to_name(resource, obj):
    defaults.apply(resource, copy.deepcopy(obj))
