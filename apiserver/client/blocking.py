"""The CLI's client: the same verbs as client.Client, blocking, over http.client on one kept-alive connection. Imports nothing heavy before it is used.

Shares requests.py with the asyncio client. `stream` lends the socket's bytes for logs and watches, `upgrade` the bare socket for exec, attach and port-forward.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from apiserver.client import requests
from apiserver.client.config import ClientConfig
from apiserver.client.requests import Query, Request, Response, ServerUnreachable

if TYPE_CHECKING:
    import http.client
    import ssl

    from apiserver.api.kinds import Resource

__all__ = ["BlockingClient"]

Obj = dict[str, Any]


class BlockingClient:
    """`timeout_s` is per socket operation. Not for use by several threads at once. `sleep` waits between retries."""

    def __init__(self, config: ClientConfig, *, timeout_s: float = 30.0, sleep: Callable[[float], None] = time.sleep) -> None:
        self.config, self.timeout_s = config, timeout_s
        self._sleep = sleep
        self._address = config.address
        self._connection: http.client.HTTPConnection | None = None
        self._context: ssl.SSLContext | None = None

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def __enter__(self) -> BlockingClient:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # raw
    def request(
        self, method: str, path: str, *, query: Query | None = None, body: bytes | Obj | None = None, content_type: str = requests.JSON, accept: str = requests.JSON
    ) -> Response:
        """The answer of a status below 400; others are raised as apiserver.api.errors."""
        request = requests.build(method, path, query=query, body=_encode(body), content_type=content_type, accept=accept)
        attempt = 0
        while True:
            response = self._once(request)
            if response.status < 400:
                return response
            wait_s = requests.retry_after_s(response, attempt)
            if wait_s is None:
                raise requests.decode_error(response)
            attempt += 1
            self._sleep(wait_s)

    def _once(self, request: Request) -> Response:
        reused = self._connection is not None
        try:
            answer = self._exchange(request)
            return Response(answer.status, {k.lower(): v for k, v in answer.headers.items()}, answer.read())
        except ServerUnreachable as e:
            if reused and e.sent and request.method in requests.IDEMPOTENT:
                return self._once(request)
            raise
        except OSError as e:
            self.close()
            raise ServerUnreachable(self.config.server, _text(e), sent=True) from None

    def _exchange(self, request: Request) -> http.client.HTTPResponse:
        import http.client

        if self._connection is None or self._connection.sock is None:  # the server may have closed it behind its last answer
            self._connection = self._connect()
        connection = self._connection
        try:
            connection.request(request.method, self.config.path_prefix + request.target, request.body or None, self._headers(request))
            return connection.getresponse()
        except (OSError, http.client.HTTPException) as e:
            self.close()
            raise ServerUnreachable(self.config.server, _text(e), sent=True) from None

    def _headers(self, request: Request) -> dict[str, str]:
        headers = {"User-Agent": "minikctl", **dict(request.headers)}
        token = self.config.token
        if not token and self.config.token_file:
            with open(self.config.token_file) as f:
                token = f.read().strip()
        if token:
            headers["Authorization"] = f"Bearer {token}"
        if request.body or request.method in ("POST", "PUT", "PATCH"):
            headers["Content-Length"] = str(len(request.body))
        return headers

    def _connect(self) -> http.client.HTTPConnection:
        import http.client

        connection = http.client.HTTPConnection(*self._address, timeout=self.timeout_s)
        connection.sock = self._socket()
        return connection

    def _socket(self) -> socket.socket:
        try:
            sock = socket.create_connection(self._address, timeout=self.timeout_s)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.config.secure:
                self._context = self._context or self.config.ssl_context()
                assert self._context is not None
                try:
                    return self._context.wrap_socket(sock, server_hostname=self.config.server_hostname)
                except BaseException:
                    sock.close()
                    raise
            return sock
        except OSError as e:
            raise ServerUnreachable(self.config.server, _text(e)) from None

    def stream(self, method: str, path: str, *, query: Query | None = None, body: bytes | Obj | None = None, accept: str = requests.JSON) -> Iterator[bytes]:
        """Chunks as they arrive, without a timeout between them. The connection is its own, and closed with the iterator. Raises the Status at once."""
        own = BlockingClient(self.config, timeout_s=self.timeout_s)
        answer = own._exchange(requests.build(method, path, query=query, body=_encode(body), accept=accept))
        if answer.status >= 400:
            data = answer.read()
            own.close()
            raise requests.decode_error(Response(answer.status, {}, data))
        if own._connection is not None and own._connection.sock is not None:
            own._connection.sock.settimeout(None)
        return _chunks(own, answer)

    def upgrade(self, path: str, *, query: Query | None = None, headers: Mapping[str, str] | None = None) -> tuple[socket.socket, dict[str, str], bytes]:
        """GET with the given Upgrade headers on a connection of its own: (socket, answer's headers, bytes read behind the head). Raises the Status of a refusal."""
        request = requests.build("GET", path, query=query)
        lines = {"Host": self.config.host_header, **self._headers(request), **(headers or {})}
        head = f"GET {self.config.path_prefix}{request.target} HTTP/1.1\r\n" + "".join(f"{k}: {v}\r\n" for k, v in lines.items()) + "\r\n"
        sock = self._socket()
        try:
            sock.sendall(head.encode("latin-1"))
            raw = b""
            while b"\r\n\r\n" not in raw:
                data = sock.recv(65536)
                if not data:
                    raise ConnectionResetError("connection closed by the server")
                raw += data
            top, _, rest = raw.partition(b"\r\n\r\n")
            status_line, *rows = top.decode("latin-1").split("\r\n")
            answer = {k.strip().lower(): v.strip() for k, _, v in (row.partition(":") for row in rows)}
            status = int(status_line.split(" ", 2)[1])
            if status != 101:
                while len(rest) < int(answer.get("content-length", "0")) and (data := sock.recv(65536)):
                    rest += data
                raise requests.decode_error(Response(status, answer, _dechunk(rest) if "chunked" in answer.get("transfer-encoding", "") else rest))
        except (OSError, ValueError, IndexError) as e:
            sock.close()
            raise ServerUnreachable(self.config.server, _text(e), sent=True) from None
        except BaseException:
            sock.close()
            raise
        return sock, answer, rest

    # verbs
    def get(self, resource: Resource, name: str, namespace: str = "", *, subresource: str = "", accept: str = requests.JSON) -> Obj:
        return self.request("GET", requests.path_for(resource, namespace, name, subresource), accept=accept).json()

    def list(
        self,
        resource: Resource,
        namespace: str = "",
        *,
        label_selector: str = "",
        field_selector: str = "",
        limit: int = 0,
        resource_version: str = "",
        continue_token: str = "",
        accept: str = requests.JSON,
    ) -> Obj:
        query = requests.list_query(label_selector=label_selector, field_selector=field_selector, limit=limit, resource_version=resource_version, continue_token=continue_token)
        return self.request("GET", requests.path_for(resource, namespace), query=query, accept=accept).json()

    def create(self, resource: Resource, obj: Mapping[str, Any], namespace: str = "", *, name: str = "", subresource: str = "", query: Query | None = None) -> Obj:
        path = requests.path_for(resource, namespace or _namespace(obj), name, subresource)
        return self.request("POST", path, query=query, body=_encode(obj)).json()

    def update(self, resource: Resource, obj: Mapping[str, Any], namespace: str = "", *, subresource: str = "", query: Query | None = None) -> Obj:
        path = requests.path_for(resource, namespace or _namespace(obj), obj["metadata"]["name"], subresource)
        return self.request("PUT", path, query=query, body=_encode(obj)).json()

    def patch(self, resource: Resource, name: str, patch: Any, namespace: str = "", *, type: str = "merge", subresource: str = "", query: Query | None = None) -> Obj:
        path = requests.path_for(resource, namespace, name, subresource)
        return self.request("PATCH", path, query=query, body=json.dumps(patch).encode(), content_type=requests.PATCH_TYPES[type]).json()

    def delete(self, resource: Resource, name: str, namespace: str = "", options: Mapping[str, Any] | None = None) -> Obj:
        body = json.dumps({"kind": "DeleteOptions", "apiVersion": "v1", **options}).encode() if options else None
        return self.request("DELETE", requests.path_for(resource, namespace, name), body=body).json()

    def watch(
        self,
        resource: Resource,
        namespace: str = "",
        *,
        label_selector: str = "",
        field_selector: str = "",
        resource_version: str = "",
        timeout_s: int = 0,
        bookmarks: bool = False,
        accept: str = requests.JSON,
    ) -> Iterator[tuple[str, Obj]]:
        """(type, object), objects as `accept` has them. An ERROR event is raised."""
        query = requests.watch_query(
            resource_version=resource_version, label_selector=label_selector, field_selector=field_selector, timeout_s=timeout_s, bookmarks=bookmarks
        )
        rest = b""
        for chunk in self.stream("GET", requests.path_for(resource, namespace), query=query, accept=accept):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                event = json.loads(line)
                if event["type"] == "ERROR":
                    raise requests.decode_error(Response(event["object"].get("code", 500), {}, json.dumps(event["object"]).encode()))
                yield event["type"], event["object"]


def _chunks(client: BlockingClient, answer: http.client.HTTPResponse) -> Iterator[bytes]:
    import http.client

    try:
        while data := answer.read1(65536):
            yield data
    except (OSError, http.client.HTTPException) as e:
        raise ServerUnreachable(client.config.server, _text(e), sent=True) from None
    finally:
        client.close()


def _encode(body: Any) -> bytes | None:
    return body if body is None or isinstance(body, bytes) else json.dumps(body).encode()


def _namespace(obj: Mapping[str, Any]) -> str:
    return (obj.get("metadata") or {}).get("namespace", "")


def _dechunk(data: bytes) -> bytes:
    out = b""
    while data:
        size, _, rest = data.partition(b"\r\n")
        n = int(size.split(b";")[0] or b"0", 16)
        if not n:
            break
        out, data = out + rest[:n], rest[n + 2 :]
    return out


def _text(error: BaseException) -> str:
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    if isinstance(error, TimeoutError):
        return "connection timed out"
    verify = getattr(error, "verify_message", "")
    return f"its certificate does not verify: {verify}" if verify else getattr(error, "strerror", None) or str(error) or type(error).__name__
