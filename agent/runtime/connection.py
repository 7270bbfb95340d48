"""The asyncio end of the zygote's protocol: calls matched to answers, events handed on, and a connection that comes back by itself. Knows messages, not containers.

SEQPACKET has no asyncio transport, hence add_reader and recvmsg. Used by client.Runtime only.
"""

from __future__ import annotations

import asyncio
import collections
import errno
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from agent.runtime import cri, wire

log = logging.getLogger("runtime")
RECONNECT_FIRST_S, RECONNECT_MAX_S = 0.01, 0.5
CONNECT_TIMEOUT_S = 30.0


class Disconnected(cri.RuntimeServiceError):
    """The zygote went away during a call that must not be repeated blindly."""


def error_from(answer: dict[str, Any]) -> Exception:
    """The exception that an answer's "error" stands for."""
    kind, number, message = answer.get("type"), answer.get("errno") or errno.EIO, answer.get("message", "")
    if kind == "NotFound":
        return cri.NotFoundError(message)
    if kind == "Again":
        return Disconnected(number, message)
    if kind == "StartError":
        return cri.StartError(number, message)
    return cri.RuntimeServiceError(number, message)


class Connection:
    """`on_event(message)` gets every unasked message; `on_connect()` runs after each (re)connection before waiting calls are repeated."""

    def __init__(self, path: str, on_event: Callable[[dict[str, Any]], None], on_connect: Callable[[], Awaitable[None]]) -> None:
        self.path = path
        self._on_event, self._on_connect = on_event, on_connect
        self._socket: socket.socket | None = None
        self._seq = 0
        self._waiting: dict[int, asyncio.Future[tuple[dict[str, Any], list[int]]]] = {}
        self._unsent: collections.deque[tuple[dict[str, Any], list[int]]] = collections.deque()
        self._ready = asyncio.Event()
        self._reconnecting: asyncio.Task[None] | None = None
        self._closed = False

    async def connect(self) -> None:
        """Waits for a zygote that is about to start. Raises RuntimeServiceError where none answers within CONNECT_TIMEOUT_S."""
        try:
            await asyncio.wait_for(self._reconnect(), CONNECT_TIMEOUT_S)
        except TimeoutError:
            self.close()
            raise cri.RuntimeServiceError(errno.ETIMEDOUT, f"cannot reach the zygote at {self.path}: no answer within {CONNECT_TIMEOUT_S:.0f} s") from None

    def close(self) -> None:
        self._closed = True
        if self._reconnecting:
            self._reconnecting.cancel()
        self._drop(cri.RuntimeServiceError(errno.ESHUTDOWN, "the runtime's client was closed"))

    async def call(self, op: str, fds: Sequence[int] = (), *, repeat: bool = True, timeout_s: float = 60.0, **fields: Any) -> tuple[dict[str, Any], list[int]]:
        """(answer, descriptors). A call that is cut off is repeated on the next connection unless `repeat` is False (Disconnected then)."""
        if self._closed:
            raise cri.RuntimeServiceError(errno.ESHUTDOWN, f"cannot {op.replace('_', ' ')}: the runtime's client was closed")
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    await self._ready.wait()
                    try:
                        return await self.call_now(op, fds, **fields)
                    except Disconnected:
                        if not repeat or self._closed:
                            raise
        except TimeoutError:
            raise cri.RuntimeServiceError(errno.ETIMEDOUT, f"cannot {op.replace('_', ' ')}: the zygote did not answer within {timeout_s:.0f} s") from None

    async def call_now(self, op: str, fds: Sequence[int] = (), **fields: Any) -> tuple[dict[str, Any], list[int]]:
        """One attempt on the present connection."""
        if self._socket is None:
            raise Disconnected(errno.ENOTCONN, f"cannot {op}: no connection to the zygote")
        self._seq += 1
        seq = self._seq
        future: asyncio.Future[tuple[dict[str, Any], list[int]]] = asyncio.get_running_loop().create_future()
        self._waiting[seq] = future
        try:
            self._send({"seq": seq, "op": op, **fields}, list(fds))
            answer, got = await future
        finally:
            self._waiting.pop(seq, None)
        if "error" in answer:
            wire.close_all(got)
            raise error_from(answer["error"])
        return answer.get("ok") or {}, got

    def _send(self, message: dict[str, Any], fds: list[int]) -> None:
        assert self._socket is not None
        try:
            if self._unsent:
                raise BlockingIOError
            wire.send(self._socket, message, fds)
        except BlockingIOError:
            self._unsent.append((message, [os.dup(fd) for fd in fds]))
            asyncio.get_running_loop().add_writer(self._socket.fileno(), self._flush)
        except OSError as e:
            self._lost(e)

    def _flush(self) -> None:
        assert self._socket is not None
        while self._unsent:
            message, fds = self._unsent[0]
            try:
                wire.send(self._socket, message, fds)
            except BlockingIOError:
                return
            except OSError as e:
                self._lost(e)
                return
            wire.close_all(fds)
            self._unsent.popleft()
        asyncio.get_running_loop().remove_writer(self._socket.fileno())

    def _open(self) -> None:
        s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        try:
            s.connect(self.path)
        except OSError:
            s.close()
            raise
        self._socket = s
        asyncio.get_running_loop().add_reader(s.fileno(), self._readable)

    def _readable(self) -> None:
        for _ in range(64):
            if self._socket is None:
                return
            try:
                got = wire.receive(self._socket)
            except BlockingIOError:
                return
            except (OSError, ValueError) as e:
                self._lost(e)
                return
            if got is None:
                self._lost(None)
                return
            self._dispatch(*got)

    def _dispatch(self, message: dict[str, Any], fds: list[int]) -> None:
        if "seq" not in message:
            wire.close_all(fds)
            self._on_event(message)
            return
        future = self._waiting.get(message["seq"])
        if future is None or future.done():
            wire.close_all(fds)  # its caller was cancelled
            return
        future.set_result((message, fds))

    def _lost(self, cause: Exception | None) -> None:
        if self._socket is None:
            return
        log.warning("lost the zygote (%s), reconnecting", cause or "it went away")
        self._drop(Disconnected(errno.ECONNRESET, "the zygote went away"))
        if not self._closed and not self._reconnecting:
            self._reconnecting = asyncio.get_running_loop().create_task(self._reconnect())

    def _drop(self, error: Exception) -> None:
        self._ready.clear()
        if self._socket is not None:
            loop = asyncio.get_running_loop()
            loop.remove_reader(self._socket.fileno())
            loop.remove_writer(self._socket.fileno())
            self._socket.close()
            self._socket = None
        for _, fds in self._unsent:
            wire.close_all(fds)
        self._unsent.clear()
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(error)

    async def _reconnect(self) -> None:
        delay = RECONNECT_FIRST_S
        while not self._closed:
            try:
                if self._socket is None:
                    self._open()
                await self._on_connect()
                self._ready.set()
                self._reconnecting = None
                log.info("connected to the zygote at %s", self.path)
                return
            except OSError as e:
                log.debug("cannot reconnect yet: %s", e)
                await asyncio.sleep(delay)
                delay = min(delay * 2, RECONNECT_MAX_S)
