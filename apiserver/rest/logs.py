"""pods/log and nodes/proxy: asked of the node's server, streamed through as it comes, one piece in flight (a slow reader slows the node's sending). Owns the choice of the container
and Kubernetes' words where there is none to ask."""

from __future__ import annotations

import asyncio

import orjson

from apiserver.api import errors, kinds
from apiserver.client.http11 import HttpStream
from apiserver.rest import bodies
from apiserver.rest.nodes import Address, NodeConnector
from apiserver.rest.request import Request

_LOG_PARAMETERS = ("follow", "limitBytes", "previous", "sinceSeconds", "sinceTime", "stream", "tailLines", "timestamps")
_MAX_ERROR_BYTES = 65536


async def find_pod(request: Request) -> dict:
    """As new as the store: a log is often asked for right after the pod was made. Raises NotFound."""
    await request.app.cache.fresh()
    entry = request.app.cache.get(kinds.PODS.key(request.namespace, request.name))
    if entry is None:
        raise errors.NotFound(kinds.PODS, request.name)
    return entry.obj


def choose_container(pod: dict, wanted: str, *, need_running: bool = False) -> str:
    """The container asked for, or the only one. Raises BadRequest with Kubernetes' texts."""
    spec, name = pod.get("spec") or {}, pod["metadata"]["name"]
    regular, init, ephemeral = ([c["name"] for c in spec.get(field) or ()] for field in ("containers", "initContainers", "ephemeralContainers"))
    if wanted:
        if wanted not in (*regular, *init, *ephemeral):
            raise errors.BadRequest(f"container {wanted} is not valid for pod {name}")
        return wanted
    annotated: str = (pod["metadata"].get("annotations") or {}).get("kubectl.kubernetes.io/default-container", "")
    if need_running and annotated in regular:
        return annotated
    if len(regular) == 1 and (need_running or not init):
        return regular[0]
    more = f" or one of the init containers: [{' '.join(init)}]" if init else ""
    if len(regular) == 1:
        return regular[0]
    raise errors.BadRequest(f"a container name must be specified for pod {name}, choose one of: [{' '.join(regular)}]{more}")


def locate(request: Request, pod: dict) -> tuple[NodeConnector, Address]:
    """Raises BadRequest for a pod without a node, NotFound, Unavailable."""
    node = (pod.get("spec") or {}).get("nodeName", "")
    if not node:
        raise errors.BadRequest(f"pod {pod['metadata']['name']} does not have a host assigned")
    connector = request.app.nodes
    if connector is None:
        raise errors.Unavailable("this API server has no client certificate for nodes")
    return connector, connector.find(node)


async def log(request: Request) -> None:
    pod = await find_pod(request)
    container = choose_container(pod, request.param("container"))
    for name in ("limitBytes", "sinceSeconds", "tailLines"):
        request.number(name)
    query = [(name, request.param(name)) for name in _LOG_PARAMETERS if request.query.get(name)]
    connector, address = locate(request, pod)
    await _relay(request, connector, address, f"/containerLogs/{request.namespace}/{request.name}/{container}", query)


async def node_proxy(request: Request) -> None:
    """GET /api/v1/nodes/<name>/proxy/<path>: metrics and health of a node, for whoever may."""
    assert request.target is not None
    connector = request.app.nodes
    if connector is None:
        raise errors.Unavailable("this API server has no client certificate for nodes")
    address = connector.find(request.name)
    await _relay(request, connector, address, f"/{request.target.subpath}", [(name, value) for name, values in request.query.items() for value in values])


async def _relay(request: Request, connector: NodeConnector, address: Address, path: str, query: list[tuple[str, str]]) -> None:
    transport, stream = await connector.stream(address, request.method, path, query, await bodies.read(request))
    leaving = _Leaving(request, stream)
    try:
        if stream.status >= 400:
            raise await _error(stream)
        content_type = stream.headers.get("content-type", "text/plain").encode("latin-1")
        await request.send({"type": "http.response.start", "status": stream.status, "headers": [(b"content-type", content_type), (b"cache-control", b"no-cache, private")]})
        await request.send({"type": "http.response.body", "body": b"", "more_body": True})
        while data := await stream.read():
            await request.send({"type": "http.response.body", "body": data, "more_body": True})
        await request.send({"type": "http.response.body", "body": b""})
    except errors.Unavailable:
        if not leaving.left:
            raise
    finally:
        leaving.done()
        await stream.aclose()
        await transport.close()


class _Leaving:
    """Hangs up on the node when the client leaves: the handler may be waiting for a log line that never comes. `left` tells why reading failed then."""

    def __init__(self, request: Request, stream: HttpStream) -> None:
        self.left = False
        self._connection, self._stream = request.connection, stream
        self._closing: asyncio.Task[None] | None = None
        self._app = request.app
        self._app.streams.add(self.hang_up)
        if self._connection is not None:
            self._connection.on_lost = self.hang_up

    def hang_up(self) -> None:
        self.left = True
        self._closing = asyncio.ensure_future(self._stream.aclose())

    def done(self) -> None:
        self._app.streams.discard(self.hang_up)
        if self._connection is not None:
            self._connection.on_lost = None


async def _error(stream: HttpStream) -> errors.ApiError:
    body = b""
    while len(body) < _MAX_ERROR_BYTES and (data := await stream.read()):
        body += data
    return parse_refusal(stream.status, body)


def parse_refusal(code: int, body: bytes) -> errors.ApiError:
    """A node's answer of 400 and above: its Status, or its text under the same code."""
    try:
        status = orjson.loads(body)
    except ValueError:
        status = None
    if isinstance(status, dict) and status.get("kind") == "Status":
        return errors.from_status(status)
    if code == 401:
        code = 500  # our own credentials failed, not the client's
    reasons = {400: "BadRequest", 403: "Forbidden", 404: "NotFound", 405: "MethodNotAllowed"}
    text = body.decode(errors="replace").strip() or f"the node's server answered {code}"
    return errors.from_status({"reason": reasons.get(code, "InternalError"), "code": code, "message": text})
