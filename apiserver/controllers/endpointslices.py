"""Keeps every selecting Service's EndpointSlices (and legacy Endpoints) as plan_endpointslices says. Keys are `namespace/name` of Services."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from apiserver.api import errors, kinds, types
from apiserver.controllers import plan_endpointslices as plans
from apiserver.controllers.loop import Context, Controller, Written

__all__ = ["EndpointSlices"]

Label = tuple[str, str, str]


class EndpointSlices(Controller):
    """`_pods` and `_services` index by (namespace, label key, label value): a pod's change finds its Services, a Service its pods, without a scan."""

    name = "endpointslices"

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._pods: dict[Label, set[str]] = {}
        self._services: dict[Label, set[str]] = {}
        self._slices: dict[str, set[str]] = {}
        self.services = self.watch(kinds.SERVICES, types.Service)
        self.pods = self.watch(kinds.PODS, types.Pod)
        self.nodes = self.watch(kinds.NODES, types.Node)
        self.slices = self.watch(kinds.ENDPOINTSLICES)
        self.endpoints = self.watch(kinds.ENDPOINTS)
        self.written, self.written_endpoints = Written(self.slices), Written(self.endpoints)
        self.services.add_handler(self._on_service)
        self.pods.add_handler(self._on_pod)
        self.slices.add_handler(self._on_slice)

    def _on_service(self, old: types.Service | None, new: types.Service | None) -> None:
        for each, add in ((old, False), (new, True)):
            if each is not None and each.spec.selector:
                _index(self._services, (each.metadata.namespace, *min(each.spec.selector.items())), each.metadata.key, add)
        service = new or old
        assert service is not None
        self.queue.add(service.metadata.key)

    def _on_pod(self, old: types.Pod | None, new: types.Pod | None) -> None:
        if old is not None and new is not None and plans.relevant(old) == plans.relevant(new):
            return
        for each, add in ((old, False), (new, True)):
            if each is not None:
                for label in _labels(each):
                    _index(self._pods, label, each.metadata.key, add)
        for each in (old, new):
            if each is not None:
                for key in self._services_of(each):
                    self.queue.add(key)

    def _services_of(self, pod: types.Pod) -> Iterator[str]:
        for label in _labels(pod):
            for key in self._services.get(label, ()):
                service = self.services.store.get(key)
                if service is not None and _selects(service, pod):
                    yield key

    def _on_slice(self, old: dict[str, Any] | None, new: dict[str, Any] | None) -> None:
        each = new or old
        assert each is not None
        meta = each["metadata"]
        service = (meta.get("labels") or {}).get(plans.SERVICE_NAME)
        if old is not None and new is not None and (old["metadata"].get("labels") or {}) != (meta.get("labels") or {}):
            former = (old["metadata"].get("labels") or {}).get(plans.SERVICE_NAME)
            if former and former != service:
                _index(self._slices, f"{meta['namespace']}/{former}", meta["name"], False)
                self.queue.add(f"{meta['namespace']}/{former}")
        if service:
            _index(self._slices, f"{meta['namespace']}/{service}", meta["name"], new is not None)
            self.queue.add(f"{meta['namespace']}/{service}")

    async def reconcile(self, key: str) -> None:
        service = self.services.store.get(key)
        if service is None:
            await self._remove_endpoints(key)
            return  # slices go with their owner, by garbage collection
        if not plans.wants_endpoints(service):
            return
        namespace = service.metadata.namespace
        pods = self._pods_of(service)
        plan = plans.plan_slices(service, pods, self._existing(key, namespace), self._zone_of)
        try:
            for each in plan.create:
                made = await self.client.create(kinds.ENDPOINTSLICES, each)
                self.written.put(f"{namespace}/{made['metadata']['name']}", made)
                _index(self._slices, key, made["metadata"]["name"], True)
            for each in plan.update:
                self.written.put(f"{namespace}/{each['metadata']['name']}", await self.client.update(kinds.ENDPOINTSLICES, each))
            for name in plan.delete:
                await self._delete_slice(name, namespace)
            if self.config.legacy_endpoints:
                await self._write_endpoints(service, pods, key)
        except errors.Forbidden as e:
            if "being terminated" not in str(e):
                raise
            return
        if plan:
            self.log.info("%s: %d endpoints; slices: %d created, %d updated, %d deleted", key, len(pods), len(plan.create), len(plan.update), len(plan.delete))

    def _pods_of(self, service: types.Service) -> list[types.Pod]:
        namespace = service.metadata.namespace
        keys = min((self._pods.get((namespace, k, v), set()) for k, v in service.spec.selector.items()), key=len)
        pods = (self.pods.store.get(key) for key in sorted(keys))
        return [pod for pod in pods if pod is not None and _selects(service, pod)]

    def _existing(self, key: str, namespace: str) -> list[dict[str, Any]]:
        slices = (self.written.get(f"{namespace}/{name}") for name in sorted(self._slices.get(key, ())))
        return [s for s in slices if s is not None and (s["metadata"].get("labels") or {}).get(plans.MANAGED_BY) == plans.CONTROLLER]

    def _zone_of(self, node_name: str) -> str:
        node = self.nodes.store.get(node_name)
        return node.metadata.labels.get("topology.kubernetes.io/zone", "") if node is not None else ""

    async def _delete_slice(self, name: str, namespace: str) -> None:
        try:
            await self.client.delete(kinds.ENDPOINTSLICES, name, namespace)
        except errors.NotFound:
            pass
        self.written.drop(f"{namespace}/{name}")

    async def _write_endpoints(self, service: types.Service, pods: list[types.Pod], key: str) -> None:
        existing = self.written_endpoints.get(key)
        wanted = plans.plan_endpoints(service, pods, existing)
        if wanted is not None:
            write = self.client.update if existing else self.client.create
            self.written_endpoints.put(key, await write(kinds.ENDPOINTS, wanted))

    async def _remove_endpoints(self, key: str) -> None:
        existing = self.endpoints.store.get(key)
        if existing is None or not self.config.legacy_endpoints or "endpoints.kubernetes.io/managed-by" not in (existing["metadata"].get("labels") or {}):
            return
        namespace, _, name = key.rpartition("/")
        try:
            await self.client.delete(kinds.ENDPOINTS, name, namespace, {"preconditions": {"uid": existing["metadata"]["uid"]}})
        except errors.NotFound:
            pass


def _labels(pod: types.Pod) -> Iterator[Label]:
    for key, value in pod.metadata.labels.items():
        yield pod.metadata.namespace, key, value


def _selects(service: types.Service, pod: types.Pod) -> bool:
    labels = pod.metadata.labels
    return all(labels.get(k) == v for k, v in service.spec.selector.items())


def _index(index: dict[Any, set[str]], at: Any, value: str, add: bool) -> None:
    if add:
        index.setdefault(at, set()).add(value)
    elif at in index:
        index[at].discard(value)
        if not index[at]:
            del index[at]
