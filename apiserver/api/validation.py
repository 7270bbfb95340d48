"""Whether a document may be stored: the entry points of validation. Pure; the registry calls them after defaulting and admission, with documents of the right types.

Every kind's metadata is checked; kinds with rules of their own are in the table at the end. Causes carry Kubernetes' paths and texts, in the document's order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from apiserver.api import kinds, validation_core, validation_more, validation_pod, validation_services, validation_workloads
from apiserver.api.errors import Cause
from apiserver.api.kinds import Resource
from apiserver.api.validation_meta import metadata_causes, metadata_update_causes

JSON = dict[str, Any]


def validate_create(resource: Resource, obj: JSON) -> list[Cause]:
    """Everything wrong with a new document; empty: nothing."""
    causes = list(metadata_causes(resource, obj))
    check = _CREATE.get(resource)
    if check is not None:
        causes.extend(check(obj))
    return causes


def validate_update(resource: Resource, new: JSON, old: JSON) -> list[Cause]:
    """Everything wrong with replacing `old` by `new`: what may not change, and what is wrong with `new` by itself."""
    causes = validate_metadata_update(resource, new, old)
    check = _UPDATE.get(resource)
    if check is not None:
        causes.extend(check(new, old))
    own = _CREATE.get(resource) if resource not in _UPDATE_ONLY else None
    if own is not None:
        causes.extend(own(new))
    return list(dict.fromkeys(causes))


def validate_metadata_update(resource: Resource, new: JSON, old: JSON) -> list[Cause]:
    """The metadata's part of validate_update: for status and other subresources, where the rest is taken from the old object."""
    return [*metadata_update_causes(resource, new, old), *metadata_causes(resource, new)]


_CREATE: dict[Resource, Callable[[JSON], Iterator[Cause]]] = {
    kinds.PODS: validation_pod.pod_causes,
    kinds.SERVICES: validation_services.service_causes,
    kinds.ENDPOINTS: validation_services.endpoints_causes,
    kinds.ENDPOINTSLICES: validation_services.slice_causes,
    kinds.INGRESSES: validation_services.ingress_causes,
    kinds.NETWORKPOLICIES: validation_services.policy_causes,
    kinds.NODES: validation_core.node_causes,
    kinds.NAMESPACES: validation_core.namespace_causes,
    kinds.CONFIGMAPS: validation_core.config_map_causes,
    kinds.SECRETS: validation_core.secret_causes,
    kinds.SERVICEACCOUNTS: validation_core.service_account_causes,
    kinds.LEASES: validation_core.lease_causes,
    kinds.EVENTS: validation_core.event_causes,
    kinds.BINDINGS: validation_core.binding_causes,
    kinds.PERSISTENTVOLUMECLAIMS: validation_core.claim_causes,
    kinds.PERSISTENTVOLUMES: validation_core.volume_causes,
    kinds.LIMITRANGES: validation_core.limit_range_causes,
    kinds.RESOURCEQUOTAS: validation_core.quota_causes,
    kinds.PODTEMPLATES: validation_workloads.pod_template_causes,
    kinds.REPLICATIONCONTROLLERS: validation_workloads.replication_controller_causes,
    kinds.REPLICASETS: validation_workloads.replica_set_causes,
    kinds.DEPLOYMENTS: validation_workloads.deployment_causes,
    kinds.DAEMONSETS: validation_workloads.daemon_set_causes,
    kinds.STATEFULSETS: validation_workloads.stateful_set_causes,
    kinds.JOBS: validation_workloads.job_causes,
    kinds.CRONJOBS: validation_workloads.cron_job_causes,
    kinds.HORIZONTALPODAUTOSCALERS: validation_more.autoscaler_causes,
    kinds.PODDISRUPTIONBUDGETS: validation_more.budget_causes,
    kinds.ROLES: validation_more.role_causes,
    kinds.CLUSTERROLES: validation_more.role_causes,
    kinds.ROLEBINDINGS: validation_more.role_binding_causes,
    kinds.CLUSTERROLEBINDINGS: validation_more.cluster_role_binding_causes,
    kinds.STORAGECLASSES: validation_more.storage_class_causes,
    kinds.PRIORITYCLASSES: validation_more.priority_class_causes,
    kinds.RUNTIMECLASSES: validation_more.runtime_class_causes,
    kinds.CERTIFICATESIGNINGREQUESTS: validation_more.signing_request_causes,
    kinds.CUSTOMRESOURCEDEFINITIONS: validation_more.definition_causes,
}
# What may change; the rules of _CREATE are checked on the new object too, except for kinds in _UPDATE_ONLY, whose update rules say all.
_UPDATE: dict[Resource, Callable[[JSON, JSON], Iterator[Cause]]] = {
    kinds.PODS: validation_pod.pod_update_causes,
    kinds.SERVICES: validation_services.service_update_causes,
    kinds.ENDPOINTSLICES: validation_services.slice_update_causes,
    kinds.NODES: validation_core.node_update_causes,
    kinds.CONFIGMAPS: validation_core.config_map_update_causes,
    kinds.SECRETS: validation_core.secret_update_causes,
    kinds.PERSISTENTVOLUMECLAIMS: validation_core.claim_update_causes,
    kinds.REPLICASETS: validation_workloads.selector_update_causes,
    kinds.DEPLOYMENTS: validation_workloads.selector_update_causes,
    kinds.DAEMONSETS: validation_workloads.selector_update_causes,
    kinds.STATEFULSETS: validation_workloads.stateful_set_update_causes,
    kinds.JOBS: validation_workloads.job_update_causes,
    kinds.ROLEBINDINGS: validation_more.role_binding_update_causes,
    kinds.CLUSTERROLEBINDINGS: validation_more.role_binding_update_causes,
    kinds.STORAGECLASSES: validation_more.storage_class_update_causes,
    kinds.PRIORITYCLASSES: validation_more.priority_class_update_causes,
    kinds.RUNTIMECLASSES: validation_more.runtime_class_update_causes,
    kinds.CONTROLLERREVISIONS: validation_workloads.revision_update_causes,
}
_UPDATE_ONLY = frozenset((kinds.PODS,))
