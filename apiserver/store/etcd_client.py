"""Connections to etcd: one gRPC channel per endpoint, calls that go on at the next endpoint, and etcd's errors as the store's. Knows nothing of watches or of what
is stored; EtcdStore calls it.

What may be repeated: a read always, a write only while it certainly has not left (no endpoint could be connected). Any other failure of a write leaves its outcome
unknown, which StoreUnavailable says.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

import grpc
import grpc.aio

from apiserver.store import base
from apiserver.store import etcd_proto as pb

_OPTIONS = [
    ("grpc.max_receive_message_length", 512 << 20),  # gRPC's own 4 MB end a watch or a list of any size
    ("grpc.max_send_message_length", 512 << 20),
    ("grpc.keepalive_time_ms", 10_000),  # etcd refuses pings more often than every 5 s
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1_000),  # also the time a connection attempt may take
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
]
_UNARY = {
    "Range": ("/etcdserverpb.KV/Range", pb.RangeResponse),
    "Put": ("/etcdserverpb.KV/Put", pb.PutResponse),
    "DeleteRange": ("/etcdserverpb.KV/DeleteRange", pb.DeleteRangeResponse),
    "Txn": ("/etcdserverpb.KV/Txn", pb.TxnResponse),
    "Compact": ("/etcdserverpb.KV/Compact", pb.CompactionResponse),
    "LeaseGrant": ("/etcdserverpb.Lease/LeaseGrant", pb.LeaseGrantResponse),
}
_WATCH = "/etcdserverpb.Watch/Watch"
# a member cut off from its quorum answers with an error, instead of hanging or serving a silent watch
_METADATA = (("hasleader", "true"),)
_RETRY_PAUSE_S = 0.1


class LeaseNotFound(base.StoreError):
    """A lease ended before the key that was to be attached to it came."""


class Endpoint:
    """One member's channel with its methods."""

    def __init__(self, address: str, credentials: grpc.ChannelCredentials | None) -> None:
        self.address = address
        self._channel = grpc.aio.secure_channel(address, credentials, _OPTIONS) if credentials else grpc.aio.insecure_channel(address, _OPTIONS)
        self.unary: dict[str, Any] = {
            name: self._channel.unary_unary(path, request_serializer=_serialize, response_deserializer=response.FromString) for name, (path, response) in _UNARY.items()
        }
        self._watch = self._channel.stream_stream(_WATCH, request_serializer=_serialize, response_deserializer=pb.WatchResponse.FromString)

    def watch(self) -> Any:
        return self._watch(metadata=_METADATA)

    async def close(self) -> None:
        await self._channel.close()


class EtcdClient:
    """`current`: the endpoint that is believed to answer."""

    def __init__(self, endpoints: Sequence[str], credentials: grpc.ChannelCredentials | None, timeout_s: float) -> None:
        self._endpoints = [Endpoint(address, credentials) for address in endpoints]
        self._index = 0
        self._timeout_s = timeout_s
        self._closed = False

    @property
    def current(self) -> Endpoint:
        if self._closed:
            raise base.StoreUnavailable("the store is closed")
        return self._endpoints[self._index]

    def rotate(self, failed: Endpoint) -> None:
        """The next endpoint, unless another call has gone on already."""
        if self._endpoints[self._index] is failed:
            self._index = (self._index + 1) % len(self._endpoints)

    async def close(self) -> None:
        self._closed = True
        await asyncio.gather(*(endpoint.close() for endpoint in self._endpoints))

    async def call(self, method: str, request: Any, *, read: bool) -> Any:
        """One unary call, within `timeout_s` over all endpoints. Raises StoreError and its subclasses; Compacted without the revision (0)."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._timeout_s
        attempt = 0
        while True:
            endpoint = self.current
            attempt += 1
            share = deadline - loop.time()
            if read and len(self._endpoints) > 1:
                share = min(share, max(self._timeout_s / len(self._endpoints), 1.0))  # a member that hangs must leave time for the others
            try:
                return await endpoint.unary[method](request, timeout=max(share, 0.1), metadata=_METADATA)
            except grpc.aio.AioRpcError as err:
                error = translate(err, endpoint.address)
                if not isinstance(error, base.StoreUnavailable):
                    raise error from err
                self.rotate(endpoint)
                if not (read or _never_sent(err)) or loop.time() + _RETRY_PAUSE_S >= deadline:
                    raise error from err
            except asyncio.CancelledError:
                if self._closed and not _being_cancelled():
                    raise base.StoreUnavailable("the store is closed") from None
                raise
            if attempt % len(self._endpoints) == 0:
                await asyncio.sleep(_RETRY_PAUSE_S)


def _being_cancelled() -> bool:
    """Whether our own task is being cancelled; closing a channel cancels the calls on it with the same exception."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _serialize(message: Any) -> bytes:
    return message.SerializeToString()


def translate(err: grpc.aio.AioRpcError, address: str) -> base.StoreError:
    """etcd's status as a store error. Codes and texts: etcd's api/v3rpc/rpctypes, stable since 3.0."""
    code, details = err.code(), err.details() or ""
    if code == grpc.StatusCode.OUT_OF_RANGE:
        return base.FutureRevision(details) if "future" in details else base.Compacted(0)
    if code == grpc.StatusCode.NOT_FOUND and "lease" in details:
        return LeaseNotFound(details)
    if (code == grpc.StatusCode.INVALID_ARGUMENT and "too large" in details) or (code == grpc.StatusCode.RESOURCE_EXHAUSTED and "message larger" in details):
        return base.ValueTooLarge(f"etcd at {address} refused the request: {details}")
    if code in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.UNIMPLEMENTED):
        return base.StoreError(f"etcd at {address} refused the request: {details}")
    return base.StoreUnavailable(f"etcd at {address}: {code.name.lower().replace('_', ' ')}: {details}")


def _never_sent(err: grpc.aio.AioRpcError) -> bool:
    return err.code() == grpc.StatusCode.UNAVAILABLE and (err.details() or "").startswith("failed to connect to all addresses")


def parse_endpoints(endpoints: str | Sequence[str]) -> tuple[list[str], bool]:
    """(host:port …, whether to use TLS). Raises StoreError naming the endpoint that is wrong or mixed with the other scheme."""
    texts = [text.strip() for text in (endpoints.split(",") if isinstance(endpoints, str) else endpoints) if text.strip()]
    addresses, schemes = [], set()
    for text in texts:
        try:
            url = urlsplit(text if "://" in text else f"http://{text}")
            host, port = url.hostname, url.port or 2379
        except ValueError as err:
            raise base.StoreError(f"etcd endpoint {text!r}: {err}") from err
        if url.scheme not in ("http", "https") or not host or url.path not in ("", "/") or url.query or url.username:
            raise base.StoreError(f"etcd endpoint {text!r}: want http://host:port or https://host:port")
        schemes.add(url.scheme)
        addresses.append(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
    if not addresses:
        raise base.StoreError("no etcd endpoint given")
    if len(schemes) > 1:
        raise base.StoreError(f"etcd endpoints {', '.join(texts)}: http and https cannot be mixed")
    return addresses, schemes == {"https"}


def credentials(ca: str, cert: str, key: str) -> grpc.ChannelCredentials:
    """From PEM files; without `ca` the system's roots. Raises StoreError naming the file."""
    if bool(cert) != bool(key):
        raise base.StoreError("etcd client certificate and key must be given together")
    contents: list[bytes | None] = []
    for path in (ca, key, cert):
        try:
            with open(path or "/dev/null", "rb") as file:
                contents.append(file.read() or None)
        except OSError as err:
            raise base.StoreError(f"cannot read {path} for etcd: {err.strerror}") from err
    return grpc.ssl_channel_credentials(*contents)
