"""What is left to do before a terminating Namespace may go. Pure: counts in, conditions and the finalizers to keep out.

Condition types, reasons and texts are Kubernetes' namespace controller's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from apiserver.api.kinds import Resource

__all__ = ["FINALIZER", "Remaining", "deletable", "finalized", "is_terminating", "plan_conditions"]

Obj = dict[str, Any]
FINALIZER = "kubernetes"


@dataclass(frozen=True)
class Remaining:
    """After one round of deletions: objects per resource (`pods`, `widgets.example.com`), and per finalizer; `failures` texts of what could not be deleted."""

    objects: Mapping[str, int]
    finalizers: Mapping[str, int]
    failures: tuple[str, ...] = ()

    @property
    def done(self) -> bool:
        return not self.objects and not self.failures


def is_terminating(namespace: Obj) -> bool:
    return bool(namespace["metadata"].get("deletionTimestamp")) and FINALIZER in ((namespace.get("spec") or {}).get("finalizers") or [])


def deletable(resources: Iterable[Resource]) -> list[Resource]:
    """The namespaced resources that hold objects, each stored object once (Events are served by two groups)."""
    return [r for r in resources if r.namespaced and {"list", "delete"} <= set(r.verbs) and not (r.plural == "events" and r.group)]


def finalized(namespace: Obj) -> Obj:
    """The body for /finalize."""
    spec = namespace.get("spec") or {}
    return {**namespace, "spec": {**spec, "finalizers": [f for f in spec.get("finalizers") or [] if f != FINALIZER]}}


def plan_conditions(namespace: Obj, remaining: Remaining, now: str) -> list[Obj] | None:
    """The new status.conditions, None where nothing changes. `now` RFC 3339."""
    kinds = ", ".join(f"{resource} has {count} resource instances" for resource, count in sorted(remaining.objects.items()))
    holders = ", ".join(f"{finalizer} in {count} resource instances" for finalizer, count in sorted(remaining.finalizers.items()))
    wanted = [
        ("NamespaceDeletionContentFailure", bool(remaining.failures), "ContentDeletionFailed", "ContentDeleted",
         f"Failed to delete all resource types, {len(remaining.failures)} remaining: {'; '.join(remaining.failures[:5])}", "All content successfully deleted, may be waiting on finalization"),
        ("NamespaceContentRemaining", bool(remaining.objects), "SomeResourcesRemain", "ContentRemoved",
         f"Some resources are remaining: {kinds}", "All content successfully removed"),
        ("NamespaceFinalizersRemaining", bool(remaining.finalizers), "SomeFinalizersRemain", "ContentHasNoFinalizers",
         f"Some content in the namespace has finalizers remaining: {holders}", "All content-preserving finalizers finished"),
    ]  # fmt: skip
    old = {c["type"]: c for c in (namespace.get("status") or {}).get("conditions") or []}
    new = dict(old)
    for kind, is_true, yes, no, text, otherwise in wanted:
        status = "True" if is_true else "False"
        before = old.get(kind, {})
        since = before.get("lastTransitionTime") if before.get("status") == status else None
        new[kind] = {"type": kind, "status": status, "reason": yes if is_true else no, "message": text if is_true else otherwise, "lastTransitionTime": since or now}
    return list(new.values()) if new != old else None
