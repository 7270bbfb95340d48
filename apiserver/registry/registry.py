"""What every verb means for every kind. Owns the choice of what a verb on a resource or subresource does; how a write goes is in writing, what differs from kind to kind
in strategies, when a delete is final in deletion. Knows nothing of HTTP: REST calls it with decoded objects and sends the bytes it returns, which are complete JSON
documents with resourceVersion. Lists and watches are not here: REST reads them from the watch cache.
"""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections.abc import Callable
from typing import Any

import orjson

from apiserver.api import errors, kinds, patches, selectors, timestamps
from apiserver.registry import addresses, claims, deletion, metadata, ownership, podresources, scale, storage, tokens, versions, writing
from apiserver.registry.context import Admission, Config, IssueToken, Object, RequestContext
from apiserver.registry.storage import Current
from apiserver.registry.strategies import table
from apiserver.store import base
from apiserver.store.cache import Selection

JSON_PATCH, MERGE_PATCH = "application/json-patch+json", "application/merge-patch+json"
STRATEGIC_PATCH, APPLY_PATCH = "application/strategic-merge-patch+json", "application/apply-patch+yaml"
PATCH_TYPES = (JSON_PATCH, MERGE_PATCH, STRATEGIC_PATCH, APPLY_PATCH)
_DELETES_AT_ONCE = 32
_UPDATED_SUBRESOURCES = ("", "status", "finalize", "approval", "ephemeralcontainers")


class Registry:
    """Every method raises apiserver.api.errors only; store errors are translated (unavailable → 503, compacted → 410)."""

    def __init__(
        self, store: base.Store, cache: Any, admission: Admission, config: Config, *,
        now: Callable[[], float] = time.time, uid: Callable[[], str] = lambda: str(uuid.uuid4()), rng: random.Random | None = None, issue_token: IssueToken | None = None,
    ) -> None:  # fmt: skip
        rng = rng or random.Random()
        self.storage, self.config, self.now, self.issue_token = storage.Storage(store, cache), config, now, issue_token
        self.owned = _owned(self.storage, config, now, rng)
        self.writer = writing.Writer(self.storage, table.Strategies(config, self.owned), admission, now, uid, rng)

    async def get(self, ctx: RequestContext, resource: kinds.Resource, namespace: str, name: str, subresource: str = "") -> bytes:
        """One object, consistently (from the store). subresource: "", "status" or "scale" (and the others that are views of the object). Raises NotFound."""
        current = await self.storage.current(resource.key(namespace, name), fresh=True)
        if current is None:
            raise errors.NotFound(resource, name)
        if subresource == "scale":
            return orjson.dumps(scale.of(resource, current.obj))
        return versions.answer(resource, current.data)

    async def create(self, ctx: RequestContext, resource: kinds.Resource, namespace: str, obj: Object) -> bytes:
        """POST on the collection; `obj` is taken over (and changed in place). pods' `bindings` collection is create(BINDINGS, …). Raises AlreadyExists, Invalid, Forbidden, BadRequest."""
        if resource == kinds.BINDINGS:
            metadata.check_kind(resource, obj)
            name = metadata.of(obj).get("name")
            if not isinstance(name, str) or not name:
                raise errors.Invalid("", "Binding", "", [errors.Cause("metadata.name", "FieldValueRequired", "Required value: name or generateName is required")])
            return orjson.dumps(await podresources.bind(self.writer, ctx, namespace, name, obj))
        if "get" not in resource.verbs:
            raise errors.MethodNotAllowed(f"{resource.group_resource} are answered, not stored")
        return await self.writer.create(ctx, resource, namespace, obj)

    async def create_subresource(  # noqa: PLR0917
        self, ctx: RequestContext, resource: kinds.Resource, namespace: str, name: str, subresource: str, obj: Object,
    ) -> bytes:  # fmt: skip
        """POST on pods/binding, pods/eviction, serviceaccounts/token. Answers a Status (201) for the first two, the TokenRequest for the last."""
        if not isinstance(obj, dict):
            raise errors.BadRequest("the body of the request must be an object")
        if resource == kinds.PODS and subresource == "binding":
            return orjson.dumps(await podresources.bind(self.writer, ctx, namespace, name, obj))
        if resource == kinds.PODS and subresource == "eviction":
            return orjson.dumps(await podresources.evict(self.writer, ctx, namespace, name, obj))
        if resource == kinds.SERVICEACCOUNTS and subresource == "token":
            return orjson.dumps(await tokens.Requests(self.writer, self.issue_token).answer(ctx, namespace, name, obj))
        raise errors.MethodNotAllowed(f"create is not supported on {resource.group_resource}/{subresource}")

    async def update(  # noqa: PLR0917
        self, ctx: RequestContext, resource: kinds.Resource, namespace: str, name: str, obj: Object, subresource: str = "",
    ) -> bytes:  # fmt: skip
        """PUT. subresource: "", status, scale, finalize, ephemeralcontainers, approval. Creates where Kubernetes lets PUT create (then ctx.created is True). Raises
        NotFound, Conflict, Invalid, Forbidden, BadRequest."""
        target = writing.Target(resource, namespace, name, subresource)
        _check_subresource(target)
        version = metadata.of(obj).get("resourceVersion")
        if subresource == "scale":
            return await self._scaled(ctx, target, lambda current: obj)
        flags = self.writer.strategies.of(target.stored).flags
        if not version and not subresource and not flags.unconditional_update:
            why = "Invalid value: 0: must be specified for an update"
            if not (flags.create_on_update and await self.storage.current(target.key) is None):
                raise errors.Invalid(resource.group, resource.kind, name, [errors.Cause("metadata.resourceVersion", "FieldValueInvalid", why)])
        pristine = orjson.dumps(obj)
        try:
            return await self.writer.modify(ctx, target, lambda current: orjson.loads(pristine))
        except errors.NotFound:
            if subresource or not flags.create_on_update:
                raise
        return await self._create_by_update(ctx, target, obj)

    async def _create_by_update(self, ctx: RequestContext, target: writing.Target, obj: Object, managed: list[Object] | None = None) -> bytes:
        meta = metadata.of(obj)
        if meta.get("uid"):
            why = f"Precondition failed: UID in precondition: {meta['uid']}, UID in object meta: "
            raise errors.Conflict(target.resource, target.name, why)
        if meta.get("name", target.name) != target.name:
            raise errors.BadRequest(f"the name of the object ({meta['name']}) does not match the name on the URL ({target.name})")
        if meta.pop("resourceVersion", None) not in {None, "", "0"}:
            raise errors.NotFound(target.resource, target.name)
        meta["name"] = target.name
        data = await self.writer.create(ctx, target.resource, target.namespace, obj, managed)
        ctx.created = True
        return data

    async def patch(  # noqa: PLR0917
        self, ctx: RequestContext, resource: kinds.Resource, namespace: str, name: str, patch_type: str, patch: Any, subresource: str = "",
    ) -> tuple[bytes, bool]:  # fmt: skip
        """PATCH; `patch_type` is the media type ("application/json-patch+json", "application/merge-patch+json", "application/strategic-merge-patch+json",
        "application/apply-patch+yaml"), `patch` the decoded body. Answers (document, created). Raises as update() does, and UnsupportedMediaType."""
        target = writing.Target(resource, namespace, name, subresource)
        _check_subresource(target)
        if patch_type == APPLY_PATCH and subresource != "scale" and not resource.storage_version:
            return await self._apply(ctx, target, patch)
        apply = _patcher(resource, patch_type, patch)
        if subresource == "scale":
            return await self._scaled(ctx, target, lambda current: apply(scale.of(resource, current.copy()))), False

        def build(current: Current) -> Object:
            return apply(versions.from_stored(resource, current.copy()))

        return await self.writer.modify(ctx, target, build), False

    async def _apply(self, ctx: RequestContext, target: writing.Target, applied: Any) -> tuple[bytes, bool]:
        """Server-side apply; ctx.field_manager and ctx.force count. Creates what is not there."""
        resource = target.resource
        ownership.check_applied(resource, target.name, applied, ctx.field_manager)
        metadata.drop_nulls(applied)
        manager = ownership.Manager(ctx.field_manager, "Apply", resource.api_version, target.subresource)
        now, pristine = timestamps.format_time(self.now()), orjson.dumps(applied)

        def build(current: Current) -> Object:
            return ownership.apply(resource, current.copy(), orjson.loads(pristine), manager, force=ctx.force, now=now)

        applying = writing.Target(resource, target.namespace, target.name, target.subresource, True)
        try:
            return await self.writer.modify(ctx, applying, build), False
        except errors.NotFound:
            if target.subresource or await self.storage.current(target.key, fresh=True) is not None:
                raise
        managed = ownership.first(resource, applied, manager, now)
        try:
            data = await self._create_by_update(ctx, target, applied, managed)
        except errors.AlreadyExists:
            return await self.writer.modify(ctx, applying, build), False
        return data, True

    async def _scaled(self, ctx: RequestContext, target: writing.Target, wanted: Callable[[Current], Any]) -> bytes:
        """Writes the replicas of a Scale into the workload; answers the Scale."""
        resource = target.resource

        def build(current: Current) -> Object:
            return scale.with_replicas(resource, wanted(current), current.copy(), target.name, current.revision)

        data = await self.writer.modify(ctx, writing.Target(resource, target.namespace, target.name), build)
        return orjson.dumps(scale.of(resource, orjson.loads(data)))

    async def delete(self, ctx: RequestContext, resource: kinds.Resource, namespace: str, name: str, options: Object) -> tuple[bytes, bool]:
        """DELETE with decoded DeleteOptions ({} = none; `dryRun: [All]` there counts like ctx.dry_run). Answers (document, finished): a Status of success or, for kinds where
        Kubernetes does so, the deleted object; finished False = still being deleted (grace, finalizers), the document is then the object."""
        return await self.writer.delete(ctx, writing.Target(resource, namespace, name), deletion.parse_options(options))

    async def delete_collection(
        self, ctx: RequestContext, resource: kinds.Resource, namespace: str, options: Object, *, label_selector: str = "", field_selector: str = "",
    ) -> bytes:  # fmt: skip
        """DELETE on the collection: each object as delete() would; one that is gone meanwhile is no error. Answers the List of what was found."""
        parsed = deletion.parse_options(options)
        labels, fields = selectors.parse_labels(label_selector), selectors.parse_fields(field_selector)
        with storage.translated():
            revision = await self.storage.cache.fresh()
        found = self.storage.cache.list(resource.storage_prefix, Selection(namespace=namespace)).entries
        chosen = [entry for entry in found if labels.matches(entry.labels) and fields.matches(entry.fields)]
        for start in range(0, len(chosen), _DELETES_AT_ONCE):
            part = chosen[start : start + _DELETES_AT_ONCE]
            outcomes = await asyncio.gather(*(self._delete_one(ctx, resource, entry, parsed) for entry in part), return_exceptions=True)
            for outcome in outcomes:
                if isinstance(outcome, BaseException):
                    raise outcome
        items = b",".join(versions.answer(resource, entry.data) for entry in chosen)
        head = orjson.dumps({"apiVersion": resource.api_version, "kind": resource.list_kind, "metadata": {"resourceVersion": str(revision)}})
        return head[:-1] + b',"items":[' + items + b"]}"

    async def _delete_one(self, ctx: RequestContext, resource: kinds.Resource, entry: Any, options: deletion.Options) -> None:
        try:
            await self.writer.delete(ctx, writing.Target(resource, entry.namespace, entry.name), options)
        except errors.NotFound:
            pass


def _check_subresource(target: writing.Target) -> None:
    """PUT and PATCH: refuses subresources the kind has not, or that this server does not change."""
    name = target.subresource
    if name and target.resource.subresource(name) is None:
        raise errors.NotFound()
    if name != "scale" and name not in _UPDATED_SUBRESOURCES:
        raise errors.MethodNotAllowed(f"update is not supported on {target.resource.group_resource}/{name}")


def _patcher(resource: kinds.Resource, patch_type: str, patch: Any) -> Callable[[Object], Any]:
    """The function that applies the patch to a document of its own, as often as asked (so each time with a patch of its own). Raises UnsupportedMediaType, BadRequest."""
    pristine = orjson.dumps(patch)
    if patch_type == JSON_PATCH:
        if not isinstance(patch, list):
            raise errors.BadRequest("a JSON patch must be a list of operations")
        return lambda doc: _object(patches.json_patch(doc, orjson.loads(pristine)))
    if patch_type not in {MERGE_PATCH, STRATEGIC_PATCH}:
        raise errors.UnsupportedMediaType(PATCH_TYPES)
    if not isinstance(patch, dict):
        raise errors.BadRequest("a merge patch must be an object")
    if patch_type == MERGE_PATCH:
        return lambda doc: _object(patches.merge_patch(doc, orjson.loads(pristine)))
    return lambda doc: _object(patches.strategic_merge(resource, doc, orjson.loads(pristine)))


def _object(doc: Any) -> Object:
    if not isinstance(doc, dict):
        raise errors.BadRequest("the patched document is not an object")
    return doc


def _owned(store: storage.Storage, config: Config, now: Callable[[], float], rng: random.Random) -> table.Owned:
    """The allocators; a claim is alive while the object of its owner's uid exists."""

    def alive(resource: kinds.Resource) -> Callable[[claims.Owner], Any]:
        async def check(owner: claims.Owner) -> bool:
            obj = await store.read(resource, owner.namespace, owner.name, fresh=True)
            return obj is not None and obj["metadata"].get("uid") == owner.uid

        return check

    def family(name: str, resource: kinds.Resource) -> claims.Claims:
        return claims.Claims(store.store, name, now, alive(resource))

    ips, ports = addresses.AddressPool.parse(config.service_cluster_ip_range), addresses.PortPool(*config.node_port_range)
    return table.Owned(
        addresses.Allocator(ips, family("clusterips", kinds.SERVICES), rng, "provided IP is already allocated"),
        addresses.Allocator(ports, family("nodeports", kinds.SERVICES), rng, "provided port is already allocated"),
        family("podcidrs", kinds.NODES),
    )
