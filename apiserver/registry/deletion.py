"""When a delete is final: DeleteOptions, preconditions, grace, finalizers, propagation. Pure: plan_delete() says what to write, the registry writes it.

Invariants: an object with finalizers is never removed; deletionTimestamp, once set, stays; the grace period of an object being deleted only gets shorter.
Sources: API conventions ("Finalizers", "Garbage Collection"), kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle#pod-termination.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from apiserver.api import errors, kinds, timestamps
from apiserver.registry.context import Object
from apiserver.registry.strategies import strategy

ORPHAN, FOREGROUND = "orphan", "foregroundDeletion"
_POLICIES = ("Foreground", "Background", "Orphan")


@dataclass(frozen=True, slots=True)
class Options:
    """metav1.DeleteOptions. `policy`: "", Foreground, Background or Orphan; grace in seconds, None = not said."""

    grace_s: int | None = None
    policy: str = ""
    uid: str = ""
    resource_version: str = ""
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class Remove:
    """The object can go now."""


@dataclass(frozen=True, slots=True)
class Pending:
    """Already being deleted; nothing to write."""


@dataclass(frozen=True, slots=True)
class Mark:
    """Write `obj` (a document of its own): it is being deleted, and waits."""

    obj: Object


Plan = Remove | Pending | Mark


def parse_options(body: Any) -> Options:
    """Raises BadRequest on a body that is no DeleteOptions, Invalid on wrong values."""
    if body is None:
        return Options()
    if not isinstance(body, dict):
        raise errors.BadRequest("DeleteOptions: must be an object")
    if body.get("kind", "DeleteOptions") not in {"DeleteOptions", ""}:
        raise errors.BadRequest(f'the kind in the data ({body["kind"]}) does not match the expected kind (DeleteOptions)')
    causes: list[errors.Cause] = []
    grace = body.get("gracePeriodSeconds")
    if grace is not None and (not isinstance(grace, int) or isinstance(grace, bool)):
        raise errors.BadRequest("DeleteOptions: gracePeriodSeconds: must be an integer")
    policy, orphan = body.get("propagationPolicy") or "", body.get("orphanDependents")
    if policy and orphan is not None:
        causes.append(errors.Cause("propagationPolicy", "FieldValueInvalid", f'Invalid value: "{policy}": orphanDependents and deletionPropagation cannot be both set'))
    if policy and policy not in _POLICIES:
        why = f'Unsupported value: "{policy}": supported values: "Foreground", "Background", "Orphan", "nil"'
        causes.append(errors.Cause("propagationPolicy", "FieldValueNotSupported", why))
    dry_run = _dry_run(body.get("dryRun"), causes)
    preconditions = body.get("preconditions") or {}
    if not isinstance(preconditions, dict) or not all(isinstance(preconditions.get(f) or "", str) for f in ("uid", "resourceVersion")):
        raise errors.BadRequest("DeleteOptions: preconditions: must be an object with uid and resourceVersion as strings")
    if causes:
        raise errors.Invalid("meta.k8s.io", "DeleteOptions", "", causes)
    if orphan is not None:
        policy = "Orphan" if orphan else "Background"
    return Options(grace, policy, preconditions.get("uid") or "", preconditions.get("resourceVersion") or "", dry_run)


def _dry_run(value: Any, causes: list[errors.Cause]) -> bool:
    if not value:
        return False
    if value != ["All"]:
        causes.append(errors.Cause("dryRun", "FieldValueNotSupported", f'Unsupported value: {value}: supported values: "All"'.replace("'", '"')))
    return True


def check_preconditions(resource: kinds.Resource, name: str, obj: Object, options: Options) -> None:
    """Raises Conflict where the object is not the one meant."""
    meta = obj["metadata"]
    if options.uid and options.uid != meta.get("uid"):
        why = (
            f"the UID in the precondition ({options.uid}) does not match the UID in record ({meta.get('uid', '')}). "
            "The object might have been deleted and then recreated"
        )
        raise errors.Conflict(resource, name, why)
    if options.resource_version and options.resource_version != meta.get("resourceVersion"):
        why = (
            f"the ResourceVersion in the precondition ({options.resource_version}) does not match the ResourceVersion in record "
            f"({meta.get('resourceVersion', '')}). The object might have been modified"
        )
        raise errors.Conflict(resource, name, why)


def plan_delete(kind: strategy.Strategy, obj: Object, options: Options, now: float) -> Plan:
    """What a DELETE of `obj` does. `obj` is not changed; `now` in Unix seconds."""
    meta = obj["metadata"]
    deleting = bool(meta.get("deletionTimestamp"))
    finalizers = _finalizers(meta.get("finalizers") or [], options.policy)
    grace = kind.grace_period(obj, options.grace_s)
    if deleting:
        changes = _shorten(meta, options.grace_s) if grace is not None else {}
        left = {**meta, **changes}.get("deletionGracePeriodSeconds") or 0
    else:
        left = grace or 0
        changes = {"deletionTimestamp": timestamps.format_time(now + left), "deletionGracePeriodSeconds": left}
        if meta.get("generation") and grace is not None:
            changes["generation"] = meta["generation"] + 1
    if not finalizers and not left and not kind.holds(obj):
        return Remove()
    if finalizers != (meta.get("finalizers") or []):
        changes["finalizers"] = finalizers
    if not changes:
        return Pending()
    marked = {**obj, "metadata": _merged(meta, changes)}
    if not deleting:
        kind.mark_deleting(marked)
    return Mark(marked)


def vanishes(kind: strategy.Strategy, new: Object) -> bool:
    """Whether an update leaves an object that was only waiting for its finalizers: it is then removed instead of written."""
    meta = new["metadata"]
    return bool(meta.get("deletionTimestamp")) and not meta.get("finalizers") and not kind.holds(new) and kind.may_vanish(new)


def _finalizers(present: list[str], policy: str) -> list[str]:
    """Orphan and Foreground each put their finalizer; either policy, and Background, takes the other's away."""
    if not policy:
        return present
    kept = [text for text in present if text not in {ORPHAN, FOREGROUND}]
    if policy == "Orphan":
        return [*kept, ORPHAN] if ORPHAN not in present else [text for text in present if text != FOREGROUND]
    if policy == "Foreground":
        return [*kept, FOREGROUND] if FOREGROUND not in present else [text for text in present if text != ORPHAN]
    return kept


def _shorten(meta: Object, asked: int | None) -> Object:
    """A later delete can only bring the end nearer."""
    had = meta.get("deletionGracePeriodSeconds") or 0
    if asked is None or not had:
        return {}
    asked = 1 if asked < 0 else asked
    if asked >= had:
        return {}
    began = timestamps.parse(meta["deletionTimestamp"]) - had
    return {"deletionTimestamp": timestamps.format_time(began + asked), "deletionGracePeriodSeconds": asked}


def _merged(meta: Object, changes: Object) -> Object:
    merged = {**meta, **changes}
    if not merged.get("finalizers"):
        merged.pop("finalizers", None)
    return merged
