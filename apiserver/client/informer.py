"""Keeps a local copy of one resource by list and watch, and tells handlers of every change. The eyes of the scheduler, the agent and all controllers.

Invariant: `store` is a state the server had at `revision`, and the sequence of on_change(old, new) calls leads from the empty store to it. After any gap (cut
watch, 410) the next list is compared with the store and the differences are told as changes: intermediate states may be skipped, a change never is.
Handlers are plain functions, called in order on the event loop; one that raises is logged and does not stop the others.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec
import orjson

from apiserver.api import errors, types
from apiserver.client import requests
from apiserver.client.backoff import Backoff

if TYPE_CHECKING:
    from apiserver.api.kinds import Resource
    from apiserver.client.client import Client

__all__ = ["Informer", "key_of", "meta_namespace_key"]

log = logging.getLogger("informer")
Handler = Callable[[Any, Any], None]


def meta_namespace_key(namespace: str, name: str) -> str:
    return f"{namespace}/{name}" if namespace else name


def key_of(obj: Any) -> str:
    """`namespace/name`, or `name` of a cluster-scoped object; for dicts and typed views."""
    if isinstance(obj, dict):
        meta = obj["metadata"]
        return meta_namespace_key(meta.get("namespace", ""), meta["name"])
    return meta_namespace_key(obj.metadata.namespace, obj.metadata.name)


def revision_of(obj: Any) -> str:
    return obj["metadata"].get("resourceVersion", "") if isinstance(obj, dict) else obj.metadata.resource_version


class _Codec:
    """Bytes → (type, object) and bytes → (items, revision), as dicts or as one Struct type. An object that does not fit the type is logged and left out."""

    def __init__(self, struct: type | None) -> None:
        self._struct = struct
        if struct is not None:
            frame = msgspec.defstruct("Frame", [("type", str), ("object", struct)])
            meta = msgspec.defstruct("Meta", [("resourceVersion", str, ""), ("continue_", str, msgspec.field(name="continue", default=""))])
            page = msgspec.defstruct("Page", [("metadata", meta), ("items", list[struct] | None, None)])  # type: ignore[valid-type]
            self._frame: msgspec.json.Decoder[Any] = msgspec.json.Decoder(frame)
            self._page: msgspec.json.Decoder[Any] = msgspec.json.Decoder(page)

    def event(self, line: bytes) -> tuple[str, Any]:
        """(type, object), or ("BOOKMARK", its dict) for an object left out. Raises the Status of an ERROR event; ValueError for a broken line."""
        if self._struct is not None and not line.startswith(b'{"type":"ERROR"'):
            try:
                frame = self._frame.decode(line)
                return frame.type, frame.object
            except msgspec.ValidationError:
                pass
        raw = orjson.loads(line)
        if raw["type"] == "ERROR":
            raise requests.decode_error(requests.Response(raw["object"].get("code") or 500, {}, orjson.dumps(raw["object"])))
        obj = self._convert(raw["object"])
        return (raw["type"], obj) if obj is not None else ("BOOKMARK", raw["object"])

    def page(self, body: bytes) -> tuple[list[Any], str, str]:
        """(items, revision, continue token)."""
        if self._struct is not None:
            try:
                page = self._page.decode(body)
                return page.items or [], page.metadata.resourceVersion, page.metadata.continue_
            except msgspec.ValidationError:
                pass
        raw = orjson.loads(body)
        items = [obj for item in raw.get("items") or [] if (obj := self._convert(item)) is not None]
        return items, raw["metadata"].get("resourceVersion", ""), raw["metadata"].get("continue", "")

    def _convert(self, obj: dict[str, Any]) -> Any | None:
        if self._struct is None:
            return obj
        try:
            return types.from_dict(self._struct, obj)
        except msgspec.ValidationError as e:
            log.error("%s %s cannot be read and is left out: %s", obj.get("kind", "object"), key_of(obj), e)
            return None


class Informer:
    """`decode` None: dicts; a Struct of apiserver.api.types: typed views. `store` maps key_of() to the object; it is shared: readers must not change it.

    `run()` goes on until cancelled. `rng` jitters reconnects and the watch's length (5–10 minutes)."""

    def __init__(
        self,
        client: Client,
        resource: Resource,
        *,
        namespace: str = "",
        field_selector: str = "",
        label_selector: str = "",
        decode: type | None = None,
        rng: random.Random | None = None,
        backoff: Backoff | None = None,
    ) -> None:
        self.client, self.resource, self.namespace = client, resource, namespace
        self.selection = {"field_selector": field_selector, "label_selector": label_selector}
        self.store: dict[str, Any] = {}
        self.revision = ""
        self._codec = _Codec(decode)
        self._rng = rng or random.Random()
        self._handlers: list[Handler] = []
        self._synced = asyncio.Event()
        self._backoff = backoff or Backoff(initial_s=0.05, max_s=5.0, rng=self._rng)
        self.connected = False

    def add_handler(self, on_change: Handler) -> None:
        """on_change(old, new): (None, new) added, (old, new) modified, (old, None) deleted; `old` of a deletion is its last known state. What the store has already is told at once."""
        self._handlers.append(on_change)
        for obj in list(self.store.values()):
            self._call(on_change, None, obj)

    async def synced(self) -> None:
        """Returns when the first list has been taken in and told."""
        await self._synced.wait()

    def has_synced(self) -> bool:
        return self._synced.is_set()

    def get(self, name: str, namespace: str = "") -> Any | None:
        return self.store.get(meta_namespace_key(namespace, name))

    async def run(self) -> None:
        """List, watch, and again. Never raises but on cancellation."""
        while True:
            try:
                if not self.revision:
                    await self._list()
                if await self._watch():
                    continue
            except errors.Gone as e:
                log.info("%s: %s; listing again", self.resource.plural, e)
                self.revision = ""
                if self._backoff.failures == 0:
                    self._backoff.failures = 1
                    continue
            except requests.ServerUnreachable as e:
                log.warning("%s: %s", self.resource.plural, e)
            except (errors.ApiError, ValueError) as e:  # refused, or a line that cannot be decoded: the state behind it is unknown
                log.warning("%s: list and watch failed: %s", self.resource.plural, e)
                self.revision = ""
            except Exception:
                log.exception("%s: list and watch failed", self.resource.plural)
                self.revision = ""
            finally:
                self.connected = False
            await asyncio.sleep(self._backoff.next_s())

    async def _list(self) -> None:
        items: list[Any] = []
        token = ""
        while True:
            body = await self.client.list_bytes(self.resource, self.namespace, **self.selection, continue_token=token)
            page, revision, token = self._codec.page(body)
            items += page
            if not token:
                break
        self._replace({key_of(obj): obj for obj in items})
        self.revision = revision
        self._synced.set()

    def _replace(self, new: dict[str, Any]) -> None:
        for key in [key for key in self.store if key not in new]:
            self._tell(self.store.pop(key), None)
        for key, obj in new.items():
            old = self.store.get(key)
            self.store[key] = obj
            if old is None or revision_of(old) != revision_of(obj):
                self._tell(old, obj)

    async def _watch(self) -> bool:
        """Until the server ends the watch; whether it brought anything (one that ends at once and empty must not be asked for in a tight loop)."""
        got = False
        lines = self.client.watch_lines(
            self.resource, self.namespace, **self.selection, resource_version=self.revision, timeout_s=self._rng.randint(300, 600), bookmarks=True
        )
        async with contextlib.aclosing(lines) as batches:
            self.connected = True
            async for batch in batches:
                self._backoff.reset()
                got = True
                for line in batch:
                    self._apply(*self._codec.event(line))
        return got

    def _apply(self, kind: str, obj: Any) -> None:
        if kind != "BOOKMARK":
            key = key_of(obj)
            if kind == "DELETED":
                old = self.store.pop(key, None)
                if old is not None:
                    self._tell(obj, None)
            else:
                old = self.store.get(key)
                self.store[key] = obj
                self._tell(old, obj)
        self.revision = revision_of(obj) or self.revision

    def _tell(self, old: Any, new: Any) -> None:
        for handler in self._handlers:
            self._call(handler, old, new)

    def _call(self, handler: Handler, old: Any, new: Any) -> None:
        try:
            handler(old, new)
        except Exception:
            log.exception("%s %s: a handler failed", self.resource.plural, key_of(new if new is not None else old))
