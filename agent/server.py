"""The node's HTTPS server: logs, exec, attach, port-forward, /pods, /stats/summary, /metrics. Only the API server's client certificate is let in; /healthz is open.

Plain ASGI on uvicorn's protocols, without its process handling. Called by agent.__main__.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import resource
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from typing import Any
from urllib.parse import parse_qs, parse_qsl, unquote

import orjson
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from agent import logs, observe, podspec, streams
from agent.runtime import cri
from agent.workers import Pods, PodWorker
from apiserver.api import errors

log = logging.getLogger("server")
CLIENT_NAME = "kube-apiserver-kubelet-client"
logging.getLogger("uvicorn.error").setLevel(logging.WARNING)  # it tells of every connection
Scope = MutableMapping[str, Any]
PODS_KNOWN_TIMEOUT_S = 20.0
JSON_TYPE = b"application/json"
TEXT_TYPE = b"text/plain; charset=utf-8"


class PeerProtocol(HttpToolsProtocol):
    """Puts the common name of the client's certificate into the scope, and refuses WebSockets of strangers."""

    peer = ""
    is_tls = False

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        tls = transport.get_extra_info("ssl_object")
        self.is_tls = tls is not None
        certificate = (tls.getpeercert() or {}) if tls is not None else {}
        self.peer = next((value for part in certificate.get("subject", ()) for key, value in part if key == "commonName"), "")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["peer"] = self.peer  # type: ignore[typeddict-unknown-key]

    def handle_websocket_upgrade(self) -> None:
        if self.peer == CLIENT_NAME or not self.is_tls:
            super().handle_websocket_upgrade()
            return
        word, body = (b"403 Forbidden", b"Forbidden") if self.peer else (b"401 Unauthorized", b"Unauthorized")
        self.transport.write(b"HTTP/1.1 " + word + b"\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        self.transport.close()


def tls_context(cert: str, key: str, client_ca: str) -> ssl.SSLContext:
    """TLS 1.2 or later; a client certificate is asked for and, where given, must be the CA's. Raises OSError, ssl.SSLError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(cert, key)
    context.load_verify_locations(client_ca)
    context.verify_mode = ssl.CERT_OPTIONAL
    return context


async def serve(app: App, listener: socket.socket, context: ssl.SSLContext | None) -> asyncio.Server:
    """Listen; the caller closes the server."""
    config = uvicorn.Config(app, http=PeerProtocol, ws="websockets-sansio", log_config=None, access_log=False, ws_ping_interval=None, ws_per_message_deflate=False, lifespan="off", server_header=False)
    config.load()
    config.ssl = context
    protocol = functools.partial(PeerProtocol, config=config, server_state=ServerState(), app_state={})
    return await asyncio.get_running_loop().create_server(protocol, sock=listener, ssl=context, backlog=128)


class HttpError(Exception):
    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class App:
    """The ASGI application. `secure` False (tests without TLS) lets anybody in."""

    def __init__(self, pods: Pods, runtime: cri.RuntimeService, node_name: str, now: Callable[[], float], *, secure: bool = True) -> None:
        self._pods, self._runtime, self._node, self._now, self._secure = pods, runtime, node_name, now, secure
        self.pods_known = asyncio.Event()  # set by whoever fills `pods`: until then a pod that is not there may only not be known yet
        self._routes: dict[str, Callable[[Scope, Sequence[str], Any, Any], Awaitable[None]]] = {
            "healthz": self._healthz, "pods": self._list_pods, "metrics": self._metrics, "stats": self._stats, "containerLogs": self._logs,
        }  # fmt: skip
        self._sockets: dict[str, Callable[[Scope, Sequence[str], Any, Any], Awaitable[None]]] = {"exec": self._exec, "attach": self._attach, "portForward": self._port_forward}

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        if scope["type"] not in ("http", "websocket"):
            return
        parts = [unquote(p) for p in scope["path"].split("/") if p]
        name = parts[0] if parts else ""
        try:
            if scope["type"] == "websocket":
                await receive()  # websocket.connect
                if name not in self._sockets:
                    raise HttpError(404, "404 page not found")
                await self._wait_for_pods()
                await self._sockets[name](scope, parts[1:], receive, send)
                return
            self._admit(scope, name)
            if name in self._sockets:
                raise HttpError(400, "you must specify the WebSocket upgrade headers for this request")
            if name not in self._routes:
                raise HttpError(404, "404 page not found")
            if scope["method"] not in ("GET", "HEAD"):
                raise HttpError(405, "method not allowed")
            if name not in ("healthz", "metrics"):
                await self._wait_for_pods()
            await self._routes[name](scope, parts[1:], receive, send)
        except HttpError as e:
            await _refuse(scope, send, e.code, str(e))
        except ConnectionError:
            pass
        except Exception:
            log.exception("%s %s", scope.get("method", "WS"), scope["path"])
            with contextlib.suppress(Exception):
                await _refuse(scope, send, 500, "internal error: see the node's log")

    async def _wait_for_pods(self) -> None:
        """An agent that has just been restarted listens before it knows its pods. Raises HttpError."""
        try:
            async with asyncio.timeout(PODS_KNOWN_TIMEOUT_S):
                await self.pods_known.wait()
        except TimeoutError:
            raise HttpError(503, "the node's agent is starting and does not know its pods yet") from None

    def _admit(self, scope: Scope, name: str) -> None:
        if not self._secure or name == "healthz":
            return
        if not scope.get("peer"):
            raise HttpError(401, "Unauthorized")
        if scope["peer"] != CLIENT_NAME:
            raise HttpError(403, f"Forbidden (user={scope['peer']})")

    # --- plain

    async def _healthz(self, scope: Scope, parts: Sequence[str], receive: Any, send: Any) -> None:
        await _respond(send, 200, TEXT_TYPE, b"ok")

    async def _list_pods(self, scope: Scope, parts: Sequence[str], receive: Any, send: Any) -> None:
        body = {"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": [w.pod for w in self._pods.all() if not w.vanished]}
        await _respond(send, 200, JSON_TYPE, orjson.dumps(body))

    async def _metrics(self, scope: Scope, parts: Sequence[str], receive: Any, send: Any) -> None:
        running = [c for w in self._pods.all() for c in w.observe().containers if c.state == "running"]
        usage = resource.getrusage(resource.RUSAGE_SELF)
        with open("/proc/self/statm") as f:
            resident = int(f.read().split()[1]) * resource.getpagesize()
        lines = []
        for name, kind, text, value in (
            ("kubelet_running_pods", "gauge", "Number of pods that have a running pod sandbox", float(sum(w.observe().sandbox is not None for w in self._pods.all()))),
            ("kubelet_running_containers", "gauge", "Number of containers currently running", float(len(running))),
            ("process_resident_memory_bytes", "gauge", "Resident memory size in bytes.", float(resident)),
            ("process_cpu_seconds_total", "counter", "Total user and system CPU time spent in seconds.", usage.ru_utime + usage.ru_stime),
        ):
            lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}", f"{name} {value:g}"]
        await _respond(send, 200, b"text/plain; version=0.0.4; charset=utf-8", ("\n".join(lines) + "\n").encode())

    async def _stats(self, scope: Scope, parts: Sequence[str], receive: Any, send: Any) -> None:
        """A small /stats/summary: CPU and memory of each running container."""
        if list(parts) != ["summary"]:
            raise HttpError(404, "404 page not found")
        stamp, pods = podspec.format_time(self._now()), []
        for worker in self._pods.all():
            containers = []
            for container in worker.observe().containers:
                if container.state == "running":
                    with contextlib.suppress(OSError, KeyError):
                        s = await self._runtime.container_stats(container.id)
                        containers.append({
                            "name": container.labels.get(observe.LABEL_CONTAINER, ""), "startTime": podspec.format_time(container.started_at),
                            "cpu": {"time": stamp, "usageCoreNanoSeconds": s.cpu_ns},
                            "memory": {"time": stamp, "usageBytes": s.memory_bytes, "workingSetBytes": s.working_set_bytes},
                        })  # fmt: skip
            meta = worker.pod["metadata"]
            pods.append({"podRef": {"name": meta["name"], "namespace": meta.get("namespace", ""), "uid": meta["uid"]}, "containers": containers})
        await _respond(send, 200, JSON_TYPE, orjson.dumps({"node": {"nodeName": self._node}, "pods": pods}))

    # --- logs

    async def _logs(self, scope: Scope, parts: Sequence[str], receive: Any, send: Any) -> None:
        worker, name = self._find(parts)
        query = dict(parse_qsl(scope["query_string"].decode()))
        try:
            options = logs.parse_options(query, self._now())
        except logs.BadOption as e:
            raise HttpError(422, str(e)) from None
        path, running = self._log_of(worker, name, query.get("previous", "").lower() in ("true", "1"))
        chunks = logs.LogReader(path).read(options, running)
        try:
            first = await anext(chunks, b"") if not options.follow else b""
        except FileNotFoundError:
            raise HttpError(404, f"the log of container {name} in pod {worker.pod['metadata']['name']} is gone") from None
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", TEXT_TYPE)]})
        await send({"type": "http.response.body", "body": first, "more_body": True})
        gone = asyncio.create_task(_disconnected(receive))
        pump = asyncio.create_task(self._pump(chunks, send))
        try:
            await asyncio.wait([gone, pump], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (gone, pump):
                task.cancel()
            await asyncio.gather(gone, pump, return_exceptions=True)
            await chunks.aclose()  # type: ignore[attr-defined]

    async def _pump(self, chunks: Any, send: Any) -> None:
        try:
            async for data in chunks:
                await send({"type": "http.response.body", "body": data, "more_body": True})
        except FileNotFoundError:
            pass
        await send({"type": "http.response.body", "body": b""})

    def _log_of(self, worker: PodWorker, name: str, previous: bool) -> tuple[str, Callable[[], bool]]:
        """The log's path, and whether its container still runs."""
        attempts = [c for c in worker.observe().of(name) if c.state != "created"]
        pod = worker.pod["metadata"]["name"]
        if previous:
            attempts = attempts[:-1] if attempts and attempts[-1].state == "running" else attempts[:-1] or attempts
            if not attempts:
                raise HttpError(400, f'previous terminated container "{name}" in pod "{pod}" not found')
        if not attempts:
            known: Mapping[str, Any] = next((s for f in ("initContainerStatuses", "containerStatuses") for s in (worker.pod.get("status") or {}).get(f) or () if s["name"] == name), {})
            why = ((known.get("state") or {}).get("waiting") or {}).get("reason") or "ContainerCreating"
            said = {"ErrImagePull": "trying and failing to pull image", "ImagePullBackOff": "trying and failing to pull image"}.get(why, f"waiting to start: {why}")
            raise HttpError(400, f'container "{name}" in pod "{pod}" is {said}')
        container = attempts[-1]

        def running() -> bool:
            return any(c.id == container.id and c.state == "running" for c in worker.observe_containers())

        return container.annotations.get(observe.ANNOTATION_LOG, ""), running

    def _find(self, parts: Sequence[str], *, with_container: bool = True) -> tuple[PodWorker, str]:
        """namespace/pod/container of the path. Raises HttpError 404."""
        if len(parts) < (3 if with_container else 2):
            raise HttpError(404, "404 page not found")
        worker = self._pods.get(parts[0], parts[1])
        if worker is None:
            raise HttpError(404, f'pods "{parts[1]}" not found')
        if not with_container:
            return worker, ""
        if parts[2] not in {c.name for c in podspec.containers(worker.pod)}:
            raise HttpError(404, f"container {parts[2]} is not valid for pod {parts[1]}")
        return worker, parts[2]

    # --- streams

    def _running(self, parts: Sequence[str]) -> tuple[PodWorker, str, cri.ContainerStatus]:
        worker, name = self._find(parts)
        latest = worker.observe().latest(name)
        if latest is None or latest.state != "running":
            raise HttpError(404, f'container not found ("{name}")')
        return worker, name, latest

    async def _exec(self, scope: Scope, parts: Sequence[str], receive: Any, send: Any) -> None:
        _, _, container = self._running(parts)
        query = parse_qs(scope["query_string"].decode(), keep_blank_values=True)
        command = query.get("command") or []
        if not command:
            raise HttpError(400, "you must specify at least one command for the container")
        wants = _wants(query)
        await _accept(scope, send, streams.PROTOCOLS)
        await streams.run_exec(self._runtime, container.id, command, wants, streams.Channels(receive, send))

    async def _attach(self, scope: Scope, parts: Sequence[str], receive: Any, send: Any) -> None:
        worker, name, container = self._running(parts)
        wants = _wants(parse_qs(scope["query_string"].decode()))
        spec = next(c.spec for c in podspec.containers(worker.pod) if c.name == name)
        if wants.stdin and not spec.get("stdin"):
            raise HttpError(400, f"container {name} has no stdin: its spec does not say stdin: true")
        await _accept(scope, send, streams.PROTOCOLS)
        channels = streams.Channels(receive, send)
        await streams.run_attach(self._runtime, container, container.annotations.get(observe.ANNOTATION_LOG, ""), wants, channels)
        if wants.stdin and spec.get("stdinOnce"):
            with contextlib.suppress(OSError, KeyError):
                await self._runtime.close_stdin(container.id)

    async def _port_forward(self, scope: Scope, parts: Sequence[str], receive: Any, send: Any) -> None:
        worker, _ = self._find(parts, with_container=False)
        query = parse_qs(scope["query_string"].decode())
        texts = [p for value in query.get("ports", query.get("port", [])) for p in value.split(",")]
        if not texts or not all(t.isdigit() and 0 < int(t) < 65536 for t in texts):
            raise HttpError(400, f"ports: must be numbers from 1 to 65535, are {texts}")
        sandbox = worker.observe().sandbox
        if sandbox is None or sandbox.state != "ready":
            raise HttpError(400, f"pod {worker.pod['metadata']['name']} is not running")
        netns = None if sandbox.config.host_network else await self._runtime.sandbox_netns(sandbox.config.id)
        try:
            protocol = await _accept(scope, send, streams.PORT_FORWARD_PROTOCOLS)
            half_close = protocol == streams.PORT_FORWARD_HALF_CLOSE
            await streams.run_port_forward(netns, [int(t) for t in texts], streams.Channels(receive, send), half_close=half_close)
        finally:
            if netns is not None:
                os.close(netns)


def _wants(query: Mapping[str, Sequence[str]]) -> streams.Wants:
    """Both spellings: kubelet's (input, output, error) and the API's (stdin, stdout, stderr)."""

    def flag(*names: str) -> bool:
        return any(query.get(n, [""])[0].lower() in ("1", "true") for n in names)

    wants = streams.Wants(flag("input", "stdin"), flag("output", "stdout"), flag("error", "stderr"), flag("tty"))
    if not (wants.stdin or wants.stdout or wants.stderr):
        raise HttpError(400, "you must specify at least 1 of stdin, stdout, stderr")
    return wants


async def _accept(scope: Scope, send: Any, protocols: Sequence[str]) -> str | None:
    """The subprotocol chosen. Raises HttpError."""
    offered = scope.get("subprotocols") or []
    chosen = next((p for p in protocols if p in offered), None)
    if offered and chosen is None:
        raise HttpError(400, f"none of the subprotocols {list(offered)} is served; these are: {list(protocols)}")
    await send({"type": "websocket.accept", "subprotocol": chosen})
    return chosen


async def _disconnected(receive: Any) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _respond(send: Any, code: int, kind: bytes, body: bytes) -> None:
    await send({"type": "http.response.start", "status": code, "headers": [(b"content-type", kind), (b"content-length", str(len(body)).encode())]})
    await send({"type": "http.response.body", "body": body})


async def _refuse(scope: Scope, send: Any, code: int, message: str) -> None:
    """A Status document, which the API server hands on as it is."""
    known = {400: errors.BadRequest, 401: errors.Unauthorized, 403: errors.Forbidden}.get(code)
    error = known(message) if known is not None else errors.ApiError(message)
    body = orjson.dumps({**errors.to_status(error), "code": code, **({"reason": "NotFound"} if code == 404 else {})})
    if scope["type"] == "http":
        await _respond(send, code, JSON_TYPE, body)
        return
    headers = [(b"content-type", JSON_TYPE), (b"content-length", str(len(body)).encode())]
    await send({"type": "websocket.http.response.start", "status": code, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": body})
