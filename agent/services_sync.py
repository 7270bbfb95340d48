"""Services and EndpointSlices from their informers into the node's ServiceProxy, changes joined; and the service variables for containers. Called by agent.__main__."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Mapping
from typing import Any, Protocol

from agent import environment
from apiserver.client.informer import Informer

log = logging.getLogger("services")
SERVICE_NAME = "kubernetes.io/service-name"
ENSURE_S = 10.0  # so long at most are Services gone after somebody's `nft flush ruleset`
Object = Mapping[str, Any]


class Proxy(Protocol):
    def ensure(self) -> None: ...
    def sync(self, services: Mapping[str, Object], slices: Mapping[str, Object]) -> int: ...
    def update(self, changed: Collection[str], services: Mapping[str, Object], slices: Mapping[str, Object]) -> int: ...


class ServiceSync:
    def __init__(self, services: Informer, slices: Informer) -> None:
        self._services, self._slices = services, slices
        self._changed: set[str] = set()
        self._wake = asyncio.Event()
        self._variables: dict[tuple[str, bool], dict[str, str]] = {}
        self._slices_of: dict[str, dict[str, Object]] = {}
        services.add_handler(self._service_changed)
        slices.add_handler(self._slice_changed)

    def variables(self, namespace: str, enable_links: bool) -> Mapping[str, str]:
        """Of a container in that namespace."""
        key = (namespace if enable_links else "", enable_links)
        if key not in self._variables:
            self._variables[key] = environment.service_variables(self._services.store.values(), namespace, enable_links)
        return self._variables[key]

    def _service_changed(self, old: Any, new: Any) -> None:
        self._variables.clear()
        meta = (new or old)["metadata"]
        self._mark(f"{meta.get('namespace', '')}/{meta['name']}")

    def _slice_changed(self, old: Any, new: Any) -> None:
        for obj, present in ((old, False), (new, True)):
            if obj is None:
                continue
            meta = obj["metadata"]
            service = f"{meta.get('namespace', '')}/{(meta.get('labels') or {}).get(SERVICE_NAME, '')}"
            key = f"{meta.get('namespace', '')}/{meta['name']}"
            held = self._slices_of.setdefault(service, {})
            if present:
                held[key] = obj
            else:
                held.pop(key, None)
            self._mark(service)

    def _mark(self, service: str) -> None:
        self._changed.add(service)
        self._wake.set()

    async def run(self, proxy: Proxy) -> None:
        """Until cancelled. The first time, and after an error, everything is synced."""
        await self._services.synced()
        await self._slices.synced()
        whole, delay, loop = True, 0.2, asyncio.get_running_loop()
        ensure_at = 0.0
        while True:
            self._wake.clear()
            changed, self._changed = self._changed, set()
            try:
                if loop.time() >= ensure_at:
                    proxy.ensure()
                    ensure_at = loop.time() + ENSURE_S
                if whole:
                    proxy.sync(self._services.store, self._slices.store)
                elif changed:
                    proxy.update(changed, self._services.store, {k: s for name in changed for k, s in self._slices_of.get(name, {}).items()})
                whole, delay = False, 0.2
            except OSError as e:
                log.warning("cannot program services: %s (again in %g s)", e, delay)
                whole, ensure_at = True, 0.0
                await asyncio.sleep(delay)
                delay = min(delay * 2, 10.0)
                continue
            except Exception:
                log.exception("services")
                whole = True
                await asyncio.sleep(5)
                continue
            for name in [n for n, held in self._slices_of.items() if not held]:
                del self._slices_of[name]
            try:
                async with asyncio.timeout(max(ensure_at - loop.time(), 0.1)):
                    await self._wake.wait()
            except TimeoutError:
                pass
