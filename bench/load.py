"""Load from inside a host: `python -m bench.load --kubeconfig F creates|pods …` prints one JSON object. Bounded in count; uses the components' own client."""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from typing import Any

import orjson

from apiserver.api import kinds
from apiserver.client import kubeconfig
from apiserver.client.client import Client

IMAGE = "localhost/busybox:1"


def pod(name: str, *, node_name: str = "") -> dict[str, Any]:
    """A manifest of the size people write (about 1 kB); `node_name` binds it at once, to a node that need not exist."""
    spec: dict[str, Any] = {
        "terminationGracePeriodSeconds": 1,
        "containers": [{
            "name": "web", "image": IMAGE, "command": ["sh", "-c", "trap 'exit 0' TERM; sleep 3600 & wait"],
            "env": [{"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}, {"name": "TZ", "value": "UTC"}],
            "resources": {"requests": {"cpu": "5m", "memory": "8Mi"}, "limits": {"memory": "64Mi"}},
        }],
    }  # fmt: skip
    if node_name:
        spec["nodeName"] = node_name
    labels = {"app.kubernetes.io/name": "bench", "app.kubernetes.io/component": "web", "tier": "frontend"}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels}, "spec": spec}


def quantile(values: list[float], q: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))]


async def fresh_namespace(client: Client, name: str) -> None:
    await client.create(kinds.NAMESPACES, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    while not (await client.list(kinds.SERVICEACCOUNTS, name))["items"]:
        await asyncio.sleep(0.01)


def unscheduled(name: str) -> dict[str, Any]:
    """For a scheduler that is not there."""
    document = pod(name)
    document["spec"]["schedulerName"] = "nobody"
    return document


async def creates(client: Client, in_flight: int, count: int) -> dict[str, Any]:
    """Pods per second with so many requests in flight. They ask for a scheduler that is not there, so that only the API server and its store work."""
    namespace = f"load-{in_flight}-{time.monotonic_ns() % 1_000_000}"
    await fresh_namespace(client, namespace)
    path = kinds.PODS.path(namespace)
    bodies = iter([orjson.dumps(unscheduled(f"p-{i}")) for i in range(count)])

    async def worker() -> None:
        for body in bodies:
            await client.request("POST", path, body=body)

    await asyncio.gather(*(client.get(kinds.NAMESPACES, namespace) for _ in range(in_flight)))  # opens the connections
    started = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(in_flight)))
    rate = count / (time.perf_counter() - started)
    await client.delete_collection(kinds.PODS, namespace, options={"gracePeriodSeconds": 0})
    await client.delete(kinds.NAMESPACES, namespace)
    return {"per_s": round(rate)}


class Times:
    """When each pod was sent, and first seen Running and gone, on the monotonic clock."""

    def __init__(self) -> None:
        self.sent: dict[str, float] = {}
        self.running: dict[str, float] = {}
        self.gone: set[str] = set()
        self.changed = asyncio.Event()

    async def follow(self, client: Client, namespace: str, revision: str) -> None:
        async for kind, obj in client.watch(kinds.PODS, namespace, resource_version=revision):
            now, name = time.perf_counter(), obj["metadata"]["name"]
            if kind == "DELETED":
                self.gone.add(name)
            elif obj.get("status", {}).get("phase") == "Running":
                self.running.setdefault(name, now)
            self.changed.set()

    async def until(self, condition: Any, timeout_s: float = 120) -> None:
        async with asyncio.timeout(timeout_s):
            while not condition():
                self.changed.clear()
                await self.changed.wait()


async def pods(client: Client, count: int, burst: int) -> dict[str, Any]:
    """Create → Running one after the other (p50, p99, ms), then `burst` at once until the last is Running (s)."""
    namespace = f"pods-{time.monotonic_ns() % 1_000_000}"
    await fresh_namespace(client, namespace)
    times = Times()
    listed = await client.list(kinds.PODS, namespace)
    follower = asyncio.create_task(times.follow(client, namespace, listed["metadata"]["resourceVersion"]))
    singles = [f"one-{i}" for i in range(count)]
    for name in singles:
        times.sent[name] = time.perf_counter()
        await client.create(kinds.PODS, pod(name), namespace)
        await times.until(lambda name=name: name in times.running)
    crowd = [f"burst-{i}" for i in range(burst)]
    started = time.perf_counter()
    await asyncio.gather(*(client.create(kinds.PODS, pod(name), namespace) for name in crowd))
    await times.until(lambda: all(name in times.running for name in crowd))
    taken = [(times.running[n] - times.sent[n]) * 1e3 for n in singles]
    result = {
        "p50_ms": round(statistics.median(taken), 1), "p99_ms": round(quantile(taken, 0.99), 1), "burst_s": round(max(times.running[n] for n in crowd) - started, 3),
    }  # fmt: skip
    for name in singles + crowd:
        await client.delete(kinds.PODS, name, namespace)
    await times.until(lambda: len(times.gone) == count + burst)
    follower.cancel()
    await client.delete(kinds.NAMESPACES, namespace)
    return result


async def main() -> None:
    p = argparse.ArgumentParser()
    p.add_argument("--kubeconfig", required=True)
    p.add_argument("what", choices=["creates", "pods"])
    p.add_argument("--in-flight", type=int, default=16)
    p.add_argument("--count", type=int, default=20)
    p.add_argument("--burst", type=int, default=30)
    a = p.parse_args()
    async with Client(kubeconfig.load(a.kubeconfig)) as client:
        print(json.dumps(await (creates(client, a.in_flight, a.count) if a.what == "creates" else pods(client, a.count, a.burst))))


if __name__ == "__main__":
    asyncio.run(main())
