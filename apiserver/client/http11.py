"""HTTP/1.1 over asyncio: a keep-alive pool of connections parsed by httptools. Serves one server, any number of requests and streams at once.

Refuses everything a Kubernetes API server does not send: redirects, HTTP/2, content encodings. No retries except one: a read that met a kept-alive
connection which the server was just closing goes out again on a fresh one. Used by client.Client.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import deque
from typing import cast

import httptools

from apiserver.api import errors
from apiserver.client.config import ClientConfig, ConfigError
from apiserver.client.requests import IDEMPOTENT, Request, Response, ServerUnreachable

__all__ = ["HttpTransport"]

HIGH_WATER_BYTES = 4 << 20
IDLE_WRITE_S = 3.0
CONNECT_TIMEOUT_S = 10.0


class Connection(asyncio.Protocol):
    """One socket. At most one exchange at a time; its body is collected (`read_all`) or handed on in pieces (`read`)."""

    def __init__(self, transport_of: HttpTransport) -> None:
        self.pool = transport_of
        self.loop = asyncio.get_running_loop()
        self.transport: asyncio.Transport | None = None
        self.idle_since = 0.0
        self.closed = False
        self.used = False
        self._reset()

    def _reset(self) -> None:
        self.parser = httptools.HttpResponseParser(self)
        self.status = 0
        self.headers: dict[str, str] = {}
        self.chunks: list[bytes] = []
        self.size = 0
        self.streaming = False
        self.paused = False
        self.head_done = False
        self.complete = False
        self.keep_alive = False
        self.error: Exception | None = None
        self.waiter: asyncio.Future[None] | None = None
        self.wants_head = False

    # asyncio.Protocol
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's over TLS is one in all but its class

    def data_received(self, data: bytes) -> None:
        if self.complete or self.closed:
            self.abort()  # bytes that no request asked for
            return
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._fail(ConnectionError("the server switched protocols unasked"))
        except httptools.HttpParserError as e:
            self._fail(ConnectionError(f"not an HTTP answer: {e}"))
        if self.streaming and not self.paused and self.size > HIGH_WATER_BYTES and self.transport is not None:
            self.paused = True
            self.transport.pause_reading()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self.pool.forget(self)
        if not self.complete:
            if self.head_done and not {"content-length", "transfer-encoding"} & self.headers.keys():
                self.complete = True  # a body that ends with the connection
            else:
                self.error = self.error or exc or ConnectionResetError("connection closed by the server")
        self._wake()

    # httptools callbacks
    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self.status = self.parser.get_status_code()
        if self.status >= 200:
            self.head_done = True
            if self.wants_head:
                self._wake()

    def on_body(self, data: bytes) -> None:
        self.chunks.append(data)
        self.size += len(data)
        if self.streaming:
            self._wake()

    def on_message_complete(self) -> None:
        if not self.head_done:  # 100 Continue and other interim answers
            self.headers.clear()
            return
        self.keep_alive = self.parser.should_keep_alive()
        self.complete = True
        self._wake()

    def _fail(self, error: Exception) -> None:
        self.error = error
        self.abort()
        self._wake()

    def _wake(self) -> None:
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)

    async def _wait(self) -> None:
        self.waiter = self.loop.create_future()
        try:
            await self.waiter
        finally:
            self.waiter = None

    # exchanges
    def send(self, data: bytes) -> None:
        if self.used:
            self._reset()
        self.used = True
        assert self.transport is not None
        self.transport.write(data)

    async def read_all(self) -> Response:
        while not self.complete:
            if self.error is not None:
                raise self.error
            await self._wait()
        body = self.chunks[0] if len(self.chunks) == 1 else b"".join(self.chunks)
        self.chunks = []
        return Response(self.status, self.headers, body)

    async def read_head(self) -> None:
        self.wants_head = True
        while not self.head_done:
            if self.error is not None:
                raise self.error
            await self._wait()
        self.wants_head = False
        self.streaming = True

    async def read_some(self) -> bytes:
        while not self.chunks:
            if self.complete:
                return b""
            if self.error is not None:
                raise self.error
            await self._wait()
        data = self.chunks[0] if len(self.chunks) == 1 else b"".join(self.chunks)
        self.chunks, self.size = [], 0
        if self.paused and self.transport is not None:
            self.paused = False
            self.transport.resume_reading()
        return data

    def abort(self) -> None:
        self.closed = True
        if self.transport is not None:
            self.transport.abort()


class HttpStream:
    """transport.Stream over one connection of its own; a body read to its end gives the connection back."""

    def __init__(self, pool: HttpTransport, connection: Connection) -> None:
        self._pool, self._connection = pool, connection
        self.status, self.headers = connection.status, connection.headers

    async def read(self) -> bytes:
        try:
            return await self._connection.read_some()
        except (OSError, ssl.SSLError) as e:
            raise ServerUnreachable(self._pool.server, e, sent=True) from e

    async def aclose(self) -> None:
        if self._connection.complete and not self._connection.chunks:
            self._pool.give_back(self._connection)
        else:
            self._connection.abort()


class HttpTransport:
    """transport.Transport to `config.server`. `max_in_flight` bounds plain requests; streams come on top."""

    def __init__(self, config: ClientConfig, *, max_in_flight: int = 64) -> None:
        self.config = config
        self.server = config.server
        self._address = config.address
        self._context: ssl.SSLContext | None = None
        self._idle: deque[Connection] = deque()
        self._all: set[Connection] = set()
        self._slots, self._max_idle = asyncio.Semaphore(max_in_flight), max_in_flight
        self._head = f"host: {config.host_header}\r\nuser-agent: minik\r\n"
        self._prefix = config.path_prefix
        self._token, self._token_until = config.token, float("inf") if config.token or not config.token_file else 0.0

    async def request(self, request: Request, timeout_s: float) -> Response:
        try:
            async with asyncio.timeout(timeout_s), self._slots:
                return await self._exchange(request)
        except TimeoutError:
            raise errors.Timeout(f"{request.method} {request.target.partition('?')[0]}: no answer from {self.server} within {timeout_s:g} s") from None

    async def _exchange(self, request: Request) -> Response:
        data = self._serialize(request)
        retryable = request.method in IDEMPOTENT
        for fresh in (False, True):
            connection, reused = await self._connection(request.method, fresh=fresh)
            try:
                connection.send(data)
                response = await connection.read_all()
            except (OSError, ssl.SSLError) as e:
                connection.abort()
                if reused and retryable and not connection.head_done:
                    continue
                raise ServerUnreachable(self.server, _text(e), sent=True) from e
            except BaseException:
                connection.abort()
                raise
            self.give_back(connection)
            return response
        raise AssertionError("a fresh connection is never a reused one")

    async def stream(self, request: Request, timeout_s: float) -> HttpStream:
        try:
            async with asyncio.timeout(timeout_s):
                connection, _ = await self._connection(request.method, fresh=True)
                try:
                    connection.send(self._serialize(request))
                    await connection.read_head()
                except (OSError, ssl.SSLError) as e:
                    raise ServerUnreachable(self.server, _text(e), sent=True) from e
                except BaseException:
                    connection.abort()
                    raise
        except TimeoutError:
            raise errors.Timeout(f"{request.method} {request.target.partition('?')[0]}: no answer from {self.server} within {timeout_s:g} s") from None
        return HttpStream(self, connection)

    async def close(self) -> None:
        for connection in list(self._all):
            connection.abort()
        self._idle.clear()
        await asyncio.sleep(0)

    def _serialize(self, request: Request) -> bytes:
        lines = [f"{request.method} {self._prefix}{request.target} HTTP/1.1\r\n{self._head}"]
        token = self._bearer_token()
        if token:
            lines.append(f"authorization: Bearer {token}\r\n")
        lines += [f"{name}: {value}\r\n" for name, value in request.headers]
        if request.body or request.method not in IDEMPOTENT:
            lines.append(f"content-length: {len(request.body)}\r\n")
        return "".join(lines).encode("latin-1") + b"\r\n" + request.body

    def _bearer_token(self) -> str:
        now = asyncio.get_running_loop().time()
        if now >= self._token_until:
            try:
                with open(self.config.token_file) as f:
                    self._token = f.read().strip()
            except OSError as e:
                raise ConfigError(f"cannot read {self.config.token_file}: {e.strerror}") from e
            self._token_until = now + 60
        return self._token

    async def _connection(self, method: str, *, fresh: bool) -> tuple[Connection, bool]:
        """A connection, and whether it served before. A write takes no connection that has been idle long enough for the server to be closing it."""
        now = asyncio.get_running_loop().time()
        while self._idle and not fresh:
            connection = self._idle.pop()
            if connection.closed:
                continue
            if method not in IDEMPOTENT and now - connection.idle_since > IDLE_WRITE_S:
                connection.abort()
                continue
            return connection, True
        return await self._connect(), False

    async def _connect(self) -> Connection:
        loop = asyncio.get_running_loop()
        host, port = self._address
        if self.config.secure and self._context is None:
            self._context = self.config.ssl_context()
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                transport, connection = await loop.create_connection(
                    lambda: Connection(self), host, port, ssl=self._context, server_hostname=self.config.server_hostname if self._context else None
                )
        except TimeoutError:
            raise ServerUnreachable(self.server, "connection timed out") from None
        except (OSError, ssl.SSLError, ssl.CertificateError) as e:
            raise ServerUnreachable(self.server, _text(e)) from e
        sock = transport.get_extra_info("socket")
        if sock is not None:
            # A peer that vanished without a word (power, a cut link) is noticed within 30 s also on a silent watch.
            for option, value in ((socket.TCP_KEEPIDLE, 15), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 3), (socket.TCP_USER_TIMEOUT, 30_000), (socket.TCP_NODELAY, 1)):
                sock.setsockopt(socket.IPPROTO_TCP, option, value)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._all.add(connection)
        return connection

    def give_back(self, connection: Connection) -> None:
        if connection.closed or not connection.keep_alive or len(self._idle) >= self._max_idle:
            connection.abort()
            return
        connection.idle_since = asyncio.get_running_loop().time()
        self._idle.append(connection)

    def forget(self, connection: Connection) -> None:
        self._all.discard(connection)


def _text(error: BaseException) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate does not verify: {error.verify_message}"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
