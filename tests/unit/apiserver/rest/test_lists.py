"""GET and LIST: forms, selectors, pages, resourceVersion."""

import pytest

CMS = "/api/v1/namespaces/a/configmaps"
TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"


@pytest.fixture
async def five(api):
    for n in range(5):
        await api.create(CMS, {"metadata": {"name": f"c{n}", "labels": {"odd": str(n % 2), "n": str(n)}}, "data": {"n": str(n)}})
    return api


def names(answer):
    assert answer.status == 200, answer.body
    return [item["metadata"]["name"] for item in answer.json()["items"]]


async def test_get_is_the_whole_object_with_its_revision(five):
    obj = (await five.request("GET", f"{CMS}/c1")).json()
    assert (obj["kind"], obj["apiVersion"], obj["data"]) == ("ConfigMap", "v1", {"n": "1"})
    assert int(obj["metadata"]["resourceVersion"]) > 0
    missing = await five.request("GET", f"{CMS}/nope")
    assert (missing.status, missing.message) == (404, 'configmaps "nope" not found')
    assert missing.json()["details"] == {"name": "nope", "kind": "configmaps"}


async def test_a_list_says_its_revision_and_can_be_watched_from_there(five):
    listed = (await five.request("GET", CMS)).json()
    assert (listed["kind"], listed["apiVersion"]) == ("ConfigMapList", "v1")
    assert int(listed["metadata"]["resourceVersion"]) == max(int(item["metadata"]["resourceVersion"]) for item in listed["items"])


async def test_namespaces_are_apart_and_together(five):
    await five.create("/api/v1/namespaces/b/configmaps", {"metadata": {"name": "other"}})
    assert len(names(await five.request("GET", CMS))) == 5
    assert len(names(await five.request("GET", "/api/v1/configmaps"))) == 6
    assert names(await five.request("GET", "/api/v1/namespaces/nowhere/configmaps")) == []


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("labelSelector=odd%3D1", ["c1", "c3"]),
        ("labelSelector=odd%20in%20(0),n!=0", ["c2", "c4"]),
        ("labelSelector=!odd", []),
        ("fieldSelector=metadata.name%3Dc2", ["c2"]),
        ("fieldSelector=metadata.name!%3Dc2", ["c0", "c1", "c3", "c4"]),
        ("fieldSelector=metadata.name%3Dc2,metadata.name%3Dc3", []),
        ("fieldSelector=metadata.namespace%3Da&labelSelector=n%3D4", ["c4"]),
    ],
)
async def test_selectors(five, query, expected):
    assert names(await five.request("GET", f"{CMS}?{query}")) == expected


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("labelSelector=a%3D%3D%3Db", "unable to parse requirement"),
        ("fieldSelector=spec.foo%3Dx", "field label not supported: spec.foo"),
        ("fieldSelector=nonsense", "invalid selector"),
        ("limit=-1", "limit"),
        ("limit=x", "limit"),
        ("continue=nonsense", "continue key is not valid"),
        ("resourceVersion=x", "resourceVersion"),
    ],
)
async def test_what_cannot_be_asked_is_a_bad_request_that_names_it(five, query, text):
    answer = await five.request("GET", f"{CMS}?{query}")
    assert answer.status == 400
    assert text in answer.message


async def test_pages_show_one_state_even_when_it_changes(five):
    first = (await five.request("GET", f"{CMS}?limit=2")).json()
    assert first["metadata"]["remainingItemCount"] == 3
    await five.request("DELETE", f"{CMS}/c3")
    await five.create(CMS, {"metadata": {"name": "c9"}})
    second = (await five.request("GET", f"{CMS}?limit=2&continue={first['metadata']['continue']}")).json()
    third = (await five.request("GET", f"{CMS}?limit=2&continue={second['metadata']['continue']}")).json()
    assert [item["metadata"]["name"] for page in (first, second, third) for item in page["items"]] == ["c0", "c1", "c2", "c3", "c4"]
    assert {page["metadata"]["resourceVersion"] for page in (first, second, third)} == {first["metadata"]["resourceVersion"]}
    assert "continue" not in third["metadata"]


async def test_exact_and_not_older_than(five):
    revision = (await five.request("GET", CMS)).json()["metadata"]["resourceVersion"]
    await five.create(CMS, {"metadata": {"name": "later"}})
    assert "later" not in names(await five.request("GET", f"{CMS}?resourceVersion={revision}&resourceVersionMatch=Exact"))
    assert "later" in names(await five.request("GET", f"{CMS}?resourceVersion={revision}&resourceVersionMatch=NotOlderThan"))
    assert "later" in names(await five.request("GET", f"{CMS}?resourceVersion={revision}"))
    assert "later" not in names(await five.request("GET", f"{CMS}?resourceVersion={revision}&limit=10"))
    assert len(names(await five.request("GET", f"{CMS}?resourceVersion=0"))) >= 5


@pytest.mark.parametrize(
    "query", ["resourceVersionMatch=Exact", "resourceVersion=0&resourceVersionMatch=Exact", "resourceVersion=1&resourceVersionMatch=Sometimes"],
)
async def test_faulty_version_matches_are_invalid(five, query):
    answer = await five.request("GET", f"{CMS}?{query}")
    assert answer.status == 422
    assert "resourceVersionMatch" in answer.message


async def test_a_revision_that_is_gone_is_expired(five):
    revision = int((await five.request("GET", CMS)).json()["metadata"]["resourceVersion"])
    answer = await five.request("GET", f"{CMS}?resourceVersion={revision + 1000}")
    assert (answer.status, answer.json()["reason"]) == (504, "Timeout")


async def test_tables(five):
    table = (await five.request("GET", CMS, Accept=TABLE)).json()
    assert (table["kind"], table["apiVersion"]) == ("Table", "meta.k8s.io/v1")
    assert [column["name"] for column in table["columnDefinitions"]] == ["Name", "Data", "Age"]
    assert table["rows"][0]["cells"][:2] == ["c0", 1]
    assert table["rows"][0]["object"]["kind"] == "PartialObjectMetadata"
    assert table["rows"][0]["object"]["metadata"]["namespace"] == "a"
    whole = (await five.request("GET", f"{CMS}?includeObject=Object", Accept=TABLE)).json()
    assert whole["rows"][1]["object"]["data"] == {"n": "1"}
    bare = (await five.request("GET", f"{CMS}/c2?includeObject=None", Accept=TABLE)).json()
    assert [row["object"] for row in bare["rows"]] == [None]
    assert (await five.request("GET", f"{CMS}?includeObject=Some", Accept=TABLE)).status == 400


async def test_metadata_only(five):
    listed = (await five.request("GET", CMS, Accept="application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1")).json()
    assert listed["kind"] == "PartialObjectMetadataList"
    assert listed["items"][0].keys() == {"kind", "apiVersion", "metadata"}
    one = (await five.request("GET", f"{CMS}/c0", Accept="application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1")).json()
    assert (one["kind"], one["metadata"]["name"]) == ("PartialObjectMetadata", "c0")


async def test_yaml_and_pretty(five):
    answer = await five.request("GET", f"{CMS}/c0", Accept="application/yaml")
    assert answer.headers["content-type"] == "application/yaml"
    assert b"\n  name: c0\n" in answer.body
    assert (await five.request("GET", f"{CMS}/c0?pretty=true")).body.startswith(b'{\n  "')
    assert (await five.request("GET", f"{CMS}/c0", User_Agent="curl/8.0")).body.startswith(b'{\n  "')
    assert (await five.request("GET", f"{CMS}/c0?pretty=false", User_Agent="curl/8.0")).body.startswith(b'{"')


async def test_a_large_list_is_the_same_in_pieces(api):
    for n in range(950):
        key = f"/registry/configmaps/b/x{n:04d}"
        await api.store.create(key, b'{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x%04d","namespace":"b"}}' % n)
    answer = await api.request("GET", "/api/v1/namespaces/b/configmaps")
    assert names(answer) == [f"x{n:04d}" for n in range(950)]
    assert int(answer.headers["content-length"]) == len(answer.body)
    assert names(await api.request("GET", "/api/v1/namespaces/b/configmaps?limit=401"))[-1] == "x0400"


async def test_events_are_one_object_under_both_groups(api):
    event = {"metadata": {"name": "e"}, "involvedObject": {"kind": "Pod", "namespace": "a", "name": "p"}, "reason": "Tested", "message": "m", "type": "Normal"}
    await api.create("/api/v1/namespaces/a/events", event)
    new = (await api.request("GET", "/apis/events.k8s.io/v1/namespaces/a/events/e")).json()
    assert (new["apiVersion"], new["regarding"]["name"], new["note"]) == ("events.k8s.io/v1", "p", "m")
    listed = (await api.request("GET", "/apis/events.k8s.io/v1/events")).json()
    assert listed["items"][0]["apiVersion"] == "events.k8s.io/v1"
    assert names(await api.request("GET", "/api/v1/events?fieldSelector=involvedObject.name%3Dp,reason%3DTested")) == ["e"]


async def test_scale(api):
    spec = {"replicas": 3, "selector": {"matchLabels": {"x": "y"}}, "template": {"metadata": {"labels": {"x": "y"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}
    await api.create("/apis/apps/v1/namespaces/a/deployments", {"metadata": {"name": "d"}, "spec": spec})
    path = "/apis/apps/v1/namespaces/a/deployments/d/scale"
    scale = (await api.request("GET", path)).json()
    assert (scale["kind"], scale["spec"]["replicas"]) == ("Scale", 3)
    scale["spec"]["replicas"] = 1
    assert (await api.request("PUT", path, scale)).json()["spec"]["replicas"] == 1
    assert (await api.request("GET", path.removesuffix("/scale"))).json()["spec"]["replicas"] == 1
