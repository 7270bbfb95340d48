"""Rules of pods and of pod templates, and what of a pod may change once it is there. Pure; validation.py and validation_workloads.py call it."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from apiserver.api import names
from apiserver.api.causes import at_least, between, duplicate, forbidden, invalid, items, one_of, required, section, strings
from apiserver.api.errors import Cause
from apiserver.api.validation_containers import MAX_ID, PROBES, container_causes, quantity_causes, seccomp_causes
from apiserver.api.validation_meta import label_causes
from apiserver.api.validation_scheduling import scheduling_causes, toleration_causes
from apiserver.api.validation_volumes import volume_causes, volume_names

JSON = dict[str, Any]
IMMUTABLE_TEXT = (
    "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,"
    "`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"
)
DNS_POLICIES = ("ClusterFirst", "ClusterFirstWithHostNet", "Default", "None")


def pod_causes(obj: JSON) -> Iterator[Cause]:
    spec = section(obj, "spec")
    yield from pod_spec_causes(spec, "spec")
    if spec.get("ephemeralContainers"):
        yield forbidden("spec.ephemeralContainers", "cannot be set on create")


def pod_spec_causes(spec: JSON, path: str) -> Iterator[Cause]:
    yield from volume_causes(spec, path)
    yield from _containers(spec, path)
    yield from one_of(f"{path}.restartPolicy", spec.get("restartPolicy", "Always"), ("Always", "Never", "OnFailure"))
    yield from _dns(spec, path)
    yield from at_least(f"{path}.terminationGracePeriodSeconds", spec.get("terminationGracePeriodSeconds"))
    yield from between(f"{path}.activeDeadlineSeconds", spec.get("activeDeadlineSeconds"), 1, MAX_ID)
    yield from label_causes(spec.get("nodeSelector"), f"{path}.nodeSelector")
    for field in ("serviceAccountName", "nodeName", "priorityClassName", "runtimeClassName"):
        if spec.get(field):
            yield from (invalid(f"{path}.{field}", spec[field], text) for text in names.dns_subdomain(spec[field]))
    for field in ("hostname", "subdomain"):
        if spec.get(field):
            yield from (invalid(f"{path}.{field}", spec[field], text) for text in names.dns_label(spec[field]))
    yield from _security(spec, path)
    for where, alias in items(spec, "hostAliases", path):
        yield from (invalid(f"{where}.ip", alias.get("ip", ""), text) for text in names.ip_address(alias.get("ip") or ""))
        for inner, hostname in strings(alias, "hostnames", where):
            yield from (invalid(inner.rpartition("[")[0], hostname, text) for text in names.dns_subdomain(hostname))
    for where, reference in items(spec, "imagePullSecrets", path):
        if not reference.get("name"):
            yield required(f"{where}.name")
    for name, quantity in section(spec, "overhead").items():
        yield from quantity_causes(name, quantity, f"{path}.overhead[{name}]")
    for where, gate in items(spec, "readinessGates", path):
        yield from (invalid(f"{where}.conditionType", gate.get("conditionType", ""), text) for text in names.qualified_name(gate.get("conditionType") or ""))
    yield from _gates(spec, path)
    yield from scheduling_causes(spec, path)


def _containers(spec: JSON, path: str) -> Iterator[Cause]:
    volumes, host_network = volume_names(spec), spec.get("hostNetwork") is True
    if not spec.get("containers"):
        yield required(f"{path}.containers")
    seen: set[str] = set()
    host_ports: set[str] = set()
    for field in ("initContainers", "containers"):
        for where, container in items(spec, field, path):
            name = container.get("name")
            if not name:
                yield required(f"{where}.name")
            else:
                yield from (invalid(f"{where}.name", name, text) for text in names.dns_label(name))
                if name in seen:
                    yield duplicate(f"{where}.name", name)
                seen.add(name)
            yield from container_causes(container, where, volumes, host_network)
            if field == "initContainers":
                yield from _init_only(container, where)
            for inner, port in items(container, "ports", where):
                if port.get("hostPort"):
                    key = f"{port.get('protocol', 'TCP')}/{port.get('hostIP', '')}/{port['hostPort']}"
                    if key in host_ports and field == "containers":
                        yield duplicate(f"{inner}.hostPort", key)
                    host_ports.add(key)


def _init_only(container: JSON, path: str) -> Iterator[Cause]:
    """An init container that runs to its end has neither probes nor hooks; one with restartPolicy Always is a sidecar and may."""
    if container.get("restartPolicy"):
        yield from one_of(f"{path}.restartPolicy", container["restartPolicy"], ("Always", "Never", "OnFailure"))
    if container.get("restartPolicy") == "Always":
        return
    for field in ("lifecycle", *PROBES):
        if container.get(field):
            yield forbidden(f"{path}.{field}", "may not be set for init containers without restartPolicy=Always")


def _dns(spec: JSON, path: str) -> Iterator[Cause]:
    policy = spec.get("dnsPolicy", "ClusterFirst")
    yield from one_of(f"{path}.dnsPolicy", policy, DNS_POLICIES)
    config = spec.get("dnsConfig")
    if policy == "None" and not isinstance(config, dict):
        yield required(f"{path}.dnsConfig", "must provide `dnsConfig` when `dnsPolicy` is None")
    elif policy == "None" and not section(spec, "dnsConfig").get("nameservers"):
        yield required(f"{path}.dnsConfig.nameservers", "must provide at least one DNS nameserver when `dnsPolicy` is None")
    for where, address in strings(config, "nameservers", f"{path}.dnsConfig"):
        yield from (invalid(where, address, text) for text in names.ip_address(address))
    for where, domain in strings(config, "searches", f"{path}.dnsConfig"):
        trimmed = domain.removesuffix(".").replace("_", "a")
        yield from (invalid(where, domain, text) for text in (names.dns_subdomain(trimmed) if trimmed else []))
    for where, option in items(config, "options", f"{path}.dnsConfig"):
        if not option.get("name"):
            yield required(f"{where}", "must not be empty")


def _security(spec: JSON, path: str) -> Iterator[Cause]:
    context = section(spec, "securityContext")
    for field in ("runAsUser", "runAsGroup", "fsGroup"):
        yield from between(f"{path}.securityContext.{field}", context.get(field), 0, MAX_ID)
    for position, group in enumerate(context.get("supplementalGroups") or ()):
        yield from between(f"{path}.securityContext.supplementalGroups[{position}]", group, 0, MAX_ID)
    if context.get("fsGroupChangePolicy"):
        yield from one_of(f"{path}.securityContext.fsGroupChangePolicy", context["fsGroupChangePolicy"], ("Always", "OnRootMismatch"))
    yield from seccomp_causes(section(context, "seccompProfile"), f"{path}.securityContext.seccompProfile")
    if spec.get("shareProcessNamespace") and spec.get("hostPID"):
        yield invalid(f"{path}.shareProcessNamespace", True, "ShareProcessNamespace and HostPID cannot both be enabled")
    for where, sysctl in items(context, "sysctls", f"{path}.securityContext"):
        if not sysctl.get("name"):
            yield required(f"{where}.name")
    if spec.get("hostUsers") is False and any(spec.get(field) for field in ("hostNetwork", "hostPID", "hostIPC")):
        field = next(field for field in ("hostNetwork", "hostPID", "hostIPC") if spec.get(field))
        yield forbidden(f"{path}.{field}", "when `hostUsers` is false")


def _gates(spec: JSON, path: str) -> Iterator[Cause]:
    seen: set[str] = set()
    for where, gate in items(spec, "schedulingGates", path):
        name = gate.get("name") or ""
        yield from (invalid(where, name, text) for text in names.qualified_name(name))
        if name in seen:
            yield duplicate(where, name)
        seen.add(name)
    if seen and spec.get("nodeName"):
        yield forbidden(f"{path}.nodeName", "cannot be set until all schedulingGates have been cleared")


def pod_update_causes(new: JSON, old: JSON) -> Iterator[Cause]:
    """What may not change. Objects as stored: both are defaulted."""
    after, before = section(new, "spec"), section(old, "spec")
    if after == before:
        return
    for field in ("containers", "initContainers"):
        if len(after.get(field) or ()) != len(before.get(field) or ()):
            yield forbidden(f"spec.{field}", "pod updates may not add or remove containers")
            return
        for where, container in items(after, field, "spec"):
            if not container.get("image"):
                yield required(f"{where}.image")
    yield from _deadline(after.get("activeDeadlineSeconds"), before.get("activeDeadlineSeconds"))
    yield from _tolerations(after, before)
    old_gates = [gate.get("name") for _, gate in items(before, "schedulingGates", "")]
    for where, gate in items(after, "schedulingGates", "spec"):
        if gate.get("name") not in old_gates:
            yield forbidden(where.rpartition("[")[0], "only deletion is allowed, but found new scheduling gate '" + str(gate.get("name")) + "'")
    allowed = _with_allowed_changes(after, before, gated=bool(old_gates))
    changed = list(_differences(after, allowed, "spec"))
    if changed:
        yield forbidden("spec", f"{IMMUTABLE_TEXT}\nchanged: {', '.join(changed)}")


def _deadline(new: Any, old: Any) -> Iterator[Cause]:
    path = "spec.activeDeadlineSeconds"
    if new == old:
        return
    if new is None:
        yield invalid(path, None, "must not update from a positive integer to nil value")
        return
    yield from between(path, new, 0, MAX_ID)
    if isinstance(old, int) and isinstance(new, int) and new > old:
        yield invalid(path, new, "must be less than or equal to previous value")


def _tolerations(after: JSON, before: JSON) -> Iterator[Cause]:
    def identity(toleration: JSON) -> tuple[Any, ...]:
        return tuple(toleration.get(field) or "" for field in ("key", "operator", "value", "effect"))

    kept = {identity(toleration) for _, toleration in items(after, "tolerations", "")}
    if any(identity(toleration) not in kept for _, toleration in items(before, "tolerations", "")):
        yield forbidden("spec.tolerations", "existing toleration can not be modified except its tolerationSeconds")
    yield from toleration_causes(after, "spec")


def _with_allowed_changes(after: JSON, before: JSON, *, gated: bool) -> JSON:
    """The old spec with every change that is allowed taken over from the new one."""
    allowed = copy.deepcopy(before)
    for field in ("containers", "initContainers"):
        for (_, target), (_, source) in zip(items(allowed, field, ""), items(after, field, ""), strict=True):
            if "image" in source:
                target["image"] = source["image"]
    taken = ["activeDeadlineSeconds", "tolerations", "schedulingGates"]
    if isinstance(before.get("terminationGracePeriodSeconds"), int) and before["terminationGracePeriodSeconds"] < 0 and after.get("terminationGracePeriodSeconds") == 1:
        taken.append("terminationGracePeriodSeconds")
    if gated and _only_adds(section(after, "nodeSelector"), section(before, "nodeSelector")):
        taken.append("nodeSelector")
    for field in taken:
        if field in after:
            allowed[field] = after[field]
        else:
            allowed.pop(field, None)
    return allowed


def _only_adds(after: JSON, before: JSON) -> bool:
    return all(after.get(key) == value for key, value in before.items())


def _differences(left: Any, right: Any, path: str) -> Iterator[str]:
    """The paths at which two values differ."""
    if isinstance(left, dict) and isinstance(right, dict):
        for key in sorted(left.keys() | right.keys()):
            yield from _differences(left.get(key), right.get(key), f"{path}.{key}")
    elif isinstance(left, list) and isinstance(right, list) and len(left) == len(right):
        for position, (one, other) in enumerate(zip(left, right, strict=True)):
            yield from _differences(one, other, f"{path}[{position}]")
    elif left != right and not (left in (None, {}, [], "") and right in (None, {}, [], "")):
        yield path
