"""Builds every controller over one set of shared informers and runs them under one Lease. Entry: run(), re-exported by the package."""

from __future__ import annotations

import asyncio
import logging

from apiserver.client.client import Client
from apiserver.client.leader import LeaderElector
from apiserver.controllers.config import Config
from apiserver.controllers.endpointslices import EndpointSlices
from apiserver.controllers.garbage import GarbageCollector
from apiserver.controllers.loop import Context, Controller
from apiserver.controllers.namespaces import Namespaces
from apiserver.controllers.nodeipam import NodeIpam
from apiserver.controllers.nodelifecycle import NodeLifecycle
from apiserver.controllers.podgc import PodGC
from apiserver.controllers.serviceaccounts import ServiceAccounts

__all__ = ["CONTROLLERS", "LEASE", "run"]

log = logging.getLogger("controllers")
LEASE = "kube-controller-manager"
CONTROLLERS: tuple[type[Controller], ...] = (EndpointSlices, Namespaces, ServiceAccounts, NodeIpam, NodeLifecycle, PodGC, GarbageCollector)
"""GarbageCollector last: the others say how the objects they share with it are decoded."""


async def run(client: Client, config: Config) -> None:
    """Until cancelled; leads, or waits to."""

    async def lead() -> None:
        context = Context(client, config)
        controllers = [each(context) for each in CONTROLLERS]
        log.info("running %s", ", ".join(c.name for c in controllers))
        informers = [informer.run() for informer in context.informers.values()]
        async with asyncio.TaskGroup() as group:
            for job in (*informers, *(c.run() for c in controllers), context.recorder.run()):
                group.create_task(job)

    if config.leader_elect:
        await LeaderElector(client, LEASE, config.identity, now=config.now, clock=config.clock, rng=config.rng).run(lead)
    else:
        await lead()
