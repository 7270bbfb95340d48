"""Records core/v1 Events about objects: fire and forget for the caller, repeated events counted on one object, nothing lost to a transient error.

Owns a bounded queue and its sender (`run`). Refuses to block or to raise into the caller. Used by the scheduler, the agent and the controllers.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from apiserver.api import errors, kinds, timestamps
from apiserver.client.backoff import Backoff
from apiserver.client.client import Client
from apiserver.client.requests import ServerUnreachable

if TYPE_CHECKING:
    from apiserver.api.kinds import Resource

__all__ = ["EventRecorder", "reference"]

log = logging.getLogger("events")
Obj = dict[str, Any]
MAX_PENDING = 10_000
MAX_REMEMBERED = 4096
MAX_MESSAGE_BYTES = 1024


def reference(resource: Resource, obj: Any, field_path: str = "") -> Obj:
    """The ObjectReference of a dict or a typed view; `field_path` as `spec.containers{name}`."""
    if isinstance(obj, dict):
        meta = obj.get("metadata") or {}
        values = (meta.get("name", ""), meta.get("namespace", ""), meta.get("uid", ""), meta.get("resourceVersion", ""))
    else:
        values = (obj.metadata.name, obj.metadata.namespace, obj.metadata.uid, obj.metadata.resource_version)
    ref = {"kind": resource.kind, "apiVersion": resource.api_version, "name": values[0], "namespace": values[1], "uid": values[2], "resourceVersion": values[3], "fieldPath": field_path}
    return {k: v for k, v in ref.items() if v}


@dataclass
class _Record:
    """One Event object: `sent` is the count that the server has."""

    body: Obj
    count: int = 1
    last: float = 0.0
    sent: int = 0


class EventRecorder:
    """`host` goes into source.host (the agent's node name). `now` is wall seconds. At most `burst` different new Events per object, then one per `refill_s`."""

    def __init__(
        self, client: Client, component: str, now: Callable[[], float] = time.time, *, host: str = "", burst: int = 25, refill_s: float = 300.0, senders: int = 2
    ) -> None:
        self.client, self.component, self.host = client, component, host
        self._now, self._burst, self._refill_s, self._senders = now, burst, refill_s, senders
        self._known: OrderedDict[tuple[str, ...], _Record] = OrderedDict()
        self._pending: OrderedDict[tuple[str, ...], _Record] = OrderedDict()
        self._tokens: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._wake, self._idle = asyncio.Event(), asyncio.Event()
        self._idle.set()
        self._in_flight = 0
        self._last_ns = 0
        self.dropped = 0

    def event(self, resource: Resource, obj: Any, type: str, reason: str, message: str, *, field_path: str = "") -> None:
        """`type` Normal | Warning; the same text about the same object again raises its count."""
        self.event_for(reference(resource, obj, field_path), type, reason, message)

    def event_for(self, ref: Obj, type: str, reason: str, message: str) -> None:
        message = message if len(message) <= MAX_MESSAGE_BYTES else message[: MAX_MESSAGE_BYTES - 1] + "…"
        key = (ref.get("kind", ""), ref.get("namespace", ""), ref.get("name", ""), ref.get("uid", ""), ref.get("fieldPath", ""), type, reason, message)
        now = self._now()
        record = self._known.get(key)
        if record is not None:
            record.count, record.last = record.count + 1, now
            self._known.move_to_end(key)
        elif not self._allowed(ref.get("uid") or ref.get("name", ""), now):
            return
        else:
            record = self._known[key] = _Record(self._body(ref, type, reason, message, now), last=now)
            if len(self._known) > MAX_REMEMBERED:
                self._known.popitem(last=False)
        self._pending[key] = record
        if len(self._pending) > MAX_PENDING:
            self._pending.popitem(last=False)
            self.dropped += 1
            if self.dropped & (self.dropped - 1) == 0:
                log.warning("events come faster than they can be sent: %d dropped so far", self.dropped)
        self._wake.set()
        self._idle.clear()

    def _allowed(self, who: str, now: float) -> bool:
        tokens, then = self._tokens.get(who, (float(self._burst), now))
        tokens = min(tokens + (now - then) / self._refill_s, float(self._burst))
        self._tokens[who] = (tokens - 1 if tokens >= 1 else tokens, now)
        self._tokens.move_to_end(who)
        if len(self._tokens) > MAX_REMEMBERED:
            self._tokens.popitem(last=False)
        return tokens >= 1

    def _body(self, ref: Obj, type: str, reason: str, message: str, now: float) -> Obj:
        self._last_ns = max(int(now * 1e9), self._last_ns + 1)
        stamp = timestamps.format_time(now)
        source = {"component": self.component, "host": self.host} if self.host else {"component": self.component}
        return {
            "apiVersion": "v1", "kind": "Event",
            "metadata": {"name": f"{ref.get('name', '')}.{self._last_ns:x}", "namespace": ref.get("namespace") or "default"},
            "involvedObject": ref, "reason": reason, "message": message, "type": type, "source": source,
            "firstTimestamp": stamp, "lastTimestamp": stamp, "count": 1,
            "reportingComponent": self.component, "reportingInstance": self.host,
        }  # fmt: skip

    async def run(self) -> None:
        """Sends until cancelled."""
        await asyncio.gather(*(self._send_loop() for _ in range(self._senders)))

    async def flush(self, timeout_s: float = 2.0) -> bool:
        """Waits until everything recorded so far is sent (run() must be running); False if that took longer than timeout_s."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
            return True
        except TimeoutError:
            return False

    async def _send_loop(self) -> None:
        backoff = Backoff(initial_s=0.2, max_s=10.0)
        while True:
            if not self._pending:
                self._wake.clear()
                await self._wake.wait()
                continue
            key, record = self._pending.popitem(last=False)
            self._in_flight += 1
            try:
                await self._send(record)
                backoff.reset()
            except (ServerUnreachable, errors.TooManyRequests, errors.Unavailable, errors.Timeout, errors.InternalError) as e:
                self._pending[key] = record
                self._pending.move_to_end(key, last=False)
                log.info("event waits: %s", e)
                await asyncio.sleep(backoff.next_s())
            except errors.ApiError as e:
                log.warning("event about %s %s refused: %s", record.body["involvedObject"].get("kind"), record.body["involvedObject"].get("name"), e)
            except Exception:
                log.exception("event not sent")
            finally:
                self._in_flight -= 1
                if not self._pending and not self._in_flight:
                    self._idle.set()

    async def _send(self, record: _Record) -> None:
        body, count = record.body, record.count
        meta = body["metadata"]
        latest = {"count": count, "lastTimestamp": timestamps.format_time(record.last)}
        if record.sent:
            try:
                await self.client.patch(kinds.EVENTS, meta["name"], latest, meta["namespace"])
                record.sent = count
                return
            except errors.NotFound:  # its hour is over: the text starts a new life
                record.count = count = count - record.sent or 1
                latest["count"] = count
                self._last_ns += 1
                body = record.body = {**body, "metadata": {**meta, "name": f"{body['involvedObject'].get('name', '')}.{max(int(record.last * 1e9), self._last_ns):x}"}}
                body["firstTimestamp"] = latest["lastTimestamp"]
        try:
            await self.client.create(kinds.EVENTS, {**body, **latest})
        except errors.AlreadyExists:  # our own earlier attempt, whose answer was lost
            await self.client.patch(kinds.EVENTS, body["metadata"]["name"], latest, body["metadata"]["namespace"])
        record.sent = count
