"""What the cells of several kinds share: ages, label lists, selectors, access modes, metrics. Pure; the table modules call it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from apiserver.api import timestamps
from apiserver.api.errors import BadRequest

JSON = dict[str, Any]
NONE = "<none>"
UNKNOWN = "<unknown>"
_MODES = {"ReadWriteOnce": "RWO", "ReadOnlyMany": "ROX", "ReadWriteMany": "RWX", "ReadWriteOncePod": "RWOP"}


def section(parent: Any, key: str) -> JSON:
    value = parent.get(key) if isinstance(parent, dict) else None
    return value if isinstance(value, dict) else {}


def since(text: Any, now: float) -> str:
    """How long ago a time was: "3m20s"; "<unknown>" for none."""
    if not isinstance(text, str) or not text:
        return UNKNOWN
    try:
        return timestamps.human_duration(now - timestamps.parse(text))
    except BadRequest:
        return UNKNOWN


def age(obj: JSON, now: float) -> str:
    return since(section(obj, "metadata").get("creationTimestamp"), now)


def duration(seconds: float) -> str:
    return timestamps.human_duration(seconds)


def labels(values: Any) -> str:
    """`a=b,c=d`, or <none>."""
    return ",".join(f"{key}={value}" for key, value in sorted(values.items())) if isinstance(values, dict) and values else NONE


def selector(value: Any) -> str:
    """A LabelSelector as text: `a=b,c in (d,e),f,!g`; <none> for one that is missing or empty."""
    terms = [f"{key}={wanted}" for key, wanted in sorted(section(value, "matchLabels").items())]
    for expression in (value.get("matchExpressions") if isinstance(value, dict) else None) or ():
        key, operator, values = expression.get("key", ""), expression.get("operator"), ",".join(sorted(expression.get("values") or ()))
        terms.append({"In": f"{key} in ({values})", "NotIn": f"{key} notin ({values})", "DoesNotExist": f"!{key}"}.get(operator, key))
    return ",".join(terms) or NONE


def few(values: Sequence[str]) -> str:
    """At most three, then how many more; <unset> for none."""
    if not values:
        return "<unset>"
    return ",".join(values[:3]) + (f" + {len(values) - 3} more..." if len(values) > 3 else "")


def access_modes(modes: Any) -> str:
    return ",".join(_MODES.get(mode, mode) for mode in dict.fromkeys(modes or ()))


def metrics(spec: JSON, status: JSON) -> str:
    """The targets of a HorizontalPodAutoscaler: `cpu: 12%/80%`; at most two, then how many more."""
    current = {section(metric, "resource").get("name"): section(section(metric, "resource"), "current") for metric in status.get("currentMetrics") or ()}
    listed = []
    for metric in spec.get("metrics") or ():
        resource = section(metric, "resource")
        target, name = section(resource, "target"), resource.get("name", "")
        if metric.get("type") != "Resource":
            listed.append(f"{UNKNOWN}/{UNKNOWN}")
        elif target.get("averageUtilization") is not None:
            value = current.get(name, {}).get("averageUtilization")
            listed.append(f"{name}: {UNKNOWN if value is None else f'{value}%'}/{target['averageUtilization']}%")
        else:
            listed.append(f"{name}: {current.get(name, {}).get('averageValue', UNKNOWN)}/{target.get('averageValue', UNKNOWN)}")
    if not listed:
        return NONE
    return ", ".join(listed[:2]) + (f" + {len(listed) - 2} more..." if len(listed) > 2 else "")
