"""Between the version a client asked for and the one that is stored (an Event of events.k8s.io/v1 is stored as core/v1, a HorizontalPodAutoscaler of autoscaling/v1 as v2).
Owns only the choice of the stored resource; the conversions are api.convert's."""

from __future__ import annotations

from functools import cache

import orjson

from apiserver.api import convert, kinds
from apiserver.registry.context import Object


def stored(resource: kinds.Resource) -> kinds.Resource:
    """The resource in the version it is stored in: itself for almost every kind."""
    return _stored(resource) if resource.storage_version else resource


@cache
def _stored(resource: kinds.Resource) -> kinds.Resource:
    found = kinds.for_kind(resource.storage_version, resource.kind)
    if found is None:
        raise LookupError(f"{resource.group_resource}: stored version {resource.storage_version} is not served")
    return found


def to_stored(resource: kinds.Resource, obj: Object) -> Object:
    return convert.convert(obj, resource, stored(resource)) if resource.storage_version else obj


def from_stored(resource: kinds.Resource, obj: Object) -> Object:
    return convert.convert(obj, stored(resource), resource) if resource.storage_version else obj


def answer(resource: kinds.Resource, data: bytes) -> bytes:
    """A stored document as the client asked for it; the same bytes wherever the versions agree."""
    if not resource.storage_version:
        return data
    return orjson.dumps(from_stored(resource, orjson.loads(data)))
