"""Objects and Tables to text: columns as kubectl aligns them, YAML and JSON with kubectl's order. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from ctl.session import Obj

GAP = "   "


class Columns:
    """Prints rows as they come: widths start from the first batch and only grow, so that a watch stays aligned."""

    def __init__(self) -> None:
        self.widths: list[int] = []

    def render(self, rows: Iterable[Sequence[str]]) -> str:
        rows = [list(r) for r in rows]
        for row in rows:
            self.widths += [0] * (len(row) - len(self.widths))
            self.widths = [max(w, len(c)) for w, c in zip(self.widths, row)] + self.widths[len(row) :]
        return "".join(GAP.join(c.ljust(w) for c, w in zip(row, self.widths)).rstrip() + "\n" for row in rows)


def cell(value: Any) -> str:
    """A Table cell: `<none>` for nothing, and never more than one line."""
    if value is None or value == "":
        return "<none>" if value is None else ""
    return str(value).replace("\n", " ") if not isinstance(value, bool) else str(value).lower()


def table_rows(table: Obj, *, wide: bool, headers: bool, namespace: bool, labels: bool = False, prefix: str = "") -> list[list[str]]:
    """The rows of a meta.k8s.io/v1 Table; `prefix` (like `pod/`) goes before names. Columns with a priority are the wide ones."""
    definitions = table.get("columnDefinitions") or []
    shown = [i for i, d in enumerate(definitions) if wide or not d.get("priority")]
    rows: list[list[str]] = []
    if headers and definitions:
        rows.append((["NAMESPACE"] if namespace else []) + [definitions[i]["name"].upper() for i in shown] + (["LABELS"] if labels else []))
    for row in table.get("rows") or []:
        meta = (row.get("object") or {}).get("metadata") or {}
        cells = [cell(row["cells"][i]) for i in shown]
        if prefix and cells:
            cells[0] = prefix + cells[0]
        pairs = ",".join(f"{k}={v}" for k, v in sorted((meta.get("labels") or {}).items())) or "<none>"
        rows.append(([meta.get("namespace", "")] if namespace else []) + cells + ([pairs] if labels else []))
    return rows


def without_managed_fields(obj: Obj) -> Obj:
    meta = obj.get("metadata")
    if isinstance(meta, dict) and "managedFields" in meta:
        return obj | {"metadata": {k: v for k, v in meta.items() if k != "managedFields"}}
    return obj


def to_json(obj: Any) -> str:
    return json.dumps(obj, indent=4, sort_keys=True, ensure_ascii=False) + "\n"


def to_yaml(obj: Any) -> str:
    """Keys sorted, text of several lines as a block, no line folding: as sigs.k8s.io/yaml prints."""
    import yaml

    base: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)

    class Dumper(base):
        def ignore_aliases(self, data: Any) -> bool:
            return True

    def text(dumper: Any, value: str) -> Any:
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)

    Dumper.add_representer(str, text)
    return yaml.dump(obj, Dumper=Dumper, default_flow_style=False, sort_keys=True, allow_unicode=True, width=1 << 30)
