"""The watch cache: one store watch over `/registry/` feeds an index per resource, from which every GET, LIST and WATCH is served. Owns the in-memory picture and the
window of past events; refuses to write. The registry reads and waits through it, REST streams from its watchers.

Errors: Compacted (also Gone, its subclass) → 410 Expired; FutureRevision → 504 Timeout "Too large resource version"; StoreUnavailable → 503.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from apiserver.store import base, entries

Match = Callable[[entries.Entry], bool]


class Gone(base.Compacted):
    """This watcher cannot go on: it read too slowly, or the cache had to be loaded anew. The client lists again (410 Expired)."""


class ListResult(NamedTuple):
    """`continue_` is "" on the last page; `remaining` is None where a `match` makes it unknown (Kubernetes omits remainingItemCount then)."""

    entries: list[entries.Entry]
    revision: int
    continue_: str
    remaining: int | None


@dataclass(frozen=True, slots=True)
class Selection:
    """What a LIST or WATCH asks for, beyond the resource. Empty = all. `match` gets an Entry and is called once per object and event for all watchers with the
    same `match_key` (give the selectors' text, e.g. "app=x|status.phase=Running"; "" with a match = a feed of its own). `node_name` = spec.nodeName (indexed, pods)."""

    namespace: str = ""
    name: str = ""
    node_name: str = ""
    match: Match | None = None
    match_key: str = ""
    view: entries.View | None = None


EVERYTHING = Selection()


class Watcher:
    """One client's position in the stream. `revision`: everything ≤ it has been handed out (what a bookmark says)."""

    revision: int

    async def next(self, timeout_s: float | None = None) -> list[entries.WatchEvent]:
        """Waits for events and drains all that are queued; [] after `timeout_s` without any (send a bookmark with `revision`). Raises Gone."""
        raise NotImplementedError

    def close(self) -> None:
        """Idempotent; a next() that waits returns []."""


class Cache:
    """`revision`: the newest revision the cache has seen. All methods but start, stop, fresh and wait_for are synchronous and never touch the store."""

    revision: int

    def __init__(self, store: base.Store, *, prefix: str = "/registry/") -> None: ...

    async def start(self) -> None:
        """Loads everything, then follows the store in a task of its own. Raises StoreError where the first load fails."""

    async def stop(self) -> None: ...

    async def fresh(self) -> int:
        """Waits until the cache has seen the store's current revision, which it returns: reads after it are consistent. Raises StoreUnavailable."""
        raise NotImplementedError

    async def wait_for(self, revision: int, timeout_s: float = 3.0) -> None:
        """Until the cache has seen `revision`. Raises FutureRevision after `timeout_s`."""

    def get(self, key: str) -> entries.Entry | None: ...

    def list(self, prefix: str, selection: Selection = EVERYTHING, *, limit: int = 0, continue_token: str = "", revision: int = 0) -> ListResult:
        """Entries of a resource (`/registry/pods/`) in key order. revision 0 = now, else exactly that state, out of the window. Pages go on at the first page's
        revision. Raises Compacted, FutureRevision, ValueError (a malformed continue token → 400)."""
        raise NotImplementedError

    def watch(self, prefix: str, selection: Selection = EVERYTHING, *, after_revision: int) -> Watcher:
        """Every event with a revision > after_revision. Raises Compacted where the window does not reach back that far."""
        raise NotImplementedError
