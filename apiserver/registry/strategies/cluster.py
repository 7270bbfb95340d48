"""Namespaces, nodes, certificate requests: cluster-scoped kinds with rules of their own."""

from __future__ import annotations

from apiserver.registry import claims
from apiserver.registry.context import Object, RequestContext
from apiserver.registry.strategies import strategy

KUBERNETES_FINALIZER = "kubernetes"


class NamespaceStrategy(strategy.Strategy):
    """Active with the finalizer `kubernetes`; a delete makes it Terminating, and it goes when finalize has emptied spec.finalizers."""

    def prepare_create(self, ctx: RequestContext, obj: Object, now: float) -> None:
        obj["status"] = {"phase": "Active"}
        spec = obj.get("spec")
        spec = dict(spec) if isinstance(spec, dict) else {}
        finalizers = spec.get("finalizers") or []
        spec["finalizers"] = finalizers if KUBERNETES_FINALIZER in finalizers else [*finalizers, KUBERNETES_FINALIZER]
        obj["spec"] = spec
        labels = obj["metadata"].get("labels")
        obj["metadata"]["labels"] = {**(labels if isinstance(labels, dict) else {}), "kubernetes.io/metadata.name": obj["metadata"]["name"]}

    def prepare_update(self, new: Object, old: Object) -> None:
        super().prepare_update(new, old)
        new["spec"] = old.get("spec", {})
        labels = new["metadata"].get("labels")
        new["metadata"]["labels"] = {**(labels if isinstance(labels, dict) else {}), "kubernetes.io/metadata.name": old["metadata"]["name"]}

    def prepare_status(self, new: Object, old: Object) -> Object:
        result = super().prepare_status(new, old)
        phase = "Terminating" if old["metadata"].get("deletionTimestamp") else "Active"
        result["status"] = {**result["status"], "phase": phase}
        return result

    def mark_deleting(self, obj: Object) -> None:
        obj["status"] = {**obj.get("status", {}), "phase": "Terminating"}
        obj["metadata"].pop("deletionGracePeriodSeconds", None)

    def holds(self, obj: Object) -> bool:
        return bool(obj.get("spec", {}).get("finalizers"))


def finalized(new: Object, old: Object) -> Object:
    """What a PUT of namespaces/finalize makes: the old namespace with the new spec.finalizers."""
    spec = new.get("spec")
    finalizers = spec.get("finalizers") if isinstance(spec, dict) else None
    kept = {key: value for key, value in old.get("spec", {}).items() if key != "finalizers"}
    return {**old, "spec": {**kept, "finalizers": finalizers} if finalizers else kept}


class NodeStrategy(strategy.Strategy):
    """A node registers with its status; spec.podCIDR is claimed, so that no two nodes ever hold the same range."""

    def __init__(self, resource: strategy.kinds.Resource, flags: strategy.Flags, pod_cidrs: claims.Claims) -> None:
        super().__init__(resource, flags)
        self.pod_cidrs = pod_cidrs

    async def reserve(self, new: Object, old: Object | None, *, dry_run: bool) -> strategy.Reservation | None:
        cidr = (new.get("spec") or {}).get("podCIDR")
        if not cidr or dry_run or (old is not None and (old.get("spec") or {}).get("podCIDR") == cidr):
            return None
        owner = claims.Owner.of(new)
        if not await self.pod_cidrs.take(cidr, owner):
            why = f'Invalid value: "{cidr}": already used by another node'
            raise self.invalid(new, strategy.errors.Cause("spec.podCIDR", "FieldValueInvalid", why))

        async def rollback() -> None:
            await self.pod_cidrs.release(cidr, owner)

        return strategy.Reservation(_nothing, rollback)

    async def released(self, old: Object) -> None:
        cidr = (old.get("spec") or {}).get("podCIDR")
        if cidr:
            await self.pod_cidrs.release(cidr, claims.Owner.of(old))


class CertificateSigningRequestStrategy(strategy.Strategy):
    """Who asks is written by the server, never taken from the client; approval is a subresource."""

    def prepare_create(self, ctx: RequestContext, obj: Object, now: float) -> None:
        super().prepare_create(ctx, obj, now)
        spec = obj.get("spec")
        if not isinstance(spec, dict):
            return
        for field in ("username", "uid", "groups", "extra"):
            spec.pop(field, None)
        spec["username"] = ctx.user.name
        if ctx.user.groups:
            spec["groups"] = list(ctx.user.groups)
        if ctx.user.uid:
            spec["uid"] = ctx.user.uid
        if ctx.user.extra:
            spec["extra"] = {key: list(values) for key, values in ctx.user.extra.items()}

    def prepare_update(self, new: Object, old: Object) -> None:
        super().prepare_update(new, old)
        new["spec"] = old.get("spec", {})

    def prepare_status(self, new: Object, old: Object) -> Object:
        """The certificate and the signer's conditions; Approved and Denied belong to /approval."""
        result = super().prepare_status(new, old)
        decided = [c for c in old.get("status", {}).get("conditions") or () if c.get("type") in {"Approved", "Denied"}]
        others = [c for c in result["status"].get("conditions") or () if c.get("type") not in {"Approved", "Denied"}]
        result["status"] = {**result["status"], "conditions": decided + others}
        return result


def approved(new: Object, old: Object) -> Object:
    """What a PUT of certificatesigningrequests/approval makes: only the conditions come from the client."""
    conditions = (new.get("status") or {}).get("conditions") or []
    return {**old, "status": {**old.get("status", {}), "conditions": conditions}}


async def _nothing() -> None:
    return None
