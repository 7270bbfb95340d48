"""`python -m scheduler --kubeconfig F`: flags → client → Scheduler, alone or under a Lease. Logs to stderr, ends cleanly on SIGTERM and SIGINT."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import logging
import random
import signal
import socket
import sys
from collections.abc import Sequence

import uvloop

from apiserver.client import kubeconfig
from apiserver.client.client import Client
from apiserver.client.config import ConfigError
from apiserver.client.leader import LeaderElector
from scheduler.loop import Scheduler


def parse_flags(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m scheduler", description="Binds pending pods to nodes.")
    parser.add_argument("--kubeconfig", default=None, help="default: $KUBECONFIG, the pod's ServiceAccount, the local cluster's")
    parser.add_argument("--scheduler-name", default="default-scheduler", help="pods with this spec.schedulerName are ours")
    parser.add_argument("--leader-elect", action="store_true", help="work only while holding the Lease kube-system/kube-scheduler")
    parser.add_argument("--leader-elect-identity", default=socket.gethostname(), help="who we are in the Lease; one running scheduler per identity (default: host name)")
    parser.add_argument("--bindings-in-flight", type=int, default=32, metavar="N")
    parser.add_argument("--seed", type=int, default=None, help="makes ties between nodes repeatable")
    parser.add_argument("--debug", action="store_true")
    flags = parser.parse_args(argv)
    if flags.bindings_in_flight < 1:
        parser.error("--bindings-in-flight: must be at least 1")
    return flags


async def serve(flags: argparse.Namespace, client: Client) -> None:
    async def work() -> None:
        await Scheduler(client, name=flags.scheduler_name, in_flight=flags.bindings_in_flight, rng=random.Random(flags.seed)).run()

    if flags.leader_elect:
        await LeaderElector(client, "kube-scheduler", flags.leader_elect_identity).run(work)
    else:
        await work()


async def run_until_signal(flags: argparse.Namespace) -> None:
    client = Client(kubeconfig.load(flags.kubeconfig))
    task = asyncio.ensure_future(serve(flags, client))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    gc.freeze()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    await client.close()


def main(argv: Sequence[str] | None = None) -> int:
    flags = parse_flags(argv)
    logging.basicConfig(stream=sys.stderr, level=logging.DEBUG if flags.debug else logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(run_until_signal(flags))
    except ConfigError as e:
        print(f"scheduler: {e}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
