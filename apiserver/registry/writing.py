"""How one object is written: the order of check, prepare, default, admit, validate, claim and compare-and-swap, for creates and for read-modify-write. Owns the retry on
lost races; knows no verb and no HTTP. The registry's verbs and subresources call it.

A write starts from the watch cache's state. Whatever it concludes from a state that may be old (an error, "nothing to do") is concluded again from the store's.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson

from apiserver.api import defaults, errors, kinds, schema, timestamps, validation
from apiserver.registry import deletion, metadata, ownership, storage, versions
from apiserver.registry.context import Admission, AdmissionRequest, Object, Operation, RequestContext
from apiserver.registry.storage import Current
from apiserver.registry.strategies import cluster, ephemeral, services, strategy, table

WRITE_RETRIES = 20
GENERATE_NAME_TRIES = 8


@dataclass(frozen=True, slots=True)
class Target:
    """What a request is about: `resource` as the client named it, `stored` as it lies in the store."""

    resource: kinds.Resource
    namespace: str
    name: str
    subresource: str = ""
    applying: bool = False  # a server-side apply, which brings its own managedFields

    @property
    def stored(self) -> kinds.Resource:
        return versions.stored(self.resource)

    @property
    def key(self) -> str:
        return self.resource.key(self.namespace, self.name)


# What is there now → the document wanted, in the client's version. It may be called several times, and must not change what it is given.
Build = Callable[[Current], Object]


@dataclass(slots=True)
class Writer:
    storage: storage.Storage
    strategies: table.Strategies
    admission: Admission
    now: Callable[[], float]
    uid: Callable[[], str]
    rng: random.Random

    async def create(self, ctx: RequestContext, resource: kinds.Resource, namespace: str, obj: Object, managed: list[Object] | None = None) -> bytes:
        """Stores a new object (with `managed` as its managedFields) and answers its document. A generated name that is taken is generated again."""
        meta = obj.get("metadata")
        if not isinstance(meta, dict) or meta.get("name"):
            return await self._create_once(ctx, resource, namespace, obj, managed)
        pristine = orjson.dumps(obj)
        for _ in range(GENERATE_NAME_TRIES - 1):
            try:
                return await self._create_once(ctx, resource, namespace, obj)
            except errors.AlreadyExists:
                obj = orjson.loads(pristine)
        return await self._create_once(ctx, resource, namespace, obj)

    async def _create_once(self, ctx: RequestContext, resource: kinds.Resource, namespace: str, obj: Object, managed: list[Object] | None = None) -> bytes:
        metadata.check_kind(resource, obj)
        metadata.drop_nulls(obj)
        check_fields(ctx, resource, obj)
        metadata.prepare_create(resource, namespace, obj, now=self.now(), uid=self.uid(), rng=self.rng)
        if managed:
            obj["metadata"]["managedFields"] = managed
        stored = versions.stored(resource)
        if resource.storage_version:
            defaults.apply(resource, obj)
            obj = versions.to_stored(resource, obj)
        kind = self.strategies.of(stored)
        kind.prepare_create(ctx, obj, self.now())
        defaults.apply(stored, obj)
        name = obj["metadata"]["name"]
        request = self._request(ctx, "CREATE", Target(stored, namespace, name), obj, None)
        await self.admission.admit(request)
        causes = validation.validate_create(stored, obj) + own_causes(stored, obj)
        if causes:
            raise kind.invalid(obj, *causes)
        kind.complete_create(obj)
        await self.admission.validate(request)
        return versions.answer(resource, await self._store_new(ctx, stored, kind, Target(stored, namespace, name), obj))

    async def _store_new(self, ctx: RequestContext, resource: kinds.Resource, kind: strategy.Strategy, target: Target, obj: Object) -> bytes:
        if ctx.dry_run:
            if await self.storage.current(target.key, fresh=True) is not None:
                raise errors.AlreadyExists(resource, target.name)
            await kind.reserve(obj, None, dry_run=True)
            return storage.document(obj)
        reservation = await kind.reserve(obj, None, dry_run=False)
        try:
            data = await self.storage.create(resource, target.key, target.name, obj, kind.flags.ttl_s)
        except errors.ApiError as err:
            # Unavailable (or a cancelled request): it may have been written, so what it claimed stays, and repair decides.
            if reservation is not None and not isinstance(err, errors.Unavailable):
                await reservation.rollback()
            raise
        if reservation is not None:
            await reservation.commit()
        return data

    async def modify(self, ctx: RequestContext, target: Target, build: Build, *, trusted: bool = False) -> bytes:
        """Read, build, compare-and-swap, until it holds. A `trusted` build is our own code's (binding): it is written as it comes, in the stored version. Raises
        NotFound, Conflict and whatever build, admission and validation raise."""
        current = await self.storage.current(target.key)
        for _ in range(WRITE_RETRIES):
            if current is None:
                raise errors.NotFound(target.resource, target.name)
            try:
                new = build(current) if trusted else await self._rebuilt(ctx, target, build, current)
            except errors.ApiError:
                if current.fresh:
                    raise
                current = await self.storage.current(target.key, fresh=True)
                continue
            if metadata.same(new, current.obj):
                if current.fresh:
                    return versions.answer(target.resource, current.data)
                stale, current = current, await self.storage.current(target.key, fresh=True)
                if current is not None and current.revision == stale.revision:
                    return versions.answer(target.resource, current.data)
                continue
            outcome = await self._swap(ctx, target, new, current)
            if isinstance(outcome, bytes):
                return versions.answer(target.resource, outcome)
            current = outcome
        raise errors.Conflict(target.resource, target.name)

    async def _rebuilt(self, ctx: RequestContext, target: Target, build: Build, current: Current) -> Object:
        """The validated document that is to replace `current`, in the stored version."""
        resource, stored, old = target.resource, target.stored, current.obj
        kind = self.strategies.of(stored)
        new = build(current)
        metadata.check_kind(resource, new)
        metadata.drop_nulls(new)
        check_fields(ctx, resource, new if target.subresource != "status" else _status_part(new))
        meta = metadata.of(new)
        managed = meta.pop("managedFields", None)
        metadata.prepare_update(resource, new, old, target.namespace, target.name)
        metadata.check_resource_version(resource, target.name, meta.get("resourceVersion"), current.revision)
        if resource.storage_version:
            new = versions.to_stored(resource, new)
        new = self._merged(target.subresource, kind, new, old)
        if target.subresource != "status":
            defaults.apply(stored, new)
        request = self._request(ctx, "UPDATE", Target(stored, target.namespace, target.name, target.subresource), new, old)
        await self.admission.admit(request)
        if not target.subresource and kind.spec_changed(new, old):
            new["metadata"]["generation"] = old["metadata"].get("generation", 0) + 1
        if target.subresource != "status" or new["metadata"] is not old["metadata"]:
            causes = self._update_causes(target, stored, new, old)
            if causes:
                raise kind.invalid(new, *causes)
        await self.admission.validate(request)
        self._own(ctx, target, new, old, managed)
        return new

    def _own(self, ctx: RequestContext, target: Target, new: Object, old: Object, managed: Any) -> None:
        """Puts managedFields into `new`: an apply's own; else the old ones brought up to date, unless the client sent an empty list, which resets them."""
        before = old["metadata"].get("managedFields")
        if target.applying:
            kept = managed
        elif before and managed not in ([], [{}]):
            manager = ownership.Manager(ctx.field_manager or "unknown", "Update", target.stored.api_version, target.subresource)
            kept = ownership.after_update(target.stored, old, new, manager, timestamps.format_time(self.now()))
        else:
            kept = None
        if kept != new["metadata"].get("managedFields"):
            meta = {key: value for key, value in new["metadata"].items() if key != "managedFields"}
            new["metadata"] = {**meta, "managedFields": kept} if kept else meta

    def _merged(self, subresource: str, kind: strategy.Strategy, new: Object, old: Object) -> Object:
        """The part of the object that this resource or subresource may change, over the rest of the old one."""
        if not subresource:
            kind.prepare_update(new, old)
            return new
        if subresource == "status":
            return kind.prepare_status(new, old)
        return SUBRESOURCES[subresource](new, old)

    def _update_causes(self, target: Target, stored: kinds.Resource, new: Object, old: Object) -> list[errors.Cause]:
        if target.subresource in {"status", "ephemeralcontainers", "approval", "finalize"}:
            return validation.validate_metadata_update(stored, new, old)
        return validation.validate_update(stored, new, old) + own_causes(stored, new)

    async def _swap(self, ctx: RequestContext, target: Target, new: Object, current: Current) -> bytes | Current | None:
        kind = self.strategies.of(target.stored)
        if deletion.vanishes(kind, new):
            return storage.document(new) if ctx.dry_run else await self._remove(target, kind, current)
        reservation = None if target.subresource else await kind.reserve(new, current.obj, dry_run=ctx.dry_run)
        if ctx.dry_run:
            return storage.document(new)
        try:
            outcome = await self.storage.update(target.key, new, current.revision, kind.flags.ttl_s)
        except errors.ApiError as err:
            if reservation is not None and not isinstance(err, errors.Unavailable):
                await reservation.rollback()
            raise
        if reservation is not None:
            await (reservation.commit() if isinstance(outcome, bytes) else reservation.rollback())
        return outcome

    async def _remove(self, target: Target, kind: strategy.Strategy, current: Current) -> bytes | Current | None:
        outcome = await self.storage.delete(target.key, current.revision)
        if isinstance(outcome, bytes):
            await kind.released(current.obj)
        return outcome

    async def delete(self, ctx: RequestContext, target: Target, options: deletion.Options) -> tuple[bytes, bool]:
        """One DELETE, until it holds: (document, finished)."""
        resource, kind = target.resource, self.strategies.of(target.stored)
        dry_run = ctx.dry_run or options.dry_run
        current = await self.storage.current(target.key, fresh=True)
        for _ in range(WRITE_RETRIES):
            if current is None:
                raise errors.NotFound(resource, target.name)
            deletion.check_preconditions(resource, target.name, current.obj, options)
            await self.admission.validate(self._request(ctx, "DELETE", Target(target.stored, target.namespace, target.name), None, current.obj))
            plan = deletion.plan_delete(kind, current.obj, options, self.now())
            if isinstance(plan, deletion.Pending):
                return versions.answer(resource, current.data), False
            if isinstance(plan, deletion.Mark):
                marked = storage.document(plan.obj) if dry_run else await self.storage.update(target.key, plan.obj, current.revision, kind.flags.ttl_s)
                if isinstance(marked, bytes):
                    return versions.answer(resource, marked), False
                current = marked
                continue
            removed = current.data if dry_run else await self._remove(target, kind, current)
            if isinstance(removed, bytes):
                return self._farewell(target, kind, current.obj, removed), True
            current = removed
        raise errors.Conflict(resource, target.name)

    def _farewell(self, target: Target, kind: strategy.Strategy, obj: Object, data: bytes) -> bytes:
        if kind.flags.returns_deleted:
            return versions.answer(target.resource, data)
        details = {"name": target.name, "group": target.resource.group, "kind": target.resource.plural, "uid": obj["metadata"].get("uid", "")}
        return orjson.dumps(errors.success({key: value for key, value in details.items() if value}))

    def _request(self, ctx: RequestContext, operation: Operation, target: Target, obj: Object | None, old: Object | None) -> AdmissionRequest:
        return AdmissionRequest(operation, ctx.user, target.resource, target.subresource, target.namespace, target.name, obj, old, ctx.dry_run, ctx.warnings)


def check_fields(ctx: RequestContext, resource: kinds.Resource, obj: Object) -> None:
    """Strict decoding as fieldValidation asks: wrong types are refused always; unknown fields under Strict, told under Warn. Raises BadRequest."""
    problems = schema.check_fields(resource, obj)
    if problems and ctx.field_validation == "Strict":
        raise schema.strict_error(resource, problems)
    if problems and ctx.field_validation != "Ignore":
        ctx.warnings.extend(text for text in problems if text not in ctx.warnings)


def own_causes(resource: kinds.Resource, new: Object) -> list[errors.Cause]:
    """Rules that hang on what the registry itself fills in."""
    return services.family_causes(new) if resource is kinds.SERVICES else []


def _status_part(obj: Object) -> Object:
    return {key: obj[key] for key in ("apiVersion", "kind", "metadata", "status") if key in obj}


SUBRESOURCES: dict[str, Callable[[Object, Object], Object]] = {
    "finalize": cluster.finalized,
    "approval": cluster.approved,
    "ephemeralcontainers": ephemeral.with_ephemeral_containers,
}
