"""Which pod is next: active pods by priority, then age; pods that fit nowhere wait until something changes and their back-off (1–10 s) is over.

As Kubernetes' three queues (active, back-off, unschedulable), with the clock as a parameter. Knows keys and priorities, no pods. Owned by the loop.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

__all__ = ["PodQueue"]


@dataclass(slots=True)
class _Entry:
    key: str
    priority: int
    serial: int
    attempts: int = 0
    not_before_s: float = 0.0
    state: str = "active"  # active | backoff | waiting | out


class PodQueue:
    def __init__(self, *, initial_s: float = 1.0, max_s: float = 10.0, flush_s: float = 300.0) -> None:
        self.initial_s, self.max_s, self.flush_s = initial_s, max_s, flush_s
        self._entries: dict[str, _Entry] = {}
        self._active: list[tuple[int, int, str]] = []
        self._backoff: list[tuple[float, int, str]] = []
        self._waiting: set[str] = set()
        self._serial = 0

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, key: str, priority: int) -> None:
        """A new pod, or one whose spec changed: active at once, unless it is being worked on or backing off."""
        entry = self._entries.get(key)
        if entry is None:
            self._serial += 1
            entry = self._entries[key] = _Entry(key, priority, self._serial)
        elif entry.state in ("active", "backoff", "out"):
            return
        entry.priority = priority
        self._activate(entry)

    def remove(self, key: str) -> None:
        """Bound, deleted, or not ours."""
        self._waiting.discard(key)
        self._entries.pop(key, None)

    def pop(self, now: float) -> str | None:
        """The next pod to place; it stays known (attempts are counted) until remove() or park()."""
        self._promote(now)
        while self._active:
            _, serial, key = heapq.heappop(self._active)
            entry = self._entries.get(key)
            if entry is not None and entry.serial == serial and entry.state == "active":
                entry.state = "out"
                entry.attempts += 1
                return key
        return None

    def park(self, key: str, now: float) -> None:
        """Fits nowhere: waits for wake_all(), at least its back-off, at most flush_s."""
        if key in self._entries:
            self._delay(key, now, "waiting", self.flush_s)
            self._waiting.add(key)

    def retry(self, key: str, now: float) -> float:
        """Binding failed: again after its back-off. Returns the delay in seconds."""
        return self._delay(key, now, "backoff", 0.0)

    def wake_all(self, now: float) -> None:
        """Something changed that may make room."""
        for key in sorted(self._waiting):  # a copy: activating takes keys out
            entry = self._entries[key]
            if entry.not_before_s <= now:
                self._activate(entry)
            else:
                entry.state = "backoff"
                heapq.heappush(self._backoff, (entry.not_before_s, entry.serial, key))
        self._waiting.clear()

    def next_due_s(self) -> float | None:
        """When pop() may have something that it has not now."""
        return self._backoff[0][0] if self._backoff else None

    def _delay(self, key: str, now: float, state: str, extra_s: float) -> float:
        entry = self._entries.get(key)
        if entry is None:
            return 0.0
        delay = min(self.initial_s * 2 ** min(entry.attempts - 1, 16), self.max_s)
        entry.state, entry.not_before_s = state, now + delay
        heapq.heappush(self._backoff, (now + max(delay, extra_s), entry.serial, key))
        return delay

    def _promote(self, now: float) -> None:
        while self._backoff and self._backoff[0][0] <= now:
            _, serial, key = heapq.heappop(self._backoff)
            entry = self._entries.get(key)
            if entry is not None and entry.serial == serial and entry.state in ("backoff", "waiting") and entry.not_before_s <= now:
                self._activate(entry)

    def _activate(self, entry: _Entry) -> None:
        entry.state = "active"
        self._waiting.discard(entry.key)
        heapq.heappush(self._active, (-entry.priority, entry.serial, entry.key))
