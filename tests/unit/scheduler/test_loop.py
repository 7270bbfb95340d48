from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator

import pytest

from apiserver.api import kinds
from apiserver.client.client import Client
from apiserver.client.inprocess import AsgiTransport
from scheduler.loop import Scheduler
from tests.fakes.api import FakeApi
from tests.unit.scheduler.make import node_doc, pod_doc


@pytest.fixture
async def api() -> AsyncIterator[FakeApi]:
    api = FakeApi()
    scheduler = Scheduler(Client(transport=AsgiTransport(api)), rng=random.Random(1))
    scheduler.queue.initial_s = scheduler.queue.max_s = 0.05
    task = asyncio.ensure_future(scheduler.run())
    yield api
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def home(api: FakeApi, name: str) -> str:
    pod = api.read(kinds.PODS, name, "default")
    return pod["spec"].get("nodeName", "") if pod else ""


def condition(api: FakeApi, name: str) -> dict:
    pod = api.read(kinds.PODS, name, "default")
    return next((c for c in pod["status"].get("conditions", []) if c["type"] == "PodScheduled"), {}) if pod else {}


def events(api: FakeApi, reason: str) -> list[str]:
    return [e["message"] for e in api.all(kinds.EVENTS) if e["reason"] == reason]


async def test_a_pod_is_bound_and_says_so(api: FakeApi) -> None:
    await api.put(kinds.NODES, node_doc("a"))
    await api.put(kinds.PODS, pod_doc("p", cpu="1"))
    await api.until(lambda: home(api, "p") == "a" and events(api, "Scheduled"))
    assert events(api, "Scheduled") == ["Successfully assigned default/p to a"]


async def test_a_pod_without_room_says_why_and_is_bound_when_room_comes(api: FakeApi) -> None:
    await api.put(kinds.NODES, node_doc("a", cpu="1"))
    await api.put(kinds.PODS, pod_doc("big", cpu="1"))
    await api.until(lambda: home(api, "big") == "a")
    await api.put(kinds.PODS, pod_doc("p", cpu="500m"))
    await api.until(lambda: condition(api, "p") and events(api, "FailedScheduling"))
    assert (condition(api, "p")["status"], condition(api, "p")["reason"]) == ("False", "Unschedulable")
    assert condition(api, "p")["message"] == "0/1 nodes are available: 1 Insufficient cpu. [a: Insufficient cpu (asks 500m, free 0 of 1)]" == events(api, "FailedScheduling")[0]
    await api.drop(kinds.PODS, "big", "default")
    await api.until(lambda: home(api, "p") == "a")
    await api.put(kinds.PODS, pod_doc("q", cpu="3"))
    await api.until(lambda: condition(api, "q"))
    await api.put(kinds.NODES, node_doc("b"))
    await api.until(lambda: home(api, "q") == "b")


async def test_a_finished_pod_gives_its_room_back(api: FakeApi) -> None:
    await api.put(kinds.NODES, node_doc("a", cpu="1"))
    await api.put(kinds.PODS, pod_doc("job", cpu="1"))
    await api.until(lambda: home(api, "job") == "a")
    done = api.read(kinds.PODS, "job", "default")
    await api.put(kinds.PODS, pod_doc("p", cpu="1"))
    await api.until(lambda: condition(api, "p"))
    await api.put(kinds.PODS, {**done, "status": {"phase": "Succeeded"}})
    await api.until(lambda: home(api, "p") == "a")


async def test_pods_that_are_not_ours_are_left_alone(api: FakeApi) -> None:
    await api.put(kinds.NODES, node_doc("a"))
    await api.put(kinds.PODS, pod_doc("other", schedulerName="mine"))
    await api.put(kinds.PODS, pod_doc("gated", schedulingGates=[{"name": "g"}]))
    await api.put(kinds.PODS, pod_doc("ours"))
    await api.until(lambda: home(api, "ours") == "a")
    assert home(api, "other") == home(api, "gated") == ""
    gated = api.read(kinds.PODS, "gated", "default")
    await api.put(kinds.PODS, {**gated, "spec": {**gated["spec"], "schedulingGates": []}})
    await api.until(lambda: home(api, "gated") == "a")
    assert home(api, "other") == ""


async def test_nothing_is_overcommitted_over_refusals_and_cut_watches(api: FakeApi) -> None:
    """40 half-core pods for 4 nodes with 4 cores: 32 fit. Bindings are refused and watches cut meanwhile."""
    for n in range(4):
        await api.put(kinds.NODES, node_doc(f"n{n}"))
    for n in range(40):
        await api.put(kinds.PODS, pod_doc(f"p{n}", cpu="500m"))
        if n % 5 == 0:
            api.refuse.append(([500, 503, 409][n // 5 % 3], {}))
        if n % 7 == 0:
            api.cut_watches()
        await asyncio.sleep(0)
    await api.until(lambda: sum(bool(home(api, f"p{n}")) for n in range(40)) == 32, 30)
    await api.until(lambda: sum(bool(condition(api, f"p{n}")) for n in range(40) if not home(api, f"p{n}")) == 8, 30)
    per_node = [sum(home(api, f"p{n}") == f"n{m}" for n in range(40)) for m in range(4)]
    assert per_node == [8, 8, 8, 8]


async def test_one_unreadable_pod_or_node_does_not_stop_the_others(api: FakeApi) -> None:
    await api.put(kinds.NODES, node_doc("bad", cpu="many"))
    await api.put(kinds.NODES, node_doc("a"))
    await api.put(kinds.PODS, pod_doc("bad", cpu="lots"))
    await api.put(kinds.PODS, pod_doc("good"))
    await api.until(lambda: home(api, "good") == "a")
    await api.until(lambda: "cannot read the pod's requests" in condition(api, "bad").get("message", ""))


async def test_a_pod_of_the_same_name_is_another_pod(api: FakeApi) -> None:
    await api.put(kinds.NODES, node_doc("a", cpu="1"))
    await api.put(kinds.PODS, pod_doc("p", cpu="1"))
    await api.until(lambda: home(api, "p") == "a")
    await api.drop(kinds.PODS, "p", "default")
    again = pod_doc("p", cpu="1")
    again["metadata"]["uid"] = "another"
    await api.put(kinds.PODS, again)
    await api.until(lambda: home(api, "p") == "a")


async def test_our_own_condition_is_no_reason_to_try_again(api: FakeApi) -> None:
    """Found with kubectl describe: FailedScheduling twice within milliseconds, because the condition's own write woke the pod."""
    for n in range(3):
        await api.put(kinds.PODS, pod_doc(f"p{n}"))
        await api.until(lambda n=n: condition(api, f"p{n}"))
    await api.until(lambda: len(api.all(kinds.EVENTS)) == 3)
    assert [e["count"] for e in api.all(kinds.EVENTS)] == [1, 1, 1]
