from __future__ import annotations

import asyncio
import random

import pytest

from apiserver.api import kinds, types
from apiserver.client.backoff import Backoff
from apiserver.client.client import Client
from apiserver.client.informer import Informer
from tests.fakes.api import FakeApi


def cm(name: str, **data: str) -> dict:
    return {"metadata": {"name": name, "namespace": "default"}, "data": data}


class Replay:
    """Rebuilds the store from the handler's calls alone, and checks that every `old` is what the calls said before."""

    def __init__(self, informer: Informer) -> None:
        self.state: dict[str, dict] = {}
        self.calls = 0
        informer.add_handler(self)

    def __call__(self, old, new) -> None:
        self.calls += 1
        obj = old if new is None else new
        data = lambda o: o["data"] if isinstance(o, dict) else o.data  # noqa: E731
        name = obj["metadata"]["name"] if isinstance(obj, dict) else obj.metadata.name
        if old is None:
            assert name not in self.state
        elif new is not None:
            assert self.state[name] == data(old)
        if new is None:
            del self.state[name]
        else:
            self.state[name] = data(new)


async def converge(informer: Informer, api: FakeApi, replay: Replay) -> None:
    async with asyncio.timeout(10):
        while True:
            wanted = {o["metadata"]["name"]: o["data"] for o in api.all(kinds.CONFIGMAPS)}
            if replay.state == wanted and set(informer.store) == {f"default/{n}" for n in wanted}:
                return
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("decode", [None, types.ConfigMap])
async def test_list_then_watch(client: Client, api: FakeApi, decode) -> None:
    await api.put(kinds.CONFIGMAPS, cm("a", k="1"))
    informer = Informer(client, kinds.CONFIGMAPS, decode=decode)
    replay = Replay(informer)
    task = asyncio.ensure_future(informer.run())
    await informer.synced()
    assert replay.state == {"a": {"k": "1"}}
    await api.put(kinds.CONFIGMAPS, cm("b"))
    await api.put(kinds.CONFIGMAPS, cm("a", k="2"))
    await api.drop(kinds.CONFIGMAPS, "b", "default")
    await api.put(kinds.CONFIGMAPS, cm("c"))
    await converge(informer, api, replay)
    late = Replay(informer)
    assert late.state == replay.state
    task.cancel()


@pytest.mark.parametrize("seed", range(5))
async def test_no_change_is_lost_over_cuts_refusals_and_compactions(client: Client, api: FakeApi, seed: int) -> None:
    rng = random.Random(seed)
    informer = Informer(client, kinds.CONFIGMAPS, rng=random.Random(seed), backoff=Backoff(initial_s=0.001, max_s=0.02))
    replay = Replay(informer)
    task = asyncio.ensure_future(informer.run())
    await informer.synced()
    for n in range(120):
        name = f"n{rng.randrange(8)}"
        match rng.randrange(12):
            case 0:
                api.cut_watches()
            case 1:
                api.cut_watches()
                api.refuse.append((rng.choice([500, 503, 429]), {}))
            case 2:
                api.cut_watches()
                for _ in range(3):
                    await api.put(kinds.CONFIGMAPS, cm(name, n=str(n)))
                if api.read(kinds.CONFIGMAPS, name, "default"):
                    await api.drop(kinds.CONFIGMAPS, name, "default")
                api.compact()
            case 3 | 4 if api.read(kinds.CONFIGMAPS, name, "default"):
                await api.drop(kinds.CONFIGMAPS, name, "default")
            case _:
                await api.put(kinds.CONFIGMAPS, cm(name, n=str(n)))
        if rng.random() < 0.3:
            await asyncio.sleep(0.01)
    await converge(informer, api, replay)
    task.cancel()


async def test_a_handler_that_raises_stops_neither_the_others_nor_the_informer(client: Client, api: FakeApi) -> None:
    informer = Informer(client, kinds.CONFIGMAPS)
    informer.add_handler(lambda old, new: 1 / 0)
    replay = Replay(informer)
    task = asyncio.ensure_future(informer.run())
    await informer.synced()
    await api.put(kinds.CONFIGMAPS, cm("a"))
    await converge(informer, api, replay)
    task.cancel()


async def test_selection_goes_to_the_server(client: Client, api: FakeApi) -> None:
    await api.put(kinds.CONFIGMAPS, cm("a"))
    await api.put(kinds.CONFIGMAPS, cm("b"))
    informer = Informer(client, kinds.CONFIGMAPS, namespace="default", field_selector="metadata.name=b")
    task = asyncio.ensure_future(informer.run())
    await informer.synced()
    await api.put(kinds.CONFIGMAPS, cm("a", k="1"))
    await api.put(kinds.CONFIGMAPS, cm("b", k="1"))
    async with asyncio.timeout(5):
        while informer.store["default/b"]["data"] != {"k": "1"}:
            await asyncio.sleep(0.01)
    assert set(informer.store) == {"default/b"}
    task.cancel()


async def test_an_object_that_does_not_fit_the_view_is_left_out_and_nulls_count_as_absent(client: Client, api: FakeApi) -> None:
    await api.put(kinds.CONFIGMAPS, {"metadata": {"name": "bad", "namespace": "default"}, "data": {"k": 1}})
    await api.put(kinds.CONFIGMAPS, {"metadata": {"name": "null", "namespace": "default", "labels": None}, "data": {"k": "1"}})
    informer = Informer(client, kinds.CONFIGMAPS, decode=types.ConfigMap)
    task = asyncio.ensure_future(informer.run())
    await informer.synced()
    assert set(informer.store) == {"default/null"}
    await api.put(kinds.CONFIGMAPS, {"metadata": {"name": "bad2", "namespace": "default"}, "data": 5})
    await api.put(kinds.CONFIGMAPS, cm("good"))
    async with asyncio.timeout(5):
        while "default/good" not in informer.store:
            await asyncio.sleep(0.01)
    assert set(informer.store) == {"default/null", "default/good"}
    task.cancel()
