"""Slices Kubernetes' definitions out of the kubernetes-validate wheel into `apiserver/api/data/`. Run at set-up only: `python -m apiserver.api.build_schema --wheel FILE`.

Writes `schema.json` (every served definition in a compact form, read by schema.py) and the ready OpenAPI documents (build_openapi). Refuses definitions that lack a
kind served here. Nothing of the running server imports this module.

Compact form: a definition is {"fields": {name: TYPE}, "required": [...]}; a TYPE is a scalar's name ("string", "int32", "time", "any" …), "#definition", or a list
["array" | "map" | "#definition", element TYPE or null, {"listType", "listKeys", "mergeKey", "strategy"}].
"""

from __future__ import annotations

import argparse
import json
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from apiserver.api import build_openapi, kinds

VERSION = "v1.36.0"
MEMBER = f"kubernetes_validate/kubernetes-json-schema/{VERSION}-local/_definitions.json"
DATA = Path(__file__).parent / "data"
REF = "#/$defs/"
JSON = dict[str, Any]

# Definitions that stand for one value of their own syntax, by the end of their names.
SPECIAL = {
    "api.resource.Quantity": "quantity", "util.intstr.IntOrString": "int-or-string", "meta.v1.Time": "time", "meta.v1.MicroTime": "micro-time",
    "meta.v1.FieldsV1": "object", "pkg.runtime.RawExtension": "object", "apiextensions.v1.JSON": "any", "apiextensions.v1.JSONSchemaPropsOrArray": "any",
    "apiextensions.v1.JSONSchemaPropsOrBool": "any", "apiextensions.v1.JSONSchemaPropsOrStringArray": "any",
}
EXTENSIONS = {
    "x-kubernetes-list-type": "listType", "x-kubernetes-list-map-keys": "listKeys", "x-kubernetes-patch-merge-key": "mergeKey",
    "x-kubernetes-patch-strategy": "strategy", "x-kubernetes-map-type": "mapType",
}
META_KINDS = ("Status", "DeleteOptions", "WatchEvent", "APIGroup", "APIGroupList", "APIResourceList", "APIVersions")


def read_definitions(wheel: Path) -> JSON:
    """All definitions by name. Raises SystemExit with one line when the wheel is not the one expected."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            return json.loads(archive.read(MEMBER))["$defs"]
    except (OSError, KeyError, zipfile.BadZipFile, json.JSONDecodeError) as err:
        raise SystemExit(f"cannot read {MEMBER} from {wheel}: {err}") from err


def index_kinds(definitions: JSON) -> dict[tuple[str, str], str]:
    """(apiVersion, kind) → definition name."""
    index = {}
    for name, definition in definitions.items():
        for gvk in definition.get("x-kubernetes-group-version-kind", ()):
            api_version = f"{gvk['group']}/{gvk['version']}" if gvk["group"] else gvk["version"]
            index[api_version, gvk["kind"]] = name
    return index


def wanted_kinds() -> Iterator[tuple[str, str]]:
    """Every (apiVersion, kind) that is served: resources, their lists, what their subresources speak."""
    for resource in kinds.RESOURCES:
        yield resource.api_version, resource.kind
        if "list" in resource.verbs:
            yield resource.api_version, resource.list_kind
        for sub in resource.subresources:
            group, version = (sub.group, sub.version) if sub.version else (resource.group, resource.version)
            if not sub.kind.endswith("Options"):
                yield (f"{group}/{version}" if group else version), sub.kind
    for kind in META_KINDS:
        yield "v1", kind


def references(node: Any) -> Iterator[str]:
    """Every definition that a schema node points to."""
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"].removeprefix(REF)
        for value in node.values():
            yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


def closure(definitions: JSON, roots: set[str]) -> list[str]:
    """The roots and all they refer to, sorted."""
    seen: set[str] = set()
    todo = list(roots)
    while todo:
        name = todo.pop()
        if name not in seen:
            seen.add(name)
            todo.extend(references(definitions[name]))
    return sorted(seen)


def compact_type(node: JSON) -> Any:
    """A property's schema as a TYPE (see the module's docstring)."""
    extras = {short: node[long] for long, short in EXTENSIONS.items() if long in node}
    if "$ref" in node:
        name = node["$ref"].removeprefix(REF)
        special = next((kind for end, kind in SPECIAL.items() if name.endswith(end)), None)
        if special:
            return special
        return ["#" + name, None, extras] if extras else "#" + name
    kind = _json_type(node)
    if kind == "array":
        return ["array", compact_type(node.get("items", {})), extras]
    if kind == "object":
        values = node.get("additionalProperties")
        return ["map", compact_type(values), extras] if isinstance(values, dict) else "object"
    if kind == "string":
        return "bytes" if node.get("format") == "byte" else "string"
    if kind == "integer":
        return node.get("format", "int64")
    return {"number": "double", "boolean": "bool"}.get(kind, "any")


def _json_type(node: JSON) -> str:
    declared = node.get("type", "")
    if isinstance(declared, list):
        declared = next((one for one in declared if one != "null"), "")
    return str(declared)


def compact_definition(definition: JSON) -> JSON:
    fields = {name: compact_type(node) for name, node in sorted(definition.get("properties", {}).items())}
    compact: JSON = {"fields": fields}
    if definition.get("required"):
        compact["required"] = definition["required"]
    return compact


def build(definitions: JSON, target: Path = DATA) -> list[Path]:
    """Writes every file; returns their paths. Raises SystemExit naming a served kind that the definitions lack."""
    index = index_kinds(definitions)
    wanted = sorted(set(wanted_kinds()))
    missing = [f"{kind} in {api_version}" for api_version, kind in wanted if (api_version, kind) not in index]
    if missing:
        raise SystemExit(f"the definitions lack: {', '.join(missing)}")
    names = closure(definitions, {index[gvk] for gvk in wanted})
    compact = {name: compact_definition(definitions[name]) for name in names if not any(name.endswith(end) for end in SPECIAL)}
    document = {
        "version": VERSION,
        "kinds": {f"{api_version} {kind}": index[api_version, kind] for api_version, kind in wanted},
        "definitions": compact,
    }
    target.mkdir(parents=True, exist_ok=True)
    schema = target / "schema.json"
    schema.write_text(json.dumps(document, separators=(",", ":")))
    sliced = {name: definitions[name] for name in names}
    return [schema, *build_openapi.write(sliced, index, target, VERSION, lambda roots: closure(definitions, roots))]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m apiserver.api.build_schema", description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--wheel", type=Path, required=True, help="the kubernetes-validate wheel")
    parser.add_argument("--output", type=Path, default=DATA, help="where to write (default: %(default)s)")
    args = parser.parse_args(argv)
    written = build(read_definitions(args.wheel), args.output)
    print(f"{len(written)} files, {sum(path.stat().st_size for path in written) // 1024} kB in {args.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
