"""ConfigMaps and Secrets that pods of this node use: read once, then watched one by one while somebody uses them (a node may not list them all).

`on_change(kind, namespace, name)` is called when one changes. Called by volumes.Volumes and by execute for environments.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from apiserver.api import errors, kinds
from apiserver.client.client import Client

log = logging.getLogger("volumes")
Key = tuple[str, str, str]  # kind, namespace, name
RESOURCES = {"ConfigMap": kinds.CONFIGMAPS, "Secret": kinds.SECRETS}
WATCH_AFTER_S = 1.0
POLL_S = 60.0
RETRY_S = 5.0


@dataclass
class _Entry:
    users: set[str] = field(default_factory=set)
    object: dict[str, Any] | None = None
    reading: asyncio.Task[None] | None = None
    task: asyncio.Task[None] | None = None
    watched: bool = False


class Sources:
    def __init__(self, client: Client, on_change: Callable[[str, str, str], None]) -> None:
        self._client = client
        self._on_change = on_change
        self._entries: dict[Key, _Entry] = {}

    async def get(self, user: str, kind: str, namespace: str, name: str) -> dict[str, Any] | None:
        """The object, or None where there is none; `user` (a pod's uid) holds it until release(). Raises ApiError (not NotFound), OSError."""
        key = (kind, namespace, name)
        entry = self._entries.setdefault(key, _Entry())
        entry.users.add(user)
        if entry.object is None or not entry.watched:
            if entry.reading is None:  # what many pods ask for at once is read once
                entry.reading = asyncio.create_task(self._read(key, entry))
            await asyncio.shield(entry.reading)
        return entry.object

    async def _read(self, key: Key, entry: _Entry) -> None:
        try:
            entry.object = await self._fetch(key)
        finally:
            entry.reading = None
        if entry.task is None and entry.users:
            entry.task = asyncio.create_task(self._follow(key, entry))

    async def _fetch(self, key: Key) -> dict[str, Any] | None:
        kind, namespace, name = key
        try:
            return await self._client.get(RESOURCES[kind], name, namespace)
        except errors.NotFound:
            return None

    def release(self, user: str, keep: Iterable[Key] = ()) -> None:
        """`user` needs only `keep` from now on."""
        kept = set(keep)
        for key, entry in list(self._entries.items()):
            if user in entry.users and key not in kept:
                entry.users.discard(user)
                if not entry.users:
                    if entry.task is not None:
                        entry.task.cancel()
                    del self._entries[key]

    def users(self, kind: str, namespace: str, name: str) -> set[str]:
        entry = self._entries.get((kind, namespace, name))
        return set(entry.users) if entry is not None else set()

    async def close(self) -> None:
        tasks = [e.task for e in self._entries.values() if e.task is not None]
        for task in tasks:
            task.cancel()
        for task in tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task
        self._entries.clear()

    async def _follow(self, key: Key, entry: _Entry) -> None:
        await asyncio.sleep(WATCH_AFTER_S)  # a burst of pods comes first
        while True:
            pause = RETRY_S
            try:
                await self._watch(key, entry)
                pause = 0.1
            except errors.Forbidden:
                pause = POLL_S
            except (errors.ApiError, OSError) as e:
                log.debug("%s %s/%s: watch ended: %s", *key, e)
            except Exception:
                log.exception("%s %s/%s: watch failed", *key)
            entry.watched = False
            await asyncio.sleep(pause)
            try:
                self._update(key, entry, await self._fetch(key))
            except (errors.ApiError, OSError) as e:
                log.debug("%s %s/%s: cannot read: %s", *key, e)

    async def _watch(self, key: Key, entry: _Entry) -> None:
        kind, namespace, name = key
        version = ((entry.object or {}).get("metadata") or {}).get("resourceVersion", "")
        events = self._client.watch(RESOURCES[kind], namespace, field_selector=f"metadata.name={name}", resource_version=version, bookmarks=True)
        async with contextlib.aclosing(events):  # type: ignore[type-var]
            entry.watched = bool(version)
            async for kind_of, obj in events:
                if kind_of in ("ADDED", "MODIFIED", "DELETED"):
                    entry.watched = True
                    self._update(key, entry, None if kind_of == "DELETED" else obj)

    def _update(self, key: Key, entry: _Entry, obj: dict[str, Any] | None) -> None:
        if _version(obj) != _version(entry.object):
            entry.object = obj
            self._on_change(*key)


def _version(obj: dict[str, Any] | None) -> str:
    return (obj or {}).get("metadata", {}).get("resourceVersion", "") if obj is not None else ""
