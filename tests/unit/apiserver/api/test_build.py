"""The set-up step that slices the schema: compact types, closure of references, refusals."""

import zipfile

import pytest

from apiserver.api import build_protobuf, build_schema


def test_compact_types():
    cases = [
        ({"type": ["string", "null"]}, "string"), ({"type": ["string", "null"], "format": "byte"}, "bytes"), ({"type": ["integer", "null"], "format": "int32"}, "int32"),
        ({"type": "integer"}, "int64"), ({"type": "number"}, "double"), ({"type": "boolean"}, "bool"), ({"type": "object"}, "object"), ({}, "any"),
        ({"$ref": "#/$defs/io.k8s.apimachinery.pkg.api.resource.Quantity"}, "quantity"), ({"$ref": "#/$defs/x.Y"}, "#x.Y"),
        ({"$ref": "#/$defs/x.Y", "x-kubernetes-patch-strategy": "retainKeys"}, ["#x.Y", None, {"strategy": "retainKeys"}]),
        ({"type": "object", "additionalProperties": {"type": "string"}}, ["map", "string", {}]),
        ({"type": ["array", "null"], "items": {"$ref": "#/$defs/x.Y"}, "x-kubernetes-patch-merge-key": "name"}, ["array", "#x.Y", {"mergeKey": "name"}]),
    ]
    for node, compact in cases:
        assert build_schema.compact_type(node) == compact


def test_closure_follows_references_in_circles():
    definitions = {"a": {"properties": {"x": {"$ref": "#/$defs/b"}}}, "b": {"items": {"$ref": "#/$defs/a"}}, "c": {}}
    assert build_schema.closure(definitions, {"a"}) == ["a", "b"]


def test_missing_kinds_are_named(tmp_path):
    with pytest.raises(SystemExit, match=r"the definitions lack: .*Deployment in apps/v1"):
        build_schema.build({}, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_wheel_that_is_none(tmp_path):
    with pytest.raises(SystemExit, match="cannot read"):
        build_schema.main(["--wheel", str(tmp_path / "none.whl")])
    other = tmp_path / "other.whl"
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("x", "y")
    with pytest.raises(SystemExit, match=r"cannot read kubernetes_validate/.*other\.whl"):
        build_schema.main(["--wheel", str(other)])


def test_the_protobuf_table_is_trimmed_to_what_is_served():
    table = {
        "k8s.io.api.core.v1.Pod": {"1": ["metadata", "k8s.io.apimachinery.pkg.apis.meta.v1.ObjectMeta"], "2": ["spec", "k8s.io.api.core.v1.PodSpec"]},
        "k8s.io.apimachinery.pkg.apis.meta.v1.ObjectMeta": {"1": ["name", "string"], "11": ["labels", "map<string,string>"], "9": ["deletionGracePeriodSeconds", "int64"]},
        "k8s.io.api.core.v1.PodSpec": {"2": ["containers", "repeated k8s.io.api.core.v1.Container"]},
        "k8s.io.api.core.v1.Container": {"1": ["name", "string"]},
        "k8s.io.api.extensions.v1beta1.Gone": {"1": ["x", "string"]},
    }
    assert build_protobuf.trim(table) == {
        "core.v1.Container": {"1": ["name", "string", 1]},
        "core.v1.Pod": {"1": ["metadata", "meta.v1.ObjectMeta"], "2": ["spec", "core.v1.PodSpec"]},
        "core.v1.PodSpec": {"2": ["containers", "repeated core.v1.Container"]},
        "meta.v1.ObjectMeta": {"1": ["name", "string"], "11": ["labels", "map<string,string>"], "9": ["deletionGracePeriodSeconds", "int64", 1]},
    }
