"""The watch cache over a real SQLite store."""

from __future__ import annotations

import asyncio
import contextlib
import pathlib
import random
from collections.abc import AsyncIterator, Callable
from typing import Any

import orjson
import pytest
import pytest_asyncio

from apiserver.store import base, codec
from apiserver.store.cache import Cache, Gone, Selection, View, Watcher, WatchEvent, WindowLimits
from apiserver.store.sqlite import SqliteStore

PODS = "/registry/pods/"
DEADLINE_S = 30


def pod(name: str, namespace: str = "default", *, node: str = "", phase: str = "Pending", **labels: str) -> bytes:
    spec = {"nodeName": node} if node else {}
    return codec.encode(
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": namespace, "labels": labels}, "spec": spec, "status": {"phase": phase}}
    )


class Faulty:
    """A store whose watches and reads can be made to fail; everything else goes through."""

    def __init__(self, store: SqliteStore) -> None:
        self._store = store
        self.watches = 0
        self.break_next: list[Exception] = []
        self.broken = asyncio.Event()
        self.batches: list[base.Batch] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def fail_watch(self, *errors: Exception) -> None:
        """Ends the running watch with the first error, and each attempt after it with the next."""
        self.break_next = list(errors)
        self.broken.set()

    async def watch(self, prefix: str, after_revision: int) -> AsyncIterator[base.Batch]:
        self.watches += 1
        if self.break_next:
            raise self.break_next.pop(0)
        async with contextlib.aclosing(self._store.watch(prefix, after_revision)) as batches:  # type: ignore[type-var]
            while True:
                following = asyncio.ensure_future(anext(batches))
                broken = asyncio.ensure_future(self.broken.wait())
                try:
                    await asyncio.wait({following, broken}, return_when=asyncio.FIRST_COMPLETED)
                    if self.broken.is_set():
                        self.broken.clear()
                        raise self.break_next.pop(0)
                    batch = following.result()
                finally:
                    broken.cancel()
                    following.cancel()
                    await asyncio.gather(following, return_exceptions=True)
                yield batch


@pytest_asyncio.fixture
async def store(tmp_path: pathlib.Path) -> AsyncIterator[Faulty]:
    sqlite = await SqliteStore.open(tmp_path / "store.db", progress_interval_s=0.1)
    yield Faulty(sqlite)
    await sqlite.close()


@pytest_asyncio.fixture
async def cache(store: Faulty) -> AsyncIterator[Cache]:
    cache = Cache(store)
    await cache.start()
    yield cache
    await cache.stop()


async def drain(watcher: Watcher, until: int) -> list[WatchEvent]:
    events: list[WatchEvent] = []
    async with asyncio.timeout(DEADLINE_S):
        while watcher.revision < until:
            events += await watcher.next(timeout_s=0.05)
    return events


def shown(events: list[WatchEvent]) -> list[tuple[str, str, int]]:
    return [(event.type, event.entry.name, event.revision) for event in events]


# reading


async def test_what_was_written_is_read_after_fresh(store: Faulty, cache: Cache) -> None:
    revision = await store.create(PODS + "default/a", pod("a", app="x"))
    assert await cache.fresh() >= revision
    entry = cache.get(PODS + "default/a")
    assert entry is not None
    assert (entry.key, entry.namespace, entry.name, entry.revision) == (PODS + "default/a", "default", "a", revision)
    assert orjson.loads(entry.data)["metadata"] == {"resourceVersion": str(revision), "name": "a", "namespace": "default", "labels": {"app": "x"}}
    assert entry.obj is entry.obj
    assert entry.obj["metadata"]["resourceVersion"] == str(revision)
    assert entry.labels == {"app": "x"}
    assert (entry.fields["status.phase"], entry.fields["metadata.name"], entry.fields["spec.nodeName"], entry.fields.get("no.such")) == ("Pending", "a", "", "")
    assert cache.get(PODS + "default/b") is None
    assert cache.get("/registry/nothing/b") is None


async def test_concurrent_fresh_calls_are_each_fresh(store: Faulty, cache: Cache) -> None:
    async def write_and_read(n: int) -> None:
        revision = await store.create(f"{PODS}default/{n}", pod(str(n)))
        assert await cache.fresh() >= revision
        assert cache.get(f"{PODS}default/{n}") is not None

    async with asyncio.timeout(DEADLINE_S):
        await asyncio.gather(*(write_and_read(n) for n in range(200)))


async def test_fresh_shares_slow_reads_but_never_one_that_began_before(store: Faulty, cache: Cache) -> None:
    gate, reads = asyncio.Event(), []

    async def slow_revision() -> int:
        reads.append(revision := await store._store.revision())
        await gate.wait()
        return revision

    store.revision = slow_revision  # type: ignore[method-assign]
    first = asyncio.create_task(cache.fresh())
    await asyncio.sleep(0)
    written = await store.create(PODS + "default/a", pod("a"))
    later = [asyncio.create_task(cache.fresh()) for _ in range(10)]
    await asyncio.sleep(0)
    gate.set()
    async with asyncio.timeout(DEADLINE_S):
        assert await first < written
        assert all(revision >= written for revision in await asyncio.gather(*later))
    assert len(reads) == 2


async def test_fields_as_kubernetes_sees_them(store: Faulty, cache: Cache) -> None:
    event = {"apiVersion": "v1", "kind": "Event", "metadata": {"name": "e"}, "involvedObject": {"name": "a", "kind": "Pod"}, "source": {"component": "kubelet"}, "count": 3}
    await store.create("/registry/events/default/e", codec.encode(event))
    await store.create("/registry/minions/n", codec.encode({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}, "spec": {"unschedulable": True}}))
    await cache.fresh()
    fields = cache.get("/registry/events/default/e").fields
    assert (fields["involvedObject.name"], fields["regarding.name"], fields["source"], fields["count"]) == ("a", "a", "kubelet", "3")
    assert cache.get("/registry/minions/n").fields["spec.unschedulable"] == "true"
    assert fields["spec.unschedulable"] == "false"
    assert {"involvedObject.kind", "count"} <= set(fields)


async def test_values_that_are_no_objects_are_kept_as_they_are(store: Faulty, cache: Cache) -> None:
    await store.create("/registry/ranges/clusterips/10.43.0.7", b"default/hello")
    await store.create(PODS + "default/bad", b'{"apiVersion":"v1","metadata":{"name": broken')
    await store.create(PODS + "default/good", pod("good", node="n1"))
    await cache.fresh()
    claim = cache.get("/registry/ranges/clusterips/10.43.0.7")
    assert claim is not None and claim.data == b"default/hello" and claim.obj == {} and claim.labels == {}
    assert [entry.name for entry in cache.list(PODS, Selection(node_name="n1")).entries] == ["good"]


async def test_decoded_objects_do_not_pile_up(store: Faulty, cache: Cache) -> None:
    for n in range(700):
        await store.create(f"/registry/configmaps/default/{n}", codec.encode({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": str(n), "labels": {"a": "b"}}}))
    await cache.fresh()
    entries = cache.list("/registry/configmaps/").entries
    assert all(entry.labels == {"a": "b"} for entry in entries)
    assert sum(entry._obj is not None for entry in entries) <= 512


async def test_list_by_namespace_name_node_and_match(store: Faulty, cache: Cache) -> None:
    for namespace, name, node in [("a", "x", "n1"), ("a", "y", "n2"), ("ab", "x", "n1"), ("b", "x", ""), ("b", "z", "n1")]:
        await store.create(f"{PODS}{namespace}/{name}", pod(name, namespace, node=node, tier=name))
    await cache.fresh()

    def found(**selection: Any) -> list[str]:
        result = cache.list(PODS, Selection(**selection))
        assert result.continue_ == "" and result.remaining == 0
        return [f"{entry.namespace}/{entry.name}" for entry in result.entries]

    assert found() == ["a/x", "a/y", "ab/x", "b/x", "b/z"]
    assert found(namespace="a") == ["a/x", "a/y"]
    assert found(name="x") == ["a/x", "ab/x", "b/x"]
    assert found(namespace="b", name="x") == ["b/x"]
    assert found(namespace="c", name="x") == []
    assert found(node_name="n1") == ["a/x", "ab/x", "b/z"]
    assert found(node_name="n1", namespace="a") == ["a/x"]
    assert found(node_name="n1", name="z") == ["b/z"]
    assert found(match=lambda entry: entry.labels["tier"] == "x") == ["a/x", "ab/x", "b/x"]
    assert cache.list("/registry/none/").entries == []


@pytest.mark.parametrize("matched", [False, True])
async def test_pages_show_one_revision(store: Faulty, cache: Cache, matched: bool) -> None:
    for n in range(30):
        await store.create(f"{PODS}default/{n:02}", pod(f"{n:02}", keep=str(n % 3)))
    await cache.fresh()
    selection = Selection(match=lambda entry: entry.labels["keep"] == "0") if matched else Selection()
    expected = [entry.data for entry in cache.list(PODS, selection).entries]
    pages: list[bytes] = []
    token, revisions = "", set()
    while True:
        page = cache.list(PODS, selection, limit=4, continue_token=token)
        pages += [entry.data for entry in page.entries]
        revisions.add(page.revision)
        assert page.remaining == (None if matched else len(expected) - len(pages)) or not page.continue_
        token = page.continue_
        if not token:
            break
        name = f"{random.Random(len(pages)).randrange(30):02}"  # meanwhile the world goes on
        if kv := await store.get(f"{PODS}default/{name}"):
            await store.delete(kv.key)
        await store.create(f"{PODS}default/{name}x{len(pages)}", pod(name + "x", keep="0"))
        await cache.fresh()
    assert pages == expected
    assert len(revisions) == 1
    assert cache.list(PODS, selection, revision=revisions.pop()).entries != cache.list(PODS, selection).entries


async def test_list_of_revisions_out_of_reach(store: Faulty) -> None:
    cache = Cache(store, limits=WindowLimits(changes=8))
    await cache.start()
    first = await store.create(PODS + "default/a", pod("a"))
    await cache.fresh()
    token = "eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6"
    for n in range(40):
        await store.create(f"{PODS}default/{n}", pod(str(n)))
        await cache.fresh()
    with pytest.raises(base.Compacted):
        cache.list(PODS, revision=first)
    with pytest.raises(base.Compacted):
        cache.watch(PODS, after_revision=first)
    with pytest.raises(base.FutureRevision, match="Too large resource version: 1000000"):
        cache.list(PODS, revision=1_000_000)
    for wrong in (token, "!", "e30", "eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6LTEsInN0YXJ0IjoiYSJ9", "eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6NX0", "\u00e9"):
        with pytest.raises(ValueError, match="continue key is not valid"):
            cache.list(PODS, continue_token=wrong)
    await cache.stop()


async def test_wait_for_gives_up(cache: Cache) -> None:
    with pytest.raises(base.FutureRevision):
        await cache.wait_for(10**12, timeout_s=0.05)
    assert cache._waiting == []


# watching


async def test_events_of_one_object(store: Faulty, cache: Cache) -> None:
    start = await cache.fresh()
    live = cache.watch(PODS, after_revision=start)
    first = await store.create(PODS + "default/a", pod("a"))
    second = await store.update(PODS + "default/a", pod("a", phase="Running"), first)
    _, third = await store.delete(PODS + "default/a")
    expected = [("ADDED", "a", first), ("MODIFIED", "a", second), ("DELETED", "a", third)]
    events = await drain(live, third)
    assert shown(events) == expected
    lines = [orjson.loads(event.line) for event in events]
    assert [line["type"] for line in lines] == ["ADDED", "MODIFIED", "DELETED"]
    assert lines[2]["object"]["status"] == {"phase": "Running"}  # the last state, at the deletion's revision
    assert [line["object"]["metadata"]["resourceVersion"] for line in lines] == [str(first), str(second), str(third)]
    assert all(event.line.endswith(b"}\n") for event in events)
    late = cache.watch(PODS, after_revision=first)
    assert shown(await drain(late, third)) == expected[1:]


async def test_watchers_share_events_and_bytes(store: Faulty, cache: Cache) -> None:
    start = await cache.fresh()
    evaluated = 0

    def match(entry: Any) -> bool:
        nonlocal evaluated
        evaluated += 1
        return bool(entry.labels)

    everybody = [cache.watch(PODS, after_revision=start) for _ in range(3)]
    selecting = [cache.watch(PODS, Selection(match=match, match_key="app"), after_revision=start) for _ in range(50)]
    last = await store.create(PODS + "default/a", pod("a", app="x"))
    drained = [(await drain(watcher, last))[0] for watcher in everybody + selecting]
    assert all(event.line is drained[0].line for event in drained)
    assert evaluated == 1


async def test_selector_semantics_of_coming_and_going(store: Faulty, cache: Cache) -> None:
    start = await cache.fresh()
    on_node = cache.watch(PODS, Selection(node_name="n1"), after_revision=start)
    running = cache.watch(PODS, Selection(match=lambda entry: entry.fields["status.phase"] == "Running", match_key="status.phase=Running"), after_revision=start)
    key = PODS + "default/a"
    r1 = await store.create(key, pod("a"))
    r2 = await store.update(key, pod("a", node="n1"), r1)
    r3 = await store.update(key, pod("a", node="n1", phase="Running"), r2)
    r4 = await store.update(key, pod("a", node="n1", phase="Failed"), r3)
    r5 = await store.update(key, pod("a", node="n2", phase="Running"), r4)
    _, r6 = await store.delete(key)
    events = await drain(on_node, r6)
    assert shown(events) == [("ADDED", "a", r2), ("MODIFIED", "a", r3), ("MODIFIED", "a", r4), ("DELETED", "a", r5)]
    gone = orjson.loads(events[-1].line)["object"]
    assert (gone["spec"]["nodeName"], gone["status"]["phase"], gone["metadata"]["resourceVersion"]) == ("n1", "Failed", str(r5))
    assert shown(await drain(running, r6)) == [("ADDED", "a", r3), ("DELETED", "a", r4), ("ADDED", "a", r5), ("DELETED", "a", r6)]


async def test_every_watcher_rebuilds_what_list_shows(store: Faulty, cache: Cache) -> None:
    """The property informers live by: list, then apply the events of a watch from its revision, gives the list of later; whatever the selector, whenever it begins."""
    rng = random.Random(5)
    selections: list[Callable[[], Selection]] = [
        Selection,
        lambda: Selection(namespace="a"),
        lambda: Selection(name="3"),
        lambda: Selection(namespace="b", name="3"),
        lambda: Selection(node_name="n1"),
        lambda: Selection(node_name="n2", namespace="a"),
        lambda: Selection(match=lambda entry: entry.labels.get("app") == "x", match_key="app=x"),
        lambda: Selection(namespace="b", match=lambda entry: entry.fields["status.phase"] == "Running"),
        lambda: Selection(node_name="n1", match=lambda entry: entry.labels.get("app") != "x", match_key="app!=x"),
    ]
    informers: list[tuple[Selection, dict[str, bytes], Watcher]] = []

    def start_informer() -> None:
        selection = rng.choice(selections)()
        listed = cache.list(PODS, selection)
        informers.append((selection, {entry.key: entry.data for entry in listed.entries}, cache.watch(PODS, selection, after_revision=listed.revision)))

    async def step() -> None:
        key_name, namespace = str(rng.randrange(6)), rng.choice("ab")
        key = f"{PODS}{namespace}/{key_name}"
        kv = await store.get(key)
        value = pod(key_name, namespace, node=rng.choice(["", "n1", "n2"]), phase=rng.choice(["Running", "Failed"]), app=rng.choice("xy"))
        if kv is None:
            await store.create(key, value)
        elif rng.random() < 0.3:
            await store.delete(key)
        else:
            await store.update(key, value, kv.mod_revision)

    for number in range(400):
        await step()
        if number % 3 == 0:
            start_informer()
        if number % 50 == 0:  # read some, close some
            await cache.fresh()
            for _, known, watcher in informers[::4]:
                _apply(known, await watcher.next(timeout_s=0))
            for _, _, watcher in informers[-3::2]:
                watcher.close()
    last = await cache.fresh()
    checked = 0
    for selection, known, watcher in informers:
        if not watcher._closed:
            _apply(known, await drain(watcher, last))
            assert known == {entry.key: entry.data for entry in cache.list(PODS, selection).entries}, selection
            checked += 1
            watcher.close()
    assert checked > 50
    assert cache._buckets[PODS]._feeds == {}, "feeds without watchers are held"


def _apply(known: dict[str, bytes], events: list[WatchEvent]) -> None:
    for event in events:
        if event.type == "DELETED":
            del known[event.entry.key]
        else:
            assert (event.entry.key in known) == (event.type == "MODIFIED")
            known[event.entry.key] = event.entry.data


async def test_bookmark_revisions_move_while_nothing_happens_here(store: Faulty, cache: Cache) -> None:
    watcher = cache.watch(PODS, Selection(namespace="quiet"), after_revision=await cache.fresh())
    elsewhere = await store.create("/registry/configmaps/default/a", codec.encode({"apiVersion": "v1", "kind": "ConfigMap"}))
    assert await drain(watcher, elsewhere) == []
    assert watcher.revision >= elsewhere


async def test_closing_ends_a_waiting_next(cache: Cache) -> None:
    watcher = cache.watch(PODS, after_revision=cache.revision)
    waiting = asyncio.create_task(watcher.next())
    await asyncio.sleep(0)
    watcher.close()
    watcher.close()
    async with asyncio.timeout(DEADLINE_S):
        assert await waiting == []
    assert await watcher.next() == []


async def test_slow_watcher_is_cut_off_and_others_are_not(store: Faulty) -> None:
    cache = Cache(store, limits=WindowLimits(changes=64))
    await cache.start()
    slow = cache.watch(PODS, after_revision=cache.revision)
    quick = cache.watch(PODS, after_revision=cache.revision)
    quiet = cache.watch(PODS, Selection(namespace="quiet"), after_revision=cache.revision)
    seen = 0
    async with asyncio.timeout(DEADLINE_S):
        for n in range(300):
            await store.create(f"{PODS}default/{n}", pod(str(n)))
            seen += len(await quick.next())
    assert seen == 300
    with pytest.raises(Gone):
        await slow.next()
    revision = await store.create(PODS + "quiet/a", pod("a", "quiet"))
    assert shown(await drain(quiet, revision)) == [("ADDED", "a", revision)]
    assert len(cache._buckets[PODS]._window) <= 64 + 1
    await cache.stop()


@pytest.mark.parametrize("limits", [WindowLimits(size_bytes=20_000), WindowLimits(age_s=10)])
async def test_window_is_bounded_by_size_and_age(store: Faulty, limits: WindowLimits) -> None:
    clock = 0.0
    cache = Cache(store, limits=limits, now=lambda: clock)
    await cache.start()
    for n in range(300):
        clock += 1
        await store.create(f"{PODS}default/{n}", pod(str(n)))
        await cache.fresh()
    bucket = cache._buckets[PODS]
    assert len(bucket._window) < 150
    assert sum(change.size_bytes for change in bucket._window) == bucket._window_bytes <= limits.size_bytes + 1000
    oldest = bucket.floor
    assert shown(await drain(cache.watch(PODS, after_revision=oldest), cache.revision)) == [("ADDED", str(n), n + 2) for n in range(oldest - 1, 300)]
    await cache.stop()


async def test_another_version_of_the_object(store: Faulty, cache: Cache) -> None:
    """Events are stored once and served under both of their API groups."""
    converted = 0

    def convert(obj: dict[str, Any]) -> dict[str, Any]:
        nonlocal converted
        converted += 1
        return {"apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": obj["metadata"], "regarding": obj["involvedObject"]}

    view = View("events.k8s.io/v1", convert)
    prefix, key = "/registry/events/", "/registry/events/default/e"
    start = await cache.fresh()
    watchers = [cache.watch(prefix, Selection(view=view), after_revision=start) for _ in range(3)]
    created = await store.create(key, codec.encode({"apiVersion": "v1", "kind": "Event", "metadata": {"name": "e"}, "involvedObject": {"name": "p"}}))
    expected = {"apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "e", "resourceVersion": str(created)}, "regarding": {"name": "p"}}
    for watcher in watchers:
        assert [orjson.loads(event.line)["object"] for event in await drain(watcher, created)] == [expected]
    assert [orjson.loads(entry.data) for entry in cache.list(prefix, Selection(view=view)).entries] == [expected]
    assert orjson.loads(cache.list(prefix).entries[0].data)["apiVersion"] == "v1"
    assert converted == 1
    _, deleted = await store.delete(key)
    [event] = await drain(watchers[0], deleted)
    assert event.type == "DELETED" and orjson.loads(event.line)["object"]["metadata"]["resourceVersion"] == str(deleted)


# faults


async def test_store_errors_interrupt_nothing(store: Faulty, cache: Cache) -> None:
    watcher = cache.watch(PODS, after_revision=await cache.fresh())
    first = await store.create(PODS + "default/a", pod("a"))
    await cache.fresh()
    store.fail_watch(base.StoreUnavailable("gone"), base.StoreUnavailable("still gone"))
    second = await store.create(PODS + "default/b", pod("b"))
    assert shown(await drain(watcher, second)) == [("ADDED", "a", first), ("ADDED", "b", second)]
    assert await cache.fresh() >= second
    assert store.watches == 3


async def test_compaction_under_the_cache_loads_anew_and_says_so(store: Faulty, cache: Cache) -> None:
    first = await store.create(PODS + "default/a", pod("a"))
    await store.create(PODS + "default/b", pod("b", node="n1"))
    start = await cache.fresh()
    watcher = cache.watch(PODS, after_revision=start)
    store.fail_watch(base.StoreUnavailable("cut"), base.Compacted(0))
    await store.delete(PODS + "default/a")
    last = await store.create(PODS + "default/c", pod("c"))
    await store.compact(last)
    async with asyncio.timeout(DEADLINE_S):
        with pytest.raises(Gone):
            while True:
                await watcher.next()
        await cache.wait_for(last)
    assert [entry.name for entry in cache.list(PODS).entries] == ["b", "c"]
    assert [entry.name for entry in cache.list(PODS, Selection(node_name="n1")).entries] == ["b"]
    with pytest.raises(base.Compacted):
        cache.watch(PODS, after_revision=first)
    again = cache.watch(PODS, after_revision=last)
    revision = await store.create(PODS + "default/d", pod("d"))
    assert shown(await drain(again, revision)) == [("ADDED", "d", revision)]


async def test_a_restart_keeps_watches_going(store: Faulty) -> None:
    """A client that watched until `seen` goes on at a new server's cache without a new list."""
    first = Cache(store)
    await first.start()
    seen = await store.create(PODS + "default/a", pod("a"))
    await store.create(PODS + "default/b", pod("b"))
    _, last = await store.delete(PODS + "default/a")
    await first.stop()
    second = Cache(store)
    await second.start()
    assert second.revision >= last
    assert [(event.type, event.entry.name) for event in await drain(second.watch(PODS, after_revision=seen), last)] == [("ADDED", "b"), ("DELETED", "a")]
    await second.stop()


async def test_start_reaches_back_as_far_as_compaction_lets_it(store: Faulty) -> None:
    revisions = [await store.create(f"{PODS}default/{n}", pod(str(n))) for n in range(20)]
    await store.compact(revisions[10])
    cache = Cache(store)
    await cache.start()
    assert len(cache.list(PODS).entries) == 20
    assert shown(await drain(cache.watch(PODS, after_revision=revisions[15]), revisions[-1])) == [("ADDED", str(n), revisions[n]) for n in range(16, 20)]
    with pytest.raises(base.Compacted):
        cache.watch(PODS, after_revision=revisions[9])
    await cache.stop()


async def test_fresh_says_when_the_store_does_not_answer(tmp_path: pathlib.Path) -> None:
    store = await SqliteStore.open(tmp_path / "other.db")
    cache = Cache(store)
    await cache.start()
    await store.create(PODS + "default/a", pod("a"))
    await cache.fresh()
    await store.close()
    with pytest.raises(base.StoreUnavailable):
        await cache.fresh()
    assert cache.get(PODS + "default/a") is not None  # what it has, it still shows
    await cache.stop()
