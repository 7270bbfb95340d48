"""POST, PUT, PATCH, DELETE: from the query and body to one call of the registry, and its bytes back. Owns the query parameters of writes (fieldManager, fieldValidation,
dryRun, force); what a write means is the registry's."""

from __future__ import annotations

from apiserver.api import errors
from apiserver.registry.context import RequestContext
from apiserver.rest import bodies, respond, selecting
from apiserver.rest.request import Request

_VALIDATIONS = ("Strict", "Warn", "Ignore")
_MAX_MANAGER = 128


def context(request: Request) -> RequestContext:
    """Raises BadRequest, Invalid for parameters that cannot be."""
    if not request.query:
        return RequestContext(request.user, _default_manager(request))
    validation = request.param("fieldValidation") or "Warn"
    if validation not in _VALIDATIONS:
        why = f'Unsupported value: "{validation}": supported values: "Ignore", "Strict", "Warn"'
        raise errors.Invalid("meta.k8s.io", _options_kind(request), "", [errors.Cause("fieldValidation", "FieldValueNotSupported", why)])
    manager = request.param("fieldManager")
    if len(manager) > _MAX_MANAGER or not manager.isprintable():
        why = f'Invalid value: "{manager[:40]}": may not be more than {_MAX_MANAGER} printable characters'
        raise errors.Invalid("meta.k8s.io", _options_kind(request), "", [errors.Cause("fieldManager", "FieldValueInvalid", why)])
    return RequestContext(request.user, manager or _default_manager(request), validation, request.dry_run, request.flag("force"))


def _options_kind(request: Request) -> str:
    return {"POST": "CreateOptions", "PUT": "UpdateOptions", "PATCH": "PatchOptions"}.get(request.method, "DeleteOptions")


def _default_manager(request: Request) -> str:
    """The program's name at the front of User-Agent, as Kubernetes does."""
    return request.header(b"user-agent").partition("/")[0][:_MAX_MANAGER] or "unknown"


async def create(request: Request) -> None:
    ctx = context(request)
    obj = await bodies.read_object(request, request.resource, ctx.warnings, ctx.field_validation)
    data = await request.app.registry.create(ctx, request.resource, request.namespace, obj)
    await respond.document(request, 201, data, request.resource, ctx.warnings)


async def create_subresource(request: Request) -> None:
    """binding, eviction, token."""
    ctx = context(request)
    assert request.target is not None
    obj = await bodies.read_object(request, None, ctx.warnings)
    data = await request.app.registry.create_subresource(ctx, request.resource, request.namespace, request.name, request.target.subresource, obj)
    await respond.document(request, 201, data, None, ctx.warnings)


async def update(request: Request) -> None:
    ctx = context(request)
    assert request.target is not None
    subresource = request.target.subresource
    obj = await bodies.read_object(request, request.resource if subresource != "scale" else None, ctx.warnings, ctx.field_validation)
    data = await request.app.registry.update(ctx, request.resource, request.namespace, request.name, obj, subresource)
    await respond.document(request, 201 if ctx.created else 200, data, request.resource if subresource != "scale" else None, ctx.warnings)


async def patch(request: Request) -> None:
    ctx = context(request)
    assert request.target is not None
    subresource = request.target.subresource
    media, change = await bodies.read_patch(request)
    if media == "application/apply-patch+yaml" and not request.param("fieldManager"):
        raise errors.Invalid("meta.k8s.io", "PatchOptions", "", [errors.Cause("fieldManager", "FieldValueRequired", "Required value: is required for apply patch")])
    data, created = await request.app.registry.patch(ctx, request.resource, request.namespace, request.name, media, change, subresource)
    await respond.document(request, 201 if created else 200, data, request.resource if subresource != "scale" else None, ctx.warnings)


async def delete(request: Request) -> None:
    options = await bodies.read_options(request)
    ctx = RequestContext(request.user, dry_run=request.dry_run if request.query else False)
    data, finished = await request.app.registry.delete(ctx, request.resource, request.namespace, request.name, options)
    accepted = not finished and options.get("orphanDependents") is False
    await respond.document(request, 202 if accepted else 200, data, request.resource, ctx.warnings)


async def delete_collection(request: Request) -> None:
    options = await bodies.read_options(request)
    ctx = RequestContext(request.user, dry_run=request.dry_run if request.query else False)
    selecting.selection(request)  # refuses what cannot be selected by before anything is deleted
    data = await request.app.registry.delete_collection(
        ctx, request.resource, request.namespace, options, label_selector=request.param("labelSelector"), field_selector=request.param("fieldSelector"),
    )  # fmt: skip
    await respond.document(request, 200, data, None, ctx.warnings)
