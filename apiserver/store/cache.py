"""The watch cache: one store watch over `/registry/` feeds an index per resource, from which every GET, LIST and WATCH is served. Owns the in-memory picture and the
window of past events; refuses to write. The registry reads and waits through it, REST streams from its watchers.

Errors: Compacted (also Gone, its subclass) → 410 Expired; FutureRevision → 504 Timeout "Too large resource version"; StoreUnavailable → 503.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import logging
import time
from collections.abc import Callable

from apiserver.store import base, keys
from apiserver.store.bucket import Bucket, ListResult, WindowLimits, decode_continue
from apiserver.store.entries import Decoded, Entry, View, WatchEvent
from apiserver.store.feeds import EVERYTHING, Change, Feed, Gone, Match, Selection, Watcher

__all__ = ["EVERYTHING", "Cache", "Entry", "Gone", "ListResult", "Match", "Selection", "View", "WatchEvent", "Watcher", "WindowLimits"]

log = logging.getLogger("cache")

_PODS = "/registry/pods/"
_LOAD_PAGE = 2000
_FRESH_TIMEOUT_S = 5.0
_MAX_BACKOFF_S = 5.0


class Cache:
    """`revision`: the newest revision the cache has seen. All methods but start, stop, fresh and wait_for are synchronous and never touch the store."""

    def __init__(
        self, store: base.Store, *, prefix: str = "/registry/", limits: WindowLimits | None = None, replay: int = 2000,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """`replay`: how many of the last revisions a start reads again from the store's history, so that clients of a restarted server can go on with their watches."""
        self.revision = 0
        self._store = store
        self._prefix = prefix
        self._limits = limits or WindowLimits()
        self._replay = replay
        self._now = now
        self._buckets: dict[str, Bucket] = {}
        self._floor = 0
        self._decoded = Decoded()
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._sequence = itertools.count()
        self._task: asyncio.Task[None] | None = None
        self._reading: asyncio.Future[None] | None = None
        self._shared_read: asyncio.Task[int] | None = None
        self._next_trim_s = 0.0
        self._stopping = False
        self._grown: set[Bucket] = set()

    async def start(self) -> None:
        """Loads everything, then follows the store in a task of its own. Raises StoreError where the first load fails."""
        newest = await self._load()
        self._task = asyncio.create_task(self._follow(), name="watch-cache")
        await self.wait_for(newest, timeout_s=60)

    async def stop(self) -> None:
        """Ends the task and every watcher (Gone). Idempotent."""
        self._stopping = True
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None
        for bucket in self._buckets.values():
            bucket.end()

    # reading

    async def fresh(self) -> int:
        """Waits until the cache has seen the store's current revision, which it returns: reads after it are consistent. Raises StoreUnavailable."""
        revision = await self._current_revision()
        if revision > self.revision:
            try:
                await self.wait_for(revision, _FRESH_TIMEOUT_S)
            except base.FutureRevision as err:
                raise base.StoreUnavailable(f"the watch cache is behind the store: at {self.revision}, needs {revision}") from err
        return revision

    async def wait_for(self, revision: int, timeout_s: float = 3.0) -> None:
        """Until the cache has seen `revision`. Raises FutureRevision after `timeout_s`."""
        if revision <= self.revision:
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (revision, next(self._sequence), future))
        try:
            await asyncio.wait_for(future, timeout_s)
        except TimeoutError as err:
            self._waiting = [waiting for waiting in self._waiting if not waiting[2].done()]
            heapq.heapify(self._waiting)
            raise base.FutureRevision(f"Too large resource version: {revision}, current: {self.revision}") from err

    def get(self, key: str) -> Entry | None:
        """The entry under a full key, None where there is none."""
        bucket = self._buckets.get(keys.locate(key).prefix)
        return bucket.entries.get(key) if bucket is not None else None

    def list(self, prefix: str, selection: Selection = EVERYTHING, *, limit: int = 0, continue_token: str = "", revision: int = 0) -> ListResult:
        """Entries of a resource (`/registry/pods/`) in key order. revision 0 = now, else exactly that state, out of the window. Pages go on at the first page's
        revision. Raises Compacted, FutureRevision, ValueError (a malformed continue token → 400)."""
        start_after = ""
        if continue_token:
            revision, start_after = decode_continue(continue_token)
        if revision > self.revision:
            raise base.FutureRevision(f"Too large resource version: {revision}, current: {self.revision}")
        return self._bucket(prefix).select(selection, limit, start_after, revision, self.revision)

    def watch(self, prefix: str, selection: Selection = EVERYTHING, *, after_revision: int) -> Watcher:
        """Every event with a revision > after_revision. Raises Compacted where the window does not reach back that far. Close it: it is held until then."""
        bucket = self._bucket(prefix)
        feed = bucket.feed(selection, after_revision, self.revision)
        return Watcher(feed, after_revision, lambda: self.revision, bucket.release)

    def _bucket(self, prefix: str) -> Bucket:
        bucket = self._buckets.get(prefix)
        if bucket is None:
            bucket = self._buckets[prefix] = Bucket(prefix, self._floor, self._limits)
        return bucket

    async def _current_revision(self) -> int:
        """The store's revision by a read that began after the call; callers that meet while one is under way share the next."""
        if self._reading is None:
            self._reading = reading = asyncio.get_running_loop().create_future()
            try:
                return await self._store.revision()
            finally:
                self._reading = None
                reading.set_result(None)
        if self._shared_read is None:
            self._shared_read = asyncio.create_task(self._read_after(self._reading))
        return await asyncio.shield(self._shared_read)

    async def _read_after(self, reading: asyncio.Future[None]) -> int:
        await reading
        self._shared_read = None
        return await self._store.revision()

    # following the store

    async def _load(self) -> int:
        """Reads the state a little in the past, as far back as the store still can: watching from there fills the window. Returns the newest revision."""
        newest = await self._store.revision()
        revision = max(newest - self._replay, 1)
        while True:
            try:
                buckets = await self._read_state(revision)
                break
            except base.Compacted as err:
                if err.compacted <= revision:
                    raise base.StoreUnavailable(f"cannot read the store at revision {revision}: {err}") from err
                revision = err.compacted
        for bucket in self._buckets.values():
            bucket.end()
        self._buckets, self._floor, self.revision = buckets, revision, revision
        return newest

    async def _read_state(self, revision: int) -> dict[str, Bucket]:
        buckets: dict[str, Bucket] = {}
        last = ""
        while True:
            page = await self._store.range(self._prefix, limit=_LOAD_PAGE, start_after=last, revision=revision)
            for kv in page.kvs:
                location = keys.locate(kv.key)
                bucket = buckets.get(location.prefix)
                if bucket is None:
                    bucket = buckets[location.prefix] = Bucket(location.prefix, revision, self._limits)
                bucket.load(self._entry(kv, location))
            if len(page.kvs) >= page.count:
                return buckets
            last = page.kvs[-1].key

    def _entry(self, kv: base.KeyValue, location: keys.Location) -> Entry:
        entry = Entry.stored(kv.key, kv.value, kv.mod_revision, location, self._decoded)
        if location.prefix == _PODS:
            try:
                entry.node_name = entry.fields["spec.nodeName"]
            except ValueError as err:
                log.error("cannot read %s at revision %d: %s", kv.key, kv.mod_revision, err)
        return entry

    async def _follow(self) -> None:
        backoff_s = 0.05
        reload = False
        while not self._stopping:  # a failing clean-up may take a cancellation's place
            try:
                if reload:
                    await self._load()
                    reload = False
                async with contextlib.aclosing(self._store.watch(self._prefix, self.revision)) as batches:  # type: ignore[type-var]
                    async for batch in batches:
                        self._apply(batch)
                        backoff_s = 0.05
                raise base.StoreUnavailable("the watch ended")
            except base.Compacted as err:
                log.warning("the watch at revision %d fell behind a compaction (%s): loading anew", self.revision, err)
                reload = True
            except base.StoreError as err:
                log.warning("watch interrupted at revision %d: %s; resuming in %.2g s", self.revision, err, backoff_s)
            except Exception:
                log.exception("cannot apply a change after revision %d; loading anew in %.2g s", self.revision, backoff_s)
                reload = True
            await asyncio.sleep(backoff_s)
            backoff_s = min(backoff_s * 2, _MAX_BACKOFF_S)

    def _apply(self, batch: base.Batch) -> None:
        touched: set[Feed] = set()
        now_s = self._now()
        self._trim(now_s)  # what came before: watchers have had their turn to read it
        for event in batch.events:
            if event.kv.mod_revision <= self.revision:
                continue
            location = keys.locate(event.kv.key)
            bucket = self._bucket(location.prefix)
            prev = bucket.entries.get(event.kv.key)
            entry = self._entry(event.kv, location) if event.type == "PUT" else None
            if entry is None and prev is None:
                log.error("deletion of unknown key %s at revision %d", event.kv.key, event.kv.mod_revision)
                continue
            bucket.apply(Change(event.kv.key, event.kv.mod_revision, entry, prev, now_s), touched)
            self._grown.add(bucket)
        self.revision = max(self.revision, batch.revision)
        for feed in touched:
            feed.wake()
        while self._waiting and self._waiting[0][0] <= self.revision:
            future = heapq.heappop(self._waiting)[2]
            if not future.done():
                future.set_result(None)

    def _trim(self, now_s: float) -> None:
        if now_s >= self._next_trim_s:
            self._next_trim_s = now_s + 10
            self._grown = set(self._buckets.values())
        for bucket in self._grown:
            bucket.trim(now_s)
        self._grown.clear()
