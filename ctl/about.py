"""`minikctl version` and `api-resources`: what this client and the server are and serve."""

from __future__ import annotations

import argparse
import sys

from ctl import render
from ctl.session import CommandError, Session, discover

VERSION = "v0.1.0"


def configure_version(p: argparse.ArgumentParser) -> None:
    p.add_argument("--client", action="store_true")
    p.add_argument("-o", "--output", choices=["yaml", "json"], default="")


def run_version(session: Session | None, args: argparse.Namespace) -> int:
    document: dict = {"clientVersion": {"gitVersion": VERSION, "platform": f"linux/{_machine()}"}}
    if session is not None:
        document["serverVersion"] = session.client.request("GET", "/version").json()
    if args.output:
        sys.stdout.write(render.to_json(document) if args.output == "json" else render.to_yaml(document))
        return 0
    print(f"Client Version: {VERSION}")
    if session is not None:
        print(f"Server Version: {document['serverVersion']['gitVersion']}")
    return 0


def _machine() -> str:
    import os

    return {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)


def configure_api_resources(p: argparse.ArgumentParser) -> None:
    p.add_argument("--api-group", default=None)
    p.add_argument("--namespaced", nargs="?", const="true", default="", choices=["true", "false"])
    p.add_argument("--verbs", default="")
    p.add_argument("--categories", default="")
    p.add_argument("--no-headers", action="store_true")
    p.add_argument("--sort-by", choices=["name", "kind"], default="")
    p.add_argument("-o", "--output", choices=["wide", "name"], default="")


def run_api_resources(session: Session, args: argparse.Namespace) -> int:
    preferred: dict = {}
    for r in discover(session.client):  # a group's versions come with the preferred one first
        if r.verbs:
            preferred.setdefault((r.group, r.plural), r)
    found = list(preferred.values())
    if args.api_group is not None:
        found = [r for r in found if r.group == args.api_group]
    if args.namespaced:
        found = [r for r in found if r.namespaced == (args.namespaced == "true")]
    if args.verbs:
        found = [r for r in found if set(args.verbs.split(",")) <= set(r.verbs)]
    if args.categories:
        found = [r for r in found if set(args.categories.split(",")) <= set(r.categories)]
    found.sort(key=(lambda r: r.kind) if args.sort_by == "kind" else (lambda r: (r.group, r.plural)) if not args.sort_by else (lambda r: r.plural))
    if args.output == "name":
        sys.stdout.write("".join(r.group_resource + "\n" for r in found))
        return 0
    wide = args.output == "wide"
    rows = [] if args.no_headers else [["NAME", "SHORTNAMES", "APIVERSION", "NAMESPACED", "KIND"] + (["VERBS", "CATEGORIES"] if wide else [])]
    for r in found:
        rows.append(
            [r.plural, ",".join(r.short_names), r.api_version, str(r.namespaced).lower(), r.kind] + ([",".join(r.verbs), ",".join(r.categories)] if wide else [])
        )
    if not found:
        raise CommandError("no resources match")
    sys.stdout.write(render.Columns().render(rows))
    return 0
