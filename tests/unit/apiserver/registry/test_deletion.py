"""plan_delete: the rules of grace, finalizers and propagation, as tables and as properties."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apiserver.api import errors, kinds, timestamps
from apiserver.registry import deletion
from apiserver.registry.strategies import cluster, pods, strategy, table

NOW = 1_700_000_000.0
POD = pods.PodStrategy(kinds.PODS, table.FLAGS[kinds.PODS])
PLAIN = strategy.Strategy(kinds.CONFIGMAPS, strategy.Flags())
NAMESPACE = cluster.NamespaceStrategy(kinds.NAMESPACES, table.FLAGS[kinds.NAMESPACES])


def pod(**changes) -> dict:
    meta = {"name": "p", "namespace": "default", "uid": "u1", "generation": 1, "resourceVersion": "7", **changes.pop("metadata", {})}
    return {"metadata": meta, "spec": {"nodeName": "n1", "terminationGracePeriodSeconds": 30, **changes.pop("spec", {})}, "status": {"phase": "Running", **changes.pop("status", {})}}


@pytest.mark.parametrize(
    ("obj", "grace", "expected"),
    [
        (pod(), None, 30),
        (pod(), 5, 5),
        (pod(), 0, None),
        (pod(), -1, 1),
        (pod(spec={"nodeName": ""}), None, None),
        (pod(spec={"nodeName": ""}), 60, None),
        (pod(status={"phase": "Succeeded"}), None, None),
        (pod(status={"phase": "Failed"}), 10, None),
        (pod(spec={"terminationGracePeriodSeconds": 0}), None, None),
    ],
)
def test_pods_are_given_their_grace_or_go_at_once(obj, grace, expected):
    plan = deletion.plan_delete(POD, obj, deletion.Options(grace_s=grace), NOW)
    if expected is None:
        assert plan == deletion.Remove()
        return
    assert isinstance(plan, deletion.Mark)
    meta = plan.obj["metadata"]
    assert meta["deletionGracePeriodSeconds"] == expected
    assert meta["deletionTimestamp"] == timestamps.format_time(NOW + expected)
    assert meta["generation"] == 2
    assert "deletionTimestamp" not in obj["metadata"]


def test_a_second_delete_only_shortens():
    marked = deletion.plan_delete(POD, pod(), deletion.Options(), NOW).obj
    assert deletion.plan_delete(POD, marked, deletion.Options(), NOW + 9) == deletion.Pending()
    assert deletion.plan_delete(POD, marked, deletion.Options(grace_s=60), NOW + 9) == deletion.Pending()
    shorter = deletion.plan_delete(POD, marked, deletion.Options(grace_s=10), NOW + 9).obj["metadata"]
    assert shorter["deletionTimestamp"] == timestamps.format_time(NOW + 10)
    assert deletion.plan_delete(POD, marked, deletion.Options(grace_s=0), NOW + 9) == deletion.Remove()


def test_a_finalizer_keeps_the_object_until_it_is_taken_away():
    obj = {"metadata": {"name": "c", "finalizers": ["a.b/c"]}}
    marked = deletion.plan_delete(PLAIN, obj, deletion.Options(), NOW).obj
    assert marked["metadata"]["deletionTimestamp"] == timestamps.format_time(NOW)
    assert marked["metadata"]["deletionGracePeriodSeconds"] == 0
    assert deletion.plan_delete(PLAIN, marked, deletion.Options(), NOW) == deletion.Pending()
    assert not deletion.vanishes(PLAIN, marked)
    freed = {"metadata": {**marked["metadata"], "finalizers": []}}
    assert deletion.vanishes(PLAIN, freed)
    assert not deletion.vanishes(PLAIN, {"metadata": {"name": "c"}})


def test_a_pod_with_grace_left_outlives_its_finalizers():
    marked = deletion.plan_delete(POD, pod(metadata={"finalizers": ["a.b/c"]}), deletion.Options(), NOW).obj
    freed = {**marked, "metadata": {**marked["metadata"], "finalizers": []}}
    assert not deletion.vanishes(POD, freed)
    ended = deletion.plan_delete(POD, marked, deletion.Options(grace_s=0), NOW).obj
    assert deletion.vanishes(POD, {**ended, "metadata": {**ended["metadata"], "finalizers": []}})


def test_a_namespace_waits_for_its_own_finalizer():
    obj = {"metadata": {"name": "n"}, "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}}
    marked = deletion.plan_delete(NAMESPACE, obj, deletion.Options(), NOW).obj
    assert marked["status"]["phase"] == "Terminating"
    assert deletion.plan_delete(NAMESPACE, marked, deletion.Options(), NOW) == deletion.Pending()
    assert deletion.vanishes(NAMESPACE, {**marked, "spec": {}})


@pytest.mark.parametrize(
    ("policy", "before", "after"),
    [
        ("Orphan", [], ["orphan"]),
        ("Foreground", [], ["foregroundDeletion"]),
        ("Orphan", ["foregroundDeletion", "x/y"], ["x/y", "orphan"]),
        ("Foreground", ["orphan"], ["foregroundDeletion"]),
        ("Background", ["orphan", "x/y"], ["x/y"]),
        ("", ["orphan"], ["orphan"]),
    ],
)
def test_propagation_policies_are_finalizers(policy, before, after):
    plan = deletion.plan_delete(PLAIN, {"metadata": {"name": "c", "finalizers": before}}, deletion.Options(policy=policy), NOW)
    assert plan.obj["metadata"]["finalizers"] == after


@pytest.mark.parametrize(
    ("body", "error", "text"),
    [
        ({"propagationPolicy": "Later"}, errors.Invalid, "propagationPolicy"),
        ({"propagationPolicy": "Orphan", "orphanDependents": True}, errors.Invalid, "cannot be both set"),
        ({"gracePeriodSeconds": "3"}, errors.BadRequest, "gracePeriodSeconds"),
        ({"dryRun": ["Some"]}, errors.Invalid, "dryRun"),
        ({"preconditions": {"uid": 3}}, errors.BadRequest, "preconditions"),
        ({"kind": "Pod"}, errors.BadRequest, "DeleteOptions"),
        (["x"], errors.BadRequest, "DeleteOptions"),
    ],
)
def test_wrong_options_are_refused_by_name(body, error, text):
    with pytest.raises(error, match=text):
        deletion.parse_options(body)


def test_preconditions():
    deletion.check_preconditions(kinds.PODS, "p", pod(), deletion.Options(uid="u1", resource_version="7"))
    with pytest.raises(errors.Conflict, match="the UID in the precondition"):
        deletion.check_preconditions(kinds.PODS, "p", pod(), deletion.Options(uid="u2"))
    with pytest.raises(errors.Conflict, match="the ResourceVersion in the precondition"):
        deletion.check_preconditions(kinds.PODS, "p", pod(), deletion.Options(resource_version="6"))


_OPTIONS = st.builds(deletion.Options, grace_s=st.none() | st.integers(-2, 90), policy=st.sampled_from(["", "Orphan", "Background", "Foreground"]))


@given(finalizers=st.lists(st.sampled_from(["a/b", "orphan", "foregroundDeletion"]), unique=True), steps=st.lists(_OPTIONS, min_size=1, max_size=6))
def test_no_sequence_of_deletes_removes_what_is_held_or_lengthens_the_grace(finalizers, steps):
    obj, end, first = pod(metadata={"finalizers": finalizers}), float("inf"), None
    for step, options in enumerate(steps):
        plan = deletion.plan_delete(POD, obj, options, NOW + step)
        if isinstance(plan, deletion.Remove):
            assert "a/b" not in finalizers
            return
        if isinstance(plan, deletion.Mark):
            obj = plan.obj
        meta = obj["metadata"]
        assert timestamps.parse(meta["deletionTimestamp"]) <= end
        end = timestamps.parse(meta["deletionTimestamp"])
        first = first or meta["generation"]
        assert meta["generation"] == first
        assert ("a/b" in finalizers) == ("a/b" in (meta.get("finalizers") or []))
        assert not {"orphan", "foregroundDeletion"} <= set(meta.get("finalizers") or []) or not any(o.policy for o in steps[: step + 1])
