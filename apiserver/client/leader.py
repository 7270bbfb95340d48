"""Leader election by a coordination.k8s.io Lease: at most one process leads. Used by the scheduler and the controllers.

Invariant: lead() runs only while our last successful compare-and-swap is younger than `renew_deadline_s` < `lease_s`; others take over only after they have seen
the Lease unchanged for `lease_s` by their own clock (clocks of different machines are never compared). A clean stop gives the Lease away at once.
A restarted process under the same identity takes its own Lease back without waiting: an identity must name one process slot, not one process.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from apiserver.api import errors, kinds, timestamps
from apiserver.client.client import Client

__all__ = ["LeaderElector", "LeaseSettings", "may_take"]

log = logging.getLogger("leader")
Obj = dict[str, Any]


@dataclass(frozen=True)
class LeaseSettings:
    """Kubernetes' defaults for control-plane components."""

    lease_s: float = 15.0
    renew_deadline_s: float = 10.0
    retry_s: float = 2.0


def may_take(lease: Obj | None, identity: str, unchanged_s: float) -> bool:
    """Whether `identity` may write itself into `lease`, of which it has seen no change for `unchanged_s`."""
    spec = (lease or {}).get("spec") or {}
    holder = spec.get("holderIdentity") or ""
    return not holder or holder == identity or unchanged_s >= (spec.get("leaseDurationSeconds") or 0)


class LeaderElector:
    """`now` wall seconds for the Lease's texts, `clock` monotonic seconds for every decision."""

    def __init__(
        self,
        client: Client,
        name: str,
        identity: str,
        *,
        namespace: str = "kube-system",
        settings: LeaseSettings = LeaseSettings(),
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        self.client, self.name, self.identity, self.namespace, self.settings = client, name, identity, namespace, settings
        self._now, self._clock, self._rng = now, clock, rng or random.Random()
        self._lease: Obj | None = None
        self._seen_at = 0.0
        self.leading = False

    async def run(self, lead: Callable[[], Awaitable[None]]) -> None:
        """Waits for the Lease, runs lead() while it is ours, and waits again when it was lost. Returns when lead() returns; on cancellation gives the Lease away."""
        while True:
            await self._acquire()
            log.info("%s: leading as %s", self.name, self.identity)
            work = asyncio.ensure_future(lead())
            renewal = asyncio.ensure_future(self._renew())
            self.leading = True
            try:
                await asyncio.wait({work, renewal}, return_when=asyncio.FIRST_COMPLETED)
                if work.done():
                    return work.result()
                log.warning("%s: the Lease is lost, stopping", self.name)
            finally:
                self.leading = False
                for task in (work, renewal):
                    task.cancel()
                await asyncio.gather(work, renewal, return_exceptions=True)
                if not renewal.done() or renewal.cancelled():
                    await self._release()

    async def _acquire(self) -> None:
        while True:
            if await self._attempt():
                return
            await asyncio.sleep(self.settings.retry_s * (1 + 0.2 * self._rng.random()))

    async def _renew(self) -> None:
        """Returns when the Lease can no longer be held safely."""
        renewed = self._clock()
        while True:
            await asyncio.sleep(self.settings.retry_s)
            left = renewed + self.settings.renew_deadline_s - self._clock()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(left, 0)):
                    if await self._attempt():
                        renewed = self._clock()
                        continue
            spec = (self._lease or {}).get("spec") or {}
            if spec.get("holderIdentity") != self.identity or self._clock() - renewed >= self.settings.renew_deadline_s:
                return

    async def _attempt(self) -> bool:
        """One read-decide-swap; True if the Lease is ours now."""
        try:
            lease = await self._read()
            if not may_take(lease, self.identity, self._clock() - self._seen_at):
                return False
            wanted = self._ours(lease)
            self._observe(await (self.client.update(kinds.LEASES, wanted) if lease else self.client.create(kinds.LEASES, wanted)))
            return True
        except (errors.Conflict, errors.AlreadyExists):
            return False
        except errors.ApiError as e:
            log.warning("%s: cannot get or write the Lease: %s", self.name, e)
            return False

    async def _read(self) -> Obj | None:
        try:
            lease = await self.client.get(kinds.LEASES, self.name, self.namespace)
        except errors.NotFound:
            return None
        self._observe(lease)
        return lease

    def _observe(self, lease: Obj) -> None:
        if self._lease is None or lease["metadata"]["resourceVersion"] != self._lease["metadata"]["resourceVersion"]:
            self._lease, self._seen_at = lease, self._clock()

    def _ours(self, lease: Obj | None) -> Obj:
        old = (lease or {}).get("spec") or {}
        same = old.get("holderIdentity") == self.identity
        stamp = timestamps.format_micro_time(self._now())
        spec = {
            "holderIdentity": self.identity,
            "leaseDurationSeconds": max(round(self.settings.lease_s), 1),
            "acquireTime": old.get("acquireTime", stamp) if same else stamp,
            "renewTime": stamp,
            "leaseTransitions": (old.get("leaseTransitions") or 0) + (0 if same or not lease else 1),
        }
        if lease:
            return {**lease, "spec": {**old, **spec}}
        return {"apiVersion": kinds.LEASES.api_version, "kind": "Lease", "metadata": {"name": self.name, "namespace": self.namespace}, "spec": spec}

    async def _release(self) -> None:
        if self._lease is None or self._lease["spec"].get("holderIdentity") != self.identity:
            return
        spec = {k: v for k, v in self._lease["spec"].items() if k != "holderIdentity"}  # absent: empty is refused
        released = {**self._lease, "spec": {**spec, "leaseDurationSeconds": 1}}
        try:
            async with asyncio.timeout(2.0):
                await self.client.update(kinds.LEASES, released)
        except (errors.ApiError, TimeoutError) as e:
            log.info("%s: the Lease was not given away: %s", self.name, e)
