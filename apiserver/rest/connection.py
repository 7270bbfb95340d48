"""One client's socket: uvicorn's httptools protocol with three additions. It knows who the TLS peer is, tells a handler when the client leaves, and lets a handler take the raw
connection over after an Upgrade (WebSocket, SPDY). Owns the limits that keep a careless or hostile client cheap: size of a request's head, time for it to arrive.

Made by uvicorn per connection; handlers reach it as request.connection.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from apiserver.auth.certificates import Peer

log = logging.getLogger("apiserver")
MAX_HEAD_BYTES = 256 * 1024
HEAD_TIMEOUT_S = 30.0
_HIGH_WATER_BYTES = 1 << 20
_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
_TIMED_OUT = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


class Takeover:
    """The raw byte stream of a connection that HTTP is done with. Reading pauses the socket when nobody reads; drain() waits for a peer that reads slowly."""

    def __init__(self, connection: Connection, begun: bytes) -> None:
        self._connection = connection
        self._transport = connection.transport
        self._buffer = bytearray(begun)
        self._eof = False
        self._paused = False
        self._waiter: asyncio.Future[None] | None = None

    async def read(self) -> bytes:
        """All bytes that have arrived, at least one; b"" once the client has gone."""
        while not self._buffer and not self._eof:
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        data = bytes(self._buffer)
        self._buffer.clear()
        if self._paused and not self._transport.is_closing():
            self._paused = False
            self._transport.resume_reading()
        return data

    def write(self, data: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(data)

    async def drain(self) -> None:
        """Waits until the socket takes more. Raises ConnectionResetError once the client has gone."""
        if self._eof and self._transport.is_closing():
            raise ConnectionResetError("the client has gone")
        await self._connection.flow.drain()

    def close(self) -> None:
        """After what was written has gone out."""
        self._transport.close()

    def feed(self, data: bytes) -> None:
        self._buffer += data
        if len(self._buffer) > _HIGH_WATER_BYTES and not self._paused:
            self._paused = True
            self._transport.pause_reading()
        self._wake()

    def feed_eof(self) -> None:
        self._eof = True
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Connection(HttpToolsProtocol):
    """`peer`: who the TLS client is. `on_lost`: called once when the client leaves, set by a handler that waits for something else meanwhile."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.peer: Peer | None = None
        self.on_lost: Callable[[], None] | None = None
        self.head_since: float | None = None
        self._head_bytes = 0
        self._upgrading = False
        self._tail = b""
        self._taken: Takeover | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]
        self.peer = Peer(transport.get_extra_info("peercert"))
        self.head_since = self.loop.time()

    @property
    def body_complete(self) -> bool:
        """Whether the current request's body has arrived, so that receive() answers at once."""
        return not self.cycle.more_body

    def data_received(self, data: bytes) -> None:
        if self._taken is not None:
            self._taken.feed(data)
            return
        if self._upgrading:
            self._tail += data
            if len(self._tail) > MAX_HEAD_BYTES:
                self.transport.abort()
            return
        self._unset_keepalive_if_required()
        if self.head_since is None and (self.cycle is None or not self.cycle.more_body):
            self.head_since = self.loop.time()
        self._head_bytes += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._tail += data[upgrade.args[0] :]
        except httptools.HttpParserError:
            self.send_400_response("Invalid HTTP request received.")
            return
        if self.head_since is not None and self._head_bytes > MAX_HEAD_BYTES:
            self._refuse(_TOO_LARGE)

    def _refuse(self, answer: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(answer)
            self.transport.close()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["minik.connection"] = self  # type: ignore[typeddict-unknown-key]

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        self.head_since, self._head_bytes = None, 0
        if self.parser.should_upgrade():
            self._upgrading = True
            self.cycle.keep_alive = False  # unless a handler takes over, the answer is the last one here

    def check_head(self, now: float) -> None:
        """Called from time to time: a head that does not arrive ends the connection."""
        if self.head_since is not None and now - self.head_since > HEAD_TIMEOUT_S and (self.cycle is None or self.cycle.response_complete):
            self._refuse(_TIMED_OUT if self._head_bytes else b"")

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self.head_since = None  # idle: the keep-alive timer watches now

    def take_over(self) -> Takeover:
        """Ends HTTP on this connection and hands out the bytes; only while a request that asked for an Upgrade is being answered. Raises RuntimeError."""
        if not self._upgrading or self._taken is not None or self.cycle.response_started:
            raise RuntimeError("cannot take over: no upgrade was asked for, or an answer has begun")
        self._taken = Takeover(self, self._tail)
        self._tail = b""
        self.cycle.response_started = self.cycle.response_complete = True
        self._unset_keepalive_if_required()
        self.flow.resume_reading()
        return self._taken

    def abort(self) -> None:
        if not self.transport.is_closing():
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._unset_keepalive_if_required()
        if self._taken is not None:
            self._taken.feed_eof()
        if self.on_lost is not None:
            on_lost, self.on_lost = self.on_lost, None
            on_lost()
