"""The zygote's event loop: epoll, timers and idle work on one thread. Callbacks must not block; what they raise is logged and ends nothing. Standard library only."""

from __future__ import annotations

import heapq
import os
import select
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Callback = Callable[[], None]


def say(message: str, level: str = "INFO") -> None:
    """One log line on stderr."""
    now = time.time()
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now))
    try:
        os.write(2, f"{stamp}.{int(now % 1 * 1000):03d}Z {level} zygote: {message}\n".encode(errors="replace"))
    except OSError:
        return


class Loop:
    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callback] = {}
        self._timers: list[tuple[float, int, Callback]] = []
        self._count = 0
        self.idle: Callable[[], bool] | None = None  # called while nothing is ready; False: it has no more to do until `busy`
        self._idle_wanted = True
        self.stopping = False

    def add(self, fd: int, callback: Callback) -> None:
        self._callbacks[fd] = callback
        self._epoll.register(fd, select.EPOLLIN)

    def remove(self, fd: int) -> None:
        """Before the descriptor is closed. Idempotent."""
        if self._callbacks.pop(fd, None):
            self._epoll.unregister(fd)

    def call_later(self, delay_s: float, callback: Callback) -> None:
        self._count += 1
        heapq.heappush(self._timers, (time.monotonic() + delay_s, self._count, callback))

    def busy(self) -> None:
        """There is idle work again."""
        self._idle_wanted = True

    def _timeout(self) -> float:
        if self._idle_wanted and self.idle:
            return 0
        return max(0.0, self._timers[0][0] - time.monotonic()) if self._timers else -1

    def run(self) -> None:
        while not self.stopping:
            ready = self._epoll.poll(self._timeout())
            for fd, _ in ready:
                callback = self._callbacks.get(fd)
                if callback:
                    self._call(callback)
            while self._timers and self._timers[0][0] <= time.monotonic():
                self._call(heapq.heappop(self._timers)[2])
            if not ready and self._idle_wanted and self.idle:
                self._idle_wanted = False
                self._call(self._idle)

    def _idle(self) -> None:
        assert self.idle
        self._idle_wanted = self.idle()

    @staticmethod
    def _call(callback: Callback) -> None:
        try:
            callback()
        except Exception:  # noqa: BLE001 — top of the loop
            import traceback  # a quarter of a megabyte that is seldom needed

            say(traceback.format_exc().replace("\n", " | "), "ERROR")

    def close(self) -> None:
        self._epoll.close()
