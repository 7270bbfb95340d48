"""-f: files, directories (-R: and those below), `-` for standard input; YAML and JSON, many documents, Lists taken apart. Reads only."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from apiserver.api import manifests
from ctl.session import CommandError, Obj

ENDINGS = (".yaml", ".yml", ".json")


@dataclass(frozen=True, slots=True)
class Document:
    """One object and where it stands: `source` is `"f.yaml"`, or `"f.yaml" (line 12)` where the file holds several."""

    obj: Obj
    source: str


def _paths(path: str, recursive: bool) -> Iterator[str]:
    if path == "-" or os.path.isfile(path):
        yield path
    elif os.path.isdir(path):
        for folder, folders, names in os.walk(path):
            folders[:] = sorted(folders) if recursive else []
            yield from (os.path.join(folder, n) for n in sorted(names) if n.endswith(ENDINGS))
    else:
        raise CommandError(f'the path "{path}" does not exist' if not os.path.exists(path) else f'the path "{path}" is neither a file nor a directory')


def _read(path: str) -> str:
    try:
        if path == "-":
            return sys.stdin.read()
        with open(path, encoding="utf-8") as f:
            return f.read()
    except OSError as e:
        raise CommandError(f"cannot read {path}: {e.strerror}") from None
    except UnicodeDecodeError as e:
        raise CommandError(f"error parsing {path}: not UTF-8 at byte {e.start}") from None


def load(paths: list[str], recursive: bool = False) -> list[Document]:
    """Every object of every path in order. Raises CommandError (no such path, nothing in it) and manifests' own error with file and line."""
    if not paths:
        raise CommandError("must specify one of -f and -k")
    found: list[Document] = []
    for path in paths:
        for file in _paths(path, recursive):
            name = "STDIN" if file == "-" else file
            documents = [d for d in manifests.load(_read(file), name) if d.obj]
            for d in documents:
                source = f'"{name}"' + (f" (line {d.line})" if len(documents) > 1 else "")
                found.extend(Document(o, source) for o in _flatten(d.obj, source))
    if not found:
        raise CommandError("no objects passed to apply" if paths == ["-"] else f"no objects found in {', '.join(paths)}")
    return found


def _flatten(obj: Obj, source: str) -> Iterator[Obj]:
    if not isinstance(obj, dict):
        raise CommandError(f"error parsing {source}: expected an object with apiVersion and kind, found {type(obj).__name__}")
    if isinstance(obj.get("items"), list) and str(obj.get("kind", "")).endswith("List"):
        for item in obj["items"]:
            yield from _flatten(item, source)
    else:
        yield obj
