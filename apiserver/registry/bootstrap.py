"""What a cluster has from its first second: namespaces, RBAC defaults, PriorityClasses, Service `kubernetes` and its EndpointSlice. Called by apiserver/__main__ at every
start, before the first request is served; idempotent, and safe beside other API servers on the same store.
"""

from __future__ import annotations

from apiserver.registry.registry import Registry


async def ensure(registry: Registry) -> None:
    """Creates what is missing and (re-)writes the `kubernetes` EndpointSlice to Config.advertise_address:advertise_port. Never changes what a user changed, except
    for RBAC objects annotated rbac.authorization.kubernetes.io/autoupdate: "true", whose missing rules and subjects come back. Starts nothing that keeps running."""
    raise NotImplementedError
