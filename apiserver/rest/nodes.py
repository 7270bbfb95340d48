"""The way to a node's own HTTP server: where it listens (Node.status), TLS with the API server's client certificate, plain requests, streams and raw connections for upgrades.
Owns connections, no meaning: logs.py and streaming.py say what is asked."""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote, urlencode

from apiserver.api import errors, kinds
from apiserver.client.config import ClientConfig
from apiserver.client.http11 import HttpStream, HttpTransport
from apiserver.client.requests import Request, ServerUnreachable
from apiserver.store.cache import Cache

DEFAULT_PORT = 10250
CONNECT_TIMEOUT_S = 10.0
HEAD_TIMEOUT_S = 30.0
_ADDRESS_TYPES = ("InternalIP", "Hostname", "ExternalIP")
_MAX_HEAD_BYTES = 65536


@dataclass(frozen=True, slots=True)
class Address:
    host: str
    port: int

    @property
    def netloc(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def address_of(node: dict[str, Any]) -> Address:
    """Where the node's server listens. Raises Unavailable for a node that has not said so yet."""
    status = node.get("status") or {}
    by_type = {address.get("type"): address.get("address") for address in status.get("addresses") or ()}
    host = next((by_type[kind] for kind in _ADDRESS_TYPES if by_type.get(kind)), "")
    if not host:
        raise errors.Unavailable(f'node "{node["metadata"]["name"]}" has no address yet')
    port = ((status.get("daemonEndpoints") or {}).get("kubeletEndpoint") or {}).get("Port") or DEFAULT_PORT
    return Address(host, port)


class RawConnection:
    """A connection to a node after its answer to an Upgrade: `status`, `headers`, then bytes. `begun` is what came right behind the head."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, status: int, head: bytes) -> None:
        self.reader, self.writer, self.status, self.head = reader, writer, status, head

    def close(self) -> None:
        self.writer.close()


class NodeConnector:
    """`identity`: the API server's certificate for nodes, as ClientConfig fields (its `server` is ignored)."""

    def __init__(self, cache: Cache, identity: ClientConfig) -> None:
        self._cache, self._identity = cache, identity
        self._context: ssl.SSLContext | None = None

    def find(self, node_name: str) -> Address:
        """Raises NotFound, Unavailable."""
        entry = self._cache.get(kinds.NODES.key("", node_name))
        if entry is None:
            raise errors.NotFound(kinds.NODES, node_name)
        return address_of(entry.obj)

    async def stream(self, address: Address, method: str, path: str, query: list[tuple[str, str]], body: bytes = b"") -> tuple[HttpTransport, HttpStream]:
        """The head of the node's answer and its body as it comes; the caller closes both. Raises Unavailable, Timeout."""
        transport = HttpTransport(replace(self._identity, server=f"https://{address.netloc}"))
        try:
            return transport, await transport.stream(Request(method, target_of(path, query), (), body), HEAD_TIMEOUT_S)
        except ServerUnreachable as err:
            await transport.close()
            raise errors.Unavailable(f"cannot reach the node's server at {address.netloc}: {err.message}") from err
        except BaseException:
            await transport.close()
            raise

    def tls(self) -> ssl.SSLContext:
        if self._context is None:
            context = replace(self._identity, server="https://node").ssl_context()
            assert context is not None
            self._context = context
        return self._context

    async def upgrade(self, address: Address, target: str, headers: list[tuple[bytes, bytes]]) -> RawConnection:
        """Sends a GET with these headers and reads the head of the answer. Raises Unavailable, Timeout."""
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                reader, writer = await asyncio.open_connection(address.host, address.port, ssl=self.tls(), server_hostname=address.host, limit=_MAX_HEAD_BYTES)
        except TimeoutError:
            raise errors.Timeout(f"cannot reach the node's server at {address.netloc}: connection timed out") from None
        except (OSError, ssl.SSLError) as err:
            raise errors.Unavailable(f"cannot reach the node's server at {address.netloc}: {err}") from err
        try:
            lines = [f"GET {target} HTTP/1.1".encode(), f"host: {address.netloc}".encode(), *(name + b": " + value for name, value in headers), b"", b""]
            writer.write(b"\r\n".join(lines))
            async with asyncio.timeout(HEAD_TIMEOUT_S):
                head = await reader.readuntil(b"\r\n\r\n")
            return RawConnection(reader, writer, int(head[9:12]), head)
        except TimeoutError:
            writer.close()
            raise errors.Timeout(f"no answer from the node's server at {address.netloc}") from None
        except (OSError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as err:
            writer.close()
            raise errors.Unavailable(f"the node's server at {address.netloc} broke off: {err}") from err


def target_of(path: str, query: list[tuple[str, str]]) -> str:
    return f"{quote(path)}?{urlencode(query)}" if query else quote(path)
