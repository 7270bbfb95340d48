"""Objects in and out of the store: keys, current states (cache first, then the store), compare-and-swap with translated errors. Owns no rule about any kind.
The registry, its subresources, and the admission plugins (as their Reader) stand on it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import orjson

from apiserver.api import errors, kinds
from apiserver.registry.context import Object
from apiserver.store import base, codec
from apiserver.store.cache import Selection


class Current:
    """One object's state as read: `revision`, `data` (complete JSON with resourceVersion), `obj` (decoded once, shared, read-only), `fresh` (read from the store, not the cache)."""

    __slots__ = ("_obj", "data", "fresh", "revision")

    def __init__(self, data: bytes, revision: int, obj: Object | None, fresh: bool) -> None:
        self.data, self.revision, self._obj, self.fresh = data, revision, obj, fresh

    @property
    def obj(self) -> Object:
        if self._obj is None:
            self._obj = orjson.loads(self.data)
        return self._obj

    def copy(self) -> Object:
        """A decoded object of the caller's own."""
        return orjson.loads(self.data)


def _from_kv(kv: base.KeyValue) -> Current:
    return Current(codec.splice(kv.value, kv.mod_revision), kv.mod_revision, None, True)


@contextmanager
def translated() -> Iterator[None]:
    """Store errors that no caller expects, as API errors."""
    try:
        yield
    except base.StoreUnavailable as err:
        raise errors.Unavailable(f"the store does not answer: {err}") from err
    except base.ValueTooLarge as err:
        raise errors.RequestEntityTooLarge(why=str(err)) from err
    except base.Compacted as err:
        raise errors.Expired(str(err)) from err
    except base.FutureRevision as err:
        raise errors.Timeout(f"Too large resource version: {err}") from err


class Storage:
    """`Storage(store, cache)`: also what `admission.chain.default_chain(reader=…)` wants."""

    def __init__(self, store: base.Store, cache: Any) -> None:
        self.store, self.cache = store, cache

    async def current(self, key: str, *, fresh: bool = False) -> Current | None:
        """The state of `key`: what the cache has, unless `fresh` is asked for or the cache has none."""
        if not fresh:
            entry = self.cache.get(key)
            if entry is not None:
                return Current(entry.data, entry.revision, entry.obj, False)
        with translated():
            kv = await self.store.get(key)
        return None if kv is None else _from_kv(kv)

    async def create(self, resource: kinds.Resource, key: str, name: str, obj: Object, ttl_s: int = 0) -> bytes:
        """Stores a new object; answers its document. Raises AlreadyExists, BadRequest."""
        value = encode(obj)
        try:
            with translated():
                revision = await self.store.create(key, value, ttl_s=ttl_s)
        except base.KeyExists:
            raise errors.AlreadyExists(resource, name) from None
        return codec.splice(value, revision)

    async def update(self, key: str, obj: Object, expected: int, ttl_s: int = 0) -> bytes | Current | None:
        """Compare-and-swap: the new document, or, where it lost, what is there now (None: nothing)."""
        value = encode(obj)
        try:
            with translated():
                revision = await self.store.update(key, value, expected, ttl_s=ttl_s)
        except base.RevisionMismatch as err:
            return None if err.current is None else _from_kv(err.current)
        return codec.splice(value, revision)

    async def delete(self, key: str, expected: int) -> bytes | Current | None:
        """The last state with the deletion's revision, or, where another write came first, what is there now (None: nothing)."""
        try:
            with translated():
                previous, revision = await self.store.delete(key, expected)
        except base.RevisionMismatch as err:
            return None if err.current is None else _from_kv(err.current)
        return codec.splice(previous.value, revision)

    async def read(self, resource: kinds.Resource, namespace: str, name: str, *, fresh: bool = False) -> Object | None:
        """The object (shared: read only) or None."""
        found = await self.current(resource.key(namespace, name), fresh=fresh)
        return None if found is None else found.obj

    def cached(self, resource: kinds.Resource, namespace: str, name: str) -> Object | None:
        """What the watch cache has, without asking the store."""
        entry = self.cache.get(resource.key(namespace, name))
        return None if entry is None else entry.obj

    def list_cached(self, resource: kinds.Resource, namespace: str = "") -> list[Object]:
        """Every object of a resource (in one namespace) that the watch cache has."""
        result = self.cache.list(resource.storage_prefix, Selection(namespace=namespace))
        return [entry.obj for entry in result.entries]

    async def list_fresh(self, resource: kinds.Resource, namespace: str = "") -> list[Object]:
        """Every object, consistently, from the store."""
        with translated():
            result = await self.store.range(resource.key_prefix(namespace))
        return [orjson.loads(codec.splice(kv.value, kv.mod_revision)) for kv in result.kvs]


def encode(obj: Object) -> bytes:
    """codec.encode with its complaint as a BadRequest."""
    try:
        return codec.encode(obj)
    except ValueError as err:
        raise errors.BadRequest(str(err)) from err


def document(obj: Object) -> bytes:
    """An object that was not stored (dry run) as a document."""
    try:
        return orjson.dumps(obj)
    except (TypeError, RecursionError) as err:
        raise errors.BadRequest(f"cannot encode object: {err}") from err
