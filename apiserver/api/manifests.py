"""YAML and JSON files to documents, read as kubectl reads them (sigs.k8s.io/yaml, checked against kubectl itself), errors with file and line. Pure: text in, values out.

Departs from PyYAML: only JSON's types come out, keys are strings, times and 12:30:45 stay text, 0o777 and 0777 are octal, big numbers lose precision rather than become
text. As kubectl: yes/on/y and no/off/n are booleans, merge keys (<<) work, unknown tags are ignored, an anchor that contains itself is refused. Stricter than kubectl: a
key given twice in one mapping is refused. Both command lines and the tests call it.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

MAX_NODES = 1_000_000  # aliases may be repeated, but not until memory is gone


class ManifestError(ValueError):
    """A file that cannot be read as objects; the text names file and line: `error parsing pod.yaml: error converting YAML to JSON: yaml: line 3: …`."""


@dataclass(frozen=True, slots=True)
class Document:
    """One document of a file. `obj` is a mapping; `line` is where it begins, from 1."""

    obj: dict[str, Any]
    filename: str
    line: int


def load(text: str, filename: str) -> list[Document]:
    """Every document that is not empty. Raises ManifestError."""
    stripped = text.lstrip("\ufeff \t\r\n")
    if stripped.startswith("{"):
        documents = _load_json(text, filename)
        if documents is not None:
            return documents
    try:
        return [Document(_mapping(obj, filename, line), filename, line) for obj, line in _load_yaml(text) if obj is not None]
    except yaml.MarkedYAMLError as err:
        mark = err.problem_mark or err.context_mark
        where = f"line {mark.line + 1}: " if mark else ""
        raise ManifestError(f"error parsing {filename}: error converting YAML to JSON: yaml: {where}{err.problem or err.context or 'not YAML'}") from err
    except yaml.reader.ReaderError as err:
        line = text.count("\n", 0, err.position) + 1
        raise ManifestError(f"error parsing {filename}: error converting YAML to JSON: yaml: line {line}: control characters are not allowed") from err
    except RecursionError as err:
        raise ManifestError(f"error parsing {filename}: error converting YAML to JSON: yaml: exceeded max depth") from err


def _load_json(text: str, filename: str) -> list[Document] | None:
    """JSON documents one after another; None where it is no JSON (flow YAML also begins with a brace)."""
    decoder = json.JSONDecoder(object_pairs_hook=_pairs)
    documents: list[Document] = []
    position, line = 0, 1
    try:
        while True:
            position = next((i for i in range(position, len(text)) if text[i] not in "\ufeff \t\r\n"), len(text))
            if position == len(text):
                return documents
            line = text.count("\n", 0, position) + 1
            obj, position = decoder.raw_decode(text, position)
            documents.append(Document(_mapping(obj, filename, line), filename, line))
    except _Duplicate as err:
        raise ManifestError(f'error parsing {filename}: line {line}: key "{err}" already set in map') from err
    except (json.JSONDecodeError, RecursionError):
        return None


class _Duplicate(Exception):
    """The key that one JSON object has twice."""


def _pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
    obj: dict[str, Any] = {}
    for key, value in items:
        if key in obj:
            raise _Duplicate(key)
        obj[key] = value
    return obj


def _mapping(obj: Any, filename: str, line: int) -> dict[str, Any]:
    if not isinstance(obj, dict):
        kind = {str: "a string", list: "a list", bool: "a boolean"}.get(type(obj), "a number")
        raise ManifestError(f"error parsing {filename}: line {line}: expected an object with apiVersion and kind, found {kind}")
    return obj


def _load_yaml(text: str) -> Iterator[tuple[Any, int]]:
    loader = _Loader(text)
    try:
        while loader.check_node():
            node = loader.get_node()
            yield _Constructor().construct(node), node.start_mark.line + 1
    finally:
        loader.dispose()


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """The parser and composer of PyYAML with go-yaml's implicit types."""

    yaml_implicit_resolvers: dict[str, Any] = {}


_NULL, _BOOL, _INT, _FLOAT, _STR, _MERGE, _BINARY = (f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float", "str", "merge", "binary"))
_TRUE = frozenset(("y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON"))
_FALSE = frozenset(("n", "N", "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF"))
_INT_PATTERN = re.compile(r"[-+]?(?:0[xX][0-9a-fA-F_]+|0[bB][01_]+|0[oO]?[0-7_]*|[1-9][0-9_]*)")
_FLOAT_PATTERN = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")

# PyYAML asks each resolver whose list has the scalar's first character, in this order, by match(): hence the anchors.
for _tag, _pattern, _first in (
    (_NULL, r"~|null|Null|NULL|", [*"~nN", ""]),
    (_BOOL, "|".join(sorted(_TRUE | _FALSE, key=len, reverse=True)), list("yYtToOnNfF")),
    (_INT, _INT_PATTERN.pattern, list("-+0123456789")),
    (_FLOAT, _FLOAT_PATTERN.pattern, list("-+.0123456789")),
    (_MERGE, r"<<", ["<"]),
):
    _Loader.add_implicit_resolver(_tag, re.compile(rf"(?:{_pattern})\Z"), _first)


class _Constructor:
    """Nodes to JSON values. One per document: it counts nodes and knows which collections are under construction."""

    def __init__(self) -> None:
        self.open: set[int] = set()
        self.count = 0

    def construct(self, node: yaml.Node) -> Any:
        self.count += 1
        if self.count > MAX_NODES:
            raise _error(node, "document contains excessive aliasing")
        if isinstance(node, yaml.ScalarNode):
            return self.scalar(node)
        if id(node) in self.open:
            raise _error(node, "anchor value contains itself")
        self.open.add(id(node))
        try:
            if isinstance(node, yaml.SequenceNode):
                return [self.construct(item) for item in node.value]
            assert isinstance(node, yaml.MappingNode)  # scalar, sequence, mapping: there is no fourth
            return self.mapping(node)
        finally:
            self.open.discard(id(node))

    def mapping(self, node: yaml.MappingNode) -> dict[str, Any]:
        result: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if key_node.tag == _MERGE:
                merged = {**self.merge(value_node), **merged}
                continue
            key = self.key(key_node)
            if key in result:
                raise _error(key_node, f'key "{key}" already set in map')
            result[key] = self.construct(value_node)
        return {**merged, **result} if merged else result

    def merge(self, node: yaml.Node) -> dict[str, Any]:
        """The mapping, or the mappings of the list, that `<<` names; earlier ones win."""
        value = self.construct(node)
        parts = value if isinstance(value, list) else [value]
        if not all(isinstance(part, dict) for part in parts):
            raise _error(node, "map merge requires map or sequence of maps as the value")
        merged: dict[str, Any] = {}
        for part in parts:
            merged = {**part, **merged}
        return merged

    def key(self, node: yaml.Node) -> str:
        value = self.construct(node)
        if isinstance(value, bool):
            return "true" if value else "false"
        if isinstance(value, str):
            return value
        if isinstance(value, int | float):
            return f"{value:g}" if isinstance(value, float) else str(value)
        raise _error(node, f"unsupported map key of type {'null' if value is None else 'map' if isinstance(value, dict) else 'sequence'}")

    def scalar(self, node: yaml.ScalarNode) -> Any:
        text: str = node.value
        if node.tag == _STR:
            return text
        if node.tag == _NULL:
            return None
        if node.tag == _BOOL:
            if text not in _TRUE and text not in _FALSE:
                raise _error(node, f"cannot decode !!str `{text}` as a !!bool")
            return text in _TRUE
        if node.tag == _BINARY:
            return _binary(node)
        if node.tag in (_INT, _FLOAT):
            return _number(node)
        return text


def _number(node: yaml.ScalarNode) -> Any:
    """Go's reading: strconv.ParseInt with base prefixes, else a float64; integral floats are written without a fraction, so they are ints here."""
    text = node.value.replace("_", "")
    if _INT_PATTERN.fullmatch(text) and text.strip("+-") not in ("", "0x", "0b", "0o"):
        number = _integer(text)
        if -(2**63) <= number < 2**64:
            return number
        text = str(number)
    try:
        value = float(text)
    except ValueError:
        value = math.inf if "inf" in text.lower() else math.nan
        if not _FLOAT_PATTERN.fullmatch(text):
            raise _error(node, f"cannot decode !!str `{node.value}` as a number") from None
    if math.isinf(value) and "inf" not in text.lower():
        return node.value  # too big for a float64: text, as in Go
    if math.isinf(value) or math.isnan(value):
        raise _error(node, f"unsupported value: {'NaN' if math.isnan(value) else '+Inf' if value > 0 else '-Inf'}")
    return int(value) if value == int(value) and abs(value) < 1e21 else value


def _integer(text: str) -> int:
    sign = -1 if text.startswith("-") else 1
    digits = text.lstrip("+-").lower()
    for prefix, base in (("0x", 16), ("0b", 2), ("0o", 8)):
        if digits.startswith(prefix):
            return sign * int(digits[2:], base)
    return sign * (int(digits, 8) if digits.startswith("0") and len(digits) > 1 else int(digits))


def _binary(node: yaml.ScalarNode) -> str:
    try:
        return base64.b64decode("".join(node.value.split()), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError) as err:
        raise _error(node, "!!binary value contains invalid base64 data") from err


def _error(node: yaml.Node, problem: str) -> yaml.MarkedYAMLError:
    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
