"""Calls an ASGI app of the same process as if it were a server: the transport of embedded controllers. No socket, no TLS, no copying of bodies.

Who calls is said by `scope_extra` (the API server's wiring puts the identity there), never by a header.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from apiserver.api import errors
from apiserver.client.requests import Request, Response, ServerUnreachable

__all__ = ["AsgiTransport"]

Message = MutableMapping[str, Any]
AsgiApp = Callable[[Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]]
HIGH_WATER_BYTES = 4 << 20
log = logging.getLogger("client")

_running: set[asyncio.Future[None]] = set()


def _ended(task: asyncio.Future[None]) -> None:
    _running.discard(task)
    if not task.cancelled() and task.exception() is not None:
        log.error("request failed inside the app: %r", task.exception())


class _Exchange:
    """The app's side runs as a task; `send` blocks it while the reader is far behind."""

    def __init__(self, app: AsgiApp, scope: Message, body: bytes) -> None:
        self.status, self.headers = 0, dict[str, str]()
        self._body: bytes | None = body
        self._chunks: list[bytes] = []
        self._size = 0
        self._complete = False
        self._changed = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._gone = asyncio.Event()
        self._task = asyncio.ensure_future(self._run(app, scope))
        _running.add(self._task)
        self._task.add_done_callback(_ended)

    async def _run(self, app: AsgiApp, scope: Message) -> None:
        try:
            await app(scope, self._receive, self._send)
        finally:
            self._changed.set()

    async def _receive(self) -> Message:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {bytes(k).decode("latin-1").lower(): bytes(v).decode("latin-1") for k, v in message.get("headers", ())}
        elif message["type"] == "http.response.body":
            data = message.get("body", b"")
            if data:
                self._chunks.append(data)
                self._size += len(data)
            self._complete = not message.get("more_body", False)
            if self._complete:
                self._gone.set()
        self._changed.set()
        if self._size > HIGH_WATER_BYTES and not self._complete:
            self._room.clear()
            await self._room.wait()

    async def _until(self, ready: Callable[[], bool]) -> None:
        while not ready():
            if self._task.done():
                error = None if self._task.cancelled() else self._task.exception()
                raise ServerUnreachable("the API server in this process", error or "the request ended without an answer", sent=True)
            self._changed.clear()
            await self._changed.wait()

    async def head(self) -> None:
        await self._until(lambda: self.status > 0)

    async def whole(self) -> Response:
        self._size = -(1 << 62)  # a collected body has no high-water mark
        await self._until(lambda: self._complete)
        return Response(self.status, self.headers, b"".join(self._chunks))

    async def read(self) -> bytes:
        await self._until(lambda: bool(self._chunks) or self._complete)
        data = b"".join(self._chunks)
        self._chunks, self._size = [], 0
        self._room.set()
        return data

    async def aclose(self) -> None:
        """Hangs up. An app that has answered completely is left to finish by itself, as it would behind a socket."""
        self._gone.set()
        self._room.set()
        if not self._complete and not self._task.done():
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)


class AsgiTransport:
    """transport.Transport over `app`; `scope_extra` is merged into every ASGI scope."""

    def __init__(self, app: AsgiApp, scope_extra: dict[str, Any] | None = None) -> None:
        self._app, self._extra = app, scope_extra or {}

    def _start(self, request: Request) -> _Exchange:
        path, _, query = request.target.partition("?")
        headers = [(k.encode(), v.encode("latin-1")) for k, v in request.headers] + [(b"host", b"in-process"), (b"content-length", str(len(request.body)).encode())]
        scope: Message = {
            "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1", "method": request.method, "scheme": "https", "path": _unquote(path),
            "raw_path": path.encode(), "query_string": query.encode(), "root_path": "", "headers": headers, "client": ("127.0.0.1", 0), "server": ("127.0.0.1", 0), **self._extra,
        }  # fmt: skip
        return _Exchange(self._app, scope, request.body)

    async def request(self, request: Request, timeout_s: float) -> Response:
        exchange = self._start(request)
        try:
            async with asyncio.timeout(timeout_s):
                return await exchange.whole()
        except TimeoutError:
            raise errors.Timeout(f"{request.method} {request.target.partition('?')[0]}: no answer within {timeout_s:g} s") from None
        finally:
            await exchange.aclose()

    async def stream(self, request: Request, timeout_s: float) -> _Exchange:
        exchange = self._start(request)
        try:
            async with asyncio.timeout(timeout_s):
                await exchange.head()
        except TimeoutError:
            await exchange.aclose()
            raise errors.Timeout(f"{request.method} {request.target.partition('?')[0]}: no answer within {timeout_s:g} s") from None
        except BaseException:
            await exchange.aclose()
            raise
        return exchange

    async def close(self) -> None:
        return


def _unquote(path: str) -> str:
    if "%" not in path:
        return path
    from urllib.parse import unquote

    return unquote(path)
