"""pods/ephemeralcontainers: containers for debugging, which can only be added to a pod. Pure; writing calls it."""

from __future__ import annotations

from apiserver.api import errors
from apiserver.registry.context import Object


def with_ephemeral_containers(new: Object, old: Object) -> Object:
    """The old pod with the new ephemeral containers, which can only be added. Raises Invalid."""
    field = "spec.ephemeralContainers"
    wanted = (new.get("spec") or {}).get("ephemeralContainers") or []
    causes = []
    by_name = {container.get("name"): container for container in wanted}
    for container in old["spec"].get("ephemeralContainers") or ():
        kept = by_name.get(container["name"])
        if kept is None:
            causes.append(errors.Cause(field, "FieldValueForbidden", f'Forbidden: existing ephemeral containers "{container["name"]}" may not be removed\n'))
        elif {**container, **kept} != container:
            causes.append(errors.Cause(field, "FieldValueForbidden", f'Forbidden: existing ephemeral containers "{container["name"]}" may not be changed\n'))
    taken = {c["name"] for kind in ("containers", "initContainers") for c in old["spec"].get(kind) or ()}
    for index, container in enumerate(wanted):
        causes += _ephemeral_causes(f"{field}[{index}]", container, taken)
    if causes:
        raise errors.Invalid("", "Pod", old["metadata"]["name"], causes)
    spec = {**old["spec"], "ephemeralContainers": [_completed(container) for container in wanted]}
    grown = spec["ephemeralContainers"] != (old["spec"].get("ephemeralContainers") or [])
    meta = {**old["metadata"], "generation": old["metadata"].get("generation", 0) + 1} if grown else old["metadata"]
    return {**old, "metadata": meta, "spec": spec}


def _ephemeral_causes(path: str, container: Object, taken: set[str]) -> list[errors.Cause]:
    causes = []
    name = container.get("name")
    if not name:
        causes.append(errors.Cause(f"{path}.name", "FieldValueRequired", "Required value"))
    elif name in taken:
        causes.append(errors.Cause(f"{path}.name", "FieldValueDuplicate", f'Duplicate value: "{name}"'))
    else:
        taken.add(name)
    if not container.get("image"):
        causes.append(errors.Cause(f"{path}.image", "FieldValueRequired", "Required value"))
    for forbidden in ("ports", "livenessProbe", "readinessProbe", "startupProbe", "lifecycle", "resources"):
        if container.get(forbidden):
            causes.append(errors.Cause(f"{path}.{forbidden}", "FieldValueForbidden", "Forbidden: cannot be set for an Ephemeral Container"))
    return causes


def _completed(container: Object) -> Object:
    """Kubernetes' defaults of a container, which has no ports and no probes here."""
    image = container["image"]
    latest = ":" not in image.rpartition("/")[2] or image.endswith(":latest")
    defaults = {
        "resources": {}, "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
        "imagePullPolicy": "Always" if latest and "@" not in image else "IfNotPresent",
    }  # fmt: skip
    return {**defaults, **container}
