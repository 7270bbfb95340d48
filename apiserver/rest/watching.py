"""WATCH: events from the watch cache onto chunked HTTP or a WebSocket. Owns the order of a stream (initial state, events, bookmarks, the end) and its pace; the events
themselves are the cache's, encoded once. Source: kubernetes.io/docs/reference/using-api/api-concepts#efficient-detection-of-changes.

A watcher that was idle gets an event at once; under a storm each watcher is served at intervals, so that one send carries many events.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

import orjson

from apiserver.api import errors, kinds
from apiserver.rest import negotiation, reading, representations, selecting, websocket
from apiserver.rest.components import Components
from apiserver.rest.request import Request
from apiserver.store import base
from apiserver.store.cache import Selection, Watcher, WatchEvent

BOOKMARK_INTERVAL_S = 60.0
MIN_TIMEOUT_S = 1800.0
_PACE_PER_WATCHER_S, _MAX_PACE_S = 0.0001, 0.025
_INITIAL_PIECE = 500
Encode = Callable[[Sequence[WatchEvent]], bytes]


class Sink(Protocol):
    async def send(self, data: bytes) -> None: ...
    async def close(self) -> None: ...


class HttpSink:
    """Newline-delimited JSON in HTTP chunks."""

    def __init__(self, request: Request) -> None:
        self._send = request.send

    async def open(self) -> None:
        headers = [(b"content-type", b"application/json"), (b"cache-control", b"no-cache, private")]
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        await self._send({"type": "http.response.body", "body": b"", "more_body": True})

    async def send(self, data: bytes) -> None:
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def close(self) -> None:
        await self._send({"type": "http.response.body", "body": b""})


class WebSocketSink:
    """One text frame per event, as browsers' dashboards expect."""

    def __init__(self, socket: websocket.WebSocket) -> None:
        self._socket = socket

    async def send(self, data: bytes) -> None:
        await self._socket.send_many(data.splitlines())

    async def close(self) -> None:
        self._socket.close()


class Stream:
    """One watch. `encode` turns events into lines of the form that was asked for."""

    def __init__(self, request: Request, sink: Sink, encode: Encode, bookmark: Callable[[int, bool], bytes]) -> None:
        self._request, self._app, self._sink, self._encode, self._bookmark = request, request.app, sink, encode, bookmark
        self._bookmarks = request.flag("allowWatchBookmarks")
        self._loop = asyncio.get_running_loop()

    async def run(self, watcher: Watcher, initial: Sequence[WatchEvent], *, end_mark: bool, deadline_s: float) -> None:
        """Until the deadline, the client's leaving or the server's stop. `end_mark`: a bookmark says that the initial events are all there (WatchList)."""
        try:
            for at in range(0, len(initial), _INITIAL_PIECE):
                await self._sink.send(self._encode(initial[at : at + _INITIAL_PIECE]))
            if end_mark:
                await self._sink.send(self._bookmark(watcher.revision, True))
            await self._follow(watcher, deadline_s)
        except base.Compacted as err:
            await self._sink.send(error_line(errors.Expired(f"too old resource version: {err}")))
        await self._sink.close()

    async def _follow(self, watcher: Watcher, deadline_s: float) -> None:
        next_bookmark = self._loop.time() + BOOKMARK_INTERVAL_S
        quiet_until = 0.0
        while True:
            now = self._loop.time()
            if quiet_until > now:
                await asyncio.sleep(quiet_until - now)
            events = await watcher.next(max(0.0, min(next_bookmark, deadline_s) - self._loop.time()))
            now = self._loop.time()
            if events:
                quiet_until = now + min(_MAX_PACE_S, _PACE_PER_WATCHER_S * len(self._app.watchers))
                self._app.metrics.watch_events += len(events)
                await self._sink.send(self._encode(events))
            if watcher not in self._app.watchers:
                return
            if now >= deadline_s or now >= next_bookmark:
                if self._bookmarks:
                    await self._sink.send(self._bookmark(watcher.revision, False))
                if now >= deadline_s:
                    return
                next_bookmark = now + BOOKMARK_INTERVAL_S


async def watch(request: Request) -> None:
    """The handler of every watch. Errors before the stream begins are Status answers; a revision that is gone is an ERROR event, as in Kubernetes."""
    form, selection, revision = request.format, selecting.selection(request), reading.revision_param(request)
    policy = representations.include_object(request) if form.shape == negotiation.TABLE else ""
    wants_initial = _wants_initial(request, revision)
    timeout_s = request.number("timeoutSeconds") or MIN_TIMEOUT_S * (1 + request.app.rng.random())
    deadline_s = asyncio.get_running_loop().time() + timeout_s
    sink = await _open(request)
    try:
        watcher, initial = await _begin(request, selection, revision, wants_initial)
    except errors.ApiError as err:
        await sink.send(error_line(err))
        await sink.close()
        return
    encode = _encoder(request, form, policy)
    stream = Stream(request, sink, encode, _bookmarker(request.resource, form))
    with _registered(request, watcher):
        await stream.run(watcher, initial, end_mark=request.flag("sendInitialEvents"), deadline_s=deadline_s)


class _registered:
    """Holds a watcher open: it ends with the client's connection, or with the server."""

    def __init__(self, request: Request, watcher: Watcher) -> None:
        self._app: Components = request.app
        self._watcher, self._connection = watcher, request.connection

    def __enter__(self) -> None:
        self._app.watchers.add(self._watcher)
        if self._connection is not None:
            self._connection.on_lost = self._leave

    def _leave(self) -> None:
        self._app.watchers.discard(self._watcher)
        self._watcher.close()

    def __exit__(self, *exc: object) -> None:
        if self._connection is not None:
            self._connection.on_lost = None
        self._leave()


def _wants_initial(request: Request, revision: str) -> bool:
    """Whether the stream starts with the present state. Raises Invalid where sendInitialEvents is used wrongly."""
    given = request.query.get("sendInitialEvents")
    match = request.param("resourceVersionMatch")
    why, field = "", "resourceVersionMatch"
    if given is not None:
        if match != reading.NOT_OLDER:
            why = "Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"
        elif request.flag("sendInitialEvents") and not request.flag("allowWatchBookmarks"):
            why, field = "Forbidden: sendInitialEvents requires allowWatchBookmarks", "allowWatchBookmarks"
    elif match:
        why = "Forbidden: resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided"
    if why:
        raise errors.Invalid("meta.k8s.io", "ListOptions", "", [errors.Cause(field, "FieldValueForbidden", why)])
    return request.flag("sendInitialEvents") if given is not None else revision in ("", "0")


async def _begin(request: Request, selection: Selection, revision: str, wants_initial: bool) -> tuple[Watcher, list[WatchEvent]]:
    cache, prefix = request.app.cache, request.resource.storage_prefix
    with reading.translated():
        if not wants_initial and revision not in ("", "0"):
            return cache.watch(prefix, selection, after_revision=int(revision)), []
        if not revision:
            await cache.fresh()
        elif revision != "0":
            await cache.wait_for(int(revision))
        result = cache.list(prefix, selection)
        watcher = cache.watch(prefix, selection, after_revision=result.revision)
    return watcher, [WatchEvent("ADDED", entry) for entry in result.entries] if wants_initial else []


async def _open(request: Request) -> Sink:
    if websocket.is_upgrade(request, b"websocket"):
        offered = request.header(b"sec-websocket-protocol").split(",")
        names = tuple(name.strip() for name in offered if name.strip() and not name.strip().startswith("base64url.bearer."))
        socket = websocket.WebSocket.accept(request, names)
        reader = asyncio.create_task(_ignore_received(socket))
        request.app.relays.add(reader)
        reader.add_done_callback(request.app.relays.discard)
        return WebSocketSink(socket)
    sink = HttpSink(request)
    await sink.open()
    return sink


async def _ignore_received(socket: websocket.WebSocket) -> None:
    """Answers pings; when the client closes, the connection goes and with it the watcher."""
    while await socket.read() is not None:
        pass
    socket.close()


_last: tuple[Sequence[WatchEvent], bytes] = ([], b"")


def _join(events: Sequence[WatchEvent]) -> bytes:
    """The lines of `events`; watchers woken together mostly carry the same batch, so the last one made is kept (comparing is by identity, at C speed)."""
    global _last
    if events == _last[0]:
        return _last[1]
    data = b"".join([event.line for event in events])
    _last = (events, data)
    return data


def _encoder(request: Request, form: negotiation.Format, policy: str) -> Encode:
    resource, app = request.resource, request.app
    if form.shape == negotiation.PARTIAL:
        return lambda events: b"".join([_line(event.type, representations.partial(event.entry.obj, form.version)) for event in events])
    if form.shape != negotiation.TABLE:
        return _join
    first = True

    def tables(events: Sequence[WatchEvent]) -> bytes:
        nonlocal first
        lines = []
        for event in events:
            row = representations.row(resource, event.entry, policy, app.now(), form.version)
            metadata = representations.list_metadata(event.revision)
            lines.append(_line(event.type, representations.table_document(resource, [row], metadata, form.version, columns=first)))
            first = False
        return b"".join(lines)

    return tables


def _line(type_: str, obj: bytes) -> bytes:
    return b'{"type":"%b","object":%b}\n' % (type_.encode(), obj)


def _bookmarker(resource: kinds.Resource, form: negotiation.Format) -> Callable[[int, bool], bytes]:
    def bookmark(revision: int, end: bool) -> bytes:
        metadata: representations.Object = {"resourceVersion": str(revision), "creationTimestamp": None}
        if end:
            metadata["annotations"] = {"k8s.io/initial-events-end": "true"}
        if form.shape == negotiation.TABLE:
            obj = representations.table_document(resource, [], metadata, form.version, columns=False)
        elif form.shape == negotiation.PARTIAL:
            obj = representations.partial({"metadata": metadata}, form.version)
        else:
            obj = orjson.dumps({"kind": resource.kind, "apiVersion": resource.api_version, "metadata": metadata})
        return _line("BOOKMARK", obj)

    return bookmark


def error_line(err: errors.ApiError) -> bytes:
    return _line("ERROR", orjson.dumps(errors.to_status(err)))


