"""Keeps plan_serviceaccounts true in every active Namespace, also when somebody deletes or edits what it made. Keys are namespace names."""

from __future__ import annotations

from typing import Any

from apiserver.api import errors, kinds, types
from apiserver.client.informer import Informer
from apiserver.controllers import plan_serviceaccounts as plans
from apiserver.controllers.loop import Context, Controller

__all__ = ["ServiceAccounts"]


class ServiceAccounts(Controller):
    """Watches only the ConfigMaps of that one name: all others are of no concern and may be large."""

    name = "serviceaccounts"

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.namespaces = self.watch(kinds.NAMESPACES)
        self.accounts = self.watch(kinds.SERVICEACCOUNTS, types.ServiceAccount)
        self.bundles = Informer(self.client, kinds.CONFIGMAPS, field_selector=f"metadata.name={plans.ROOT_CA}", rng=self.config.rng)
        self.namespaces.add_handler(self._on_namespace)
        self.accounts.add_handler(self._on_account)
        self.bundles.add_handler(self._on_bundle)

    def background(self) -> list[Any]:
        return [self.bundles.run()]

    def _on_namespace(self, old: dict[str, Any] | None, new: dict[str, Any] | None) -> None:
        if new is not None:
            self.queue.add(new["metadata"]["name"])

    def _on_account(self, old: types.ServiceAccount | None, new: types.ServiceAccount | None) -> None:
        if new is None and old is not None and old.metadata.name == plans.DEFAULT:
            self.queue.add(old.metadata.namespace)

    def _on_bundle(self, old: dict[str, Any] | None, new: dict[str, Any] | None) -> None:
        self.queue.add(((new or old) or {})["metadata"]["namespace"])

    async def reconcile(self, key: str) -> None:
        await self.bundles.synced()
        namespace = self.namespaces.store.get(key)
        if namespace is None or not plans.is_active(namespace):
            return
        account = plans.plan_default_account(key, f"{key}/{plans.DEFAULT}" in self.accounts.store)
        bundle_key = f"{key}/{plans.ROOT_CA}"
        bundle = plans.plan_root_ca(key, self.bundles.store.get(bundle_key), self.config.root_ca)
        try:
            if account is not None:
                await self._create(kinds.SERVICEACCOUNTS, account)
            if bundle is not None and bundle["metadata"].get("resourceVersion"):
                await self.client.update(kinds.CONFIGMAPS, bundle)
            elif bundle is not None:
                await self._create(kinds.CONFIGMAPS, bundle)
        except errors.NotFound:
            return  # deleted meanwhile: its event is on the way
        except errors.Forbidden as e:
            if "being terminated" not in str(e):
                raise

    async def _create(self, resource: kinds.Resource, obj: dict[str, Any]) -> None:
        try:
            await self.client.create(resource, obj)
            self.log.info("%s: created %s %s", obj["metadata"]["namespace"], resource.singular, obj["metadata"]["name"])
        except errors.AlreadyExists:
            pass
