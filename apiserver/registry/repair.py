"""Keeps the claims on ClusterIPs and NodePorts true to the Services there are, after crashes half way. Run once at start and then every few minutes by apiserver/__main__."""

from __future__ import annotations

from apiserver.registry.registry import Registry


async def repair(registry: Registry) -> list[str]:
    """One pass: claims what Services use and nobody holds, releases what nobody uses. Answers what it did, one line each (to be logged)."""
    raise NotImplementedError


async def run(registry: Registry, interval_s: float = 180.0) -> None:
    """Passes for ever; errors are logged, never raised."""
    raise NotImplementedError
