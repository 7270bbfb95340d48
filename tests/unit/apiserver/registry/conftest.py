"""A registry over a real SQLite store and watch cache, with the real admission chain: `world`. Its clock is a number that tests move."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import orjson
import pytest_asyncio

from apiserver.admission import chain
from apiserver.api import kinds
from apiserver.auth.user import UserInfo
from apiserver.registry import bootstrap, context, registry, storage
from apiserver.store import cache as caches
from apiserver.store import sqlite

ADMIN = UserInfo("admin", groups=("system:masters", "system:authenticated"))
START = 1_700_000_000.0


@dataclass
class World:
    store: Any
    cache: caches.Cache
    registry: registry.Registry
    clock: list[float]
    contexts: list[context.RequestContext] = field(default_factory=list)

    def ctx(self, user: UserInfo = ADMIN, **kw: Any) -> context.RequestContext:
        self.contexts.append(context.RequestContext(user, **{"field_validation": "Strict", **kw}))
        return self.contexts[-1]

    async def seen(self) -> None:
        """The cache has everything that is in the store."""
        await self.cache.fresh()

    async def create(self, resource: kinds.Resource, obj: dict, namespace: str = "default", **kw: Any) -> dict:
        return orjson.loads(await self.registry.create(self.ctx(**kw), resource, namespace if resource.namespaced else "", copied(obj)))

    async def get(self, resource: kinds.Resource, name: str, namespace: str = "default", sub: str = "") -> dict:
        return orjson.loads(await self.registry.get(self.ctx(), resource, namespace if resource.namespaced else "", name, sub))

    async def update(self, resource: kinds.Resource, obj: dict, sub: str = "", namespace: str = "default", **kw: Any) -> dict:
        scope = namespace if resource.namespaced else ""
        return orjson.loads(await self.registry.update(self.ctx(**kw), resource, scope, obj["metadata"]["name"], copied(obj), sub))

    async def patch(self, resource: kinds.Resource, name: str, patch: Any, sub: str = "", kind: str = registry.MERGE_PATCH, namespace: str = "default", **kw: Any) -> dict:
        scope = namespace if resource.namespaced else ""
        data, _ = await self.registry.patch(self.ctx(**kw), resource, scope, name, kind, patch, sub)
        return orjson.loads(data)

    async def delete(self, resource: kinds.Resource, name: str, options: dict | None = None, namespace: str = "default", **kw: Any) -> tuple[dict, bool]:
        scope = namespace if resource.namespaced else ""
        data, finished = await self.registry.delete(self.ctx(**kw), resource, scope, name, options or {})
        return orjson.loads(data), finished

    async def keys(self, prefix: str) -> list[str]:
        return [kv.key[len(prefix) :] for kv in (await self.store.range(prefix)).kvs]

    @staticmethod
    def pod(name: str = "web", **spec: Any) -> dict:
        metadata = {"name": name, "labels": {"app": name}}
        return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": [{"name": "c", "image": "busybox:1"}], **spec}}

    @staticmethod
    def service(name: str = "web", **spec: Any) -> dict:
        ports = spec.pop("ports", [{"port": 80, "protocol": "TCP"}])
        return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": {"ports": ports, "selector": {"app": name}, **spec}}

    async def bind(self, name: str, node: str = "n1", namespace: str = "default") -> dict:
        """Puts a pod on a node."""
        body = {"metadata": {"name": name}, "target": {"kind": "Node", "name": node}}
        return orjson.loads(await self.registry.create_subresource(self.ctx(), kinds.PODS, namespace, name, "binding", body))


def copied(obj: dict) -> dict:
    return orjson.loads(orjson.dumps(obj))


@pytest_asyncio.fixture
async def world(tmp_path: Any) -> AsyncIterator[World]:
    store = await sqlite.SqliteStore.open(tmp_path / "store.db")
    cache = caches.Cache(store)
    await cache.start()
    clock, rng = [START], random.Random(7)
    plugins = chain.default_chain(storage.Storage(store, cache), rng=rng)

    def issue(namespace: str, name: str, uid: str, audiences: list[str], seconds: int, bound: Any) -> tuple[str, float]:
        return orjson.dumps([namespace, name, uid, audiences, seconds, bound]).decode(), clock[0] + seconds

    config = context.Config(service_cluster_ip_range="10.43.0.0/16", advertise_address="192.0.2.1", advertise_port=6443)
    made = registry.Registry(store, cache, plugins, config, now=lambda: clock[0], rng=rng, issue_token=issue)
    await bootstrap.ensure(made)
    result = World(store, cache, made, clock)
    await result.create(kinds.SERVICEACCOUNTS, {"metadata": {"name": "default"}})
    yield result
    await cache.stop()
    await store.close()
