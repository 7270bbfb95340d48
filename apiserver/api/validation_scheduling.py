"""Rules of what decides where a pod runs: tolerations, affinity, spreading; and of nodes' taints. Pure; validation_pod.py and validation_core.py call it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from apiserver.api import names
from apiserver.api.causes import between, duplicate, forbidden, invalid, items, not_supported, one_of, required, section
from apiserver.api.errors import Cause
from apiserver.api.validation_meta import label_causes

JSON = dict[str, Any]
EFFECTS = ("NoExecute", "NoSchedule", "PreferNoSchedule")
_REQUIRED, _PREFERRED = "requiredDuringSchedulingIgnoredDuringExecution", "preferredDuringSchedulingIgnoredDuringExecution"


def scheduling_causes(spec: JSON, path: str) -> Iterator[Cause]:
    yield from toleration_causes(spec, path)
    affinity = section(spec, "affinity")
    yield from _node_affinity(section(affinity, "nodeAffinity"), f"{path}.affinity.nodeAffinity")
    for field in ("podAffinity", "podAntiAffinity"):
        where, terms = f"{path}.affinity.{field}", section(affinity, field)
        for inner, term in items(terms, _REQUIRED, where):
            yield from _pod_term(term, inner)
        for inner, weighted in items(terms, _PREFERRED, where):
            yield from _weight(weighted, inner)
            yield from _pod_term(section(weighted, "podAffinityTerm"), f"{inner}.podAffinityTerm")
    yield from _spread(spec, path)


def toleration_causes(spec: JSON, path: str) -> Iterator[Cause]:
    for where, toleration in items(spec, "tolerations", path):
        key, operator = toleration.get("key") or "", toleration.get("operator") or "Equal"
        if key:
            yield from (invalid(f"{where}.key", key, text) for text in names.qualified_name(key))
        elif operator != "Exists":
            yield invalid(f"{where}.operator", toleration.get("operator", ""), "operator must be Exists when `key` is empty, which means \"match all values and all keys\"")
        if toleration.get("tolerationSeconds") is not None and toleration.get("effect") != "NoExecute":
            yield invalid(f"{where}.effect", toleration.get("effect", ""), "effect must be 'NoExecute' when `tolerationSeconds` is set")
        if operator == "Equal":
            yield from (invalid(f"{where}.operator", toleration["value"], text) for text in names.label_value(toleration.get("value") or ""))
        elif operator == "Exists":
            if toleration.get("value"):
                yield invalid(f"{where}.operator", operator, "value must be empty when `operator` is 'Exists'")
        else:
            yield not_supported(f"{where}.operator", operator, ("Equal", "Exists"))
        if toleration.get("effect"):
            yield from one_of(f"{where}.effect", toleration["effect"], EFFECTS)


def taint_causes(spec: JSON, path: str) -> Iterator[Cause]:
    seen: set[tuple[str, str]] = set()
    for where, taint in items(spec, "taints", path):
        key, effect = taint.get("key") or "", taint.get("effect") or ""
        yield from (invalid(f"{where}.key", key, text) for text in names.qualified_name(key))
        yield from (invalid(f"{where}.value", taint["value"], text) for text in names.label_value(taint.get("value") or ""))
        if not effect:
            yield required(f"{where}.effect")
        else:
            yield from one_of(f"{where}.effect", effect, EFFECTS)
        if (key, effect) in seen:
            yield duplicate(where, taint)
        seen.add((key, effect))


def _node_affinity(affinity: JSON, path: str) -> Iterator[Cause]:
    needed = affinity.get(_REQUIRED)
    if isinstance(needed, dict):
        if not needed.get("nodeSelectorTerms"):
            yield required(f"{path}.{_REQUIRED}.nodeSelectorTerms", "must have at least one node selector term")
        for where, term in items(needed, "nodeSelectorTerms", f"{path}.{_REQUIRED}"):
            yield from _node_term(term, where)
    for where, preferred in items(affinity, _PREFERRED, path):
        yield from _weight(preferred, where)
        yield from _node_term(section(preferred, "preference"), f"{where}.preference")


def _node_term(term: JSON, path: str) -> Iterator[Cause]:
    for field in ("matchExpressions", "matchFields"):
        for where, requirement in items(term, field, path):
            operator, values = requirement.get("operator") or "", requirement.get("values") or []
            if operator in ("In", "NotIn"):
                if not values:
                    yield required(f"{where}.values", "must be specified when `operator` is 'In' or 'NotIn'")
            elif operator in ("Exists", "DoesNotExist"):
                if values:
                    yield forbidden(f"{where}.values", "may not be specified when `operator` is 'Exists' or 'DoesNotExist'")
            elif operator in ("Gt", "Lt"):
                if len(values) != 1:
                    yield required(f"{where}.values", "must be specified single value when `operator` is 'Lt' or 'Gt'")
            else:
                yield invalid(f"{where}.operator", operator, "not a valid selector operator")
            if field == "matchExpressions":
                yield from (invalid(f"{where}.key", requirement.get("key", ""), text) for text in names.qualified_name(requirement.get("key") or ""))


def _weight(term: JSON, path: str) -> Iterator[Cause]:
    weight = term.get("weight", 0)
    if not 1 <= weight <= 100:
        yield invalid(f"{path}.weight", weight, "must be in the range 1-100")


def _pod_term(term: JSON, path: str) -> Iterator[Cause]:
    if not term.get("topologyKey"):
        yield required(f"{path}.topologyKey", "can not be empty")
    else:
        yield from (invalid(f"{path}.topologyKey", term["topologyKey"], text) for text in names.qualified_name(term["topologyKey"]))
    for field in ("labelSelector", "namespaceSelector"):
        if isinstance(term.get(field), dict):
            yield from selector_causes(term[field], f"{path}.{field}")


def _spread(spec: JSON, path: str) -> Iterator[Cause]:
    for where, constraint in items(spec, "topologySpreadConstraints", path):
        if constraint.get("maxSkew", 0) <= 0:
            yield invalid(f"{where}.maxSkew", constraint.get("maxSkew", 0), "must be greater than zero")
        if not constraint.get("topologyKey"):
            yield required(f"{where}.topologyKey", "can not be empty")
        yield from one_of(f"{where}.whenUnsatisfiable", constraint.get("whenUnsatisfiable", ""), ("DoNotSchedule", "ScheduleAnyway"))
        if constraint.get("minDomains") is not None:
            yield from between(f"{where}.minDomains", constraint["minDomains"], 1, 2**31 - 1)
            if constraint.get("whenUnsatisfiable") != "DoNotSchedule":
                yield invalid(f"{where}.minDomains", constraint["minDomains"], "can only use minDomains if whenUnsatisfiable=DoNotSchedule")
        if isinstance(constraint.get("labelSelector"), dict):
            yield from selector_causes(constraint["labelSelector"], f"{where}.labelSelector")


def selector_causes(selector: Any, path: str) -> Iterator[Cause]:
    """A LabelSelector: keys, values and operators."""
    yield from label_causes(section(selector, "matchLabels"), f"{path}.matchLabels")
    for where, requirement in items(selector, "matchExpressions", path):
        operator, values = requirement.get("operator") or "", requirement.get("values") or []
        if operator in ("In", "NotIn"):
            if not values:
                yield required(f"{where}.values", "must be specified when `operator` is 'In' or 'NotIn'")
        elif operator in ("Exists", "DoesNotExist"):
            if values:
                yield forbidden(f"{where}.values", "may not be specified when `operator` is 'Exists' or 'DoesNotExist'")
        else:
            yield invalid(f"{where}.operator", operator, "not a valid selector operator")
        yield from (invalid(f"{where}.key", requirement.get("key", ""), text) for text in names.qualified_name(requirement.get("key") or ""))
        for position, value in enumerate(values):
            yield from (invalid(f"{where}.values[{position}]", value, text) for text in names.label_value(value))
