"""LimitRanger: the limit ranges of a namespace give containers their default requests and limits, and refuse pods and claims outside them.
Source: kubernetes.io/docs/concepts/policy/limit-range.
"""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal

from apiserver.admission.request import Base, Object, Reader, Request
from apiserver.api import errors, kinds, quantities

Amounts = dict[str, Decimal]


class LimitRanger(Base):
    def __init__(self, reader: Reader) -> None:
        self.reader = reader

    def handles(self, resource: kinds.Resource, subresource: str, operation: str) -> bool:
        if subresource:
            return False
        return (resource is kinds.PODS and operation == "CREATE") or (resource is kinds.PERSISTENTVOLUMECLAIMS and operation in {"CREATE", "UPDATE"})

    def _limits(self, request: Request) -> list[Object]:
        return [item for found in self.reader.list_cached(kinds.LIMITRANGES, request.namespace) for item in (found.get("spec") or {}).get("limits") or ()]

    async def admit(self, request: Request) -> None:
        if request.resource is kinds.PODS and request.obj is not None:
            for item in self._limits(request):
                if item.get("type") == "Container":
                    add_defaults(request.obj.get("spec") or {}, item)

    async def validate(self, request: Request) -> None:
        problems = [text for item in self._limits(request) for text in violations(request.resource, request.obj or {}, item)]
        if problems:
            listed = problems[0] if len(problems) == 1 else f"[{', '.join(problems)}]"
            raise errors.Forbidden.to(request.resource, request.name, listed)


def add_defaults(spec: Object, item: Object) -> None:
    """In place. A limit given without a request is the request too, as everywhere in Kubernetes."""
    for field in ("containers", "initContainers"):
        for container in spec.get(field) or ():
            resources = dict(container.get("resources") or {})
            limits, requests = dict(resources.get("limits") or {}), dict(resources.get("requests") or {})
            for name, value in limits.items():
                requests.setdefault(name, value)
            for name, value in (item.get("default") or {}).items():
                limits.setdefault(name, value)
            for name, value in (item.get("defaultRequest") or {}).items():
                requests.setdefault(name, value)
            if limits or requests:
                container["resources"] = {**resources, **({"limits": limits} if limits else {}), **({"requests": requests} if requests else {})}


def violations(resource: kinds.Resource, obj: Object, item: Object) -> Iterator[str]:
    """What breaks this limit, in Kubernetes' words."""
    spec, kind = obj.get("spec") or {}, item.get("type")
    if resource is kinds.PERSISTENTVOLUMECLAIMS:
        if kind == "PersistentVolumeClaim":
            amounts = _amounts((spec.get("resources") or {}).get("requests"))
            yield from _outside(kind, item, amounts, amounts)
        return
    if kind == "Container":
        for field in ("containers", "initContainers"):
            for container in spec.get(field) or ():
                resources = container.get("resources") or {}
                yield from _outside(kind, item, _amounts(resources.get("requests")), _amounts(resources.get("limits")))
    elif kind == "Pod":
        yield from _outside(kind, item, pod_total(spec, "requests"), pod_total(spec, "limits"))


def pod_total(spec: Object, which: str) -> Amounts:
    """The sum over the containers, or the largest init container where that is more (a sidecar counts to the sum)."""
    total: Amounts = {}
    for container in spec.get("containers") or ():
        _add(total, _amounts((container.get("resources") or {}).get(which)))
    for container in spec.get("initContainers") or ():
        amounts = _amounts((container.get("resources") or {}).get(which))
        if container.get("restartPolicy") == "Always":
            _add(total, amounts)
        else:
            for name, value in amounts.items():
                total[name] = max(total.get(name, Decimal(0)), value)
    return total


def _outside(kind: str, item: Object, requests: Amounts, limits: Amounts) -> Iterator[str]:
    for name, text in (item.get("min") or {}).items():
        if name not in requests:
            yield f"minimum {name} usage per {kind} is {text}.  No request is specified"
        elif requests[name] < quantities.parse(text):
            yield f"minimum {name} usage per {kind} is {text}, but request is {_text(name, requests[name])}"
    for name, text in (item.get("max") or {}).items():
        if name not in limits:
            yield f"maximum {name} usage per {kind} is {text}.  No limit is specified"
        elif limits[name] > quantities.parse(text):
            yield f"maximum {name} usage per {kind} is {text}, but limit is {_text(name, limits[name])}"
    for name, text in (item.get("maxLimitRequestRatio") or {}).items():
        if name in requests and name in limits and requests[name] and limits[name] / requests[name] > quantities.parse(text):
            yield f"{name} max limit to request ratio per {kind} is {text}, but provided ratio is {float(limits[name] / requests[name]):f}"


def _amounts(quantity_map: Object | None) -> Amounts:
    return {name: quantities.parse(value) for name, value in (quantity_map or {}).items()}


def _add(total: Amounts, more: Amounts) -> None:
    for name, value in more.items():
        total[name] = total.get(name, Decimal(0)) + value


def _text(name: str, value: Decimal) -> str:
    return quantities.format_milli(int(value * 1000)) if name == "cpu" else quantities.format_bytes(int(value))
