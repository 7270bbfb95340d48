"""The base of the typed views, how to decode them, and what every kind shares: metadata, references, selectors.

Part of types.py, which is what everyone imports.
"""

from __future__ import annotations

from functools import cache
from typing import Any, TypeVar

import msgspec
import orjson

_ACRONYMS = {"ip": "IP", "ips": "IPs", "id": "ID", "cidr": "CIDR", "cidrs": "CIDRs", "pid": "PID", "ipc": "IPC", "fqdn": "FQDN", "uuid": "UUID"}


def _json_name(field: str) -> str:
    first, *rest = field.split("_")
    return first + "".join(_ACRONYMS.get(word) or word.capitalize() for word in rest)


class View(msgspec.Struct, kw_only=True, omit_defaults=True, gc=False, rename=_json_name):
    """Base: `pod_ip` ↔ `podIP`. Without gc tracking, because documents have no cycles."""


ViewT = TypeVar("ViewT", bound=View)
Quantity = str | int | float
Quantities = dict[str, Quantity]
IntOrString = int | str


@cache
def _decoder(view: type[ViewT]) -> msgspec.json.Decoder[ViewT]:
    return msgspec.json.Decoder(view)


def decode(view: type[ViewT], data: bytes) -> ViewT:
    """A document's bytes as a view; explicit nulls count as absent. Raises msgspec.ValidationError (with the path) or msgspec.DecodeError."""
    try:
        return _decoder(view).decode(data)
    except msgspec.ValidationError:
        return msgspec.convert(_without_nulls(orjson.loads(data)), view)


def from_dict(view: type[ViewT], obj: dict[str, Any]) -> ViewT:
    """A document as a view; explicit nulls count as absent. Raises msgspec.ValidationError with the path."""
    try:
        return msgspec.convert(obj, view)
    except msgspec.ValidationError:
        return msgspec.convert(_without_nulls(obj), view)


def to_dict(view: View) -> dict[str, Any]:
    """The JSON form of a view, without empty fields: for values that a component made itself (a status, an Event)."""
    return msgspec.to_builtins(view)


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value if item is not None] if isinstance(value, list) else value




class OwnerReference(View):
    api_version: str = ""
    kind: str = ""
    name: str = ""
    uid: str = ""
    controller: bool = False
    block_owner_deletion: bool = False


class ObjectMeta(View):
    name: str = ""
    generate_name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    creation_timestamp: str = ""
    deletion_timestamp: str = ""
    deletion_grace_period_seconds: int | None = None
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    owner_references: list[OwnerReference] = []
    finalizers: list[str] = []

    @property
    def key(self) -> str:
        """`namespace/name`, or the name of a cluster-scoped object."""
        return f"{self.namespace}/{self.name}" if self.namespace else self.name

    def controller_of(self) -> OwnerReference | None:
        return next((reference for reference in self.owner_references if reference.controller), None)


class LabelSelectorRequirement(View):
    key: str = ""
    operator: str = ""
    values: list[str] = []


class LabelSelector(View):
    match_labels: dict[str, str] = {}
    match_expressions: list[LabelSelectorRequirement] = []


class LocalObjectReference(View):
    name: str = ""


class ObjectReference(View):
    kind: str = ""
    namespace: str = ""
    name: str = ""
    uid: str = ""
    api_version: str = ""
    resource_version: str = ""
    field_path: str = ""


class Object(View):
    """Any kind, when only its identity matters."""

    api_version: str = ""
    kind: str = ""
    metadata: ObjectMeta = msgspec.field(default_factory=ObjectMeta)
