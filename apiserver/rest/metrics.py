"""Counters of what was served, in Prometheus' text format under Kubernetes' metric names. Owns only numbers; app.py counts, health.py renders."""

from __future__ import annotations

import bisect
import os
from collections import Counter
from collections.abc import Iterator

BUCKETS_S = (0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.5, 2.0, 5.0, 10.0, 30.0, 60.0)
_Key = tuple[str, str, str, str]  # verb, group, resource, subresource


class Metrics:
    def __init__(self) -> None:
        self.requests: Counter[tuple[_Key, int]] = Counter()
        self.durations: dict[_Key, list[int]] = {}
        self.duration_sums: dict[_Key, float] = {}
        self.long_running: Counter[_Key] = Counter()
        self.watch_events = 0

    def count(self, key: _Key, code: int, seconds: float | None) -> None:
        """`seconds` is None for long-running requests (watch, log, exec), whose length says nothing."""
        self.requests[key, code] += 1
        if seconds is None:
            return
        buckets = self.durations.get(key)
        if buckets is None:
            buckets = self.durations[key] = [0] * (len(BUCKETS_S) + 1)
            self.duration_sums[key] = 0.0
        buckets[bisect.bisect_left(BUCKETS_S, seconds)] += 1
        self.duration_sums[key] += seconds

    def render(self) -> Iterator[str]:
        yield "# HELP apiserver_request_total Requests by verb, resource and HTTP response code."
        yield "# TYPE apiserver_request_total counter"
        for (key, code), value in sorted(self.requests.items()):
            yield f'apiserver_request_total{{{_labels(key)},code="{code}"}} {value}'
        yield "# HELP apiserver_request_duration_seconds Response latency."
        yield "# TYPE apiserver_request_duration_seconds histogram"
        for key, buckets in sorted(self.durations.items()):
            total = 0
            for limit, value in zip((*map(str, BUCKETS_S), "+Inf"), buckets, strict=True):
                total += value
                yield f'apiserver_request_duration_seconds_bucket{{{_labels(key)},le="{limit}"}} {total}'
            yield f"apiserver_request_duration_seconds_sum{{{_labels(key)}}} {self.duration_sums[key]:.6f}"
            yield f"apiserver_request_duration_seconds_count{{{_labels(key)}}} {total}"
        yield "# HELP apiserver_longrunning_requests Watches, logs and streams open now."
        yield "# TYPE apiserver_longrunning_requests gauge"
        for key, value in sorted(self.long_running.items()):
            yield f"apiserver_longrunning_requests{{{_labels(key)}}} {value}"
        yield "# HELP apiserver_watch_events_total Events sent to watchers."
        yield "# TYPE apiserver_watch_events_total counter"
        yield f"apiserver_watch_events_total {self.watch_events}"


def _labels(key: _Key) -> str:
    return ",".join(f'{name}="{value}"' for name, value in zip(("verb", "group", "resource", "subresource"), key, strict=True))


def render_process() -> Iterator[str]:
    """This process as Prometheus' client libraries show one (proc(5))."""
    with open("/proc/self/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    ticks = os.sysconf("SC_CLK_TCK")
    yield "# TYPE process_cpu_seconds_total counter"
    yield f"process_cpu_seconds_total {(int(fields[11]) + int(fields[12])) / ticks}"
    yield "# TYPE process_resident_memory_bytes gauge"
    yield f"process_resident_memory_bytes {int(fields[21]) * os.sysconf('SC_PAGE_SIZE')}"
    yield "# TYPE process_open_fds gauge"
    yield f"process_open_fds {len(os.listdir('/proc/self/fd'))}"
