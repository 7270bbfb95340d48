"""The verbs on kinds without rules of their own: metadata, conflicts, patches, dry run, finalizers."""

from __future__ import annotations

import asyncio

import orjson
import pytest

from apiserver.api import errors, kinds
from apiserver.registry import registry

CM, DEPLOYMENTS = kinds.CONFIGMAPS, kinds.DEPLOYMENTS


def config_map(name: str = "c", **data) -> dict:
    return {"metadata": {"name": name}, "data": data}


def deployment(name: str = "d", replicas: int = 1) -> dict:
    template = {"metadata": {"labels": {"app": name}}, "spec": {"containers": [{"name": "c", "image": "busybox:1"}]}}
    return {"metadata": {"name": name}, "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": name}}, "template": template}}


async def test_create_fills_the_metadata_and_get_gives_the_same_document(world):
    made = await world.create(CM, {**config_map(a="1"), "metadata": {"name": "c", "uid": "mine", "creationTimestamp": "2001-01-01T00:00:00Z", "labels": {"x": "y"}}})
    meta = made["metadata"]
    assert (made["apiVersion"], made["kind"]) == ("v1", "ConfigMap")
    assert meta["namespace"] == "default"
    assert meta["uid"] != "mine"
    assert meta["creationTimestamp"] == "2023-11-14T22:13:20Z"
    assert meta["labels"] == {"x": "y"}
    assert int(meta["resourceVersion"]) > 0
    assert await world.get(CM, "c") == made


@pytest.mark.parametrize(
    ("obj", "error", "text"),
    [
        ({"metadata": {"name": "c", "namespace": "other"}}, errors.BadRequest, "the namespace of the provided object does not match the namespace sent on the request"),
        ({"metadata": {"name": "c", "resourceVersion": "1"}}, errors.BadRequest, "resourceVersion should not be set"),
        ({"metadata": {}}, errors.Invalid, "name or generateName is required"),
        ({"metadata": {"name": "Not Valid"}}, errors.Invalid, "metadata.name"),
        ({"kind": "Secret", "metadata": {"name": "c"}}, errors.BadRequest, "kind in the data"),
        ({"metadata": {"name": "c"}, "date": {}}, errors.BadRequest, 'unknown field "date"'),
        ({"metadata": {"name": "c"}, "data": {"a": 1}}, errors.BadRequest, "data"),
        ({"metadata": []}, errors.BadRequest, "metadata"),
    ],
)
async def test_wrong_documents_are_refused_and_change_nothing(world, obj, error, text):
    before = await world.store.revision()
    with pytest.raises(error, match=text):
        await world.create(CM, obj)
    assert await world.store.revision() == before


async def test_unknown_fields_warn_where_they_are_not_forbidden(world):
    await world.create(CM, {**config_map(), "date": {}}, field_validation="Warn")
    assert world.contexts[-1].warnings == ['unknown field "date"']


async def test_generated_names(world):
    names = {(await world.create(CM, {"metadata": {"generateName": "job-"}}))["metadata"]["name"] for _ in range(20)}
    assert len(names) == 20
    assert all(name.startswith("job-") and len(name) == 9 for name in names)


async def test_creating_twice(world):
    await world.create(CM, config_map())
    with pytest.raises(errors.AlreadyExists, match='configmaps "c" already exists'):
        await world.create(CM, config_map())


async def test_a_missing_namespace_is_not_found(world):
    with pytest.raises(errors.NotFound, match='namespaces "nope" not found'):
        await world.create(CM, config_map(), namespace="nope")


async def test_update_keeps_what_a_client_may_not_change(world):
    made = await world.create(CM, config_map(a="1"))
    world.clock[0] += 100
    changed = await world.update(CM, {"metadata": {"name": "c", "labels": {"n": "1"}, "creationTimestamp": None}, "data": {"a": "2"}})
    assert changed["metadata"]["uid"] == made["metadata"]["uid"]
    assert changed["metadata"]["creationTimestamp"] == made["metadata"]["creationTimestamp"]
    assert changed["data"] == {"a": "2"}
    assert int(changed["metadata"]["resourceVersion"]) > int(made["metadata"]["resourceVersion"])


async def test_an_old_resource_version_conflicts(world):
    made = await world.create(CM, config_map(a="1"))
    await world.update(CM, {**made, "data": {"a": "2"}})
    with pytest.raises(errors.Conflict) as caught:
        await world.update(CM, {**made, "data": {"a": "3"}})
    assert caught.value.message == (
        'Operation cannot be fulfilled on configmaps "c": the object has been modified; please apply your changes to the latest version and try again'
    )
    with pytest.raises(errors.Conflict):
        await world.patch(CM, "c", {"metadata": {"resourceVersion": made["metadata"]["resourceVersion"]}, "data": {"a": "3"}})
    assert (await world.get(CM, "c"))["data"] == {"a": "2"}


async def test_updating_with_another_uid_or_name(world):
    made = await world.create(CM, config_map())
    with pytest.raises(errors.Conflict, match="Precondition failed: UID"):
        await world.update(CM, {"metadata": {"name": "c", "uid": "other"}})
    with pytest.raises(errors.BadRequest, match="does not match the name on the URL"):
        await world.registry.update(world.ctx(), CM, "default", "d", made) if await world.create(CM, config_map("d")) else None


async def test_nothing_is_written_where_nothing_changes(world):
    made = await world.create(CM, config_map(a="1"))
    before = await world.store.revision()
    assert await world.update(CM, made) == made
    assert await world.patch(CM, "c", {"data": {"a": "1"}}) == made
    assert await world.store.revision() == before


async def test_updating_what_is_not_there(world):
    with pytest.raises(errors.NotFound, match='configmaps "c" not found'):
        await world.update(CM, config_map())
    with pytest.raises(errors.NotFound):
        await world.patch(CM, "c", {"data": {}})
    with pytest.raises(errors.NotFound):
        await world.get(CM, "c")
    with pytest.raises(errors.NotFound):
        await world.delete(CM, "c")


async def test_put_creates_only_where_kubernetes_lets_it(world):
    role = {"metadata": {"name": "r"}, "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]}
    made = await world.update(kinds.ROLES, role)
    assert world.contexts[-1].created
    assert made["rules"] == role["rules"]
    await world.update(kinds.ROLES, {**made, "rules": []})
    assert not world.contexts[-1].created


async def test_a_lease_needs_its_version(world):
    lease = {"metadata": {"name": "n1"}, "spec": {"holderIdentity": "n1"}}
    made = await world.update(kinds.LEASES, lease, namespace="kube-node-lease")
    assert world.contexts[-1].created
    with pytest.raises(errors.Invalid, match=r"metadata.resourceVersion: .*must be specified for an update"):
        await world.update(kinds.LEASES, {**lease, "spec": {"holderIdentity": "n2"}}, namespace="kube-node-lease")
    await world.update(kinds.LEASES, {**made, "spec": {"holderIdentity": "n2"}}, namespace="kube-node-lease")


@pytest.mark.parametrize(
    ("kind", "patch", "expected"),
    [
        (registry.MERGE_PATCH, {"data": {"a": None, "b": "2"}}, {"b": "2"}),
        (registry.JSON_PATCH, [{"op": "replace", "path": "/data/a", "value": "9"}], {"a": "9"}),
        (registry.STRATEGIC_PATCH, {"data": {"c": "3"}}, {"a": "1", "c": "3"}),
    ],
)
async def test_patches(world, kind, patch, expected):
    await world.create(CM, config_map(a="1"))
    assert (await world.patch(CM, "c", patch, kind=kind))["data"] == expected


async def test_strategic_patches_merge_lists_by_key(world):
    await world.create(DEPLOYMENTS, deployment())
    added = {"spec": {"template": {"spec": {"containers": [{"name": "side", "image": "busybox:2"}]}}}}
    patched = await world.patch(DEPLOYMENTS, "d", added, kind=registry.STRATEGIC_PATCH)
    assert {c["name"] for c in patched["spec"]["template"]["spec"]["containers"]} == {"c", "side"}


@pytest.mark.parametrize(
    ("kind", "patch", "error"),
    [
        (registry.APPLY_PATCH, {}, errors.Invalid),
        ("text/plain", {}, errors.UnsupportedMediaType),
        (registry.JSON_PATCH, {}, errors.BadRequest),
        (registry.MERGE_PATCH, [], errors.BadRequest),
        (registry.MERGE_PATCH, {"metadata": {"name": "other"}}, errors.BadRequest),
        (registry.MERGE_PATCH, {"metadata": 3}, errors.BadRequest),
        (registry.MERGE_PATCH, {"nonsense": 3}, errors.BadRequest),
        (registry.JSON_PATCH, [{"op": "replace", "path": "", "value": 3}], errors.BadRequest),
    ],
)
async def test_wrong_patches(world, kind, patch, error):
    await world.create(CM, config_map(a="1"))
    with pytest.raises(error):
        await world.patch(CM, "c", patch, kind=kind)


async def test_patches_at_once_all_arrive(world):
    await world.create(CM, config_map())
    await asyncio.gather(*(world.patch(CM, "c", {"data": {f"k{i}": str(i)}}) for i in range(12)))
    assert len((await world.get(CM, "c"))["data"]) == 12


async def test_generation_follows_the_spec_and_status_is_apart(world):
    made = await world.create(DEPLOYMENTS, {**deployment(), "status": {"replicas": 5}})
    assert made["metadata"]["generation"] == 1
    assert "replicas" not in made["status"]
    scaled = await world.patch(DEPLOYMENTS, "d", {"spec": {"replicas": 3}, "status": {"replicas": 9}})
    assert scaled["metadata"]["generation"] == 2
    assert "replicas" not in scaled["status"]
    labelled = await world.patch(DEPLOYMENTS, "d", {"metadata": {"labels": {"a": "b"}, "generation": 40}})
    assert labelled["metadata"]["generation"] == 2
    status = {"status": {"replicas": 3, "observedGeneration": 2}, "spec": {"replicas": 50}, "metadata": {"labels": {"a": "c"}}}
    reported = await world.patch(DEPLOYMENTS, "d", status, sub="status")
    assert reported["status"] == status["status"]
    assert reported["spec"]["replicas"] == 3
    assert reported["metadata"]["labels"] == {"a": "b"}
    assert reported["metadata"]["generation"] == 2
    with pytest.raises(errors.BadRequest, match="unknown field"):
        await world.patch(DEPLOYMENTS, "d", {"status": {"replicaz": 3}}, sub="status")


async def test_scale(world):
    await world.create(DEPLOYMENTS, deployment(replicas=2))
    got = await world.get(DEPLOYMENTS, "d", sub="scale")
    assert (got["kind"], got["apiVersion"], got["spec"], got["status"]) == ("Scale", "autoscaling/v1", {"replicas": 2}, {"replicas": 0, "selector": "app=d"})
    patched = await world.patch(DEPLOYMENTS, "d", {"spec": {"replicas": 5}}, sub="scale")
    assert patched["spec"] == {"replicas": 5}
    assert (await world.get(DEPLOYMENTS, "d"))["metadata"]["generation"] == 2
    with pytest.raises(errors.Conflict):
        await world.update(DEPLOYMENTS, got, sub="scale")
    with pytest.raises(errors.Invalid, match=r"spec.replicas"):
        await world.patch(DEPLOYMENTS, "d", {"spec": {"replicas": -1}}, sub="scale")
    with pytest.raises(errors.NotFound):
        await world.patch(CM, "d", {"spec": {"replicas": 1}}, sub="scale")


async def test_dry_run_answers_and_writes_nothing(world):
    before = await world.store.revision()
    made = await world.create(CM, config_map(a="1"), dry_run=True)
    assert made["metadata"]["uid"]
    assert await world.store.revision() == before
    await world.create(CM, config_map(a="1"))
    before = await world.store.revision()
    assert (await world.patch(CM, "c", {"data": {"a": "2"}}, dry_run=True))["data"] == {"a": "2"}
    with pytest.raises(errors.AlreadyExists):
        await world.create(CM, config_map(a="1"), dry_run=True)
    _, finished = await world.delete(CM, "c", {"dryRun": ["All"]})
    assert finished
    assert await world.store.revision() == before


async def test_deleting_answers_a_status_and_finalizers_hold(world):
    made = await world.create(CM, config_map())
    status, finished = await world.delete(CM, "c", {"preconditions": {"uid": made["metadata"]["uid"]}})
    assert finished
    assert (status["kind"], status["status"], status["details"]) == ("Status", "Success", {"name": "c", "kind": "configmaps", "uid": made["metadata"]["uid"]})
    await world.create(CM, {"metadata": {"name": "c", "finalizers": ["example.com/x"]}})
    held, finished = await world.delete(CM, "c")
    assert not finished
    assert held["metadata"]["deletionTimestamp"]
    with pytest.raises(errors.Invalid, match="no new finalizers can be added"):
        await world.patch(CM, "c", {"metadata": {"finalizers": ["example.com/x", "example.com/y"]}})
    await world.patch(CM, "c", {"metadata": {"finalizers": None}})
    with pytest.raises(errors.NotFound):
        await world.get(CM, "c")


async def test_deleting_another_than_meant(world):
    await world.create(CM, config_map())
    with pytest.raises(errors.Conflict):
        await world.delete(CM, "c", {"preconditions": {"uid": "other"}})
    assert await world.get(CM, "c")


async def test_delete_collection_takes_what_is_selected(world):
    for i in range(5):
        await world.create(CM, {"metadata": {"name": f"c{i}", "labels": {"odd": str(i % 2)}}})
    await world.create(CM, config_map("other"), namespace="kube-system")
    found = orjson.loads(await world.registry.delete_collection(world.ctx(), CM, "default", {}, label_selector="odd=1"))
    assert [item["metadata"]["name"] for item in found["items"]] == ["c1", "c3"]
    assert found["kind"] == "ConfigMapList"
    assert await world.keys("/registry/configmaps/default/") == ["c0", "c2", "c4"]
    await world.registry.delete_collection(world.ctx(), CM, "default", {}, field_selector="metadata.name=c0")
    assert await world.keys("/registry/configmaps/default/") == ["c2", "c4"]
    assert await world.keys("/registry/configmaps/kube-system/") == ["other"]


async def test_owner_references_stay(world):
    owner = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d", "uid": "u", "controller": True, "blockOwnerDeletion": True}
    made = await world.create(CM, {"metadata": {"name": "c", "ownerReferences": [owner]}})
    assert made["metadata"]["ownerReferences"] == [owner]
    assert (await world.patch(CM, "c", {"data": {"a": "b"}}))["metadata"]["ownerReferences"] == [owner]


async def test_secrets_fold_string_data_and_immutable_stays(world):
    made = await world.create(kinds.SECRETS, {"metadata": {"name": "s"}, "stringData": {"k": "v"}, "immutable": True})
    assert made["data"] == {"k": "dg=="}
    assert "stringData" not in made
    with pytest.raises(errors.Invalid, match="field is immutable when `immutable` is set"):
        await world.patch(kinds.SECRETS, "s", {"stringData": {"k": "w"}})


async def test_an_event_is_one_key_under_both_groups_and_expires(world):
    event = {"metadata": {"name": "e"}, "involvedObject": {"kind": "Pod", "name": "p", "namespace": "default"}, "reason": "Started", "message": "m", "type": "Normal"}
    await world.create(kinds.EVENTS, event)
    other = await world.get(kinds.EVENTS_V1, "e")
    assert (other["apiVersion"], other["regarding"]["name"], other["note"]) == ("events.k8s.io/v1", "p", "m")
    patched = await world.patch(kinds.EVENTS_V1, "e", {"note": "n"})
    assert patched["note"] == "n"
    assert (await world.get(kinds.EVENTS, "e"))["message"] == "n"
    assert await world.keys("/registry/events/") == ["default/e"]


async def test_answered_kinds_are_not_stored(world):
    with pytest.raises(errors.MethodNotAllowed):
        await world.create(kinds.TOKENREVIEWS, {"metadata": {"name": "t"}})
