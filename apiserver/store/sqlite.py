"""The embedded store: SqliteStore, the async side over sqlite_engine. Owns the writer thread, group commit, TTL expiry and the watches; refuses a file that another
process has open. `apiserver/__main__` opens it, the registry and the watch cache use it through base.Store.

Invariants: a write's future completes only after the transaction that holds it was synced (WAL, synchronous=FULL). Watches are fed in the event loop, in commit order, in
the same step that completes those futures and before it, so whoever has seen a write's answer finds its event queued. What one loop iteration submits travels as one
transaction, and its results come back in one call_soon_threadsafe.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import queue
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from apiserver.store import base
from apiserver.store.sqlite_engine import FIRST_REVISION, Operation, Outcome, Reader, Writer

log = logging.getLogger("store")

_MAX_BATCH = 256
_EXPIRY_CHUNK = 500
_EXPIRY_PAUSE_S = 0.25  # expiries close to one another share a transaction
_HISTORY_PAGE = 1000
_COLLECT_CHUNK = 500

_Write = tuple[Operation, "asyncio.Future[Outcome]"]
_Task = tuple[Callable[[Writer], object], "asyncio.Future[object]"]


class SqliteStore:
    """`await SqliteStore.open(path)`. One process, one event loop."""

    def __init__(self, path: str, *, now: Callable[[], float], progress_interval_s: float) -> None:
        """Use open()."""
        self._path = path
        self._now = now
        self._progress_interval_s = progress_interval_s
        self._loop = asyncio.get_running_loop()
        self._pending: list[_Write] = []
        self._queue: queue.SimpleQueue[list[_Write] | _Task | None] = queue.SimpleQueue()
        self._subscriptions: set[_Subscription] = set()
        self._revision = FIRST_REVISION
        self._closed = False
        self._reads = ThreadPoolExecutor(1, thread_name_prefix="store-read")

    @classmethod
    async def open(cls, path: str | os.PathLike[str], *, now: Callable[[], float] = time.time, progress_interval_s: float = 2.0) -> SqliteStore:
        """Opens or makes the database file (mode 0600, like its directory 0700 where that has to be made: it holds Secrets). `now` in Unix seconds drives TTLs.

        Raises StoreError: open in another process, not a database, cannot be written.
        """
        store = cls(os.fspath(path), now=now, progress_interval_s=progress_interval_s)
        await asyncio.to_thread(store._open_files)
        store._thread.start()
        return store

    def _open_files(self) -> None:
        directory = os.path.dirname(os.path.abspath(self._path))
        try:
            os.makedirs(directory, mode=0o700, exist_ok=True)
            self._lock_fd = os.open(self._path + ".lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
            os.close(os.open(self._path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
        except OSError as err:
            raise base.StoreError(f"cannot open store {self._path}: {err}") from err
        try:
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as err:
            os.close(self._lock_fd)
            raise base.StoreError(f"cannot open store {self._path}: another process has it open") from err
        try:
            self._writer = Writer(self._path)
            self._loop_reader, self._reader = Reader(self._path), Reader(self._path)
            _sync_directory(directory)
        except BaseException:
            os.close(self._lock_fd)
            raise
        self._revision = self._writer.revision
        self._thread = threading.Thread(target=self._write_loop, name="store-write", daemon=True)

    # reads

    async def revision(self) -> int:
        """The newest revision whose events have been handed to the watches: every acknowledged write is in it."""
        self._refuse_closed()
        return self._revision

    async def get(self, key: str) -> base.KeyValue | None:
        """As Store.get; a few microseconds in the calling thread, cheaper than going to another."""
        self._refuse_closed()
        try:
            return self._loop_reader.get(key)
        except sqlite3.Error as err:
            raise base.StoreUnavailable(f"cannot read {key}: {err}") from err

    async def range(self, prefix: str, *, limit: int = 0, start_after: str = "", revision: int = 0) -> base.RangeResult:
        """As Store.range."""
        self._refuse_closed()
        try:
            return await self._loop.run_in_executor(self._reads, self._reader.range, prefix, limit, start_after, revision)
        except sqlite3.Error as err:
            raise base.StoreUnavailable(f"cannot read {prefix}: {err}") from err

    # writes

    async def create(self, key: str, value: bytes, *, ttl_s: int = 0) -> int:
        """As Store.create."""
        outcome = await self._submit(Operation("create", key, value, expires=self._expires(ttl_s)))
        assert isinstance(outcome, int)
        return outcome

    async def update(self, key: str, value: bytes, expected_revision: int, *, ttl_s: int = 0) -> int:
        """As Store.update; without ttl_s an earlier TTL ends."""
        outcome = await self._submit(Operation("update", key, value, expected_revision, self._expires(ttl_s)))
        assert isinstance(outcome, int)
        return outcome

    async def delete(self, key: str, expected_revision: int = 0) -> tuple[base.KeyValue, int]:
        """As Store.delete."""
        outcome = await self._submit(Operation("delete", key, expected=expected_revision))
        assert isinstance(outcome, tuple)
        return outcome

    async def compact(self, revision: int) -> None:
        """As Store.compact; a revision that is compacted already is no error. Space is freed in steps between which writes go on."""
        await self._run_in_writer(lambda writer: writer.compact(revision))
        while await self._run_in_writer(lambda writer: writer.collect(_COLLECT_CHUNK)):
            pass

    async def close(self) -> None:
        """Commits what was submitted, ends every watch (StoreUnavailable), releases the file. Idempotent."""
        if self._closed:
            return
        self._flush()
        self._closed = True
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join)
        await asyncio.to_thread(self._reads.shutdown)
        for subscription in self._subscriptions:
            subscription.wake()
        self._loop_reader.close()
        self._reader.close()
        self._writer.close()
        os.close(self._lock_fd)

    def _expires(self, ttl_s: int) -> float | None:
        return self._now() + ttl_s if ttl_s > 0 else None

    def _refuse_closed(self) -> None:
        if self._closed:
            raise base.StoreUnavailable("the store is closed")

    async def _submit(self, operation: Operation) -> Outcome:
        self._refuse_closed()
        future: asyncio.Future[Outcome] = self._loop.create_future()
        self._pending.append((operation, future))
        if len(self._pending) == 1:
            self._loop.call_soon(self._flush)
        return await future

    def _flush(self) -> None:
        if self._pending and not self._closed:
            self._queue.put(self._pending)
            self._pending = []

    async def _run_in_writer(self, task: Callable[[Writer], object]) -> object:
        self._refuse_closed()
        future: asyncio.Future[object] = self._loop.create_future()
        self._queue.put((task, future))
        return await future

    # the writer thread

    def _write_loop(self) -> None:
        next_expiry = self._writer.next_expiry()
        while True:
            writes, tasks, ended = self._take(next_expiry)
            try:
                if writes:
                    self._commit(writes)
                if not ended and next_expiry is not None and next_expiry <= self._now():
                    self._commit([(operation, None) for operation in self._writer.expired(self._now(), _EXPIRY_CHUNK)])
                for task, future in tasks:
                    self._run_task(task, future)
                next_expiry = self._writer.next_expiry()
            except sqlite3.Error as err:  # only expiry's own queries get here: writes and tasks answer their callers
                log.error("cannot look for expired keys: %s", err)
                next_expiry = self._now() + 1
            if ended:
                return

    def _take(self, next_expiry: float | None) -> tuple[list[_Write], list[_Task], bool]:
        """Waits for work or the next expiry, then takes all that is queued, up to a batch's size."""
        writes: list[_Write] = []
        tasks: list[_Task] = []
        timeout = None if next_expiry is None else min(max(next_expiry - self._now(), 0) + _EXPIRY_PAUSE_S, 3600)
        try:
            item = self._queue.get(timeout=timeout)
            while item is not None:
                if isinstance(item, list):
                    writes += item
                else:
                    tasks.append(item)
                if len(writes) >= _MAX_BATCH:
                    return writes, tasks, False
                item = self._queue.get_nowait()
        except queue.Empty:
            return writes, tasks, False
        return writes, tasks, True

    def _commit(self, writes: Sequence[tuple[Operation, asyncio.Future[Outcome] | None]]) -> None:
        if not writes:
            return
        futures = [future for _, future in writes]
        try:
            outcomes, events = self._writer.apply([operation for operation, _ in writes])
        except Exception as err:  # noqa: BLE001 - whatever it is, the callers must hear of it and the thread must live
            log.error("cannot commit %d writes: %s", len(writes), err)
            self._call_loop(self._failed, futures, f"cannot write: {err}")
        else:
            self._call_loop(self._committed, futures, outcomes, events, self._writer.revision)

    def _run_task(self, task: Callable[[Writer], object], future: asyncio.Future[object]) -> None:
        try:
            self._call_loop(_settle, future, task(self._writer))
        except base.StoreError as err:
            self._call_loop(_settle, future, err)
        except Exception as err:  # noqa: BLE001 - as in _commit
            self._call_loop(_settle, future, base.StoreUnavailable(f"cannot write: {err}"))

    def _call_loop(self, callback: Callable[..., None], *args: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has been closed under us: nobody waits any more
            self._loop.call_soon_threadsafe(callback, *args)

    # back in the event loop

    def _committed(self, futures: list[asyncio.Future[Outcome] | None], outcomes: list[Outcome], events: list[base.Event], revision: int) -> None:
        self._revision = revision
        for subscription in self._subscriptions:
            subscription.feed(events, revision)
        for future, outcome in zip(futures, outcomes):
            if future is not None:
                _settle(future, outcome)

    def _failed(self, futures: list[asyncio.Future[Outcome] | None], message: str) -> None:
        # the transaction may have reached the disk all the same: let the watches read on from the log rather than trust what was fed
        self._revision = max(self._revision, self._writer.revision)
        for subscription in self._subscriptions:
            subscription.fall_behind()
        for future in futures:
            if future is not None:
                _settle(future, base.StoreUnavailable(message))

    # watches

    async def watch(self, prefix: str, after_revision: int) -> AsyncIterator[base.Batch]:
        """As Store.watch. One that reads slowly loses its queue, not its place: it goes on from the log, as long as that is not compacted."""
        subscription = _Subscription(prefix)
        self._subscriptions.add(subscription)
        delivered = after_revision
        try:
            while True:
                self._refuse_closed()
                if subscription.behind:
                    subscription.catch_up()
                    until = max(self._revision, delivered)
                    while True:  # at least once, for it refuses what is compacted
                        batch = await self._history(prefix, delivered, until)
                        delivered = batch.revision
                        if delivered <= self._revision:
                            yield batch
                        if delivered >= until:
                            break
                    continue
                await subscription.wait(self._progress_interval_s)
                queued = subscription.drain(delivered)
                if queued is not None:
                    delivered = queued.revision
                    yield queued
                elif not subscription.behind and not self._closed and self._revision >= delivered:
                    delivered = self._revision
                    yield base.Batch([], delivered)
        finally:
            self._subscriptions.discard(subscription)

    async def _history(self, prefix: str, after: int, until: int) -> base.Batch:
        try:
            events, revision = await self._loop.run_in_executor(self._reads, self._reader.history, prefix, after, until, _HISTORY_PAGE)
        except (sqlite3.Error, RuntimeError) as err:  # RuntimeError: the executor is shut down
            raise base.StoreUnavailable(f"cannot read the history of {prefix}: {err}") from err
        return base.Batch(events, revision)


@dataclass(eq=False, slots=True)
class _Subscription:
    """What one watch has not read yet. `behind`: the queue does not hold all of it, the log must be read first."""

    prefix: str
    behind: bool = True
    events: list[base.Event] = field(default_factory=list)
    revision: int = 0
    waiter: asyncio.Future[None] | None = None
    limit: int = 20_000

    def feed(self, events: list[base.Event], revision: int) -> None:
        mine = [event for event in events if event.kv.key.startswith(self.prefix)]
        if self.behind or not mine:
            return
        if len(self.events) + len(mine) > self.limit:
            self.fall_behind()
            return
        self.events += mine
        self.revision = revision
        self.wake()

    def fall_behind(self) -> None:
        self.behind = True
        self.events = []
        self.wake()

    def catch_up(self) -> None:
        """From here on feed() queues; the caller reads everything before from the log."""
        self.behind = False
        self.events = []

    def drain(self, delivered: int) -> base.Batch | None:
        events, self.events = self.events, []
        if events and events[0].kv.mod_revision <= delivered:  # a watch from a revision that had not happened yet
            events = [event for event in events if event.kv.mod_revision > delivered]
        return base.Batch(events, self.revision) if events else None

    def wake(self) -> None:
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)

    async def wait(self, timeout_s: float) -> None:
        if self.events or self.behind:
            return
        loop = asyncio.get_running_loop()
        self.waiter = loop.create_future()
        timer = loop.call_later(timeout_s, self.wake)
        try:
            await self.waiter
        finally:
            timer.cancel()
            self.waiter = None


def _settle(future: asyncio.Future[Any], outcome: object) -> None:
    if future.done():  # its caller was cancelled
        return
    if isinstance(outcome, BaseException):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)


def _sync_directory(directory: str) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
