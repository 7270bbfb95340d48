from __future__ import annotations

import copy
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from apiserver.store import codec, keys

text = st.text(max_size=12) | st.sampled_from(['"metadata":{', '\\"metadata\\":{', '"resourceVersion":"1"', '","metadata":{"x":"'])
values = st.recursive(st.none() | st.booleans() | st.integers(-(2**53), 2**53) | text, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3), max_leaves=8)
objects = st.fixed_dictionaries(
    {"apiVersion": text.filter(bool), "kind": text.filter(bool), "metadata": st.dictionaries(text | st.just("resourceVersion"), values, max_size=3)},
    optional={"spec": values, "status": values, 'a"metadata":{': values},
)


@given(objects, st.integers(1, 2**62), st.integers(1, 2**62))
def test_spliced_bytes_are_the_object_with_that_version(obj: dict[str, Any], revision: int, later: int) -> None:
    original = copy.deepcopy(obj)
    stored = codec.encode(obj)
    assert obj == original
    assert codec.is_object(stored)
    expected = {**obj, "metadata": {**obj["metadata"], "resourceVersion": str(revision)}}
    spliced = codec.splice(stored, revision)
    assert codec.decode(spliced) == expected
    assert codec.encode(codec.decode(spliced)) == stored
    expected["metadata"]["resourceVersion"] = str(later)
    assert codec.decode(codec.resplice(spliced, later)) == expected


def test_field_order() -> None:
    stored = codec.encode({"status": {}, "metadata": {"name": "a", "resourceVersion": "5"}, "spec": {}, "kind": "Pod", "apiVersion": "v1"})
    assert stored == b'{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"},"status":{},"spec":{}}'
    assert codec.splice(stored, 7) == b'{"apiVersion":"v1","kind":"Pod","metadata":{"resourceVersion":"7","name":"a"},"status":{},"spec":{}}'
    assert codec.splice(codec.encode({"apiVersion": "v1", "kind": "Pod"}), 7) == b'{"apiVersion":"v1","kind":"Pod","metadata":{"resourceVersion":"7"}}'


@pytest.mark.parametrize(
    ("obj", "message"),
    [
        ({"kind": "Pod"}, "apiVersion must be"),
        ({"apiVersion": "v1", "kind": ""}, "kind must be"),
        ({"apiVersion": "v1", "kind": ["Pod"]}, "kind must be"),
        ({"apiVersion": "v1", "kind": "Pod", "metadata": []}, "metadata must be an object"),
        ({"apiVersion": "v1", "kind": "Pod", "spec": 2**70}, "cannot encode object"),
        ({"apiVersion": "v1", "kind": "Pod", "spec": object()}, "cannot encode object"),
        ({"apiVersion": "v1", "kind": "Pod", "spec": "\ud800"}, "cannot encode object"),
    ],
)
def test_what_cannot_be_stored_is_named(obj: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        codec.encode(obj)


@pytest.mark.parametrize("value", [b"", b"10.43.0.1", b'{"metadata":{}}', orjson.dumps(["apiVersion"])])
def test_other_values_are_not_objects(value: bytes) -> None:
    assert not codec.is_object(value)


@pytest.mark.parametrize(
    ("key", "location"),
    [
        ("/registry/pods/default/a", ("/registry/pods/", "default", "a")),
        ("/registry/minions/n1", ("/registry/minions/", "", "n1")),
        ("/registry/services/specs/default/a", ("/registry/services/specs/", "default", "a")),
        ("/registry/services/endpoints/default/a", ("/registry/services/endpoints/", "default", "a")),
        ("/registry/apiextensions.k8s.io/customresourcedefinitions/a.b.c", ("/registry/apiextensions.k8s.io/customresourcedefinitions/", "", "a.b.c")),
        ("/registry/example.com/widgets/default/a", ("/registry/example.com/widgets/", "default", "a")),
        ("/registry/namespaces/a.b", ("/registry/namespaces/", "", "a.b")),
    ],
)
def test_locate(key: str, location: tuple[str, str, str]) -> None:
    assert keys.locate(key) == location


@given(st.text(max_size=20))
def test_locate_takes_any_key(key: str) -> None:
    assert keys.locate(key).prefix


def test_every_served_resource_is_located_as_the_api_places_it() -> None:
    from apiserver.api import kinds

    for resource in kinds.RESOURCES:
        namespace = "ns" if resource.namespaced else ""
        assert keys.locate(resource.key(namespace, "some.name")) == (resource.storage_prefix, namespace, "some.name")


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=5), st.text(st.characters(exclude_categories=["Cs"]), max_size=5))
def test_prefix_end_bounds_exactly_the_prefix(prefix: str, other: str) -> None:
    end = keys.prefix_end(prefix)
    if end == b"\0":
        assert not prefix
        return
    assert prefix.encode() <= (prefix + other).encode() < end
    assert (prefix.encode() <= other.encode() < end) == other.startswith(prefix) or not other.encode().startswith(prefix.encode())
