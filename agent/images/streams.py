"""Layer bytes on their way in: counts and hashes what arrives (the blob's digest), decompresses gzip and zstd in bounded steps, hashes what comes out (the diffID).
Pure over an iterator of chunks; called by `layers`."""

from __future__ import annotations

import hashlib
import itertools
import queue
import threading
import zlib
from collections.abc import Iterator
from typing import IO, Any, cast

from agent.images.model import LayerError

STEP = 1 << 20  # most bytes that one decompression step may give
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"


class Digest:
    """sha256 in a thread of its own: hashing releases the GIL, so it runs beside decompression and file writes."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self._queue: queue.Queue[bytes | None] = queue.Queue(16)
        self._thread = threading.Thread(target=self._run, name="sha256", daemon=True)
        self._thread.start()
        self.size = 0

    def _run(self) -> None:
        while (data := self._queue.get()) is not None:
            self._hash.update(data)

    def update(self, data: bytes) -> None:
        self.size += len(data)
        self._queue.put(data)

    def finish(self) -> str:
        """`sha256:<hex>` of everything; idempotent."""
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()
        return "sha256:" + self._hash.hexdigest()


class _Chunks:
    """A file-like face over an iterator of chunks, for zstandard's reader."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks, self._rest = chunks, b""

    def read(self, size: int) -> bytes:
        while not self._rest:
            chunk = next(self._chunks, None)
            if chunk is None:
                return b""
            self._rest = chunk
        data, self._rest = self._rest[:size], self._rest[size:]
        return data


def _gunzip(chunks: Iterator[bytes]) -> Iterator[bytes]:
    decompressor: Any = zlib.decompressobj(31)
    fresh = True  # nothing of the current gzip member seen yet
    for chunk in chunks:
        data = chunk
        while data:
            if fresh and not data.strip(b"\0"):
                break  # zero padding after the last member (gzip manual, "Tapes")
            fresh = False
            try:
                out = decompressor.decompress(data, STEP)
            except zlib.error as error:
                raise LayerError(f"damaged gzip stream: {error}") from error
            if out:
                yield out
            if decompressor.eof:
                data, decompressor, fresh = decompressor.unused_data, zlib.decompressobj(31), True
            else:
                data = decompressor.unconsumed_tail
    while not fresh and (out := decompressor.decompress(b"", STEP)):
        yield out
    if not fresh and not decompressor.eof:
        raise LayerError("truncated gzip stream: unexpected EOF")


def _unzstd(chunks: Iterator[bytes]) -> Iterator[bytes]:
    import zstandard  # only where such a layer comes: 5 MB

    reader = zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(cast(IO[bytes], _Chunks(chunks)), read_across_frames=True)
    try:
        while out := reader.read(STEP):
            yield out
    except zstandard.ZstdError as error:
        raise LayerError(f"damaged zstd stream: {error}") from error


def decompress(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """By the first bytes: gzip, zstd, or as it is. Raises LayerError."""
    head = b""
    for chunk in chunks:
        head += chunk
        if len(head) >= 4:
            break
    whole = itertools.chain([head] if head else [], chunks)
    if head.startswith(_GZIP):
        yield from _gunzip(whole)
    elif head.startswith(_ZSTD):
        yield from _unzstd(whole)
    else:
        yield from whole


class LayerStream:
    """Decompressed bytes of a layer blob, read forwards (the `Stream` of `tar.members`). After `finish()`: `digest` and `size` of the blob, `diff_id` of the tar in it."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._blob, self._tar = Digest(), Digest()
        self._source = decompress(self._count(chunks))
        self._buffer = memoryview(b"")
        self.digest = self.diff_id = ""
        self.size = 0

    def _count(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        for chunk in chunks:
            self._blob.update(chunk)
            yield chunk

    def _fill(self) -> bool:
        for data in self._source:
            if data:
                self._tar.update(data)
                self._buffer = memoryview(data)
                return True
        return False

    def read_some(self, limit: int) -> memoryview:
        """1 to `limit` bytes without copying. Raises LayerError at the end."""
        if not self._buffer and not self._fill():
            raise LayerError("truncated layer: unexpected EOF")
        data = self._buffer[:limit]
        self._buffer = self._buffer[limit:]
        return data

    def read_exactly(self, size: int) -> bytes | memoryview:
        if len(self._buffer) >= size:
            data = self._buffer[:size]
            self._buffer = self._buffer[size:]
            return data
        parts, missing = [], size
        while missing:
            part = self.read_some(missing)
            parts.append(part)
            missing -= len(part)
        return b"".join(parts)

    def read_block(self) -> bytes | memoryview | None:
        if not self._buffer and not self._fill():
            return None
        return self.read_exactly(512)

    def skip(self, size: int) -> None:
        while size > 0:
            size -= len(self.read_some(size))

    def finish(self) -> None:
        """Reads what follows the archive's end marker, so that both digests cover everything."""
        while self._fill():
            pass
        self._buffer = memoryview(b"")
        self.size = self._blob.size
        self.close()

    def close(self) -> None:
        """Ends the hashing threads; idempotent."""
        self.digest, self.diff_id = self._blob.finish(), self._tar.finish()
