"""What `kubectl get` shows of each kind: columns and cells as Kubernetes' server prints them (meta.k8s.io/v1 Table). Pure: the clock is a parameter.

REST renders Tables from it, minikctl too. Pods are in table_pods, kinds with a pod template in table_workloads; every other kind is a line or a function here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from apiserver.api import kinds, table_cells, table_pods, table_workloads
from apiserver.api.kinds import Resource
from apiserver.api.table_cells import JSON, NONE, age, section

Cells = Callable[[JSON, float], list[Any]]


@dataclass(frozen=True, slots=True)
class Table:
    """`columns`: names divided by "|"; those marked "+" are shown with -o wide only, those marked "#" are integers. `cells` gives one value for each."""

    columns: str
    cells: Cells

    def definitions(self) -> list[JSON]:
        return [_definition(mark) for mark in self.columns.split("|")]


def _definition(mark: str) -> JSON:
    name = mark.lstrip("+#")
    return {
        "name": name, "type": "integer" if "#" in mark else "string", "format": "name" if name == "Name" else "",
        "description": f"{name} of the object, as kubectl get shows it", "priority": 1 if "+" in mark else 0,
    }


def columns(resource: Resource) -> list[JSON]:
    """TableColumnDefinitions; priority 1 = wide only."""
    return _table(resource).definitions()


def cells(resource: Resource, obj: JSON, now: float) -> list[Any]:
    """One row's cells, one per column (the wide ones too). `now` is Unix seconds: ages are relative to it."""
    return _table(resource).cells(obj, now)


def _table(resource: Resource) -> Table:
    return TABLES.get(resource, DEFAULT)


def name_of(obj: JSON) -> str:
    return str(section(obj, "metadata").get("name") or "")


def _default(obj: JSON, now: float) -> list[Any]:
    return [name_of(obj), age(obj, now)]


def _created(obj: JSON, now: float) -> list[Any]:
    return [name_of(obj), section(obj, "metadata").get("creationTimestamp") or "<unknown>"]


def _node(obj: JSON, now: float) -> list[Any]:
    spec, status = section(obj, "spec"), section(obj, "status")
    ready = next((c.get("status") for c in status.get("conditions") or () if c.get("type") == "Ready"), None)
    words = ["Unknown" if ready is None else "Ready" if ready == "True" else "NotReady"]
    if spec.get("unschedulable"):
        words.append("SchedulingDisabled")
    labels = section(section(obj, "metadata"), "labels")
    roles = {key.removeprefix("node-role.kubernetes.io/") for key in labels if key.startswith("node-role.kubernetes.io/")}
    roles |= {value for key, value in labels.items() if key == "kubernetes.io/role" and value}
    info = section(status, "nodeInfo")

    def address(kind: str) -> str:
        return next((a.get("address", "") for a in status.get("addresses") or () if a.get("type") == kind), NONE)

    unknown = "<unknown>"
    return [
        name_of(obj), ",".join(words), ",".join(sorted(role for role in roles if role)) or NONE, age(obj, now), info.get("kubeletVersion") or "",
        address("InternalIP"), address("ExternalIP"), info.get("osImage") or unknown, info.get("kernelVersion") or unknown, info.get("containerRuntimeVersion") or unknown,
    ]


def _service(obj: JSON, now: float) -> list[Any]:
    spec = section(obj, "spec")
    kind = spec.get("type") or "ClusterIP"
    external = ",".join(spec.get("externalIPs") or ()) or NONE
    if kind == "ExternalName":
        external = spec.get("externalName") or NONE
    elif kind == "LoadBalancer":
        entries = section(section(obj, "status"), "loadBalancer").get("ingress") or ()
        found = [entry.get("ip") or entry.get("hostname") or "" for entry in entries] + list(spec.get("externalIPs") or ())
        external = ",".join(found) or "<pending>"
    ports = ",".join(
        f"{port.get('port')}:{port['nodePort']}/{port.get('protocol', 'TCP')}" if port.get("nodePort") else f"{port.get('port')}/{port.get('protocol', 'TCP')}"
        for port in spec.get("ports") or ()
    )
    return [name_of(obj), kind, spec.get("clusterIP") or NONE, external, ports or NONE, age(obj, now), table_cells.labels(spec.get("selector"))]


def _namespace(obj: JSON, now: float) -> list[Any]:
    return [name_of(obj), section(obj, "status").get("phase") or "", age(obj, now)]


def _event(obj: JSON, now: float) -> list[Any]:
    first = obj.get("firstTimestamp") or obj.get("eventTime")
    last, count = obj.get("lastTimestamp") or first, obj.get("count") or 1
    series = section(obj, "series")
    if series:
        last, count = series.get("lastObservedTime"), series.get("count") or 0
    involved = section(obj, "involvedObject")
    target = "/".join(part for part in (str(involved.get("kind") or "").lower(), involved.get("name")) if part)
    source = section(obj, "source")
    origin = ", ".join(part for part in (source.get("component") or obj.get("reportingComponent"), source.get("host") or obj.get("reportingInstance")) if part)
    return [
        table_cells.since(last, now), obj.get("type") or "", obj.get("reason") or "", target, involved.get("fieldPath") or "", origin,
        (obj.get("message") or "").strip(), table_cells.since(first, now), count, name_of(obj),
    ]


def _event_v1(obj: JSON, now: float) -> list[Any]:
    from apiserver.api.convert import event_from_v1

    return _event(event_from_v1(obj), now)


def _endpoint_slice(obj: JSON, now: float) -> list[Any]:
    ports = ["*" if port.get("port") is None else str(port["port"]) for port in obj.get("ports") or ()]
    addresses = [address for endpoint in obj.get("endpoints") or () for address in endpoint.get("addresses") or ()]
    return [name_of(obj), obj.get("addressType") or "", table_cells.few(ports), table_cells.few(addresses), age(obj, now)]


def _endpoints(obj: JSON, now: float) -> list[Any]:
    listed = []
    for subset in obj.get("subsets") or ():
        for port in subset.get("ports") or [{}]:
            for address in subset.get("addresses") or ():
                ip = address.get("ip", "")
                listed.append(f"{f'[{ip}]' if ':' in ip else ip}:{port['port']}" if port.get("port") else ip)
    shown = ",".join(listed[:3]) + (f" + {len(listed) - 3} more..." if len(listed) > 3 else "")
    return [name_of(obj), shown or NONE, age(obj, now)]


def _config_map(obj: JSON, now: float) -> list[Any]:
    return [name_of(obj), len(section(obj, "data")) + len(section(obj, "binaryData")), age(obj, now)]


def _secret(obj: JSON, now: float) -> list[Any]:
    return [name_of(obj), obj.get("type") or "Opaque", len(section(obj, "data")), age(obj, now)]


def _service_account(obj: JSON, now: float) -> list[Any]:
    return [name_of(obj), len(obj.get("secrets") or ()), age(obj, now)]


def _lease(obj: JSON, now: float) -> list[Any]:
    return [name_of(obj), section(obj, "spec").get("holderIdentity") or "", age(obj, now)]


def _ingress(obj: JSON, now: float) -> list[Any]:
    spec = section(obj, "spec")
    hosts = [rule.get("host") or "*" for rule in spec.get("rules") or ()] or ["*"]
    shown = ",".join(hosts[:3]) + (f" + {len(hosts) - 3} more..." if len(hosts) > 3 else "")
    entries = section(section(obj, "status"), "loadBalancer").get("ingress") or ()
    address = ",".join(entry.get("ip") or entry.get("hostname") or "" for entry in entries)
    return [name_of(obj), spec.get("ingressClassName") or NONE, shown, address, "80, 443" if spec.get("tls") else "80", age(obj, now)]


def _ingress_class(obj: JSON, now: float) -> list[Any]:
    spec = section(obj, "spec")
    parameters = section(spec, "parameters")
    shown = ".".join(part for part in (parameters.get("kind"), parameters.get("apiGroup")) if part) + f"/{parameters.get('name', '')}" if parameters else NONE
    return [name_of(obj), spec.get("controller") or "", shown, age(obj, now)]


def _network_policy(obj: JSON, now: float) -> list[Any]:
    return [name_of(obj), table_cells.selector(section(obj, "spec").get("podSelector")), age(obj, now)]


def _volume(obj: JSON, now: float) -> list[Any]:
    spec, status = section(obj, "spec"), section(obj, "status")
    claim = section(spec, "claimRef")
    phase = "Terminating" if section(obj, "metadata").get("deletionTimestamp") else status.get("phase") or ""
    return [
        name_of(obj), section(spec, "capacity").get("storage") or "", table_cells.access_modes(spec.get("accessModes")), spec.get("persistentVolumeReclaimPolicy") or "",
        phase, f"{claim.get('namespace', '')}/{claim.get('name', '')}" if claim else "", spec.get("storageClassName") or "",
        spec.get("volumeAttributesClassName") or "<unset>", status.get("reason") or "", age(obj, now), spec.get("volumeMode") or "<unset>",
    ]


def _claim(obj: JSON, now: float) -> list[Any]:
    spec, status = section(obj, "spec"), section(obj, "status")
    bound = bool(spec.get("volumeName"))
    phase = "Terminating" if section(obj, "metadata").get("deletionTimestamp") else status.get("phase") or ""
    return [
        name_of(obj), phase, spec.get("volumeName") or "", section(status, "capacity").get("storage") or "" if bound else "",
        table_cells.access_modes(status.get("accessModes")) if bound else "", spec.get("storageClassName") or "",
        spec.get("volumeAttributesClassName") or "<unset>", age(obj, now), spec.get("volumeMode") or "<unset>",
    ]


def _storage_class(obj: JSON, now: float) -> list[Any]:
    default = section(section(obj, "metadata"), "annotations").get("storageclass.kubernetes.io/is-default-class") == "true"
    return [
        name_of(obj) + (" (default)" if default else ""), obj.get("provisioner") or "", obj.get("reclaimPolicy") or "Delete", obj.get("volumeBindingMode") or "<unset>",
        obj.get("allowVolumeExpansion") is True, age(obj, now),
    ]


def _priority_class(obj: JSON, now: float) -> list[Any]:
    return [name_of(obj), obj.get("value", 0), obj.get("globalDefault") is True, age(obj, now), obj.get("preemptionPolicy") or ""]


def _role_binding(obj: JSON, now: float) -> list[Any]:
    reference = section(obj, "roleRef")
    subjects = obj.get("subjects") or ()

    def of(kind: str) -> str:
        named = (s for s in subjects if s.get("kind") == kind)
        return ", ".join(f"{s.get('namespace', '')}/{s.get('name', '')}" if kind == "ServiceAccount" else s.get("name", "") for s in named)

    return [name_of(obj), f"{reference.get('kind', '')}/{reference.get('name', '')}", age(obj, now), of("User"), of("Group"), of("ServiceAccount")]


def _budget(obj: JSON, now: float) -> list[Any]:
    spec = section(obj, "spec")
    low, high = (("N/A" if spec.get(field) is None else str(spec[field])) for field in ("minAvailable", "maxUnavailable"))
    return [name_of(obj), low, high, section(obj, "status").get("disruptionsAllowed") or 0, age(obj, now)]


def _autoscaler(obj: JSON, now: float) -> list[Any]:
    spec, status = section(obj, "spec"), section(obj, "status")
    reference = section(spec, "scaleTargetRef")
    least = spec.get("minReplicas")
    return [
        name_of(obj), f"{reference.get('kind', '')}/{reference.get('name', '')}", table_cells.metrics(spec, status), "<unset>" if least is None else str(least),
        spec.get("maxReplicas") or 0, status.get("currentReplicas") or 0, age(obj, now),
    ]


def _autoscaler_v1(obj: JSON, now: float) -> list[Any]:
    from apiserver.api.convert import autoscaler_to_v2

    return _autoscaler(autoscaler_to_v2(obj), now)


def _signing_request(obj: JSON, now: float) -> list[Any]:
    spec, conditions = section(obj, "spec"), section(obj, "status").get("conditions") or ()
    seconds = spec.get("expirationSeconds")
    words = [kind for kind in ("Approved", "Denied", "Failed") if any(c.get("type") == kind for c in conditions)] or ["Pending"]
    if section(obj, "status").get("certificate"):
        words.append("Issued")
    duration = NONE if seconds is None else table_cells.duration(seconds)
    return [name_of(obj), age(obj, now), spec.get("signerName") or NONE, spec.get("username") or "", duration, ",".join(words)]


def _api_service(obj: JSON, now: float) -> list[Any]:
    service = section(section(obj, "spec"), "service")
    condition = next((c for c in section(obj, "status").get("conditions") or () if c.get("type") == "Available"), None)
    available = "Unknown" if condition is None else condition.get("status", "")
    if condition is not None and available != "True":
        available = f"{available} ({condition.get('reason', '')})"
    return [name_of(obj), f"{service.get('namespace')}/{service.get('name')}" if service else "Local", available, age(obj, now)]


def _quota(obj: JSON, now: float) -> list[Any]:
    hard, used = section(section(obj, "status"), "hard"), section(section(obj, "status"), "used")
    listed: dict[bool, list[str]] = {True: [], False: []}
    for name in sorted(hard):
        listed[name.startswith("limits.")].append(f"{name}: {used.get(name, '0')}/{hard[name]}")
    return [name_of(obj), ", ".join(listed[False]), ", ".join(listed[True]), age(obj, now)]


def _component(obj: JSON, now: float) -> list[Any]:
    condition: JSON = next((c for c in obj.get("conditions") or () if c.get("type") == "Healthy"), {})
    status = {"True": "Healthy", "False": "Unhealthy"}.get(condition.get("status", ""), "Unknown")
    return [name_of(obj), status, condition.get("message") or "", condition.get("error") or ""]


def _runtime_class(obj: JSON, now: float) -> list[Any]:
    return [name_of(obj), obj.get("handler") or "", age(obj, now)]


def _webhooks(obj: JSON, now: float) -> list[Any]:
    return [name_of(obj), len(obj.get("webhooks") or ()), age(obj, now)]


def _revision(obj: JSON, now: float) -> list[Any]:
    owner = next((o for o in section(obj, "metadata").get("ownerReferences") or () if o.get("controller")), None)
    shown = NONE
    if owner:
        group = str(owner.get("apiVersion", "")).rpartition("/")[0]
        shown = f"{str(owner.get('kind', '')).lower()}{f'.{group}' if group else ''}/{owner.get('name', '')}"
    return [name_of(obj), shown, obj.get("revision") or 0, age(obj, now)]


def _pod_template(obj: JSON, now: float) -> list[Any]:
    template = section(obj, "template")
    containers, images = table_workloads.containers(template)
    return [name_of(obj), containers, images, table_cells.labels(section(section(template, "metadata"), "labels"))]


DEFAULT = Table("Name|Age", _default)
_CREATED = Table("Name|Created At", _created)
_EVENT_COLUMNS = "Last Seen|Type|Reason|Object|+Subobject|+Source|Message|+First Seen|+#Count|+Name"
_HPA_COLUMNS = "Name|Reference|Targets|MinPods|#MaxPods|#Replicas|Age"
_BINDING = Table("Name|Role|Age|+Users|+Groups|+ServiceAccounts", _role_binding)


TABLES: dict[Resource, Table] = {
    kinds.PODS: Table("Name|Ready|Status|Restarts|Age|+IP|+Node|+Nominated Node|+Readiness Gates", table_pods.cells),
    kinds.NODES: Table("Name|Status|Roles|Age|Version|+Internal-IP|+External-IP|+OS-Image|+Kernel-Version|+Container-Runtime", _node),
    kinds.SERVICES: Table("Name|Type|Cluster-IP|External-IP|Port(s)|Age|+Selector", _service),
    kinds.NAMESPACES: Table("Name|Status|Age", _namespace),
    kinds.EVENTS: Table(_EVENT_COLUMNS, _event),
    kinds.EVENTS_V1: Table(_EVENT_COLUMNS, _event_v1),
    kinds.ENDPOINTSLICES: Table("Name|AddressType|Ports|Endpoints|Age", _endpoint_slice),
    kinds.ENDPOINTS: Table("Name|Endpoints|Age", _endpoints),
    kinds.CONFIGMAPS: Table("Name|#Data|Age", _config_map),
    kinds.SECRETS: Table("Name|Type|#Data|Age", _secret),
    kinds.SERVICEACCOUNTS: Table("Name|#Secrets|Age", _service_account),
    kinds.LEASES: Table("Name|Holder|Age", _lease),
    kinds.DEPLOYMENTS: Table("Name|Ready|#Up-to-date|#Available|Age|+Containers|+Images|+Selector", table_workloads.deployment),
    kinds.REPLICASETS: Table("Name|#Desired|#Current|#Ready|Age|+Containers|+Images|+Selector", table_workloads.replica_set),
    kinds.REPLICATIONCONTROLLERS: Table("Name|#Desired|#Current|#Ready|Age|+Containers|+Images|+Selector", table_workloads.replica_set),
    kinds.DAEMONSETS: Table("Name|#Desired|#Current|#Ready|#Up-to-date|#Available|Node Selector|Age|+Containers|+Images|+Selector", table_workloads.daemon_set),
    kinds.STATEFULSETS: Table("Name|Ready|Age|+Containers|+Images", table_workloads.stateful_set),
    kinds.JOBS: Table("Name|Status|Completions|Duration|Age|+Containers|+Images|+Selector", table_workloads.job),
    kinds.CRONJOBS: Table("Name|Schedule|Timezone|Suspend|#Active|Last Schedule|Age|+Containers|+Images|+Selector", table_workloads.cron_job),
    kinds.INGRESSES: Table("Name|Class|Hosts|Address|Ports|Age", _ingress),
    kinds.INGRESSCLASSES: Table("Name|Controller|Parameters|Age", _ingress_class),
    kinds.NETWORKPOLICIES: Table("Name|Pod-Selector|Age", _network_policy),
    kinds.PERSISTENTVOLUMES: Table(
        "Name|Capacity|Access Modes|Reclaim Policy|Status|Claim|StorageClass|VolumeAttributesClass|Reason|Age|+VolumeMode", _volume
    ),
    kinds.PERSISTENTVOLUMECLAIMS: Table("Name|Status|Volume|Capacity|Access Modes|StorageClass|VolumeAttributesClass|Age|+VolumeMode", _claim),
    kinds.STORAGECLASSES: Table("Name|Provisioner|ReclaimPolicy|VolumeBindingMode|AllowVolumeExpansion|Age", _storage_class),
    kinds.PRIORITYCLASSES: Table("Name|#Value|Global-Default|Age|PreemptionPolicy", _priority_class),
    kinds.ROLES: _CREATED, kinds.CLUSTERROLES: _CREATED, kinds.LIMITRANGES: _CREATED, kinds.CUSTOMRESOURCEDEFINITIONS: _CREATED,
    kinds.ROLEBINDINGS: _BINDING, kinds.CLUSTERROLEBINDINGS: _BINDING,
    kinds.PODDISRUPTIONBUDGETS: Table("Name|Min Available|Max Unavailable|#Allowed Disruptions|Age", _budget),
    kinds.HORIZONTALPODAUTOSCALERS: Table(_HPA_COLUMNS, _autoscaler),
    kinds.HORIZONTALPODAUTOSCALERS_V1: Table(_HPA_COLUMNS, _autoscaler_v1),
    kinds.CERTIFICATESIGNINGREQUESTS: Table("Name|Age|SignerName|Requestor|RequestedDuration|Condition", _signing_request),
    kinds.APISERVICES: Table("Name|Service|Available|Age", _api_service),
    kinds.RESOURCEQUOTAS: Table("Name|Request|Limit|Age", _quota),
    kinds.COMPONENTSTATUSES: Table("Name|Status|Message|Error", _component),
    kinds.RUNTIMECLASSES: Table("Name|Handler|Age", _runtime_class),
    kinds.MUTATINGWEBHOOKCONFIGURATIONS: Table("Name|#Webhooks|Age", _webhooks),
    kinds.VALIDATINGWEBHOOKCONFIGURATIONS: Table("Name|#Webhooks|Age", _webhooks),
    kinds.CONTROLLERREVISIONS: Table("Name|Controller|#Revision|Age", _revision),
    kinds.PODTEMPLATES: Table("Name|Containers|Images|Pod Labels", _pod_template),
}
