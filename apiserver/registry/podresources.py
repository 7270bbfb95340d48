"""pods/binding and pods/eviction: what each may do to a pod. Owns their rules and texts; the writing itself is writing.Writer's."""

from __future__ import annotations

from apiserver.api import errors, kinds, selectors, timestamps
from apiserver.registry import deletion, metadata, writing
from apiserver.registry.context import AdmissionRequest, Object, RequestContext
from apiserver.registry.storage import Current

_BINDING, _EVICTION = "pods/binding", "pods/eviction"
_BUDGET_TEXT = "Cannot evict pod as it would violate the pod's disruption budget."
_MAX_DISRUPTED = 2000


async def bind(writer: writing.Writer, ctx: RequestContext, namespace: str, name: str, binding: Object) -> Object:
    """Puts an unbound pod on a node. Answers a Status. Raises Conflict where it is bound, ending or gated; Invalid on a wrong target."""
    meta = metadata.of(binding)
    metadata.check_namespace(kinds.BINDINGS, meta, namespace)
    if meta.setdefault("name", name) != name:
        raise errors.BadRequest(f"the name of the object ({meta['name']}) does not match the name on the URL ({name})")
    node = _binding_target(name, binding)
    target = writing.Target(kinds.PODS, namespace, name)
    pod = await writer.storage.read(kinds.PODS, namespace, name)
    request = AdmissionRequest("CREATE", ctx.user, kinds.PODS, "binding", namespace, name, binding, pod, ctx.dry_run, ctx.warnings)
    await writer.admission.admit(request)
    await writer.admission.validate(request)
    now = timestamps.format_time(writer.now())
    await writer.modify(ctx, target, lambda current: bound(current, binding, node, now), trusted=True)
    return errors.success() | {"code": 201}


def _binding_target(name: str, binding: Object) -> str:
    target = binding.get("target")
    target = target if isinstance(target, dict) else {}
    causes = []
    if target.get("kind") not in {None, "", "Node"}:
        causes.append(errors.Cause("target.kind", "FieldValueNotSupported", f'Unsupported value: "{target["kind"]}": supported values: "Node", "<empty>"'))
    if not target.get("name") or not isinstance(target["name"], str):
        causes.append(errors.Cause("target.name", "FieldValueRequired", "Required value"))
    if causes:
        raise errors.Invalid("", "Binding", name, causes)
    return target["name"]


def bound(current: Current, binding: Object, node: str, now: str) -> Object:
    """The pod on its node, PodScheduled true, with the Binding's annotations and labels. `now` as RFC 3339."""
    pod, meta = current.obj, current.obj["metadata"]
    name = meta["name"]
    if binding["metadata"].get("uid") and binding["metadata"]["uid"] != meta["uid"]:
        raise errors.Conflict(_BINDING, name, f"Precondition failed: UID in precondition: {binding['metadata']['uid']}, UID in object meta: {meta['uid']}")
    metadata.check_resource_version(kinds.PODS, name, binding["metadata"].get("resourceVersion"), current.revision)
    if meta.get("deletionTimestamp"):
        raise errors.Conflict(_BINDING, name, f"pod {name} is being deleted, cannot be assigned to a host")
    if pod["spec"].get("nodeName"):
        raise errors.Conflict(_BINDING, name, f'pod {name} is already assigned to node "{pod["spec"]["nodeName"]}"')
    if pod["spec"].get("schedulingGates"):
        raise errors.Conflict(_BINDING, name, f"pod {name} has non-empty .spec.schedulingGates")
    changed = dict(meta)
    for field in ("annotations", "labels"):
        if binding["metadata"].get(field):
            changed[field] = {**(meta.get(field) or {}), **binding["metadata"][field]}
    condition = {"type": "PodScheduled", "status": "True", "lastProbeTime": None, "lastTransitionTime": now}
    return {**pod, "metadata": changed, "spec": {**pod["spec"], "nodeName": node}, "status": with_condition(pod.get("status") or {}, condition)}


def with_condition(status: Object, condition: Object) -> Object:
    """`status` with this condition in the place of an older one of its type."""
    others = [c for c in status.get("conditions") or () if c.get("type") != condition["type"]]
    return {**status, "conditions": [*others, condition]}


async def evict(writer: writing.Writer, ctx: RequestContext, namespace: str, name: str, eviction: Object) -> Object:
    """Deletes a pod unless a PodDisruptionBudget forbids it now. Raises TooManyRequests (429) then; InternalError where two budgets match."""
    meta = metadata.of(eviction)
    metadata.check_namespace(kinds.PODS, meta, namespace)
    if meta.get("name", name) != name:
        raise errors.BadRequest(f"name in URL does not match name in Eviction object: {name} != {meta['name']}")
    options = deletion.parse_options(eviction.get("deleteOptions"))
    pod = await writer.storage.read(kinds.PODS, namespace, name, fresh=True)
    if pod is None:
        raise errors.NotFound(kinds.PODS, name)
    deletion.check_preconditions(kinds.PODS, name, pod, options)
    request = AdmissionRequest("CREATE", ctx.user, kinds.PODS, "eviction", namespace, name, eviction, pod, ctx.dry_run or options.dry_run, ctx.warnings)
    await writer.admission.admit(request)
    await writer.admission.validate(request)
    if not ignores_budgets(pod):
        await _spend_budget(writer, ctx, pod)
        condition = {
            "type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI", "message": "Eviction API: evicting",
            "lastProbeTime": None, "lastTransitionTime": timestamps.format_time(writer.now()),
        }  # fmt: skip
        target = writing.Target(kinds.PODS, namespace, name)
        await writer.modify(ctx, target, lambda current: {**current.obj, "status": with_condition(current.obj.get("status") or {}, condition)}, trusted=True)
    options = deletion.Options(options.grace_s, options.policy, pod["metadata"]["uid"], "", options.dry_run)
    await writer.delete(ctx, writing.Target(kinds.PODS, namespace, name), options)
    return errors.success() | {"code": 201}


def ignores_budgets(pod: Object) -> bool:
    """Pods that have ended, have not begun or are going already do not count."""
    return pod.get("status", {}).get("phase") in {"Succeeded", "Failed", "Pending"} or bool(pod["metadata"].get("deletionTimestamp"))


async def _spend_budget(writer: writing.Writer, ctx: RequestContext, pod: Object) -> None:
    namespace, name = pod["metadata"]["namespace"], pod["metadata"]["name"]
    budgets = await writer.storage.list_fresh(kinds.PODDISRUPTIONBUDGETS, namespace)
    labels = pod["metadata"].get("labels") or {}
    matching = [b for b in budgets if selectors.from_label_selector((b.get("spec") or {}).get("selector")).matches(labels)]
    if not matching:
        return
    if len(matching) > 1:
        raise errors.InternalError("This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.")
    now, ready = timestamps.format_time(writer.now()), is_ready(pod)
    target = writing.Target(kinds.PODDISRUPTIONBUDGETS, namespace, matching[0]["metadata"]["name"])
    await writer.modify(ctx, target, lambda current: spent(current.obj, name, ready, now), trusted=True)


def is_ready(pod: Object) -> bool:
    return any(c.get("type") == "Ready" and c.get("status") == "True" for c in pod.get("status", {}).get("conditions") or ())


def spent(budget: Object, pod_name: str, ready: bool, now: str) -> Object:
    """The budget with one disruption less. Raises TooManyRequests where it allows none."""
    spec, status, name = budget.get("spec") or {}, budget.get("status") or {}, budget["metadata"]["name"]
    healthy, desired = status.get("currentHealthy", 0), status.get("desiredHealthy", 0)
    if not ready and (spec.get("unhealthyPodEvictionPolicy") == "AlwaysAllow" or healthy >= desired > 0):
        return budget
    if status.get("observedGeneration", 0) < budget["metadata"].get("generation", 0):
        raise _over_budget(f"The disruption budget {name} is still being processed by the server.", 10)
    if len(status.get("disruptedPods") or ()) > _MAX_DISRUPTED:
        raise errors.Forbidden.to(kinds.PODDISRUPTIONBUDGETS, name, "DisruptedPods map too big - too many evictions not confirmed by PDB controller")
    if status.get("disruptionsAllowed", 0) <= 0:
        raise _over_budget(f"The disruption budget {name} needs {desired} healthy pods and has {healthy} currently", 0)
    disrupted = {**(status.get("disruptedPods") or {}), pod_name: now}
    return {**budget, "status": {**status, "disruptionsAllowed": status["disruptionsAllowed"] - 1, "disruptedPods": disrupted}}


def _over_budget(why: str, retry_after_s: int) -> errors.TooManyRequests:
    return errors.TooManyRequests(_BUDGET_TEXT, retry_after_s, [errors.Cause("", "DisruptionBudget", why)])
