"""pods/portforward for clients that speak SPDY/3.1, plain (kubectl ≤ 1.30) or inside a WebSocket (`SPDY/3.1+portforward.k8s.io`, kubectl ≥ 1.31). Owns the pairing of streams to
forwarded connections: each pair (an error and a data stream of one requestID) becomes a WebSocket to the node of its own. Framing is spdy.py's; streaming.py runs it.

On the node's WebSocket: channel 0 the bytes, 1 an error text, each begun by the port's two bytes; where the node speaks PORT_FORWARD_HALF_CLOSE (agent/streams.py), `255 0` is the
end of one direction.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from apiserver.api import errors
from apiserver.rest import spdy, websocket

if TYPE_CHECKING:
    from websockets.asyncio.client import ClientConnection

log = logging.getLogger("apiserver")
SPDY_PROTOCOL = "portforward.k8s.io"
TUNNEL_PROTOCOL = f"SPDY/3.1+{SPDY_PROTOCOL}"
_HALF_CLOSE = "half-close.portforward.minik"
NODE_PROTOCOLS = (_HALF_CLOSE, "v4.channel.k8s.io")
_DATA, _ERROR = 0, 1
_END_OF_DATA = b"\xff\x00"
_PORT_BYTES = 2
_QUEUED_CHUNKS = 16
_MAX_PENDING_BYTES = 1 << 18

Dial = Callable[[int], Awaitable["ClientConnection"]]


class Tunnel(Protocol):
    """The client's bytes: a taken-over connection's, or those inside a WebSocket. read() answers b"" at the end."""

    async def read(self) -> bytes: ...
    def write(self, data: bytes) -> None: ...
    async def drain(self) -> None: ...
    def close(self) -> None: ...


class WebSocketTunnel:
    """A WebSocket whose binary messages are one byte stream."""

    def __init__(self, socket: websocket.WebSocket) -> None:
        self._socket = socket

    async def read(self) -> bytes:
        while (data := await self._socket.read()) is not None:
            if data:
                return data
        return b""

    def write(self, data: bytes) -> None:
        self._socket.write(websocket.frame(data, websocket.BINARY))

    async def drain(self) -> None:
        await self._socket.drain()

    def close(self) -> None:
        self._socket.close()


@dataclass(slots=True, eq=False)
class _Pair:
    """The two streams of one forwarded connection; `chunks` from the client for the node, None its end."""

    port: int
    error: int = 0
    data: int = 0
    chunks: asyncio.Queue[bytes | None] = field(default_factory=lambda: asyncio.Queue(_QUEUED_CHUNKS))
    over: bool = False

    def end(self) -> None:
        """Nobody reads any more: what is queued goes, and whoever waits for room comes free."""
        self.over = True
        while not self.chunks.empty():
            self.chunks.get_nowait()


class Forwarder:
    """One `kubectl port-forward`: as many forwarded connections as the client opens. `dial(port)` reaches the node, raising ApiError. Ends with its client."""

    def __init__(self, client: Tunnel, dial: Dial) -> None:
        self._client, self._dial = client, dial
        self._spdy = spdy.SpdyServer()
        self._pairs: dict[str, _Pair] = {}
        self._by_stream: dict[int, _Pair] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._room = asyncio.Event()

    async def run(self) -> None:
        try:
            while data := await self._client.read():
                try:
                    events = self._spdy.receive(data)
                except spdy.SpdyError as err:
                    self._client.write(err.goaway)
                    return
                for event in events:
                    await self._take(event)
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            self._client.close()

    async def _take(self, event: spdy.Event) -> None:
        match event:
            case spdy.Send(data):
                self._client.write(data)
            case spdy.StreamOpened(stream, headers, fin):
                self._open(stream, headers)
                if fin:
                    await self._enqueue(stream, b"", True)
            case spdy.DataReceived(stream, data, fin):
                await self._enqueue(stream, data, fin)
            case spdy.StreamReset(stream, _):
                await self._enqueue(stream, b"", True)
                self._room.set()
            case spdy.WindowOpened():
                self._room.set()

    def _open(self, stream: int, headers: dict[str, str]) -> None:
        kind, text, number = headers.get("streamtype", ""), headers.get("port", ""), headers.get("requestid", "")
        if kind not in ("error", "data") or not (text.isascii() and text.isdigit() and 0 < int(text) < 65536):
            self._client.write(self._spdy.reset(stream, spdy.Status.REFUSED_STREAM))
            return
        pair = self._pairs.setdefault(number, _Pair(int(text)))
        if getattr(pair, kind):
            self._client.write(self._spdy.reset(stream, spdy.Status.REFUSED_STREAM))
            return
        setattr(pair, kind, stream)
        self._by_stream[stream] = pair
        self._client.write(self._spdy.reply(stream))
        if pair.error and pair.data:
            task = asyncio.ensure_future(self._forward(number, pair))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _enqueue(self, stream: int, data: bytes, fin: bool) -> None:
        """The client's bytes wait here for the node; what comes on the error stream, or too late, goes."""
        pair = self._by_stream.get(stream)
        if pair is not None and stream == pair.data and not pair.over:
            if data:
                await pair.chunks.put(data)
            if fin:
                await pair.chunks.put(None)
        elif data:
            self._client.write(self._spdy.consumed(stream, len(data)))

    async def _forward(self, number: str, pair: _Pair) -> None:
        try:
            socket = await self._dial(pair.port)
            try:
                await self._copy(pair, socket)
            finally:
                await socket.close()
        except errors.ApiError as err:
            self._send_last(pair.error, err.message.encode())
        except ConnectionError:
            pass  # the client has gone: run() sees it too
        except Exception:
            log.exception("port-forward to port %d", pair.port)
            self._send_last(pair.error, b"internal error: see the API server's log")
        finally:
            pair.end()
            self._pairs.pop(number, None)
            for stream in (pair.error, pair.data):
                self._by_stream.pop(stream, None)
                self._send_last(stream)

    async def _copy(self, pair: _Pair, socket: ClientConnection) -> None:
        """Both ways, until the node has closed: it does so when both directions have ended."""
        inward = asyncio.ensure_future(self._to_node(pair, socket))
        try:
            await self._to_client(pair, socket)
        finally:
            inward.cancel()
            await asyncio.gather(inward, return_exceptions=True)

    async def _to_node(self, pair: _Pair, socket: ClientConnection) -> None:
        while (chunk := await pair.chunks.get()) is not None:
            await socket.send(bytes((_DATA,)) + chunk)
            self._client.write(self._spdy.consumed(pair.data, len(chunk)))
        if socket.subprotocol == _HALF_CLOSE:
            await socket.send(_END_OF_DATA)

    async def _to_client(self, pair: _Pair, socket: ClientConnection) -> None:
        begun: set[int] = set()
        async for message in socket:
            payload = message.encode() if isinstance(message, str) else message
            if payload == _END_OF_DATA:
                self._send_last(pair.data)
                self._send_last(pair.error)  # kubectl ≤ 1.31 closes its local connection only when both streams have ended
            elif payload and payload[0] not in begun:  # the port
                begun.add(payload[0])
                await self._send(pair, payload[0], payload[1 + _PORT_BYTES :])
            elif payload:
                await self._send(pair, payload[0], payload[1:])

    async def _send(self, pair: _Pair, channel: int, data: bytes) -> None:
        if not data:
            return
        if channel == _ERROR:
            self._send_last(pair.error, data)
            return
        with contextlib.suppress(ValueError):  # the client has ended that stream
            self._client.write(self._spdy.send_data(pair.data, data))
        await self._client.drain()
        while self._spdy.pending(pair.data) > _MAX_PENDING_BYTES:
            self._room.clear()
            await self._room.wait()

    def _send_last(self, stream: int, data: bytes = b"") -> None:
        with contextlib.suppress(ValueError):  # ended already
            self._client.write(self._spdy.send_data(stream, data, fin=True))
