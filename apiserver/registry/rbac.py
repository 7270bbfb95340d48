"""The RBAC objects every cluster has: roles for people (cluster-admin, admin, edit, view), for everybody (discovery, basic-user), for nodes and for the control plane.
Data only; bootstrap writes it. Source: kubernetes.io/docs/reference/access-authn-authz/rbac ("Default roles and role bindings").
"""

from __future__ import annotations

from typing import Any

Object = dict[str, Any]
API_GROUP = "rbac.authorization.k8s.io"
AUTOUPDATE = "rbac.authorization.kubernetes.io/autoupdate"
_READ = ["get", "list", "watch"]
_WRITE = ["create", "delete", "deletecollection", "patch", "update"]
_ALL = ["*"]


def _rule(groups: str, resources: str, verbs: list[str], names: str = "") -> Object:
    """Words separated by spaces; the core group is `-`."""
    rule: Object = {"apiGroups": ["" if group == "-" else group for group in groups.split()], "resources": resources.split(), "verbs": verbs}
    if names:
        rule["resourceNames"] = names.split()
    return rule


def _urls(paths: str, verbs: list[str]) -> Object:
    return {"nonResourceURLs": paths.split(), "verbs": verbs}


_CORE_VIEW = (
    "configmaps endpoints persistentvolumeclaims persistentvolumeclaims/status pods replicationcontrollers replicationcontrollers/scale serviceaccounts services "
    "services/status bindings events limitranges namespaces namespaces/status pods/log pods/status replicationcontrollers/status resourcequotas resourcequotas/status"
)
_APPS = "controllerrevisions daemonsets daemonsets/status deployments deployments/scale deployments/status replicasets replicasets/scale replicasets/status statefulsets statefulsets/scale statefulsets/status"
_VIEW = [
    _rule("-", _CORE_VIEW, _READ),
    _rule("apps", _APPS, _READ),
    _rule("autoscaling", "horizontalpodautoscalers horizontalpodautoscalers/status", _READ),
    _rule("batch", "cronjobs cronjobs/status jobs jobs/status", _READ),
    _rule("discovery.k8s.io", "endpointslices", _READ),
    _rule("events.k8s.io", "events", _READ),
    _rule("networking.k8s.io", "ingresses ingresses/status networkpolicies", _READ),
    _rule("policy", "poddisruptionbudgets poddisruptionbudgets/status", _READ),
    _rule("resource.k8s.io", "resourceclaims resourceclaimtemplates", _READ),
]
_EDIT = [
    *_VIEW,
    _rule("-", "secrets pods/attach pods/exec pods/portforward pods/proxy services/proxy", _READ),
    _rule("-", "pods pods/attach pods/exec pods/portforward pods/proxy configmaps events persistentvolumeclaims replicationcontrollers replicationcontrollers/scale", _WRITE),
    _rule("-", "secrets serviceaccounts services services/proxy", _WRITE),
    _rule("-", "pods/eviction serviceaccounts/token", ["create"]),
    _rule("-", "pods/ephemeralcontainers", ["get", "patch", "update"]),
    _rule("-", "serviceaccounts", ["impersonate"]),
    _rule("apps", "daemonsets deployments deployments/rollback deployments/scale replicasets replicasets/scale statefulsets statefulsets/scale", _WRITE),
    _rule("autoscaling", "horizontalpodautoscalers", _WRITE),
    _rule("batch", "cronjobs jobs", _WRITE),
    _rule("coordination.k8s.io", "leases", [*_READ, *_WRITE]),
    _rule("networking.k8s.io", "ingresses networkpolicies", _WRITE),
    _rule("policy", "poddisruptionbudgets", _WRITE),
    _rule("resource.k8s.io", "resourceclaims resourceclaimtemplates", _WRITE),
]
_ADMIN = [
    *_EDIT,
    _rule("authorization.k8s.io", "localsubjectaccessreviews", ["create"]),
    _rule(API_GROUP, "rolebindings roles", [*_READ, *_WRITE]),
]
_NODE = [
    _rule("authentication.k8s.io", "tokenreviews", ["create"]),
    _rule("authorization.k8s.io", "localsubjectaccessreviews subjectaccessreviews", ["create"]),
    _rule("-", "services", _READ),
    _rule("-", "nodes", ["create", *_READ]),
    _rule("-", "nodes/status", ["patch", "update"]),
    _rule("-", "nodes", ["patch", "update"]),
    _rule("-", "pods", _READ),
    _rule("-", "pods", ["create", "delete"]),
    _rule("-", "pods/status", ["patch", "update"]),
    _rule("-", "pods/eviction", ["create"]),
    _rule("-", "configmaps secrets", _READ),
    _rule("-", "persistentvolumeclaims persistentvolumes", ["get", "list", "watch"]),
    _rule("-", "namespaces endpoints", _READ),
    _rule("-", "serviceaccounts", _READ),
    _rule("-", "serviceaccounts/token", ["create"]),
    _rule("- events.k8s.io", "events", ["create", "patch", "update"]),
    _rule("certificates.k8s.io", "certificatesigningrequests", ["create", *_READ]),
    _rule("coordination.k8s.io", "leases", ["create", "delete", "get", "list", "patch", "update", "watch"]),
    _rule("discovery.k8s.io", "endpointslices", _READ),
    _rule("node.k8s.io", "runtimeclasses", _READ),
    _rule("storage.k8s.io", "csidrivers csinodes volumeattachments", _READ),
]
_SCHEDULER = [
    _rule("- events.k8s.io", "events", ["create", "patch", "update"]),
    _rule("coordination.k8s.io", "leases", ["create", "get", "list", "patch", "update", "watch"]),
    _rule("-", "nodes namespaces replicationcontrollers services persistentvolumeclaims persistentvolumes", _READ),
    _rule("-", "pods", ["delete", *_READ]),
    _rule("-", "bindings pods/binding", ["create"]),
    _rule("-", "pods/status", ["patch", "update"]),
    _rule("apps", "replicasets statefulsets", _READ),
    _rule("policy", "poddisruptionbudgets", _READ),
    _rule("scheduling.k8s.io", "priorityclasses", _READ),
    _rule("storage.k8s.io", "csidrivers csinodes csistoragecapacities storageclasses", _READ),
    _rule("authentication.k8s.io", "tokenreviews", ["create"]),
    _rule("authorization.k8s.io", "subjectaccessreviews", ["create"]),
]
# One identity runs every controller here (Kubernetes gives each a ServiceAccount of its own); namespace deletion and garbage collection reach every kind.
_CONTROLLERS = [
    _rule("*", "*", [*_READ, "delete", "deletecollection", "patch", "update"]),
    _rule("-", "configmaps endpoints events pods secrets serviceaccounts serviceaccounts/token pods/eviction persistentvolumes", ["create"]),
    _rule("apps", "controllerrevisions replicasets", ["create"]),
    _rule("batch", "jobs", ["create"]),
    _rule("coordination.k8s.io", "leases", ["create"]),
    _rule("discovery.k8s.io", "endpointslices", ["create"]),
    _rule("events.k8s.io", "events", ["create"]),
    _rule("authentication.k8s.io", "tokenreviews", ["create"]),
    _rule("authorization.k8s.io", "subjectaccessreviews", ["create"]),
    _urls("*", ["get"]),
]

CLUSTER_ROLES: dict[str, list[Object]] = {
    "cluster-admin": [_rule("*", "*", _ALL), _urls("*", _ALL)],
    "admin": _ADMIN,
    "edit": _EDIT,
    "view": _VIEW,
    "system:basic-user": [
        _rule("authorization.k8s.io", "selfsubjectaccessreviews selfsubjectrulesreviews", ["create"]),
        _rule("authentication.k8s.io", "selfsubjectreviews", ["create"]),
    ],
    "system:discovery": [_urls("/api /api/* /apis /apis/* /healthz /livez /openapi /openapi/* /readyz /version /version/", ["get"])],
    "system:public-info-viewer": [_urls("/healthz /livez /readyz /version /version/", ["get"])],
    "system:monitoring": [_urls("/healthz /healthz/* /livez /livez/* /metrics /metrics/slis /readyz /readyz/*", ["get"])],
    "system:service-account-issuer-discovery": [_urls("/.well-known/openid-configuration /openid/v1/jwks /openid/v1/jwks/", ["get"])],
    "system:auth-delegator": [
        _rule("authentication.k8s.io", "tokenreviews", ["create"]),
        _rule("authorization.k8s.io", "subjectaccessreviews", ["create"]),
    ],
    "system:node": _NODE,
    "system:kubelet-api-admin": [
        _rule("-", "nodes", ["proxy", *_READ]),
        _rule("-", "nodes/configz nodes/healthz nodes/log nodes/metrics nodes/pods nodes/proxy nodes/spec nodes/stats", _ALL),
    ],
    "system:kube-scheduler": _SCHEDULER,
    "system:kube-controller-manager": _CONTROLLERS,
}

AGGREGATED = {"admin": ("admin", "edit", "view"), "edit": ("edit", "view"), "view": ("view",)}

CLUSTER_ROLE_BINDINGS: dict[str, tuple[str, list[tuple[str, str]]]] = {
    "cluster-admin": ("cluster-admin", [("Group", "system:masters")]),
    "system:basic-user": ("system:basic-user", [("Group", "system:authenticated")]),
    "system:discovery": ("system:discovery", [("Group", "system:authenticated")]),
    "system:public-info-viewer": ("system:public-info-viewer", [("Group", "system:authenticated"), ("Group", "system:unauthenticated")]),
    "system:monitoring": ("system:monitoring", [("Group", "system:monitoring")]),
    "system:service-account-issuer-discovery": ("system:service-account-issuer-discovery", [("Group", "system:serviceaccounts")]),
    "system:node": ("system:node", []),  # nodes are authorized by the node authorizer, each for its own pods; this role is for other agents to be bound to
    "system:kube-scheduler": ("system:kube-scheduler", [("User", "system:kube-scheduler")]),
    "system:kube-controller-manager": ("system:kube-controller-manager", [("User", "system:kube-controller-manager")]),
}


def cluster_role(name: str) -> Object:
    """The roles for people also have the rules of every ClusterRole labelled for them (rbac.authorization.k8s.io/aggregate-to-view: "true")."""
    role = {"apiVersion": f"{API_GROUP}/v1", "kind": "ClusterRole", "metadata": _metadata(name), "rules": CLUSTER_ROLES[name]}
    labels = [{"matchLabels": {f"{API_GROUP}/aggregate-to-{label}": "true"}} for label in AGGREGATED.get(name, ())]
    return {**role, "aggregationRule": {"clusterRoleSelectors": labels}} if labels else role


def cluster_role_binding(name: str) -> Object:
    role, subjects = CLUSTER_ROLE_BINDINGS[name]
    return {
        "apiVersion": f"{API_GROUP}/v1", "kind": "ClusterRoleBinding", "metadata": _metadata(name),
        "roleRef": {"apiGroup": API_GROUP, "kind": "ClusterRole", "name": role},
        "subjects": [{"apiGroup": API_GROUP, "kind": kind, "name": subject} for kind, subject in subjects],
    }  # fmt: skip


def _metadata(name: str) -> Object:
    return {"name": name, "annotations": {AUTOUPDATE: "true"}, "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"}}
