from __future__ import annotations

import asyncio

from apiserver.api import kinds
from apiserver.client.client import Client
from apiserver.client.inprocess import AsgiTransport
from apiserver.client.leader import LeaderElector, LeaseSettings, may_take
from tests.fakes.api import FakeApi

FAST = LeaseSettings(lease_s=1.0, renew_deadline_s=0.6, retry_s=0.1)


def lease(holder: str, duration: int = 15) -> dict:
    return {"spec": {"holderIdentity": holder, "leaseDurationSeconds": duration}}


def test_who_may_take_a_lease() -> None:
    assert may_take(None, "a", 0)
    assert may_take(lease(""), "a", 0)
    assert may_take(lease("a"), "a", 0)
    assert not may_take(lease("b"), "a", 14.9)
    assert may_take(lease("b"), "a", 15)


async def test_one_leads_at_a_time_and_a_clean_stop_hands_over_at_once() -> None:
    api = FakeApi()
    leading: set[str] = set()
    history: list[str] = []
    started = asyncio.Condition()

    def elector(name: str) -> asyncio.Task[None]:
        async def lead() -> None:
            assert not leading
            leading.add(name)
            async with started:
                history.append(name)
                started.notify_all()
            try:
                await asyncio.Event().wait()
            finally:
                leading.discard(name)

        return asyncio.ensure_future(LeaderElector(Client(transport=AsgiTransport(api)), "l", name, settings=FAST).run(lead))

    async def until(n: int) -> None:
        async with asyncio.timeout(10), started:
            await started.wait_for(lambda: len(history) >= n)

    tasks = {name: elector(name) for name in ("a", "b")}
    await until(1)
    first = history[0]
    tasks[first].cancel()
    await asyncio.gather(tasks[first], return_exceptions=True)
    await until(2)
    assert history[1] != first
    spec = api.read(kinds.LEASES, "l", "kube-system")["spec"]
    assert spec["holderIdentity"] == history[1] and spec["leaseTransitions"] >= 1
    other = history[1]
    tasks[other].cancel()
    await asyncio.gather(*tasks.values(), return_exceptions=True)


async def test_the_leader_stops_when_it_cannot_renew() -> None:
    api = FakeApi()
    client = Client(transport=AsgiTransport(api))
    started, stopped = asyncio.Event(), asyncio.Event()

    async def lead() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    task = asyncio.ensure_future(LeaderElector(client, "l", "a", settings=FAST).run(lead))
    await asyncio.wait_for(started.wait(), 5)
    held = api.read(kinds.LEASES, "l", "kube-system")
    await api.put(kinds.LEASES, {**held, "spec": {**held["spec"], "holderIdentity": "thief"}})
    await asyncio.wait_for(stopped.wait(), 5)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert api.read(kinds.LEASES, "l", "kube-system")["spec"]["holderIdentity"] == "thief"
