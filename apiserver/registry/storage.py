"""Objects in and out of the store: keys, current states (cache first, then the store), compare-and-swap with translated errors. Owns no rule about any kind.
The registry, its subresources, and the admission plugins (as their Reader) stand on it.
"""

from __future__ import annotations

from typing import Any

from apiserver.api import kinds
from apiserver.registry.context import Object
from apiserver.store import base


class Storage:
    """`Storage(store, cache)`: also what `admission.chain.default_chain(reader=…)` wants."""

    def __init__(self, store: base.Store, cache: Any) -> None:
        self.store, self.cache = store, cache

    async def read(self, resource: kinds.Resource, namespace: str, name: str, *, fresh: bool = False) -> Object | None:
        raise NotImplementedError

    def cached(self, resource: kinds.Resource, namespace: str, name: str) -> Object | None:
        raise NotImplementedError

    def list_cached(self, resource: kinds.Resource, namespace: str = "") -> list[Object]:
        raise NotImplementedError
