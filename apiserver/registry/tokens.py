"""serviceaccounts/token: a TokenRequest answered with a signed token, bound to a pod, secret or node where asked. Signing is the injected issue_token's; nothing is stored."""

from __future__ import annotations

import inspect
from dataclasses import dataclass

from apiserver.api import errors, kinds, timestamps
from apiserver.registry import metadata, writing
from apiserver.registry.context import AdmissionRequest, IssueToken, Object, RequestContext

DEFAULT_SECONDS, MIN_SECONDS, MAX_SECONDS = 3600, 600, 1 << 32
_BINDABLE = {"Pod": kinds.PODS, "Secret": kinds.SECRETS, "Node": kinds.NODES}


@dataclass(frozen=True, slots=True)
class Requests:
    writer: writing.Writer
    issue: IssueToken | None

    async def answer(self, ctx: RequestContext, namespace: str, name: str, body: Object) -> Object:
        """Raises NotFound (account or bound object), Conflict (another uid), Invalid, BadRequest; Unavailable where this server cannot sign."""
        if self.issue is None:
            raise errors.Unavailable("this server has no key to sign service account tokens with")
        account = await self.writer.storage.read(kinds.SERVICEACCOUNTS, namespace, name)
        if account is None:
            raise errors.NotFound(kinds.SERVICEACCOUNTS, name)
        meta = metadata.of(body)
        if meta.get("name", name) != name or meta.get("namespace", namespace) != namespace:
            raise errors.BadRequest(f"the name and namespace of the TokenRequest do not match serviceaccount {namespace}/{name} on the URL")
        spec = _checked_spec(name, body)
        admitted = AdmissionRequest("CREATE", ctx.user, kinds.SERVICEACCOUNTS, "token", namespace, name, body, account, ctx.dry_run, ctx.warnings)
        await self.writer.admission.admit(admitted)
        await self.writer.admission.validate(admitted)
        bound = spec.get("boundObjectRef")
        if bound:
            await _check_bound(self.writer, namespace, name, bound)
        issued = self.issue(namespace, name, account["metadata"]["uid"], spec["audiences"], spec["expirationSeconds"], bound)
        token, expiry = await issued if inspect.isawaitable(issued) else issued
        return {
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "metadata": {"name": name, "namespace": namespace, "creationTimestamp": timestamps.format_time(self.writer.now())},
            "spec": spec, "status": {"token": token, "expirationTimestamp": timestamps.format_time(expiry)},
        }  # fmt: skip


def _checked_spec(name: str, body: Object) -> Object:
    spec = body.get("spec") or {}
    if not isinstance(spec, dict):
        raise errors.BadRequest("TokenRequest: spec: must be an object")
    seconds, audiences, bound = spec.get("expirationSeconds"), spec.get("audiences") or [], spec.get("boundObjectRef")
    seconds = DEFAULT_SECONDS if seconds is None else seconds
    if not isinstance(seconds, int) or isinstance(seconds, bool):
        raise errors.BadRequest("TokenRequest: spec.expirationSeconds: must be an integer")
    if not isinstance(audiences, list) or not all(isinstance(audience, str) for audience in audiences):
        raise errors.BadRequest("TokenRequest: spec.audiences: must be a list of strings")
    if bound is not None and not isinstance(bound, dict):
        raise errors.BadRequest("TokenRequest: spec.boundObjectRef: must be an object")
    why = ""
    if seconds < MIN_SECONDS:
        why = "may not specify a duration less than 10 minutes"
    elif seconds > MAX_SECONDS:
        why = "may not specify a duration larger than 2^32 seconds"
    if why:
        cause = errors.Cause("spec.expirationSeconds", "FieldValueInvalid", f"Invalid value: {seconds}: {why}")
        raise errors.Invalid("authentication.k8s.io", "TokenRequest", name, [cause])
    return {**spec, "audiences": audiences, "expirationSeconds": seconds}


async def _check_bound(writer: writing.Writer, namespace: str, account: str, bound: Object) -> None:
    resource = _BINDABLE.get(str(bound.get("kind")))
    if resource is None or bound.get("apiVersion") != "v1":
        raise errors.BadRequest(f"cannot bind token to object of type {bound.get('apiVersion', '')}, Kind={bound.get('kind', '')}")
    obj = await writer.storage.read(resource, namespace, str(bound.get("name")))
    if obj is None:
        raise errors.NotFound(resource, str(bound.get("name")))
    uid = obj["metadata"]["uid"]
    if resource is kinds.PODS and obj["spec"].get("serviceAccountName", "default") != account:
        raise errors.BadRequest(f'cannot bind token for serviceaccount "{account}" to pod running with different serviceaccount name.')
    if bound.get("uid") and bound["uid"] != uid:
        why = f"the UID in the bound object reference ({bound['uid']}) does not match the UID in record. The object might have been deleted and then recreated"
        raise errors.Conflict(resource, str(bound["name"]), why)
    bound["uid"] = uid
