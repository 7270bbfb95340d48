"""What every kind does unless it says otherwise: status is a subresource of its own, generation follows the spec, deletion is immediate. Owns the flags and hooks the
registry asks for; the kinds' own strategies override them. All methods but reserve() and released() are pure.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from apiserver.api import errors, kinds
from apiserver.registry import metadata
from apiserver.registry.context import Object, RequestContext


@dataclass(frozen=True, slots=True)
class Flags:
    """How a kind departs from the rule. `initial_status` None: this kind has no status; `keeps_status`: creation may bring one (nodes). `generation`: "" untracked,
    "spec" follows the spec, "all" everything but metadata and status. `ttl_s`: objects vanish after so long."""

    initial_status: Any = None
    keeps_status: bool = False
    generation: str = ""
    returns_deleted: bool = False
    create_on_update: bool = False
    unconditional_update: bool = True
    status_metadata: bool = False
    ttl_s: int = 0


@dataclass(frozen=True, slots=True)
class Reservation:
    """Things claimed for a write in flight: exactly one of the two is called, commit after the write, rollback if it did not happen."""

    commit: Callable[[], Awaitable[None]]
    rollback: Callable[[], Awaitable[None]]


class Strategy:
    def __init__(self, resource: kinds.Resource, flags: Flags) -> None:
        self.resource, self.flags = resource, flags

    def prepare_create(self, ctx: RequestContext, obj: Object, now: float) -> None:
        """In place, before defaulting: the status of a new object is the server's, the first generation is 1."""
        if not self.flags.keeps_status:
            obj.pop("status", None)
        if self.flags.initial_status is not None and not obj.get("status"):
            obj["status"] = dict(self.flags.initial_status)
        if self.flags.generation:
            obj["metadata"]["generation"] = 1

    def complete_create(self, obj: Object) -> None:
        """In place, after admission and validation: what follows from the whole object."""

    def prepare_update(self, new: Object, old: Object) -> None:
        """In place: the main resource never changes the status."""
        if self.flags.initial_status is None:
            return
        if "status" in old:
            new["status"] = old["status"]
        else:
            new.pop("status", None)

    def prepare_status(self, new: Object, old: Object) -> Object:
        """The object that a write of /status makes: the old one with the new status; metadata too only for kinds where Kubernetes allows it."""
        result = {**old, "status": new.get("status") or {}}
        if self.flags.status_metadata:
            result["metadata"] = _status_metadata(new["metadata"], old["metadata"])
        return result

    def spec_changed(self, new: Object, old: Object) -> bool:
        if self.flags.generation == "spec":
            return new.get("spec") != old.get("spec")
        return self.flags.generation == "all" and metadata.differs_outside(new, old, ("metadata", "status"))

    def grace_period(self, obj: Object, asked: int | None) -> int | None:
        """Seconds this object is given to end, or None where the kind knows no grace."""
        return None

    def may_vanish(self, obj: Object) -> bool:
        """Whether an object that is being deleted and has no finalizers left can go now."""
        grace = obj["metadata"].get("deletionGracePeriodSeconds")
        return grace is None or grace == 0

    def mark_deleting(self, obj: Object) -> None:
        """In place, when deletionTimestamp is first set."""

    def holds(self, obj: Object) -> bool:
        """Whether something besides metadata.finalizers keeps a deleted object (a namespace's spec.finalizers)."""
        return False

    async def reserve(self, new: Object, old: Object | None, *, dry_run: bool) -> Reservation | None:
        """Claims what the object needs to own alone, filling it into `new`; old None on create. Raises Invalid."""
        return None

    async def released(self, old: Object) -> None:
        """After the object is gone: gives back what it owned."""

    def invalid(self, obj: Object, *causes: errors.Cause) -> errors.Invalid:
        return errors.Invalid(self.resource.group, self.resource.kind, obj["metadata"].get("name", ""), causes)


def _status_metadata(new: Object, old: Object) -> Object:
    """The old metadata with the new labels, annotations and finalizers."""
    result = dict(old)
    for field in ("labels", "annotations", "finalizers"):
        if new.get(field):
            result[field] = new[field]
        else:
            result.pop(field, None)
    return result
