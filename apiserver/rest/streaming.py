"""pods/exec, attach and portforward: an Upgrade from the client, an Upgrade to the node's server, then bytes. A WebSocket is relayed byte for byte, as the node understands what
the client speaks; SPDY/3.1 (kubectl ≤ 1.30, and later ones as fallback) is translated by spdystreams.py and,
for port-forward, portforward.py. Owns the query parameters and the copying."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from apiserver.api import errors
from apiserver.rest import logs, nodes, portforward, spdystreams, websocket
from apiserver.rest.connection import Takeover
from apiserver.rest.request import Request

if TYPE_CHECKING:
    from websockets.asyncio.client import ClientConnection

_FORWARDED = (b"sec-websocket-key", b"sec-websocket-version", b"sec-websocket-protocol")
_STREAMS = (("stdin", "input"), ("stdout", "output"), ("stderr", "error"), ("tty", "tty"))
_PIECE_BYTES = 1 << 16


async def connect(request: Request) -> None:
    """Raises BadRequest for a request that is no Upgrade or names no stream, and what finding the pod and its node raises; after the Upgrade, errors are the protocol's."""
    spdy, web = websocket.is_upgrade(request, b"spdy/3.1"), websocket.is_upgrade(request, b"websocket")
    pod = await logs.find_pod(request)
    target = _target(request, pod)
    connector, address = logs.locate(request, pod)
    if request.connection is None or not (spdy or web):
        raise errors.BadRequest("Upgrade request required")
    tunnelled = portforward.TUNNEL_PROTOCOL in request.header(b"sec-websocket-protocol")
    if request.target is not None and request.target.subresource == "portforward" and (spdy or tunnelled):
        await _forward_ports(request, connector, address, tunnelled=tunnelled)
        return
    if web:
        await _relay_websocket(request, connector, address, target)
        return
    async with spdystreams.opened(request, connector, address, target) as relay:
        await run(request, relay.run())


def _target(request: Request, pod: dict) -> str:
    """The path and query on the node. Raises BadRequest."""
    assert request.target is not None
    what = request.target.subresource
    if what == "portforward":
        return nodes.target_of(f"/portForward/{request.namespace}/{request.name}", [("ports", port) for port in request.query.get("ports", [])])
    container = logs.choose_container(pod, request.param("container"), need_running=True)
    query = [("command", part) for part in request.query.get("command", [])] if what == "exec" else []
    if what == "exec" and not query:
        raise errors.BadRequest("you must specify at least one command for the container")
    wanted = [(theirs, "1") for ours, theirs in _STREAMS if request.flag(ours)]
    if not any(name != "tty" for name, _ in wanted):
        raise errors.BadRequest("you must specify at least 1 of stdin, stdout, stderr")
    return nodes.target_of(f"/{what}/{request.namespace}/{request.name}/{container}", query + wanted)


async def _relay_websocket(request: Request, connector: nodes.NodeConnector, address: nodes.Address, target: str) -> None:
    headers = [(b"connection", b"Upgrade"), (b"upgrade", b"websocket")]
    for name in _FORWARDED:
        value = request.headers.get(name, b"")
        if name == b"sec-websocket-protocol":
            value = b", ".join(part.strip() for part in value.split(b",") if b"bearer.authorization.k8s.io" not in part)
        if value:
            headers.append((name, value))
    node = await connector.upgrade(address, target, headers)
    if node.status != 101:
        raise await refusal(node)
    assert request.connection is not None
    client = request.connection.take_over()
    client.write(node.head)
    await run(request, copy(client, node))


async def _forward_ports(request: Request, connector: nodes.NodeConnector, address: nodes.Address, *, tunnelled: bool) -> None:
    path = f"/portForward/{request.namespace}/{request.name}"

    async def dial(port: int) -> ClientConnection:
        return await spdystreams.connect(connector, address, nodes.target_of(path, [("ports", str(port))]), portforward.NODE_PROTOCOLS)

    if tunnelled:
        client: portforward.Tunnel = portforward.WebSocketTunnel(websocket.WebSocket.accept(request, (portforward.TUNNEL_PROTOCOL,)))
    else:
        client = spdystreams.switch(request, spdystreams.choose_protocol(request, (portforward.SPDY_PROTOCOL,)))
    await run(request, portforward.Forwarder(client, dial).run())


async def refusal(node: nodes.RawConnection) -> errors.ApiError:
    """The node's answer to an Upgrade that it does not want, as an error. Closes the connection."""
    try:
        async with asyncio.timeout(5):
            body = await node.reader.read(_PIECE_BYTES)
    except (OSError, TimeoutError):
        body = b""
    finally:
        node.close()
    return logs.parse_refusal(node.status, body)


async def run(request: Request, copying: Coroutine[Any, Any, None]) -> None:
    """Runs the copying in a task of its own, which the server's stop may cancel without breaking the request."""
    task: asyncio.Task[None] = asyncio.ensure_future(copying)
    request.app.relays.add(task)
    try:
        await asyncio.wait([task])
    finally:
        request.app.relays.discard(task)
        task.cancel()
    if not task.cancelled() and (err := task.exception()) is not None and not isinstance(err, OSError | asyncio.IncompleteReadError):
        raise err


async def copy(client: Takeover, node: nodes.RawConnection) -> None:
    """Both ways until either side ends; each direction waits for its reader."""

    async def to_node() -> None:
        while data := await client.read():
            node.writer.write(data)
            await node.writer.drain()

    async def to_client() -> None:
        while data := await node.reader.read(_PIECE_BYTES):
            client.write(data)
            await client.drain()

    tasks = [asyncio.ensure_future(to_node()), asyncio.ensure_future(to_client())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        node.close()
        client.close()
