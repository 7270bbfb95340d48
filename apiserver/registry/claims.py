"""Things that only one object may own (a ClusterIP, a NodePort, a node's pod CIDR), each a key of its own in the store, taken by create: what several API servers on one
store agree on. Owns the keys under /minik/allocations/; knows nothing of what is claimed. Strategies and repair call it.

Invariant: a value belongs to an object only while the claim's uid is that object's. A claim whose object does not exist is a leftover of a crash; it is given away
once it is older than GRACE_S, longer than any request lives and any two servers' clocks differ.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import orjson

from apiserver.registry.context import Object
from apiserver.registry.storage import translated
from apiserver.store import base

PREFIX = "/minik/allocations/"
GRACE_S = 300.0


@dataclass(frozen=True, slots=True)
class Owner:
    namespace: str
    name: str
    uid: str

    @classmethod
    def of(cls, obj: Object) -> Owner:
        metadata = obj["metadata"]
        return cls(metadata.get("namespace", ""), metadata["name"], metadata["uid"])


@dataclass(frozen=True, slots=True)
class Claim:
    """`time`: Unix seconds when it was taken."""

    value: str
    owner: Owner
    time: float
    revision: int


class Claims:
    """One family of claims. `alive(owner)` asks the store whether the object with that uid is there."""

    def __init__(self, store: base.Store, family: str, now: Callable[[], float], alive: Callable[[Owner], Awaitable[bool]]) -> None:
        self.store, self.now, self.alive = store, now, alive
        self.prefix = f"{PREFIX}{family}/"

    async def take(self, value: str, owner: Owner) -> bool:
        """Claims `value`; True also where `owner` has it already. A leftover of an object that is gone is taken over."""
        key = self._key(value)
        try:
            with translated():
                await self.store.create(key, self._encode(owner))
            return True
        except base.KeyExists:
            pass
        with translated():
            held = await self.store.get(key)
        if held is None:
            return await self.take(value, owner)
        claim = self._decode(held)
        if claim.owner.uid == owner.uid:
            return True
        return await self.is_leftover(claim) and await self.replace(claim, owner)

    async def replace(self, claim: Claim, owner: Owner) -> bool:
        """Gives a claim another owner, unless it changed meanwhile."""
        try:
            with translated():
                await self.store.update(self._key(claim.value), self._encode(owner), claim.revision)
        except base.RevisionMismatch:
            return False
        return True

    async def is_leftover(self, claim: Claim) -> bool:
        return self.now() - claim.time > GRACE_S and not await self.alive(claim.owner)

    async def release(self, value: str, owner: Owner) -> None:
        """Gives `value` back if `owner` has it; otherwise nothing."""
        with translated():
            held = await self.store.get(self._key(value))
        if held is not None and self._decode(held).owner.uid == owner.uid:
            await self.drop(self._decode(held))

    async def drop(self, claim: Claim) -> bool:
        """Deletes exactly this claim; False where another write came first."""
        try:
            with translated():
                await self.store.delete(self._key(claim.value), claim.revision)
        except base.RevisionMismatch:
            return False
        return True

    async def all(self) -> dict[str, Claim]:
        """Every claim by its value, consistently."""
        with translated():
            result = await self.store.range(self.prefix)
        return {claim.value: claim for claim in map(self._decode, result.kvs)}

    def _key(self, value: str) -> str:
        return self.prefix + value.replace("/", "_")

    def _encode(self, owner: Owner) -> bytes:
        return orjson.dumps({"namespace": owner.namespace, "name": owner.name, "uid": owner.uid, "time": self.now()})

    def _decode(self, kv: base.KeyValue) -> Claim:
        held = orjson.loads(kv.value)
        owner = Owner(held["namespace"], held["name"], held["uid"])
        return Claim(kv.key[len(self.prefix) :].replace("_", "/"), owner, held["time"], kv.mod_revision)
