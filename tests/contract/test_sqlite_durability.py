"""What was acknowledged survives kill -9, in a real process; and one file has one owner."""

from __future__ import annotations

import asyncio
import os
import pathlib
import signal
import sqlite3
import stat
import subprocess
import sys

import pytest

from apiserver.store import base
from apiserver.store.sqlite import SqliteStore

# writes for ever, 16 in flight, and says each acknowledged key on stdout; every third key is updated, every seventh deleted again
WRITER = """
import asyncio, os, sys
from apiserver.store.sqlite import SqliteStore

async def worker(store, number):
    for n in range(1_000_000):
        key = f"/registry/x/{number}-{n}"
        revision = await store.create(key, b"created")
        os.write(1, f"create {key} {revision}\\n".encode())
        if n % 3 == 0:
            revision = await store.update(key, b"updated", revision)
            os.write(1, f"update {key} {revision}\\n".encode())
        if n % 7 == 0:
            _, revision = await store.delete(key, revision)
            os.write(1, f"delete {key} {revision}\\n".encode())

async def main():
    store = await SqliteStore.open(sys.argv[1])
    await asyncio.gather(*(worker(store, number) for number in range(16)))

asyncio.run(main())
"""


@pytest.mark.parametrize("kill_after", [1, 400, 1000, 1777])
async def test_kill_loses_no_acknowledged_write(tmp_path: pathlib.Path, kill_after: int) -> None:
    path = tmp_path / "store.db"
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(kill_after)]
    process.send_signal(signal.SIGKILL)
    lines += process.stdout.read().splitlines(keepends=True)  # acknowledged between our decision and its death
    assert process.wait() == -signal.SIGKILL
    expected: dict[str, tuple[bytes, int]] = {}
    last_revision = 0
    acknowledged = [line.decode().split() for line in lines if line.endswith(b"\n")]
    for what, key, revision in sorted(acknowledged, key=lambda fields: int(fields[2])):
        expected[key] = (what.encode() + b"d", int(revision))
        last_revision = int(revision)
    assert len(acknowledged) >= kill_after

    store = await SqliteStore.open(path)
    result = await store.range("/registry/x/")
    assert result.revision >= last_revision
    found = {kv.key: (kv.value, kv.mod_revision) for kv in result.kvs}
    for key, (value, revision) in expected.items():
        if key in found:  # what was under way may have been committed unacknowledged, so a later state is right too
            assert found[key][1] > revision or found[key] == (value, revision)
        elif value != b"deleted":
            events = [event async for event in _events(store, "/registry/x/", 0, result.revision) if event.kv.key == key]
            assert events[-1].type == "DELETE" and events[-1].kv.mod_revision > revision, f"{key} is lost"
    history = [event async for event in _events(store, "/registry/x/", 0, result.revision)]
    assert [event.kv.mod_revision for event in history] == list(range(2, result.revision + 1)), "a revision is missing from the log"
    assert await store.create("/registry/x/after", b"") == result.revision + 1
    await store.close()


async def _events(store: SqliteStore, prefix: str, after: int, until: int):
    async for batch in store.watch(prefix, after):
        for event in batch.events:
            yield event
        if batch.revision >= until:
            return


async def test_reopening_keeps_everything(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "deep" / "store.db"
    store = await SqliteStore.open(path)
    first = await store.create("/registry/a", b"1")
    second = await store.update("/registry/a", b"2", first)
    await store.close()
    store = await SqliteStore.open(path)
    assert await store.revision() == second
    assert await store.get("/registry/a") == base.KeyValue("/registry/a", b"2", first, second)
    assert [kv.value for kv in (await store.range("/registry/", revision=first)).kvs] == [b"1"]
    await store.compact(second)
    await store.close()
    store = await SqliteStore.open(path)
    with pytest.raises(base.Compacted):
        await store.range("/registry/", revision=first)
    await store.close()


async def test_ttl_runs_out_while_the_store_is_closed(tmp_path: pathlib.Path) -> None:
    clock = 1000.0
    store = await SqliteStore.open(tmp_path / "store.db", now=lambda: clock)
    await store.create("/registry/short", b"", ttl_s=10)
    await store.create("/registry/long", b"", ttl_s=10_000)
    await store.close()
    clock = 2000.0
    store = await SqliteStore.open(tmp_path / "store.db", now=lambda: clock)
    async with asyncio.timeout(20):
        async for event in _events(store, "/registry/", await store.revision(), 1 << 60):
            assert (event.type, event.kv.key) == ("DELETE", "/registry/short")
            break
    assert [kv.key for kv in (await store.range("/registry/")).kvs] == ["/registry/long"]
    await store.close()


async def test_compaction_frees_space(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "store.db"
    store = await SqliteStore.open(path)
    revision = await store.create("/registry/a", b"x")
    for _ in range(1200):
        revision = await store.update("/registry/a", b"x" * 100, revision)
    await store.create("/registry/b", b"")
    await store.delete("/registry/b")
    last = await store.revision()
    await store.compact(last)
    with sqlite3.connect(path) as db:
        assert db.execute("SELECT count(*) FROM log").fetchone() == (1,)
    await store.close()


async def test_a_second_process_is_refused(tmp_path: pathlib.Path) -> None:
    store = await SqliteStore.open(tmp_path / "store.db")
    with pytest.raises(base.StoreError, match=r"store\.db: another process has it open"):
        await SqliteStore.open(tmp_path / "store.db")
    await store.close()
    store = await SqliteStore.open(tmp_path / "store.db")
    await store.close()


async def test_secrets_are_for_root_only(tmp_path: pathlib.Path) -> None:
    store = await SqliteStore.open(tmp_path / "store" / "store.db")
    await store.create("/registry/secrets/a", b"")
    assert stat.S_IMODE(os.stat(tmp_path / "store").st_mode) == 0o700
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "store").iterdir()}
    assert set(modes) >= {"store.db", "store.db-wal", "store.db-shm"}
    assert set(modes.values()) == {0o600}
    await store.close()


@pytest.mark.parametrize("content", [b"this is not a database, whatever its name says. " * 100])
async def test_a_file_that_is_no_store(tmp_path: pathlib.Path, content: bytes) -> None:
    (tmp_path / "store.db").write_bytes(content)
    with pytest.raises(base.StoreError, match=r"cannot open store .*store\.db: file is not a database"):
        await SqliteStore.open(tmp_path / "store.db")
    assert (tmp_path / "store.db").read_bytes() == content


async def test_a_format_of_the_future(tmp_path: pathlib.Path) -> None:
    store = await SqliteStore.open(tmp_path / "store.db")
    await store.close()
    with sqlite3.connect(tmp_path / "store.db") as db:
        db.execute("UPDATE meta SET value=99 WHERE name='format'")
    with pytest.raises(base.StoreError, match="format 99"):
        await SqliteStore.open(tmp_path / "store.db")


async def test_a_failing_disk_is_an_answer_not_a_death(tmp_path: pathlib.Path) -> None:
    """The database refuses to grow: writes fail as StoreUnavailable, reads and the watch go on, and writes work again afterwards."""
    store = await SqliteStore.open(tmp_path / "store.db", progress_interval_s=0.1)
    start = await store.create("/registry/a", b"1")
    await store._run_in_writer(lambda writer: writer._db.execute(f"PRAGMA max_page_count={writer._db.execute('PRAGMA page_count').fetchone()[0]}").fetchone())
    with pytest.raises(base.StoreUnavailable, match="full"):
        for n in range(10):
            await store.create(f"/registry/big{n}", b"x" * 100_000)
    revision = await store.revision()
    kv = await store.get("/registry/a")
    assert kv is not None and kv.value == b"1"
    await store._run_in_writer(lambda writer: writer._db.execute("PRAGMA max_page_count=1000000").fetchone())
    created = await store.create("/registry/b", b"2")
    assert created == revision + 1
    async with asyncio.timeout(20):
        events = [event async for event in _events(store, "/registry/", start, created)]
    assert [event.kv.key for event in events][-1] == "/registry/b"
    await store.close()
