"""Validation: one case per rule, as (path, beginning of the text); a valid object of each kind has none; what may change and what may not."""

import copy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apiserver.api import defaults, kinds, schema, validation
from apiserver.api.errors import BadRequest


def pod(**changes):
    container = {"name": "a", "image": "x:1", **changes.pop("container", {})}
    return {"metadata": {"name": "p", "namespace": "d", **changes.pop("metadata", {})}, "spec": {"containers": [container], **changes}}


def service(**spec):
    return {"metadata": {"name": "s", "namespace": "d"}, "spec": {"ports": [{"port": 80}], **spec}}


def deployment(**spec):
    template = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "a", "image": "x"}]}}
    return {"metadata": {"name": "x", "namespace": "d"}, "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": template, **spec}}


def named(**fields):
    return {"metadata": {"name": "x", "namespace": "d"}, **fields}


def cluster(**fields):
    return {"metadata": {"name": "x"}, **fields}


def causes(resource, obj):
    obj = copy.deepcopy(obj)
    defaults.apply(resource, obj)
    return [(cause.field, cause.message) for cause in validation.validate_create(resource, obj)]


VALID = [
    (kinds.PODS, pod()), (kinds.SERVICES, service()), (kinds.DEPLOYMENTS, deployment()), (kinds.REPLICASETS, deployment()), (kinds.NAMESPACES, cluster()),
    (kinds.NODES, cluster(spec={"taints": [{"key": "a/b", "effect": "NoSchedule"}]})), (kinds.CONFIGMAPS, named(data={"a.b": "c"})), (kinds.SECRETS, named(data={"k": "dg=="})),
    (kinds.SERVICEACCOUNTS, named()), (kinds.LEASES, named(spec={"holderIdentity": "h", "leaseDurationSeconds": 40})), (kinds.ENDPOINTS, named()),
    (kinds.EVENTS, named(involvedObject={"namespace": "d"}, reason="r")), (kinds.ENDPOINTSLICES, named(addressType="IPv4", endpoints=[{"addresses": ["10.0.0.1"]}], ports=[{"port": 80}])),
    (kinds.ROLES, {"metadata": {"name": "system:x", "namespace": "d"}, "rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]}),
    (kinds.CRONJOBS, named(spec={"schedule": "*/5 1-3 * jan mon-fri", "jobTemplate": {"spec": {"template": {"spec": {"containers": [{"name": "a", "image": "x"}], "restartPolicy": "Never"}}}}})),
    (kinds.PERSISTENTVOLUMECLAIMS, named(spec={"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}})),
    (kinds.PRIORITYCLASSES, cluster(value=5)), (kinds.STORAGECLASSES, cluster(provisioner="p")),
    (kinds.PODS, pod(volumes=[{"name": "v", "emptyDir": {}}], container={"volumeMounts": [{"name": "v", "mountPath": "/v"}], "resources": {"requests": {"cpu": "1"}, "limits": {"cpu": "1"}}})),
    (kinds.SERVICES, service(clusterIP="None", ports=[])), (kinds.SERVICES, {"metadata": {"name": "e", "namespace": "d"}, "spec": {"type": "ExternalName", "externalName": "example.com"}}),
]


@pytest.mark.parametrize(("resource", "obj"), VALID, ids=lambda value: getattr(value, "plural", ""))
def test_what_is_valid(resource, obj):
    assert schema.check_fields(resource, obj) == []
    assert causes(resource, obj) == []


WRONG = [
    (kinds.PODS, {"metadata": {"namespace": "d"}, "spec": pod()["spec"]}, "metadata.name", "Required value: name or generateName is required"),
    (kinds.PODS, pod(metadata={"name": "A_b"}), "metadata.name", 'Invalid value: "A_b": a lowercase RFC 1123 subdomain must consist of'),
    (kinds.PODS, pod(metadata={"name": "a" * 254}), "metadata.name", f'Invalid value: "{"a" * 254}": must be no more than 253 characters'),
    (kinds.PODS, pod(metadata={"namespace": ""}), "metadata.namespace", "Required value"),
    (kinds.NODES, cluster(metadata={"name": "n", "namespace": "d"}), "metadata.namespace", "Forbidden: not allowed on this type"),
    (kinds.PODS, pod(metadata={"labels": {"a b": "c"}}), "metadata.labels", 'Invalid value: "a b": name part must consist of'),
    (kinds.PODS, pod(metadata={"labels": {"a": "b c"}}), "metadata.labels", 'Invalid value: "b c": a valid label must be an empty string or consist of'),
    (kinds.PODS, pod(metadata={"labels": {"a/b/c": "d"}}), "metadata.labels", 'Invalid value: "a/b/c": a qualified name must consist of'),
    (kinds.PODS, pod(metadata={"annotations": {"a": "x" * 262144}}), "metadata.annotations", "Too long: may not be more than 262144 bytes"),
    (kinds.PODS, pod(metadata={"finalizers": ["plain"]}), "metadata.finalizers", 'Invalid value: "plain": name is neither a standard finalizer name nor is it fully qualified'),
    (kinds.PODS, pod(metadata={"ownerReferences": [{"apiVersion": "v1", "kind": "X", "name": "y"}]}), "metadata.ownerReferences[0].uid", 'Invalid value: "": must not be empty'),
    (kinds.PODS, pod(containers=[]), "spec.containers", "Required value"),
    (kinds.PODS, pod(container={"name": ""}), "spec.containers[0].name", "Required value"),
    (kinds.PODS, pod(container={"image": ""}), "spec.containers[0].image", "Required value"),
    (kinds.PODS, pod(container={"image": " x"}), "spec.containers[0].image", 'Invalid value: " x": must not have leading or trailing whitespace'),
    (kinds.PODS, pod(containers=[{"name": "a", "image": "x"}, {"name": "a", "image": "x"}]), "spec.containers[1].name", 'Duplicate value: "a"'),
    (kinds.PODS, pod(container={"ports": [{}]}), "spec.containers[0].ports[0].containerPort", "Required value"),
    (kinds.PODS, pod(container={"ports": [{"containerPort": 70000}]}), "spec.containers[0].ports[0].containerPort", "Invalid value: 70000: must be between 1 and 65535, inclusive"),
    (kinds.PODS, pod(container={"ports": [{"containerPort": 1, "protocol": "tcp"}]}), "spec.containers[0].ports[0].protocol", 'Unsupported value: "tcp": supported values: "SCTP", "TCP", "UDP"'),
    (kinds.PODS, pod(container={"ports": [{"containerPort": 1, "name": "much-too-long-name"}]}), "spec.containers[0].ports[0].name", 'Invalid value: "much-too-long-name": must be no more'),
    (kinds.PODS, pod(container={"env": [{"name": "a=b"}]}), "spec.containers[0].env[0].name", 'Invalid value: "a=b": a valid environment variable name'),
    (kinds.PODS, pod(container={"env": [{"name": "a", "valueFrom": {}}]}), "spec.containers[0].env[0].valueFrom", 'Invalid value: "": must specify one of'),
    (kinds.PODS, pod(container={"env": [{"name": "a", "value": "b", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]}), "spec.containers[0].env[0].valueFrom", 'Invalid value: "": may not be'),
    (kinds.PODS, pod(container={"env": [{"name": "a", "valueFrom": {"fieldRef": {"fieldPath": "spec.x"}}}]}), "spec.containers[0].env[0].valueFrom.fieldRef.fieldPath", "Unsupported value"),
    (kinds.PODS, pod(container={"volumeMounts": [{"name": "v", "mountPath": "/v"}]}), "spec.containers[0].volumeMounts[0].name", 'Not found: "v"'),
    (kinds.PODS, pod(container={"livenessProbe": {}}), "spec.containers[0].livenessProbe", "Required value: must specify a handler type"),
    (kinds.PODS, pod(container={"livenessProbe": {"exec": {"command": ["x"]}, "tcpSocket": {"port": 1}}}), "spec.containers[0].livenessProbe.tcpSocket", "Forbidden: may not specify more than 1"),
    (kinds.PODS, pod(container={"livenessProbe": {"exec": {"command": ["x"]}, "successThreshold": 2}}), "spec.containers[0].livenessProbe.successThreshold", "Invalid value: 2: must be 1"),
    (kinds.PODS, pod(container={"imagePullPolicy": "Sometimes"}), "spec.containers[0].imagePullPolicy", 'Unsupported value: "Sometimes": supported values: "Always", "IfNotPresent", "Never"'),
    (kinds.PODS, pod(container={"resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}}), "spec.containers[0].resources.requests", 'Invalid value: "2": must be less than or equal to cpu'),
    (kinds.PODS, pod(container={"resources": {"limits": {"cpu": "-1"}}}), "spec.containers[0].resources.limits[cpu]", 'Invalid value: "-1": must be greater than or equal to 0'),
    (kinds.PODS, pod(container={"resources": {"limits": {"gold": "1"}}}), "spec.containers[0].resources.limits[gold]", 'Invalid value: "gold": must be a standard resource type'),
    (kinds.PODS, pod(container={"securityContext": {"runAsUser": -1}}), "spec.containers[0].securityContext.runAsUser", "Invalid value: -1: must be between 0 and 2147483647, inclusive"),
    (kinds.PODS, pod(initContainers=[{"name": "i", "image": "x", "readinessProbe": {"exec": {"command": ["x"]}}}]), "spec.initContainers[0].readinessProbe", "Forbidden: may not be set for init"),
    (kinds.PODS, pod(volumes=[{"name": "v", "emptyDir": {}, "hostPath": {"path": "/"}}]), "spec.volumes[0].hostPath", "Forbidden: may not specify more than 1 volume type"),
    (kinds.PODS, pod(volumes=[{"name": "v", "hostPath": {"path": "/a/../b"}}]), "spec.volumes[0].hostPath.path", "Invalid value: \"/a/../b\": must not contain '..'"),
    (kinds.PODS, pod(volumes=[{"name": "v", "secret": {}}]), "spec.volumes[0].secret.secretName", "Required value"),
    (kinds.PODS, pod(volumes=[{"name": "v", "configMap": {"name": "c", "defaultMode": 512}}]), "spec.volumes[0].configMap.defaultMode", "Invalid value: 512: must be a number between 0 and 0777"),
    (kinds.PODS, pod(volumes=[{"name": "v", "configMap": {"name": "c", "items": [{"key": "k", "path": "../x"}]}}]), "spec.volumes[0].configMap.items[0].path", "Invalid value: \"../x\": must not contain"),
    (kinds.PODS, pod(restartPolicy="Sometimes"), "spec.restartPolicy", 'Unsupported value: "Sometimes": supported values: "Always", "Never", "OnFailure"'),
    (kinds.PODS, pod(dnsPolicy="None"), "spec.dnsConfig", "Required value: must provide `dnsConfig` when `dnsPolicy` is None"),
    (kinds.PODS, pod(terminationGracePeriodSeconds=-1), "spec.terminationGracePeriodSeconds", "Invalid value: -1: must be greater than or equal to 0"),
    (kinds.PODS, pod(tolerations=[{"operator": "Equal"}]), "spec.tolerations[0].operator", 'Invalid value: "Equal": operator must be Exists when `key` is empty'),
    (kinds.PODS, pod(hostname="A"), "spec.hostname", 'Invalid value: "A": a lowercase RFC 1123 label'),
    (kinds.PODS, pod(hostAliases=[{"ip": "300.1.1.1"}]), "spec.hostAliases[0].ip", 'Invalid value: "300.1.1.1": must be a valid IP address'),
    (kinds.PODS, pod(hostPID=True, shareProcessNamespace=True), "spec.shareProcessNamespace", "Invalid value: true: ShareProcessNamespace and HostPID cannot both be enabled"),
    (kinds.SERVICES, {"metadata": {"name": "9s", "namespace": "d"}, "spec": service()["spec"]}, "metadata.name", 'Invalid value: "9s": a DNS-1035 label must consist of'),
    (kinds.SERVICES, service(ports=[]), "spec.ports", "Required value"),
    (kinds.SERVICES, service(ports=[{"port": 0}]), "spec.ports[0].port", "Invalid value: 0: must be between 1 and 65535, inclusive"),
    (kinds.SERVICES, service(ports=[{"port": 1}, {"port": 2}]), "spec.ports[1].name", "Required value"),
    (kinds.SERVICES, service(ports=[{"port": 1, "name": "a"}, {"port": 1, "name": "b"}]), "spec.ports[1]", 'Duplicate value: {"port":1,"protocol":"TCP"}'),
    (kinds.SERVICES, service(ports=[{"port": 1, "nodePort": 30000}]), "spec.ports[0].nodePort", "Forbidden: may not be used when `type` is 'ClusterIP'"),
    (kinds.SERVICES, service(type="X"), "spec.type", 'Unsupported value: "X": supported values: "ClusterIP", "ExternalName", "LoadBalancer", "NodePort"'),
    (kinds.SERVICES, service(type="ExternalName"), "spec.externalName", "Required value"),
    (kinds.SERVICES, service(type="NodePort", clusterIP="None"), "spec.clusterIPs[0]", "Invalid value: \"None\": may not be set to 'None' for NodePort services"),
    (kinds.SERVICES, service(clusterIP="1.2.3"), "spec.clusterIPs[0]", 'Invalid value: "1.2.3": must be a valid IP address'),
    (kinds.DEPLOYMENTS, deployment(replicas=-1), "spec.replicas", "Invalid value: -1: must be greater than or equal to 0"),
    (kinds.DEPLOYMENTS, deployment(selector={"matchLabels": {"x": "y"}}), "spec.template.metadata.labels", 'Invalid value: {"a":"b"}: `selector` does not match template `labels`'),
    (kinds.DEPLOYMENTS, deployment(selector=None), "spec.selector", "Required value"),
    (kinds.DEPLOYMENTS, deployment(strategy={"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 0}}), "spec.strategy.rollingUpdate.maxUnavailable", "Invalid value: 0: may not be 0 when"),
    (kinds.CONFIGMAPS, named(data={"a/b": "c"}), "data[a/b]", 'Invalid value: "a/b": a valid config key must consist of'),
    (kinds.CONFIGMAPS, named(data={"a": "c" * (1 << 20), "b": "c"}), "[]", "Too long: may not be more than 1048576 bytes"),
    (kinds.SECRETS, named(type="kubernetes.io/tls", data={"tls.key": ""}), "data[tls.crt]", "Required value"),
    (kinds.NAMESPACES, {"metadata": {"name": "A.b"}}, "metadata.name", 'Invalid value: "A.b": a lowercase RFC 1123 label'),
    (kinds.NODES, cluster(spec={"taints": [{"key": "a"}]}), "spec.taints[0].effect", "Required value"),
    (kinds.ENDPOINTSLICES, named(), "addressType", "Required value"),
    (kinds.ENDPOINTSLICES, named(addressType="IPv4", endpoints=[{"addresses": ["x"]}]), "endpoints[0].addresses[0]", 'Invalid value: "x": must be a valid IP address'),
    (kinds.LEASES, named(spec={"leaseDurationSeconds": 0}), "spec.leaseDurationSeconds", "Invalid value: 0: must be greater than 0"),
    (kinds.EVENTS, named(involvedObject={"namespace": "other"}), "involvedObject.namespace", 'Invalid value: "other": does not match event.namespace'),
    (kinds.ROLEBINDINGS, named(roleRef={"kind": "Role"}), "roleRef.name", "Required value"),
    (kinds.BINDINGS, named(target={"kind": "Pod"}), "target.name", "Required value"),
    (kinds.CRONJOBS, named(spec={"schedule": "61 * * * *"}), "spec.schedule", 'Invalid value: "61 * * * *": minute out of range (0-59): 61'),
]


@pytest.mark.parametrize(("resource", "obj", "path", "text"), WRONG, ids=[f"{r.plural}-{p}-{n}" for n, (r, _, p, _) in enumerate(WRONG)])
def test_what_is_wrong_is_named(resource, obj, path, text):
    found = causes(resource, obj)
    assert any(field == path and message.startswith(text) for field, message in found), found


def updated(resource, obj, change):
    old = copy.deepcopy(obj)
    defaults.apply(resource, old)
    new = copy.deepcopy(old)
    change(new)
    defaults.apply(resource, new)
    return [(cause.field, cause.message) for cause in validation.validate_update(resource, new, old)]


@pytest.mark.parametrize(("resource", "obj"), VALID, ids=lambda value: getattr(value, "plural", ""))
def test_an_unchanged_object_may_be_updated(resource, obj):
    assert updated(resource, obj, lambda new: None) == []
    assert updated(resource, obj, lambda new: new["metadata"].setdefault("labels", {}).update(x="y")) == []


def test_what_of_a_pod_may_change():
    full = pod(tolerations=[{"key": "k", "operator": "Exists"}], activeDeadlineSeconds=10)
    assert updated(kinds.PODS, full, lambda new: new["spec"]["containers"][0].update(image="y")) == []
    assert updated(kinds.PODS, full, lambda new: new["spec"]["tolerations"].append({"key": "q", "operator": "Exists"})) == []
    assert updated(kinds.PODS, full, lambda new: new["spec"].update(activeDeadlineSeconds=5)) == []


@pytest.mark.parametrize(
    ("change", "path", "text"),
    [
        (lambda new: new["spec"].update(nodeName="n"), "spec", "Forbidden: pod updates may not change fields other than `spec.containers[*].image`"),
        (lambda new: new["spec"]["containers"][0].update(command=["x"]), "spec", "Forbidden: pod updates may not change fields"),
        (lambda new: new["spec"]["containers"].append({"name": "b", "image": "x"}), "spec.containers", "Forbidden: pod updates may not add or remove containers"),
        (lambda new: new["spec"]["containers"][0].update(image=""), "spec.containers[0].image", "Required value"),
        (lambda new: new["spec"].update(tolerations=[]), "spec.tolerations", "Forbidden: existing toleration can not be modified except its tolerationSeconds"),
        (lambda new: new["spec"].update(activeDeadlineSeconds=20), "spec.activeDeadlineSeconds", "Invalid value: 20: must be less than or equal to previous value"),
        (lambda new: new["spec"].pop("activeDeadlineSeconds"), "spec.activeDeadlineSeconds", "Invalid value: null: must not update from a positive integer to nil value"),
        (lambda new: new["metadata"].update(name="q"), "metadata.name", 'Invalid value: "q": field is immutable'),
        (lambda new: new["metadata"].update(uid="q"), "metadata.uid", 'Invalid value: "q": field is immutable'),
    ],
)
def test_what_of_a_pod_may_not_change(change, path, text):
    full = pod(tolerations=[{"key": "k", "operator": "Exists"}], activeDeadlineSeconds=10, metadata={"uid": "u"})
    found = updated(kinds.PODS, full, change)
    assert any(field == path and message.startswith(text) for field, message in found), found


def test_the_changed_fields_are_named():
    found = updated(kinds.PODS, pod(), lambda new: (new["spec"].update(nodeName="n"), new["spec"]["containers"][0].update(command=["x"])))
    assert found[0][1].endswith("changed: spec.containers[0].command, spec.nodeName")


def test_a_gated_pod_may_be_narrowed_and_released():
    gated = pod(schedulingGates=[{"name": "example.com/x"}], nodeSelector={"a": "b"})
    assert updated(kinds.PODS, gated, lambda new: (new["spec"].update(schedulingGates=[]), new["spec"]["nodeSelector"].update(c="d"))) == []
    assert updated(kinds.PODS, gated, lambda new: new["spec"]["nodeSelector"].update(a="z"))[0][0] == "spec"
    assert updated(kinds.PODS, gated, lambda new: new["spec"]["schedulingGates"].append({"name": "example.com/y"}))[0][0] == "spec.schedulingGates"


@pytest.mark.parametrize(
    ("resource", "obj", "change", "path", "text"),
    [
        (kinds.SERVICES, service(clusterIP="10.0.0.1"), lambda new: new["spec"].update(clusterIP="10.0.0.2"), "spec.clusterIPs[0]", 'Invalid value: ["10.0.0.2"]: may not change once set'),
        (kinds.CONFIGMAPS, named(data={"a": "b"}, immutable=True), lambda new: new["data"].update(a="c"), "data", "Forbidden: field is immutable when `immutable` is set"),
        (kinds.CONFIGMAPS, named(immutable=True), lambda new: new.pop("immutable"), "immutable", "Forbidden: field is immutable when `immutable` is set"),
        (kinds.SECRETS, named(data={"a": "dg=="}, immutable=True), lambda new: new["data"].clear(), "data", "Forbidden: field is immutable when `immutable` is set"),
        (kinds.SECRETS, named(), lambda new: new.update(type="other"), "type", 'Invalid value: "other": field is immutable'),
        (kinds.DEPLOYMENTS, deployment(), lambda new: new["spec"]["selector"]["matchLabels"].update(a="b2"), "spec.selector", 'Invalid value: {"matchLabels":{"a":"b2"}}: field is immutable'),
        (kinds.ENDPOINTSLICES, named(addressType="IPv4"), lambda new: new.update(addressType="IPv6"), "addressType", 'Invalid value: "IPv6": field is immutable'),
        (kinds.NODES, cluster(spec={"podCIDR": "10.0.0.0/24", "podCIDRs": ["10.0.0.0/24"]}), lambda new: new["spec"].update(podCIDR="10.0.1.0/24", podCIDRs=["10.0.1.0/24"]), "spec.podCIDRs", "Forbidden"),
        (kinds.ROLEBINDINGS, named(roleRef={"kind": "Role", "name": "r"}), lambda new: new["roleRef"].update(name="q"), "roleRef", "Invalid value"),
        (kinds.PODS, pod(metadata={"deletionTimestamp": "2025-01-01T00:00:00Z"}), lambda new: new["metadata"].update(finalizers=["a/b"]), "metadata.finalizers", "Forbidden: no new finalizers"),
    ],
)
def test_what_may_not_change(resource, obj, change, path, text):
    found = updated(resource, obj, change)
    assert any(field == path and message.startswith(text) for field, message in found), found


def test_a_service_may_become_external():
    assert updated(kinds.SERVICES, service(clusterIP="10.0.0.1"), lambda new: new["spec"].update(type="ExternalName", externalName="x.y", clusterIP="", clusterIPs=[], ports=[])) == []


# ---- whatever passes the schema never breaks validation


def values(kind, depth=0):
    if kind.kind == "struct":
        fields = schema.by_name(kind.definition).fields if depth < 6 else {}
        return st.fixed_dictionaries({}, optional={name: st.deferred(lambda t=inner: values(t, depth + 1)) for name, inner in list(fields.items())}).map(dict)
    if kind.kind == "array":
        return st.lists(st.deferred(lambda: values(kind.element, depth + 1)), max_size=2)
    if kind.kind == "map":
        return st.dictionaries(st.sampled_from(["a", "cpu", "x/y", "B c"]), st.deferred(lambda: values(kind.element, depth + 1)), max_size=2)
    return {
        "string": st.sampled_from(["", "a", "A b", "Exists", "In", "x/y", "../z", "10.0.0.1"]), "bool": st.booleans(), "int32": st.integers(-2, 70000), "int64": st.integers(-2, 70000),
        "quantity": st.sampled_from(["1", "1Gi", "-1", 2, 0.5]), "int-or-string": st.sampled_from([0, 80, "http", "25%"]), "time": st.just("2025-01-01T00:00:00Z"),
        "micro-time": st.just("2025-01-01T00:00:00Z"), "bytes": st.sampled_from(["", "dg=="]), "double": st.just(1.5),
    }.get(kind.kind, st.just({}))


RULED = [resource for resource in kinds.RESOURCES if resource in validation._CREATE]


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_no_document_of_the_right_types_breaks_validation(data):
    resource = data.draw(st.sampled_from(RULED))
    obj = data.draw(values(schema.Type("struct", schema.for_resource(resource).name)))
    obj.pop("apiVersion", None)
    obj.pop("kind", None)
    try:
        assert schema.check_fields(resource, obj) == []
    except BadRequest:
        return
    other = copy.deepcopy(obj)
    defaults.apply(resource, obj)
    causes_found = validation.validate_create(resource, obj)
    assert all(cause.reason.startswith("FieldValue") and cause.message for cause in causes_found)
    validation.validate_update(resource, obj, other)
    validation.validate_update(resource, other, obj)
