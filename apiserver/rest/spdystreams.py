"""exec and attach for clients that speak SPDY/3.1 (kubectl ≤ 1.30, later ones as fallback): their streams onto the channels of a WebSocket to the node, and back. Owns the pairing
(stdin 0, stdout 1, stderr 2, error 3, resize 4, close 255: `v5.channel.k8s.io`) and the order of the end; framing is spdy.py's. streaming.py runs it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING

from apiserver.api import errors
from apiserver.rest import logs, nodes, spdy
from apiserver.rest.connection import Takeover
from apiserver.rest.request import Request

if TYPE_CHECKING:
    from websockets.asyncio.client import ClientConnection

PROTOCOLS = ("v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io")
CHANNELS = {"stdin": 0, "stdout": 1, "stderr": 2, "error": 3, "resize": 4}
NODE_PROTOCOLS = ("v5.channel.k8s.io", "v4.channel.k8s.io")
_OUTWARD = ("stdout", "stderr", "error")
_CLOSE = b"\xff"
_STREAMS_TIMEOUT_S = 30.0
_LINGER_S = 10.0
_MAX_PENDING_BYTES = 1 << 18


@contextlib.asynccontextmanager
async def opened(request: Request, connector: nodes.NodeConnector, address: nodes.Address, target: str) -> AsyncIterator[Relay]:
    """A relay that is ready to run; the client has its 101. Raises errors while there is still HTTP to say them in."""
    protocol = choose_protocol(request, PROTOCOLS)
    socket = await connect(connector, address, target)
    try:
        yield Relay(switch(request, protocol), socket, _expected(request))
    finally:
        await socket.close()


def switch(request: Request, protocol: str) -> Takeover:
    """Answers 101 and takes the connection over."""
    assert request.connection is not None
    client = request.connection.take_over()
    head = ("HTTP/1.1 101 Switching Protocols", "Connection: Upgrade", "Upgrade: SPDY/3.1", f"X-Stream-Protocol-Version: {protocol}", "", "")
    client.write("\r\n".join(head).encode())
    return client


def choose_protocol(request: Request, served: Sequence[str]) -> str:
    """The first of the client's versions that is spoken here. Raises Forbidden naming both lists."""
    offered = [
        version.strip() for name, value in request.scope["headers"] if name == b"x-stream-protocol-version" for version in value.decode("latin-1").split(",") if version.strip()
    ]  # fmt: skip
    for version in offered:
        if version in served:
            return version
    raise errors.Forbidden(f"unable to upgrade: unable to negotiate protocol: client supports {offered}, server accepts {list(served)}")


def _expected(request: Request) -> set[str]:
    names = {name for name in ("stdin", "stdout", "stderr") if request.flag(name)}
    if request.flag("tty"):
        names.discard("stderr")
        names.add("resize")
    return names | {"error"}


async def connect(connector: nodes.NodeConnector, address: nodes.Address, target: str, protocols: Sequence[str] = NODE_PROTOCOLS) -> ClientConnection:
    """The node's side. Raises Unavailable, Timeout, or what the node answered."""
    from websockets.asyncio.client import connect as dial
    from websockets.exceptions import InvalidHandshake, InvalidStatus
    from websockets.typing import Subprotocol

    try:
        return await dial(
            f"wss://{address.netloc}{target}", ssl=connector.tls(), server_hostname=address.host, subprotocols=[Subprotocol(name) for name in protocols],
            compression=None, max_size=None, ping_interval=None, open_timeout=nodes.HEAD_TIMEOUT_S, close_timeout=1, proxy=None,
        )  # fmt: skip
    except InvalidStatus as err:
        raise logs.parse_refusal(err.response.status_code, bytes(err.response.body or b"")) from None
    except TimeoutError:
        raise errors.Timeout(f"no answer from the node's server at {address.netloc}") from None
    except (OSError, InvalidHandshake) as err:
        raise errors.Unavailable(f"cannot reach the node's server at {address.netloc}: {err}") from err


class Relay:
    """One exec or attach. Output begins when every expected stream is open; it ends, with FIN on all streams, when the node closes."""

    def __init__(self, client: Takeover, socket: ClientConnection, expected: set[str]) -> None:
        self._client, self._socket, self._expected = client, socket, expected
        self._spdy = spdy.SpdyServer()
        self._ids: dict[str, int] = {}
        self._names: dict[int, str] = {}
        self._all_open = asyncio.Event()
        self._room = asyncio.Event()
        self._half_close = socket.subprotocol == "v5.channel.k8s.io"

    async def run(self) -> None:
        inward = asyncio.ensure_future(self._from_client())
        outward = asyncio.ensure_future(self._from_node())
        try:
            await asyncio.wait((inward, outward), return_when=asyncio.FIRST_COMPLETED)
            if outward.done() and not outward.cancelled() and outward.exception() is None:
                with contextlib.suppress(TimeoutError):  # the client closes when it has read the end of everything
                    await asyncio.wait_for(asyncio.shield(inward), _LINGER_S)
        finally:
            for task in (inward, outward):
                task.cancel()
            await asyncio.gather(inward, outward, return_exceptions=True)
            self._client.close()

    async def _from_client(self) -> None:
        from websockets.exceptions import ConnectionClosed

        while data := await self._client.read():
            try:
                events = self._spdy.receive(data)
            except spdy.SpdyError as err:
                self._client.write(err.goaway)
                return
            for event in events:
                with contextlib.suppress(ConnectionClosed):  # the node is done; what the client still sends has no reader
                    await self._take(event)

    async def _take(self, event: spdy.Event) -> None:
        match event:
            case spdy.Send(data):
                self._client.write(data)
            case spdy.StreamOpened(stream, headers, fin):
                self._open(stream, headers.get("streamtype", ""))
                if fin and self._names.get(stream) == "stdin":
                    await self._end_stdin()
            case spdy.DataReceived(stream, data, fin):
                await self._pass_on(stream, data, fin)
            case spdy.StreamReset(stream, _):
                name = self._names.pop(stream, "")
                self._ids.pop(name, None)
                if name == "stdin":
                    await self._end_stdin()
                self._room.set()
            case spdy.WindowOpened():
                self._room.set()

    def _open(self, stream: int, kind: str) -> None:
        if kind not in CHANNELS or kind in self._ids:
            self._client.write(self._spdy.reset(stream, spdy.Status.REFUSED_STREAM))
            return
        self._ids[kind], self._names[stream] = stream, kind
        self._client.write(self._spdy.reply(stream))
        if self._expected <= self._ids.keys():
            self._all_open.set()

    async def _pass_on(self, stream: int, data: bytes, fin: bool) -> None:
        name = self._names.get(stream)
        if name in ("stdin", "resize") and data:
            await self._socket.send(bytes((CHANNELS[name],)) + data)
        if data:
            self._client.write(self._spdy.consumed(stream, len(data)))
        if fin and name == "stdin":
            await self._end_stdin()

    async def _end_stdin(self) -> None:
        if self._half_close:
            await self._socket.send(_CLOSE + bytes((CHANNELS["stdin"],)))

    async def _from_node(self) -> None:
        from websockets.exceptions import ConnectionClosed

        async with asyncio.timeout(_STREAMS_TIMEOUT_S):
            await self._all_open.wait()
        names = {channel: name for name, channel in CHANNELS.items() if name in _OUTWARD}
        try:
            while True:
                message = await self._socket.recv()
                payload = message.encode() if isinstance(message, str) else message
                stream = self._ids.get(names.get(payload[0], "")) if payload else None
                if stream is not None and len(payload) > 1:
                    await self._send(stream, payload[1:])
        except ConnectionClosed:
            pass
        for name in _OUTWARD:
            stream = self._ids.get(name)
            if stream is not None:
                with contextlib.suppress(ValueError):
                    self._client.write(self._spdy.send_data(stream, b"", fin=True))
        await self._client.drain()

    async def _send(self, stream: int, data: bytes) -> None:
        """Waits for the socket, and for the client's window where the client keeps one."""
        with contextlib.suppress(ValueError):  # the client has ended that stream
            self._client.write(self._spdy.send_data(stream, data))
        await self._client.drain()
        while self._spdy.pending(stream) > _MAX_PENDING_BYTES:
            self._room.clear()
            await self._room.wait()
