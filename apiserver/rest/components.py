"""What the handlers stand on, as one value. Built by apiserver/__main__ (and by tests); REST makes nothing of this itself."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from apiserver.auth.authenticator import Authenticator
from apiserver.auth.authorizer import Authorizer
from apiserver.registry.registry import Registry
from apiserver.rest.metrics import Metrics
from apiserver.store.cache import Cache, Watcher

if TYPE_CHECKING:
    from apiserver.auth.serviceaccounts import Issuer
    from apiserver.rest.nodes import NodeConnector

MAX_BODY_BYTES = 3 * 1024 * 1024


@dataclass
class Components:
    """`now` gives Unix seconds. `issuer` and `nodes` may be missing: no ServiceAccount tokens, no logs or exec. `ready` says whether the start is finished. `streams`: how to hang up
    on each log that is being followed; `relays`: the tasks that copy exec and attach."""

    registry: Registry
    cache: Cache
    authenticator: Authenticator
    authorizer: Authorizer
    now: Callable[[], float]
    rng: random.Random
    issuer: Issuer | None = None
    nodes: NodeConnector | None = None
    metrics: Metrics = field(default_factory=Metrics)
    ready: bool = False
    watchers: set[Watcher] = field(default_factory=set)
    streams: set[Callable[[], None]] = field(default_factory=set)
    relays: set[asyncio.Task[None]] = field(default_factory=set)

    def stop(self) -> None:
        """Ends what would otherwise go on for ever: watches, logs and relays. Plain requests finish by themselves."""
        self.ready = False
        for watcher in list(self.watchers):
            self.watchers.discard(watcher)
            watcher.close()
        for hang_up in list(self.streams):
            hang_up()
        for task in list(self.relays):
            task.cancel()
