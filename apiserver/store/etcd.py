"""The distributed store: EtcdStore over etcd's v3 API. Owns the mapping of the store's contract to transactions, leases and watches; no other module (but etcd_client and
etcd_proto) knows that gRPC exists. `apiserver/__main__` opens it; imported only then, for grpc and protobuf cost 10 to 20 MB.

How a watch keeps its promises. It resumes after the last revision delivered, never after a header's. etcd forgets a deletion at the very revision of a compaction, so
before the first batch of every connection a read at the starting revision proves that nothing after it had been compacted when the server read it. Progress marks are
never asked of the server (3.4 sends them ahead of events): where the revision of a quorum read is the last one delivered, that is a mark; where somebody writes outside of
the prefix, a key of our own just behind the prefix, inside the watched range, is written, and its event is the mark.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio

from apiserver.store import base, keys
from apiserver.store import etcd_proto as pb
from apiserver.store.etcd_client import Endpoint, EtcdClient, LeaseNotFound, credentials, parse_endpoints, translate

log = logging.getLogger("store")

_PROGRESS_SUFFIX = b"-minik-progress"
_GRACE_S = 0.03  # how long an event may take from the commit to us before a mark is written
_MAX_BACKOFF_S = 2.0
_ANSWER_S = 5.0
_LEASE_SHARE = 0.05  # keys whose TTLs end within this part of one another share a lease
_LEASE_SHARE_MAX_S = 60


class EtcdStore:
    """`await EtcdStore.open(endpoints)`."""

    def __init__(self, client: EtcdClient, *, progress_interval_s: float) -> None:
        """Use open()."""
        self._client = client
        self._progress_interval_s = progress_interval_s
        self._watches: set[_Stream] = set()
        self._leases: dict[int, asyncio.Task[_Lease]] = {}

    @classmethod
    async def open(
        cls, endpoints: str | Sequence[str], *, ca: str = "", cert: str = "", key: str = "", timeout_s: float = 5.0, progress_interval_s: float = 2.0
    ) -> EtcdStore:
        """`endpoints`: URLs, or one text with commas; https means TLS with the PEM files `ca` and, for a client certificate, `cert` and `key`.

        Raises StoreError for a wrong endpoint or file, StoreUnavailable where none answers within `timeout_s`.
        """
        addresses, tls = parse_endpoints(endpoints)
        store = cls(EtcdClient(addresses, credentials(ca, cert, key) if tls else None, timeout_s), progress_interval_s=progress_interval_s)
        try:
            await store.revision()
        except BaseException:
            await store.close()
            raise
        return store

    async def close(self) -> None:
        """Ends every watch (StoreUnavailable) and the connections. Idempotent."""
        for task in self._leases.values():
            task.cancel()
        await self._client.close()

    # reads

    async def revision(self) -> int:
        """As Store.revision: the header of a linearizable read."""
        response = await self._client.call("Range", pb.RangeRequest(key=b"\0", count_only=True), read=True)
        revision = response.header.revision
        for stream in self._watches:
            stream.expect(revision)
        return revision

    async def get(self, key: str) -> base.KeyValue | None:
        """As Store.get."""
        response = await self._client.call("Range", pb.RangeRequest(key=key.encode()), read=True)
        return _key_value(response.kvs[0]) if response.kvs else None

    async def range(self, prefix: str, *, limit: int = 0, start_after: str = "", revision: int = 0) -> base.RangeResult:
        """As Store.range."""
        start = max(prefix.encode(), start_after.encode() + b"\0") if start_after else prefix.encode() or b"\0"
        end = keys.prefix_end(prefix)
        if end != b"\0" and start >= end:
            return base.RangeResult([], revision or await self.revision(), 0)
        request = pb.RangeRequest(key=start, range_end=end, limit=limit, revision=revision)
        try:
            response = await self._client.call("Range", request, read=True)
        except base.Compacted as err:
            raise base.Compacted(await self._compacted_revision()) from err
        return base.RangeResult([_key_value(kv) for kv in response.kvs], revision or response.header.revision, response.count)

    # writes

    async def create(self, key: str, value: bytes, *, ttl_s: int = 0) -> int:
        """As Store.create."""
        response = await self._put(key, value, 0, ttl_s, [])
        if not response.succeeded:
            raise base.KeyExists(key)
        return response.header.revision

    async def update(self, key: str, value: bytes, expected_revision: int, *, ttl_s: int = 0) -> int:
        """As Store.update; without ttl_s an earlier TTL ends."""
        if not expected_revision:  # to etcd, 0 is a key that does not exist
            raise base.RevisionMismatch(key, await self.get(key))
        response = await self._put(key, value, expected_revision, ttl_s, [_read_op(key)])
        if not response.succeeded:
            raise base.RevisionMismatch(key, _first(response.responses[0].response_range.kvs))
        return response.header.revision

    async def _put(self, key: str, value: bytes, expected: int, ttl_s: int, otherwise: list[Any]) -> Any:
        for last in (False, True):
            lease = await self._lease(ttl_s) if ttl_s > 0 else 0
            put = pb.RequestOp(request_put=pb.PutRequest(key=key.encode(), value=value, lease=lease))
            try:
                return await self._client.call("Txn", pb.TxnRequest(compare=[_is_at(key, expected)], success=[put], failure=otherwise), read=False)
            except LeaseNotFound as err:
                self._leases.pop(ttl_s, None)
                if last:
                    raise base.StoreUnavailable(f"cannot write {key}: {err}") from err
        raise AssertionError("unreachable")

    async def delete(self, key: str, expected_revision: int = 0) -> tuple[base.KeyValue, int]:
        """As Store.delete."""
        delete = pb.DeleteRangeRequest(key=key.encode(), prev_kv=True)
        if not expected_revision:
            deleted = await self._client.call("DeleteRange", delete, read=False)
            if not deleted.prev_kvs:
                raise base.RevisionMismatch(key, None)
            return _key_value(deleted.prev_kvs[0]), deleted.header.revision
        request = pb.TxnRequest(compare=[_is_at(key, expected_revision)], success=[pb.RequestOp(request_delete_range=delete)], failure=[_read_op(key)])
        response = await self._client.call("Txn", request, read=False)
        if not response.succeeded:
            raise base.RevisionMismatch(key, _first(response.responses[0].response_range.kvs))
        return _key_value(response.responses[0].response_delete_range.prev_kvs[0]), response.header.revision

    async def compact(self, revision: int) -> None:
        """As Store.compact; a revision that is compacted already is no error: several API servers compact one etcd."""
        if revision <= 0:
            return
        with contextlib.suppress(base.Compacted):
            await self._client.call("Compact", pb.CompactionRequest(revision=revision), read=False)

    async def _lease(self, ttl_s: int) -> int:
        """A lease that ends in ttl_s or little more; callers share it for a while, and share its making."""
        task = self._leases.get(ttl_s)
        if task is None or (task.done() and (task.cancelled() or task.exception() or asyncio.get_running_loop().time() > task.result().shared_until)):
            task = self._leases[ttl_s] = asyncio.create_task(self._grant(ttl_s))
        return (await asyncio.shield(task)).id

    async def _grant(self, ttl_s: int) -> _Lease:
        shared_s = min(int(ttl_s * _LEASE_SHARE), _LEASE_SHARE_MAX_S)
        started = asyncio.get_running_loop().time()
        response = await self._client.call("LeaseGrant", pb.LeaseGrantRequest(TTL=ttl_s + shared_s), read=True)  # a lease granted twice hurts nobody: it ends
        return _Lease(response.ID, started + shared_s)

    # watches

    async def watch(self, prefix: str, after_revision: int) -> AsyncIterator[base.Batch]:
        """As Store.watch. Interrupted connections are resumed at the next endpoint for ever, with back-off."""
        delivered = after_revision
        backoff_s = 0.02
        while True:
            endpoint = self._client.current
            stream = _Stream(endpoint, prefix, delivered)
            self._watches.add(stream)
            try:
                proven = False
                async for batch in self._follow(stream):
                    if not proven:
                        await self._prove_held(delivered)
                        proven, backoff_s = True, 0.02
                    delivered = batch.revision
                    yield batch
            except base.StoreUnavailable as err:
                self._client.rotate(endpoint)
                log.warning("etcd watch of %s interrupted after revision %d, resuming in %.2g s: %s", prefix, delivered, backoff_s, err)
            finally:
                self._watches.discard(stream)
                stream.close()
            await asyncio.sleep(backoff_s)
            backoff_s = min(backoff_s * 2, _MAX_BACKOFF_S)

    async def _follow(self, stream: _Stream) -> AsyncIterator[base.Batch]:
        """One connection's batches and marks. Raises Compacted, StoreUnavailable."""
        await stream.begin()
        check = True
        while True:
            if check and await self.revision() == stream.delivered:
                yield base.Batch([], stream.delivered)
            check = False
            batch = await stream.next(_GRACE_S if stream.behind else self._progress_interval_s)
            if batch is not None:
                yield batch
            elif stream.behind:
                response = await self._client.call("Put", pb.PutRequest(key=stream.progress_key), read=True)  # twice is as good as once
                stream.marked = response.header.revision
            else:
                check = True

    async def _prove_held(self, revision: int) -> None:
        """Raises Compacted where states older than or at `revision` are gone."""
        with contextlib.suppress(base.FutureRevision):
            try:
                await self._client.call("Range", pb.RangeRequest(key=b"\0", revision=max(revision, 1)), read=True)
            except base.Compacted as err:
                raise base.Compacted(await self._compacted_revision()) from err

    async def _compacted_revision(self) -> int:
        """etcd tells it only to a watch that begins before it."""
        stream = _Stream(self._client.current, "/", 0)
        try:
            await stream.begin()
            await stream.next(_ANSWER_S)
        except base.Compacted as err:
            return err.compacted
        finally:
            stream.close()
        raise base.StoreUnavailable("etcd does not say at which revision it was compacted")


@dataclass(frozen=True, slots=True)
class _Lease:
    id: int
    shared_until: float


class _Stream:
    """One gRPC watch stream. `delivered`: everything ≤ it has been returned by next(). `marked`: the revision of the progress mark written last, which is on its way."""

    def __init__(self, endpoint: Endpoint, prefix: str, after_revision: int) -> None:
        self.delivered = after_revision
        self.marked = 0
        self._expected = 0
        self._address = endpoint.address
        self._prefix = prefix.encode()
        end = keys.prefix_end(prefix)
        self.progress_key = (b"" if end == b"\0" else end) + _PROGRESS_SUFFIX
        self._range_end = end if end == b"\0" else self.progress_key + b"\0"
        self._call = endpoint.watch()
        self._read: asyncio.Task[Any] | None = None
        self._woken: asyncio.Future[None] | None = None
        self._fragments: list[Any] = []

    @property
    def behind(self) -> bool:
        """The store is known to be further, and nothing has been done about it."""
        return self._expected > max(self.delivered, self.marked)

    def close(self) -> None:
        self._call.cancel()
        if self._read is not None:
            self._read.cancel()

    def expect(self, revision: int) -> None:
        """Somebody has seen `revision`: it should come soon."""
        self._expected = max(self._expected, revision)
        if self.behind and self._woken is not None and not self._woken.done():
            self._woken.set_result(None)

    async def begin(self) -> None:
        """Returns when the server has the watch. Raises StoreUnavailable."""
        create = pb.WatchCreateRequest(key=self._prefix or b"\0", range_end=self._range_end, start_revision=self.delivered + 1, prev_kv=True, fragment=True)
        try:
            async with asyncio.timeout(_ANSWER_S):
                await self._call.write(pb.WatchRequest(create_request=create))
                self._take(await self._call.read())
        except TimeoutError as err:
            raise base.StoreUnavailable(f"etcd at {self._address} did not answer within {_ANSWER_S} s") from err
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError, grpc.aio.UsageError) as err:
            raise self._failure(err) from err

    async def next(self, timeout_s: float) -> base.Batch | None:
        """The next batch (or mark), None after `timeout_s`, or a little after expect() had news. Raises Compacted, StoreUnavailable."""
        while True:
            if self._read is None:
                self._read = asyncio.create_task(self._call.read())
            await self._wait(self._read, timeout_s)
            if not self._read.done():
                return None
            read, self._read = self._read, None
            if read.cancelled():
                raise base.StoreUnavailable("the store is closed")
            error = read.exception()
            if error is not None:
                raise self._failure(error) from error
            batch = self._take(read.result())
            if batch is not None:
                return batch

    async def _wait(self, read: asyncio.Task[Any], timeout_s: float) -> None:
        was_behind = self.behind
        self._woken = asyncio.get_running_loop().create_future()
        try:
            await asyncio.wait({read, self._woken}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._woken = None
        if self.behind and not was_behind and not read.done():  # give the events their grace
            await asyncio.wait({read}, timeout=_GRACE_S)

    def _failure(self, error: BaseException) -> base.StoreError:
        if isinstance(error, grpc.aio.AioRpcError):
            failure = translate(error, self._address)
            if isinstance(failure, base.StoreUnavailable):
                return failure
            return base.StoreUnavailable(str(failure))
        return base.StoreUnavailable(f"etcd at {self._address}: {error}")

    def _take(self, response: Any) -> base.Batch | None:
        if response is grpc.aio.EOF:
            raise base.StoreUnavailable(f"etcd at {self._address} ended the watch")
        if response.compact_revision:
            raise base.Compacted(response.compact_revision)
        if response.canceled:
            raise base.StoreUnavailable(f"etcd at {self._address} ended the watch: {response.cancel_reason}")
        self._fragments += response.events
        if response.fragment or not self._fragments:  # the rest of these revisions follows; or the watch was created
            return None
        raw, self._fragments = self._fragments, []
        self.delivered = raw[-1].kv.mod_revision
        return base.Batch([_event(event) for event in raw if event.kv.key.startswith(self._prefix) and event.kv.key != self.progress_key], self.delivered)


def _event(event: Any) -> base.Event:
    prev = _key_value(event.prev_kv) if event.HasField("prev_kv") else None
    if event.type == pb.DELETE:
        return base.Event("DELETE", base.KeyValue(event.kv.key.decode(), b"", 0, event.kv.mod_revision), prev)
    return base.Event("PUT", _key_value(event.kv), prev)


def _key_value(kv: Any) -> base.KeyValue:
    return base.KeyValue(kv.key.decode(), kv.value, kv.create_revision, kv.mod_revision)


def _first(kvs: Sequence[Any]) -> base.KeyValue | None:
    return _key_value(kvs[0]) if kvs else None


def _is_at(key: str, mod_revision: int) -> Any:
    """0: does not exist."""
    return pb.Compare(result=pb.EQUAL, target=pb.MOD, key=key.encode(), mod_revision=mod_revision)


def _read_op(key: str) -> Any:
    return pb.RequestOp(request_range=pb.RangeRequest(key=key.encode()))
