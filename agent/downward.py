"""The downward API: fieldRef and resourceFieldRef of a pod as text (k8s.io/docs: Downward API). Pure. Called by environment and by volumes."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from agent import podspec
from apiserver.api import quantities

_SUBSCRIPT = re.compile(r"metadata\.(labels|annotations)\['([^']*)'\]")


class FieldError(ValueError):
    """A fieldRef or resourceFieldRef that cannot be answered; the text names it."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What the pod's own document does not say: its addresses, the node's, and what is allocatable there (limits default to it)."""

    pod_ip: str = ""
    host_ips: Sequence[str] = ()
    allocatable: Mapping[str, Any] | None = None


def field_value(pod: podspec.Pod, path: str, facts: Facts) -> str:
    """The value of a fieldPath such as `metadata.labels['app']` or `status.podIP`. Raises FieldError."""
    meta = pod["metadata"]
    subscript = _SUBSCRIPT.fullmatch(path)
    if subscript:
        return str((meta.get(subscript[1]) or {}).get(subscript[2], ""))
    if path in ("metadata.labels", "metadata.annotations"):
        return _format_map(meta.get(path.partition(".")[2]) or {})
    host_ip = facts.host_ips[0] if facts.host_ips else ""
    plain = {
        "metadata.name": meta["name"], "metadata.namespace": meta.get("namespace", ""), "metadata.uid": meta["uid"],
        "spec.nodeName": pod["spec"].get("nodeName", ""), "spec.serviceAccountName": pod["spec"].get("serviceAccountName") or "default",
        "status.podIP": facts.pod_ip, "status.podIPs": facts.pod_ip, "status.hostIP": host_ip, "status.hostIPs": ",".join(facts.host_ips),
    }  # fmt: skip
    if path not in plain:
        raise FieldError(f"fieldPath {path!r} is not supported")
    return str(plain[path])


def _format_map(values: Mapping[str, str]) -> str:
    """key="value" lines, sorted, quoted as Go's %q."""
    escapes = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t", "\r": "\\r"}
    return "\n".join(f'{k}="{"".join(escapes.get(ch, ch) for ch in str(v))}"' for k, v in sorted(values.items()))


def resource_value(pod: podspec.Pod, selector: Mapping[str, Any], default_container: str, facts: Facts) -> str:
    """resourceFieldRef `limits.cpu` and the like, divided by its divisor and rounded up. A limit that is not set is the node's allocatable. Raises FieldError."""
    name, wanted = selector.get("containerName") or default_container, str(selector.get("resource", ""))
    spec = next((c.spec for c in podspec.containers(pod) if c.name == name), None)
    if spec is None:
        raise FieldError(f"resourceFieldRef: container {name!r} not found in pod")
    kind, _, resource = wanted.partition(".")
    if kind not in ("limits", "requests") or not resource:
        raise FieldError(f"resourceFieldRef: resource {wanted!r} is not supported")
    quantity = ((spec.get("resources") or {}).get(kind) or {}).get(resource)
    if quantity is None and kind == "limits":
        quantity = (facts.allocatable or {}).get(resource)
    divisor = quantities.parse(selector.get("divisor") or 0) or Decimal(1)
    return str(math.ceil(quantities.parse(quantity or 0) / divisor))
