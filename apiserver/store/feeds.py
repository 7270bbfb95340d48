"""What watchers read: a feed is one selector's stream of ready events, shared by every watcher that asks for the same, and a watcher is a position in it. Owns the
translation of changes into ADDED/MODIFIED/DELETED as a selector sees them. Cache makes and fills feeds; REST reads through Watcher.

Invariant: a feed holds, in order, every event its selector sees with a revision > floor. There is no work per watcher and event: a change is translated once per feed.
"""

from __future__ import annotations

import asyncio
import bisect
from collections.abc import Callable
from dataclasses import dataclass

from apiserver.store import base
from apiserver.store.entries import Entry, View, WatchEvent

Match = Callable[[Entry], bool]


class Gone(base.Compacted):
    """This watcher cannot go on: it read too slowly, or the cache had to be loaded anew. The client lists again (410 Expired)."""


@dataclass(frozen=True, slots=True)
class Selection:
    """What a LIST or WATCH asks for, beyond the resource. Empty = all. `match` gets an Entry and is called once per object and event for all watchers with the
    same `match_key` (give the selectors' text, e.g. "app=x|status.phase=Running"; "" with a match = a feed of its own). `node_name` = spec.nodeName (indexed, pods)."""

    namespace: str = ""
    name: str = ""
    node_name: str = ""
    match: Match | None = None
    match_key: str = ""
    view: View | None = None

    @property
    def fixed(self) -> bool:
        """Whether an object can never come to match or cease to: only its key decides."""
        return not self.node_name and self.match is None

    def selects(self, entry: Entry) -> bool:
        return (
            (not self.namespace or entry.namespace == self.namespace)
            and (not self.name or entry.name == self.name)
            and (not self.node_name or entry.node_name == self.node_name)
            and (self.match is None or self.match(entry))
        )


EVERYTHING = Selection()


class Change:
    """One committed change of one object. `natural`: the event that a watcher of everything sees. `time_s`: when the cache saw it, monotonic."""

    __slots__ = ("entry", "key", "natural", "prev", "revision", "time_s")

    def __init__(self, key: str, revision: int, entry: Entry | None, prev: Entry | None, time_s: float) -> None:
        assert entry or prev
        self.key, self.revision, self.entry, self.prev, self.time_s = key, revision, entry, prev, time_s
        if entry is None:
            assert prev is not None
            self.natural = WatchEvent("DELETED", prev.deleted_at(revision))
        else:
            self.natural = WatchEvent("MODIFIED" if prev else "ADDED", entry)

    @property
    def size_bytes(self) -> int:
        return len(self.natural.entry.data)


def translate(change: Change, selection: Selection) -> WatchEvent | None:
    """The change as `selection` sees it: an object that comes to match is ADDED, one that ceases to is DELETED with its old state at the new revision."""
    if selection.fixed:
        event: WatchEvent | None = change.natural if selection.selects(change.natural.entry) else None
    else:
        is_in = change.entry is not None and selection.selects(change.entry)
        was_in = change.prev is not None and selection.selects(change.prev)
        if is_in and was_in:
            event = change.natural
        elif is_in:
            assert change.entry is not None
            event = change.natural if change.prev is None else WatchEvent("ADDED", change.entry)
        elif was_in:
            assert change.prev is not None
            event = change.natural if change.entry is None else WatchEvent("DELETED", change.prev.deleted_at(change.revision))
        else:
            event = None
    if event is None or selection.view is None:
        return event
    return WatchEvent(event.type, event.entry.in_view(selection.view))


class Feed:
    """`events[0]` has the absolute position `start`; positions never change, `start` moves as the window slides (or back, when older events are asked for)."""

    def __init__(self, selection: Selection, floor: int) -> None:
        self.selection = selection
        self.floor = floor
        self.start = 0
        self.events: list[WatchEvent] = []
        self.watchers: set[Watcher] = set()
        self.gone = False

    def offer(self, change: Change) -> bool:
        """Takes the change in if the selection sees it; True if watchers must be woken."""
        event = translate(change, self.selection)
        if event is None:
            return False
        self.events.append(event)
        return True

    def reach_back(self, changes: list[Change], after_revision: int) -> None:
        """`changes`: all with after_revision < revision ≤ floor, in order."""
        older = [event for change in changes if (event := translate(change, self.selection)) is not None]
        self.events[:0] = older
        self.start -= len(older)
        self.floor = after_revision

    def position_after(self, revision: int) -> int:
        return self.start + bisect.bisect_right(self.events, revision, key=_revision)

    def trim(self, floor: int) -> None:
        """Forgets events ≤ floor; a watcher that has not read them is too slow."""
        if floor <= self.floor:
            return
        count = bisect.bisect_right(self.events, floor, key=_revision)
        del self.events[:count]
        self.start += count
        self.floor = floor

    def wake(self) -> None:
        for watcher in self.watchers:
            watcher.wake()

    def end(self) -> None:
        self.gone = True
        self.wake()


def _revision(event: WatchEvent) -> int:
    return event.revision


class Watcher:
    """One client's position in the stream. `revision`: everything ≤ it has been handed out (what a bookmark says)."""

    def __init__(self, feed: Feed, after_revision: int, seen: Callable[[], int], on_close: Callable[[Feed], None]) -> None:
        self._feed = feed
        self._position = feed.position_after(after_revision)
        self._after = after_revision
        self._seen = seen
        self._on_close = on_close
        self._waiter: asyncio.Future[None] | None = None
        self._closed = False
        self.revision = after_revision
        feed.watchers.add(self)

    async def next(self, timeout_s: float | None = None) -> list[WatchEvent]:
        """Waits for events and drains all that are queued; [] after `timeout_s` without any (send a bookmark with `revision`), or once closed. Raises Gone."""
        events = self._drain()
        if events or self._closed or timeout_s == 0:
            return events
        loop = asyncio.get_running_loop()
        self._waiter = loop.create_future()
        timer = loop.call_later(timeout_s, self.wake) if timeout_s is not None else None
        try:
            await self._waiter
        finally:
            self._waiter = None
            if timer is not None:
                timer.cancel()
        return self._drain()

    def _drain(self) -> list[WatchEvent]:
        if self._closed:
            return []
        feed = self._feed
        if feed.gone:
            raise Gone(self._seen())
        skip = self._position - feed.start
        if skip < 0:
            raise Gone(feed.floor)
        events = feed.events[skip:] if skip else feed.events.copy()
        self._position += len(events)
        if events and events[0].revision <= self._after:  # asked for from a revision that had not happened yet
            events = [event for event in events if event.revision > self._after]
        self.revision = max(self.revision, self._seen())
        return events

    def wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def close(self) -> None:
        """Idempotent; a next() that waits returns []."""
        if not self._closed:
            self._closed = True
            self._feed.watchers.discard(self)
            self.wake()
            self._on_close(self._feed)
