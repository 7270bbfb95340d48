"""What a node identity may do: its own Node, Lease and CSINode, the pods bound to it, and what those pods refer to. Kubernetes' node authorizer and the part of its NodeRestriction
that needs no body. Pure but for reading pods out of the watch cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from apiserver.api import kinds
from apiserver.auth.attributes import NO_OPINION, Attributes, Decision
from apiserver.store.cache import Cache, Selection

_READ = frozenset({"get", "list", "watch"})
_OWN_WRITES = {
    ("", "nodes"): frozenset({"get", "update", "patch", "create", "delete"}),
    ("", "nodes/status"): frozenset({"get", "update", "patch"}),
    ("coordination.k8s.io", "leases"): frozenset({"get", "create", "update", "patch", "delete"}),
    ("storage.k8s.io", "csinodes"): frozenset({"get", "create", "update", "patch", "delete"}),
}
# what every node may read whole: the node's Services, DNS and pod admission need them
_READ_ALL = frozenset({
    ("", "nodes"), ("", "services"), ("", "namespaces"), ("", "endpoints"), ("discovery.k8s.io", "endpointslices"), ("node.k8s.io", "runtimeclasses"),
    ("networking.k8s.io", "networkpolicies"), ("storage.k8s.io", "csidrivers"), ("scheduling.k8s.io", "priorityclasses"), ("", "persistentvolumes"),
    ("storage.k8s.io", "storageclasses"),
})  # fmt: skip
_REFERRED = {"secrets", "configmaps", "persistentvolumeclaims", "serviceaccounts"}
_REVIEWS = frozenset({"tokenreviews", "subjectaccessreviews", "localsubjectaccessreviews", "selfsubjectaccessreviews", "selfsubjectreviews", "selfsubjectrulesreviews"})
_ALLOWED = Decision(True, "node authorizer")


def _refuse(node: str, why: str) -> Decision:
    return Decision(False, f"node '{node}' {why}")


class NodeAuthorizer:
    def __init__(self, cache: Cache) -> None:
        self._cache = cache

    def authorize(self, node: str, a: Attributes, field_node: str) -> Decision:
        """`field_node`: the value of a `spec.nodeName=` field selector in a list or watch of pods."""
        if not a.resource:
            return NO_OPINION
        key = (a.api_group, a.resource_path)
        if key in _OWN_WRITES and a.verb in _OWN_WRITES[key] and (a.name == node or (a.verb == "create" and not a.name)):
            return _ALLOWED
        if a.verb in _READ and key in _READ_ALL:
            return _ALLOWED
        if key in _OWN_WRITES:
            return _refuse(node, f"is not allowed to {a.verb} the {a.resource} of another node")
        if a.resource == "events" and a.api_group in ("", "events.k8s.io"):
            return _ALLOWED if a.verb in ("create", "update", "patch") else NO_OPINION
        if a.resource in _REVIEWS:
            return _ALLOWED if a.verb == "create" else NO_OPINION
        if a.api_group == "certificates.k8s.io" and a.resource == "certificatesigningrequests":
            return _ALLOWED if a.verb in ("create", "get", "list", "watch") and not a.subresource else NO_OPINION
        if a.api_group == "" and a.resource == "pods":
            return self._pods(node, a, field_node)
        if a.api_group == "" and a.resource in _REFERRED:
            return self._referred(node, a)
        return NO_OPINION

    def _pods(self, node: str, a: Attributes, field_node: str) -> Decision:
        if a.verb in ("list", "watch"):
            return _ALLOWED if field_node == node or self._is_on(node, a) else _refuse(node, "can only list or watch pods with spec.nodeName set to itself")
        if a.verb == "create" and not a.subresource:
            return _ALLOWED  # mirror pods
        if a.resource_path in ("pods/status", "pods/eviction", "pods") and a.verb in ("get", "update", "patch", "delete", "create"):
            if a.resource_path == "pods" and a.verb in ("update", "patch"):
                return NO_OPINION
            return _ALLOWED if self._is_on(node, a) else _refuse(node, f'has no relationship to pod "{a.namespace}/{a.name}"')
        return NO_OPINION

    def _is_on(self, node: str, a: Attributes) -> bool:
        entry = self._cache.get(kinds.PODS.key(a.namespace, a.name)) if a.name else None
        return entry is not None and entry.node_name == node

    def _referred(self, node: str, a: Attributes) -> Decision:
        """Secrets, ConfigMaps, claims and accounts that a pod of this node names; also list and watch narrowed to one name."""
        verbs = ("create",) if a.resource_path == "serviceaccounts/token" else _READ
        if a.verb not in verbs or (a.subresource and a.resource_path != "serviceaccounts/token"):
            return NO_OPINION
        if not a.name:
            return _refuse(node, f"can only {a.verb} {a.resource} one by one, by name")
        pods = self._cache.list(kinds.PODS.storage_prefix, Selection(namespace=a.namespace, node_name=node)).entries
        if any(a.name in references(entry.obj, a.resource) for entry in pods):
            return _ALLOWED
        return _refuse(node, f'has no relationship to {a.resource[:-1]} "{a.namespace}/{a.name}"')


def references(pod: dict[str, Any], resource: str) -> set[str]:
    """The names a pod's spec refers to, of secrets, configmaps, persistentvolumeclaims or serviceaccounts."""
    spec = pod.get("spec") or {}
    return {name for kind, name in _references(spec) if kind == resource and name}


def _references(spec: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield "serviceaccounts", spec.get("serviceAccountName") or "default"
    for secret in spec.get("imagePullSecrets") or ():
        yield "secrets", secret.get("name", "")
    for volume in spec.get("volumes") or ():
        yield from _volume_references(volume)
    for container in (*(spec.get("initContainers") or ()), *(spec.get("containers") or ()), *(spec.get("ephemeralContainers") or ())):
        for source in container.get("envFrom") or ():
            yield "secrets", (source.get("secretRef") or {}).get("name", "")
            yield "configmaps", (source.get("configMapRef") or {}).get("name", "")
        for variable in container.get("env") or ():
            value = variable.get("valueFrom") or {}
            yield "secrets", (value.get("secretKeyRef") or {}).get("name", "")
            yield "configmaps", (value.get("configMapKeyRef") or {}).get("name", "")


def _volume_references(volume: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield "secrets", (volume.get("secret") or {}).get("secretName", "")
    yield "configmaps", (volume.get("configMap") or {}).get("name", "")
    yield "persistentvolumeclaims", (volume.get("persistentVolumeClaim") or {}).get("claimName", "")
    for source in (volume.get("projected") or {}).get("sources") or ():
        yield "secrets", (source.get("secret") or {}).get("name", "")
        yield "configmaps", (source.get("configMap") or {}).get("name", "")
    for plugin in volume.values():  # csi, flexVolume, cephfs …: a secretRef of their own
        if isinstance(plugin, dict):
            for field in ("secretRef", "nodePublishSecretRef"):
                yield "secrets", (plugin.get(field) or {}).get("name", "") if isinstance(plugin.get(field), dict) else ""
