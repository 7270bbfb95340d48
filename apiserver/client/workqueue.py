"""A keyed queue for level-triggered loops: a key waits at most once, is worked on by one worker at a time, and comes back after failures with growing delays.

Knows nothing of objects. Invariant: a key added while it is being worked on is worked on again afterwards. Used by every controller, the scheduler and the agent.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

__all__ = ["WorkQueue"]

K = TypeVar("K", bound=Hashable)


class WorkQueue(Generic[K]):
    """Bound to the running event loop; its clock is `now` (monotonic seconds, default the loop's). Delays after failures: `initial_s` · 2^n up to `max_s`."""

    def __init__(self, *, initial_s: float = 0.05, max_s: float = 30.0, now: Callable[[], float] | None = None) -> None:
        self.initial_s, self.max_s = initial_s, max_s
        self._now = now
        self._ready: deque[K] = deque()
        self._queued: set[K] = set()
        self._active: set[K] = set()
        self._again: set[K] = set()
        self._failures: dict[K, int] = {}
        self._due: dict[K, float] = {}
        self._heap: list[tuple[float, int, K]] = []
        self._serial = 0
        self._getters: deque[asyncio.Future[None]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        """Keys that are ready and waiting for a worker."""
        return len(self._ready)

    def now(self) -> float:
        return self._now() if self._now else asyncio.get_running_loop().time()

    def add(self, key: K) -> None:
        """Ready at once. A delayed visit of the key that is later than now is dropped: this one sees the same state."""
        self._due.pop(key, None)
        if key in self._active:
            self._again.add(key)
        elif key not in self._queued:
            self._queued.add(key)
            self._ready.append(key)
            self._wake()

    def add_after(self, key: K, delay_s: float) -> None:
        """Ready in `delay_s`; of several delays for one key the earliest counts."""
        if delay_s <= 0:
            self.add(key)
            return
        due = self.now() + delay_s
        if key in self._queued or self._due.get(key, float("inf")) <= due:
            return
        self._due[key] = due
        self._serial += 1
        heapq.heappush(self._heap, (due, self._serial, key))
        if self._heap[0][1] == self._serial:
            self._arm()

    def retry(self, key: K) -> float:
        """After a failure: add_after with the key's own back-off; returns the delay in seconds."""
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        delay = min(self.initial_s * 2 ** min(failures, 32), self.max_s)
        self.add_after(key, delay)
        return delay

    def forget(self, key: K) -> None:
        """After a success: the next failure starts from `initial_s` again."""
        self._failures.pop(key, None)

    def failures(self, key: K) -> int:
        return self._failures.get(key, 0)

    async def get(self) -> K:
        """Waits for a key; the caller must call done(key) when it has finished with it."""
        self.promote()
        while not self._ready:
            getter = asyncio.get_running_loop().create_future()
            self._getters.append(getter)
            try:
                await getter
            except BaseException:
                if getter in self._getters:
                    self._getters.remove(getter)
                elif self._ready:
                    self._wake()  # the wake-up was ours, somebody else must take it
                raise
        key = self._ready.popleft()
        self._queued.discard(key)
        self._active.add(key)
        return key

    def done(self, key: K) -> None:
        self._active.discard(key)
        if key in self._again:
            self._again.discard(key)
            self.add(key)

    async def work(self, handle: Callable[[K], Awaitable[None]]) -> None:
        """One worker, for ever: get, handle, done. `handle` owns its errors."""
        while True:
            key = await self.get()
            try:
                await handle(key)
            finally:
                self.done(key)

    def promote(self) -> None:
        """Moves what has come due to the ready keys."""
        now = self.now()
        while self._heap and self._heap[0][0] <= now:
            due, _, key = heapq.heappop(self._heap)
            if self._due.get(key) == due:
                del self._due[key]
                self.add(key)
        self._arm()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._heap:
            self._timer = asyncio.get_running_loop().call_later(max(self._heap[0][0] - self.now(), 0.0), self.promote)

    def _wake(self) -> None:
        while self._getters:
            getter = self._getters.popleft()
            if not getter.done():
                getter.set_result(None)
                return
