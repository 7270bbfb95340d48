"""The boundary between the asyncio client and the wire: HTTP/1.1 over sockets (http11.py) or a call into an ASGI app of the same process (inprocess.py).

Transports know nothing of Kubernetes: no retries, no Status, no JSON. Failure to get an answer is requests.ServerUnreachable.
"""

from __future__ import annotations

from typing import Protocol

from apiserver.client.requests import Request, Response

__all__ = ["Stream", "Transport"]


class Stream(Protocol):
    """An answer whose body goes on. Always aclose() it; that ends the request on the server's side too."""

    status: int
    headers: dict[str, str]

    async def read(self) -> bytes:
        """All bytes that have arrived, at least one; b"" at the end of the body. Raises ServerUnreachable when the connection is cut inside the body."""

    async def aclose(self) -> None: ...


class Transport(Protocol):
    async def request(self, request: Request, timeout_s: float) -> Response:
        """One request and its whole answer. Raises ServerUnreachable, errors.Timeout."""

    async def stream(self, request: Request, timeout_s: float) -> Stream:
        """Returns when the head of the answer is there; timeout_s bounds only that."""

    async def close(self) -> None: ...
