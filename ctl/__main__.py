"""`minikctl`: kubectl's words for minik (and any Kubernetes). Finds the command, parses its flags, runs it, turns every failure into one line and a status.

Imports only what the command needs: the whole of `get` is meant to take about as long as Python's own start.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from typing import NoReturn

# command → (module, configure, run, help)
COMMANDS = {
    "apply": ("apply", "configure", "run", "make objects be as files say"),
    "create": ("apply", "configure", "run_create", "create objects from files"),
    "get": ("get", "configure", "run", "show objects"),
    "delete": ("delete", "configure", "run", "delete objects"),
    "logs": ("logs", "configure", "run", "show a container's log"),
    "exec": ("exec", "configure", "run", "run a command in a container"),
    "version": ("about", "configure_version", "run_version", "versions of client and server"),
    "api-resources": ("about", "configure_api_resources", "run_api_resources", "what the server serves"),
}
GLOBAL_WITH_VALUE = {"--kubeconfig", "--context", "-n", "--namespace", "-s", "--server", "--token", "--request-timeout"}


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        if message.startswith("unrecognized arguments: "):
            word = message.split(": ", 1)[1].split(maxsplit=1)[0]
            message = f"unknown flag: {word.split('=')[0]}" if word.startswith("--") else f"unknown shorthand flag: {word}" if word.startswith("-") else f"unexpected argument: {word}"
        print(f"error: {message}\nSee '{self.prog} --help' for usage.", file=sys.stderr)
        raise SystemExit(1)


def add_global_flags(p: argparse.ArgumentParser) -> None:
    p.add_argument("--kubeconfig", default="", help="default: $KUBECONFIG, then the local cluster's admin kubeconfig")
    p.add_argument("--context", default="")
    p.add_argument("-n", "--namespace", default="")
    p.add_argument("-s", "--server", default="")
    p.add_argument("--token", default="")
    p.add_argument("--insecure-skip-tls-verify", action="store_true")
    p.add_argument("--request-timeout", default="30")


def usage() -> str:
    rows = "\n".join(f"  {name:<15}{about}" for name, (_, _, _, about) in COMMANDS.items())
    return f"minikctl controls a minik (or any Kubernetes) cluster.\n\nCommands:\n{rows}\n\nUse \"minikctl COMMAND --help\" for a command's flags."


def find_command(argv: list[str]) -> int:
    """Index of the command word: the first that is neither a global flag nor its value. -1 where there is none."""
    i = 0
    while i < len(argv):
        if argv[i] in GLOBAL_WITH_VALUE:
            i += 2
        elif argv[i].startswith("-"):
            i += 1
        else:
            return i
    return -1


def parse(argv: list[str]) -> argparse.Namespace:
    at = find_command(argv)
    if at < 0:
        print(usage())
        raise SystemExit(0)
    name = argv[at]
    if name not in COMMANDS:
        if name == "help":
            print(usage())
            raise SystemExit(0)
        print(f'error: unknown command "{name}" for "minikctl"', file=sys.stderr)
        raise SystemExit(1)
    words = argv[:at] + argv[at + 1 :]
    rest: list[str] = []
    if "--" in words:
        split = words.index("--")
        words, rest = words[:split], words[split + 1 :]
    module, configure, run, about = COMMANDS[name]
    loaded = importlib.import_module(f"ctl.{module}")
    p = Parser(prog=f"minikctl {name}", description=about, allow_abbrev=False)
    add_global_flags(p)
    getattr(loaded, configure)(p)
    args = p.parse_intermixed_args(words)
    args.rest, args.run = rest, getattr(loaded, run)
    return args


def execute(args: argparse.Namespace) -> int:
    import dataclasses

    from apiserver.client import kubeconfig
    from apiserver.client.blocking import BlockingClient
    from ctl.delete import seconds
    from ctl.session import Session

    if getattr(args, "client", False):  # version --client asks nobody
        return args.run(None, args)
    config = kubeconfig.load(args.kubeconfig or None, args.context or None)
    config = dataclasses.replace(
        config, server=args.server or config.server, token=args.token or config.token, insecure=args.insecure_skip_tls_verify or config.insecure
    )
    with BlockingClient(config, timeout_s=seconds(args.request_timeout, "--request-timeout") or 30) as client:
        return args.run(Session(client, args.namespace or config.namespace, bool(args.namespace)), args)


def main(argv: list[str] | None = None) -> int:
    args = parse(sys.argv[1:] if argv is None else argv)
    try:
        return execute(args)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the reader of our pipe has gone: nothing more to flush
        return 141
    except Exception as e:
        from apiserver.api.errors import ApiError
        from apiserver.api.manifests import ManifestError
        from apiserver.client.config import ConfigError
        from ctl.session import CommandError, describe_error

        if not isinstance(e, (ApiError, ConfigError, CommandError, ManifestError, ValueError, OSError)):
            raise
        print(describe_error(e), file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
