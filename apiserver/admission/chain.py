"""The admission chain: which plugins run, in which order. Owns no rule itself; each plugin is a module beside this one. The registry calls admit() after defaulting and
validate() on what is about to be stored; apiserver/__main__ builds the chain. Knows neither registry nor HTTP: requests are taken by shape (`Request`).
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from apiserver.api import kinds

Object = dict[str, Any]


class Request(Protocol):
    """registry.context.AdmissionRequest, seen from here: `obj` None on DELETE, `old` None on CREATE; admit() may change `obj` in place."""

    operation: Any
    user: Any
    resource: kinds.Resource
    subresource: str
    namespace: str
    name: str
    obj: Object | None
    old: Object | None
    dry_run: bool
    warnings: list[str]


class Reader(Protocol):
    """How plugins read other objects; registry.storage.Storage is one. What it returns is shared: read only."""

    async def read(self, resource: kinds.Resource, namespace: str, name: str, *, fresh: bool = False) -> Object | None:
        """From the watch cache, from the store where the cache has none or fresh is asked for; None = not there."""

    def cached(self, resource: kinds.Resource, namespace: str, name: str) -> Object | None:
        """From the watch cache only."""

    def list_cached(self, resource: kinds.Resource, namespace: str = "") -> list[Object]: ...


class Plugin(Protocol):
    """`handles(resource group/plural, subresource, operation)` is asked once per combination; the other two may be plain no-ops."""

    name: str

    def handles(self, resource: kinds.Resource, subresource: str, operation: str) -> bool: ...
    async def admit(self, request: Request) -> None: ...
    async def validate(self, request: Request) -> None: ...


class Chain:
    def __init__(self, plugins: Sequence[Plugin]) -> None:
        self.plugins = tuple(plugins)

    async def admit(self, request: Request) -> None:
        raise NotImplementedError

    async def validate(self, request: Request) -> None:
        raise NotImplementedError


def default_chain(
    reader: Reader, *, rng: random.Random | None = None, sleep: Callable[[float], Awaitable[None]] | None = None,
) -> Chain:
    """The plugins every minik API server runs, in Kubernetes' order."""
    raise NotImplementedError
