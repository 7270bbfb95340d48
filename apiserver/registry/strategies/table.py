"""Which kind behaves how: one line per kind that departs from the rule. A newcomer reads this first; the registry asks of()."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from apiserver.api import kinds
from apiserver.registry import addresses, claims
from apiserver.registry.context import Config
from apiserver.registry.strategies import cluster, pods, services, strategy, workloads

F = strategy.Flags
_EMPTY: dict[str, Any] = {}
_REPLICAS = {"replicas": 0}
_DAEMONS = {"currentNumberScheduled": 0, "desiredNumberScheduled": 0, "numberMisscheduled": 0, "numberReady": 0}
_BUDGET = {"currentHealthy": 0, "desiredHealthy": 0, "disruptionsAllowed": 0, "expectedPods": 0}

FLAGS: dict[kinds.Resource, strategy.Flags] = {
    kinds.PODS: F(initial_status=_EMPTY, generation="spec", returns_deleted=True, status_metadata=True),
    kinds.NODES: F(initial_status=_EMPTY, keeps_status=True, status_metadata=True),
    kinds.NAMESPACES: F(initial_status=_EMPTY),
    kinds.SERVICES: F(initial_status={"loadBalancer": {}}, returns_deleted=True),
    kinds.SERVICEACCOUNTS: F(returns_deleted=True),
    kinds.PODTEMPLATES: F(generation="all", returns_deleted=True),
    kinds.RESOURCEQUOTAS: F(initial_status=_EMPTY, returns_deleted=True, create_on_update=True),
    kinds.LIMITRANGES: F(create_on_update=True),
    kinds.ENDPOINTS: F(create_on_update=True),
    kinds.EVENTS: F(create_on_update=True),
    kinds.PERSISTENTVOLUMES: F(initial_status={"phase": "Pending"}, returns_deleted=True),
    kinds.PERSISTENTVOLUMECLAIMS: F(initial_status={"phase": "Pending"}, returns_deleted=True),
    kinds.REPLICATIONCONTROLLERS: F(initial_status=_REPLICAS, generation="spec"),
    kinds.REPLICASETS: F(initial_status=_REPLICAS, generation="spec"),
    kinds.STATEFULSETS: F(initial_status={**_REPLICAS, "availableReplicas": 0}, generation="spec"),
    kinds.DEPLOYMENTS: F(initial_status=_EMPTY, generation="spec"),
    kinds.DAEMONSETS: F(initial_status=_DAEMONS, generation="spec"),
    kinds.JOBS: F(initial_status=_EMPTY, generation="spec"),
    kinds.CRONJOBS: F(initial_status=_EMPTY, generation="spec"),
    kinds.HORIZONTALPODAUTOSCALERS: F(initial_status={"desiredReplicas": 0}),
    kinds.PODDISRUPTIONBUDGETS: F(initial_status=_BUDGET, generation="spec", unconditional_update=False),
    kinds.INGRESSES: F(initial_status={"loadBalancer": {}}, generation="spec"),
    kinds.INGRESSCLASSES: F(generation="spec"),
    kinds.NETWORKPOLICIES: F(generation="spec"),
    kinds.SERVICECIDRS: F(initial_status=_EMPTY),
    kinds.ENDPOINTSLICES: F(generation="all"),
    kinds.LEASES: F(create_on_update=True, unconditional_update=False),
    kinds.PRIORITYCLASSES: F(generation="all"),
    kinds.RUNTIMECLASSES: F(unconditional_update=False),
    kinds.ROLES: F(create_on_update=True),
    kinds.ROLEBINDINGS: F(create_on_update=True),
    kinds.CLUSTERROLES: F(create_on_update=True),
    kinds.CLUSTERROLEBINDINGS: F(create_on_update=True),
    kinds.CERTIFICATESIGNINGREQUESTS: F(initial_status=_EMPTY),
    kinds.VOLUMEATTACHMENTS: F(initial_status={"attached": False}),
    kinds.RESOURCECLAIMS: F(initial_status=_EMPTY),
    kinds.FLOWSCHEMAS: F(initial_status=_EMPTY, generation="spec"),
    kinds.PRIORITYLEVELCONFIGURATIONS: F(initial_status=_EMPTY, generation="spec"),
    kinds.MUTATINGWEBHOOKCONFIGURATIONS: F(generation="all", unconditional_update=False),
    kinds.VALIDATINGWEBHOOKCONFIGURATIONS: F(generation="all", unconditional_update=False),
    kinds.VALIDATINGADMISSIONPOLICIES: F(initial_status=_EMPTY, generation="spec", unconditional_update=False),
    kinds.VALIDATINGADMISSIONPOLICYBINDINGS: F(generation="spec", unconditional_update=False),
    kinds.MUTATINGADMISSIONPOLICIES: F(generation="spec", unconditional_update=False),
    kinds.MUTATINGADMISSIONPOLICYBINDINGS: F(generation="spec", unconditional_update=False),
    kinds.CUSTOMRESOURCEDEFINITIONS: F(initial_status=_EMPTY, generation="spec", unconditional_update=False),
    kinds.APISERVICES: F(initial_status=_EMPTY, unconditional_update=False),
}

_CLASSES: dict[kinds.Resource, type[strategy.Strategy]] = {
    kinds.PODS: pods.PodStrategy,
    kinds.NAMESPACES: cluster.NamespaceStrategy,
    kinds.CERTIFICATESIGNINGREQUESTS: cluster.CertificateSigningRequestStrategy,
    kinds.JOBS: workloads.JobStrategy,
    kinds.SECRETS: workloads.SecretStrategy,
}


@dataclass(frozen=True, slots=True)
class Owned:
    """Where the unique things of this cluster are claimed."""

    ips: addresses.Allocator
    ports: addresses.Allocator
    pod_cidrs: claims.Claims


class Strategies:
    def __init__(self, config: Config, owned: Owned) -> None:
        self._table: dict[kinds.Resource, strategy.Strategy] = {}
        for resource in kinds.RESOURCES:
            flags = FLAGS.get(resource, F(initial_status=_EMPTY if resource.subresource("status") else None))
            if resource is kinds.EVENTS:
                flags = F(create_on_update=True, ttl_s=config.event_ttl_s)
            self._table[resource] = _CLASSES.get(resource, strategy.Strategy)(resource, flags)
        self._table[kinds.SERVICES] = services.ServiceStrategy(kinds.SERVICES, FLAGS[kinds.SERVICES], owned.ips, owned.ports)
        self._table[kinds.NODES] = cluster.NodeStrategy(kinds.NODES, FLAGS[kinds.NODES], owned.pod_cidrs)

    def of(self, resource: kinds.Resource) -> strategy.Strategy:
        """The strategy of a kind in its stored version."""
        return self._table[resource]
