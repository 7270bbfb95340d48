"""Keeps an rbac.Policy true to the watch cache: rebuilt when a role or binding has changed since the last question. Owns four watchers, no task. Authorizer asks it."""

from __future__ import annotations

from apiserver.api import kinds
from apiserver.auth import rbac
from apiserver.store import base
from apiserver.store.cache import Cache, Watcher

_RESOURCES = (kinds.CLUSTERROLES, kinds.ROLES, kinds.CLUSTERROLEBINDINGS, kinds.ROLEBINDINGS)


class RoleCache:
    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self._watchers: list[Watcher] = []
        self._policy: rbac.Policy | None = None

    async def policy(self) -> rbac.Policy:
        """The policy as of what the cache has seen."""
        if self._policy is None or await self._changed():
            self._policy = self._build()
        return self._policy

    async def _changed(self) -> bool:
        try:
            return any([await watcher.next(0) for watcher in self._watchers])
        except base.Compacted:
            return True

    def _build(self) -> rbac.Policy:
        for watcher in self._watchers:
            watcher.close()
        revision = self._cache.revision
        self._watchers = [self._cache.watch(resource.storage_prefix, after_revision=revision) for resource in _RESOURCES]
        return rbac.Policy(*([entry.obj for entry in self._cache.list(resource.storage_prefix).entries] for resource in _RESOURCES))
