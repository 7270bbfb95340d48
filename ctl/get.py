"""`minikctl get`: tables from the server, or whole objects as YAML, JSON or names; -w goes on with what changes."""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass

from apiserver.api import errors, kinds
from apiserver.client import requests
from ctl import files, render
from ctl.session import CommandError, Obj, Session, qualified

OUTPUTS = ("wide", "yaml", "json", "name")
LOST_PATIENCE_S = 60.0  # how long a watch waits for its server to come back
RETRY_PAUSE_S = 0.3


def configure(p: argparse.ArgumentParser) -> None:
    p.add_argument("what", nargs="*", metavar="TYPE [NAME …] | TYPE/NAME …")
    p.add_argument("-f", "--filename", action="append", default=[])
    p.add_argument("-R", "--recursive", action="store_true")
    p.add_argument("-o", "--output", default="", metavar="|".join(OUTPUTS))
    p.add_argument("-A", "--all-namespaces", action="store_true")
    p.add_argument("-l", "--selector", default="")
    p.add_argument("--field-selector", default="")
    p.add_argument("-w", "--watch", action="store_true")
    p.add_argument("--watch-only", action="store_true")
    p.add_argument("--no-headers", action="store_true")
    p.add_argument("--show-labels", action="store_true")
    p.add_argument("--show-managed-fields", action="store_true")
    p.add_argument("--ignore-not-found", action="store_true")
    p.add_argument("--chunk-size", type=int, default=500)


@dataclass(frozen=True, slots=True)
class Target:
    """A list (no name) or one object."""

    resource: kinds.Resource
    name: str = ""
    namespace: str = ""


def parse_targets(session: Session, words: list[str]) -> list[Target]:
    """`pods`, `pod a b`, `po,svc`, `pod/a svc/b`, `all`. Raises CommandError."""
    if not words:
        raise CommandError("You must specify the type of resource to get. Use \"minikctl api-resources\" for a complete list of supported resources.")
    if any("/" in w for w in words):
        pairs = [w.split("/", 1) for w in words]
        if any(len(p) != 2 or not all(p) for p in pairs):
            raise CommandError("there is no need to specify a resource type as a separate argument when passing arguments in resource/name form (e.g. 'minikctl get resource/<resource_name>' instead of 'minikctl get resource resource/<resource_name>')")
        found = [(session.resource(t), n) for t, n in pairs]
    else:
        types: list[kinds.Resource] = []
        for word in words[0].split(","):
            category = [r for r in kinds.RESOURCES if word in r.categories] if word == "all" else []
            types += category or [session.resource(word)]
        if len(types) > 1 and words[1:]:
            raise CommandError("you must specify only one resource type when names are given")
        found = [(types[0], n) for n in words[1:]] or [(t, "") for t in dict.fromkeys(types)]
    return [Target(r, n, session.namespace_of(r)) for r, n in found]


class Getter:
    """One `get`: `printed` counts rows over all targets, for the blank line between tables and the "No resources" line."""

    def __init__(self, session: Session, args: argparse.Namespace) -> None:
        self.session, self.args, self.client = session, args, session.client
        self.columns = render.Columns()
        self.definitions: list[Obj] = []  # a watch's Tables name their columns in the first one only
        self.printed = 0
        self.missing = False

    def targets(self) -> list[Target]:
        if not self.args.filename:
            return parse_targets(self.session, self.args.what)
        out = []
        for d in files.load(self.args.filename, self.args.recursive):
            r = self.session.resource_of(d.obj, d.source)
            out.append(Target(r, d.obj["metadata"]["name"], self.session.namespace_of(r, d.obj)))
        return out

    def fetch(self, t: Target, accept: str) -> Obj:
        """The object or (complete) list in the form asked for; following continue tokens."""
        if t.name:
            return self.client.get(t.resource, t.name, t.namespace, accept=accept)
        namespace = "" if self.args.all_namespaces else t.namespace
        whole: Obj = {}
        token = ""
        while True:
            page = self.client.list(
                t.resource, namespace, label_selector=self.args.selector, field_selector=self.args.field_selector, limit=self.args.chunk_size, continue_token=token, accept=accept
            )
            key = "rows" if page.get("kind") == "Table" else "items"
            if whole:
                whole[key] = (whole.get(key) or []) + (page.get(key) or [])
            else:
                whole = page
            token = (page.get("metadata") or {}).get("continue", "")
            if not token:
                return whole

    def fetch_or_note(self, t: Target, accept: str) -> Obj | None:
        try:
            return self.fetch(t, accept)
        except errors.NotFound as e:
            if not self.args.ignore_not_found:
                from ctl.session import describe_error

                print(describe_error(e), file=sys.stderr)
                self.missing = True
            return None

    # --- whole objects

    def objects(self, targets: list[Target]) -> None:
        found: list[tuple[kinds.Resource, Obj]] = []
        for t in targets:
            answer = self.fetch_or_note(t, requests.JSON)
            if answer is None:
                continue
            for item in [answer] if t.name else answer.get("items") or []:
                item.setdefault("apiVersion", t.resource.api_version)
                item.setdefault("kind", t.resource.kind)
                found.append((t.resource, item if self.args.show_managed_fields else render.without_managed_fields(item)))
        if self.args.output == "name":
            sys.stdout.write("".join(qualified(r, o["metadata"]["name"]) + "\n" for r, o in found))
            return
        single = len(targets) == 1 and bool(targets[0].name)
        if single and not found:
            return
        document: Obj = found[0][1] if single else {"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": ""}, "items": [o for _, o in found]}
        sys.stdout.write(render.to_json(document) if self.args.output == "json" else render.to_yaml(document))

    # --- tables

    def rows(self, t: Target, table: Obj, headers: bool, prefix: bool) -> list[list[str]]:
        a = self.args
        return render.table_rows(
            table, wide=a.output == "wide", headers=headers and not a.no_headers, namespace=a.all_namespaces and t.resource.namespaced, labels=a.show_labels,
            prefix=qualified(t.resource, "") if prefix else "",
        )  # fmt: skip

    def tables(self, targets: list[Target]) -> None:
        kinds_shown = list(dict.fromkeys(t.resource for t in targets))
        for resource in kinds_shown:
            columns = render.Columns()
            rows: list[list[str]] = []
            for t in (t for t in targets if t.resource == resource):
                table = self.fetch_or_note(t, requests.TABLE)
                if table and (table.get("rows") or t.name):
                    rows += self.rows(t, table, headers=not rows, prefix=len(kinds_shown) > 1)
            if rows:
                sys.stdout.write(("\n" if self.printed else "") + columns.render(rows))
                self.printed += len(rows)
        if not self.printed and not self.missing and not self.args.ignore_not_found and not any(t.name for t in targets):
            where = "" if self.args.all_namespaces or not any(t.resource.namespaced for t in targets) else f" in {self.session.namespace} namespace"
            print(f"No resources found{where}.", file=sys.stderr)

    # --- watch

    def watch(self, t: Target) -> None:
        """First what is there, then every change, until interrupted; goes on where it was when the server ends the watch, or comes back. Raises ServerUnreachable, Expired."""
        as_table = self.args.output in ("", "wide")
        accept = requests.TABLE if as_table else requests.JSON
        namespace = "" if self.args.all_namespaces else t.namespace
        field_selector = f"metadata.name={t.name}" if t.name else self.args.field_selector
        first = self.client.list(t.resource, namespace, label_selector=self.args.selector, field_selector=field_selector, accept=accept)
        if t.name and not (first.get("rows") or first.get("items")):
            self.client.get(t.resource, t.name, t.namespace)  # raises the NotFound that a plain get shows
        if not self.args.watch_only:
            self.emit(t, first, headers=True)
        revision = first["metadata"]["resourceVersion"]
        headers, lost_at = self.args.watch_only, 0.0
        while True:
            try:
                for _, obj in self.client.watch(
                    t.resource, namespace, label_selector=self.args.selector, field_selector=field_selector, resource_version=revision, accept=accept
                ):
                    self.emit(t, obj, headers=headers)
                    headers, lost_at, revision = False, 0.0, revision_of(obj) or revision
            except requests.ServerUnreachable:
                lost_at = lost_at or time.monotonic()
                if time.monotonic() - lost_at > LOST_PATIENCE_S:
                    raise
                time.sleep(RETRY_PAUSE_S)

    def emit(self, t: Target, obj: Obj, headers: bool) -> None:
        if obj.get("kind") == "Table":
            self.definitions = obj.get("columnDefinitions") or self.definitions
            obj["columnDefinitions"] = self.definitions
            text = self.columns.render(self.rows(t, obj, headers=headers, prefix=False))
        else:
            items = obj.get("items", [obj]) if str(obj.get("kind", "")).endswith("List") else [obj]
            parts = [render.without_managed_fields(i | {"apiVersion": t.resource.api_version, "kind": t.resource.kind}) for i in items]
            if self.args.output == "name":
                text = "".join(qualified(t.resource, p["metadata"]["name"]) + "\n" for p in parts)
            elif self.args.output == "json":
                text = "".join(map(render.to_json, parts))
            else:
                text = "".join("---\n" + render.to_yaml(p) for p in parts)
        sys.stdout.write(text)
        sys.stdout.flush()


def revision_of(obj: Obj) -> str:
    """The resourceVersion of a watched object, or of the last row of a Table."""
    rows = obj.get("rows")
    document = rows[-1].get("object") or {} if rows else obj
    return (document.get("metadata") or {}).get("resourceVersion", "")


def run(session: Session, args: argparse.Namespace) -> int:
    if args.output and args.output not in OUTPUTS:
        raise CommandError(f'unable to match a printer suitable for the output format "{args.output}", allowed formats are: {",".join(OUTPUTS)}')
    getter = Getter(session, args)
    targets = getter.targets()
    if args.watch or args.watch_only:
        if len(targets) != 1:
            raise CommandError("you may only specify a single resource type")
        getter.watch(targets[0])
    elif args.output in ("", "wide"):
        getter.tables(targets)
    else:
        getter.objects(targets)
    return 1 if getter.missing else 0
