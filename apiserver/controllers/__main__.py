"""`python -m apiserver.controllers --kubeconfig F`: the control loops as a process of their own. Logs to stderr, ends cleanly on SIGTERM and SIGINT."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import logging
import signal
import socket
import sys
from collections.abc import Sequence

import uvloop

from apiserver import controllers
from apiserver.client import kubeconfig
from apiserver.client.client import Client
from apiserver.client.config import ConfigError
from apiserver.controllers.config import Config


def parse_flags(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m apiserver.controllers", description="Runs minik's control loops against an API server.")
    parser.add_argument("--kubeconfig", default=None, help="default: $KUBECONFIG, the pod's ServiceAccount, the local cluster's")
    parser.add_argument("--cluster-cidr", default="10.42.0.0/16", help="pod addresses of the whole cluster")
    parser.add_argument("--node-cidr-mask-size", type=int, default=22)
    parser.add_argument("--root-ca-file", default=None, help="what pods get as ca.crt (default: the kubeconfig's certificate authority)")
    parser.add_argument("--leader-elect", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--leader-elect-identity", default=socket.gethostname(), help="who we are in the Lease; one running process per identity (default: host name)")
    parser.add_argument("--node-monitor-grace-period", type=float, default=40.0, metavar="SECONDS")
    parser.add_argument("--debug", action="store_true")
    return parser.parse_args(argv)


def read_config(flags: argparse.Namespace, default_ca: bytes) -> Config:
    """Raises ConfigError."""
    try:
        root_ca = default_ca.decode()
        if flags.root_ca_file:
            with open(flags.root_ca_file) as f:
                root_ca = f.read()
        return Config(
            cluster_cidr=flags.cluster_cidr,
            node_cidr_mask_size=flags.node_cidr_mask_size,
            root_ca=root_ca,
            leader_elect=flags.leader_elect,
            identity=flags.leader_elect_identity,
            node_grace_s=flags.node_monitor_grace_period,
        )
    except OSError as e:
        raise ConfigError(f"--root-ca-file: cannot read {flags.root_ca_file}: {e.strerror}") from None
    except ValueError as e:
        raise ConfigError(str(e)) from None


async def run_until_signal(flags: argparse.Namespace) -> None:
    client_config = kubeconfig.load(flags.kubeconfig)
    config = read_config(flags, client_config.ca_data)
    async with Client(client_config) as client:
        task = asyncio.ensure_future(controllers.run(client, config))
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
        gc.freeze()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def main(argv: Sequence[str] | None = None) -> int:
    flags = parse_flags(argv)
    logging.basicConfig(stream=sys.stderr, level=logging.DEBUG if flags.debug else logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(run_until_signal(flags))
    except ConfigError as e:
        print(f"controllers: {e}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
