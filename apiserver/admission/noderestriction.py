"""NodeRestriction: an identity `system:node:<n>` (group system:nodes) writes only its own Node and Lease and the pods bound to it. Owns Kubernetes' rules and texts for it;
what a node may read is authorization's. Source: kubernetes.io/docs/reference/access-authn-authz/admission-controllers/#noderestriction.
"""

from __future__ import annotations

from typing import Any

from apiserver.admission.request import Base, Object, Reader, Request
from apiserver.api import errors, kinds

PREFIX, GROUP = "system:node:", "system:nodes"
LEASE_NAMESPACE = "kube-node-lease"
_MIRROR = "kubernetes.io/config.mirror"
_RESTRICTED_LABELS = "node-restriction.kubernetes.io"
# Labels under kubernetes.io and k8s.io that a node may set on itself; all others there are for administrators.
_OWN_LABELS = frozenset(
    {
        "kubernetes.io/hostname", "kubernetes.io/arch", "kubernetes.io/os", "beta.kubernetes.io/arch", "beta.kubernetes.io/os", "beta.kubernetes.io/instance-type",
        "node.kubernetes.io/instance-type", "failure-domain.beta.kubernetes.io/region", "failure-domain.beta.kubernetes.io/zone", "topology.kubernetes.io/region",
        "topology.kubernetes.io/zone",
    }
)  # fmt: skip
_OWN_LABEL_DOMAINS = ("kubelet.kubernetes.io", "node.kubernetes.io")


def node_of(user: Any) -> str:
    """The node a user is the identity of; "" for everybody else."""
    return user.name[len(PREFIX) :] if user.name.startswith(PREFIX) and GROUP in user.groups else ""


class NodeRestriction(Base):
    def __init__(self, reader: Reader) -> None:
        self.reader = reader

    async def admit(self, request: Request) -> None:
        """Refuses before anything else is done; validate() looks again at what other plugins made."""
        await self.validate(request)

    async def validate(self, request: Request) -> None:
        node = node_of(request.user)
        if not node:
            return
        if request.resource is kinds.PODS:
            self._pod(request, node)
        elif request.resource is kinds.NODES:
            self._node(request, node)
        elif request.resource is kinds.LEASES:
            self._lease(request, node)
        elif request.resource is kinds.CSINODES and request.name != node:
            raise _forbidden(request, f'can only access CSINode with the same name as the requesting node "{node}"')
        elif request.resource is kinds.SERVICEACCOUNTS and request.subresource == "token":
            await self._token(request, node)

    def _pod(self, request: Request, node: str) -> None:
        if request.subresource in {"", "eviction"} and (request.operation == "DELETE" or request.subresource == "eviction"):
            if _node_name(request.old) != node:
                raise _forbidden(request, f'node "{node}" can only {"evict" if request.subresource else "delete"} pods with spec.nodeName set to itself')
        elif request.operation == "CREATE" and not request.subresource:
            self._mirror_pod(request, node)
        elif request.operation == "UPDATE" and request.subresource == "status":
            if _node_name(request.old) != node:
                raise _forbidden(request, f'node "{node}" can only update pod status for pods with spec.nodeName set to itself')
            if _labels(request.obj) != _labels(request.old):
                raise _forbidden(request, f'node "{node}" cannot update labels through pod status')
        else:
            raise _forbidden(request, f'unexpected operation "{request.operation}" by node "{node}" on pods{"/" + request.subresource if request.subresource else ""}')

    def _mirror_pod(self, request: Request, node: str) -> None:
        """A node makes only the mirrors of its own static pods, which refer to nothing else in the cluster."""
        pod = request.obj or {}
        if _MIRROR not in ((pod.get("metadata") or {}).get("annotations") or {}):
            raise _forbidden(request, f'pod does not have "{_MIRROR}" annotation, node "{node}" can only create mirror pods')
        spec = pod.get("spec") or {}
        if spec.get("nodeName") != node:
            raise _forbidden(request, f'node "{node}" can only create pods with spec.nodeName set to itself')
        if spec.get("serviceAccountName"):
            raise _forbidden(request, f'node "{node}" can not create pods that reference a service account')
        for volume in spec.get("volumes") or ():
            for source, word in (("secret", "secrets"), ("configMap", "configmaps"), ("persistentVolumeClaim", "persistentvolumeclaims"), ("projected", "projected volumes")):
                if source in volume:
                    raise _forbidden(request, f'node "{node}" can not create pods that reference {word}')

    def _node(self, request: Request, node: str) -> None:
        if request.name != node:
            raise _forbidden(request, f'node "{node}" is not allowed to modify node "{request.name}"')
        if request.operation == "DELETE":
            raise _forbidden(request, f'node "{node}" is not allowed to delete itself')
        new, old = request.obj or {}, request.old
        if request.operation == "CREATE":
            changed = set(_labels(new))
        else:
            changed = {key for key in _labels(new).keys() | _labels(old).keys() if _labels(new).get(key) != _labels(old).get(key)}
            if ((new.get("spec") or {}).get("taints") or []) != (((old or {}).get("spec") or {}).get("taints") or []):
                raise _forbidden(request, f'node "{node}" is not allowed to modify taints')
        wrong = sorted(key for key in changed if not may_label(key))
        if wrong:
            raise _forbidden(request, f'is not allowed to modify labels: {", ".join(wrong)}')

    def _lease(self, request: Request, node: str) -> None:
        if request.namespace != LEASE_NAMESPACE:
            raise _forbidden(request, f'can only access leases in the "{LEASE_NAMESPACE}" system namespace')
        if request.name != node:
            raise _forbidden(request, f'can only access node lease with the same name as the requesting node "{node}"')

    async def _token(self, request: Request, node: str) -> None:
        """A node gets tokens only for pods that run on it, bound to them."""
        bound = ((request.obj or {}).get("spec") or {}).get("boundObjectRef") or {}
        if bound.get("kind") != "Pod" or not bound.get("name"):
            raise _forbidden(request, "node requested token not bound to a pod")
        if not bound.get("uid"):
            raise _forbidden(request, "node requested token with a pod binding without a uid")
        pod = await self.reader.read(kinds.PODS, request.namespace, bound["name"])
        if pod is None:
            raise errors.NotFound(kinds.PODS, bound["name"])
        if pod["metadata"]["uid"] != bound["uid"]:
            raise _forbidden(request, f'the UID in the bound object reference ({bound["uid"]}) does not match the UID in record ({pod["metadata"]["uid"]})')
        if _node_name(pod) != node:
            raise _forbidden(request, "node requested token bound to a pod scheduled on a different node")
        if pod["spec"].get("serviceAccountName") != request.name:
            raise _forbidden(request, "node requested token for a service account its pod does not use")


def may_label(key: str) -> bool:
    """Whether a node may set this label on itself."""
    domain, slash, _ = key.rpartition("/")
    if not slash or key in _OWN_LABELS:
        return True
    if _within(domain, _RESTRICTED_LABELS):
        return False
    if any(_within(domain, own) for own in _OWN_LABEL_DOMAINS):
        return True
    return not (_within(domain, "kubernetes.io") or _within(domain, "k8s.io"))


def _within(domain: str, parent: str) -> bool:
    return domain == parent or domain.endswith("." + parent)


def _labels(obj: Object | None) -> dict[str, str]:
    return ((obj or {}).get("metadata") or {}).get("labels") or {}


def _node_name(pod: Object | None) -> str:
    return ((pod or {}).get("spec") or {}).get("nodeName", "")


def _forbidden(request: Request, why: str) -> errors.Forbidden:
    return errors.Forbidden.to(request.resource, request.name, why)
