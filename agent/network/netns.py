"""Work inside another network namespace, from a process with an event loop and threads (setns(2) moves one thread only; a thread that went is never reused).
Called by `pods` and by tests."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable
from typing import TypeVar

CLONE_NEWNET = 0x40000000
T = TypeVar("T")
_libc = ctypes.PyDLL(None, use_errno=True)


def call_in(netns_fd: int, function: Callable[[], T]) -> T:
    """Runs `function` on a thread of its own that has joined the namespace, and waits. Sockets made there stay with the namespace. Raises what it raises, and OSError."""
    result: list[T] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            if _libc.setns(netns_fd, CLONE_NEWNET) != 0:
                code = ctypes.get_errno()
                raise OSError(code, f"cannot join network namespace (fd {netns_fd}): {os.strerror(code)}")
            result.append(function())
        except BaseException as error:  # noqa: BLE001 (handed to the caller)
            failure.append(error)

    thread = threading.Thread(target=run, name="netns")
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return result[0]
