"""Keeps the claims on ClusterIPs, NodePorts and pod CIDRs true to the objects there are, after crashes half way, and Service `kubernetes` in being. Run at start and then
over and over by apiserver/__main__; any number of API servers may do so at once, since every step is a compare-and-swap.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable

from apiserver.api import kinds
from apiserver.registry import bootstrap, claims
from apiserver.registry.context import Object
from apiserver.registry.registry import Registry
from apiserver.registry.strategies import services

log = logging.getLogger("registry")


async def repair(registry: Registry) -> list[str]:
    """One pass: claims what objects use and nobody holds, releases what nobody uses. Answers what it did, one line each (to be logged)."""
    owned = registry.owned
    done: list[str] = []
    families: list[tuple[str, claims.Claims, kinds.Resource, Callable[[Object], Iterable[str]]]] = [
        ("ClusterIP", owned.ips.held, kinds.SERVICES, services.cluster_ips),
        ("NodePort", owned.ports.held, kinds.SERVICES, lambda obj: map(str, services.node_ports(obj))),
        ("pod CIDR", owned.pod_cidrs, kinds.NODES, lambda obj: filter(None, [(obj.get("spec") or {}).get("podCIDR")])),
    ]
    for word, family, resource, values in families:
        # Claims first: one taken between the two reads belongs to an object the second read sees, or to one still being written, which its age protects.
        held = await family.all()
        objects = await registry.storage.list_fresh(resource)
        users = {value: claims.Owner.of(obj) for obj in objects for value in values(obj)}
        done += await _claim_used(word, family, held, users)
        done += await _release_unused(word, family, held, users)
    return done


async def _claim_used(word: str, family: claims.Claims, held: dict[str, claims.Claim], users: dict[str, claims.Owner]) -> list[str]:
    done = []
    for value, owner in users.items():
        claim = held.get(value)
        if claim is not None and claim.owner.uid == owner.uid:
            continue
        text = f"{word} {value} of {owner.namespace}/{owner.name}"
        if claim is None and await family.take(value, owner):
            done.append(f"{text}: claimed again")
        elif claim is not None and not await family.alive(claim.owner) and await family.replace(claim, owner):
            done.append(f"{text}: taken over from {claim.owner.namespace}/{claim.owner.name}, which is gone")
        elif claim is not None:
            done.append(f"{text}: also claimed by {claim.owner.namespace}/{claim.owner.name}; one of the two must be made anew")
    return done


async def _release_unused(word: str, family: claims.Claims, held: dict[str, claims.Claim], users: dict[str, claims.Owner]) -> list[str]:
    done = []
    for value, claim in held.items():
        if value not in users and family.now() - claim.time > claims.GRACE_S and await family.drop(claim):
            done.append(f"{word} {value}: released, {claim.owner.namespace}/{claim.owner.name} does not use it")
    return done


async def run(registry: Registry, interval_s: float = 180.0, service_interval_s: float = 10.0) -> None:
    """Passes for ever: Service `kubernetes` every service_interval_s, the claims every interval_s. Errors are logged, never raised."""
    loop = asyncio.get_running_loop()
    next_repair_s = loop.time()
    while True:
        try:
            await bootstrap.ensure_service(registry)
            if loop.time() >= next_repair_s:
                next_repair_s = loop.time() + interval_s
                for line in await repair(registry):
                    log.info("repair: %s", line)
        except Exception:
            log.exception("repair failed, next pass in %.0f s", service_interval_s)
        await asyncio.sleep(service_interval_s)
