"""A container's environment: image, envFrom, env with valueFrom, service variables, and $(NAME) expansion. Pure: the objects it needs are handed in. Called by translate."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from agent import downward, podspec

Objects = Mapping[tuple[str, str], Mapping[str, Any] | None]  # ("ConfigMap" | "Secret", name) → object, None where there is none
_REFERENCE = re.compile(r"\$(?:\$|\(([^()]*)\))")
_INVALID_NAME = re.compile(r"[=\0]")


class ConfigError(ValueError):
    """The container cannot be configured as its pod says (kubelet's CreateContainerConfigError)."""


@dataclass(frozen=True, slots=True)
class Reference:
    kind: str  # ConfigMap | Secret
    name: str
    optional: bool


def references(container: Mapping[str, Any]) -> list[Reference]:
    """The ConfigMaps and Secrets that the environment of this container reads."""
    found = []
    for source in container.get("envFrom") or ():
        for field, kind in (("configMapRef", "ConfigMap"), ("secretRef", "Secret")):
            if source.get(field):
                found.append(Reference(kind, source[field].get("name", ""), bool(source[field].get("optional"))))
    for variable in container.get("env") or ():
        for field, kind in (("configMapKeyRef", "ConfigMap"), ("secretKeyRef", "Secret")):
            ref = (variable.get("valueFrom") or {}).get(field)
            if ref:
                found.append(Reference(kind, ref.get("name", ""), bool(ref.get("optional"))))
    return found


def expand(text: str, variables: Mapping[str, str]) -> str:
    """$(NAME) → its value, left as it is where unknown; $$ → $ (k8s.io/docs: Define Dependent Environment Variables)."""

    def replace(match: re.Match[str]) -> str:
        name = match[1]
        if name is None:
            return "$"
        return variables.get(name, match[0])

    return _REFERENCE.sub(replace, text) if "$" in text else text


def render(pod: podspec.Pod, container: Mapping[str, Any], objects: Objects, services: Mapping[str, str], facts: downward.Facts) -> dict[str, str]:
    """NAME → value: services', then envFrom's, then env's, later ones winning. The image's own variables are not in it. Raises ConfigError."""
    result: dict[str, str] = {}
    for source in container.get("envFrom") or ():
        result |= _from_source(source, objects)
    own: dict[str, str] = dict(result)
    for variable in container.get("env") or ():
        name = variable["name"]
        value = _value(pod, container, variable, objects, facts)
        if value is None:
            continue
        own[name] = expand(value, {**services, **own}) if not variable.get("valueFrom") else value
    return {**services, **own}


def _data(reference: Reference, objects: Objects) -> dict[str, str] | None:
    """The object's keys as text; None where it is missing and may be. Raises ConfigError."""
    found = objects.get((reference.kind, reference.name))
    if found is None:
        if reference.optional:
            return None
        raise ConfigError(f'{reference.kind.lower()} "{reference.name}" not found')
    return text_data(found)


def text_data(found: Mapping[str, Any]) -> dict[str, str]:
    data = dict(found.get("data") or {})
    if found.get("kind") == "Secret" or "type" in found:
        return {k: base64.b64decode(v).decode(errors="replace") for k, v in data.items()}
    return data


def _from_source(source: Mapping[str, Any], objects: Objects) -> dict[str, str]:
    values: dict[str, str] = {}
    for field, kind in (("configMapRef", "ConfigMap"), ("secretRef", "Secret")):
        ref = source.get(field)
        if ref:
            data = _data(Reference(kind, ref.get("name", ""), bool(ref.get("optional"))), objects) or {}
            prefix = source.get("prefix") or ""
            values |= {prefix + k: v for k, v in sorted(data.items()) if not _INVALID_NAME.search(prefix + k)}
    return values


def _value(pod: podspec.Pod, container: Mapping[str, Any], variable: Mapping[str, Any], objects: Objects, facts: downward.Facts) -> str | None:
    source = variable.get("valueFrom")
    if not source:
        return str(variable.get("value") or "")
    try:
        if source.get("fieldRef"):
            return downward.field_value(pod, source["fieldRef"].get("fieldPath", ""), facts)
        if source.get("resourceFieldRef"):
            return downward.resource_value(pod, source["resourceFieldRef"], container["name"], facts)
    except downward.FieldError as e:
        raise ConfigError(f"env {variable['name']}: {e}") from None
    for field, kind in (("configMapKeyRef", "ConfigMap"), ("secretKeyRef", "Secret")):
        ref = source.get(field)
        if ref:
            data = _data(Reference(kind, ref.get("name", ""), bool(ref.get("optional"))), objects)
            if data is not None and ref.get("key") in data:
                return data[ref["key"]]
            if ref.get("optional"):
                return None
            raise ConfigError(f"couldn't find key {ref.get('key')} in {kind} {pod['metadata'].get('namespace', '')}/{ref.get('name', '')}")
    raise ConfigError(f"env {variable['name']}: valueFrom names no source that is supported")


def service_variables(services: Iterable[Mapping[str, Any]], namespace: str, enable_links: bool) -> dict[str, str]:
    """FOO_SERVICE_HOST and its kin for the namespace's Services, and for `kubernetes` always (k8s.io/docs: Service, environment variables)."""
    chosen: dict[str, Mapping[str, Any]] = {}
    for service in services:
        meta, ip = service["metadata"], service["spec"].get("clusterIP")
        if not ip or ip == "None":
            continue
        master = meta["name"] == "kubernetes" and meta.get("namespace") == "default"
        own = meta.get("namespace") == namespace
        if (master and meta["name"] not in chosen) or (own and enable_links):
            chosen[meta["name"]] = service
    result: dict[str, str] = {}
    for name in sorted(chosen):
        result |= _variables_of(chosen[name])
    return result


def _variables_of(service: Mapping[str, Any]) -> dict[str, str]:
    prefix = service["metadata"]["name"].upper().replace("-", "_")
    ip, ports = service["spec"]["clusterIP"], service["spec"].get("ports") or []
    host = f"[{ip}]" if ":" in ip else ip
    result = {f"{prefix}_SERVICE_HOST": ip}
    if not ports:
        return result
    result[f"{prefix}_SERVICE_PORT"] = str(ports[0]["port"])
    for port in ports:
        if port.get("name"):
            result[f"{prefix}_SERVICE_PORT_{port['name'].upper().replace('-', '_')}"] = str(port["port"])
    for i, port in enumerate(ports):
        protocol = (port.get("protocol") or "TCP").lower()
        url = f"{protocol}://{host}:{port['port']}"
        if i == 0:
            result[f"{prefix}_PORT"] = url
        base = f"{prefix}_PORT_{port['port']}_{protocol.upper()}"
        result |= {base: url, f"{base}_PROTO": protocol, f"{base}_PORT": str(port["port"]), f"{base}_ADDR": ip}
    return result
