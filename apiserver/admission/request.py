"""What plugins are given and what they are: shapes only. The registry's AdmissionRequest and Storage fit them; admission never imports the registry."""

from __future__ import annotations

from typing import Any, Protocol

from apiserver.api import kinds

Object = dict[str, Any]


class Request(Protocol):
    """registry.context.AdmissionRequest, seen from here: `obj` None on DELETE, `old` None on CREATE; admit() may change `obj` in place. For binding, eviction and token
    `obj` is the Binding, Eviction or TokenRequest and `old` the Pod or ServiceAccount."""

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

    def list_cached(self, resource: kinds.Resource, namespace: str = "") -> list[Object]:
        """Every object of the resource in the namespace ("" = all) that the watch cache has."""


class Plugin(Protocol):
    """`handles` is asked once per combination; then admit() and validate() are called for each such request. Base gives no-ops."""

    def handles(self, resource: kinds.Resource, subresource: str, operation: str) -> bool: ...

    async def admit(self, request: Request) -> None: ...

    async def validate(self, request: Request) -> None: ...


class Base:
    """A plugin that does nothing yet."""

    def handles(self, resource: kinds.Resource, subresource: str, operation: str) -> bool:
        return True

    async def admit(self, request: Request) -> None:
        """Changes request.obj in place, or refuses."""

    async def validate(self, request: Request) -> None:
        """Refuses, or not."""
