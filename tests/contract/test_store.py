"""The store's contract (apiserver/store/base.py), the same tests over every implementation."""

from __future__ import annotations

import asyncio
import contextlib
import random

import pytest

from apiserver.store import base

DEADLINE_S = 30


async def collect(store: base.Store, prefix: str, after: int, until: int | asyncio.Future[int], begun: asyncio.Event | None = None) -> list[base.Event]:
    """Events until everything ≤ `until` has been delivered, checking each batch's promises on the way. `begun` is set at the first batch."""
    events: list[base.Event] = []
    position = after
    async with asyncio.timeout(DEADLINE_S), contextlib.aclosing(store.watch(prefix, after)) as batches:
        async for batch in batches:
            revisions = [event.kv.mod_revision for event in batch.events]
            assert revisions == sorted(revisions), "events out of order"
            assert not revisions or revisions[0] > position, "a revision was delivered twice, or split over two batches"
            assert batch.revision >= max([position, *revisions]), "a batch's revision went back"
            events += batch.events
            position = batch.revision
            if begun is not None:
                begun.set()
            if position >= (until if isinstance(until, int) else until.result() if until.done() else 1 << 62):
                return events
    raise AssertionError("the watch ended by itself")


# create, get, update, delete


async def test_create_get(store: base.Store, prefix: str) -> None:
    before = await store.revision()
    revision = await store.create(prefix + "a", b"1")
    assert revision > before
    assert await store.get(prefix + "a") == base.KeyValue(prefix + "a", b"1", revision, revision)
    assert await store.get(prefix + "b") is None
    assert await store.revision() >= revision


async def test_empty_store_has_a_revision_clients_can_use(store: base.Store) -> None:
    assert await store.revision() >= 1  # "0" has a meaning of its own in Kubernetes' API


async def test_create_of_existing_key(store: base.Store, prefix: str) -> None:
    revision = await store.create(prefix + "a", b"1")
    with pytest.raises(base.KeyExists) as caught:
        await store.create(prefix + "a", b"2")
    assert caught.value.key == prefix + "a"
    assert await store.get(prefix + "a") == base.KeyValue(prefix + "a", b"1", revision, revision)


async def test_update_compares_and_swaps(store: base.Store, prefix: str) -> None:
    first = await store.create(prefix + "a", b"1")
    second = await store.update(prefix + "a", b"2", first)
    assert second > first
    assert await store.get(prefix + "a") == base.KeyValue(prefix + "a", b"2", first, second)
    with pytest.raises(base.RevisionMismatch) as caught:
        await store.update(prefix + "a", b"3", first)
    assert caught.value.current == base.KeyValue(prefix + "a", b"2", first, second)


@pytest.mark.parametrize("expected", [0, 1, 10**15])
async def test_update_of_missing_key_never_creates(store: base.Store, prefix: str, expected: int) -> None:
    with pytest.raises(base.RevisionMismatch) as caught:
        await store.update(prefix + "a", b"1", expected)
    assert caught.value.current is None
    assert await store.get(prefix + "a") is None


async def test_update_expecting_zero_is_refused(store: base.Store, prefix: str) -> None:
    revision = await store.create(prefix + "a", b"1")
    with pytest.raises(base.RevisionMismatch) as caught:
        await store.update(prefix + "a", b"2", 0)
    assert caught.value.current == base.KeyValue(prefix + "a", b"1", revision, revision)


async def test_delete_gives_the_previous_state(store: base.Store, prefix: str) -> None:
    first = await store.create(prefix + "a", b"1")
    second = await store.update(prefix + "a", b"2", first)
    with pytest.raises(base.RevisionMismatch) as caught:
        await store.delete(prefix + "a", first)
    assert caught.value.current == base.KeyValue(prefix + "a", b"2", first, second)
    previous, revision = await store.delete(prefix + "a", second)
    assert previous == base.KeyValue(prefix + "a", b"2", first, second)
    assert revision > second
    assert await store.get(prefix + "a") is None
    third = await store.create(prefix + "a", b"3")
    assert await store.get(prefix + "a") == base.KeyValue(prefix + "a", b"3", third, third)
    previous, _ = await store.delete(prefix + "a")
    assert previous.value == b"3"


@pytest.mark.parametrize("expected", [0, 7])
async def test_delete_of_missing_key(store: base.Store, prefix: str, expected: int) -> None:
    with pytest.raises(base.RevisionMismatch) as caught:
        await store.delete(prefix + "a", expected)
    assert caught.value.current is None


async def test_failed_writes_take_no_revision(store: base.Store, prefix: str) -> None:
    revision = await store.create(prefix + "a", b"1")
    for attempt in (store.create(prefix + "a", b""), store.update(prefix + "a", b"", 1), store.delete(prefix + "b"), store.delete(prefix + "a", 1)):
        with pytest.raises(base.StoreError):
            await attempt
    assert await collect(store, prefix, revision, await store.revision()) == []


async def test_values_large_empty_and_binary(store: base.Store, prefix: str) -> None:
    values = {"empty": b"", "zeros": b"\0" * 1000, "binary": bytes(range(256)) * 16, "large": random.Random(1).randbytes(1_200_000)}
    start = await store.revision()
    for name, value in values.items():
        await store.create(prefix + name, value)
    for name, value in values.items():
        got = await store.get(prefix + name)
        assert got is not None and got.value == value
    events = await collect(store, prefix, start, await store.revision())
    assert [event.kv.value for event in events] == list(values.values())


async def test_large_batches_pass_grpcs_own_limit(store: base.Store, prefix: str) -> None:
    start = await store.revision()
    value = random.Random(2).randbytes(1_000_000)
    for number in range(12):
        await store.create(f"{prefix}{number:02}", value)
    assert len((await store.range(prefix)).kvs) == 12
    assert [len(event.kv.value) for event in await collect(store, prefix, start, await store.revision())] == [1_000_000] * 12


async def test_unicode_keys_sort_by_their_utf8_bytes(store: base.Store, prefix: str) -> None:
    names = ["a", "z", "é", "日本", "\U0001f600", "\uffff", "a b", "a/b", "a\u0301", "Z", "~"]
    for name in names:
        await store.create(prefix + name, name.encode())
    result = await store.range(prefix)
    assert [kv.key for kv in result.kvs] == sorted((prefix + name for name in names), key=str.encode)
    assert all(kv.value == kv.key[len(prefix) :].encode() for kv in result.kvs)
    page = await store.range(prefix, start_after=prefix + "é", limit=1)
    assert [kv.key for kv in page.kvs] == [prefix + "日本"]


# ranges


async def test_range_by_pages_at_one_revision(store: base.Store, prefix: str) -> None:
    for number in range(25):
        await store.create(f"{prefix}{number:03}", b"old")
    await store.create(prefix[:-1] + "0/neighbour", b"")  # the byte after "/" is "0": just outside of the prefix
    first = await store.range(prefix, limit=10)
    assert (len(first.kvs), first.count) == (10, 25)
    kv = first.kvs[3]
    await store.update(kv.key, b"new", kv.mod_revision)
    await store.delete(f"{prefix}015")
    await store.create(f"{prefix}0155", b"later")
    second = await store.range(prefix, limit=10, start_after=first.kvs[-1].key, revision=first.revision)
    assert ([kv.key[-3:] for kv in second.kvs], second.count, second.revision) == ([f"{n:03}" for n in range(10, 20)], 15, first.revision)
    third = await store.range(prefix, limit=10, start_after=second.kvs[-1].key, revision=first.revision)
    assert ([kv.key[-3:] for kv in third.kvs], third.count) == ([f"{n:03}" for n in range(20, 25)], 5)
    old = await store.range(prefix, revision=first.revision)
    assert [kv.value for kv in old.kvs] == [b"old"] * 25
    now = await store.range(prefix)
    assert [kv.value for kv in now.kvs].count(b"new") == 1 and now.count == 25
    assert prefix + "015" not in [kv.key for kv in now.kvs]


async def test_range_edges(store: base.Store, prefix: str) -> None:
    empty = await store.range(prefix)
    assert (empty.kvs, empty.count) == ([], 0) and empty.revision >= 1
    await store.create(prefix + "a", b"")
    assert (await store.range(prefix, limit=1)).count == 1
    assert (await store.range(prefix, start_after=prefix + "a")).kvs == []
    assert (await store.range(prefix, start_after=prefix + "zzz", limit=3)).count == 0
    assert (await store.range(prefix, start_after="/zzz")).kvs == []
    assert [kv.key for kv in (await store.range(prefix, start_after="/a")).kvs] == [prefix + "a"]
    with pytest.raises(base.FutureRevision):
        await store.range(prefix, revision=await store.revision() + 1000)


async def test_every_past_state_can_be_read(store: base.Store, prefix: str) -> None:
    """A random history, replayed against a dict: each revision's range is the dict of that moment."""
    rng = random.Random(3)
    state: dict[str, tuple[bytes, int, int]] = {}
    history = {(await store.range(prefix)).revision: dict(state)}
    for step in range(120):
        key = f"{prefix}{rng.randrange(12)}"
        value = str(step).encode()
        if key not in state:
            revision = await store.create(key, value)
            state[key] = (value, revision, revision)
        elif rng.random() < 0.4:
            _, revision = await store.delete(key, state[key][2])
            del state[key]
        else:
            revision = await store.update(key, value, state[key][2])
            state[key] = (value, state[key][1], revision)
        history[revision] = dict(state)
    for revision, expected in history.items():
        result = await store.range(prefix, revision=revision)
        assert {kv.key: (kv.value, kv.create_revision, kv.mod_revision) for kv in result.kvs} == expected
        assert result.count == len(expected)


# races


async def test_one_of_many_creates_wins(store: base.Store, prefix: str) -> None:
    results = await asyncio.gather(*(store.create(prefix + "a", str(n).encode()) for n in range(50)), return_exceptions=True)
    won = [n for n, result in enumerate(results) if isinstance(result, int)]
    assert len(won) == 1
    assert all(isinstance(result, base.KeyExists) for n, result in enumerate(results) if n not in won)
    kv = await store.get(prefix + "a")
    assert kv is not None and kv.value == str(won[0]).encode() and kv.mod_revision == results[won[0]]


async def test_concurrent_increments_lose_nothing(store: base.Store, prefix: str) -> None:
    revision = await store.create(prefix + "n", b"0")

    async def increment() -> None:
        while True:
            kv = await store.get(prefix + "n")
            assert kv is not None
            with contextlib.suppress(base.RevisionMismatch):
                await store.update(prefix + "n", str(int(kv.value) + 1).encode(), kv.mod_revision)
                return

    async with asyncio.timeout(DEADLINE_S):
        await asyncio.gather(*(increment() for _ in range(20)))
    kv = await store.get(prefix + "n")
    assert kv is not None and kv.value == b"20"
    events = await collect(store, prefix, revision, kv.mod_revision)
    assert [int(event.kv.value) for event in events] == list(range(1, 21))


async def test_a_cancelled_caller_harms_nobody(store: base.Store, prefix: str) -> None:
    tasks = [asyncio.create_task(store.create(f"{prefix}{n}", b"")) for n in range(20)]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(result, int) for result in results[1::2])
    assert {kv.key for kv in (await store.range(prefix)).kvs} >= {f"{prefix}{n}" for n in range(1, 20, 2)}


# watches


async def test_watch_shows_states_and_previous_states(store: base.Store, prefix: str) -> None:
    start = await store.revision()
    first = await store.create(prefix + "a", b"1")
    second = await store.update(prefix + "a", b"2", first)
    _, third = await store.delete(prefix + "a")
    fourth = await store.create(prefix + "a", b"4")
    key = prefix + "a"
    one, two = base.KeyValue(key, b"1", first, first), base.KeyValue(key, b"2", first, second)
    expected = [
        base.Event("PUT", one, None),
        base.Event("PUT", two, one),
        base.Event("DELETE", base.KeyValue(key, b"", 0, third), two),
        base.Event("PUT", base.KeyValue(key, b"4", fourth, fourth), None),
    ]
    assert await collect(store, prefix, start, fourth) == expected
    assert await collect(store, prefix, second, fourth) == expected[2:]
    assert await collect(store, prefix, fourth, fourth) == []


async def test_watch_sees_only_its_prefix(store: base.Store, prefix: str) -> None:
    start = await store.revision()
    await store.create(prefix + "in/a", b"")
    await store.create(prefix + "inner", b"")
    last = await store.create(prefix + "in/b", b"")
    assert [event.kv.key for event in await collect(store, prefix + "in/", start, last)] == [prefix + "in/a", prefix + "in/b"]


async def test_idle_watch_gives_progress_marks(store: base.Store, prefix: str) -> None:
    """Also past revisions that changed other prefixes."""
    start = await store.create(prefix + "a", b"")
    async with asyncio.timeout(DEADLINE_S), contextlib.aclosing(store.watch(prefix, start)) as batches:
        first = await anext(batches)
        assert first.events == [] and first.revision >= start
        elsewhere = await store.create("/elsewhere" + prefix, b"")
        async for batch in batches:
            assert batch.events == []
            if batch.revision >= elsewhere:
                break


async def test_watch_from_a_revision_to_come(store: base.Store, prefix: str) -> None:
    start = await store.revision()
    watching = asyncio.create_task(collect(store, prefix, start + 3, start + 5))
    for n in range(5):
        await store.create(f"{prefix}{n}", b"")
    assert [event.kv.mod_revision for event in await watching] == [start + 4, start + 5]


async def test_watch_under_load_is_complete(store: base.Store, prefix: str) -> None:
    """Watchers that start at any moment of a busy history see exactly what came after."""
    start = await store.revision()
    written: list[int] = []

    async def write(worker: int) -> None:
        for n in range(60):
            revision = await store.create(f"{prefix}{worker}-{n}", b"x" * 100)
            if n % 3 == 0:
                revision = await store.update(f"{prefix}{worker}-{n}", b"y", revision)
            written.append(revision)

    async def watch_later(count: int) -> tuple[int, list[base.Event]]:
        while len(written) < count:
            await asyncio.sleep(0)
        after = await store.revision()
        await done.wait()
        return after, await collect(store, prefix, after, await store.revision())

    done = asyncio.Event()
    end: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    live = asyncio.create_task(collect(store, prefix, start, end))
    late = [asyncio.create_task(watch_later(count)) for count in (1, 100, 300)]
    async with asyncio.timeout(DEADLINE_S):
        await asyncio.gather(*(write(n) for n in range(8)))
        done.set()
        end.set_result(await store.revision())
        events = await live
        assert len(events) == len({event.kv.mod_revision for event in events}) == 8 * 80
        for task in late:
            after, tail = await task
            assert tail == [event for event in events if event.kv.mod_revision > after]


async def test_slow_reader_of_a_watch_loses_nothing(store: base.Store, prefix: str) -> None:
    start = await store.revision()
    async with asyncio.timeout(DEADLINE_S), contextlib.aclosing(store.watch(prefix, start)) as batches:
        assert (await anext(batches)).events == []
        await asyncio.gather(*(store.create(f"{prefix}{n}", b"") for n in range(500)))
        seen: list[int] = []
        async for batch in batches:
            seen += [event.kv.mod_revision for event in batch.events]
            if len(seen) >= 500:
                break
    assert seen == sorted(set(seen)) and len(seen) == 500


# compaction


async def test_compaction_forgets_the_past_only(store: base.Store, prefix: str) -> None:
    start = await store.revision()
    first = await store.create(prefix + "a", b"1")
    gone = await store.create(prefix + "gone", b"1")
    await store.delete(prefix + "gone")
    second = await store.update(prefix + "a", b"2", first)
    third = await store.update(prefix + "a", b"3", second)
    await store.compact(second)
    for revision in (start, gone):
        with pytest.raises(base.Compacted) as caught:
            await store.range(prefix, revision=revision)
        assert caught.value.compacted == second
        with pytest.raises(base.Compacted) as caught:
            await collect(store, prefix, revision, third)
        assert caught.value.compacted == second
    with pytest.raises(base.Compacted):
        await collect(store, prefix, second - 1, third)
    assert [kv.value for kv in (await store.range(prefix, revision=second)).kvs] == [b"2"]
    assert [kv.value for kv in (await store.range(prefix)).kvs] == [b"3"]
    [event] = await collect(store, prefix, second, third)
    assert event.prev is not None and event.prev.value == b"2"
    await store.compact(second)  # again: nothing to do
    await store.compact(first)


async def test_compaction_at_a_deletion_keeps_the_numbers_going(store: base.Store, prefix: str) -> None:
    await store.create(prefix + "a", b"1")
    _, deleted = await store.delete(prefix + "a")
    await store.compact(deleted)
    with pytest.raises(base.Compacted):
        await collect(store, prefix, deleted - 1, deleted)
    assert await store.revision() >= deleted
    assert (await store.range(prefix)).revision >= deleted
    assert await store.create(prefix + "b", b"") > deleted


async def test_compaction_of_the_future(store: base.Store) -> None:
    with pytest.raises(base.FutureRevision):
        await store.compact(await store.revision() + 1000)


async def test_running_watch_outlives_compaction(store: base.Store, prefix: str) -> None:
    begun, end = asyncio.Event(), asyncio.get_running_loop().create_future()
    watching = asyncio.create_task(collect(store, prefix, await store.revision(), end, begun))
    async with asyncio.timeout(DEADLINE_S):
        await begun.wait()
        for n in range(30):
            await asyncio.gather(*(store.create(f"{prefix}{n}-{m}", b"") for m in range(10)))
            if n % 10 == 9:
                await store.compact(await store.revision() - 5)
        end.set_result(await store.revision())
        events = await watching
    assert len(events) == 300


# TTL


async def test_ttl_deletes_with_an_event(store: base.Store, prefix: str) -> None:
    start = await store.revision()
    created = await store.create(prefix + "a", b"1", ttl_s=1)
    kept = await store.create(prefix + "kept", b"1", ttl_s=4)
    kept = await store.update(prefix + "kept", b"2", kept)  # without a TTL: stays
    longer = await store.create(prefix + "longer", b"1", ttl_s=4)
    longer = await store.update(prefix + "longer", b"2", longer, ttl_s=3600)
    assert await store.get(prefix + "a") is not None
    deletions = []
    async with asyncio.timeout(DEADLINE_S), contextlib.aclosing(store.watch(prefix, start)) as batches:
        async for batch in batches:
            deletions += [event for event in batch.events if event.type == "DELETE"]
            if deletions:
                break
    assert [event.prev for event in deletions] == [base.KeyValue(prefix + "a", b"1", created, created)]
    assert await store.get(prefix + "a") is None
    assert [kv.key for kv in (await store.range(prefix)).kvs] == [prefix + "kept", prefix + "longer"]


async def test_many_keys(store: base.Store, prefix: str) -> None:
    for chunk in range(10):
        await asyncio.gather(*(store.create(f"{prefix}{chunk}/{n:03}", b"v" * 200) for n in range(300)))
    everything = await store.range(prefix)
    assert everything.count == len(everything.kvs) == 3000
    names, last = [], ""
    while True:
        page = await store.range(prefix, limit=700, start_after=last, revision=everything.revision)
        names += [kv.key for kv in page.kvs]
        if len(page.kvs) == page.count:
            break
        last = names[-1]
    assert names == [kv.key for kv in everything.kvs]


async def test_closed_store_refuses(store: base.Store, prefix: str) -> None:
    async def follow() -> None:
        async for _ in store.watch(prefix, start):
            started.set()

    start, started = await store.revision(), asyncio.Event()
    watching = asyncio.create_task(follow())
    async with asyncio.timeout(DEADLINE_S):
        await started.wait()
        await store.close()
        with pytest.raises(base.StoreUnavailable):
            await watching
        with pytest.raises(base.StoreUnavailable):
            await store.create(prefix + "a", b"")
        with pytest.raises(base.StoreUnavailable):
            await store.get(prefix + "a")
        await store.close()
