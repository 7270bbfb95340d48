"""WebSocket frames (RFC 6455), client side: masks what it sends, joins fragments of what it gets. Sans-I/O; exec drives it over a bare socket."""

from __future__ import annotations

import base64
import os
import struct

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10


def upgrade_headers(protocols: str) -> dict[str, str]:
    return {
        "Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
        "Sec-WebSocket-Protocol": protocols,
    }  # fmt: skip


def encode(opcode: int, payload: bytes, mask: bytes) -> bytes:
    """One final frame. `mask`: 4 random bytes (RFC 6455 §5.3)."""
    n = len(payload)
    head = bytes([0x80 | opcode])
    if n < 126:
        head += bytes([0x80 | n])
    elif n < 1 << 16:
        head += bytes([0x80 | 126]) + struct.pack(">H", n)
    else:
        head += bytes([0x80 | 127]) + struct.pack(">Q", n)
    repeated = int.from_bytes((mask * (n // 4 + 1))[:n], "big")
    return head + mask + (int.from_bytes(payload, "big") ^ repeated).to_bytes(n, "big")


class Decoder:
    """feed() returns whole messages: (opcode, payload)."""

    def __init__(self) -> None:
        self.buffer = b""
        self.parts: list[bytes] = []
        self.kind = 0

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        self.buffer += data
        out: list[tuple[int, bytes]] = []
        while (frame := self._frame()) is not None:
            final, opcode, payload = frame
            if opcode >= CLOSE:
                out.append((opcode, payload))
                continue
            if opcode != CONTINUATION:
                self.kind, self.parts = opcode, []
            self.parts.append(payload)
            if final:
                out.append((self.kind, b"".join(self.parts)))
                self.parts = []
        return out

    def _frame(self) -> tuple[bool, int, bytes] | None:
        b = self.buffer
        if len(b) < 2:
            return None
        n, at = b[1] & 0x7F, 2
        if n >= 126:
            size = 2 if n == 126 else 8
            if len(b) < at + size:
                return None
            n, at = int.from_bytes(b[at : at + size], "big"), at + size
        if len(b) < at + n:
            return None
        self.buffer = b[at + n :]
        return bool(b[0] & 0x80), b[0] & 0x0F, b[at : at + n]
