"""`minikctl delete`: by name, label, file or all of a kind; waits until the objects are gone unless told otherwise."""

from __future__ import annotations

import argparse
import sys
import time

from apiserver.api import errors, kinds
from ctl import files, get
from ctl.session import CommandError, Obj, Session, describe_error

CASCADE = {"background": "Background", "foreground": "Foreground", "orphan": "Orphan", "true": "Background", "false": "Orphan"}


def configure(p: argparse.ArgumentParser) -> None:
    p.add_argument("what", nargs="*", metavar="TYPE NAME … | TYPE/NAME …")
    p.add_argument("-f", "--filename", action="append", default=[])
    p.add_argument("-R", "--recursive", action="store_true")
    p.add_argument("-l", "--selector", default="")
    p.add_argument("--field-selector", default="")
    p.add_argument("--all", action="store_true")
    p.add_argument("-A", "--all-namespaces", action="store_true")
    p.add_argument("--grace-period", type=int, default=-1)
    p.add_argument("--force", action="store_true")
    p.add_argument("--now", action="store_true")
    p.add_argument("--wait", nargs="?", const="true", default="true", choices=["true", "false"])
    p.add_argument("--timeout", default="0s")
    p.add_argument("--cascade", nargs="?", const="background", default="background", choices=sorted(CASCADE))
    p.add_argument("--ignore-not-found", action="store_true")
    p.add_argument("--dry-run", nargs="?", const="server", default="none", choices=["none", "server", "client"])
    p.add_argument("-o", "--output", choices=["name"], default="")


def seconds(text: str, flag: str) -> float:
    """A Go duration ("1m30s", "500ms") or plain seconds. Raises CommandError."""
    import re

    if re.fullmatch(r"\d+(\.\d+)?", text):
        return float(text)
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|s|m|h)", text)
    if not parts or "".join(n + u for n, u in parts) != text:
        raise CommandError(f'invalid argument "{text}" for "{flag}" flag: time: invalid duration "{text}"')
    return sum(float(n) * {"ms": 0.001, "s": 1, "m": 60, "h": 3600}[u] for n, u in parts)


def options(args: argparse.Namespace) -> Obj:
    """DeleteOptions. Raises CommandError on flags that contradict one another."""
    grace = args.grace_period
    if args.now:
        if grace != -1:
            raise CommandError("--now and --grace-period cannot be specified together")
        grace = 1
    if grace == 0 and not args.force:
        grace = 1  # as kubectl: only --force skips confirmation by the node
    if args.force and grace < 0:
        grace = 0
    out: Obj = {"propagationPolicy": CASCADE[args.cascade]}
    if grace >= 0:
        out["gracePeriodSeconds"] = grace
    if args.dry_run == "server":
        out["dryRun"] = ["All"]
    return out


def plan_targets(session: Session, args: argparse.Namespace) -> list[get.Target]:
    """Every object to delete, lists resolved. Raises CommandError."""
    if args.filename:
        return [
            get.Target(r := session.resource_of(d.obj, d.source), (d.obj.get("metadata") or {}).get("name", ""), session.namespace_of(r, d.obj))
            for d in files.load(args.filename, args.recursive)
        ]
    targets = get.parse_targets(session, args.what)
    if all(t.name for t in targets):
        if args.all or args.selector:
            raise CommandError("name cannot be provided when a selector or --all is specified")
        return targets
    if not (args.all or args.selector or args.field_selector):
        raise CommandError("resource(s) were provided, but no name was specified")
    found = []
    for t in targets:
        items = session.client.list(t.resource, "" if args.all_namespaces else t.namespace, label_selector=args.selector, field_selector=args.field_selector)["items"]
        found += [get.Target(t.resource, i["metadata"]["name"], i["metadata"].get("namespace", "")) for i in items]
    return found


def word(resource: kinds.Resource) -> str:
    return f"{resource.singular}.{resource.group}" if resource.group else resource.singular or resource.kind.lower()


def wait_gone(session: Session, t: get.Target, uid: str, deadline: float | None) -> None:
    """Until the object of this uid does not exist. Raises CommandError at the deadline (monotonic seconds)."""
    while True:
        listed = session.client.list(t.resource, t.namespace, field_selector=f"metadata.name={t.name}")
        if not any(i["metadata"]["uid"] == uid for i in listed["items"]):
            return
        left = 60 if deadline is None else max(1, int(deadline - time.monotonic()))
        if deadline is not None and time.monotonic() > deadline:
            raise CommandError(f"timed out waiting for the condition on {t.resource.plural}/{t.name}")
        events = session.client.watch(
            t.resource, t.namespace, field_selector=f"metadata.name={t.name}", resource_version=listed["metadata"]["resourceVersion"], timeout_s=left
        )
        if any(kind == "DELETED" and obj["metadata"]["uid"] == uid for kind, obj in events):
            return


def run(session: Session, args: argparse.Namespace) -> int:
    body = options(args)
    limit_s = seconds(args.timeout, "--timeout")
    targets = plan_targets(session, args)
    if not targets:
        print("No resources found", file=sys.stderr)
        return 0
    if args.force:
        print("Warning: Immediate deletion does not wait for confirmation that the running resource has been terminated. The resource may continue to run on the cluster indefinitely.", file=sys.stderr)
    code = 0
    waiting: list[tuple[get.Target, str]] = []
    for t in targets:
        try:
            answer = {} if args.dry_run == "client" else session.client.delete(t.resource, t.name, t.namespace, body)
        except errors.NotFound as e:
            if not args.ignore_not_found:
                print(describe_error(e), file=sys.stderr)
                code = 1
            continue
        suffix = " (dry run)" if args.dry_run == "client" else " (server dry run)" if args.dry_run == "server" else " force deleted" if args.force else " deleted"
        suffix = f" deleted{suffix}" if "dry" in suffix else suffix
        print(f"{word(t.resource)}/{t.name}" if args.output == "name" else f'{word(t.resource)} "{t.name}"{suffix}')
        sys.stdout.flush()
        uid = (answer.get("metadata") or {}).get("uid") or (answer.get("details") or {}).get("uid", "")
        if uid and args.dry_run == "none":
            waiting.append((t, uid))
    if args.wait == "true" and not args.force:
        deadline = time.monotonic() + limit_s if limit_s else None
        for t, uid in waiting:
            wait_gone(session, t, uid, deadline)
    return code
