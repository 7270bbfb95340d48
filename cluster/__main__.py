"""`minik`: up, down, status, kubeconfig, token. Flags to calls; exit code 0, 1 for what could not be done, 2 for wrong words."""

from __future__ import annotations

import argparse
import dataclasses
import os
import pathlib
import signal
import sys
import time

from cluster import config

HELP = {
    "node_name": "default: the host's name", "data_dir": "default: /var/lib/minik (/var/lib/minik-NAME for another --name)", "store": "sqlite (embedded) or etcd",
    "etcd_endpoints": "comma-separated URLs, with --store etcd", "node_ip": "default: the address of the default route's interface",
    "controllers": "embedded (in the API server) or separate", "max_pods": "pods this node takes (at most 500)",
}  # fmt: skip
_started = time.monotonic()


def say(message: str) -> None:
    print(f"[{time.monotonic() - _started:6.2f}s] {message}", flush=True)


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="minik", description="a cluster in a second")
    commands = p.add_subparsers(dest="command", required=True, metavar="COMMAND")
    up = commands.add_parser("up", help="start a one-node cluster on this machine, or go on waiting for it", formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    for f in dataclasses.fields(config.Config):
        flag = "--" + f.name.replace("_", "-")
        if isinstance(f.default, bool):
            up.add_argument(flag, action="store_true", help=HELP.get(f.name, " "))
        else:
            up.add_argument(flag, default=f.default, type=type(f.default), help=HELP.get(f.name, " "))
    up.add_argument("--foreground", action="store_true", help="stay, and take the cluster down on Ctrl-C or SIGTERM")
    up.add_argument("--hello", action="store_true", help="make localhost/busybox:1, apply manifests/hello.yaml and show its answers")
    for name, text in (
        ("down", "stop the cluster and leave nothing behind"), ("status", "processes, memory, readiness"), ("kubeconfig", "print the admin kubeconfig"), ("token", "print a token"),
    ):  # fmt: skip
        sub = commands.add_parser(name, help=text)
        sub.add_argument("--name", default="minik")
        sub.add_argument("--node-name", default="")
        sub.add_argument("--data-dir", default="")
        if name == "down":
            sub.add_argument("--purge", action="store_true", help="also remove the data directory")
        elif name == "status":
            sub.add_argument("-o", "--output", choices=["pids"], help="pids: name:pid,name:pid,…")
        elif name == "token":
            sub.add_argument("user", choices=["admin"])
    return p


def command_up(args: argparse.Namespace) -> int:
    from cluster import down, hello, up

    c = config.validate(config.Config(**{f.name: getattr(args, f.name) for f in dataclasses.fields(config.Config)}))
    c = up.up(c, say)
    if args.hello:
        hello.hello(c, say)
        print(hello.try_next(c))
    if args.foreground:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        say("in the foreground; Ctrl-C takes the cluster down")
        try:
            signal.pause()
        except KeyboardInterrupt:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            down.down(c, say)
    return 0


def command_down(args: argparse.Namespace) -> int:
    from cluster import down

    if os.geteuid():
        raise PermissionError("minik down needs root")
    for c in down.find(args.name, args.node_name, args.data_dir):
        down.down(c, say, purge=args.purge)
    return 0


def command_status(args: argparse.Namespace) -> int:
    from cluster import down, status

    for c in down.find(args.name, args.node_name, args.data_dir):
        state = status.observe(c)
        if state is None:
            print(f"cluster {c.name!r} is not running on this host", file=sys.stderr)
            return 1
        print(status.render_pids(state) if args.output == "pids" else status.render(c, state))
        if not (state["api"] and state["node"]):
            return 1
    return 0


def command_read(args: argparse.Namespace) -> int:
    """kubeconfig and token: what a file of the data directory says."""
    from cluster import down, pki

    c = down.find(args.name, args.node_name, args.data_dir)[0]
    try:
        print(pki.admin_token(c.pki) if args.command == "token" else pathlib.Path(c.data, "admin.kubeconfig").read_text(), end="\n" if args.command == "token" else "")
    except FileNotFoundError as e:
        raise FileNotFoundError(f"no cluster {c.name!r} here ({e.filename} is not there); `minik up` makes one") from None
    return 0


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    from cluster.config import ConfigError

    command = {"up": command_up, "down": command_down, "status": command_status}.get(args.command, command_read)
    try:
        return command(args)
    except KeyboardInterrupt:
        return 130
    except (ConfigError, OSError, RuntimeError) as e:
        print(f"minik: error: {e}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
