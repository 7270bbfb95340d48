"""DefaultTolerationSeconds: every pod stays on a not-ready or unreachable node for 300 s, unless it says otherwise."""

from __future__ import annotations

from apiserver.admission.request import Base, Object, Request
from apiserver.api import kinds

NOT_READY, UNREACHABLE = "node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"
SECONDS = 300


class DefaultTolerations(Base):
    def handles(self, resource: kinds.Resource, subresource: str, operation: str) -> bool:
        return resource is kinds.PODS and not subresource and operation in {"CREATE", "UPDATE"}

    async def admit(self, request: Request) -> None:
        if request.obj is not None and isinstance(request.obj.get("spec"), dict):
            add_tolerations(request.obj["spec"])


def add_tolerations(spec: Object) -> None:
    """In place. A toleration of the key, or of every key, with effect NoExecute or any, counts as said."""
    present = spec.get("tolerations") or []
    missing = [key for key in (NOT_READY, UNREACHABLE) if not any(_covers(toleration, key) for toleration in present)]
    if missing:
        added = [{"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": SECONDS} for key in missing]
        spec["tolerations"] = [*present, *added]


def _covers(toleration: Object, key: str) -> bool:
    return toleration.get("key") in {key, None, ""} and toleration.get("effect") in {"NoExecute", None, ""}
