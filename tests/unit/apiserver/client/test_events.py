from __future__ import annotations

import asyncio

from apiserver.api import kinds
from apiserver.client.client import Client
from apiserver.client.events import EventRecorder
from tests.fakes.api import FakeApi

POD = {"metadata": {"name": "p", "namespace": "web", "uid": "u1", "resourceVersion": "5"}}


async def test_repeated_events_are_counted_on_one_object(client: Client, api: FakeApi) -> None:
    t = [1000.0]
    recorder = EventRecorder(client, "scheduler", lambda: t[0])
    task = asyncio.ensure_future(recorder.run())
    recorder.event(kinds.PODS, POD, "Warning", "FailedScheduling", "no room")
    assert await recorder.flush()
    t[0] += 60
    for _ in range(3):
        recorder.event(kinds.PODS, POD, "Warning", "FailedScheduling", "no room")
    recorder.event(kinds.PODS, POD, "Normal", "Scheduled", "done")
    assert await recorder.flush()
    events = {e["reason"]: e for e in api.all(kinds.EVENTS)}
    assert len(events) == 2
    failed = events["FailedScheduling"]
    assert (failed["count"], failed["firstTimestamp"], failed["lastTimestamp"]) == (4, "1970-01-01T00:16:40Z", "1970-01-01T00:17:40Z")
    assert failed["involvedObject"] == {"kind": "Pod", "apiVersion": "v1", "name": "p", "namespace": "web", "uid": "u1", "resourceVersion": "5"}
    assert failed["source"] == {"component": "scheduler"} and failed["metadata"]["namespace"] == "web"
    task.cancel()


async def test_transient_refusals_lose_nothing_and_final_ones_do_not_block(client: Client, api: FakeApi) -> None:
    recorder = EventRecorder(client, "x", senders=1)
    api.refuse += [(503, {}), (500, {})]
    task = asyncio.ensure_future(recorder.run())
    recorder.event(kinds.PODS, POD, "Normal", "A", "a")
    assert await recorder.flush(5)
    api.refuse.append((403, {}))
    recorder.event(kinds.PODS, POD, "Normal", "B", "b")
    recorder.event(kinds.PODS, POD, "Normal", "C", "c")
    assert await recorder.flush(5)
    assert [e["reason"] for e in api.all(kinds.EVENTS)] == ["A", "C"]
    task.cancel()


async def test_an_event_whose_hour_is_over_is_written_anew(client: Client, api: FakeApi) -> None:
    t = [1000.0]
    recorder = EventRecorder(client, "x", lambda: t[0])
    task = asyncio.ensure_future(recorder.run())
    recorder.event(kinds.PODS, POD, "Normal", "A", "a")
    assert await recorder.flush()
    (old,) = api.all(kinds.EVENTS)
    await api.drop(kinds.EVENTS, old["metadata"]["name"], "web")
    t[0] += 4000
    recorder.event(kinds.PODS, POD, "Normal", "A", "a")
    assert await recorder.flush()
    (new,) = api.all(kinds.EVENTS)
    assert new["metadata"]["name"] != old["metadata"]["name"] and new["count"] == 1 and new["firstTimestamp"] == new["lastTimestamp"]
    task.cancel()


async def test_a_flood_about_one_object_is_bounded(client: Client, api: FakeApi) -> None:
    recorder = EventRecorder(client, "x", lambda: 1000.0, burst=5)
    task = asyncio.ensure_future(recorder.run())
    for n in range(50):
        recorder.event(kinds.PODS, POD, "Normal", "A", f"message {n}")
    assert await recorder.flush()
    assert len(api.all(kinds.EVENTS)) == 5
    task.cancel()
