from __future__ import annotations

import contextlib

import pytest

from apiserver.api import errors, kinds
from apiserver.client.blocking import BlockingClient
from apiserver.client.client import Client
from apiserver.client.config import ClientConfig
from apiserver.client.inprocess import AsgiTransport
from apiserver.client.requests import path_for
from tests.fakes.api import FakeApi
from tests.fakes.http import serve

CM = {"metadata": {"name": "a", "namespace": "default"}, "data": {"k": "v"}}


@pytest.fixture(params=["sockets", "in-process"])
async def any_client(request, api: FakeApi):
    if request.param == "in-process":
        yield Client(transport=AsgiTransport(api))
        return
    async with serve(api) as url, Client(ClientConfig(url)) as c:
        yield c
        api.cut_watches()


async def test_verbs(any_client: Client) -> None:
    c = any_client
    made = await c.create(kinds.CONFIGMAPS, CM)
    assert made["metadata"]["uid"] and made["kind"] == "ConfigMap"
    with pytest.raises(errors.AlreadyExists, match='configmaps "a" already exists'):
        await c.create(kinds.CONFIGMAPS, CM)
    assert await c.get(kinds.CONFIGMAPS, "a", "default") == made
    changed = await c.patch(kinds.CONFIGMAPS, "a", {"data": {"k": None, "n": "1"}}, "default")
    assert changed["data"] == {"n": "1"}
    with pytest.raises(errors.Conflict):
        await c.update(kinds.CONFIGMAPS, made)
    assert (await c.update(kinds.CONFIGMAPS, {**changed, "data": {}}))["data"] == {}
    assert [o["metadata"]["name"] for o in (await c.list(kinds.CONFIGMAPS))["items"]] == ["a"]
    with pytest.raises(errors.Conflict):
        await c.delete(kinds.CONFIGMAPS, "a", "default", {"preconditions": {"uid": "other"}})
    await c.delete(kinds.CONFIGMAPS, "a", "default")
    with pytest.raises(errors.NotFound, match='configmaps "a" not found'):
        await c.get(kinds.CONFIGMAPS, "a", "default")


async def test_watch_streams_and_an_expired_one_raises(any_client: Client, api: FakeApi) -> None:
    await any_client.create(kinds.CONFIGMAPS, CM)
    async with contextlib.aclosing(any_client.watch(kinds.CONFIGMAPS, resource_version="100")) as events:
        kind, obj = await anext(events)
        assert (kind, obj["data"]) == ("ADDED", {"k": "v"})
        assert (await anext(events))[0] == "BOOKMARK"
        await any_client.delete(kinds.CONFIGMAPS, "a", "default")
        assert (await anext(events))[0] == "DELETED"
    api.compact()
    with pytest.raises(errors.Expired):
        async for _ in any_client.watch(kinds.CONFIGMAPS, resource_version="50"):
            pass


def test_names_that_are_no_path_segments_are_refused() -> None:
    assert path_for(kinds.PODS, "ns", "p", "status") == "/api/v1/namespaces/ns/pods/p/status"
    assert path_for(kinds.CLUSTERROLES, "", "system:node") == "/apis/rbac.authorization.k8s.io/v1/clusterroles/system%3Anode"
    for name in ("..", "a/b", "a%2fb"):
        with pytest.raises(ValueError, match="is not a name"):
            path_for(kinds.PODS, "ns", name)
    with pytest.raises(ValueError, match="a namespace is needed"):
        path_for(kinds.PODS, "", "x")


async def test_blocking_client_speaks_the_same(api: FakeApi) -> None:
    import asyncio

    async with serve(api) as url:

        def use() -> None:
            with BlockingClient(ClientConfig(url)) as c:
                made = c.create(kinds.CONFIGMAPS, CM)
                assert c.get(kinds.CONFIGMAPS, "a", "default") == made
                assert c.patch(kinds.CONFIGMAPS, "a", {"data": None}, "default").get("data") is None
                with pytest.raises(errors.AlreadyExists):
                    c.create(kinds.CONFIGMAPS, CM)
                watch = c.watch(kinds.CONFIGMAPS, resource_version="100")
                assert next(watch)[0] == "ADDED"
                watch.close()
                c.delete(kinds.CONFIGMAPS, "a", "default")
                with pytest.raises(errors.NotFound):
                    c.get(kinds.CONFIGMAPS, "a", "default")

        await asyncio.to_thread(use)
        api.cut_watches()


def test_blocking_client_names_an_unreachable_server() -> None:
    with pytest.raises(errors.Unavailable, match=r"cannot reach http://127.0.0.1:1: connection refused"):
        BlockingClient(ClientConfig("http://127.0.0.1:1")).get(kinds.PODS, "a", "b")


def test_blocking_client_stays_light() -> None:
    import subprocess
    import sys

    code = "import sys, apiserver.client.blocking, apiserver.client.kubeconfig; print(*sorted({'asyncio','ssl','orjson','msgspec','yaml','http.client'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == ""
