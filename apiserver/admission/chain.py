"""The admission chain: which plugins run, in which order. Owns no rule itself; each plugin is a module beside this one. The registry calls admit() after defaulting and
validate() on what is about to be stored; apiserver/__main__ builds the chain. Knows neither registry nor HTTP: requests are taken by shape (request.Request).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence

from apiserver.admission import escalation, limitranges, namespaces, noderestriction, priority, serviceaccounts, tolerations
from apiserver.admission.request import Plugin, Reader, Request


class Chain:
    """Which plugins care about which (resource, subresource, operation) is asked once and remembered."""

    def __init__(self, plugins: Sequence[Plugin]) -> None:
        self.plugins = tuple(plugins)
        self._chosen: dict[tuple[str, str, str, str], tuple[Plugin, ...]] = {}

    def _of(self, request: Request) -> tuple[Plugin, ...]:
        key = (request.resource.group, request.resource.plural, request.subresource, request.operation)
        chosen = self._chosen.get(key)
        if chosen is None:
            chosen = tuple(p for p in self.plugins if p.handles(request.resource, request.subresource, request.operation))
            self._chosen[key] = chosen
        return chosen

    async def admit(self, request: Request) -> None:
        """Every mutating plugin, in order. Raises what the first to refuse raises."""
        for plugin in self._of(request):
            await plugin.admit(request)

    async def validate(self, request: Request) -> None:
        """Every validating plugin, in order."""
        for plugin in self._of(request):
            await plugin.validate(request)


def default_chain(
    reader: Reader, *, rng: random.Random | None = None, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep, rules_for: escalation.RulesFor | None = None,
) -> Chain:  # fmt: skip
    """The plugins every minik API server runs, in Kubernetes' order. `sleep` is waited on for a new namespace's default ServiceAccount; `rules_for(user, namespace)`
    gives the RBAC rules that hold for a user (without it there is no check against escalation: for tests only)."""
    plugins: list[Plugin] = [
        namespaces.NamespaceLifecycle(reader),
        noderestriction.NodeRestriction(reader),
        serviceaccounts.ServiceAccountAdmission(reader, rng or random.Random(), sleep),
        limitranges.LimitRanger(reader),
        priority.PriorityAdmission(reader),
        tolerations.DefaultTolerations(),
    ]
    if rules_for is not None:
        plugins.append(escalation.Escalation(reader, rules_for))
    return Chain(plugins)
