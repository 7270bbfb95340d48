"""The server's side of a WebSocket (RFC 6455) on a taken-over connection: handshake, messages in, frames out. Owns no meaning of the messages. watching.py streams events
through it; exec and attach relay bytes instead (streaming.py) and need only `accept_key`."""

from __future__ import annotations

import base64
import hashlib
from collections import deque
from typing import TYPE_CHECKING, Any

from apiserver.api import errors

if TYPE_CHECKING:
    from apiserver.rest.connection import Takeover
    from apiserver.rest.request import Request

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
TEXT, BINARY = 0x81, 0x82


def is_upgrade(request: Request, protocol: bytes) -> bool:
    """Whether the client asks to switch to `protocol` (lower case: b"websocket", b"spdy/3.1")."""
    tokens = [token.strip() for token in request.headers.get(b"connection", b"").lower().split(b",")]
    return b"upgrade" in tokens and request.headers.get(b"upgrade", b"").strip().lower() == protocol


def accept_key(key: bytes) -> bytes:
    """Sec-WebSocket-Accept (RFC 6455 §4.2.2)."""
    return base64.b64encode(hashlib.sha1(key.strip() + _GUID, usedforsecurity=False).digest())


class WebSocket:
    """An open one. `read` answers messages until the peer closes; pings are answered on the way."""

    def __init__(self, stream: Takeover) -> None:
        from websockets.frames import Opcode
        from websockets.protocol import OPEN
        from websockets.server import ServerProtocol

        self._stream, self._opcode = stream, Opcode
        self._protocol = ServerProtocol(state=OPEN, max_size=1 << 20)
        self._received: deque[Any] = deque()

    @classmethod
    def accept(cls, request: Request, subprotocols: tuple[str, ...]) -> WebSocket:
        """Answers 101 with the first of `subprotocols` that the client offers (none if it offers none). Raises BadRequest for a faulty handshake."""
        key = request.headers.get(b"sec-websocket-key", b"")
        if not key or request.header(b"sec-websocket-version") != "13" or request.connection is None:
            raise errors.BadRequest("not a WebSocket handshake of version 13")
        offered = [name.strip() for name in request.header(b"sec-websocket-protocol").split(",") if name.strip()]
        chosen = next((name for name in subprotocols if name in offered), "")
        lines = [b"HTTP/1.1 101 Switching Protocols", b"Upgrade: websocket", b"Connection: Upgrade", b"Sec-WebSocket-Accept: " + accept_key(key)]
        if chosen:
            lines.append(b"Sec-WebSocket-Protocol: " + chosen.encode())
        stream = request.connection.take_over()
        stream.write(b"\r\n".join(lines) + b"\r\n\r\n")
        return cls(stream)

    async def read(self) -> bytes | None:
        """The next data frame's payload, None once the peer has closed or broken the protocol."""
        while True:
            while self._received:
                event = self._received.popleft()
                opcode = getattr(event, "opcode", None)
                if opcode in (self._opcode.TEXT, self._opcode.BINARY, self._opcode.CONT):
                    return bytes(event.data)
                if opcode == self._opcode.CLOSE:
                    return None
            data = await self._stream.read()
            if not data or self._protocol.parser_exc is not None:
                return None
            self._protocol.receive_data(data)
            self._received.extend(self._protocol.events_received())
            for out in self._protocol.data_to_send():
                if out:
                    self._stream.write(out)

    async def send(self, payload: bytes, opcode: int = TEXT) -> None:
        """One whole frame; waits while the peer does not read."""
        self._stream.write(frame(payload, opcode))
        await self._stream.drain()

    async def send_many(self, payloads: list[bytes]) -> None:
        self._stream.write(b"".join([frame(payload, TEXT) for payload in payloads]))
        await self._stream.drain()

    def write(self, frames: bytes) -> None:
        """Ready frames, without waiting."""
        self._stream.write(frames)

    async def drain(self) -> None:
        """Waits while the peer does not read. Raises ConnectionResetError once it has gone."""
        await self._stream.drain()

    def close(self) -> None:
        self._stream.write(b"\x88\x02\x03\xe8")  # close, status 1000
        self._stream.close()


def frame(payload: bytes, opcode: int) -> bytes:
    """An unmasked final frame (RFC 6455 §5.2)."""
    length = len(payload)
    if length < 126:
        head = bytes((opcode, length))
    elif length < 1 << 16:
        head = bytes((opcode, 126)) + length.to_bytes(2, "big")
    else:
        head = bytes((opcode, 127)) + length.to_bytes(8, "big")
    return head + payload
