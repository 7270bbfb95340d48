"""One message of the zygote's protocol: a JSON object and descriptors in one unix(7) SOCK_SEQPACKET packet. A text over 100 kB travels in a memfd (the first descriptor
then), since a packet must fit the socket's buffer. Shared by both ends (zygote, connection); standard library only.

Requests {"seq", "op", …}; answers {"seq", "ok": {…}} or {"seq", "error": {"type", "errno", "message"}}; events, unasked, {"event", …}.
"""

from __future__ import annotations

import json
import os
import socket
import struct

INLINE_BYTES = 100_000
PACKET_BYTES = 128 * 1024
MAX_FDS = 250  # SCM_MAX_FD is 253; a memfd may be added

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any


def send(s: socket.socket, message: Mapping[str, Any], fds: Sequence[int] = ()) -> None:
    """Raises BlockingIOError where a non-blocking peer does not keep up, other OSErrors where it is gone, ValueError for too many descriptors."""
    if len(fds) > MAX_FDS:
        raise ValueError(f"{len(fds)} descriptors in one message, at most {MAX_FDS} fit")
    data = json.dumps(message, separators=(",", ":")).encode()
    if len(data) <= INLINE_BYTES:
        _sendmsg(s, data, fds)
        return
    memfd = os.memfd_create("minik-message")
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(memfd, view) :]
        _sendmsg(s, b'{"memfd":%d}' % len(data), [memfd, *fds])
    finally:
        os.close(memfd)


def _sendmsg(s: socket.socket, data: bytes, fds: Sequence[int]) -> None:
    control = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack(f"{len(fds)}i", *fds))] if fds else []
    s.sendmsg([data], control, socket.MSG_NOSIGNAL)


def receive(s: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """The next message and its descriptors (close-on-exec, the caller's to close); None where the peer is gone. Raises BlockingIOError, ValueError for what is not ours."""
    try:
        return receive_or_reset(s)
    except (ConnectionResetError, BrokenPipeError):
        return None


def receive_or_reset(s: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """As `receive`, but a peer that left without reading all it was sent raises ConnectionResetError, once, before what it had sent itself can be read (unix(7))."""
    data, control, flags, _ = s.recvmsg(PACKET_BYTES, socket.CMSG_SPACE(4 * (MAX_FDS + 1)), socket.MSG_CMSG_CLOEXEC)
    fds: list[int] = []
    for level, kind, payload in control:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.extend(struct.unpack(f"{len(payload) // 4}i", payload[: len(payload) // 4 * 4]))
    if not data:
        close_all(fds)
        return None
    try:
        if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            raise ValueError("a message was cut off")
        message = json.loads(data)
        if "memfd" in message:
            message = json.loads(_read_memfd(fds.pop(0), message["memfd"]))
        if not isinstance(message, dict):
            raise ValueError("not a JSON object")
        return message, fds
    except (ValueError, TypeError, IndexError) as e:
        close_all(fds)
        raise ValueError(f"cannot read a message: {e}") from e


def _read_memfd(fd: int, size: int) -> bytes:
    try:
        data = b""
        while len(data) < size:
            part = os.pread(fd, size - len(data), len(data))
            if not part:
                raise ValueError("its memfd is too short")
            data += part
        return data
    finally:
        os.close(fd)


def close_all(fds: Sequence[int]) -> None:
    for fd in fds:
        if fd >= 0:
            os.close(fd)
