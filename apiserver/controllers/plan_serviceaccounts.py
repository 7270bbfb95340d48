"""What every Namespace has from its first moment: the ServiceAccount `default` and the ConfigMap `kube-root-ca.crt`. Pure."""

from __future__ import annotations

from typing import Any

__all__ = ["DEFAULT", "ROOT_CA", "is_active", "plan_default_account", "plan_root_ca"]

Obj = dict[str, Any]
DEFAULT = "default"
ROOT_CA = "kube-root-ca.crt"
DESCRIPTION = (
    "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or kubernetes.default.svc. "
    "No other usage is guaranteed across distributions of Kubernetes clusters."
)


def is_active(namespace: Obj) -> bool:
    return not namespace["metadata"].get("deletionTimestamp") and (namespace.get("status") or {}).get("phase", "Active") == "Active"


def plan_default_account(namespace: str, exists: bool) -> Obj | None:
    """The ServiceAccount to create, None where it is there."""
    return None if exists else {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": DEFAULT, "namespace": namespace}}


def plan_root_ca(namespace: str, existing: Obj | None, root_ca: str) -> Obj | None:
    """The ConfigMap to create, or (with the existing one's metadata) to update; None where it is right or there is no CA to tell."""
    if not root_ca or (existing is not None and existing.get("data") == {"ca.crt": root_ca}):
        return None
    meta = existing["metadata"] if existing else {"name": ROOT_CA, "namespace": namespace, "annotations": {"kubernetes.io/description": DESCRIPTION}}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": {"ca.crt": root_ca}}
