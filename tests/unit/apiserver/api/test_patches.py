"""Patches: tables of cases in Kubernetes' words, and properties: the patch computed from (a, b), applied to a, gives b; a second application changes nothing."""

import copy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apiserver.api import kinds, patches
from apiserver.api.errors import BadRequest, Unprocessable


def pod(*containers, **spec):
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": list(containers), **spec}}


def merge(doc, patch, resource=kinds.PODS):
    return patches.strategic_merge(resource, doc, patch)


def test_merge_patch_follows_the_examples_of_rfc_7386():
    cases = [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ]
    for doc, patch, wanted in cases:
        assert patches.merge_patch(doc, patch) == wanted


def test_json_patch_changes_a_copy():
    doc = pod({"name": "a", "image": "i"})
    before = copy.deepcopy(doc)
    patched = patches.json_patch(doc, [{"op": "replace", "path": "/spec/containers/0/image", "value": "j"}, {"op": "add", "path": "/metadata/labels", "value": {"x": "y"}}])
    assert patched["spec"]["containers"][0]["image"] == "j"
    assert patched["metadata"]["labels"] == {"x": "y"}
    assert doc == before


@pytest.mark.parametrize(
    ("ops", "error"),
    [
        ([{"op": "test", "path": "/metadata/name", "value": "q"}], Unprocessable),
        ([{"op": "replace", "path": "/spec/nope/deeper", "value": 1}], Unprocessable),
        ([{"op": "remove", "path": "/spec/containers/7"}], Unprocessable),
        ([{"op": "burn", "path": "/spec"}], BadRequest),
        ({"op": "add"}, BadRequest),
        ([{"path": "/spec"}], BadRequest),
    ],
)
def test_json_patch_refuses(ops, error):
    with pytest.raises(error):
        patches.json_patch(pod({"name": "a"}), ops)


def test_containers_merge_by_name_in_the_order_of_the_patch():
    doc = pod({"name": "a", "image": "1", "env": [{"name": "X", "value": "1"}]}, {"name": "b", "image": "2"})
    patched = merge(doc, {"spec": {"containers": [{"name": "c", "image": "3"}, {"name": "a", "image": "9", "env": [{"name": "Y", "value": "2"}]}]}})
    assert [c["name"] for c in patched["spec"]["containers"]] == ["c", "a", "b"]
    assert patched["spec"]["containers"][1] == {"name": "a", "image": "9", "env": [{"name": "Y", "value": "2"}, {"name": "X", "value": "1"}]}


def test_delete_and_replace_directives():
    doc = pod({"name": "a", "image": "1"}, {"name": "b", "image": "2"}, nodeSelector={"x": "y"})
    assert merge(doc, {"spec": {"containers": [{"$patch": "delete", "name": "a"}]}})["spec"]["containers"] == [{"name": "b", "image": "2"}]
    assert merge(doc, {"spec": {"containers": [{"name": "z", "image": "3"}, {"$patch": "replace"}]}})["spec"]["containers"] == [{"name": "z", "image": "3"}]
    assert merge(doc, {"spec": {"nodeSelector": {"$patch": "replace", "q": "r"}}})["spec"]["nodeSelector"] == {"q": "r"}
    assert merge(doc, {"spec": {"nodeSelector": {"$patch": "delete"}}})["spec"]["nodeSelector"] == {}


def test_retain_keys_clears_the_other_volume_source():
    doc = pod({"name": "a"}, volumes=[{"name": "v", "emptyDir": {}}])
    patched = merge(doc, {"spec": {"volumes": [{"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/x"}}]}})
    assert patched["spec"]["volumes"] == [{"name": "v", "hostPath": {"path": "/x"}}]
    with pytest.raises(BadRequest, match="retainKeys"):
        merge(doc, {"spec": {"volumes": [{"name": "v", "$retainKeys": ["name"], "hostPath": {"path": "/x"}}]}})


def test_retain_keys_of_a_strategy():
    deployment = {"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}}
    patched = merge(deployment, {"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}}, kinds.DEPLOYMENTS)
    assert patched["spec"]["strategy"] == {"type": "Recreate"}


def test_set_element_order_keeps_the_servers_own_in_their_place():
    doc = pod({"name": "a"}, {"name": "injected"}, {"name": "b"})
    order = {"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}, {"name": "c"}], "containers": [{"name": "c"}]}
    assert [c["name"] for c in merge(doc, {"spec": order})["spec"]["containers"]] == ["injected", "b", "a", "c"]


def test_primitive_lists_merge_and_delete():
    doc = {"metadata": {"finalizers": ["a", "b"]}}
    assert merge(doc, {"metadata": {"finalizers": ["c", "a"]}})["metadata"]["finalizers"] == ["c", "a", "b"]
    assert merge(doc, {"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"]}})["metadata"]["finalizers"] == ["b"]


def test_lists_without_a_merge_strategy_are_replaced():
    doc = pod({"name": "a", "command": ["x", "y"]}, tolerations=[{"key": "k"}])
    patched = merge(doc, {"spec": {"tolerations": [{"key": "q"}], "containers": [{"name": "a", "command": ["z"]}]}})
    assert patched["spec"]["tolerations"] == [{"key": "q"}]
    assert patched["spec"]["containers"][0]["command"] == ["z"]


def test_new_values_carry_neither_directives_nor_nulls():
    patched = merge(pod({"name": "a"}), {"spec": {"securityContext": {"runAsUser": None, "fsGroup": 1}, "volumes": [{"name": "v", "$retainKeys": ["name", "emptyDir"], "emptyDir": {}}]}})
    assert patched["spec"]["securityContext"] == {"fsGroup": 1}
    assert patched["spec"]["volumes"] == [{"name": "v", "emptyDir": {}}]


@pytest.mark.parametrize(
    "patch",
    [
        {"spec": {"containers": [{"image": "x"}]}},
        {"spec": {"containers": [{"name": "a", "$patch": "burn"}]}},
        {"spec": {"nodeSelector": {"$patch": "burn"}}},
        {"spec": {"containers": ["a", {"name": "b"}]}},
        {"metadata": {"$deleteFromPrimitiveList/finalizers": "a", "finalizers": []}, "spec": {"$retainKeys": 1}},
        [1],
    ],
)
def test_malformed_strategic_patches_are_refused(patch):
    with pytest.raises(BadRequest):
        merge(pod({"name": "a"}), patch)


def test_three_way_keeps_what_others_set_and_removes_what_was_applied():
    original = pod({"name": "a", "image": "1", "env": [{"name": "X", "value": "1"}]}, terminationGracePeriodSeconds=5)
    modified = pod({"name": "a", "image": "2"})
    current = copy.deepcopy(original)
    current["spec"]["containers"][0]["terminationMessagePath"] = "/dev/termination-log"
    current["spec"]["containers"].append({"name": "injected", "image": "i"})
    current["spec"]["nodeName"] = "n"
    patched = merge(current, patches.three_way_strategic(kinds.PODS, original, modified, current))
    assert patched["spec"] == {
        "containers": [{"name": "a", "image": "2", "terminationMessagePath": "/dev/termination-log"}, {"name": "injected", "image": "i"}],
        "nodeName": "n",
    }


def test_three_way_of_nothing_new_is_empty():
    applied = pod({"name": "a", "image": "1", "ports": [{"containerPort": 80}]}, volumes=[{"name": "v", "emptyDir": {}}])
    current = copy.deepcopy(applied)
    current["spec"]["containers"][0]["ports"][0]["protocol"] = "TCP"
    current["spec"]["restartPolicy"] = "Always"
    assert patches.three_way_strategic(kinds.PODS, applied, applied, current) == {}
    assert patches.three_way_merge(applied, applied, applied) == {}


def test_a_port_over_two_protocols_survives():
    def service(*ports):
        return {"spec": {"ports": list(ports)}}

    udp, tcp = {"port": 53, "protocol": "UDP", "name": "u"}, {"port": 53, "protocol": "TCP", "name": "t"}
    patch = patches.three_way_strategic(kinds.SERVICES, service(udp), service(udp, tcp), service(udp))
    assert patches.strategic_merge(kinds.SERVICES, service(udp), patch) == service(udp, tcp)


def test_a_patch_too_deep_is_a_bad_request():
    deep = {}
    for _ in range(5000):
        deep = {"a": deep}
    for apply in (patches.merge_patch, lambda doc, patch: patches.strategic_merge(kinds.PODS, doc, patch)):
        with pytest.raises(BadRequest, match="nested too deeply"):
            apply({}, {"x": deep})


# ---- properties

words = st.sampled_from(["a", "b", "c", "d", "e"])
labels = st.dictionaries(words, words, max_size=4)


def named(**fields):
    return st.lists(st.fixed_dictionaries({"name": words}, optional=fields), max_size=4, unique_by=lambda item: item["name"])


containers = named(
    image=words,
    command=st.lists(words, max_size=3),
    env=named(value=words),
    ports=st.lists(st.fixed_dictionaries({"containerPort": st.integers(1, 5)}, optional={"name": words}), max_size=3, unique_by=lambda p: p["containerPort"]),
    resources=st.fixed_dictionaries({}, optional={"limits": labels}),
)
volumes = st.lists(
    st.tuples(words, st.sampled_from([{"emptyDir": {}}, {"hostPath": {"path": "/x"}}, {"emptyDir": {"medium": "Memory"}}])).map(lambda v: {"name": v[0], **v[1]}),
    max_size=3, unique_by=lambda v: v["name"],
)
pods = st.fixed_dictionaries(
    {
        "metadata": st.fixed_dictionaries({"name": words}, optional={"labels": labels, "finalizers": st.lists(words, max_size=3, unique=True)}),
        "spec": st.fixed_dictionaries({}, optional={
            "containers": containers, "volumes": volumes, "nodeSelector": labels, "tolerations": st.lists(labels, max_size=2), "hostNetwork": st.booleans(),
        }),
    }
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(pods, pods)
def test_the_strategic_patch_from_a_to_b_gives_b(a, b):
    before = copy.deepcopy((a, b))
    patch = patches.three_way_strategic(kinds.PODS, a, b, a)
    assert patches.strategic_merge(kinds.PODS, a, patch) == b
    assert (a, b) == before
    assert bool(patch) == (a != b)


@settings(max_examples=200, deadline=None)
@given(pods, pods, pods)
def test_applying_a_strategic_patch_twice_is_applying_it_once(original, modified, current):
    patch = patches.three_way_strategic(kinds.PODS, original, modified, current)
    once = patches.strategic_merge(kinds.PODS, current, patch)
    assert patches.strategic_merge(kinds.PODS, once, patch) == once
    assert patches.three_way_strategic(kinds.PODS, modified, modified, once) == {}


json_values = st.recursive(st.booleans() | st.integers(0, 2) | words, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3), max_leaves=10)
json_objects = st.dictionaries(words, json_values, max_size=4)


@settings(max_examples=300, deadline=None)
@given(json_objects, json_objects)
def test_the_merge_patch_from_a_to_b_gives_b(a, b):
    patch = patches.three_way_merge(a, b, a)
    merged = patches.merge_patch(a, patch)
    assert patches.same(merged, b)
    assert patches.same(patches.merge_patch(merged, patch), merged)
