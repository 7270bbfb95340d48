"""Objects in other shapes: Tables (what `kubectl get` prints) and PartialObjectMetadata. Owns the documents around api.tables' cells, and the rows kept on cache entries.
Pure but for that; reading, watching and respond call it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from apiserver.api import errors, kinds, tables
from apiserver.rest import negotiation
from apiserver.rest.request import Request
from apiserver.store.cache import Entry

Object = dict[str, Any]
_ROW_AGE_S = 1.0  # cells show ages in seconds


def list_metadata(revision: int, continue_: str = "", remaining: int | None = None) -> Object:
    """ListMeta."""
    metadata: Object = {"resourceVersion": str(revision)}
    if continue_:
        metadata["continue"] = continue_
        if remaining:
            metadata["remainingItemCount"] = remaining
    return metadata


def include_object(request: Request) -> str:
    """None, Metadata (the default) or Object. Raises BadRequest."""
    policy = request.param("includeObject") or "Metadata"
    if policy not in ("None", "Metadata", "Object"):
        raise errors.BadRequest(f'includeObject: Unsupported value: "{policy}": supported values: "Metadata", "None", "Object"')
    return policy


def reshape(form: negotiation.Format, resource: kinds.Resource, data: bytes, request: Request) -> bytes:
    """One object's document as Table or PartialObjectMetadata; a Status stays what it is."""
    obj = orjson.loads(data)
    if obj.get("kind") == "Status":
        return data
    if form.shape == negotiation.PARTIAL:
        return partial(obj, form.version)
    row = _row(tables.cells(resource, obj, request.app.now()), obj, data, include_object(request), form.version)
    revision = obj.get("metadata", {}).get("resourceVersion", "")
    return table_document(resource, [row], {"resourceVersion": revision} if revision else {}, form.version)


def partial(obj: Object, version: str = "v1") -> bytes:
    return b'{"kind":"PartialObjectMetadata","apiVersion":"meta.k8s.io/%b","metadata":%b}' % (version.encode(), orjson.dumps(obj.get("metadata") or {}))


def table_document(resource: kinds.Resource, rows: Sequence[bytes], metadata: Object, version: str, *, columns: bool = True) -> bytes:
    """`columns` False leaves the definitions empty: the later events of a watch."""
    definitions = orjson.dumps(tables.columns(resource)) if columns else b"null"
    return b'{"kind":"Table","apiVersion":"meta.k8s.io/%b","metadata":%b,"columnDefinitions":%b,"rows":[%b]}' % (
        version.encode(), orjson.dumps(metadata), definitions, b",".join(rows),
    )  # fmt: skip


def partial_list(entries: Sequence[Entry], metadata: Object, version: str) -> bytes:
    items = b",".join([partial(entry.obj, version) for entry in entries])
    return b'{"kind":"PartialObjectMetadataList","apiVersion":"meta.k8s.io/%b","metadata":%b,"items":[%b]}' % (version.encode(), orjson.dumps(metadata), items)


def row(resource: kinds.Resource, entry: Entry, policy: str, now: float, version: str) -> bytes:
    """A Table row, kept on the entry for as long as the ages in it hold."""
    kept = entry.row
    key = (policy, version, resource.version)
    if kept is not None and kept[0] == key and 0 <= now - kept[1] < _ROW_AGE_S:
        return kept[2]
    made = _row(tables.cells(resource, entry.obj, now), entry.obj, entry.data, policy, version)
    entry.row = (key, now, made)
    return made


def _row(cells: list[Any], obj: Object, data: bytes, policy: str, version: str) -> bytes:
    if policy == "Object":
        shown = data
    elif policy == "Metadata":
        shown = partial(obj, version)
    else:
        shown = b"null"
    return b'{"cells":%b,"object":%b}' % (orjson.dumps(cells), shown)
