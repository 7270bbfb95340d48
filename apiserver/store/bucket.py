"""One resource in the watch cache: its entries in key order, indexes by namespace (key order gives it), name and node, the window of past changes, and the feeds that
watchers read. Owns no task and no clock; Cache applies changes to it and answers from it.

The state at an older revision is the present one with the window's changes since then undone.
"""

from __future__ import annotations

import base64
import bisect
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import orjson

from apiserver.store import base, keys
from apiserver.store.entries import Entry
from apiserver.store.feeds import Change, Feed, Selection

_FeedIndex = tuple[str, str]
_ALL: _FeedIndex = ("all", "")
_private = itertools.count()


@dataclass(frozen=True, slots=True)
class WindowLimits:
    """How far back watches may start and how far behind they may fall. Whichever is reached first."""

    changes: int = 8192
    size_bytes: int = 16 << 20
    age_s: float = 300.0


class ListResult(NamedTuple):
    """`continue_` is "" on the last page; `remaining` is None where a `match` makes it unknown (Kubernetes omits remainingItemCount then)."""

    entries: list[Entry]
    revision: int
    continue_: str
    remaining: int | None


class Bucket:
    """`floor`: the window holds every change with a revision > floor."""

    def __init__(self, prefix: str, floor: int, limits: WindowLimits) -> None:
        self.prefix = prefix
        self.floor = floor
        self.entries: dict[str, Entry] = {}
        self._limits = limits
        self._keys: list[str] = []
        self._nodes: dict[str, dict[str, Entry]] = {}
        self._window: list[Change] = []
        self._window_bytes = 0
        self._feeds: dict[_FeedIndex, dict[str, Feed]] = {}

    # changes

    def load(self, entry: Entry) -> None:
        """At start, in key order."""
        self.entries[entry.key] = entry
        self._keys.append(entry.key)
        self._index_node(None, entry)

    def apply(self, change: Change, touched: set[Feed]) -> None:
        """`touched` gains the feeds whose watchers have something to read."""
        key, entry, prev = change.key, change.entry, change.prev
        if entry is None:
            del self.entries[key]
            del self._keys[bisect.bisect_left(self._keys, key)]
        else:
            self.entries[key] = entry
            if prev is None:
                bisect.insort(self._keys, key)
        self._index_node(prev, entry)
        self._window.append(change)
        self._window_bytes += change.size_bytes
        for index in self._indexes_of(change):
            for feed in self._feeds.get(index, {}).values():
                if feed.offer(change):
                    touched.add(feed)

    def _index_node(self, prev: Entry | None, entry: Entry | None) -> None:
        if prev is not None and prev.node_name and (entry is None or entry.node_name != prev.node_name):
            on_node = self._nodes[prev.node_name]
            del on_node[prev.key]
            if not on_node:
                del self._nodes[prev.node_name]
        if entry is not None and entry.node_name:
            self._nodes.setdefault(entry.node_name, {})[entry.key] = entry

    def _indexes_of(self, change: Change) -> Iterator[_FeedIndex]:
        shown = change.natural.entry
        yield _ALL
        yield ("namespace", shown.namespace)
        yield ("name", shown.name)
        nodes = {state.node_name for state in (change.entry, change.prev) if state is not None and state.node_name}
        for node in nodes:
            yield ("node", node)

    def trim(self, now_s: float) -> None:
        """Slides the window, an eighth at a time so that the cost per change stays constant."""
        window, limits = self._window, self._limits
        count = 0
        if len(window) > limits.changes:
            count = len(window) - limits.changes + limits.changes // 8
        if self._window_bytes > limits.size_bytes:
            excess = self._window_bytes - limits.size_bytes + limits.size_bytes // 8
            for at, change in enumerate(window):
                if excess <= 0:
                    count = max(count, at)
                    break
                excess -= change.size_bytes
            else:
                count = len(window)
        if window and window[0].time_s < now_s - limits.age_s:
            count = max(count, bisect.bisect_left(window, now_s - limits.age_s, key=lambda change: change.time_s))
        if count:
            self._forget(min(count, len(window)))

    def _forget(self, count: int) -> None:
        self.floor = self._window[count - 1].revision
        while count < len(self._window) and self._window[count].revision == self.floor:  # one transaction may change several keys
            count += 1
        self._window_bytes -= sum(change.size_bytes for change in self._window[:count])
        del self._window[:count]
        for feeds in self._feeds.values():
            for feed in feeds.values():
                feed.trim(self.floor)

    def _changes_after(self, revision: int) -> list[Change]:
        return self._window[bisect.bisect_right(self._window, revision, key=lambda change: change.revision) :]

    # watches

    def feed(self, selection: Selection, after_revision: int, now: int) -> Feed:
        """The shared feed of this selection, reaching back to `after_revision`; `now` is the cache's revision. Raises Compacted."""
        if after_revision < self.floor:
            raise base.Compacted(self.floor)
        feeds = self._feeds.setdefault(_index_of(selection), {})
        name = _feed_name(selection)
        feed = feeds.get(name)
        if feed is None:
            feed = feeds[name] = Feed(selection, now)
        if after_revision < feed.floor:
            older = [change for change in self._changes_after(after_revision) if change.revision <= feed.floor]
            feed.reach_back(older, after_revision)
        return feed

    def release(self, feed: Feed) -> None:
        """A watcher has left `feed`: without any it is dropped."""
        index = _index_of(feed.selection)
        feeds = self._feeds.get(index, {})
        for name in [name for name, other in feeds.items() if other is feed and not feed.watchers]:
            del feeds[name]
        if not feeds:
            self._feeds.pop(index, None)

    def end(self) -> None:
        """The whole picture is replaced: every watcher is Gone."""
        for feeds in self._feeds.values():
            for feed in feeds.values():
                feed.end()

    # lists

    def select(self, selection: Selection, limit: int, start_after: str, revision: int, now: int) -> ListResult:
        """As Cache.list; `start_after` and `revision` come out of the continue token. Raises Compacted."""
        if revision and revision < self.floor:
            raise base.Compacted(self.floor)
        states, ordered = self._at(revision, now)
        chosen = self._candidates(selection, states, ordered, start_after)
        results: list[Entry] = []
        remaining: int | None = 0
        if selection.match is None:
            results = [states[key] for key in (chosen[:limit] if limit else chosen)]
            remaining = len(chosen) - len(results)
        else:
            for key in chosen:
                if selection.match(states[key]):
                    results.append(states[key])
                    if limit and len(results) > limit:
                        results.pop()
                        remaining = None
                        break
        shown_revision = revision or now
        token = encode_continue(shown_revision, results[-1].key[len(self.prefix) :]) if remaining != 0 and results else ""
        if selection.view is not None:
            results = [entry.in_view(selection.view) for entry in results]
        return ListResult(results, shown_revision, token, remaining)

    def _at(self, revision: int, now: int) -> tuple[dict[str, Entry], list[str] | None]:
        """Entries at a revision, and their keys in order (None: those of now)."""
        undone = self._changes_after(revision) if revision and revision < now else []
        if not undone:
            return self.entries, None
        states = dict(self.entries)
        for change in reversed(undone):
            if change.prev is None:
                states.pop(change.key, None)
            else:
                states[change.key] = change.prev
        return states, sorted(states)

    def _candidates(self, selection: Selection, states: dict[str, Entry], ordered: list[str] | None, start_after: str) -> list[str]:
        """Keys in order that match in everything but `match`."""
        under = f"{self.prefix}{selection.namespace}/" if selection.namespace else self.prefix
        after = self.prefix + start_after if start_after else ""
        if selection.namespace and selection.name:
            key = under + selection.name
            found = [key] if key in states else []
        elif selection.node_name and ordered is None:
            found = sorted(key for key in self._nodes.get(selection.node_name, {}) if key.startswith(under))
        else:
            all_keys = self._keys if ordered is None else ordered
            found = all_keys[bisect.bisect_left(all_keys, under) : _bisect_end(all_keys, under)]
        if selection.name:
            found = [key for key in found if states[key].name == selection.name]
        if selection.node_name:
            found = [key for key in found if states[key].node_name == selection.node_name]
        return found[bisect.bisect_right(found, after) :] if after else found


def _bisect_end(ordered: list[str], prefix: str) -> int:
    end = keys.prefix_end(prefix)  # prefixes of a bucket end in "/", so this is text
    return bisect.bisect_left(ordered, end.decode())


def _index_of(selection: Selection) -> _FeedIndex:
    """The narrowest index: a change is offered only to the feeds under the indexes it belongs to."""
    if selection.node_name:
        return ("node", selection.node_name)
    if selection.name:
        return ("name", selection.name)
    if selection.namespace:
        return ("namespace", selection.namespace)
    return _ALL


def _feed_name(selection: Selection) -> str:
    match = selection.match_key if selection.match is None or selection.match_key else f"private {next(_private)}"
    return "\0".join((selection.namespace, selection.name, match, selection.view.name if selection.view else ""))


def encode_continue(revision: int, last: str) -> str:
    """The continue token, of the same make as Kubernetes' (opaque to clients): the list's revision and the key, relative to the resource, to go on after."""
    return base64.urlsafe_b64encode(orjson.dumps({"v": "meta.k8s.io/v1", "rv": revision, "start": last})).rstrip(b"=").decode()


def decode_continue(token: str) -> tuple[int, str]:
    """(revision, last key). Raises ValueError with Kubernetes' texts."""
    try:
        raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        content = orjson.loads(raw)
    except ValueError as err:
        raise ValueError(f"continue key is not valid: {err}") from err
    if not isinstance(content, dict) or content.get("v") != "meta.k8s.io/v1":
        raise ValueError("continue key is not valid: server does not recognize this encoded version")
    revision, start = content.get("rv"), content.get("start")
    if not isinstance(revision, int) or revision <= 0 or isinstance(revision, bool):
        raise ValueError("continue key is not valid: incorrect encoded start resourceVersion (version meta.k8s.io/v1)")
    if not isinstance(start, str) or not start:
        raise ValueError("continue key is not valid: encoded start key empty (version meta.k8s.io/v1)")
    return revision, start
