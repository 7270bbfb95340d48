"""The SQLite side of the embedded store, synchronous: schema, transactions of many operations, reads of any revision still held, compaction. Knows no event loop and
starts no thread; SqliteStore gives the Writer to its one writer thread and Readers to whoever reads.

Two tables: `log` holds every revision (row id = revision, value NULL = deletion, prev_rev = the state it replaced), `live` the newest state of every key that exists.
The state at an old revision is `live` with everything logged since then undone, so the log needs no index by key and writes stay sequential.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from apiserver.store import base, keys

_SCHEMA = """
CREATE TABLE IF NOT EXISTS log (rev INTEGER PRIMARY KEY, key TEXT NOT NULL, value BLOB, create_rev INTEGER NOT NULL, prev_rev INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS live (key TEXT PRIMARY KEY, rev INTEGER NOT NULL, create_rev INTEGER NOT NULL, expires REAL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS live_expires ON live (expires) WHERE expires IS NOT NULL;
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
INSERT OR IGNORE INTO meta VALUES ('format', 1), ('compacted', 0), ('collected', 0);
"""
_FORMAT = 1
FIRST_REVISION = 1  # of an empty store, as in etcd: "0" means something else to Kubernetes' clients


@dataclass(slots=True)
class Operation:
    """`expected` is a mod_revision, 0 = any (delete only). `expires` in Unix seconds, None = never."""

    kind: Literal["create", "update", "delete"]
    key: str
    value: bytes = b""
    expected: int = 0
    expires: float | None = None


Outcome = int | tuple[base.KeyValue, int] | base.StoreError


def connect(path: str, *, read_only: bool = False) -> sqlite3.Connection:
    """A connection in autocommit mode, usable from any one thread at a time. Raises sqlite3.Error."""
    db = sqlite3.connect(path, timeout=10, isolation_level=None, check_same_thread=False)
    db.execute("PRAGMA query_only=ON" if read_only else "PRAGMA synchronous=FULL")
    return db


class Writer:
    """The only connection that writes. `revision` is the last one committed."""

    def __init__(self, path: str) -> None:
        """Makes or opens the database. Raises StoreError for a file that is none, or of another format."""
        try:
            self._db = connect(path)
            if self._db.execute("PRAGMA journal_mode=WAL").fetchone()[0] != "wal":
                raise base.StoreError(f"cannot open store {path}: the file system does not support SQLite's write-ahead log")
            self._db.execute("PRAGMA wal_autocheckpoint=4000")
            self._db.executescript(_SCHEMA)
            if self._meta("format") != _FORMAT:
                raise base.StoreError(f"cannot open store {path}: format {self._meta('format')}, this program knows {_FORMAT}")
            self.revision = self._stored_revision()
        except sqlite3.Error as err:
            raise base.StoreError(f"cannot open store {path}: {err}") from err

    def close(self) -> None:
        self._db.close()

    def apply(self, operations: Sequence[Operation]) -> tuple[list[Outcome], list[base.Event]]:
        """One durable transaction of all that succeed; an operation that fails (KeyExists, RevisionMismatch) is an outcome and changes nothing.

        Raises sqlite3.Error where nothing is known to be committed; `revision` then is what the file says.
        """
        outcomes: list[Outcome] = []
        events: list[base.Event] = []
        try:
            self._db.execute("BEGIN IMMEDIATE")
            for operation in operations:
                outcomes.append(self._apply_one(operation, events))
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            self.revision = self._stored_revision()
            raise
        return outcomes, events

    def _apply_one(self, op: Operation, events: list[base.Event]) -> Outcome:
        if op.kind == "create":
            if self._db.execute("SELECT 1 FROM live WHERE key=?", (op.key,)).fetchone():
                return base.KeyExists(op.key)
            return self._put(op, None, events)
        row = self._db.execute("SELECT log.value, live.create_rev, live.rev FROM live JOIN log ON log.rev=live.rev WHERE live.key=?", (op.key,)).fetchone()
        current = base.KeyValue(op.key, row[0], row[1], row[2]) if row else None
        if current is None or (op.expected and current.mod_revision != op.expected) or (op.kind == "update" and not op.expected):
            return base.RevisionMismatch(op.key, current)
        if op.kind == "update":
            return self._put(op, current, events)
        return current, self._delete(current, events)

    def _put(self, op: Operation, prev: base.KeyValue | None, events: list[base.Event]) -> int:
        rev = self.revision + 1
        create_rev = prev.create_revision if prev else rev
        self._db.execute("INSERT INTO log VALUES (?,?,?,?,?)", (rev, op.key, op.value, create_rev, prev.mod_revision if prev else 0))
        if prev:
            self._db.execute("UPDATE live SET rev=?, expires=? WHERE key=?", (rev, op.expires, op.key))
        else:
            self._db.execute("INSERT INTO live VALUES (?,?,?,?)", (op.key, rev, create_rev, op.expires))
        self.revision = rev
        events.append(base.Event("PUT", base.KeyValue(op.key, op.value, create_rev, rev), prev))
        return rev

    def _delete(self, prev: base.KeyValue, events: list[base.Event]) -> int:
        rev = self.revision + 1
        self._db.execute("INSERT INTO log VALUES (?,?,NULL,0,?)", (rev, prev.key, prev.mod_revision))
        self._db.execute("DELETE FROM live WHERE key=?", (prev.key,))
        self.revision = rev
        events.append(base.Event("DELETE", base.KeyValue(prev.key, b"", 0, rev), prev))
        return rev

    def expired(self, now: float, limit: int) -> list[Operation]:
        """Deletions, each bound to the state that has expired."""
        rows = self._db.execute("SELECT key, rev FROM live WHERE expires <= ? ORDER BY expires LIMIT ?", (now, limit))
        return [Operation("delete", key, expected=rev) for key, rev in rows]

    def next_expiry(self) -> float | None:
        """Unix seconds."""
        row = self._db.execute("SELECT min(expires) FROM live WHERE expires IS NOT NULL").fetchone()
        return row[0] if row else None

    def compact(self, revision: int) -> None:
        """From its return on reads below `revision` fail; collect() frees the space. A revision compacted already is none to complain about. Raises FutureRevision."""
        if revision > self.revision:
            raise base.FutureRevision(f"cannot compact at {revision}: the store is at {self.revision}")
        self._db.execute("UPDATE meta SET value=max(value, ?) WHERE name='compacted'", (revision,))

    def collect(self, limit: int) -> bool:
        """Frees what the next `limit` compacted revisions replaced. True where more is left. A crash in between loses nothing: it goes on where it stopped."""
        start, compacted = self._meta("collected"), self._meta("compacted")
        if start >= compacted:
            return False
        end = min(start + limit, compacted)
        self._db.execute("BEGIN IMMEDIATE")
        try:
            self._db.execute("DELETE FROM log WHERE rev IN (SELECT prev_rev FROM log WHERE rev>? AND rev<=? AND prev_rev>0)", (start, end))
            self._db.execute("DELETE FROM log WHERE rev>? AND rev<=? AND value IS NULL", (start, end))
            self._db.execute("UPDATE meta SET value=? WHERE name='collected'", (end,))
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise
        return end < compacted

    def _meta(self, name: str) -> int:
        return int(self._db.execute("SELECT value FROM meta WHERE name=?", (name,)).fetchone()[0])

    def _stored_revision(self) -> int:
        return _revision(self._db)


def _revision(db: sqlite3.Connection) -> int:
    # a compacted deletion leaves no row: then `compacted` remembers how far the numbers went
    newest, compacted = db.execute("SELECT (SELECT max(rev) FROM log), (SELECT value FROM meta WHERE name='compacted')").fetchone()
    return max(newest or 0, compacted, FIRST_REVISION)


class Reader:
    """A read-only connection; every method sees one consistent snapshot of what is durably committed. One thread at a time. Raises sqlite3.Error beside what is said."""

    def __init__(self, path: str) -> None:
        self._db = connect(path, read_only=True)

    def close(self) -> None:
        self._db.close()

    def get(self, key: str) -> base.KeyValue | None:
        row = self._db.execute("SELECT log.value, live.create_rev, live.rev FROM live JOIN log ON log.rev=live.rev WHERE live.key=?", (key,)).fetchone()
        return base.KeyValue(key, *row) if row else None

    def range(self, prefix: str, limit: int, start_after: str, revision: int) -> base.RangeResult:
        """As Store.range."""
        self._db.execute("BEGIN")
        try:
            now = _revision(self._db)
            if revision > now:
                raise base.FutureRevision(f"revision {revision} has not happened yet: the store is at {now}")
            if revision and revision != now:
                return self._range_past(prefix, limit, start_after, revision)
            where, bounds = _bounds(prefix, start_after, "live.key")
            rows = self._db.execute(
                f"SELECT live.key, log.value, live.create_rev, live.rev FROM live JOIN log ON log.rev=live.rev WHERE {where} ORDER BY live.key LIMIT ?",
                (*bounds, limit or -1),
            ).fetchall()
            count = len(rows)
            if limit and count == limit:
                count = self._db.execute(f"SELECT count(*) FROM live WHERE {where}", bounds).fetchone()[0]
            return base.RangeResult([base.KeyValue(*row) for row in rows], now, count)
        finally:
            self._db.execute("COMMIT")

    def _range_past(self, prefix: str, limit: int, start_after: str, revision: int) -> base.RangeResult:
        self._refuse_compacted(revision)
        where, bounds = _bounds(prefix, start_after)
        states: dict[str, int] = dict(self._db.execute(f"SELECT key, rev FROM live WHERE {where}", bounds).fetchall())
        # with min(), SQLite takes the other columns from the row that holds the minimum: the first change after `revision`, whose prev_rev is the state sought
        undone = self._db.execute(f"SELECT key, prev_rev, min(rev) FROM log WHERE rev>? AND {where} GROUP BY key", (revision, *bounds))
        for key, prev_rev, _ in undone.fetchall():
            if prev_rev:
                states[key] = prev_rev
            else:
                states.pop(key, None)
        chosen = sorted(states, key=str.encode)
        kvs = []
        for key in chosen[:limit] if limit else chosen:
            value, create_rev = self._db.execute("SELECT value, create_rev FROM log WHERE rev=?", (states[key],)).fetchone()
            kvs.append(base.KeyValue(key, value, create_rev, states[key]))
        return base.RangeResult(kvs, revision, len(chosen))

    def history(self, prefix: str, after: int, until: int, limit: int) -> tuple[list[base.Event], int]:
        """Events with after < revision ≤ until out of at most `limit` revisions, and the revision up to which that is everything. Raises Compacted."""
        self._db.execute("BEGIN")
        try:
            self._refuse_compacted(after)
            rows = self._db.execute(
                "SELECT l.rev, l.key, l.value, l.create_rev, p.rev, p.value, p.create_rev FROM log l LEFT JOIN log p ON p.rev=l.prev_rev"
                " WHERE l.rev>? AND l.rev<=? ORDER BY l.rev LIMIT ?",
                (after, until, limit),
            ).fetchall()
        finally:
            self._db.execute("COMMIT")
        events = [_event(row) for row in rows if row[1].startswith(prefix)]
        return events, rows[-1][0] if len(rows) == limit else until

    def _refuse_compacted(self, revision: int) -> None:
        compacted = self._db.execute("SELECT value FROM meta WHERE name='compacted'").fetchone()[0]
        if revision < compacted:
            raise base.Compacted(compacted)


def _event(row: tuple[int, str, bytes | None, int, int | None, bytes | None, int | None]) -> base.Event:
    rev, key, value, create_rev, prev_rev, prev_value, prev_create = row
    prev = base.KeyValue(key, prev_value or b"", prev_create or 0, prev_rev) if prev_rev else None
    if value is None:
        return base.Event("DELETE", base.KeyValue(key, b"", 0, rev), prev)
    return base.Event("PUT", base.KeyValue(key, value, create_rev, rev), prev)


def _bounds(prefix: str, start_after: str, column: str = "key") -> tuple[str, tuple[bytes | str, ...]]:
    end = keys.prefix_end(prefix)
    lower, comparison = (start_after, ">") if start_after.encode() >= prefix.encode() else (prefix, ">=")
    if end == b"\0":
        return f"{column} {comparison} ?", (lower,)
    return f"{column} {comparison} ? AND {column} < CAST(? AS TEXT)", (lower, end)
