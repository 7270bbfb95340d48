"""May this pod run on that node: each rule as a pure predicate, and `refuse`, which gives Kubernetes' own words for every rule that says no.

Order and texts are those of Kubernetes' default plugins (NodeUnschedulable, TaintToleration, NodeAffinity, NodePorts, NodeResourcesFit): the first that refuses
speaks, NodeResourcesFit names every resource that is short. Called by decide.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from apiserver.api import quantities, types
from scheduler.requests import HostPort, PodRequest

if TYPE_CHECKING:
    from scheduler.snapshot import NodeInfo

__all__ = ["fits", "matches_node", "matches_term", "ports_free", "refuse", "tolerates", "untolerated"]

UNSCHEDULABLE_TAINT = "node.kubernetes.io/unschedulable"
HARD_EFFECTS = ("NoSchedule", "NoExecute")


def tolerates(toleration: types.Toleration, taint: types.Taint) -> bool:
    """core/v1 Toleration.ToleratesTaint: an empty effect or key stands for all, operator Exists for every value."""
    if toleration.effect and toleration.effect != taint.effect:
        return False
    if toleration.key and toleration.key != taint.key:
        return False
    if toleration.operator == "Exists":
        return True
    return bool(toleration.key) and toleration.operator in ("", "Equal") and toleration.value == taint.value


def untolerated(taints: Iterable[types.Taint], tolerations: Sequence[types.Toleration], effects: Sequence[str] = HARD_EFFECTS) -> types.Taint | None:
    """The first taint of these effects that nothing tolerates."""
    for taint in taints:
        if taint.effect in effects and not any(tolerates(t, taint) for t in tolerations):
            return taint
    return None


def admits(unschedulable: bool, taints: Iterable[types.Taint], tolerations: Sequence[types.Toleration]) -> bool:
    """NodeUnschedulable and TaintToleration together: what all nodes of one group have in common."""
    if unschedulable and not any(tolerates(t, types.Taint(key=UNSCHEDULABLE_TAINT, effect="NoSchedule")) for t in tolerations):
        return False
    return untolerated(taints, tolerations) is None


def _requirement_holds(requirement: types.LabelSelectorRequirement, values: Mapping[str, str]) -> bool:
    value = values.get(requirement.key)
    match requirement.operator:
        case "In":
            return value is not None and value in requirement.values
        case "NotIn":
            return value is None or value not in requirement.values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case "Gt" | "Lt":
            try:
                have, limit = int(value or ""), int(requirement.values[0])
            except (ValueError, IndexError):
                return False
            return have > limit if requirement.operator == "Gt" else have < limit
    return False


def matches_term(term: types.NodeSelectorTerm, labels: Mapping[str, str], name: str) -> bool:
    """All its expressions and fields (metadata.name is the only one); an empty term matches nothing."""
    if not term.match_expressions and not term.match_fields:
        return False
    fields = {"metadata.name": name}
    return all(_requirement_holds(r, labels) for r in term.match_expressions) and all(_requirement_holds(r, fields) for r in term.match_fields)


def matches_node(request: PodRequest, labels: Mapping[str, str], name: str) -> bool:
    """nodeSelector and required node affinity (any one of its terms)."""
    for key, value in request.node_selector:
        if labels.get(key) != value:
            return False
    return request.required is None or any(matches_term(term, labels, name) for term in request.required)


def ports_free(wanted: Sequence[HostPort], used: Mapping[HostPort, int]) -> bool:
    """0.0.0.0 collides with every address."""
    for ip, protocol, port in wanted:
        for used_ip, used_protocol, used_port in used:
            if used_port == port and used_protocol == protocol and (ip == used_ip or "0.0.0.0" in (ip, used_ip)):
                return False
    return True


def fits(node: NodeInfo, request: PodRequest) -> bool:
    """NodeResourcesFit: pod count, then every amount the pod asks for; one that asks for none of a resource fits also where it is overused."""
    amounts = request.amounts
    if node.free_pods < 1:
        return False
    if amounts.cpu_milli > node.free_cpu_milli and amounts.cpu_milli:
        return False
    if amounts.memory_bytes > node.free_memory_bytes and amounts.memory_bytes:
        return False
    if amounts.ephemeral_bytes > node.free_ephemeral_bytes and amounts.ephemeral_bytes:
        return False
    return not amounts.extended or all(n <= node.free_extended.get(name, 0) for name, n in amounts.extended)


def refuse(node: NodeInfo, request: PodRequest) -> tuple[str, ...]:
    """Kubernetes' reasons why not, empty if the pod may run there."""
    if node.unschedulable and not any(tolerates(t, types.Taint(key=UNSCHEDULABLE_TAINT, effect="NoSchedule")) for t in request.tolerations):
        return ("node(s) were unschedulable",)
    taint = untolerated(node.taints, request.tolerations)
    if taint is not None:
        return (f"node(s) had untolerated taint {{{taint.key}: {taint.value}}}",)
    if not matches_node(request, node.labels, node.name):
        return ("node(s) didn't match Pod's node affinity/selector",)
    if request.ports and not ports_free(request.ports, node.ports):
        return ("node(s) didn't have free ports for the requested pod ports",)
    return tuple(reason for reason, _ in shortages(node, request))


def shortages(node: NodeInfo, request: PodRequest) -> list[tuple[str, str]]:
    """(Kubernetes' reason, the figures behind it) for every resource that is short."""
    amounts, short = request.amounts, list[tuple[str, str]]()
    if node.free_pods < 1:
        short.append(("Too many pods", f"{node.used_pods} of {node.max_pods}"))
    if amounts.cpu_milli and amounts.cpu_milli > node.free_cpu_milli:
        short.append(("Insufficient cpu", _figures(amounts.cpu_milli, node.free_cpu_milli, node.cpu_milli, quantities.format_milli)))
    if amounts.memory_bytes and amounts.memory_bytes > node.free_memory_bytes:
        short.append(("Insufficient memory", _figures(amounts.memory_bytes, node.free_memory_bytes, node.memory_bytes, _mebibytes)))
    if amounts.ephemeral_bytes and amounts.ephemeral_bytes > node.free_ephemeral_bytes:
        short.append(("Insufficient ephemeral-storage", _figures(amounts.ephemeral_bytes, node.free_ephemeral_bytes, node.ephemeral_bytes, _mebibytes)))
    for name, wanted in amounts.extended:
        if wanted > node.free_extended.get(name, 0):
            short.append((f"Insufficient {name}", _figures(wanted, node.free_extended.get(name, 0), node.extended.get(name, 0), str)))
    return short


def _mebibytes(n: int) -> str:
    return f"{n / (1 << 20):.4g}Mi"


def _figures(wanted: int, free: int, total: int, text: object) -> str:
    assert callable(text)
    return f"asks {text(wanted)}, free {text(max(free, 0))} of {text(total)}"
