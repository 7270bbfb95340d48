"""`minikctl apply` and `create`: documents to objects. apply is kubectl's: three-way merge over the annotation kubectl.kubernetes.io/last-applied-configuration, or one
apply PATCH with --server-side. One document's failure does not stop the others; the exit code tells."""

from __future__ import annotations

import argparse
import json
import sys

from apiserver.api import errors, kinds
from ctl import files, render
from ctl.session import CommandError, Obj, Session, describe_error, qualified

LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
MANAGER = "kubectl-client-side-apply"
CONFLICT_ATTEMPTS = 5


def configure(p: argparse.ArgumentParser) -> None:
    p.add_argument("-f", "--filename", action="append", default=[], required=False)
    p.add_argument("-R", "--recursive", action="store_true")
    p.add_argument("-o", "--output", choices=["yaml", "json", "name"], default="")
    p.add_argument("--dry-run", nargs="?", const="server", default="none", choices=["none", "server", "client"])
    p.add_argument("--validate", nargs="?", const="strict", default="strict", choices=["strict", "warn", "ignore", "true", "false"])
    p.add_argument("--server-side", action="store_true")
    p.add_argument("--force-conflicts", action="store_true")
    p.add_argument("--field-manager", default="")


def _query(args: argparse.Namespace, manager: str) -> dict[str, str]:
    validation = {"true": "Strict", "strict": "Strict", "warn": "Warn"}.get(args.validate, "Ignore")
    return {"fieldManager": args.field_manager or manager, "fieldValidation": validation} | ({"dryRun": "All"} if args.dry_run == "server" else {})


def last_applied(obj: Obj) -> str:
    """The annotation's value: the document without that annotation, as Go's encoder writes it (sorted, compact, one newline)."""
    meta = dict(obj.get("metadata") or {})
    annotations = {k: v for k, v in (meta.get("annotations") or {}).items() if k != LAST_APPLIED}
    clean = {**obj, "metadata": {**meta, "annotations": annotations}}
    return json.dumps(clean, sort_keys=True, separators=(",", ":"), ensure_ascii=False) + "\n"


def with_last_applied(obj: Obj) -> Obj:
    meta = dict(obj.get("metadata") or {})
    return {**obj, "metadata": {**meta, "annotations": {**(meta.get("annotations") or {}), LAST_APPLIED: last_applied(obj)}}}


def plan_patch(resource: kinds.Resource, modified: Obj, current: Obj) -> tuple[str, Obj]:
    """(patch type, patch) that takes the live object to `modified` (which carries the annotation); an empty patch changes nothing. Pure."""
    from apiserver.api import patches

    annotation = ((current.get("metadata") or {}).get("annotations") or {}).get(LAST_APPLIED)
    original = json.loads(annotation) if annotation else {}
    if kinds.for_kind(resource.api_version, resource.kind) is None:
        return "merge", patches.three_way_merge(original, modified, current)
    return "strategic", patches.three_way_strategic(resource, original, modified, current)


class Applier:
    def __init__(self, session: Session, args: argparse.Namespace, verb: str) -> None:
        self.session, self.args, self.client, self.verb = session, args, session.client, verb

    def one(self, d: files.Document) -> None:
        resource = self.session.resource_of(d.obj, d.source)
        namespace = self.session.namespace_of(resource, d.obj)
        meta = d.obj.get("metadata")
        if not isinstance(meta, dict) or not (meta.get("name") or (self.verb == "create" and meta.get("generateName"))):
            raise CommandError(f"error validating {d.source}: metadata.name: Required value: name is required")
        obj = {**d.obj, "metadata": {**meta, **({"namespace": namespace} if namespace else {})}}
        if self.verb == "create":
            result, word = self.create(resource, obj, namespace, "kubectl-create"), "created"
        elif self.args.server_side:
            result, word = self.server_side(resource, obj, namespace), "serverside-applied"
        else:
            result, word = self.client_side(resource, obj, namespace)
        self.report(resource, result, word)

    def create(self, resource: kinds.Resource, obj: Obj, namespace: str, manager: str) -> Obj:
        if self.args.dry_run == "client":
            return obj
        return self.client.create(resource, obj, namespace, query=_query(self.args, manager))

    def server_side(self, resource: kinds.Resource, obj: Obj, namespace: str) -> Obj:
        query = _query(self.args, "kubectl") | {"force": "true" if self.args.force_conflicts else "false"}
        return self.client.patch(resource, obj["metadata"]["name"], obj, namespace, type="apply", query=query)

    def client_side(self, resource: kinds.Resource, obj: Obj, namespace: str) -> tuple[Obj, str]:
        modified = with_last_applied(obj)
        name = obj["metadata"]["name"]
        for attempt in range(CONFLICT_ATTEMPTS):
            try:
                current = self.client.get(resource, name, namespace)
            except errors.NotFound:
                return self.create(resource, modified, namespace, MANAGER), "created"
            self.warn_unmanaged(resource, current, name)
            kind, patch = plan_patch(resource, modified, current)
            if not patch:
                return current, "unchanged"
            if self.args.dry_run == "client":
                return current, "configured"
            try:
                result = self.client.patch(resource, name, patch, namespace, type=kind, query=_query(self.args, MANAGER))
            except errors.Conflict:
                if attempt + 1 == CONFLICT_ATTEMPTS:
                    raise
                continue
            return result, "unchanged" if result["metadata"].get("resourceVersion") == current["metadata"].get("resourceVersion") else "configured"
        raise AssertionError("unreachable: the last attempt returns or raises")

    def warn_unmanaged(self, resource: kinds.Resource, current: Obj, name: str) -> None:
        if LAST_APPLIED not in ((current.get("metadata") or {}).get("annotations") or {}):
            print(
                f"Warning: resource {resource.plural}/{name} is missing the {LAST_APPLIED} annotation which is required by minikctl apply. It will be patched automatically.",
                file=sys.stderr,
            )

    def report(self, resource: kinds.Resource, result: Obj, word: str) -> None:
        if self.args.output == "name":
            print(qualified(resource, result["metadata"]["name"]))
        elif self.args.output:
            text = render.without_managed_fields(result)
            sys.stdout.write(render.to_json(text) if self.args.output == "json" else "---\n" + render.to_yaml(text))
        else:
            suffix = {"server": " (server dry run)", "client": " (dry run)"}.get(self.args.dry_run, "")
            print(f"{qualified(resource, result['metadata'].get('name') or result['metadata'].get('generateName', ''))} {word}{suffix}")


def _run(session: Session, args: argparse.Namespace, verb: str, doing: str) -> int:
    applier = Applier(session, args, verb)
    code = 0
    for d in files.load(args.filename, args.recursive):
        try:
            applier.one(d)
        except (CommandError, errors.ApiError) as e:
            if isinstance(e, errors.Unavailable):
                raise
            print(describe_error(e, "" if isinstance(e, CommandError) else f"error when {doing} {d.source}"), file=sys.stderr)
            code = 1
    return code


def run(session: Session, args: argparse.Namespace) -> int:
    return _run(session, args, "apply", "applying")


def run_create(session: Session, args: argparse.Namespace) -> int:
    return _run(session, args, "create", "creating")
