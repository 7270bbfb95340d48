"""Exponential back-off with jitter, as a value machine: it says how long, somebody else waits. Used by informers, the workqueue and the leader election."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

__all__ = ["Backoff"]


@dataclass
class Backoff:
    """Delays `initial_s`, × `factor` each time, at most `max_s`; each is shortened by up to `jitter` (0–1) of itself, so that many clients do not come back at once."""

    initial_s: float = 0.1
    max_s: float = 10.0
    factor: float = 2.0
    jitter: float = 0.3
    rng: random.Random = field(default_factory=random.Random)
    failures: int = 0

    def next_s(self) -> float:
        delay = min(self.initial_s * self.factor ** min(self.failures, 64), self.max_s)
        self.failures += 1
        return delay * (1 - self.jitter * self.rng.random())

    def reset(self) -> None:
        self.failures = 0
