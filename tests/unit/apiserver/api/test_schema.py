"""The schema: strict field checks in Kubernetes' words, merge keys, OpenAPI documents."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apiserver.api import kinds, schema
from apiserver.api.errors import BadRequest, NotFound


def test_unknown_fields_are_named_with_their_path():
    obj = {"spec": {"foo": 1, "containers": [{"name": "x"}, {"name": "y", "bar": {}}]}, "zz": 1, "metadata": {"labels": {"any": "key"}}}
    assert schema.check_fields(kinds.PODS, obj) == ['unknown field "spec.foo"', 'unknown field "spec.containers[1].bar"', 'unknown field "zz"']
    error = schema.strict_error(kinds.PODS, ['unknown field "spec.foo"'])
    assert error.message == 'Pod in version "v1" cannot be handled as a Pod: strict decoding error: unknown field "spec.foo"'


@pytest.mark.parametrize(
    ("resource", "obj", "text"),
    [
        (kinds.PODS, {"spec": {"containers": "x"}}, "json: cannot unmarshal string into Go struct field PodSpec.spec.containers of type []v1.Container"),
        (kinds.PODS, {"spec": []}, "json: cannot unmarshal array into Go struct field Pod.spec of type v1.PodSpec"),
        (
            kinds.PODS, {"spec": {"containers": [{"ports": [{"containerPort": "80"}]}]}},
            "json: cannot unmarshal string into Go struct field ContainerPort.spec.containers.ports.containerPort of type int32",
        ),
        (kinds.PODS, {"spec": {"containers": [{"env": [{"value": 1}]}]}}, "json: cannot unmarshal number into Go struct field EnvVar.spec.containers.env.value of type string"),
        (kinds.PODS, {"spec": {"containers": [{"env": [{"value": True}]}]}}, "json: cannot unmarshal bool into Go struct field EnvVar.spec.containers.env.value of type string"),
        (kinds.DEPLOYMENTS, {"spec": {"replicas": 2**31}}, "json: cannot unmarshal number 2147483648 into Go struct field DeploymentSpec.spec.replicas of type int32"),
        (kinds.DEPLOYMENTS, {"spec": {"replicas": 1.5}}, "json: cannot unmarshal number 1.5 into Go struct field DeploymentSpec.spec.replicas of type int32"),
        (kinds.SECRETS, {"data": {"k": "a#"}}, "data.k: illegal base64 data at input byte 1"),
        (kinds.SECRETS, {"data": {"k": "abc"}}, "data.k: illegal base64 data at input byte 0"),
        (kinds.PODS, {"metadata": {"creationTimestamp": "now"}}, "metadata.creationTimestamp: parsing time"),
        (kinds.PODS, {"spec": {"containers": [{"resources": {"limits": {"cpu": "x"}}}]}}, "spec.containers[0].resources.limits.cpu: quantities must match the regular expression"),
        (kinds.CONFIGMAPS, {"data": ["x"]}, "json: cannot unmarshal array into Go struct field ConfigMap.data of type map[string]string"),
    ],
)
def test_wrong_types_are_refused_in_gos_words(resource, obj, text):
    with pytest.raises(BadRequest) as caught:
        schema.check_fields(resource, obj)
    assert caught.value.message.startswith(f'{resource.kind} in version "v1" cannot be handled as a {resource.kind}: {text}')


@pytest.mark.parametrize(
    "obj",
    [
        {}, {"spec": None, "metadata": None}, {"spec": {"containers": [{"name": "a", "args": None}]}}, {"spec": {"containers": [None]}},
        {"spec": {"containers": [{"resources": {"limits": {"cpu": 1, "memory": "1Gi"}}, "livenessProbe": {"httpGet": {"port": "http"}}, "readinessProbe": {"httpGet": {"port": 8080}}}]}},
        {"metadata": {"creationTimestamp": "2025-01-01T00:00:00.123Z", "managedFields": [{"fieldsV1": {"f:x": {"anything": 1}}}]}},
    ],
)
def test_what_is_allowed(obj):
    assert schema.check_fields(kinds.PODS, obj) == []


def test_free_form_parts_stay_free():
    revision = {"data": {"spec": {"whatever": [1, {"x": None}]}}, "revision": 1}
    assert schema.check_fields(kinds.CONTROLLERREVISIONS, revision) == []
    crd = {"spec": {"versions": [{"schema": {"openAPIV3Schema": {"properties": {"a": {"default": [1], "items": {"type": "string"}, "additionalProperties": True}}}}}]}}
    assert schema.check_fields(kinds.CUSTOMRESOURCEDEFINITIONS, crd) == []
    assert schema.check_fields(kinds.CUSTOMRESOURCEDEFINITIONS, {"spec": {"versions": [{"schema": {"openAPIV3Schema": {"nope": 1}}}]}}) == [
        'unknown field "spec.versions[0].schema.openAPIV3Schema.nope"'
    ]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["spec", "metadata", "containers", "name", "labels", "env", "data", "x"]), inner, max_size=4),
)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from([kinds.PODS, kinds.SERVICES, kinds.SECRETS, kinds.DEPLOYMENTS]), st.dictionaries(st.sampled_from(["spec", "metadata", "data", "status", "y"]), json_values))
def test_any_document_gets_an_answer_or_one_bad_request(resource, obj):
    try:
        problems = schema.check_fields(resource, obj)
    except BadRequest as error:
        assert "cannot be handled as" in error.message
    else:
        assert all(problem.startswith('unknown field "') for problem in problems)


def test_bodies_that_are_no_objects():
    for body in ([], "x", 1, None):
        with pytest.raises(BadRequest):
            schema.check_fields(kinds.PODS, body)


def nested(depth):
    value = {}
    for _ in range(depth):
        value = {"a": value}
    return value


def test_depth_has_an_end():
    assert schema.check_fields(kinds.CONTROLLERREVISIONS, {"data": nested(50)}) == []
    for resource, obj in ((kinds.CONTROLLERREVISIONS, {"data": nested(900)}), (kinds.PODS, {"metadata": {"managedFields": [{"fieldsV1": nested(900)}]}})):
        with pytest.raises(BadRequest, match="exceeded max depth"):
            schema.check_fields(resource, obj)


def test_kinds_that_are_no_resources():
    assert schema.check_fields_of(("policy", "v1", "Eviction"), {"deleteOptions": {"gracePeriodSeconds": 1, "x": 2}}) == ['unknown field "deleteOptions.x"']
    with pytest.raises(BadRequest, match=r"DeleteOptions\.gracePeriodSeconds of type int64"):
        schema.check_fields_of(("", "v1", "DeleteOptions"), {"gracePeriodSeconds": "1"})


def test_duplicate_fields():
    assert schema.duplicate_fields(b'{"a":{"b":1,"b":2,"c":[{"d":1,"d":{}}]},"a2":1}') == ['duplicate field "a.b"', 'duplicate field "a.c[0].d"']
    assert schema.duplicate_fields(b'{"a":1,"b":{"a":1}}') == []
    assert schema.duplicate_fields(b"not json") == []


def test_merge_keys_come_from_the_definitions():
    spec = schema.by_name("io.k8s.api.core.v1.PodSpec").fields
    assert (spec["containers"].merge_key, spec["containers"].strategies) == ("name", ("merge",))
    assert spec["volumes"].strategies == ("merge", "retainKeys")
    assert spec["tolerations"].list_type == "atomic"
    assert schema.for_resource(kinds.PODS).required == ()
    assert "name" in schema.by_name("io.k8s.api.core.v1.Container").required


@pytest.mark.parametrize(("group", "version"), kinds.group_versions())
def test_every_group_version_has_a_document_whose_references_resolve(group, version):
    path = f"apis/{group}/{version}" if group else f"api/{version}"
    document = json.loads(schema.openapi_v3(path))
    assert path in schema.openapi_v3_index()["paths"]
    text = json.dumps(document)
    wanted = {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}
    assert wanted <= document["components"]["schemas"].keys()
    patched = [operations["patch"] for operations in document["paths"].values() if "patch" in operations]
    for operation in patched:
        assert {"fieldValidation", "dryRun", "fieldManager", "force"} <= {parameter["name"] for parameter in operation["parameters"]}
        assert operation["x-kubernetes-group-version-kind"]["kind"]
    assert '"null"' not in text


def test_the_swagger_document_resolves_too():
    document = json.loads(schema.openapi_v2())
    text = json.dumps(document)
    assert {part.split('"')[0] for part in text.split("#/definitions/")[1:]} <= document["definitions"].keys()
    assert "/api/v1/namespaces/{namespace}/pods/{name}" in document["paths"]


@pytest.mark.parametrize("path", ["api/v2", "apis/nope/v1", "../../errors", "apis/../v1", ""])
def test_other_documents_are_not_found(path):
    with pytest.raises(NotFound):
        schema.openapi_v3(path)
