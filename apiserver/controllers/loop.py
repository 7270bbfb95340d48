"""The one shape of every control loop: informers feed a keyed queue, workers reconcile one key at a time, failures come back with growing delays.

A controller never dies of an object: whatever reconcile() raises is logged with its key and tried again. Subclasses own their plan and their writes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import Any

from apiserver.api import errors
from apiserver.api.kinds import Resource
from apiserver.client.client import Client
from apiserver.client.events import EventRecorder
from apiserver.client.informer import Informer
from apiserver.client.requests import ServerUnreachable
from apiserver.client.workqueue import WorkQueue
from apiserver.controllers.config import Config

__all__ = ["Context", "Controller", "Written"]

Obj = dict[str, Any]


class Context:
    """What controllers share: one client, one informer per resource, one recorder."""

    def __init__(self, client: Client, config: Config) -> None:
        self.client, self.config = client, config
        self.recorder = EventRecorder(client, "controller-manager", config.now)
        self.informers: dict[Resource, Informer] = {}

    def informer(self, resource: Resource, decode: type | None = None) -> Informer:
        """The shared one; whoever asks first says how objects are decoded."""
        if resource not in self.informers:
            self.informers[resource] = Informer(self.client, resource, decode=decode, rng=self.config.rng)
        return self.informers[resource]


class Controller:
    """One loop. `watched` is what must have synced before the first reconcile."""

    name = "controller"

    def __init__(self, context: Context) -> None:
        self.context, self.client, self.config = context, context.client, context.config
        self.log = logging.getLogger(f"controllers.{self.name}")
        self.queue: WorkQueue[str] = WorkQueue()
        self.watched: list[Informer] = []

    def watch(self, resource: Resource, decode: type | None = None) -> Informer:
        informer = self.context.informer(resource, decode)
        self.watched.append(informer)
        return informer

    async def reconcile(self, key: str) -> None:
        """Brings the world of one key to what it should be; may raise anything."""
        raise AssertionError("a controller must say how it reconciles")

    def background(self) -> Iterable[Any]:
        """More coroutines to run beside the workers."""
        return ()

    async def run(self) -> None:
        for informer in self.watched:
            await informer.synced()
        await asyncio.gather(*(self.queue.work(self._handle) for _ in range(self.config.workers)), *self.background())

    async def _handle(self, key: str) -> None:
        try:
            await self.reconcile(key)
        except (errors.Conflict, errors.AlreadyExists) as e:  # our view was old: the informer is about to bring the news
            self.log.debug("%s: %s", key, e)
            self.queue.retry(key)
        except ServerUnreachable as e:
            self.log.warning("%s: %s; again in %.1f s", key, e, self.queue.retry(key))
        except errors.ApiError as e:
            self.log.warning("%s: %s: %s; again in %.1f s", key, e.reason, e, self.queue.retry(key))
        except Exception:
            self.log.exception("%s: failed; again in %.1f s", key, self.queue.retry(key))
        else:
            self.queue.forget(key)


class Written:
    """Our own writes, until the informer has seen them: a reconcile that follows at once must not plan from the state before them (and create things twice)."""

    def __init__(self, informer: Informer) -> None:
        self._informer = informer
        self._objects: dict[str, tuple[int, Obj | None]] = {}
        informer.add_handler(self._seen)

    def put(self, key: str, obj: Obj) -> None:
        revision = int(obj["metadata"]["resourceVersion"])
        seen = self._informer.store.get(key)
        if seen is None or int(seen["metadata"]["resourceVersion"]) < revision:
            self._objects[key] = (revision, obj)

    def drop(self, key: str) -> None:
        """Deleted by us; holds until the informer tells of it."""
        if key in self._informer.store:
            self._objects[key] = (0, None)

    def get(self, key: str) -> Obj | None:
        if key in self._objects:
            return self._objects[key][1]
        return self._informer.store.get(key)

    def pending(self) -> dict[str, Obj | None]:
        return {key: obj for key, (_, obj) in self._objects.items()}

    def _seen(self, old: Obj | None, new: Obj | None) -> None:
        obj = new if new is not None else old
        assert obj is not None
        meta = obj["metadata"]
        key = f"{meta['namespace']}/{meta['name']}" if meta.get("namespace") else meta["name"]
        held = self._objects.get(key)
        if held is not None and (new is None or (held[1] is not None and int(meta["resourceVersion"]) >= held[0])):
            del self._objects[key]
