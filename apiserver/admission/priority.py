"""Priority: spec.priority and preemptionPolicy follow from the PriorityClass a pod names, or from the global default; and there is one global default."""

from __future__ import annotations

from apiserver.admission.request import Base, Object, Reader, Request
from apiserver.api import errors, kinds

_PREEMPT = "PreemptLowerPriority"
HIGHEST_USER_PRIORITY = 1_000_000_000


class PriorityAdmission(Base):
    def __init__(self, reader: Reader) -> None:
        self.reader = reader

    def handles(self, resource: kinds.Resource, subresource: str, operation: str) -> bool:
        return not subresource and resource in {kinds.PODS, kinds.PRIORITYCLASSES} and operation in {"CREATE", "UPDATE"}

    async def admit(self, request: Request) -> None:
        if request.resource is not kinds.PODS or request.obj is None or not isinstance(request.obj.get("spec"), dict):
            return
        spec = request.obj["spec"]
        if request.old is not None:
            keep(spec, request.old["spec"])
            return
        name = spec.get("priorityClassName")
        chosen = await self._named(request, name) if name else self._default()
        if chosen is not None:
            spec["priorityClassName"] = chosen["metadata"]["name"]
        value = chosen.get("value", 0) if chosen else 0
        policy = (chosen.get("preemptionPolicy") if chosen else None) or _PREEMPT
        if spec.get("priority") is not None and spec["priority"] != value:
            raise errors.Forbidden.to(
                kinds.PODS, request.name,
                f"the integer value of priority ({spec['priority']}) must not be provided in pod spec; priority admission controller computed {value} "
                "from the given PriorityClass name",
            )  # fmt: skip
        if spec.get("preemptionPolicy") and spec["preemptionPolicy"] != policy:
            raise errors.Forbidden.to(
                kinds.PODS, request.name,
                f"the string value of PreemptionPolicy ({spec['preemptionPolicy']}) must not be provided in pod spec; priority admission controller computed {policy} "
                "from the given PriorityClass name",
            )  # fmt: skip
        spec["priority"], spec["preemptionPolicy"] = value, policy

    async def _named(self, request: Request, name: str) -> Object:
        found = await self.reader.read(kinds.PRIORITYCLASSES, "", name)
        if found is None:
            raise errors.Forbidden.to(kinds.PODS, request.name, f"no PriorityClass with name {name} was found")
        return found

    def _default(self) -> Object | None:
        """The global default with the lowest value, should there be several."""
        classes = [c for c in self.reader.list_cached(kinds.PRIORITYCLASSES) if c.get("globalDefault")]
        return min(classes, key=lambda c: c.get("value", 0), default=None)

    async def validate(self, request: Request) -> None:
        if request.resource is not kinds.PRIORITYCLASSES or not (request.obj or {}).get("globalDefault"):
            return
        for other in self.reader.list_cached(kinds.PRIORITYCLASSES):
            if other.get("globalDefault") and other["metadata"]["name"] != request.name:
                why = f"PriorityClass {other['metadata']['name']} is already marked as globalDefault. Only one PriorityClass can be marked as globalDefault"
                raise errors.Forbidden.to(kinds.PRIORITYCLASSES, request.name, why)


def keep(spec: Object, before: Object) -> None:
    """In place: an update that leaves out what was computed at creation keeps it."""
    for field in ("priority", "preemptionPolicy"):
        if spec.get(field) is None and field in before:
            spec[field] = before[field]
