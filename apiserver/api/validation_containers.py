"""Rules of containers: images, ports, environment, mounts, probes, resources, security contexts. Pure; validation_pod.py calls it with the names of the pod's volumes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from apiserver.api import names, quantities
from apiserver.api.causes import at_least, between, duplicate, forbidden, invalid, items, not_found, one_of, required, section
from apiserver.api.errors import BadRequest, Cause

JSON = dict[str, Any]
PROTOCOLS = ("SCTP", "TCP", "UDP")
PROBES = ("livenessProbe", "readinessProbe", "startupProbe")
HANDLERS = ("exec", "httpGet", "tcpSocket", "grpc")
MAX_ID = 2**31 - 1
ENV_SOURCES = ("fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef", "fileKeyRef")
FIELD_PATHS = frozenset(
    ("metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName", "spec.serviceAccountName", "status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs")
)
RESOURCE_FIELDS = frozenset(f"{kind}.{name}" for kind in ("limits", "requests") for name in ("cpu", "memory", "ephemeral-storage"))


def container_causes(container: JSON, path: str, volumes: frozenset[str], host_network: bool) -> Iterator[Cause]:
    """Everything about one container but its name's uniqueness."""
    image = container.get("image")
    if not image:
        yield required(f"{path}.image")
    elif image != image.strip():
        yield invalid(f"{path}.image", image, "must not have leading or trailing whitespace")
    if container.get("imagePullPolicy") is not None:
        yield from one_of(f"{path}.imagePullPolicy", container["imagePullPolicy"], ("Always", "IfNotPresent", "Never"))
    if container.get("terminationMessagePolicy"):
        yield from one_of(f"{path}.terminationMessagePolicy", container["terminationMessagePolicy"], ("FallbackToLogsOnError", "File"))
    yield from _port_causes(container, path, host_network)
    yield from _env_causes(container, path)
    yield from _mount_causes(container, path, volumes)
    yield from resource_causes(container.get("resources"), f"{path}.resources")
    for field in PROBES:
        if isinstance(container.get(field), dict):
            yield from _probe_causes(container[field], f"{path}.{field}", field)
    for field in ("postStart", "preStop"):
        handler = section(container, "lifecycle").get(field)
        if isinstance(handler, dict):
            yield from _handler_causes(handler, f"{path}.lifecycle.{field}", ("exec", "httpGet", "tcpSocket", "sleep"))
    yield from _security_causes(section(container, "securityContext"), f"{path}.securityContext")


def _port_causes(container: JSON, path: str, host_network: bool) -> Iterator[Cause]:
    seen: set[str] = set()
    for where, port in items(container, "ports", path):
        name = port.get("name")
        if name:
            problems = names.port_name(name)
            yield from (invalid(f"{where}.name", name, text) for text in problems)
            if name in seen and not problems:
                yield duplicate(f"{where}.name", name)
            seen.add(name)
        number = port.get("containerPort")
        if not number:
            yield required(f"{where}.containerPort")
        else:
            yield from (invalid(f"{where}.containerPort", number, text) for text in names.port_number(number))
        host_port = port.get("hostPort")
        if host_port:
            yield from (invalid(f"{where}.hostPort", host_port, text) for text in names.port_number(host_port))
            if host_network and host_port != number:
                yield invalid(f"{where}.containerPort", number, "must match `hostPort` when `hostNetwork` is true")
        yield from one_of(f"{where}.protocol", port.get("protocol", "TCP"), PROTOCOLS)
        if port.get("hostIP"):
            yield from (invalid(f"{where}.hostIP", port["hostIP"], text) for text in names.ip_address(port["hostIP"]))


def _env_causes(container: JSON, path: str) -> Iterator[Cause]:
    for where, entry in items(container, "env", path):
        name = entry.get("name")
        if not name:
            yield required(f"{where}.name")
        else:
            yield from (invalid(f"{where}.name", name, text) for text in names.env_name(name))
        source = entry.get("valueFrom")
        if isinstance(source, dict):
            yield from _source_causes(source, f"{where}.valueFrom", bool(entry.get("value")))
    for where, entry in items(container, "envFrom", path):
        if entry.get("prefix"):
            yield from (invalid(f"{where}.prefix", entry["prefix"], text) for text in names.env_name(entry["prefix"]))
        chosen = [field for field in ("configMapRef", "secretRef") if isinstance(entry.get(field), dict)]
        if len(chosen) != 1:
            yield invalid(where, "", "may not have more than one field specified at a time" if chosen else "must specify one of: `configMapRef` or `secretRef`")
        yield from (required(f"{where}.{field}.name") for field in chosen if not entry[field].get("name"))


def _source_causes(source: JSON, path: str, has_value: bool) -> Iterator[Cause]:
    chosen = [field for field in ENV_SOURCES if isinstance(source.get(field), dict)]
    if not chosen:
        yield invalid(path, "", "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`")
    elif has_value:
        yield invalid(path, "", "may not be specified when `value` is not empty")
    elif len(chosen) > 1:
        yield invalid(path, "", "may not have more than one field specified at a time")
    for field in chosen:
        value, where = source[field], f"{path}.{field}"
        if field in ("configMapKeyRef", "secretKeyRef"):
            if not value.get("name"):
                yield required(f"{where}.name")
            if not value.get("key"):
                yield required(f"{where}.key")
            else:
                yield from (invalid(f"{where}.key", value["key"], text) for text in names.config_key(value["key"]))
        elif field == "fieldRef":
            yield from field_ref_causes(value, where)
        elif field == "resourceFieldRef":
            yield from resource_field_causes(value, where)


def field_ref_causes(reference: JSON, path: str, more: frozenset[str] = frozenset()) -> Iterator[Cause]:
    """`metadata.name`, `metadata.labels['key']` …; `more` are paths that only volumes may use."""
    field = reference.get("fieldPath")
    if not field:
        yield required(f"{path}.fieldPath")
        return
    head, bracket, subscript = field.partition("['")
    if bracket and subscript.endswith("']"):
        if head not in ("metadata.labels", "metadata.annotations"):
            yield invalid(f"{path}.fieldPath", field, "does not support subscript")
    elif field not in FIELD_PATHS | more:
        if field in ("metadata.labels", "metadata.annotations"):
            yield invalid(f"{path}.fieldPath", field, "error converting fieldPath: field label not supported")
        else:
            yield from one_of(f"{path}.fieldPath", field, FIELD_PATHS | more)


def resource_field_causes(reference: JSON, path: str) -> Iterator[Cause]:
    resource = reference.get("resource")
    if not resource:
        yield required(f"{path}.resource")
    elif not resource.startswith(("limits.hugepages-", "requests.hugepages-")):
        yield from one_of(f"{path}.resource", resource, RESOURCE_FIELDS)
    divisor = reference.get("divisor") or "0"
    allowed = ("0", "1m", "1") if str(resource).endswith(".cpu") else ("0", "1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei")
    if str(divisor) not in allowed:
        yield invalid(f"{path}.divisor", divisor, f"only divisor's values {' and '.join(allowed[1:]) if len(allowed) == 3 else ', '.join(allowed[1:])} are supported")


def _mount_causes(container: JSON, path: str, volumes: frozenset[str]) -> Iterator[Cause]:
    mounted: set[str] = set()
    for where, mount in items(container, "volumeMounts", path):
        name, target = mount.get("name"), mount.get("mountPath")
        if not name:
            yield required(f"{where}.name")
        elif name not in volumes:
            yield not_found(f"{where}.name", name)
        if not target:
            yield required(f"{where}.mountPath")
        elif target in mounted:
            yield invalid(f"{where}.mountPath", target, "must be unique")
        mounted.add(target or "")
        if mount.get("subPath") and mount.get("subPathExpr"):
            yield invalid(f"{where}.subPathExpr", mount["subPathExpr"], "subPathExpr and subPath are mutually exclusive")
        for field in ("subPath", "subPathExpr"):
            if mount.get(field):
                yield from relative_path_causes(mount[field], f"{where}.{field}")
        if mount.get("mountPropagation"):
            yield from one_of(f"{where}.mountPropagation", mount["mountPropagation"], ("Bidirectional", "HostToContainer", "None"))
            if mount["mountPropagation"] == "Bidirectional" and section(container, "securityContext").get("privileged") is not True:
                yield forbidden(f"{where}.mountPropagation", "Bidirectional mount propagation is available only to privileged containers")


def relative_path_causes(value: str, path: str) -> Iterator[Cause]:
    if value.startswith("/"):
        yield invalid(path, value, "must be a relative path")
    if ".." in value.split("/"):
        yield invalid(path, value, "must not contain '..'")


def resource_causes(resources: Any, path: str) -> Iterator[Cause]:
    """Known names, no negative amounts, whole numbers where there are no fractions, requests within limits."""
    limits, requests = section(resources, "limits"), section(resources, "requests")
    for field, values in (("limits", limits), ("requests", requests)):
        for name, quantity in values.items():
            yield from quantity_causes(name, quantity, f"{path}.{field}[{name}]")
    for name, quantity in requests.items():
        limit = limits.get(name)
        if limit is None:
            continue
        try:
            wanted, most = quantities.parse(quantity), quantities.parse(limit)
        except BadRequest:
            continue
        if "/" in name and wanted != most:
            yield invalid(f"{path}.requests", str(quantity), f"must be equal to {name} limit of {limit}")
        elif wanted > most:
            yield invalid(f"{path}.requests", str(quantity), f"must be less than or equal to {name} limit of {limit}")


def quantity_causes(name: str, quantity: Any, path: str) -> Iterator[Cause]:
    if "/" not in name and name not in ("cpu", "memory", "ephemeral-storage", "storage", "pods") and not name.startswith("hugepages-"):
        yield invalid(path, name, "must be a standard resource type or fully qualified")
    elif "/" in name:
        yield from (invalid(path, name, text) for text in names.qualified_name(name))
    try:
        value = quantities.parse(quantity)
    except BadRequest as err:
        yield invalid(path, quantity, err.message)
        return
    if value < 0:
        yield invalid(path, str(quantity), "must be greater than or equal to 0")
    elif ("/" in name or name == "pods") and value != value.to_integral_value():
        yield invalid(path, str(quantity), "must be an integer")


def _probe_causes(probe: JSON, path: str, kind: str) -> Iterator[Cause]:
    yield from _handler_causes(probe, path, HANDLERS)
    for field in ("initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"):
        yield from at_least(f"{path}.{field}", probe.get(field))
    grace = probe.get("terminationGracePeriodSeconds")
    if isinstance(grace, int) and grace <= 0:
        yield invalid(f"{path}.terminationGracePeriodSeconds", grace, "must be greater than 0")
    if kind == "readinessProbe" and grace is not None:
        yield invalid(f"{path}.terminationGracePeriodSeconds", grace, "must not be set for readinessProbes")
    if kind != "readinessProbe" and probe.get("successThreshold", 1) != 1:
        yield invalid(f"{path}.successThreshold", probe["successThreshold"], "must be 1")


def _handler_causes(handler: JSON, path: str, allowed: tuple[str, ...]) -> Iterator[Cause]:
    chosen = [field for field in allowed if isinstance(handler.get(field), dict)]
    if not chosen:
        yield required(path, "must specify a handler type")
    yield from (forbidden(f"{path}.{field}", "may not specify more than 1 handler type") for field in chosen[1:])
    for field in chosen[:1]:
        value, where = handler[field], f"{path}.{field}"
        if field == "exec" and not value.get("command"):
            yield required(f"{where}.command")
        if field == "httpGet":
            if not value.get("path"):
                yield required(f"{where}.path")
            yield from one_of(f"{where}.scheme", value.get("scheme", "HTTP"), ("HTTP", "HTTPS"))
        if field in ("httpGet", "tcpSocket", "grpc"):
            yield from port_or_name_causes(value.get("port"), f"{where}.port")
        if field == "sleep":
            yield from at_least(f"{where}.seconds", value.get("seconds"))


def port_or_name_causes(port: Any, path: str) -> Iterator[Cause]:
    """A port by number or by name."""
    if isinstance(port, str) and port:
        yield from (invalid(path, port, text) for text in names.port_name(port))
    else:
        yield from (invalid(path, port or 0, text) for text in names.port_number(port if isinstance(port, int) else 0))


def _security_causes(context: JSON, path: str) -> Iterator[Cause]:
    for field in ("runAsUser", "runAsGroup"):
        yield from between(f"{path}.{field}", context.get(field), 0, MAX_ID)
    if context.get("procMount"):
        yield from one_of(f"{path}.procMount", context["procMount"], ("Default", "Unmasked"))
    if context.get("allowPrivilegeEscalation") is False:
        if context.get("privileged"):
            yield invalid(path, context, "cannot set `allowPrivilegeEscalation` to false and `privileged` to true")
        if {"CAP_SYS_ADMIN", "SYS_ADMIN"} & set(section(context, "capabilities").get("add") or ()):
            yield invalid(path, context, "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN")
    yield from seccomp_causes(section(context, "seccompProfile"), f"{path}.seccompProfile")


def seccomp_causes(profile: JSON, path: str) -> Iterator[Cause]:
    if not profile:
        return
    kind = profile.get("type")
    if not kind:
        yield required(f"{path}.type", "type is required when seccompProfile is set")
        return
    yield from one_of(f"{path}.type", kind, ("Localhost", "RuntimeDefault", "Unconfined"))
    if kind == "Localhost" and not profile.get("localhostProfile"):
        yield required(f"{path}.localhostProfile", "must be set when seccomp type is Localhost")
    if kind != "Localhost" and profile.get("localhostProfile"):
        yield invalid(f"{path}.localhostProfile", profile["localhostProfile"], "can only be set when seccomp type is Localhost")
