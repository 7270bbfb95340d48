"""Server-side apply: ownership, conflicts, removal, and field sets as properties."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from apiserver.api import errors, kinds
from apiserver.registry import fieldsets, registry

DEPLOYMENTS, CM = kinds.DEPLOYMENTS, kinds.CONFIGMAPS


def deployment(replicas: int | None = 1, image: str = "busybox:1", **labels: str) -> dict:
    container = {"name": "c", "image": image, "ports": [{"containerPort": 80}]}
    template = {"metadata": {"labels": {"app": "d"}}, "spec": {"containers": [container]}}
    spec = {"selector": {"matchLabels": {"app": "d"}}, "template": template} | ({} if replicas is None else {"replicas": replicas})
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "labels": labels}, "spec": spec}


def config_map(**data) -> dict:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": data}


async def apply(world, resource, obj, manager="one", **kw):
    return await world.patch(resource, obj["metadata"]["name"], obj, kind=registry.APPLY_PATCH, field_manager=manager, **kw)


async def test_apply_creates_and_applying_again_writes_nothing(world):
    made = await apply(world, DEPLOYMENTS, deployment())
    assert world.contexts[-1].created
    [entry] = made["metadata"]["managedFields"]
    assert (entry["manager"], entry["operation"], entry["apiVersion"], entry["fieldsType"]) == ("one", "Apply", "apps/v1", "FieldsV1")
    containers = entry["fieldsV1"]["f:spec"]["f:template"]["f:spec"]["f:containers"]
    assert containers['k:{"name":"c"}']["f:ports"] == {'k:{"containerPort":80,"protocol":"TCP"}': {".": {}, "f:containerPort": {}}}
    before = await world.store.revision()
    world.clock[0] += 50
    assert await apply(world, DEPLOYMENTS, deployment()) == made
    assert await world.store.revision() == before
    assert not world.contexts[-1].created


async def test_what_is_no_longer_applied_goes_and_others_fields_stay(world):
    await apply(world, CM, config_map(a="1", b="1"))
    await apply(world, CM, config_map(b="1", c="2"), manager="two")
    await apply(world, CM, config_map())
    after = await world.get(CM, "c")
    assert after["data"] == {"b": "1", "c": "2"}
    await apply(world, CM, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}}, manager="two")
    assert "data" not in await world.get(CM, "c")


async def test_a_value_of_another_manager_conflicts_unless_forced(world):
    await apply(world, DEPLOYMENTS, deployment(replicas=1))
    with pytest.raises(errors.Conflict) as caught:
        await apply(world, DEPLOYMENTS, deployment(replicas=3), manager="two")
    assert caught.value.message == 'Apply failed with 1 conflict: conflict with "one": .spec.replicas'
    assert caught.value.details["causes"] == [{"reason": "FieldManagerConflict", "message": 'conflict with "one"', "field": ".spec.replicas"}]
    forced = await apply(world, DEPLOYMENTS, deployment(replicas=3), manager="two", force=True)
    assert forced["spec"]["replicas"] == 3
    with pytest.raises(errors.Conflict, match='conflict with "two"'):
        await apply(world, DEPLOYMENTS, deployment(replicas=1))
    await apply(world, DEPLOYMENTS, deployment(replicas=None))


async def test_an_ordinary_write_takes_the_fields_it_changes(world):
    await apply(world, DEPLOYMENTS, deployment(replicas=1))
    patched = await world.patch(DEPLOYMENTS, "d", {"spec": {"replicas": 5}}, field_manager="kubectl-edit")
    managers = {entry["manager"]: entry for entry in patched["metadata"]["managedFields"]}
    assert managers["kubectl-edit"]["fieldsV1"] == {"f:spec": {"f:replicas": {}}}
    assert "f:replicas" not in managers["one"]["fieldsV1"]["f:spec"]
    with pytest.raises(errors.Conflict, match=r'conflict with "kubectl-edit" using apps/v1: \.spec\.replicas'):
        await apply(world, DEPLOYMENTS, deployment(replicas=1))
    status = await world.patch(DEPLOYMENTS, "d", {"status": {"replicas": 5}}, sub="status", field_manager="controller")
    entry = next(e for e in status["metadata"]["managedFields"] if e["manager"] == "controller")
    assert (entry["subresource"], entry["fieldsV1"]) == ("status", {"f:status": {"f:replicas": {}}})


async def test_an_object_made_otherwise_belongs_to_before_first_apply(world):
    await world.create(CM, config_map(a="1"))
    assert "managedFields" not in (await world.get(CM, "c"))["metadata"]
    with pytest.raises(errors.Conflict, match="before-first-apply"):
        await apply(world, CM, config_map(a="2"))
    await apply(world, CM, config_map(a="1"))
    reset = await world.patch(CM, "c", {"metadata": {"managedFields": [{}]}})
    assert "managedFields" not in reset["metadata"]


async def test_kubectl_goes_on_server_side_with_what_it_applied_client_side(world):
    annotation = {"kubectl.kubernetes.io/last-applied-configuration": orjson.dumps(config_map(a="1")).decode()}
    await world.create(CM, {**config_map(a="1", b="1"), "metadata": {"name": "c", "annotations": annotation}})
    with pytest.raises(errors.Conflict, match=r"\.data\.a"):
        await apply(world, CM, config_map(a="2"), manager="other")
    with pytest.raises(errors.Conflict, match=r"\.data\.b"):
        await apply(world, CM, config_map(b="2"), manager="kubectl")
    assert (await apply(world, CM, config_map(a="2"), manager="kubectl"))["data"] == {"a": "2", "b": "1"}


async def test_list_items_are_merged_by_key(world):
    await apply(world, DEPLOYMENTS, deployment())
    side = {"name": "side", "image": "busybox:2"}
    obj = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": {"template": {"spec": {"containers": [side]}}}}
    both = await apply(world, DEPLOYMENTS, obj, manager="two")
    assert [c["name"] for c in both["spec"]["template"]["spec"]["containers"]] == ["c", "side"]
    obj["spec"]["template"]["spec"] = {}
    alone = await apply(world, DEPLOYMENTS, obj, manager="two")
    assert [c["name"] for c in alone["spec"]["template"]["spec"]["containers"]] == ["c"]


async def test_dry_run_and_wrong_configurations(world):
    await apply(world, CM, config_map(a="1"), dry_run=True)
    with pytest.raises(errors.NotFound):
        await world.get(CM, "c")
    for obj, kw, error in [
        (config_map(), {"manager": ""}, errors.Invalid),
        ({**config_map(), "kind": "Secret"}, {}, errors.BadRequest),
        ({**config_map(), "metadata": {"name": "c", "managedFields": [{"manager": "x"}]}}, {}, errors.BadRequest),
        ({**config_map(), "metadata": {"name": "c", "uid": "u"}}, {}, errors.Conflict),
        ({**config_map(), "date": {}}, {}, errors.BadRequest),
    ]:
        with pytest.raises(error):
            await apply(world, CM, obj, **kw)


_KIND = fieldsets.root(DEPLOYMENTS)
_CONTAINERS = st.lists(st.fixed_dictionaries({"name": st.sampled_from("abcd")}, optional={"image": st.sampled_from("xyz"), "args": st.lists(st.sampled_from("pq"))}), unique_by=lambda c: c["name"], max_size=4)
_DOCUMENTS = st.fixed_dictionaries(
    {"metadata": st.fixed_dictionaries({"labels": st.dictionaries(st.sampled_from("abc"), st.sampled_from("xy"))})},
    optional={"spec": st.fixed_dictionaries({"replicas": st.integers(0, 3), "template": st.fixed_dictionaries({"spec": st.fixed_dictionaries({"containers": _CONTAINERS})})})},
)


def _paths(doc: dict) -> dict:
    return {path: value for path, value in fieldsets.leaves(_KIND, doc) if path}


@given(live=_DOCUMENTS, applied=_DOCUMENTS)
def test_merging_sets_what_is_applied_and_keeps_the_rest(live, applied):
    before, wanted, after = _paths(live), _paths(applied), _paths(fieldsets.merged(_KIND, live, applied))
    for path, value in wanted.items():
        if value:
            assert after[path] == value
    for path, value in before.items():
        if value and path not in wanted:
            assert after[path] == value


@given(doc=_DOCUMENTS, data=st.data())
def test_removing_takes_exactly_the_paths_named(doc, data):
    paths = _paths(doc)
    gone = set(data.draw(st.lists(st.sampled_from(sorted(paths)), unique=True))) if paths else set()
    items = {path for path in gone if path[-1].startswith("k:")}
    left = _paths(fieldsets.without(_KIND, doc, gone) or {})
    keys = {path for path in paths if path[-1] == "f:name"}
    for path, value in paths.items():
        if path in gone - keys or any(path[: len(item)] == item for item in items):
            assert path not in left
        elif value not in ({}, []):
            assert path in left


@given(doc=_DOCUMENTS)
def test_fields_v1_round_trip(doc):
    paths = set(_paths(doc))
    assert fieldsets.decode(fieldsets.encode(paths)) == paths
