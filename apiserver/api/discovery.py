"""The discovery documents: /api, /apis, /apis/<group>, /apis/<group>/<version>, and the aggregated lists (apidiscovery.k8s.io v2 and v2beta1). Rendered once, as bytes.

REST serves them; `resources` is the built-in table unless custom resources are added to it.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import orjson

from apiserver.api import kinds
from apiserver.api.kinds import Resource, Subresource

JSON = dict[str, Any]
Resources = tuple[Resource, ...]
AGGREGATED_VERSIONS = ("v2", "v2beta1")


def legacy(path: str, server_address: str = "", resources: Resources = kinds.RESOURCES) -> bytes | None:
    """The unaggregated document at a path: "/api", "/apis", "/apis/apps", "/api/v1", "/apis/apps/v1". None where nothing is served."""
    match path.strip("/").split("/"):
        case ["api"]:
            return _api_versions(server_address)
        case ["apis"]:
            return _group_list(resources)
        case ["apis", group]:
            return _group(group, resources)
        case ["api", version]:
            return _resource_list("", version, resources)
        case ["apis", group, version] if group:
            return _resource_list(group, version, resources)
    return None


@lru_cache(maxsize=8)
def aggregated(path: str, version: str = "v2", resources: Resources = kinds.RESOURCES) -> bytes:
    """The APIGroupDiscoveryList at "/api" (the core group) or "/apis" (the named groups), in version "v2" or "v2beta1"."""
    core = path.strip("/") == "api"
    groups = [group for group in _group_names(resources) if (group == "") is core]
    items = [
        {
            "metadata": {"name": group, "creationTimestamp": None} if group else {"creationTimestamp": None},
            "versions": [{"version": v, "resources": [_aggregated(r) for r in _of(group, v, resources)], "freshness": "Current"} for v in _versions(group, resources)],
        }
        for group in groups
    ]
    return orjson.dumps({"kind": "APIGroupDiscoveryList", "apiVersion": f"apidiscovery.k8s.io/{version}", "metadata": {}, "items": items})


def _aggregated(resource: Resource) -> JSON:
    document: JSON = {
        "resource": resource.plural,
        "responseKind": _kind(resource.group, resource.version, resource.kind),
        "scope": "Namespaced" if resource.namespaced else "Cluster",
        "singularResource": resource.singular,
        "verbs": list(resource.verbs),
    }
    if resource.short_names:
        document["shortNames"] = list(resource.short_names)
    if resource.categories:
        document["categories"] = list(resource.categories)
    if resource.subresources:
        document["subresources"] = [
            {"subresource": sub.name, "responseKind": _kind(*_group_version(resource, sub), sub.kind), "verbs": list(sub.verbs)} for sub in resource.subresources
        ]
    return document


@lru_cache(maxsize=8)
def _api_versions(server_address: str) -> bytes:
    addresses = [{"clientCIDR": "0.0.0.0/0", "serverAddress": server_address}] if server_address else []
    return orjson.dumps({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": addresses})


@lru_cache(maxsize=8)
def _group_list(resources: Resources) -> bytes:
    groups = [_group_document(group, resources) for group in _group_names(resources) if group]
    return orjson.dumps({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})


@lru_cache(maxsize=64)
def _group(group: str, resources: Resources) -> bytes | None:
    if not group or group not in _group_names(resources):
        return None
    return orjson.dumps({"kind": "APIGroup", "apiVersion": "v1", **_group_document(group, resources)})


def _group_document(group: str, resources: Resources) -> JSON:
    versions = [{"groupVersion": f"{group}/{version}", "version": version} for version in _versions(group, resources)]
    return {"name": group, "versions": versions, "preferredVersion": versions[0]}


@lru_cache(maxsize=128)
def _resource_list(group: str, version: str, resources: Resources) -> bytes | None:
    found = _of(group, version, resources)
    if not found:
        return None
    entries: list[JSON] = []
    for resource in found:
        entries.append(_entry(resource))
        entries.extend(_subresource_entry(resource, sub) for sub in resource.subresources)
    return orjson.dumps({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": found[0].api_version, "resources": entries})


def _entry(resource: Resource) -> JSON:
    entry: JSON = {
        "name": resource.plural, "singularName": resource.singular, "namespaced": resource.namespaced, "kind": resource.kind, "verbs": list(resource.verbs),
    }
    if resource.short_names:
        entry["shortNames"] = list(resource.short_names)
    if resource.categories:
        entry["categories"] = list(resource.categories)
    return entry


def _subresource_entry(resource: Resource, sub: Subresource) -> JSON:
    entry: JSON = {
        "name": f"{resource.plural}/{sub.name}", "singularName": "", "namespaced": resource.namespaced, "kind": sub.kind, "verbs": list(sub.verbs),
    }
    return entry | ({"group": sub.group, "version": sub.version} if sub.version else {})


def _group_version(resource: Resource, sub: Subresource) -> tuple[str, str]:
    return (sub.group, sub.version) if sub.version else (resource.group, resource.version)


def _kind(group: str, version: str, kind: str) -> JSON:
    return {"group": group, "version": version, "kind": kind}


def _group_names(resources: Resources) -> list[str]:
    """Built-in groups in their order of priority, then the others by name."""
    present = {resource.group for resource in resources}
    return [group for group in kinds.GROUP_ORDER if group in present] + sorted(present.difference(kinds.GROUP_ORDER))


def _versions(group: str, resources: Resources) -> list[str]:
    """The versions of a group, the preferred one first: built-in order, which for custom resources is that of the table."""
    built_in = [version for g, version in kinds.group_versions() if g == group]
    return list(dict.fromkeys(built_in + [resource.version for resource in resources if resource.group == group]))


def _of(group: str, version: str, resources: Resources) -> list[Resource]:
    return sorted((r for r in resources if (r.group, r.version) == (group, version)), key=lambda r: r.plural)
