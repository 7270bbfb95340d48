"""The one table of every served resource: names, scope, verbs, subresources, storage prefix. Everything else looks a resource up here.

Owns no behaviour and loads no schema (imports in about a millisecond); every component and both command lines call it. Lookups return None for what is not served.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

ALL_VERBS = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")
READ_VERBS = ("get", "list")
CREATE_ONLY = ("create",)
NO_COLLECTION_DELETE = ("create", "delete", "get", "list", "patch", "update", "watch")
READ_WRITE = ("get", "patch", "update")
CONNECT = ("create", "get")
PROXY_VERBS = ("create", "delete", "get", "patch", "update")


@dataclass(frozen=True, slots=True)
class Subresource:
    """`status`, `scale`, `log` …: its name, the kind it speaks (with that kind's own group and version where they differ) and its verbs."""

    name: str
    kind: str
    verbs: tuple[str, ...] = READ_WRITE
    group: str = ""
    version: str = ""


@dataclass(frozen=True, slots=True)
class Resource:
    """One served resource in one version. Hashable; compared by value; use the module's constants."""

    group: str
    version: str
    kind: str
    plural: str
    singular: str
    namespaced: bool
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    verbs: tuple[str, ...] = ALL_VERBS
    subresources: tuple[Subresource, ...] = ()
    storage: str = ""  # the path under /registry/, where Kubernetes' differs from the plural
    storage_version: str = ""  # the apiVersion objects are stored in, where it differs from this one

    @property
    def api_version(self) -> str:
        """`v1`, `apps/v1`."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def list_kind(self) -> str:
        return f"{self.kind}List"

    @property
    def group_resource(self) -> str:
        """`pods`, `deployments.apps`: as error messages and RBAC name it."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def group_kind(self) -> str:
        """`Pod`, `Deployment.apps`."""
        return f"{self.kind}.{self.group}" if self.group else self.kind

    @property
    def storage_api_version(self) -> str:
        return self.storage_version or self.api_version

    @property
    def storage_prefix(self) -> str:
        """`/registry/pods/`, with the closing slash; the same paths as Kubernetes uses in etcd."""
        return f"/registry/{self.storage or self.plural}/"

    @property
    def storage_group_prefix(self) -> str:
        return self.storage_prefix

    def key(self, namespace: str, name: str) -> str:
        """The store key of one object; `namespace` is ignored for cluster-scoped resources."""
        if self.namespaced:
            return f"/registry/{self.storage or self.plural}/{namespace}/{name}"
        return f"/registry/{self.storage or self.plural}/{name}"

    def key_prefix(self, namespace: str = "") -> str:
        """The prefix of every key, or of those in one namespace."""
        return f"{self.storage_prefix}{namespace}/" if self.namespaced and namespace else self.storage_prefix

    def path(self, namespace: str = "", name: str = "", subresource: str = "") -> str:
        """The URL path: `/api/v1/namespaces/default/pods/x/status`. An empty namespace means all of them."""
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        scope = f"/namespaces/{namespace}" if self.namespaced and namespace else ""
        tail = "".join(f"/{part}" for part in (name, subresource) if part)
        return f"{root}{scope}/{self.plural}{tail}"

    def subresource(self, name: str) -> Subresource | None:
        return next((s for s in self.subresources if s.name == name), None)


STATUS = "status"
_SCALE = Subresource("scale", "Scale", group="autoscaling", version="v1")


def _define(
    gv: str, kind: str, plural: str, *, ns: bool = True, short: str = "", categories: str = "", verbs: tuple[str, ...] = ALL_VERBS,
    sub: Iterable[str | Subresource] = (), storage: str = "", stored_as: str = "",
) -> Resource:
    group, _, version = gv.rpartition("/")
    subresources = tuple(Subresource(s, kind) if isinstance(s, str) else s for s in sub)
    return Resource(group, version, kind, plural, kind.lower(), ns, tuple(short.split()), tuple(categories.split()), verbs, subresources, storage, stored_as)


_POD_SUBRESOURCES = (
    Subresource("attach", "PodAttachOptions", CONNECT),
    Subresource("binding", "Binding", CREATE_ONLY),
    Subresource("ephemeralcontainers", "Pod"),
    Subresource("eviction", "Eviction", CREATE_ONLY, "policy", "v1"),
    Subresource("exec", "PodExecOptions", CONNECT),
    Subresource("log", "Pod", ("get",)),
    Subresource("portforward", "PodPortForwardOptions", CONNECT),
    Subresource("proxy", "PodProxyOptions", PROXY_VERBS),
    Subresource("resize", "Pod"),
    Subresource("status", "Pod"),
)

# core/v1
BINDINGS = _define("v1", "Binding", "bindings", verbs=CREATE_ONLY)
COMPONENTSTATUSES = _define("v1", "ComponentStatus", "componentstatuses", ns=False, short="cs", verbs=READ_VERBS)
CONFIGMAPS = _define("v1", "ConfigMap", "configmaps", short="cm")
ENDPOINTS = _define("v1", "Endpoints", "endpoints", short="ep", storage="services/endpoints")
EVENTS = _define("v1", "Event", "events", short="ev")
LIMITRANGES = _define("v1", "LimitRange", "limitranges", short="limits")
NAMESPACES = _define("v1", "Namespace", "namespaces", ns=False, short="ns", verbs=NO_COLLECTION_DELETE, sub=(Subresource("finalize", "Namespace", ("update",)), STATUS))
NODES = _define("v1", "Node", "nodes", ns=False, short="no", sub=(Subresource("proxy", "NodeProxyOptions", PROXY_VERBS), STATUS), storage="minions")
PERSISTENTVOLUMECLAIMS = _define("v1", "PersistentVolumeClaim", "persistentvolumeclaims", short="pvc", sub=(STATUS,))
PERSISTENTVOLUMES = _define("v1", "PersistentVolume", "persistentvolumes", ns=False, short="pv", sub=(STATUS,))
PODS = _define("v1", "Pod", "pods", short="po", categories="all", sub=_POD_SUBRESOURCES)
PODTEMPLATES = _define("v1", "PodTemplate", "podtemplates")
REPLICATIONCONTROLLERS = _define("v1", "ReplicationController", "replicationcontrollers", short="rc", categories="all", sub=(_SCALE, STATUS), storage="controllers")
RESOURCEQUOTAS = _define("v1", "ResourceQuota", "resourcequotas", short="quota", sub=(STATUS,))
SECRETS = _define("v1", "Secret", "secrets")
SERVICEACCOUNTS = _define(
    "v1", "ServiceAccount", "serviceaccounts", short="sa", sub=(Subresource("token", "TokenRequest", CREATE_ONLY, "authentication.k8s.io", "v1"),)
)
SERVICES = _define(
    "v1", "Service", "services", short="svc", categories="all", sub=(Subresource("proxy", "ServiceProxyOptions", PROXY_VERBS), STATUS), storage="services/specs"
)

# apps, batch, autoscaling, policy
CONTROLLERREVISIONS = _define("apps/v1", "ControllerRevision", "controllerrevisions")
DAEMONSETS = _define("apps/v1", "DaemonSet", "daemonsets", short="ds", categories="all", sub=(STATUS,))
DEPLOYMENTS = _define("apps/v1", "Deployment", "deployments", short="deploy", categories="all", sub=(_SCALE, STATUS))
REPLICASETS = _define("apps/v1", "ReplicaSet", "replicasets", short="rs", categories="all", sub=(_SCALE, STATUS))
STATEFULSETS = _define("apps/v1", "StatefulSet", "statefulsets", short="sts", categories="all", sub=(_SCALE, STATUS))
CRONJOBS = _define("batch/v1", "CronJob", "cronjobs", short="cj", categories="all", sub=(STATUS,))
JOBS = _define("batch/v1", "Job", "jobs", categories="all", sub=(STATUS,))
HORIZONTALPODAUTOSCALERS = _define("autoscaling/v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers", short="hpa", categories="all", sub=(STATUS,))
HORIZONTALPODAUTOSCALERS_V1 = _define(
    "autoscaling/v1", "HorizontalPodAutoscaler", "horizontalpodautoscalers", short="hpa", categories="all", sub=(STATUS,), stored_as="autoscaling/v2"
)
PODDISRUPTIONBUDGETS = _define("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets", short="pdb", sub=(STATUS,))

# networking, discovery, coordination, events
INGRESSCLASSES = _define("networking.k8s.io/v1", "IngressClass", "ingressclasses", ns=False)
INGRESSES = _define("networking.k8s.io/v1", "Ingress", "ingresses", short="ing", sub=(STATUS,), storage="ingress")
IPADDRESSES = _define("networking.k8s.io/v1", "IPAddress", "ipaddresses", ns=False, short="ip")
NETWORKPOLICIES = _define("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies", short="netpol")
SERVICECIDRS = _define("networking.k8s.io/v1", "ServiceCIDR", "servicecidrs", ns=False, sub=(STATUS,))
ENDPOINTSLICES = _define("discovery.k8s.io/v1", "EndpointSlice", "endpointslices")
LEASES = _define("coordination.k8s.io/v1", "Lease", "leases")
EVENTS_V1 = _define("events.k8s.io/v1", "Event", "events", short="ev", stored_as="v1")

# rbac, certificates, reviews
CLUSTERROLEBINDINGS = _define("rbac.authorization.k8s.io/v1", "ClusterRoleBinding", "clusterrolebindings", ns=False)
CLUSTERROLES = _define("rbac.authorization.k8s.io/v1", "ClusterRole", "clusterroles", ns=False)
ROLEBINDINGS = _define("rbac.authorization.k8s.io/v1", "RoleBinding", "rolebindings")
ROLES = _define("rbac.authorization.k8s.io/v1", "Role", "roles")
CERTIFICATESIGNINGREQUESTS = _define(
    "certificates.k8s.io/v1", "CertificateSigningRequest", "certificatesigningrequests", ns=False, short="csr",
    sub=(Subresource("approval", "CertificateSigningRequest"), STATUS),
)
SELFSUBJECTREVIEWS = _define("authentication.k8s.io/v1", "SelfSubjectReview", "selfsubjectreviews", ns=False, verbs=CREATE_ONLY)
TOKENREVIEWS = _define("authentication.k8s.io/v1", "TokenReview", "tokenreviews", ns=False, verbs=CREATE_ONLY)
LOCALSUBJECTACCESSREVIEWS = _define("authorization.k8s.io/v1", "LocalSubjectAccessReview", "localsubjectaccessreviews", verbs=CREATE_ONLY)
SELFSUBJECTACCESSREVIEWS = _define("authorization.k8s.io/v1", "SelfSubjectAccessReview", "selfsubjectaccessreviews", ns=False, verbs=CREATE_ONLY)
SELFSUBJECTRULESREVIEWS = _define("authorization.k8s.io/v1", "SelfSubjectRulesReview", "selfsubjectrulesreviews", ns=False, verbs=CREATE_ONLY)
SUBJECTACCESSREVIEWS = _define("authorization.k8s.io/v1", "SubjectAccessReview", "subjectaccessreviews", ns=False, verbs=CREATE_ONLY)

# storage, scheduling, node, resource, flow control
CSIDRIVERS = _define("storage.k8s.io/v1", "CSIDriver", "csidrivers", ns=False)
CSINODES = _define("storage.k8s.io/v1", "CSINode", "csinodes", ns=False)
CSISTORAGECAPACITIES = _define("storage.k8s.io/v1", "CSIStorageCapacity", "csistoragecapacities")
STORAGECLASSES = _define("storage.k8s.io/v1", "StorageClass", "storageclasses", ns=False, short="sc")
VOLUMEATTACHMENTS = _define("storage.k8s.io/v1", "VolumeAttachment", "volumeattachments", ns=False, sub=(STATUS,))
VOLUMEATTRIBUTESCLASSES = _define("storage.k8s.io/v1", "VolumeAttributesClass", "volumeattributesclasses", ns=False, short="vac")
PRIORITYCLASSES = _define("scheduling.k8s.io/v1", "PriorityClass", "priorityclasses", ns=False, short="pc")
RUNTIMECLASSES = _define("node.k8s.io/v1", "RuntimeClass", "runtimeclasses", ns=False)
DEVICECLASSES = _define("resource.k8s.io/v1", "DeviceClass", "deviceclasses", ns=False)
RESOURCECLAIMS = _define("resource.k8s.io/v1", "ResourceClaim", "resourceclaims", sub=(STATUS,))
RESOURCECLAIMTEMPLATES = _define("resource.k8s.io/v1", "ResourceClaimTemplate", "resourceclaimtemplates")
RESOURCESLICES = _define("resource.k8s.io/v1", "ResourceSlice", "resourceslices", ns=False)
FLOWSCHEMAS = _define("flowcontrol.apiserver.k8s.io/v1", "FlowSchema", "flowschemas", ns=False, sub=(STATUS,))
PRIORITYLEVELCONFIGURATIONS = _define("flowcontrol.apiserver.k8s.io/v1", "PriorityLevelConfiguration", "prioritylevelconfigurations", ns=False, sub=(STATUS,))

# admission, extension
MUTATINGADMISSIONPOLICIES = _define("admissionregistration.k8s.io/v1", "MutatingAdmissionPolicy", "mutatingadmissionpolicies", ns=False, categories="api-extensions")
MUTATINGADMISSIONPOLICYBINDINGS = _define(
    "admissionregistration.k8s.io/v1", "MutatingAdmissionPolicyBinding", "mutatingadmissionpolicybindings", ns=False, categories="api-extensions"
)
MUTATINGWEBHOOKCONFIGURATIONS = _define(
    "admissionregistration.k8s.io/v1", "MutatingWebhookConfiguration", "mutatingwebhookconfigurations", ns=False, categories="api-extensions"
)
VALIDATINGADMISSIONPOLICIES = _define(
    "admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicy", "validatingadmissionpolicies", ns=False, categories="api-extensions", sub=(STATUS,)
)
VALIDATINGADMISSIONPOLICYBINDINGS = _define(
    "admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicyBinding", "validatingadmissionpolicybindings", ns=False, categories="api-extensions"
)
VALIDATINGWEBHOOKCONFIGURATIONS = _define(
    "admissionregistration.k8s.io/v1", "ValidatingWebhookConfiguration", "validatingwebhookconfigurations", ns=False, categories="api-extensions"
)
CUSTOMRESOURCEDEFINITIONS = _define(
    "apiextensions.k8s.io/v1", "CustomResourceDefinition", "customresourcedefinitions", ns=False, short="crd crds", categories="api-extensions", sub=(STATUS,),
    storage="apiextensions.k8s.io/customresourcedefinitions",
)
APISERVICES = _define(
    "apiregistration.k8s.io/v1", "APIService", "apiservices", ns=False, categories="api-extensions", sub=(STATUS,), storage="apiregistration.k8s.io/apiservices"
)

RESOURCES: tuple[Resource, ...] = tuple(value for value in list(globals().values()) if isinstance(value, Resource))

# The order in which /apis lists the groups, and in which an ambiguous short name is resolved: Kubernetes' own priorities.
GROUP_ORDER = (
    "", "apiregistration.k8s.io", "apps", "events.k8s.io", "authentication.k8s.io", "authorization.k8s.io", "autoscaling", "batch", "certificates.k8s.io",
    "networking.k8s.io", "policy", "rbac.authorization.k8s.io", "storage.k8s.io", "admissionregistration.k8s.io", "apiextensions.k8s.io", "scheduling.k8s.io",
    "coordination.k8s.io", "node.k8s.io", "discovery.k8s.io", "resource.k8s.io", "flowcontrol.apiserver.k8s.io",
)

_BY_PLURAL = {(r.group, r.version, r.plural): r for r in RESOURCES}
_BY_KIND = {(r.api_version, r.kind): r for r in RESOURCES}


def _preference(resource: Resource) -> tuple[int, int]:
    return GROUP_ORDER.index(resource.group), -int("".join(c for c in resource.version if c.isdigit()))


def find(group: str, version: str, plural: str) -> Resource | None:
    """The resource of a URL: find("apps", "v1", "deployments"); the core group is ""."""
    return _BY_PLURAL.get((group, version, plural))


def for_kind(api_version: str, kind: str) -> Resource | None:
    """The resource of a document: for_kind("apps/v1", "Deployment")."""
    return _BY_KIND.get((api_version, kind))


def group_versions() -> list[tuple[str, str]]:
    """Every served (group, version), groups in GROUP_ORDER, the preferred version of a group first."""
    return list(dict.fromkeys((r.group, r.version) for r in sorted(RESOURCES, key=_preference)))


def _names() -> dict[str, Resource]:
    """Every name by which a user may call a resource, the preferred group and version winning."""
    names: dict[str, Resource] = {}
    for resource in sorted(RESOURCES, key=_preference):
        for name in (resource.plural, resource.singular, *resource.short_names):
            names.setdefault(name, resource)
            if resource.group:
                names.setdefault(f"{name}.{resource.group}", resource)
                names.setdefault(f"{name}.{resource.version}.{resource.group}", resource)
            else:
                names.setdefault(f"{name}.{resource.version}", resource)
                names.setdefault(f"{name}.{resource.version}.", resource)
    return names


_BY_NAME: dict[str, Resource] = {}


def lookup(name: str) -> Resource | None:
    """What a user typed: `po`, `pods`, `Pod`, `deployments.apps`, `hpa.v1.autoscaling`; any letter case."""
    if not _BY_NAME:
        _BY_NAME.update(_names())
    return _BY_NAME.get(name.lower())
