"""NamespaceLifecycle: nothing is made in a namespace that is missing or ending; the namespaces a cluster needs cannot be deleted."""

from __future__ import annotations

from apiserver.admission.request import Base, Reader, Request
from apiserver.api import errors, kinds

IMMORTAL = ("default", "kube-system", "kube-public", "kube-node-lease")


class NamespaceLifecycle(Base):
    def __init__(self, reader: Reader) -> None:
        self.reader = reader

    def handles(self, resource: kinds.Resource, subresource: str, operation: str) -> bool:
        if resource is kinds.NAMESPACES:
            return operation == "DELETE"
        return operation == "CREATE" and resource.namespaced and not subresource

    async def admit(self, request: Request) -> None:
        if request.operation != "CREATE":
            return
        namespace = await self.reader.read(kinds.NAMESPACES, "", request.namespace)
        if namespace is None:
            raise errors.NotFound(kinds.NAMESPACES, request.namespace)
        if namespace["metadata"].get("deletionTimestamp"):
            # The cache may still hold a namespace that was deleted and made again.
            namespace = await self.reader.read(kinds.NAMESPACES, "", request.namespace, fresh=True)
            if namespace is None:
                raise errors.NotFound(kinds.NAMESPACES, request.namespace)
            if namespace["metadata"].get("deletionTimestamp"):
                raise terminating(request)

    async def validate(self, request: Request) -> None:
        if request.operation == "DELETE" and request.name in IMMORTAL:
            raise errors.Forbidden.to(kinds.NAMESPACES, request.name, "this namespace may not be deleted")


def terminating(request: Request) -> errors.Forbidden:
    """403 with the cause NamespaceTerminating, which controllers look for."""
    why = f"unable to create new content in namespace {request.namespace} because it is being terminated"
    err = errors.Forbidden.to(request.resource, request.name, why)
    cause = errors.Cause("metadata.namespace", "NamespaceTerminating", f"namespace {request.namespace} is being terminated")
    err.details["causes"] = [cause.to_dict()]
    return err
