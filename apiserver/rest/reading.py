"""GET and LIST out of the watch cache: bytes that were encoded once, joined. Owns the meaning of resourceVersion, resourceVersionMatch, limit and continue
(kubernetes.io/docs/reference/using-api/api-concepts#resource-versions). Writes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import orjson

from apiserver.api import errors, kinds
from apiserver.registry.context import RequestContext
from apiserver.rest import negotiation, representations, respond, selecting
from apiserver.rest.request import Request
from apiserver.store import base
from apiserver.store.cache import Cache, Entry, ListResult, Selection

EXACT, NOT_OLDER = "Exact", "NotOlderThan"
_ENTRIES_PER_PIECE = 400
_WAIT_S = 3.0


@contextmanager
def translated() -> Iterator[None]:
    """The cache's and the store's errors as API errors."""
    try:
        yield
    except base.Compacted as err:
        raise errors.Expired(f"The provided continue parameter or resourceVersion is too old: {err}") from err
    except base.FutureRevision as err:
        raise errors.Timeout(str(err) or "Too large resource version") from err
    except base.StoreUnavailable as err:
        raise errors.Unavailable(f"the store does not answer: {err}") from err


def revision_param(request: Request) -> str:
    """`resourceVersion`: "", "0" or a positive number. Raises Invalid."""
    text = request.param("resourceVersion")
    if text and not (text.isascii() and text.isdigit() and len(text) < 20):
        raise errors.BadRequest(f'resourceVersion: Invalid value: "{text}": must be a whole number that the server gave out')
    return text


async def get(request: Request) -> None:
    """GET of an object or of its status. resourceVersion=0 takes what the cache has; otherwise the answer is as new as the store."""
    resource, cache = request.resource, request.app.cache
    with translated():
        wanted = revision_param(request) if request.query else ""
        if not wanted:
            await cache.fresh()
        elif wanted != "0":
            await cache.wait_for(int(wanted), _WAIT_S)
    entry = cache.get(resource.key(request.namespace, request.name))
    if entry is None:
        raise errors.NotFound(resource, request.name)
    view = selecting.view(resource)
    await respond.document(request, 200, (entry.in_view(view) if view else entry).data, resource)


async def get_scale(request: Request) -> None:
    ctx = RequestContext(request.user)
    data = await request.app.registry.get(ctx, request.resource, request.namespace, request.name, "scale")
    await respond.document(request, 200, data)


async def list_(request: Request) -> None:
    """LIST in any form: whole objects, Table, PartialObjectMetadataList."""
    form = request.format
    policy = representations.include_object(request) if form.shape == negotiation.TABLE else ""
    result = await read_list(request, selecting.selection(request))
    resource, metadata = request.resource, representations.list_metadata(result.revision, result.continue_, result.remaining)
    if form.shape == negotiation.TABLE:
        now = request.app.now()
        rows = [representations.row(resource, entry, policy, now, form.version) for entry in result.entries]
        data = representations.table_document(resource, rows, metadata, form.version)
    elif form.shape == negotiation.PARTIAL:
        data = representations.partial_list(result.entries, metadata, form.version)
    else:
        head = list_head(resource, metadata)
        if len(result.entries) > _ENTRIES_PER_PIECE and form.plain and not request.pretty:
            await _send_joined(request, head, result.entries)
            return
        data = b"".join((head, b",".join([entry.data for entry in result.entries]), b"]}"))
    await respond.document(request, 200, data)


def list_head(resource: kinds.Resource, metadata: representations.Object) -> bytes:
    return b'{"kind":"%b","apiVersion":"%b","metadata":%b,"items":[' % (resource.list_kind.encode(), resource.api_version.encode(), orjson.dumps(metadata))


async def _send_joined(request: Request, head: bytes, entries: Sequence[Entry]) -> None:
    """A large list piece by piece: its length is known without joining it, and others get their turn in between."""
    length = len(head) + sum([len(entry.data) for entry in entries]) + len(entries) - 1 + 2
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % length)]
    await request.send({"type": "http.response.start", "status": 200, "headers": headers})
    prefix = head
    for at in range(0, len(entries), _ENTRIES_PER_PIECE):
        piece = prefix + b",".join([entry.data for entry in entries[at : at + _ENTRIES_PER_PIECE]])
        prefix = b","
        await request.send({"type": "http.response.body", "body": piece, "more_body": True})
        await asyncio.sleep(0)
    await request.send({"type": "http.response.body", "body": b"]}"})


async def read_list(request: Request, selection: Selection) -> ListResult:
    """The entries a LIST asks for, as fresh as it asks. Raises BadRequest, Invalid, Expired, Timeout."""
    cache, prefix = request.app.cache, request.resource.storage_prefix
    if not request.query:
        with translated():
            await cache.fresh()
            return cache.list(prefix, selection)
    limit, token = request.number("limit"), request.param("continue")
    revision = revision_param(request)
    match = _revision_match(request, revision, token, limit)
    with translated():
        if token:
            try:
                return cache.list(prefix, selection, limit=limit, continue_token=token)
            except ValueError as err:
                raise errors.BadRequest(str(err)) from err
        exact = await _await_revision(cache, revision, match)
        return cache.list(prefix, selection, limit=limit, revision=exact)


async def _await_revision(cache: Cache, revision: str, match: str) -> int:
    """Waits until the cache is fresh enough; answers the revision to list at, 0 = now."""
    if not revision:
        await cache.fresh()
    elif revision != "0":
        await cache.wait_for(int(revision), _WAIT_S)
        if match == EXACT:
            return int(revision)
    return 0


def _revision_match(request: Request, revision: str, token: str, limit: int) -> str:
    """resourceVersionMatch, defaulted as Kubernetes does: Exact for the first page of a limited list at a given revision, else NotOlderThan."""
    match = request.param("resourceVersionMatch")
    if token and revision not in ("", "0"):
        raise errors.BadRequest("specifying resource version is not allowed when using continue")
    why = ""
    if match and token:
        why = "Forbidden: resourceVersionMatch is forbidden when continue is provided"
    elif match and not revision:
        why = "Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided"
    elif match and match not in (EXACT, NOT_OLDER):
        why = f'Unsupported value: "{match}": supported values: "Exact", "NotOlderThan"'
    elif match == EXACT and revision == "0":
        why = 'Forbidden: resourceVersionMatch "Exact" is forbidden for resourceVersion "0"'
    if why:
        reason = "FieldValueForbidden" if why.startswith("Forbidden") else "FieldValueNotSupported"
        raise errors.Invalid("meta.k8s.io", "ListOptions", "", [errors.Cause("resourceVersionMatch", reason, why)])
    return match or (EXACT if limit and revision not in ("", "0") else NOT_OLDER)
