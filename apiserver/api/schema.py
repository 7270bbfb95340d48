"""Kubernetes' definitions at run time: strict field checks, merge keys, list types, the ready OpenAPI documents. Called by the registry, patches and REST.

Reads `data/` (made by build_schema) at the first use and never again; per definition everything is compiled lazily. Knows shapes only: meaning is validation's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import orjson

from apiserver.api import checks
from apiserver.api.errors import BadRequest, InternalError, NotFound
from apiserver.api.kinds import Resource

JSON = dict[str, Any]
_DATA = Path(__file__).parent / "data"


@dataclass(frozen=True, slots=True)
class Type:
    """The type of a field. kind: string, bool, int32, int64, double, bytes, time, micro-time, quantity, int-or-string, object, any, array, map or struct."""

    kind: str
    definition: str = ""  # of a struct
    element: Type | None = None  # of an array or a map
    list_type: str = ""  # atomic, set, map (server-side apply)
    list_keys: tuple[str, ...] = ()
    merge_key: str = ""  # of a strategic merge
    strategies: tuple[str, ...] = ()  # merge, replace, retainKeys


@dataclass(frozen=True)
class Definition:
    """One struct: io.k8s.api.core.v1.Container and its fields by JSON name."""

    name: str
    fields: dict[str, Type] = field(default_factory=dict)
    required: tuple[str, ...] = ()

    @property
    def short_name(self) -> str:
        """`Container`: the Go struct's name."""
        return self.name.rpartition(".")[2]


@cache
def load() -> JSON:
    """schema.json as it is. Raises InternalError saying what to run when it is missing; call it once at start-up to fail early."""
    try:
        return orjson.loads((_DATA / "schema.json").read_bytes())
    except OSError as err:
        raise InternalError(f"cannot read {err.filename}: {err.strerror}; run python -m apiserver.api.build_schema --wheel FILE (make setup does)") from err


def definition(gvk: tuple[str, str, str]) -> Definition | None:
    """The definition of a (group, version, kind), None where the schema has none (a custom resource)."""
    group, version, kind = gvk
    name = load()["kinds"].get(f"{group}/{version} {kind}" if group else f"{version} {kind}")
    return by_name(name) if name else None


def for_resource(resource: Resource) -> Definition | None:
    return definition((resource.group, resource.version, resource.kind))


@cache
def by_name(name: str) -> Definition:
    """A definition by its full name; KeyError where there is none."""
    raw = load()["definitions"][name]
    return Definition(name, {key: _type(value) for key, value in raw["fields"].items()}, tuple(raw.get("required", ())))


def _type(raw: Any) -> Type:
    if isinstance(raw, str):
        return Type("struct", raw[1:]) if raw.startswith("#") else Type(raw)
    head, element, extras = raw
    strategies = tuple(extras.get("strategy", "").split(",")) if extras.get("strategy") else ()
    kind, name = ("struct", head[1:]) if head.startswith("#") else (head, "")
    keys = tuple(extras.get("listKeys", ()))
    return Type(kind, name, _type(element) if element else None, extras.get("listType", ""), keys, extras.get("mergeKey", ""), strategies)


# ---- strict decoding


def check_fields(resource: Resource, obj: JSON) -> list[str]:
    """Unknown fields of a document, as Kubernetes words them: ['unknown field "spec.foo"'] (empty: none; join with `strict_error`).

    A value of the wrong type raises BadRequest at once, whatever fieldValidation asks: `Pod in version "v1" cannot be handled as a Pod: json: cannot unmarshal …`.
    """
    return check_fields_of((resource.group, resource.version, resource.kind), obj)


def check_fields_of(gvk: tuple[str, str, str], obj: JSON) -> list[str]:
    """check_fields for kinds that are no resources: ("policy", "v1", "Eviction"), ("autoscaling", "v1", "Scale"), ("", "v1", "DeleteOptions")."""
    _, version, kind = gvk
    if not isinstance(obj, dict):
        raise BadRequest(f"the object provided is unrecognized (must be of type {kind}): got a JSON {checks.json_kind(obj)}")
    found = definition(gvk)
    refusal = f'{kind} in version "{version}" cannot be handled as a {kind}'
    try:
        if found is None or _checker(found.name)(obj):
            return []
        return [f'unknown field "{path}"' for path in _walk(found, obj, "")]
    except checks.WrongType as err:
        raise BadRequest(f"{refusal}: {err}") from err
    except RecursionError as err:
        raise BadRequest(f"{refusal}: exceeded max depth") from err


def check_types(resource: Resource, obj: JSON) -> None:
    """Raises BadRequest for a value of the wrong type; unknown fields pass (fieldValidation=Ignore)."""
    check_fields(resource, obj)


def strict_error(resource: Resource, problems: list[str]) -> BadRequest:
    """What fieldValidation=Strict answers: `Pod in version "v1" cannot be handled as a Pod: strict decoding error: unknown field "spec.foo"`."""
    return BadRequest(f'{resource.kind} in version "{resource.version}" cannot be handled as a {resource.kind}: strict decoding error: {", ".join(problems)}')


@cache
def _checker(name: str) -> Callable[[Any], bool]:
    """Whether a value is a faultless instance of a definition: the hot path, without a path to keep. Compiled once, its parts when first met."""
    fields = by_name(name).fields
    compiled: dict[str, Callable[[Any], bool]] = {}

    def check(value: Any) -> bool:
        if value.__class__ is not dict:
            return value is None
        for key, item in value.items():
            checker = compiled.get(key)
            if checker is None:
                if key not in fields:
                    return False
                checker = compiled[key] = _type_checker(fields[key])
            if not checker(item):
                return False
        return True

    return check


def _type_checker(kind: Type) -> Callable[[Any], bool]:
    if kind.kind == "struct":
        return _checker(kind.definition)
    if kind.kind == "array":
        return checks.array_of(_type_checker(kind.element or Type("any")))
    if kind.kind == "map":
        return checks.map_of(_type_checker(kind.element or Type("any")))
    return checks.SCALARS[kind.kind]


def _walk(struct: Definition, value: Any, path: str) -> Iterator[str]:
    """The paths of unknown fields, in document order; raises WrongType. The slow path, taken only once _checker has said no."""
    if value is None:
        return
    for key, item in value.items():
        where = f"{path}.{key}" if path else key
        kind = struct.fields.get(key)
        if kind is None:
            yield where
        else:
            yield from _walk_type(kind, item, where, struct.short_name)


def _walk_type(kind: Type, value: Any, path: str, struct: str) -> Iterator[str]:
    if value is None:
        return
    if kind.kind == "struct":
        target = by_name(kind.definition)
        if not isinstance(value, dict):
            raise checks.WrongType(value, struct, path, _go_type(kind))
        yield from _walk(target, value, path)
    elif kind.kind == "array":
        if not isinstance(value, list):
            raise checks.WrongType(value, struct, path, _go_type(kind))
        for position, item in enumerate(value):
            yield from _walk_type(kind.element or Type("any"), item, f"{path}[{position}]", struct)
    elif kind.kind == "map":
        if not isinstance(value, dict):
            raise checks.WrongType(value, struct, path, _go_type(kind))
        for key, item in value.items():
            yield from _walk_type(kind.element or Type("any"), item, f"{path}.{key}", struct)
    else:
        checks.require(kind.kind, value, struct, path)


def _go_type(kind: Type) -> str:
    """How Go's decoder would name the type: []v1.Container, map[string]string, v1.PodSpec."""
    if kind.kind == "struct":
        *_, version, name = kind.definition.split(".")
        return f"{version}.{name}"
    if kind.kind == "array":
        return f"[]{_go_type(kind.element or Type('any'))}"
    if kind.kind == "map":
        return f"map[string]{_go_type(kind.element or Type('any'))}"
    return checks.GO_TYPES.get(kind.kind, kind.kind)


def duplicate_fields(body: bytes) -> list[str]:
    """Keys given twice in one JSON object: ['duplicate field "spec.foo"']. Costs a second parse, so REST asks only where fieldValidation is Strict or Warn."""
    return [f'duplicate field "{path}"' for path in checks.duplicate_paths(body)]


# ---- OpenAPI


def openapi_v3(group_version: str) -> bytes:
    """The document of `api/v1`, `v1`, `apis/apps/v1` or `apps/v1`. Raises NotFound."""
    path = re.sub(r"^apis?/", "", group_version.strip("/"))
    group, _, version = path.rpartition("/")
    if not re.fullmatch(r"[a-z0-9.-]*/?v[a-z0-9]+", path):
        raise NotFound()
    return _file(f"openapi-v3-{group}-{version}.json" if group else f"openapi-v3-{version}.json")


@cache
def openapi_v3_index() -> JSON:
    """{"paths": {"api/v1": {"serverRelativeURL": "/openapi/v3/api/v1?hash=…"}}}"""
    return orjson.loads(_file("openapi-v3.json"))


def openapi_v2() -> bytes:
    """The Swagger document of everything served, JSON."""
    return _file("openapi-v2.json")


def _file(name: str) -> bytes:
    try:
        return (_DATA / name).read_bytes()
    except FileNotFoundError as err:
        raise NotFound() from err
