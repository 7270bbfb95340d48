"""Reading CRI logs: every option, follow across rotation, and tails of files of any shape."""

from __future__ import annotations

import asyncio
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import logs

LINES = [
    b"2026-01-01T00:00:00.000000001Z stdout F one", b"2026-01-01T00:00:01.5Z stderr F two", b"2026-01-01T00:00:02Z stdout P thr", b"2026-01-01T00:00:02Z stdout F ee",
    b"2026-01-01T00:00:03Z stdout F ", b"broken", b"2026-01-01T00:00:04Z stdout F four 4",
]  # fmt: skip


def render(options: logs.Options) -> bytes:
    return logs.Renderer(options).feed(LINES)


def test_text_streams_and_partial_lines():
    assert render(logs.Options()) == b"one\ntwo\nthree\n\nfour 4\n"
    assert render(logs.Options(stream="stderr")) == b"two\n"


def test_timestamps_stand_once_before_a_joined_line():
    assert render(logs.Options(timestamps=True)).splitlines()[2] == b"2026-01-01T00:00:02Z three"


def test_since_and_limit():
    at = 1767225601.5  # 2026-01-01T00:00:01.5Z
    assert render(logs.Options(since_s=at)) == b"two\nthree\n\nfour 4\n"
    assert render(logs.Options(since_s=at + 0.001)) == b"three\n\nfour 4\n"
    assert render(logs.Options(limit_bytes=5)) == b"one\nt"


@pytest.mark.parametrize(
    ("query", "text"),
    [({"tailLines": "-1"}, "tailLines"), ({"tailLines": "x"}, "tailLines"), ({"sinceTime": "yesterday"}, "sinceTime"), ({"sinceSeconds": "1", "sinceTime": "2026-01-01T00:00:00Z"}, "at most one"), ({"limitBytes": "0"}, "limitBytes")],
)
def test_options_that_make_no_sense_are_named(query: dict, text: str):
    with pytest.raises(logs.BadOption, match=text):
        logs.parse_options(query, 0)


def test_options():
    got = logs.parse_options({"follow": "true", "tailLines": "5", "sinceSeconds": "10", "timestamps": "true"}, 100)
    assert got == logs.Options(follow=True, timestamps=True, tail=5, since_s=90)


@given(st.lists(st.tuples(st.sampled_from(["P", "F"]), st.integers(0, 200)), max_size=40), st.integers(0, 45), st.sampled_from([7, 64, 65536]))
def test_tail_gives_the_last_whole_lines_whatever_the_chunks(entries: list, wanted: int, chunk: int):
    text = b"".join(b"2026-01-01T00:00:00Z stdout %s %s\n" % (tag.encode(), b"x" * size) for tag, size in entries)
    everything = logs.Renderer(logs.Options()).feed(text.split(b"\n")[:-1])
    fd = os.memfd_create("log")
    try:
        os.write(fd, text)
        before, logs.CHUNK = logs.CHUNK, chunk
        try:
            offset = logs.tail_offset(fd, wanted)
        finally:
            logs.CHUNK = before
    finally:
        os.close(fd)
    got = logs.Renderer(logs.Options()).feed(text[offset:].split(b"\n")[:-1])
    assert got == b"".join(everything.splitlines(keepends=True)[-wanted:] if wanted else [])


async def collect(path: str, options: logs.Options) -> bytes:
    return b"".join([data async for data in logs.LogReader(path).read(options, lambda: False)])


async def test_rotated_files_come_first_and_a_missing_one_is_an_error(tmp_path):
    (tmp_path / "0.log.20260101-000000.000000001").write_bytes(LINES[0] + b"\n")
    (tmp_path / "0.log").write_bytes(LINES[1] + b"\n")
    assert await collect(str(tmp_path / "0.log"), logs.Options()) == b"one\ntwo\n"
    assert await collect(str(tmp_path / "0.log"), logs.Options(tail=1)) == b"two\n"
    with pytest.raises(FileNotFoundError):
        await collect(str(tmp_path / "none"), logs.Options())


async def test_follow_goes_on_over_a_rotation_until_the_container_has_ended(tmp_path):
    path, alive = str(tmp_path / "0.log"), True
    with open(path, "wb") as f:
        f.write(LINES[0] + b"\n")
    got: asyncio.Queue[bytes] = asyncio.Queue()

    async def follow() -> None:
        async for data in logs.LogReader(path).read(logs.Options(follow=True), lambda: alive):
            got.put_nowait(data)

    task = asyncio.create_task(follow())
    async with asyncio.timeout(10):
        assert await got.get() == b"one\n"
        with open(path, "ab") as f:
            f.write(LINES[1] + b"\n")
        os.rename(path, path + ".1")
        with open(path, "wb") as f:
            f.write(LINES[6] + b"\n")
        assert await got.get() + await got.get() == b"two\nfour 4\n"
        with open(path, "ab") as f:
            f.write(LINES[0] + b"\n")
        alive = False
        assert await got.get() == b"one\n"
        await task
