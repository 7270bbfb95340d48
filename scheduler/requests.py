"""What a pod asks of a node, as one value: amounts, ports, selectors, tolerations. Pure; made once per pod by the loop, read by snapshot and decide."""

from __future__ import annotations

from dataclasses import dataclass

from apiserver.api import quantities, types

__all__ = ["Amounts", "HostPort", "PodRequest", "from_pod"]

DEFAULT_CPU_MILLI = 100
DEFAULT_MEMORY_BYTES = 200 << 20
NATIVE = frozenset({"cpu", "memory", "ephemeral-storage", "pods"})
HostPort = tuple[str, str, int]
"""(host IP, "0.0.0.0" for all; protocol; port)."""


@dataclass(frozen=True, slots=True)
class Amounts:
    """`extended` is sorted by name; zero amounts are left out."""

    cpu_milli: int = 0
    memory_bytes: int = 0
    ephemeral_bytes: int = 0
    extended: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class PodRequest:
    """Whose, and what: two pods with equal `needs` are refused by the same nodes.

    `weight_*` is what scores count: requests, with 100m and 200 MiB for each container that asks for nothing, as in Kubernetes, so that such pods spread too."""

    key: str
    uid: str
    amounts: Amounts = Amounts()
    weight_cpu_milli: int = DEFAULT_CPU_MILLI
    weight_memory_bytes: int = DEFAULT_MEMORY_BYTES
    ports: tuple[HostPort, ...] = ()
    node_selector: tuple[tuple[str, str], ...] = ()
    required: tuple[types.NodeSelectorTerm, ...] | None = None
    preferred: tuple[tuple[int, types.NodeSelectorTerm], ...] = ()
    tolerations: tuple[types.Toleration, ...] = ()

    @property
    def needs(self) -> tuple[object, ...]:
        """Hashable; equal for pods that fit the same nodes."""
        return (self.amounts, self.ports, self.node_selector, repr((self.required, self.tolerations)))


def from_pod(pod: types.Pod) -> PodRequest:
    """Raises BadRequest for a quantity that is none."""
    spec = pod.spec
    affinity = spec.affinity.node_affinity if spec.affinity else None
    required = tuple(affinity.required.node_selector_terms) if affinity and affinity.required else None
    preferred = tuple((term.weight, term.preference) for term in affinity.preferred) if affinity else ()
    amounts, weight = _amounts(spec)
    return PodRequest(
        key=pod.metadata.key,
        uid=pod.metadata.uid,
        amounts=amounts,
        weight_cpu_milli=weight[0],
        weight_memory_bytes=weight[1],
        ports=_host_ports(spec),
        node_selector=tuple(sorted(spec.node_selector.items())) if spec.node_selector else (),
        required=required,
        preferred=preferred,
        tolerations=tuple(spec.tolerations),
    )


def _amounts(spec: types.PodSpec) -> tuple[Amounts, tuple[int, int]]:
    """Kubernetes' rule: the larger of all that runs together, and each init container with the sidecars started before it; plus the overhead."""
    if len(spec.containers) == 1 and not (spec.init_containers or spec.overhead or spec.resources):
        return _single(spec.containers[0].resources.requests)
    plain = _effective(spec, weighted=False)
    weight = _effective(spec, weighted=True)
    extended = tuple(sorted((k, v) for k, v in plain.items() if k not in NATIVE and v))
    return Amounts(plain.get("cpu", 0), plain.get("memory", 0), plain.get("ephemeral-storage", 0), extended), (weight.get("cpu", 0), weight.get("memory", 0))


def _single(requests: types.Quantities) -> tuple[Amounts, tuple[int, int]]:
    asked = _parse(requests)
    extended = tuple(sorted((k, v) for k, v in asked.items() if k not in NATIVE and v))
    amounts = Amounts(asked.get("cpu", 0), asked.get("memory", 0), asked.get("ephemeral-storage", 0), extended)
    return amounts, (asked.get("cpu", DEFAULT_CPU_MILLI), asked.get("memory", DEFAULT_MEMORY_BYTES))


def _effective(spec: types.PodSpec, *, weighted: bool) -> dict[str, int]:
    together: dict[str, int] = {}
    peak: dict[str, int] = {}
    for container in spec.init_containers:
        asked = _asked(container, weighted)
        if container.restart_policy == "Always":
            _add(together, asked)
            _raise_to(peak, together)
        else:
            during = dict(together)
            _add(during, asked)
            _raise_to(peak, during)
    for container in spec.containers:
        _add(together, _asked(container, weighted))
    _raise_to(together, peak)
    if spec.resources is not None:
        together.update({k: v for k, v in _parse(spec.resources.requests).items() if k in ("cpu", "memory")})
    if spec.overhead:
        _add(together, _parse(spec.overhead))
    return together


def _asked(container: types.Container, weighted: bool) -> dict[str, int]:
    asked = _parse(container.resources.requests)
    if weighted:
        asked.setdefault("cpu", DEFAULT_CPU_MILLI)
        asked.setdefault("memory", DEFAULT_MEMORY_BYTES)
    return asked


def _parse(requests: types.Quantities) -> dict[str, int]:
    return {name: quantities.milli(q) if name == "cpu" else quantities.bytes_(q) for name, q in requests.items()}


def _add(total: dict[str, int], more: dict[str, int]) -> None:
    for name, amount in more.items():
        total[name] = total.get(name, 0) + amount


def _raise_to(total: dict[str, int], floor: dict[str, int]) -> None:
    for name, amount in floor.items():
        total[name] = max(total.get(name, 0), amount)


def _host_ports(spec: types.PodSpec) -> tuple[HostPort, ...]:
    sidecars = [c for c in spec.init_containers if c.restart_policy == "Always"]
    return tuple(
        (port.host_ip or "0.0.0.0", port.protocol or "TCP", port.host_port or (port.container_port if spec.host_network else 0))
        for container in [*spec.containers, *sidecars]
        for port in container.ports
        if port.host_port or spec.host_network
    )
