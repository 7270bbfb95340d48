"""Whole clusters in virtual hosts, one per store, measured in turn: time of `up`, pods, creates, memory, the client's own speed."""

from __future__ import annotations

import contextlib
import json
import statistics
import sys
import time
from collections.abc import Iterator

from bench.report import Row
from cluster import hosts

ROOT = hosts.ROOT
PYTHON = str(ROOT / ".venv/bin/python")
KUBECONFIG = "/var/lib/minik/admin.kubeconfig"
ROUNDS = 5


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class Bench:
    def __init__(self, host: hosts.Host, store: str) -> None:
        self.host, self.store = host, store
        self.flags = ["--store", "etcd", "--etcd-endpoints", "http://127.0.0.1:2379"] if store == "etcd" else []

    def minik(self, *words: str) -> str:
        return self.host.run(PYTHON, "-m", "cluster", *words).stdout

    def up(self) -> dict[str, float]:
        """Seconds until the API is ready, the node is, and a first pod runs; from the command's start on a data directory that exists."""
        started = time.perf_counter()
        text = self.minik("up", *self.flags)
        total = time.perf_counter() - started
        line = next(li for li in text.splitlines() if "API ready" in li)
        return {"api": float(line.rsplit("(", 1)[1].split()[0]), "node": total}

    def load(self, *words: str) -> dict[str, float]:
        return json.loads(self.host.run(PYTHON, "-m", "bench.load", "--kubeconfig", KUBECONFIG, *words, timeout_s=300).stdout)

    def memory(self) -> dict[str, float]:
        """PSS of every process, MiB."""
        rows = self.minik("status").splitlines()[1:]
        return {r.split()[0]: float(r.split()[-1].removesuffix("Mi")) for r in rows if r.endswith("Mi")}

    def command_ms(self, *argv: str) -> float:
        started = time.perf_counter()
        self.host.run(*argv)
        return (time.perf_counter() - started) * 1e3


@contextlib.contextmanager
def benches() -> Iterator[list[Bench]]:
    hosts.sweep()
    with hosts.Fabric() as fabric, hosts.Host(fabric, "b-sqlite", "10.99.0.1") as one, hosts.Host(fabric, "b-etcd", "10.99.0.2") as two:
        two.popen("etcd", "--data-dir", "/run/etcd", "--log-level", "error")
        both = [Bench(one, "sqlite"), Bench(two, "etcd")]
        for b in both:
            b.host.run(PYTHON, "-m", "agent.images", "busybox", "--binary", str(ROOT / ".cache/busybox"), "--data-dir", "/var/lib/minik")
        yield both


def measure() -> list[Row]:
    rows: list[Row] = []
    with benches() as both:
        one, two = both
        ups: list[dict[str, float]] = []
        for _ in range(ROUNDS):
            ups.append(one.up())
            one.minik("down")
        rows.append(Row("`minik up` → API ready, prepared machine", statistics.median(u["api"] for u in ups), "s", reach="≤ 1", peer="k8s 1.36: 2.3–3.2"))
        rows.append(Row("`minik up` whole command (node Ready)", statistics.median(u["node"] for u in ups), "s"))
        say(f"up: {ups}")
        one.minik("up", *one.flags)
        rows.append(memory(one, "one-node cluster idle, just started, PSS in all", reach="≤ 150", peer="k8s: 650"))
        two.minik("up", *two.flags)
        rows += creates(both) + pods(one)
        rows.append(memory(one, "the same after the loads above (some 8,500 pods made and deleted)"))
        rows += commands(one)
        for b in both:
            b.minik("down")
    return rows


def memory(b: Bench, what: str, **more: str) -> Row:
    time.sleep(5)  # what a cluster weighs when nobody asks anything of it
    found = b.memory()
    return Row(what, sum(found.values()), "MiB", note=", ".join(f"{k} {v:.0f}" for k, v in found.items()), digits=0, **more)  # type: ignore[arg-type]


def creates(both: list[Bench]) -> list[Row]:
    found: dict[tuple[str, int], list[float]] = {}
    for _ in range(ROUNDS):
        for b in both:
            for in_flight, count in ((1, 200), (16, 1500)):
                found.setdefault((b.store, in_flight), []).append(b.load("creates", "--in-flight", str(in_flight), "--count", str(count))["per_s"])
    say(f"creates: {found}")
    reach = {("sqlite", 16): "≥ 1,500", ("etcd", 16): "≥ 700"}
    peer = {1: "k8s: 323", 16: "k8s: 865–1,166"}
    return [Row(f"create pods/s, {s}, {n} in flight", statistics.median(v), "/s", reach=reach.get((s, n), ""), peer=peer[n], digits=0) for (s, n), v in found.items()]


def pods(b: Bench) -> list[Row]:
    runs = [b.load("pods", "--count", "20", "--burst", "30") for _ in range(ROUNDS)]
    say(f"pods: {runs}")
    return [
        Row("pod create → Running, p50", statistics.median(r["p50_ms"] for r in runs), "ms", reach="≤ 50", peer="k8s: 635"),
        Row("pod create → Running, p99", statistics.median(r["p99_ms"] for r in runs), "ms"),
        Row("burst of 30 pods, all Running", statistics.median(r["burst_s"] for r in runs), "s", reach="≤ 0.6", peer="k8s: 7.2"),
    ]


def commands(b: Bench) -> list[Row]:
    ours, theirs = [], []
    try:
        kubectl = hosts.kubectl("1.33")
    except FileNotFoundError:
        kubectl = ""
    for _ in range(2 * ROUNDS):
        ours.append(b.command_ms(str(ROOT / ".venv/bin/minikctl"), "--kubeconfig", KUBECONFIG, "get", "pods"))
        if kubectl:
            theirs.append(b.command_ms(kubectl, "--kubeconfig", KUBECONFIG, "--cache-dir=/run/kc", "get", "pods"))
    peer = f"kubectl 1.33: {statistics.median(theirs):.0f}" if theirs else ""
    return [Row("`minikctl get pods`, whole process", statistics.median(ours), "ms", reach="≤ 120", peer=peer, digits=0)]
