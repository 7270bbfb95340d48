"""One endpoint change at 5,000 Services of 5 endpoints, programmed: our incremental update beside `nft -f -` with the same operations, interleaved, medians.
In a network namespace of its own. `python -m bench ruleset`."""

from __future__ import annotations

import statistics
import subprocess
import time

from agent.services.proxy import ServiceProxy
from bench.report import Row
from tests.fakes.services import keyed, service, slices
from tests.node import netlab

ENDPOINTS = 5


def _address(number: int) -> str:
    return f"10.42.{number // 250 % 250}.{number % 250 + 2}"


def _vip(number: int) -> str:
    return f"10.43.{number // 250 + 1}.{number % 250 + 1}"


def _nft(commands: str) -> float:
    begun = time.perf_counter()
    subprocess.run(["nft", "-f", "-"], input=commands, text=True, check=True, capture_output=True)
    return time.perf_counter() - begun


def measure(count: int = 5000, rounds: int = 30) -> list[Row]:
    with netlab.host():
        proxy = ServiceProxy("bench", ["192.0.2.1"], "10.42.0.0/22", "10.42.0.0/16", service_cidr="10.43.0.0/16")
        proxy.ensure()
        services = keyed(*(service(f"s{i}", _vip(i)) for i in range(count)))
        pieces = keyed(*(slices(f"s{i}", [_address(i * ENDPOINTS + n) for n in range(ENDPOINTS)]) for i in range(count)))
        begun = time.perf_counter()
        operations = proxy.sync(services, pieces)
        fill = time.perf_counter() - begun
        ours: list[float] = []
        peer: list[float] = []
        for turn in range(rounds):
            number = turn * 7 % count
            key, vip = f"default/s{number}", _vip(number)
            endpoints = [_address(number * ENDPOINTS + n) for n in range(ENDPOINTS)]
            changed = keyed(slices(f"s{number}", [*endpoints[1:], "10.42.200.9"]))
            begun = time.perf_counter()
            sent = proxy.update([key], services, changed)
            ours.append(time.perf_counter() - begun)
            assert sent, "nothing was programmed"
            element = f"{vip} . tcp . 80 . 0"
            delete, add = f"delete element ip minik-bench slots {{ {element} }}", f"add element ip minik-bench slots {{ {element} : 10.42.200.10 . 8080 }}"
            peer.append(_nft(f"{delete}\n{add}\n"))
        resync = time.perf_counter()
        assert proxy.sync(services, {**pieces}) >= 0
        resync = time.perf_counter() - resync
        proxy.remove()
    return [
        Row(f"one endpoint change at {count:,} Services × {ENDPOINTS}, programmed", statistics.median(ours) * 1e3, "ms", "≤ 1 ms", f"nft {statistics.median(peer) * 1e3:.0f} ms"),
        Row(f"{operations:,} elements in one transaction, after a restart", fill * 1e3, "ms", digits=0),
        Row(f"full sync of {count:,} Services, nothing new but the slots moved", resync * 1e3, "ms", digits=0),
    ]
