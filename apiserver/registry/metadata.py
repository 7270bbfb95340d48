"""What metadata means on every write, for any kind: names, generateName, uid, timestamps, generation, what a client may not change. Pure; the registry calls it with
the clock's and the randomness' values. Kubernetes' API conventions ("Metadata") are the source of the rules.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import orjson

from apiserver.api import errors, kinds, timestamps
from apiserver.registry.context import Object

# No vowels and no look-alikes, so that no words come out: Kubernetes' alphabet for generated names.
SUFFIX_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"
SUFFIX_LENGTH = 5
MAX_GENERATED_BASE = 63 - SUFFIX_LENGTH
_SERVER_OWNED = ("uid", "creationTimestamp", "generation", "deletionTimestamp", "deletionGracePeriodSeconds")


def generate_name(base: str, rng: random.Random) -> str:
    """`web-` → `web-x7k2p`; the base is cut so that the whole fits a label."""
    return base[:MAX_GENERATED_BASE] + suffix(rng)


def suffix(rng: random.Random) -> str:
    return "".join(rng.choices(SUFFIX_ALPHABET, k=SUFFIX_LENGTH))


def of(obj: Object) -> Object:
    """The object's metadata, made where missing. Raises BadRequest where it is not an object."""
    metadata = obj.get("metadata")
    if metadata is None:
        metadata = obj["metadata"] = {}
    if not isinstance(metadata, dict):
        raise errors.BadRequest("metadata: must be an object")
    return metadata


def check_kind(resource: kinds.Resource, obj: Object) -> None:
    """Fills apiVersion and kind from the URL where absent; another kind than the URL's is a BadRequest."""
    for field, want in (("apiVersion", resource.api_version), ("kind", resource.kind)):
        have = obj.get(field)
        if not have:
            obj[field] = want
        elif have != want:
            raise errors.BadRequest(f"the {field} in the data ({have}) does not match the expected {field} ({want})")


def drop_nulls(obj: Object) -> None:
    """Takes fields that are null out of a document, in place: null means "not set" (API conventions). Raises BadRequest on what cannot be encoded (nested too deep)."""
    try:
        encoded = orjson.dumps(obj)
    except (TypeError, RecursionError) as err:
        raise errors.BadRequest(f"cannot encode object: {err}") from err
    if b"null" in encoded:  # far cheaper than a walk, and hardly ever true
        _drop_nulls(obj)


def _drop_nulls(value: object) -> None:
    if isinstance(value, dict):
        for key in [key for key, child in value.items() if child is None]:
            del value[key]
        for child in value.values():
            _drop_nulls(child)
    elif isinstance(value, list):
        for child in value:
            _drop_nulls(child)


def check_namespace(resource: kinds.Resource, metadata: Object, namespace: str) -> None:
    """The document's namespace against the URL's; fills it in."""
    if not resource.namespaced:
        if metadata.pop("namespace", None):
            raise errors.BadRequest("namespace is not allowed on this type")
        return
    if metadata.get("namespace") and metadata["namespace"] != namespace:
        raise errors.BadRequest("the namespace of the provided object does not match the namespace sent on the request")
    metadata["namespace"] = namespace


def prepare_create(resource: kinds.Resource, namespace: str, obj: Object, *, now: float, uid: str, rng: random.Random) -> bool:
    """Makes the metadata of a new object, in place. Answers whether its name was generated. Raises BadRequest, Invalid."""
    check_kind(resource, obj)
    metadata = of(obj)
    check_namespace(resource, metadata, namespace)
    if metadata.pop("resourceVersion", None):
        raise errors.BadRequest("resourceVersion should not be set on objects to be created")
    generated = False
    if not metadata.get("name"):
        if not isinstance(metadata.get("generateName"), str) or not metadata["generateName"]:
            raise errors.Invalid(resource.group, resource.kind, "", [errors.Cause("metadata.name", "FieldValueRequired", "Required value: name or generateName is required")])
        metadata["name"] = generate_name(metadata["generateName"], rng)
        generated = True
    for field in (*_SERVER_OWNED, "selfLink", "managedFields"):
        metadata.pop(field, None)
    metadata["uid"] = uid
    metadata["creationTimestamp"] = timestamps.format_time(now)
    return generated


def prepare_update(resource: kinds.Resource, new: Object, old: Object, namespace: str, name: str) -> None:
    """Takes over from `old` what a client may not change, in place. Raises BadRequest, Conflict, Invalid."""
    check_kind(resource, new)
    metadata, before = of(new), old["metadata"]
    check_namespace(resource, metadata, namespace)
    if metadata.get("name", name) != name:
        raise errors.BadRequest(f"the name of the object ({metadata['name']}) does not match the name on the URL ({name})")
    metadata["name"] = name
    if metadata.get("uid") and metadata["uid"] != before.get("uid"):
        raise errors.Conflict(resource, name, f"Precondition failed: UID in precondition: {metadata['uid']}, UID in object meta: {before.get('uid', '')}")
    for field in _SERVER_OWNED:
        if field in before:
            metadata[field] = before[field]
        else:
            metadata.pop(field, None)
    metadata.pop("selfLink", None)
    check_finalizers(resource, metadata, before)


def check_finalizers(resource: kinds.Resource, metadata: Object, before: Object) -> None:
    """Nothing can be added to the finalizers of an object that is being deleted."""
    if not before.get("deletionTimestamp"):
        return
    added = [text for text in metadata.get("finalizers") or () if text not in (before.get("finalizers") or ())]
    if added:
        listed = ", ".join(f'"{text}"' for text in added)
        why = f"Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers []string{{{listed}}}"
        raise errors.Invalid(resource.group, resource.kind, metadata["name"], [errors.Cause("metadata.finalizers", "FieldValueForbidden", why)])


def check_resource_version(resource: kinds.Resource, name: str, asked: object, current: int) -> None:
    """Optimistic concurrency: the version a client saw must be the one that is there. "" and "0" ask for nothing. Raises Conflict, BadRequest."""
    if asked is None or asked in {"", "0"}:
        return
    if not isinstance(asked, str) or not asked.isdigit():
        why = f"Invalid value: {asked!r}: must be a decimal number in a string".replace("'", '"')
        raise errors.Invalid(resource.group, resource.kind, name, [errors.Cause("metadata.resourceVersion", "FieldValueInvalid", why)])
    if int(asked) != current:
        raise errors.Conflict(resource, name)


def without_version(obj: Object) -> Object:
    """A shallow copy with no metadata.resourceVersion and no managedFields, for comparing."""
    metadata = {key: value for key, value in obj["metadata"].items() if key != "resourceVersion"}
    return {**obj, "metadata": metadata}


def same(new: Object, old: Object) -> bool:
    """Whether a write would change nothing but the resourceVersion."""
    if len(new) != len(old) or any(new.get(key) != value for key, value in old.items() if key != "metadata"):
        return False
    return without_version(new)["metadata"] == without_version(old)["metadata"]


def differs_outside(new: Object, old: Object, ignored: Sequence[str]) -> bool:
    """Whether any top-level field but the ignored ones differs."""
    fields = (new.keys() | old.keys()).difference(ignored)
    return any(new.get(field) != old.get(field) for field in fields)
