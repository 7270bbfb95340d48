"""SPDY/3.1 framing, the server's side, sans I/O: bytes in, events and bytes out. Owns frames, header compression, stream states and flow control; knows nothing of
sockets or of what the streams carry. REST's exec, attach and port-forward feed it an upgraded connection (kubectl ≤ 1.30, and the fallback of later ones).

    server = SpdyServer()
    for event in server.receive(data):      # Send: write these bytes to the client; StreamOpened: answer by reply() or reset()
        …
    transport.write(server.send_data(stream, b"…"))

Source: "SPDY Protocol - Draft 3.1" (frames: section 2; header block and its dictionary: 2.6.10; flow control: 2.6.8). Kubernetes' clients (spdystream) neither keep nor
update windows: so until a peer has sent a WINDOW_UPDATE or an initial window size, sending is bounded by the transport alone.
"""

from __future__ import annotations

import enum
import struct
import zlib
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

VERSION = 3
DEFAULT_WINDOW = 64 * 1024
_MAX_CONTROL = 64 * 1024  # length of a control frame
_MAX_HEADERS = 256 * 1024  # of a header block once inflated
_MAX_DATA = 32 * 1024  # of the data frames we make
_SESSION = 0
_MAX_WINDOW = 2**31 - 1
FLAG_FIN, _FLAG_UNIDIRECTIONAL = 1, 2
_INITIAL_WINDOW_SETTING = 7


def _dictionary() -> bytes:
    """Draft 3, section 2.6.10.1: header names and values, each after its length, then fragments of common values."""
    words = (
        "options head post put delete trace accept accept-charset accept-encoding accept-language accept-ranges age allow authorization cache-control connection "
        "content-base content-encoding content-language content-length content-location content-md5 content-range content-type date etag expect expires from host "
        "if-match if-modified-since if-none-match if-range if-unmodified-since last-modified location max-forwards pragma proxy-authenticate proxy-authorization "
        "range referer retry-after server te trailer transfer-encoding upgrade user-agent vary via warning www-authenticate method get status 200_OK version "
        "HTTP/1.1 url public set-cookie keep-alive origin"
    )
    listed = b"".join(struct.pack(">I", len(word)) + word.replace("_", " ").encode() for word in words.split())
    return listed + (
        b"100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505"
        b"203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden404 Not Found500 Internal Server Error"
        b"501 Not Implemented503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT"
        b"chunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,deflate,sdch"
        b"charset=utf-8charset=iso-8859-1,utf-,*,enq=0."
    )


DICTIONARY = _dictionary()


class Frame(enum.IntEnum):
    SYN_STREAM = 1
    SYN_REPLY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PING = 6
    GOAWAY = 7
    HEADERS = 8
    WINDOW_UPDATE = 9


class Status(enum.IntEnum):
    """Of RST_STREAM. GOAWAY knows 0 OK, 1 PROTOCOL_ERROR, 2 INTERNAL_ERROR."""

    PROTOCOL_ERROR = 1
    INVALID_STREAM = 2
    REFUSED_STREAM = 3
    UNSUPPORTED_VERSION = 4
    CANCEL = 5
    INTERNAL_ERROR = 6
    FLOW_CONTROL_ERROR = 7
    STREAM_IN_USE = 8
    STREAM_ALREADY_CLOSED = 9
    FRAME_TOO_LARGE = 11


class SpdyError(Exception):
    """The connection cannot go on. `goaway`: the frame to send before closing it."""

    def __init__(self, message: str, goaway: bytes) -> None:
        super().__init__(message)
        self.goaway = goaway


@dataclass(frozen=True, slots=True)
class Send:
    """Bytes for the client, in order with what the server's methods return."""

    data: bytes


@dataclass(frozen=True, slots=True)
class StreamOpened:
    """`headers`: lower-case names; several values of one name are joined by "\\0". fin: the client will send nothing on it."""

    stream: int
    headers: dict[str, str]
    fin: bool


@dataclass(frozen=True, slots=True)
class DataReceived:
    """Call consumed() when the data has been passed on. fin: there is no more."""

    stream: int
    data: bytes
    fin: bool


@dataclass(frozen=True, slots=True)
class StreamReset:
    stream: int
    status: int


@dataclass(frozen=True, slots=True)
class WindowOpened:
    """The client has made room: what waited on `stream` has been sent, or some of it."""

    stream: int


@dataclass(frozen=True, slots=True)
class ClientGoesAway:
    last_stream: int
    status: int


Event = Send | StreamOpened | DataReceived | StreamReset | WindowOpened | ClientGoesAway


@dataclass(slots=True)
class _Stream:
    window: int
    can_send: bool
    can_receive: bool
    queue: deque[bytes] = field(default_factory=deque)
    fin_queued: bool = False
    unacknowledged: int = 0

    @property
    def queued_bytes(self) -> int:
        return sum(map(len, self.queue))


class SpdyServer:
    """One connection. Raises SpdyError from receive(); methods that send raise ValueError for a stream that is not open for it."""

    def __init__(self, *, max_streams: int = 1000) -> None:
        self._max_streams = max_streams
        self._buffer = bytearray()
        self._streams: dict[int, _Stream] = {}
        self._last_stream = 0
        self._inflate = zlib.decompressobj(zdict=DICTIONARY)
        self._deflate = zlib.compressobj(zdict=DICTIONARY)
        self._incoming_data: tuple[int, int, bool] | None = None  # stream, bytes left, fin at the end
        self._initial_window = DEFAULT_WINDOW
        self._session_window = DEFAULT_WINDOW
        self._session_unacknowledged = 0
        self._windows_kept = False

    # out

    def reply(self, stream: int, headers: Mapping[str, str] | None = None, *, fin: bool = False) -> bytes:
        """SYN_REPLY: the stream is accepted."""
        state = self._open_for_sending(stream)
        frame = _control(Frame.SYN_REPLY, struct.pack(">I", stream) + self._header_block(headers or {}), FLAG_FIN if fin else 0)
        if fin:
            self._sent_fin(stream, state)
        return frame

    def send_data(self, stream: int, data: bytes, fin: bool = False) -> bytes:
        """The frames that may go now; the rest waits for the client's window (see pending()) and comes as a Send event of receive()."""
        state = self._open_for_sending(stream)
        if data:
            state.queue.append(bytes(data))
        state.fin_queued = fin
        return self._flush(stream, state)

    def pending(self, stream: int) -> int:
        """Bytes that wait for the client's window; 0 for a stream that is gone."""
        state = self._streams.get(stream)
        return state.queued_bytes if state else 0

    def consumed(self, stream: int, count: int) -> bytes:
        """`count` received bytes have been passed on: WINDOW_UPDATE frames, once worth it."""
        frames = b""
        self._session_unacknowledged += count
        if self._session_unacknowledged >= DEFAULT_WINDOW // 2:
            frames += _control(Frame.WINDOW_UPDATE, struct.pack(">II", _SESSION, self._session_unacknowledged))
            self._session_unacknowledged = 0
        state = self._streams.get(stream)
        if state is not None and state.can_receive:
            state.unacknowledged += count
            if state.unacknowledged >= DEFAULT_WINDOW // 2:
                frames += _control(Frame.WINDOW_UPDATE, struct.pack(">II", stream, state.unacknowledged))
                state.unacknowledged = 0
        return frames

    def reset(self, stream: int, status: Status = Status.CANCEL) -> bytes:
        """RST_STREAM: ends or refuses the stream in both directions; b"" where it is gone already."""
        if self._streams.pop(stream, None) is None:
            return b""
        return _control(Frame.RST_STREAM, struct.pack(">II", stream, status))

    def goaway(self, status: int = 0) -> bytes:
        """The last frame before closing."""
        return _control(Frame.GOAWAY, struct.pack(">II", self._last_stream, status))

    def _open_for_sending(self, stream: int) -> _Stream:
        state = self._streams.get(stream)
        if state is None or not state.can_send or state.fin_queued:
            raise ValueError(f"SPDY stream {stream} is not open for sending")
        return state

    def _flush(self, stream: int, state: _Stream) -> bytes:
        frames: list[bytes] = []
        while state.queue:
            room = min(state.window, self._session_window) if self._windows_kept else _MAX_DATA
            if room <= 0:
                return b"".join(frames)
            head = state.queue.popleft()
            chunk = head[: min(room, _MAX_DATA)]
            if len(chunk) < len(head):
                state.queue.appendleft(head[len(chunk) :])
            state.window -= len(chunk)
            self._session_window -= len(chunk)
            fin = state.fin_queued and not state.queue
            frames.append(_data(stream, chunk, fin))
            if fin:
                self._sent_fin(stream, state)
                return b"".join(frames)
        if state.fin_queued:
            frames.append(_data(stream, b"", True))
            self._sent_fin(stream, state)
        return b"".join(frames)

    def _sent_fin(self, stream: int, state: _Stream) -> None:
        state.can_send = False
        if not state.can_receive:
            del self._streams[stream]

    def _header_block(self, headers: Mapping[str, str]) -> bytes:
        block = struct.pack(">I", len(headers))
        for name, value in headers.items():
            for text in (name.lower().encode(), value.encode()):
                block += struct.pack(">I", len(text)) + text
        return self._deflate.compress(block) + self._deflate.flush(zlib.Z_SYNC_FLUSH)

    # in

    def receive(self, data: bytes) -> list[Event]:
        """What `data` brings, in order; incomplete frames wait for the rest, except that data is handed on as it comes. Raises SpdyError."""
        self._buffer += data
        events: list[Event] = []
        while self._step(events):
            pass
        return events

    def _step(self, events: list[Event]) -> bool:
        if self._incoming_data is not None:
            return self._continue_data(events)
        if len(self._buffer) < 8:
            return False
        word, tail = struct.unpack_from(">II", self._buffer)
        flags, length = tail >> 24, tail & 0xFFFFFF
        if not word & 0x80000000:
            del self._buffer[:8]
            self._incoming_data = (word, length, bool(flags & FLAG_FIN))
            if word == _SESSION:
                raise self._error("data frame on stream 0")
            return self._continue_data(events, began=True)
        if word >> 16 & 0x7FFF != VERSION:
            raise self._error(f"SPDY version {word >> 16 & 0x7FFF}, want {VERSION}")
        if length > _MAX_CONTROL:
            raise self._error(f"control frame of {length} bytes, allowed are {_MAX_CONTROL}")
        if len(self._buffer) < 8 + length:
            return False
        payload = bytes(self._buffer[8 : 8 + length])
        del self._buffer[: 8 + length]
        try:
            self._take_control(word & 0xFFFF, flags, payload, events)
        except struct.error:
            raise self._error(f"control frame of type {word & 0xFFFF} is too short: {length} bytes") from None
        return True

    def _continue_data(self, events: list[Event], *, began: bool = False) -> bool:
        assert self._incoming_data is not None
        stream, left, fin = self._incoming_data
        if left and not self._buffer:
            return False
        chunk = bytes(self._buffer[:left])
        del self._buffer[: len(chunk)]
        left -= len(chunk)
        self._incoming_data = (stream, left, fin) if left else None
        state = self._streams.get(stream)
        if state is None or not state.can_receive:
            if chunk:  # nobody will consume it, but it took of the session's window
                events += _sends(self.consumed(stream, len(chunk)))
            if began and (stream > self._last_stream or state is not None):
                status = Status.STREAM_ALREADY_CLOSED if state else Status.INVALID_STREAM
                events.append(Send(_control(Frame.RST_STREAM, struct.pack(">II", stream, status))))
                if state is not None:
                    self._streams.pop(stream)
                    events.append(StreamReset(stream, status))
            return True  # for a stream that ended lately: on its way when we said so
        ended = fin and not left
        if ended:
            self._received_fin(stream, state)
        if chunk or ended:
            events.append(DataReceived(stream, chunk, ended))
        return True

    def _received_fin(self, stream: int, state: _Stream) -> None:
        state.can_receive = False
        if not state.can_send:
            del self._streams[stream]

    def _take_control(self, kind: int, flags: int, payload: bytes, events: list[Event]) -> None:
        match kind:
            case Frame.SYN_STREAM:
                self._take_syn_stream(flags, payload, events)
            case Frame.HEADERS | Frame.SYN_REPLY:
                self._headers(payload[4:])  # unused, but the compression's state lives on in it
                self._take_fin(struct.unpack_from(">I", payload)[0] & 0x7FFFFFFF, flags, events)
            case Frame.RST_STREAM:
                stream, status = struct.unpack_from(">II", payload)
                if self._streams.pop(stream & 0x7FFFFFFF, None) is not None:
                    events.append(StreamReset(stream & 0x7FFFFFFF, status))
            case Frame.SETTINGS:
                self._take_settings(payload, events)
            case Frame.PING:
                if struct.unpack_from(">I", payload)[0] % 2:  # odd: the client's own; even: an answer to one of ours
                    events.append(Send(_control(Frame.PING, payload[:4])))
            case Frame.GOAWAY:
                last, status = struct.unpack_from(">II", payload)
                events.append(ClientGoesAway(last & 0x7FFFFFFF, status))
            case Frame.WINDOW_UPDATE:
                stream, delta = struct.unpack_from(">II", payload)
                self._take_window_update(stream & 0x7FFFFFFF, delta & 0x7FFFFFFF, events)
            case _:
                pass  # section 2.2.1: frames of unknown type are ignored

    def _take_syn_stream(self, flags: int, payload: bytes, events: list[Event]) -> None:
        stream = struct.unpack_from(">II", payload)[0] & 0x7FFFFFFF
        headers = self._headers(payload[10:])
        if stream % 2 == 0 or stream <= self._last_stream:
            raise self._error(f"client opened stream {stream} after {self._last_stream}")
        self._last_stream = stream
        if len(self._streams) >= self._max_streams:
            events.append(Send(_control(Frame.RST_STREAM, struct.pack(">II", stream, Status.REFUSED_STREAM))))
            return
        fin, unidirectional = bool(flags & FLAG_FIN), bool(flags & _FLAG_UNIDIRECTIONAL)
        if not (fin and unidirectional):
            self._streams[stream] = _Stream(self._initial_window, can_send=not unidirectional, can_receive=not fin)
        events.append(StreamOpened(stream, headers, fin))

    def _take_fin(self, stream: int, flags: int, events: list[Event]) -> None:
        state = self._streams.get(stream)
        if flags & FLAG_FIN and state is not None and state.can_receive:
            self._received_fin(stream, state)
            events.append(DataReceived(stream, b"", True))

    def _take_settings(self, payload: bytes, events: list[Event]) -> None:
        (count,) = struct.unpack_from(">I", payload)
        for number in range(count):
            identifier, value = struct.unpack_from(">II", payload, 4 + 8 * number)
            if identifier & 0xFFFFFF == _INITIAL_WINDOW_SETTING:
                if value > _MAX_WINDOW:
                    raise self._error(f"initial window of {value} bytes")
                for state in self._streams.values():
                    state.window += value - self._initial_window
                self._initial_window = value
                self._windows_kept = True
                self._flush_all(list(self._streams), events)

    def _take_window_update(self, stream: int, delta: int, events: list[Event]) -> None:
        self._windows_kept = True
        if stream == _SESSION:
            self._session_window += delta
            if delta == 0 or self._session_window > _MAX_WINDOW:
                raise self._error(f"window update of {delta} bytes for the session")
            self._flush_all(list(self._streams), events)
            return
        state = self._streams.get(stream)
        if state is None:
            return
        state.window += delta
        if delta == 0 or state.window > _MAX_WINDOW:
            events += [Send(self.reset(stream, Status.FLOW_CONTROL_ERROR)), StreamReset(stream, Status.FLOW_CONTROL_ERROR)]
            return
        self._flush_all([stream], events)

    def _flush_all(self, streams: Iterable[int], events: list[Event]) -> None:
        for stream in streams:
            state = self._streams[stream]
            if state.queue and (frames := self._flush(stream, state)):
                events += [Send(frames), WindowOpened(stream)]

    def _headers(self, block: bytes) -> dict[str, str]:
        try:
            raw = self._inflate.decompress(block, _MAX_HEADERS)
            if self._inflate.unconsumed_tail:
                raise self._error(f"header block larger than {_MAX_HEADERS} bytes")
            (count,) = struct.unpack_from(">I", raw)
            at, headers = 4, {}
            for _ in range(count):
                name, at = _text(raw, at)
                headers[name.lower()], at = _text(raw, at)
        except (zlib.error, struct.error, UnicodeDecodeError) as err:
            raise self._error(f"header block: {err}") from err
        return headers

    def _error(self, message: str) -> SpdyError:
        return SpdyError(f"SPDY: {message}", self.goaway(1))


def _text(raw: bytes, at: int) -> tuple[str, int]:
    (length,) = struct.unpack_from(">I", raw, at)
    end = at + 4 + length
    if end > len(raw):
        raise struct.error(f"a text of {length} bytes does not fit")
    return raw[at + 4 : end].decode(), end


def _sends(data: bytes) -> list[Event]:
    return [Send(data)] if data else []


def _control(kind: Frame, payload: bytes, flags: int = 0) -> bytes:
    return struct.pack(">HHI", 0x8000 | VERSION, kind, flags << 24 | len(payload)) + payload


def _data(stream: int, data: bytes, fin: bool) -> bytes:
    return struct.pack(">II", stream, (FLAG_FIN if fin else 0) << 24 | len(data)) + data
