"""A small real node server for tests of the API server alone: TLS that lets in the API server's certificate only, logs as chunked text, exec and attach as WebSocket channels
that run the command on this machine. `python -m tests.e2e.node_server PKI` prints its port and serves until killed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import sys
from urllib.parse import parse_qs

import uvicorn

LINES = [f"line {n}" for n in range(1, 6)]
STDIN, STDOUT, STDERR, ERROR, RESIZE, CLOSE = 0, 1, 2, 3, 4, 255


async def app(scope, receive, send):
    query = parse_qs(scope["query_string"].decode())
    parts = scope["path"].split("/")
    if scope["type"] == "websocket" and parts[1] == "portForward":
        await forward(scope, receive, send, int(query["ports"][0]))
    elif scope["type"] == "websocket":
        await execute(scope, receive, send, parts[1], query)
    elif parts[1] == "containerLogs":
        await logs(receive, send, parts, query)
    else:
        await answer(send, 404, b"404 page not found")


async def answer(send, status, body, more=False):
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": body, "more_body": more})


async def logs(receive, send, parts, query):
    if parts[4] == "waiting":
        await answer(send, 400, f'container "waiting" in pod "{parts[3]}" is waiting to start: ContainerCreating'.encode())
        return
    lines = LINES[-int(query["tailLines"][0]) :] if "tailLines" in query else LINES
    await answer(send, 200, "".join(line + "\n" for line in lines).encode(), more=True)
    if "follow" in query:
        for n in range(6, 9):
            await send({"type": "http.response.body", "body": f"line {n}\n".encode(), "more_body": True})
            await asyncio.sleep(0.05)
        if parts[4] == "endless":
            while (await receive())["type"] != "http.disconnect":
                pass
            print("left", flush=True)
            return
    await send({"type": "http.response.body", "body": b""})


async def execute(scope, receive, send, what, query):
    await receive()
    protocol = next((p for p in ("v5.channel.k8s.io", "v4.channel.k8s.io") if p in scope["subprotocols"]), None)
    if protocol is None:
        await send({"type": "websocket.close", "code": 1002})
        return
    await send({"type": "websocket.accept", "subprotocol": protocol})
    command = query["command"] if what == "exec" else ["cat"]
    pipes = {"stdin": asyncio.subprocess.PIPE if "input" in query else asyncio.subprocess.DEVNULL, "stdout": asyncio.subprocess.PIPE, "stderr": asyncio.subprocess.PIPE}
    status = {"metadata": {}, "status": "Success"}
    try:
        process = await asyncio.create_subprocess_exec(*command, **pipes)
    except OSError as err:
        status = {"metadata": {}, "status": "Failure", "reason": "InternalError", "message": f"cannot execute {command[0]}: {err.strerror}"}
    else:
        reading = asyncio.ensure_future(feed(process, receive))
        await asyncio.gather(pump(process.stdout, STDOUT, send), pump(process.stderr, STDERR, send))
        code = await process.wait()
        reading.cancel()
        if code:
            causes = [{"reason": "ExitCode", "message": str(code)}]
            message = f"command terminated with non-zero exit code: exit status {code}"
            status = {"metadata": {}, "status": "Failure", "reason": "NonZeroExitCode", "message": message, "details": {"causes": causes}}
    with contextlib.suppress(Exception):
        await send({"type": "websocket.send", "bytes": bytes((ERROR,)) + json.dumps(status).encode()})
        await send({"type": "websocket.close", "code": 1000})


async def forward(scope, receive, send, port):
    """One port: channel 0 data, 1 error, each begun by the port's two bytes; each direction ends with `255 0`, both ended end the WebSocket."""
    await receive()
    await send({"type": "websocket.accept", "subprotocol": "half-close.portforward.minik"})
    for channel in (0, 1):
        await send({"type": "websocket.send", "bytes": bytes((channel,)) + port.to_bytes(2, "little")})
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError as err:
        await send({"type": "websocket.send", "bytes": bytes((1,)) + f"failed to connect to port {port}: {err.strerror}".encode()})
    else:
        inward = asyncio.ensure_future(to_socket(writer, receive))
        await pump(reader, 0, send)
        await send({"type": "websocket.send", "bytes": bytes((CLOSE, 0))})
        await inward
        writer.close()
    with contextlib.suppress(Exception):
        await send({"type": "websocket.close", "code": 1000})


async def to_socket(writer, receive):
    while (message := await receive())["type"] == "websocket.receive":
        data = message["bytes"]
        if data[0] == CLOSE:
            with contextlib.suppress(OSError):
                writer.write_eof()
            return
        if data[0] == 0:
            writer.write(data[1:])
            await writer.drain()


async def pump(stream, channel, send):
    while data := await stream.read(32768):
        await send({"type": "websocket.send", "bytes": bytes((channel,)) + data})


async def feed(process, receive):
    while (message := await receive())["type"] == "websocket.receive":
        data = message["bytes"]
        if data[0] == STDIN and process.stdin is not None:
            process.stdin.write(data[1:])
            await process.stdin.drain()
        elif data[0] == CLOSE and process.stdin is not None:
            process.stdin.close()
    with contextlib.suppress(ProcessLookupError):
        process.kill()


class Server(uvicorn.Server):
    async def startup(self, sockets=None):
        await super().startup(sockets)
        print(self.servers[0].sockets[0].getsockname()[1], flush=True)


if __name__ == "__main__":
    pki = sys.argv[1]
    config = uvicorn.Config(
        app, "127.0.0.1", 0, ssl_certfile=f"{pki}/kubelet.crt", ssl_keyfile=f"{pki}/kubelet.key", ssl_ca_certs=f"{pki}/ca.crt", ssl_cert_reqs=ssl.CERT_REQUIRED,
        ws="websockets-sansio", ws_per_message_deflate=False, log_level="warning", lifespan="off",
    )  # fmt: skip
    Server(config).run()
