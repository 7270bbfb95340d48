"""Fills in what Kubernetes fills in when a document leaves it out, in place, before admission and validation. Pure; the registry calls apply() on create and update.

Only constants and what follows from the document itself: names, uids, times and addresses are the registry's. Values follow the API reference ("Defaults to …").
A value of the wrong type is left for check_fields and validation to name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from apiserver.api import defaults_pod, kinds, quantities
from apiserver.api.defaults_pod import pod_template
from apiserver.api.errors import BadRequest
from apiserver.api.kinds import Resource

JSON = dict[str, Any]


def apply(resource: Resource, obj: JSON) -> None:
    """Defaults a document in place. Explicit nulls count as absent and go. Raises BadRequest for a document too deep to walk."""
    try:
        _drop_nulls(obj)
    except RecursionError as err:
        raise BadRequest(f"{resource.kind}: exceeded max depth") from err
    default = _DEFAULTS.get(resource)
    if default is not None:
        default(obj)


def _drop_nulls(value: JSON) -> None:
    """Go's decoder reads null as "not given" everywhere; so must we, or it would be stored."""
    for key in [key for key, item in value.items() if item is None]:
        del value[key]
    for item in value.values():
        if item.__class__ is dict:
            _drop_nulls(item)
        elif item.__class__ is list:
            for one in item:
                if one.__class__ is dict:
                    _drop_nulls(one)


def child(parent: JSON, key: str) -> JSON | None:
    """The object at a key, None where there is none (or it is of the wrong type)."""
    value = parent.get(key)
    return value if isinstance(value, dict) else None


def children(parent: JSON, key: str) -> Iterator[JSON]:
    value = parent.get(key)
    return (item for item in value if isinstance(item, dict)) if isinstance(value, list) else iter(())


def canonical_quantities(parent: JSON | None, *fields: str) -> None:
    """Quantities as Kubernetes stores them ("0.5" → "500m"); what is none stays for validation."""
    for field in fields:
        values = child(parent, field) if parent is not None else None
        for name, quantity in (values or {}).items():
            try:
                values[name] = quantities.canonical(quantity)  # type: ignore[index]
            except (BadRequest, TypeError):
                continue


def _pod(obj: JSON) -> None:
    spec = child(obj, "spec")
    if spec is not None:
        defaults_pod.pod_spec(spec)
        defaults_pod.pod_only(spec)


def _template_of(spec: JSON) -> None:
    template = child(spec, "template")
    if template is not None:
        pod_template(template)


def _service(obj: JSON) -> None:
    spec = child(obj, "spec")
    if spec is None:
        return
    spec.setdefault("sessionAffinity", "None")
    if spec["sessionAffinity"] == "None":
        spec.pop("sessionAffinityConfig", None)
    elif spec["sessionAffinity"] == "ClientIP":
        spec.setdefault("sessionAffinityConfig", {}).setdefault("clientIP", {}).setdefault("timeoutSeconds", 10800)
    kind = spec.setdefault("type", "ClusterIP")
    for port in children(spec, "ports"):
        port.setdefault("protocol", "TCP")
        if port.get("targetPort") in (None, 0, "") and "port" in port:
            port["targetPort"] = port["port"]
    if kind in ("NodePort", "LoadBalancer") or (kind == "ClusterIP" and spec.get("externalIPs")):
        spec.setdefault("externalTrafficPolicy", "Cluster")
    if kind in ("NodePort", "LoadBalancer", "ClusterIP"):
        spec.setdefault("internalTrafficPolicy", "Cluster")
    if kind == "LoadBalancer":
        spec.setdefault("allocateLoadBalancerNodePorts", True)


def _namespace(obj: JSON) -> None:
    metadata = obj.get("metadata")
    if isinstance(metadata, dict) and metadata.get("name"):
        labels = metadata.get("labels")
        if labels is None or isinstance(labels, dict):
            metadata["labels"] = {**(labels or {}), "kubernetes.io/metadata.name": metadata["name"]}
    spec = obj.setdefault("spec", {})
    if isinstance(spec, dict) and "deletionTimestamp" not in (metadata or {}):
        spec.setdefault("finalizers", ["kubernetes"])
    status = obj.setdefault("status", {})
    if isinstance(status, dict) and not status.get("phase"):
        status["phase"] = "Active"


def _node(obj: JSON) -> None:
    status = child(obj, "status")
    if status is not None:
        if "allocatable" not in status and isinstance(status.get("capacity"), dict):
            status["allocatable"] = dict(status["capacity"])
        canonical_quantities(status, "capacity", "allocatable")
    obj.setdefault("spec", {})


def _secret(obj: JSON) -> None:
    obj.setdefault("type", "Opaque")


def _event(obj: JSON) -> None:
    obj.setdefault("involvedObject", {})
    obj.setdefault("source", {})
    obj.setdefault("reportingComponent", "")
    obj.setdefault("reportingInstance", "")


def _endpoints(obj: JSON) -> None:
    for subset in children(obj, "subsets"):
        for port in children(subset, "ports"):
            port.setdefault("protocol", "TCP")


def _endpoint_slice(obj: JSON) -> None:
    obj.setdefault("endpoints", [])
    obj.setdefault("ports", [])
    for port in children(obj, "ports"):
        port.setdefault("name", "")
        port.setdefault("protocol", "TCP")


def _selector_from_template(obj: JSON) -> None:
    """ReplicationController: labels and selector fall back to the template's labels."""
    spec = child(obj, "spec")
    if spec is None:
        return
    spec.setdefault("replicas", 1)
    labels = ((spec.get("template") or {}).get("metadata") or {}).get("labels")
    if labels:
        spec.setdefault("selector", dict(labels))
        obj.setdefault("metadata", {}).setdefault("labels", dict(labels))
    _template_of(spec)


def _replica_set(obj: JSON) -> None:
    spec = child(obj, "spec")
    if spec is not None:
        spec.setdefault("replicas", 1)
        _template_of(spec)


def _deployment(obj: JSON) -> None:
    spec = child(obj, "spec")
    if spec is None:
        return
    spec.setdefault("replicas", 1)
    strategy = spec.setdefault("strategy", {})
    if isinstance(strategy, dict) and strategy.setdefault("type", "RollingUpdate") == "RollingUpdate":
        rolling = strategy.setdefault("rollingUpdate", {})
        rolling.setdefault("maxUnavailable", "25%")
        rolling.setdefault("maxSurge", "25%")
    spec.setdefault("revisionHistoryLimit", 10)
    spec.setdefault("progressDeadlineSeconds", 600)
    _template_of(spec)


def _daemon_set(obj: JSON) -> None:
    spec = child(obj, "spec")
    if spec is None:
        return
    strategy = spec.setdefault("updateStrategy", {})
    if isinstance(strategy, dict) and strategy.setdefault("type", "RollingUpdate") == "RollingUpdate":
        rolling = strategy.setdefault("rollingUpdate", {})
        rolling.setdefault("maxUnavailable", 1)
        rolling.setdefault("maxSurge", 0)
    spec.setdefault("revisionHistoryLimit", 10)
    _template_of(spec)


def _stateful_set(obj: JSON) -> None:
    spec = child(obj, "spec")
    if spec is None:
        return
    spec.setdefault("replicas", 1)
    spec.setdefault("podManagementPolicy", "OrderedReady")
    strategy = spec.setdefault("updateStrategy", {})
    if isinstance(strategy, dict) and strategy.setdefault("type", "RollingUpdate") == "RollingUpdate":
        strategy.setdefault("rollingUpdate", {}).setdefault("partition", 0)
    retention = spec.setdefault("persistentVolumeClaimRetentionPolicy", {})
    retention.setdefault("whenDeleted", "Retain")
    retention.setdefault("whenScaled", "Retain")
    spec.setdefault("revisionHistoryLimit", 10)
    _template_of(spec)
    for claim in children(spec, "volumeClaimTemplates"):
        claim.setdefault("apiVersion", "v1")
        claim.setdefault("kind", "PersistentVolumeClaim")
        _claim(claim)
        claim.setdefault("status", {"phase": "Pending"})


def _job_spec(spec: JSON) -> None:
    if "completions" not in spec and "parallelism" not in spec:
        spec["completions"] = 1
    spec.setdefault("parallelism", 1)
    spec.setdefault("backoffLimit", 6)
    spec.setdefault("completionMode", "NonIndexed")
    spec.setdefault("suspend", False)
    spec.setdefault("podReplacementPolicy", "Failed" if "podFailurePolicy" in spec else "TerminatingOrFailed")
    spec.setdefault("manualSelector", False)
    if not spec["manualSelector"]:
        del spec["manualSelector"]
    _template_of(spec)


def _job(obj: JSON) -> None:
    spec = child(obj, "spec")
    if spec is not None:
        _job_spec(spec)


def _cron_job(obj: JSON) -> None:
    spec = child(obj, "spec")
    if spec is None:
        return
    spec.setdefault("concurrencyPolicy", "Allow")
    spec.setdefault("suspend", False)
    spec.setdefault("successfulJobsHistoryLimit", 3)
    spec.setdefault("failedJobsHistoryLimit", 1)
    template = child(spec, "jobTemplate")
    job_spec = child(template, "spec") if template is not None else None
    if job_spec is not None:
        _template_of(job_spec)


def _claim(obj: JSON) -> None:
    spec = child(obj, "spec")
    if spec is not None:
        spec.setdefault("volumeMode", "Filesystem")
        canonical_quantities(child(spec, "resources"), "requests", "limits")


def _volume(obj: JSON) -> None:
    spec = child(obj, "spec")
    if spec is not None:
        spec.setdefault("persistentVolumeReclaimPolicy", "Retain")
        spec.setdefault("volumeMode", "Filesystem")
        host_path = child(spec, "hostPath")
        if host_path is not None:
            host_path.setdefault("type", "")
        canonical_quantities(spec, "capacity")


def _limit_range(obj: JSON) -> None:
    spec = child(obj, "spec")
    for limit in children(spec or {}, "limits"):
        canonical_quantities(limit, "max", "min", "default", "defaultRequest", "maxLimitRequestRatio")
        if limit.get("type") == "Container":
            if limit.get("max"):
                limit["default"] = {**limit["max"], **(limit.get("default") or {})}
            if limit.get("default"):
                limit["defaultRequest"] = {**limit["default"], **(limit.get("min") or {}), **(limit.get("defaultRequest") or {})}


def _quota(obj: JSON) -> None:
    canonical_quantities(child(obj, "spec"), "hard")


def _ingress(obj: JSON) -> None:
    obj.setdefault("spec", {})


def _network_policy(obj: JSON) -> None:
    spec = child(obj, "spec")
    if spec is None:
        return
    for rules in ("ingress", "egress"):
        for rule in children(spec, rules):
            for port in children(rule, "ports"):
                port.setdefault("protocol", "TCP")
    if not spec.get("policyTypes"):
        spec["policyTypes"] = ["Ingress", "Egress"] if spec.get("egress") else ["Ingress"]


def _autoscaler(obj: JSON) -> None:
    spec = child(obj, "spec")
    if spec is not None:
        spec.setdefault("minReplicas", 1)
        if not spec.get("metrics"):
            spec["metrics"] = [{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}}]


def _role_binding(obj: JSON) -> None:
    rbac = "rbac.authorization.k8s.io"
    reference = child(obj, "roleRef")
    if reference is not None:
        reference.setdefault("apiGroup", rbac)
    for subject in children(obj, "subjects"):
        if "apiGroup" not in subject and subject.get("kind") in ("User", "Group"):
            subject["apiGroup"] = rbac


def _storage_class(obj: JSON) -> None:
    obj.setdefault("reclaimPolicy", "Delete")
    obj.setdefault("volumeBindingMode", "Immediate")


def _priority_class(obj: JSON) -> None:
    obj.setdefault("preemptionPolicy", "PreemptLowerPriority")


def _webhooks(obj: JSON) -> None:
    for webhook in children(obj, "webhooks"):
        webhook.setdefault("failurePolicy", "Fail")
        webhook.setdefault("matchPolicy", "Equivalent")
        webhook.setdefault("namespaceSelector", {})
        webhook.setdefault("objectSelector", {})
        webhook.setdefault("timeoutSeconds", 10)
        if obj.get("kind") == "MutatingWebhookConfiguration":
            webhook.setdefault("reinvocationPolicy", "Never")
        service = child(child(webhook, "clientConfig") or {}, "service")
        if service is not None:
            service.setdefault("port", 443)
        for rule in children(webhook, "rules"):
            rule.setdefault("scope", "*")


def _definition(obj: JSON) -> None:
    spec = child(obj, "spec")
    if spec is None:
        return
    names = child(spec, "names")
    if names is not None and isinstance(names.get("kind"), str):
        names.setdefault("singular", names["kind"].lower())
        names.setdefault("listKind", f"{names['kind']}List")
    spec.setdefault("conversion", {}).setdefault("strategy", "None")


def _pod_template(obj: JSON) -> None:
    _template_of(obj)


_DEFAULTS: dict[Resource, Callable[[JSON], None]] = {
    kinds.PODS: _pod, kinds.SERVICES: _service, kinds.NAMESPACES: _namespace, kinds.NODES: _node, kinds.SECRETS: _secret, kinds.EVENTS: _event,
    kinds.ENDPOINTS: _endpoints, kinds.ENDPOINTSLICES: _endpoint_slice, kinds.REPLICATIONCONTROLLERS: _selector_from_template, kinds.REPLICASETS: _replica_set,
    kinds.DEPLOYMENTS: _deployment, kinds.DAEMONSETS: _daemon_set, kinds.STATEFULSETS: _stateful_set, kinds.JOBS: _job, kinds.CRONJOBS: _cron_job,
    kinds.PERSISTENTVOLUMECLAIMS: _claim, kinds.PERSISTENTVOLUMES: _volume, kinds.LIMITRANGES: _limit_range, kinds.RESOURCEQUOTAS: _quota,
    kinds.INGRESSES: _ingress, kinds.NETWORKPOLICIES: _network_policy, kinds.HORIZONTALPODAUTOSCALERS: _autoscaler, kinds.ROLEBINDINGS: _role_binding,
    kinds.CLUSTERROLEBINDINGS: _role_binding, kinds.STORAGECLASSES: _storage_class, kinds.PRIORITYCLASSES: _priority_class,
    kinds.MUTATINGWEBHOOKCONFIGURATIONS: _webhooks, kinds.VALIDATINGWEBHOOKCONFIGURATIONS: _webhooks, kinds.CUSTOMRESOURCEDEFINITIONS: _definition,
    kinds.PODTEMPLATES: _pod_template,
}
