"""Renders the OpenAPI documents (v3 per group-version, v3 index, v2) from Kubernetes' definitions. Run by build_schema at set-up; the server only sends the files.

Paths declare what clients look for: `fieldValidation` and `dryRun` on PATCH, x-kubernetes-group-version-kind and -action everywhere. Pure but for write().
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from apiserver.api import kinds
from apiserver.api.kinds import Resource, Subresource

JSON = dict[str, Any]
REF = "#/$defs/"
PATCH_TYPES = ("application/json-patch+json", "application/merge-patch+json", "application/strategic-merge-patch+json", "application/apply-patch+yaml")
ACTIONS = {"get": "get", "post": "post", "put": "put", "patch": "patch", "delete": "delete"}
WRITE_PARAMETERS = (
    ("dryRun", "string", "When present, indicates that modifications should not be persisted. Valid values are: - All: all dry run stages will be processed"),
    ("fieldManager", "string", "fieldManager is a name associated with the actor or entity that is making these changes."),
    ("fieldValidation", "string", "How to handle unknown or duplicate fields: Ignore, Warn or Strict."),
)
LIST_PARAMETERS = (
    ("continue", "string", "The token of the previous page."),
    ("fieldSelector", "string", "A selector to restrict the list of returned objects by their fields."),
    ("labelSelector", "string", "A selector to restrict the list of returned objects by their labels."),
    ("limit", "integer", "The maximum number of responses to return for a list call."),
    ("resourceVersion", "string", "The resourceVersion the answer must be at or after."),
    ("resourceVersionMatch", "string", "How resourceVersion is applied: Exact or NotOlderThan."),
    ("sendInitialEvents", "boolean", "Start a watch with the current state, closed by a bookmark."),
    ("timeoutSeconds", "integer", "How long a list or watch may take."),
    ("watch", "boolean", "Watch for changes instead of listing."),
)
FORCE = ("force", "boolean", "Force is going to \"force\" Apply requests: take over fields owned by others.")
PRETTY = ("pretty", "string", "If 'true', then the output is pretty printed.")


def write(definitions: JSON, index: dict[tuple[str, str], str], target: Path, version: str, closure: Callable[[set[str]], list[str]]) -> list[Path]:
    """Writes openapi-v3-<group>-<version>.json per group-version, openapi-v3.json (the index) and openapi-v2.json. Returns the paths."""
    written, urls = [], {}
    for group, gv in kinds.group_versions():
        resources = [r for r in kinds.RESOURCES if (r.group, r.version) == (group, gv)]
        document = render_v3(resources, definitions, index, version, closure)
        data = json.dumps(document, separators=(",", ":")).encode()
        path = target / file_name(group, gv)
        path.write_bytes(data)
        written.append(path)
        name = f"apis/{group}/{gv}" if group else f"api/{gv}"
        urls[name] = {"serverRelativeURL": f"/openapi/v3/{name}?hash={hashlib.sha512(data).hexdigest().upper()}"}
    for name, text in (("openapi-v3.json", {"paths": urls}), ("openapi-v2.json", render_v2(definitions, index, version))):
        path = target / name
        path.write_text(json.dumps(text, separators=(",", ":")))
        written.append(path)
    return written


def file_name(group: str, version: str) -> str:
    """openapi-v3-apps-v1.json; the core group has no name."""
    return f"openapi-v3-{group}-{version}.json" if group else f"openapi-v3-{version}.json"


def render_v3(resources: list[Resource], definitions: JSON, index: dict[tuple[str, str], str], version: str, closure: Callable[[set[str]], list[str]]) -> JSON:
    """The document of one group-version: its paths and every definition they need."""
    paths: JSON = {}
    roots: set[str] = {index["v1", "DeleteOptions"], index["v1", "Status"]}
    for resource in resources:
        for path, operations, used in _paths(resource, index):
            paths[path] = {verb: _operation(verb, path, spec, v3=True) for verb, spec in operations.items()} | {"parameters": _path_parameters(path, v3=True)}
            roots |= used
    group, gv = resources[0].group, resources[0].version
    schemas = {name: _schema(definitions[name], "#/components/schemas/", group, gv, v3=True) for name in closure(roots)}
    return {"openapi": "3.0.0", "info": {"title": "Kubernetes", "version": version}, "paths": paths, "components": {"schemas": schemas}}


def render_v2(definitions: JSON, index: dict[tuple[str, str], str], version: str) -> JSON:
    """One Swagger document of everything served."""
    paths: JSON = {}
    for resource in kinds.RESOURCES:
        for path, operations, _ in _paths(resource, index):
            paths[path] = {verb: _operation(verb, path, spec, v3=False) for verb, spec in operations.items()} | {"parameters": _path_parameters(path, v3=False)}
    schemas = {name: _schema(definition, "#/definitions/", None, None, v3=False) for name, definition in definitions.items()}
    return {"swagger": "2.0", "info": {"title": "Kubernetes", "version": version}, "paths": paths, "definitions": schemas}


def _paths(resource: Resource, index: dict[tuple[str, str], str]) -> Iterator[tuple[str, JSON, set[str]]]:
    """(path, method → operation description, definitions used) of a resource and its subresources."""
    gvk = {"group": resource.group, "version": resource.version, "kind": resource.kind}
    own = index[resource.api_version, resource.kind]
    listed = index.get((resource.api_version, resource.list_kind), own)
    scoped = resource.path("{namespace}") if resource.namespaced else resource.path()
    verbs = set(resource.verbs)

    def operation(action: str, schema: str, body: str = "", **extra: Any) -> JSON:
        return {"action": action, "gvk": gvk, "schema": schema, "body": body, "tag": resource.plural, **extra}

    collection = {}
    if "list" in verbs:
        collection["get"] = operation("list", listed)
    if "create" in verbs:
        collection["post"] = operation("post", own, own)
    if "deletecollection" in verbs:
        collection["delete"] = operation("deletecollection", index["v1", "Status"], index["v1", "DeleteOptions"])
    if collection:
        yield scoped, collection, {own, listed}
    if resource.namespaced and "list" in verbs:
        yield resource.path(), {"get": operation("list", listed)}, set()
    item = {}
    for verb, method in (("get", "get"), ("update", "put"), ("patch", "patch"), ("delete", "delete")):
        if verb in verbs:
            body = index["v1", "DeleteOptions"] if verb == "delete" else own if verb == "update" else ""
            item[method] = operation(method, own, body)
    if item:
        yield f"{scoped}/{{name}}", item, set()
    for sub in resource.subresources:
        yield from _subresource_path(resource, sub, f"{scoped}/{{name}}/{sub.name}", index)


def _subresource_path(resource: Resource, sub: Subresource, path: str, index: dict[tuple[str, str], str]) -> Iterator[tuple[str, JSON, set[str]]]:
    group, version = (sub.group, sub.version) if sub.version else (resource.group, resource.version)
    definition = index.get((f"{group}/{version}" if group else version, sub.kind), "")
    gvk = {"group": group, "version": version, "kind": sub.kind}
    methods = {"get": "get", "update": "put", "patch": "patch", "create": "post", "delete": "delete"}
    streams = not definition or sub.name == "log"
    operations = {
        methods[verb]: {
            "action": "connect" if streams else methods[verb], "gvk": gvk, "schema": "" if streams else definition,
            "body": definition if verb in ("create", "update") else "", "tag": f"{resource.plural}/{sub.name}",
        }
        for verb in sub.verbs
    }
    yield path, operations, {definition} if definition else set()


def _operation(method: str, path: str, spec: JSON, *, v3: bool) -> JSON:
    """One operation object; `spec` comes from _paths."""
    parameters = list(LIST_PARAMETERS) if spec["action"] in ("list", "deletecollection") else []
    if method in ("post", "put", "patch"):
        parameters += [*WRITE_PARAMETERS, *([FORCE] if method == "patch" else [])]
    rendered = [_parameter(*parameter, where="query", v3=v3) for parameter in [*parameters, PRETTY]]
    reference = f"#/components/schemas/{spec['schema']}" if v3 else f"#/definitions/{spec['schema']}"
    schema = {"$ref": reference} if spec["schema"] else {"type": "string"}
    result: JSON = {
        "tags": [spec["tag"]],
        "operationId": f"{spec['action']}{''.join(part.strip('{}').title().replace('.', '').replace('-', '') for part in path.split('/'))}",
        "parameters": rendered,
        "responses": {"200": {"description": "OK", "content": {"application/json": {"schema": schema}}} if v3 else {"description": "OK", "schema": schema}},
        "x-kubernetes-action": spec["action"],
        "x-kubernetes-group-version-kind": spec["gvk"],
    }
    if not v3:
        result["consumes"] = list(PATCH_TYPES) if method == "patch" else ["*/*"]
        result["produces"] = ["application/json"]
    body = {"$ref": ("#/components/schemas/" if v3 else "#/definitions/") + spec["body"]} if spec["body"] else {"type": "object"} if method == "patch" else None
    if body and v3:
        result["requestBody"] = {"content": {media: {"schema": body} for media in (PATCH_TYPES if method == "patch" else ("*/*",))}}
    elif body:
        rendered.append({"name": "body", "in": "body", "schema": body})
    return result


def _path_parameters(path: str, *, v3: bool) -> list[JSON]:
    names = (("name", "name of the object"), ("namespace", "object name and auth scope, such as for teams and projects"))
    return [_parameter(name, "string", text, where="path", v3=v3) for name, text in names if f"{{{name}}}" in path]


def _parameter(name: str, kind: str, description: str, *, where: str, v3: bool) -> JSON:
    parameter: JSON = {"name": name, "in": where, "description": description}
    parameter |= {"schema": {"type": kind, "uniqueItems": True}} if v3 else {"type": kind, "uniqueItems": True}
    return parameter | ({"required": True} if where == "path" else {})


def _schema(node: JSON, prefix: str, group: str | None, version: str | None, *, v3: bool) -> JSON:
    """A definition in OpenAPI's dialect: no null types, references with siblings under allOf (v3), kinds of this group-version only."""
    result: JSON = {}
    for key, value in node.items():
        if key == "$ref":
            target = prefix + value.removeprefix(REF)
            alone = not v3 or len(node) == 1
            result |= {"$ref": target} if alone else {"allOf": [{"$ref": target}]}
        elif key == "type":
            result["type"] = next((one for one in value if one != "null"), "string") if isinstance(value, list) else value
        elif key == "properties":
            result["properties"] = {name: _schema(child, prefix, group, version, v3=v3) for name, child in value.items()}
        elif key in ("items", "additionalProperties") and isinstance(value, dict):
            result[key] = _schema(value, prefix, group, version, v3=v3)
        elif key == "oneOf" and all(isinstance(one, dict) for one in value):
            options = [_schema(one, prefix, group, version, v3=v3) for one in value]
            result |= {"oneOf": options} if v3 else {"type": "string"}
            if any(option.get("type") == "integer" for option in options):
                result["format"] = "int-or-string"
        elif key == "x-kubernetes-group-version-kind":
            result[key] = value if group is None else [gvk for gvk in value if gvk["group"] in (group, "") and gvk["version"] == version] or value[:1]
        elif key != "enum" or node.get("type") != ["string", "null"] or len(value) > 1:
            result[key] = value
    return result
