"""Reads containers' logs in CRI format (`<RFC3339Nano> stdout|stderr F|P <text>`): tail, since, limits, timestamps, follow across rotation. Called by the node's server.

Parsing is pure and works on bytes; only LogReader touches files.
"""

from __future__ import annotations

import asyncio
import datetime
import glob
import os
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass

CHUNK = 64 * 1024
POLL_S = 0.1


class BadOption(ValueError):
    """A log option that makes no sense; the text names it."""


@dataclass(frozen=True, slots=True)
class Options:
    """core/v1 PodLogOptions. `since_s`: Unix seconds; None = no limit."""

    follow: bool = False
    timestamps: bool = False
    tail: int | None = None
    since_s: float | None = None
    limit_bytes: int | None = None
    stream: str = ""  # "" both, stdout, stderr


def parse_options(query: Mapping[str, str], now: float) -> Options:
    """From the query of /containerLogs. Raises BadOption."""

    def number(name: str, least: int) -> int | None:
        text = query.get(name, "")
        if not text:
            return None
        try:
            value = int(text)
        except ValueError:
            raise BadOption(f"{name}: must be a number, is {text!r}") from None
        if value < least:
            raise BadOption(f"{name}: must be at least {least}")
        return value

    since_seconds, since_time = number("sinceSeconds", 1), query.get("sinceTime", "")
    if since_seconds is not None and since_time:
        raise BadOption("sinceSeconds, sinceTime: at most one of both")
    since = now - since_seconds if since_seconds is not None else None
    if since_time:
        try:
            since = datetime.datetime.fromisoformat(since_time.replace("Z", "+00:00")).timestamp()
        except ValueError:
            raise BadOption(f"sinceTime: must be RFC 3339, is {since_time!r}") from None
    stream = query.get("stream", "").lower()
    if stream not in ("", "all", "stdout", "stderr"):
        raise BadOption(f"stream: must be All, Stdout or Stderr, is {query.get('stream')!r}")
    return Options(_flag(query, "follow"), _flag(query, "timestamps"), number("tailLines", 0), since, number("limitBytes", 1), "" if stream == "all" else stream)


def _flag(query: Mapping[str, str], name: str) -> bool:
    return query.get(name, "").lower() in ("true", "1", "t")


class Renderer:
    """CRI lines → what the client sees. Keeps whether the last line was partial: its rest carries no timestamp of its own."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._left = options.limit_bytes
        self._partial: dict[bytes, bool] = {}

    @property
    def full(self) -> bool:
        """limitBytes are used up."""
        return self._left == 0

    def feed(self, lines: list[bytes]) -> bytes:
        """Complete CRI lines without their newline; lines that are not in CRI format are skipped."""
        out = []
        for line in lines:
            parts = line.split(b" ", 3)
            if len(parts) < 4:
                if len(parts) != 3:
                    continue
                parts.append(b"")
            stamp, stream, tag, text = parts
            if self._options.stream and stream != self._options.stream.encode():
                continue
            if self._options.since_s is not None and _before(stamp, self._options.since_s):
                continue
            continued = self._partial.get(stream, False)
            self._partial[stream] = tag.startswith(b"P")
            head = stamp + b" " if self._options.timestamps and not continued else b""
            out.append(head + text + (b"" if self._partial[stream] else b"\n"))
        data = b"".join(out)
        if self._left is not None:
            data = data[: self._left]
            self._left -= len(data)
        return data


def _before(stamp: bytes, since_s: float) -> bool:
    try:
        text = stamp.decode()
        whole, _, fraction = text.rstrip("Z").partition(".")
        zone = ""
        for sign in ("+", "-"):
            digits, found, offset = fraction.partition(sign)
            if found:
                fraction, zone = digits, sign + offset
        at = datetime.datetime.fromisoformat(whole + (zone or "+00:00")).timestamp() + (float("0." + fraction) if fraction else 0)
    except ValueError:
        return False
    return at < since_s


def tail_offset(fd: int, lines: int) -> int:
    """Where the last `lines` whole lines of a file begin; partial (P) lines count as one with what follows them."""
    size = os.fstat(fd).st_size
    if lines == 0:
        return size
    position, data = size, b""
    while position > 0:
        step = min(CHUNK, position)
        position -= step
        data = os.pread(fd, step, position) + data
        starts = _line_starts(data, position == 0)
        if len(starts) > lines or (position == 0 and len(starts) == lines):
            return position + starts[-lines]
    return 0


def _line_starts(data: bytes, from_begin: bool) -> list[int]:
    """Offsets at which a log entry begins: after the end of a full (F) line."""
    starts, at, fresh = [], 0, from_begin
    if not from_begin:
        at = data.find(b"\n") + 1
        if at == 0:
            return []
        fresh = True  # not known: the caller asks for one more than it needs
    while at < len(data):
        end = data.find(b"\n", at)
        if end < 0:
            break
        if fresh:
            starts.append(at)
        fresh = _is_full(data[at:end])
        at = end + 1
    return starts


def _is_full(line: bytes) -> bool:
    parts = line.split(b" ", 3)
    return len(parts) < 3 or not parts[2].startswith(b"P")


class LogReader:
    """One log and its rotated predecessors (`<n>.log.<suffix>`, older first by name)."""

    def __init__(self, path: str) -> None:
        self.path = path

    async def read(self, options: Options, running: Callable[[], bool]) -> AsyncIterator[bytes]:
        """Chunks of rendered text. With follow it goes on while running(), and once more to the end after that. Raises FileNotFoundError."""
        renderer = Renderer(options)
        current, moved = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC), None
        try:
            if options.tail is None:
                for older in sorted(p for p in glob.glob(glob.escape(self.path) + ".*") if not p.endswith((".gz", ".tmp"))):
                    async for data in self._to_end(older, renderer):
                        yield data
            else:
                os.lseek(current, tail_offset(current, options.tail), os.SEEK_SET)
            rest = b""
            while not renderer.full:
                alive = running() if options.follow else False
                data = os.read(current, CHUNK)
                if data:
                    *lines, rest = (rest + data).split(b"\n")
                    out = renderer.feed(lines)
                    if out:
                        yield out
                    continue
                if moved is not None:  # and the old file has just been read to its end once more
                    os.close(current)
                    current, moved, rest = moved, None, b""
                    continue
                moved = self._rotated(current)
                if moved is not None:
                    continue
                if not alive:
                    return
                await asyncio.sleep(POLL_S)
        finally:
            for fd in (current, moved):
                if fd is not None:
                    os.close(fd)

    async def _to_end(self, path: str, renderer: Renderer) -> AsyncIterator[bytes]:
        rest = b""
        with open(path, "rb", buffering=0) as f:
            while data := f.read(CHUNK):
                *lines, rest = (rest + data).split(b"\n")
                yield renderer.feed(lines)
                await asyncio.sleep(0)

    def _rotated(self, fd: int) -> int | None:
        """A new file under the log's name: its fd."""
        try:
            new = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        if os.fstat(new).st_ino != os.fstat(fd).st_ino:
            return new
        os.close(new)
        return None
