"""Reads tar streams (POSIX ustar and pax, GNU long names; pax(1) "pax Interchange Format", GNU tar manual "Basic Tar Format"): members in, no files written.
Refuses damaged headers and sparse members. Called by `unpack` for layers and by `archive` for the archives that carry them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

from agent.images.model import LayerError

BLOCK = 512
REGULAR, LINK, SYMLINK, CHARACTER, BLOCK_DEVICE, DIRECTORY, FIFO = (b"0", b"1", b"2", b"3", b"4", b"5", b"6")
_LONG_NAME, _LONG_LINK, _PAX, _PAX_GLOBAL, _GNU_SPARSE = (b"L", b"K", b"x", b"g", b"S")
_MAX_EXTENSION = 1 << 20  # a long name or a pax header: more than a mebibyte is nonsense
_XATTR = b"SCHILY.xattr."


class Stream(Protocol):
    def read_exactly(self, size: int) -> bytes | memoryview: ...
    def read_block(self) -> bytes | memoryview | None:
        """The next 512 bytes, None at a clean end."""

    def skip(self, size: int) -> None: ...


@dataclass(slots=True)
class Member:
    """One entry; `kind` is the type flag. Names are bytes as stored. Whoever iterates `members` reads a regular member's `size` bytes and skips its padding."""

    name: bytes
    kind: bytes
    mode: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    linkname: bytes = b""
    device: tuple[int, int] = (0, 0)
    xattrs: dict[bytes, bytes] = field(default_factory=dict)

    @property
    def text(self) -> str:
        return self.name.decode("utf-8", "replace")


def _number(field: bytes) -> int:
    """Octal text, or GNU's base-256 where the first bit is set."""
    if field[0] & 0x80:  # 0x80 leads a positive number, 0xff a negative one
        return int.from_bytes(b"\0" + field[1:] if field[0] == 0x80 else field, "big", signed=field[0] != 0x80)
    text = field.strip(b" \0")
    return int(text.partition(b"\0")[0] or b"0", 8)


def _parse_header(block: bytes) -> Member:
    try:
        stored = _number(block[148:156])
        if stored != sum(block) - sum(block[148:156]) + 256:
            raise LayerError("not a valid tar header: checksum mismatch")
        name = block[:100].partition(b"\0")[0]
        if block[257:263] == b"ustar\0":
            prefix = block[345:500].partition(b"\0")[0]
            if prefix:
                name = prefix + b"/" + name
        kind = block[156:157]
        if kind in b"\x007" or not kind:
            kind = DIRECTORY if name.endswith(b"/") else REGULAR
        device = (_number(block[329:337]), _number(block[337:345])) if kind in (CHARACTER, BLOCK_DEVICE) else (0, 0)
        return Member(
            name=name,
            kind=kind,
            mode=_number(block[100:108]) & 0o7777,
            uid=_number(block[108:116]),
            gid=_number(block[116:124]),
            size=_number(block[124:136]),
            mtime_ns=_number(block[136:148]) * 1_000_000_000,
            linkname=block[157:257].partition(b"\0")[0],
            device=device,
        )
    except ValueError as error:
        raise LayerError(f"not a valid tar header: {error}") from error


def _parse_pax(data: bytes) -> dict[bytes, bytes]:
    records: dict[bytes, bytes] = {}
    position = 0
    try:
        while position < len(data):
            space = data.index(b" ", position)
            length = int(data[position:space])
            record = data[space + 1 : position + length]
            if length <= 0 or not record.endswith(b"\n"):
                raise ValueError("bad record length")
            key, equals, value = record[:-1].partition(b"=")
            if not equals:
                raise ValueError("record without =")
            records[key] = value
            position += length
    except ValueError as error:
        raise LayerError(f"malformed pax header: {error}") from error
    return records


def _apply_pax(member: Member, records: dict[bytes, bytes]) -> None:
    try:
        for key, value in records.items():
            if key == b"path":
                member.name = value
            elif key == b"linkpath":
                member.linkname = value
            elif key == b"size":
                member.size = int(value)
            elif key == b"uid":
                member.uid = int(value)
            elif key == b"gid":
                member.gid = int(value)
            elif key == b"mtime":
                whole, _, fraction = value.partition(b".")
                nanoseconds = int((fraction + b"000000000")[:9])
                member.mtime_ns = int(whole) * 1_000_000_000 + (-nanoseconds if whole.startswith(b"-") else nanoseconds)
            elif key.startswith(_XATTR):
                member.xattrs[key[len(_XATTR) :]] = value
            elif key.startswith(b"GNU.sparse."):
                raise LayerError(f"sparse member {member.text!r} is not supported")
    except ValueError as error:
        raise LayerError(f"malformed pax header: {error}") from error


def _extension(stream: Stream, member: Member) -> bytes:
    if member.size > _MAX_EXTENSION:
        raise LayerError(f"tar header extension of {member.size} bytes is too long")
    data = bytes(stream.read_exactly(member.size))
    stream.skip(-member.size % BLOCK)
    return data


def members(stream: Stream) -> Iterator[Member]:
    """Yields the members in order. Raises LayerError."""
    name = linkname = None
    pax: dict[bytes, bytes] = {}
    while (block := stream.read_block()) is not None:
        header = bytes(block)
        if header == bytes(BLOCK):
            return
        member = _parse_header(header)
        if member.size < 0:
            raise LayerError(f"member {member.text!r} has a negative size")
        if member.kind == _LONG_NAME:
            name = _extension(stream, member).partition(b"\0")[0]
        elif member.kind == _LONG_LINK:
            linkname = _extension(stream, member).partition(b"\0")[0]
        elif member.kind == _PAX:
            pax = _parse_pax(_extension(stream, member))
        elif member.kind == _PAX_GLOBAL:
            _extension(stream, member)
        elif member.kind == _GNU_SPARSE:
            raise LayerError(f"sparse member {member.text!r} is not supported")
        else:
            member.name = name if name is not None else member.name
            member.linkname = linkname if linkname is not None else member.linkname
            if pax:
                _apply_pax(member, pax)
            if b"\0" in member.name or b"\0" in member.linkname or member.size < 0:
                raise LayerError(f"malformed tar member {member.text!r}")
            if member.kind != REGULAR:
                member.size = 0
            name, linkname, pax = None, None, {}
            yield member
