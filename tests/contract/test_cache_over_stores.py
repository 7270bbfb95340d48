"""The watch cache over each store, where the store's own behaviour shows: consistent reads, foreign writes, two caches on one store, a cut connection."""

from __future__ import annotations

import asyncio
import contextlib

from apiserver.store import base, codec
from apiserver.store.cache import Cache, Selection, Watcher
from apiserver.store.etcd import EtcdStore
from tests.contract.etcd_server import EtcdServer, Proxy

DEADLINE_S = 60


def config_map(name: str, data: str) -> bytes:
    return codec.encode({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"v": data}})


async def follow(watcher: Watcher, known: dict[str, bytes], until: asyncio.Future[int]) -> None:
    while not (until.done() and watcher.revision >= until.result()):
        for event in await watcher.next(timeout_s=0.1):
            if event.type == "DELETED":
                del known[event.entry.key]
            else:
                assert (event.entry.key in known) == (event.type == "MODIFIED")
                known[event.entry.key] = event.entry.data


async def test_reads_after_fresh_see_every_acknowledged_write(store: base.Store, prefix: str) -> None:
    """While others write elsewhere in the same store, outside of what the cache watches."""
    cache = Cache(store, prefix=prefix)
    await cache.start()
    done = asyncio.Event()

    async def write_elsewhere() -> None:
        number = 0
        while not done.is_set():
            await store.create(f"/elsewhere{prefix}{number}", b"")
            number += 1
            await asyncio.sleep(0.002)

    async def write_and_read(worker: int) -> None:
        for n in range(25):
            key = f"{prefix}{worker}-{n}"
            revision = await store.create(key, config_map(key, "1"))
            assert await cache.fresh() >= revision
            entry = cache.get(key)
            assert entry is not None and entry.revision == revision, "a consistent read missed an acknowledged write"
            await store.delete(key, revision)
            await cache.fresh()
            assert cache.get(key) is None

    async with asyncio.timeout(DEADLINE_S):
        noise = asyncio.create_task(write_elsewhere())
        await asyncio.gather(*(write_and_read(n) for n in range(8)))
        done.set()
        await noise
    await cache.stop()


async def test_list_and_watch_agree_with_the_store(store: base.Store, prefix: str) -> None:
    cache = Cache(store, prefix=prefix)
    await cache.start()
    directory = prefix + "ns/"  # one resource: its prefix is the directory two levels down
    resource = "/".join(prefix.split("/")[:3]) + "/"
    end: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    known: dict[str, bytes] = {}
    following = asyncio.create_task(follow(cache.watch(resource, Selection(), after_revision=cache.revision), known, end))

    async def write(worker: int) -> None:
        for n in range(40):
            key = f"{directory}{worker}-{n % 7}"
            kv = await store.get(key)
            if kv is None:
                await store.create(key, config_map(key, str(n)))
            elif n % 3:
                await store.update(key, config_map(key, str(n)), kv.mod_revision)
            else:
                await store.delete(key)

    async with asyncio.timeout(DEADLINE_S):
        await asyncio.gather(*(write(n) for n in range(8)))
        end.set_result(await cache.fresh())
        await following
    stored = {kv.key: codec.splice(kv.value, kv.mod_revision) for kv in (await store.range(prefix)).kvs}
    assert known == stored
    assert {entry.key: entry.data for entry in cache.list(resource).entries} == stored
    await cache.stop()


async def test_a_new_cache_offers_recent_history(store: base.Store, prefix: str) -> None:
    seen = await store.create(prefix + "a", config_map("a", "1"))
    updated = await store.update(prefix + "a", config_map("a", "2"), seen)
    _, deleted = await store.delete(prefix + "a")
    cache = Cache(store, prefix=prefix)
    await cache.start()
    async with asyncio.timeout(DEADLINE_S):
        events = await cache.watch(prefix, after_revision=seen).next()
    assert [(event.type, event.revision) for event in events] == [("MODIFIED", updated), ("DELETED", deleted)]
    await cache.stop()


async def test_two_servers_on_one_etcd_through_cut_connections(etcd_server: EtcdServer, prefix: str) -> None:
    """Each writes through its own store and reads through its own cache; one of them is cut off again and again. Both end with the same picture, and so do their clients."""
    proxy = Proxy(etcd_server.port)
    await proxy.start()
    stores = [await EtcdStore.open(etcd_server.endpoint), await EtcdStore.open(f"http://127.0.0.1:{proxy.port}")]
    caches = [Cache(store, prefix=prefix) for store in stores]
    for cache in caches:
        await cache.start()
    end: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    pictures: list[dict[str, bytes]] = [{}, {}]
    following = [asyncio.create_task(follow(cache.watch(prefix, after_revision=cache.revision), known, end)) for cache, known in zip(caches, pictures)]

    async def write(store: EtcdStore, worker: int) -> None:
        for n in range(100):
            with contextlib.suppress(base.StoreError):  # through the cut connection writes may fail: their outcome is what the watch shows
                kv = await store.get(f"{prefix}{n % 11}")
                if kv is None:
                    await store.create(f"{prefix}{n % 11}", config_map(str(n), str(worker)))
                elif n % 4:
                    await store.update(kv.key, config_map(str(n), str(worker)), kv.mod_revision)
                else:
                    await store.delete(kv.key, kv.mod_revision)
            if n % 20 == worker:
                proxy.cut()

    async with asyncio.timeout(DEADLINE_S):
        await asyncio.gather(*(write(stores[worker % 2], worker) for worker in range(6)))
        end.set_result(max([await cache.fresh() for cache in caches]))
        await asyncio.gather(*following)
    stored = {kv.key: codec.splice(kv.value, kv.mod_revision) for kv in (await stores[0].range(prefix)).kvs}
    assert pictures == [stored, stored]
    assert proxy.accepted >= 3
    for cache, store in zip(caches, stores):
        await cache.stop()
        await store.close()
    await proxy.stop()
