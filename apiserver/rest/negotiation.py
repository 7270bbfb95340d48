"""Which form an answer takes: Accept headers parsed to a Format (JSON or YAML; whole objects, Tables or PartialObjectMetadata). Pure; every distinct header is parsed once.
Protobuf is never an answer: a client that takes nothing else gets 406. Called by respond and the discovery documents.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from apiserver.api import errors

JSON, YAML = "application/json", "application/yaml"
TABLE, PARTIAL = "Table", "PartialObjectMetadata"
_ANY = {"*/*", "application/*", JSON}
_CACHED_HEADERS = 512


@dataclass(frozen=True, slots=True)
class Format:
    """`media` is JSON or YAML; `shape` "" (the object itself), TABLE or PARTIAL; `version` the meta.k8s.io version of the shape."""

    media: str = JSON
    shape: str = ""
    version: str = "v1"

    @property
    def plain(self) -> bool:
        return self is PLAIN


PLAIN = Format()
_known: dict[bytes, Format] = {b"": PLAIN, b"*/*": PLAIN, b"application/json": PLAIN}


@dataclass(frozen=True, slots=True)
class Clause:
    """One media range of an Accept header: `application/json;as=Table;v=v1;g=meta.k8s.io;q=0.8`."""

    media: str
    parameters: dict[str, str]
    quality: float


def parse_accept(header: str) -> list[Clause]:
    """Clauses, the most wanted first, else in the order given. A malformed q counts as 1; q=0 (not wanted) is left out."""
    clauses = []
    for text in header.split(","):
        media, *rest = (part.strip() for part in text.split(";"))
        parameters = {key.strip().lower(): value.strip().strip('"') for key, _, value in (part.partition("=") for part in rest)}
        try:
            quality = float(parameters.pop("q", "1"))
        except ValueError:
            quality = 1.0
        if media and quality > 0:
            clauses.append(Clause(media.lower(), parameters, quality))
    return sorted(clauses, key=lambda clause: -clause.quality)


def negotiate(header: bytes, *, listing: bool = False) -> Format:
    """The Format of an Accept header ("" = JSON). `listing`: the answer is a list, for which as=PartialObjectMetadataList stands too. Raises NotAcceptable."""
    key = header + b"\0list" if listing else header
    found = _known.get(key)
    if found is None:
        found = _choose(header.decode("latin-1"), listing)
        if len(_known) < _CACHED_HEADERS:
            _known[key] = found
    return found


def _choose(header: str, listing: bool) -> Format:
    clauses = parse_accept(header)
    if not clauses:
        return PLAIN
    for clause in clauses:
        for form in _forms(clause, listing):
            return form
    raise errors.NotAcceptable((JSON, YAML))


def _forms(clause: Clause, listing: bool) -> Iterator[Format]:
    if clause.media in _ANY:
        media = JSON
    elif clause.media in (YAML, "application/x-yaml", "text/yaml"):
        media = YAML
    else:
        return
    shape = clause.parameters.get("as", "")
    if not shape:
        yield PLAIN if media == JSON else Format(media)
        return
    version = clause.parameters.get("v", "")
    if clause.parameters.get("g") != "meta.k8s.io" or version not in ("v1", "v1beta1"):
        return
    if shape == TABLE:
        yield Format(media, TABLE, version)
    elif shape == (f"{PARTIAL}List" if listing else PARTIAL):
        yield Format(media, PARTIAL, version)
