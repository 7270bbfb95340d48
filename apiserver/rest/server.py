"""The listening side: socket (inherited or bound), TLS, uvicorn's server on our event loop. Owns start and graceful stop of serving; knows nothing of what is served.
apiserver/__main__ calls it."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Callable
from typing import Any

import uvicorn

from apiserver.rest.connection import Connection

SD_LISTEN_FDS_START = 3
KEEP_ALIVE_S = 180
STOP_TIMEOUT_S = 5
_BACKLOG = 4096
_SWEEP_INTERVAL_S = 5.0


def inherited_socket(name: str, environ: dict[str, str], pid: int) -> socket.socket | None:
    """The socket passed as `name` by sd_listen_fds(3)'s protocol, None if there is none for this process. A single unnamed one counts as well."""
    if environ.get("LISTEN_PID", str(pid)) != str(pid):
        return None
    count = int(environ.get("LISTEN_FDS") or 0)
    names = (environ.get("LISTEN_FDNAMES") or "").split(":")
    for index in range(count):
        if (index < len(names) and names[index] == name) or (count == 1 and names in ([""], ["unknown"])):
            fd = SD_LISTEN_FDS_START + index
            os.set_inheritable(fd, False)
            listening = socket.socket(fileno=fd)
            listening.setblocking(False)
            return listening
    return None


def bind(address: str, port: int) -> socket.socket:
    """Raises OSError."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((address, port))
        listening.listen(_BACKLOG)
        listening.setblocking(False)
    except OSError:
        listening.close()
        raise
    return listening


def tls_context(cert_file: str, key_file: str, client_ca_file: str) -> ssl.SSLContext:
    """TLS ≥ 1.2, HTTP/1.1; client certificates are asked for and, if given, must be signed by the client CA. Raises OSError, ssl.SSLError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(cert_file, key_file)
    context.set_alpn_protocols(["http/1.1"])
    if client_ca_file:
        context.load_verify_locations(client_ca_file)
        context.verify_mode = ssl.CERT_OPTIONAL
    return context


class Server(uvicorn.Server):
    """`run()` serves until `stop()`. `before_stop` ends what never ends by itself (watches, streams)."""

    def __init__(self, app: Any, context: ssl.SSLContext | None, before_stop: Callable[[], None]) -> None:
        config = uvicorn.Config(
            app, http=Connection, ws="none", loop="none", lifespan="off", interface="asgi3", log_config=None, access_log=False, proxy_headers=False, server_header=False,
            timeout_keep_alive=KEEP_ALIVE_S, timeout_graceful_shutdown=STOP_TIMEOUT_S, backlog=_BACKLOG,
        )  # fmt: skip
        config.load()
        config.ssl = context
        super().__init__(config)
        self._stop = asyncio.Event()
        self._before_stop = before_stop

    async def run_on(self, listening: list[socket.socket], on_started: Callable[[], None]) -> None:
        """Uvicorn's own serve(), but for its signal handlers: ours belong to __main__."""
        self.lifespan = self.config.lifespan_class(self.config)
        await self.on_tick(0)
        await self.startup(sockets=listening)
        on_started()
        await self.main_loop()
        self._before_stop()
        await self.shutdown(sockets=listening)

    def stop(self) -> None:
        self.should_exit = True
        self._stop.set()

    async def main_loop(self) -> None:
        """Once a second the Date header, now and then a look for connections that never say anything; asleep otherwise."""
        loop = asyncio.get_running_loop()
        next_sweep_s = loop.time() + _SWEEP_INTERVAL_S
        while not self.should_exit:
            await self.on_tick(0)
            now = loop.time()
            if now >= next_sweep_s:
                next_sweep_s = now + _SWEEP_INTERVAL_S
                for connection in list(self.server_state.connections):
                    if isinstance(connection, Connection):
                        connection.check_head(now)
            try:
                async with asyncio.timeout(1.0):
                    await self._stop.wait()
            except TimeoutError:
                pass
