"""ServiceAccount: every pod has one, and by default gets its token, the cluster's CA and its namespace as files in /var/run/secrets/kubernetes.io/serviceaccount.
Owns the shape of that volume; the agent fills it. Source: kubernetes.io/docs/reference/access-authn-authz/service-accounts-admin ("Bound service account token volume").
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import Any

from apiserver.admission.request import Base, Object, Reader, Request
from apiserver.api import errors, kinds

DEFAULT = "default"
MOUNT_PATH = "/var/run/secrets/kubernetes.io/serviceaccount"
VOLUME_PREFIX = "kube-api-access-"
TOKEN_SECONDS = 3607  # one hour; the odd seconds tell a token injected here from one somebody asked for
MIRROR = "kubernetes.io/config.mirror"
_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"
_WAITS_S = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.5)


class ServiceAccountAdmission(Base):
    """A new namespace's `default` account is made by a controller a moment after the namespace: a pod that comes in between waits for it (about 2 s at most)."""

    def __init__(self, reader: Reader, rng: random.Random, sleep: Callable[[float], Awaitable[None]]) -> None:
        self.reader, self.rng, self.sleep = reader, rng, sleep

    def handles(self, resource: kinds.Resource, subresource: str, operation: str) -> bool:
        return resource is kinds.PODS and not subresource and operation == "CREATE"

    async def admit(self, request: Request) -> None:
        pod = request.obj
        if pod is None or not isinstance(pod.get("spec"), dict) or MIRROR in (pod["metadata"].get("annotations") or {}):
            return
        spec = pod["spec"]
        name = spec.get("serviceAccountName") or spec.get("serviceAccount") or DEFAULT
        spec["serviceAccountName"] = spec["serviceAccount"] = name
        account = await self._account(request, name)
        if wants_token(spec, account):
            mount_token(spec, VOLUME_PREFIX + "".join(self.rng.choices(_ALPHABET, k=5)))
        if not spec.get("imagePullSecrets") and account.get("imagePullSecrets"):
            spec["imagePullSecrets"] = account["imagePullSecrets"]

    async def _account(self, request: Request, name: str) -> Object:
        account = await self.reader.read(kinds.SERVICEACCOUNTS, request.namespace, name)
        if account is None and name == DEFAULT:
            for wait_s in _WAITS_S:
                await self.sleep(wait_s)
                account = await self.reader.read(kinds.SERVICEACCOUNTS, request.namespace, name)
                if account is not None:
                    break
        if account is None:
            why = f'error looking up service account {request.namespace}/{name}: serviceaccount "{name}" not found'
            raise errors.Forbidden.to(kinds.PODS, request.name, why)
        return account

    async def validate(self, request: Request) -> None:
        """A mirror pod stands for a file on a node: it can have no account."""
        pod = request.obj
        if pod is not None and MIRROR in (pod["metadata"].get("annotations") or {}) and pod["spec"].get("serviceAccountName"):
            raise errors.Forbidden.to(kinds.PODS, request.name, "a mirror pod may not reference service accounts")


def wants_token(spec: Object, account: Object) -> bool:
    """The pod's word, then the account's, then yes."""
    for said in (spec.get("automountServiceAccountToken"), account.get("automountServiceAccountToken")):
        if said is not None:
            return bool(said)
    return True


def mount_token(spec: Object, volume_name: str) -> None:
    """In place: the volume, and a mount in every container (also of init) that has nothing at that path. No container needs it → no volume."""
    present = next((v["name"] for v in spec.get("volumes") or () if _is_token_volume(v)), "")
    used = False
    for field in ("initContainers", "containers"):
        for container in spec.get(field) or ():
            mounts = container.get("volumeMounts") or []
            if any(mount.get("mountPath") == MOUNT_PATH for mount in mounts):
                continue
            container["volumeMounts"] = [*mounts, {"name": present or volume_name, "readOnly": True, "mountPath": MOUNT_PATH}]
            used = True
    if used and not present:
        spec["volumes"] = [*(spec.get("volumes") or []), token_volume(volume_name)]


def _is_token_volume(volume: Object) -> bool:
    return str(volume.get("name", "")).startswith(VOLUME_PREFIX) and "projected" in volume


def token_volume(name: str) -> dict[str, Any]:
    sources = [
        {"serviceAccountToken": {"expirationSeconds": TOKEN_SECONDS, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
    ]
    return {"name": name, "projected": {"sources": sources, "defaultMode": 420}}
