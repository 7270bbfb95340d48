"""The store's contract: what SQLite and etcd must both do, and every error they may raise. Owns no data; the registry and the watch cache call it.

Revisions are etcd's: one global, monotonic number, one per committed change. Keys are Kubernetes' (`/registry/<resource>/<namespace>/<name>`), values are bytes
the store never looks into. Nothing here knows what an object is.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Literal, Protocol


class StoreError(Exception):
    """Root: StoreError → KeyExists, RevisionMismatch, Compacted, FutureRevision, ValueTooLarge, StoreUnavailable."""


class KeyExists(StoreError):
    """create() of a key that is there."""

    def __init__(self, key: str) -> None:
        super().__init__(f"key exists: {key}")
        self.key = key


class RevisionMismatch(StoreError):
    """update() or delete() expected another mod_revision; `current` is what is there now, None where the key is gone."""

    def __init__(self, key: str, current: KeyValue | None) -> None:
        super().__init__(f"revision mismatch: {key}")
        self.key, self.current = key, current


class Compacted(StoreError):
    """The revision asked for is older than the last compaction; `compacted` is the oldest revision still held."""

    def __init__(self, compacted: int) -> None:
        super().__init__(f"required revision has been compacted (oldest held: {compacted})")
        self.compacted = compacted


class FutureRevision(StoreError):
    """The revision asked for has not happened yet."""


class ValueTooLarge(StoreError):
    """The store takes no value of this size; nothing was written."""


class StoreUnavailable(StoreError):
    """No answer from the store (disk, network, no quorum); the outcome of a write is unknown."""


@dataclass(frozen=True, slots=True)
class KeyValue:
    key: str
    value: bytes
    create_revision: int
    mod_revision: int


@dataclass(frozen=True, slots=True)
class RangeResult:
    """Keys in order; `revision` is the store's at the time of the read, or the one asked for; `count` all keys of the prefix from `start_after` on, returned or not."""

    kvs: list[KeyValue]
    revision: int
    count: int


@dataclass(frozen=True, slots=True)
class Event:
    """One change. PUT: `kv` is the new state and `prev` the former, None on creation. DELETE: `kv` has empty value and the deletion's mod_revision, `prev` the last state."""

    type: Literal["PUT", "DELETE"]
    kv: KeyValue
    prev: KeyValue | None


@dataclass(frozen=True, slots=True)
class Batch:
    """What a watch yields: events in revision order, never splitting one revision over two batches. After it, everything ≤ `revision` under the prefix has been
    delivered; an empty `events` is a progress mark."""

    events: list[Event]
    revision: int


class Store(Protocol):
    """Async, safe for concurrent use from one event loop. A write returns only when it is durable."""

    async def revision(self) -> int:
        """The current revision, by a consistent (quorum) read."""

    async def get(self, key: str) -> KeyValue | None: ...

    async def range(self, prefix: str, *, limit: int = 0, start_after: str = "", revision: int = 0) -> RangeResult:
        """Keys under `prefix` in key order, strictly after `start_after`; limit 0 = all; revision 0 = now. Raises Compacted, FutureRevision."""

    async def create(self, key: str, value: bytes, *, ttl_s: int = 0) -> int:
        """Returns the new revision. Raises KeyExists. ttl_s > 0: the key is deleted (with an Event) about so many seconds later."""

    async def update(self, key: str, value: bytes, expected_revision: int, *, ttl_s: int = 0) -> int:
        """Compare-and-swap on mod_revision; returns the new revision. Raises RevisionMismatch."""

    async def delete(self, key: str, expected_revision: int = 0) -> tuple[KeyValue, int]:
        """Returns the previous state and the deletion's revision. expected_revision 0 = whatever is there. Raises RevisionMismatch (current None: not there)."""

    def watch(self, prefix: str, after_revision: int) -> AsyncIterator[Batch]:
        """Every change under `prefix` with a revision > after_revision, in order, without loss or duplicates also across a cut connection, and progress marks at
        least every few seconds. Ends only by aclose() or an error. Raises Compacted."""

    async def compact(self, revision: int) -> None:
        """Forget states older than `revision`; reads and watches below it raise Compacted from then on."""

    async def close(self) -> None: ...
