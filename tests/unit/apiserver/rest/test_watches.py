"""WATCH: starts, order, selectors, bookmarks, Tables, ends."""

import asyncio

import pytest

from apiserver.rest import watching

CMS = "/api/v1/namespaces/a/configmaps"
TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"


async def make(api, name, **labels):
    return await api.create(CMS, {"metadata": {"name": name, "labels": labels}})


async def relabel(api, name, **labels):
    answer = await api.request("PATCH", f"{CMS}/{name}", {"metadata": {"labels": labels}}, Content_Type="application/merge-patch+json")
    assert answer.status == 200, answer.body


async def revision(api):
    return (await api.request("GET", CMS)).json()["metadata"]["resourceVersion"]


async def test_from_a_revision_everything_after_it_in_order(api):
    await make(api, "before")
    stream = api.watch(f"{CMS}?watch=true&resourceVersion={await revision(api)}")
    await make(api, "x")
    await relabel(api, "x", a="b")
    await api.request("DELETE", f"{CMS}/x")
    assert await stream.events(3) == [("ADDED", "x"), ("MODIFIED", "x"), ("DELETED", "x")]
    assert stream.headers["content-type"] == "application/json"
    await stream.close()


@pytest.mark.parametrize("query", ["watch=1", "watch=true&resourceVersion=0"])
async def test_without_a_revision_the_present_state_comes_first(api, query):
    await make(api, "x")
    stream = api.watch(f"{CMS}?{query}")
    assert await stream.events(1) == [("ADDED", "x")]
    await make(api, "y")
    assert await stream.events(1) == [("ADDED", "y")]
    await stream.close()


async def test_an_object_that_leaves_the_selector_is_deleted_for_it(api):
    stream = api.watch(f"{CMS}?watch=1&labelSelector=in%3Dyes&resourceVersion={await revision(api)}")
    await make(api, "x", **{"in": "yes"})
    await relabel(api, "x", **{"in": "no"})
    await relabel(api, "x", **{"in": "yes"})
    await api.request("DELETE", f"{CMS}/x")
    first, gone, back, last = [await stream.event() for _ in range(4)]
    assert [event[0] for event in (first, gone, back, last)] == ["ADDED", "DELETED", "ADDED", "DELETED"]
    assert gone[1]["metadata"]["labels"] == {"in": "yes"}
    assert int(gone[1]["metadata"]["resourceVersion"]) > int(first[1]["metadata"]["resourceVersion"])
    await stream.close()


async def test_one_object_by_field_selector_or_path(api):
    for target in (f"{CMS}?watch=1&fieldSelector=metadata.name%3Dx", f"{CMS}/x?watch=1", "/api/v1/watch/namespaces/a/configmaps/x"):
        stream = api.watch(target)
        await make(api, "other")
        await make(api, "x")
        assert await stream.events(1) == [("ADDED", "x")]
        await stream.close()
        for name in ("x", "other"):
            await api.request("DELETE", f"{CMS}/{name}")


async def test_watch_list_ends_its_beginning_with_a_bookmark(api):
    await make(api, "x")
    stream = api.watch(f"{CMS}?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true")
    assert await stream.events(1) == [("ADDED", "x")]
    kind, bookmark = await stream.event()
    assert kind == "BOOKMARK"
    assert bookmark["kind"] == "ConfigMap"
    assert bookmark["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}
    assert int(bookmark["metadata"]["resourceVersion"]) >= int(await revision(api))
    await make(api, "y")
    assert await stream.events(1) == [("ADDED", "y")]
    await stream.close()


@pytest.mark.parametrize(
    "query",
    ["sendInitialEvents=true&allowWatchBookmarks=true", "sendInitialEvents=true&resourceVersionMatch=NotOlderThan", "resourceVersionMatch=NotOlderThan&resourceVersion=1"],
)  # fmt: skip
async def test_a_faulty_watch_list_is_invalid(api, query):
    assert (await api.request("GET", f"{CMS}?watch=1&{query}")).status == 422


async def test_timeout_seconds_ends_the_watch_cleanly_with_a_last_bookmark(api):
    at = await revision(api)
    stream = api.watch(f"{CMS}?watch=1&timeoutSeconds=1&allowWatchBookmarks=true&resourceVersion={at}")
    kind, bookmark = await stream.event()
    assert kind == "BOOKMARK"
    assert int(bookmark["metadata"]["resourceVersion"]) >= int(at)
    assert await stream.event() is None
    assert stream.task.exception() is None


async def test_bookmarks_come_by_themselves(api, monkeypatch):
    monkeypatch.setattr(watching, "BOOKMARK_INTERVAL_S", 0.05)
    at = await revision(api)
    with_them = api.watch(f"{CMS}?watch=1&allowWatchBookmarks=true&resourceVersion={at}")
    without = api.watch(f"{CMS}?watch=1&resourceVersion={at}")
    await api.create("/api/v1/namespaces/b/configmaps", {"metadata": {"name": "elsewhere"}})
    seen = int(at)
    while seen <= int(at):  # a bookmark tells of progress that this watch itself saw nothing of
        kind, bookmark = await with_them.event()
        assert kind == "BOOKMARK"
        seen = int(bookmark["metadata"]["resourceVersion"])
    await make(api, "x")
    assert await without.events(1) == [("ADDED", "x")]
    await with_them.close()
    await without.close()


async def test_tables_carry_their_columns_once(api):
    await make(api, "x")
    stream = api.watch(f"{CMS}?watch=1", Accept=TABLE)
    first = await stream.event()
    await make(api, "y")
    second = await stream.event()
    assert (first[0], first[1]["kind"], first[1]["rows"][0]["cells"][0]) == ("ADDED", "Table", "x")
    assert [column["name"] for column in first[1]["columnDefinitions"]] == ["Name", "Data", "Age"]
    assert (second[1]["columnDefinitions"], second[1]["rows"][0]["cells"][0]) == (None, "y")
    await stream.close()


async def test_metadata_only(api):
    await make(api, "x")
    stream = api.watch(f"{CMS}?watch=1", Accept="application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1")
    kind, obj = await stream.event()
    assert (kind, obj["kind"], obj["metadata"]["name"]) == ("ADDED", "PartialObjectMetadata", "x")
    await stream.close()


async def test_a_compacted_revision_is_an_error_event(api):
    await make(api, "x")
    await api.cache.stop()
    await api.store.compact(await api.store.revision())
    await api.cache.start()
    stream = api.watch(f"{CMS}?watch=1&resourceVersion=1")
    kind, status = await stream.event()
    assert (kind, status["code"], status["reason"]) == ("ERROR", 410, "Expired")
    assert await stream.event() is None
    assert stream.status == 200


async def test_the_servers_stop_ends_watches(api):
    streams = [api.watch(f"{CMS}?watch=1&resourceVersion={await revision(api)}") for _ in range(3)]
    while len(api.components.watchers) < 3:
        await asyncio.sleep(0)
    api.components.stop()
    for stream in streams:
        assert await stream.event() is None
    assert not api.components.watchers


async def test_a_client_that_leaves_leaves_nothing_behind(api):
    stream = api.watch(f"{CMS}?watch=1")
    await make(api, "x")
    await stream.events(1)
    await stream.close()
    assert not api.components.watchers


async def test_many_watchers_all_see_everything(api):
    at = await revision(api)
    streams = [api.watch(f"{CMS}?watch=1&resourceVersion={at}" + ("&labelSelector=odd%3D1" if n % 2 else "")) for n in range(20)]
    await asyncio.gather(*(make(api, f"x{n}", odd=str(n % 2)) for n in range(40)))
    for n, stream in enumerate(streams):
        seen = await stream.events(20 if n % 2 else 40)
        assert {name for _, name in seen} == {f"x{i}" for i in range(40) if not n % 2 or i % 2}
        await stream.close()
