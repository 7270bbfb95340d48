"""The scheduler at work: informers feed the snapshot and the queue; each pod in turn is decided, assumed and bound, many bindings in flight.

Owns every write the scheduler makes (bindings, PodScheduled conditions, Events) and no rule: those are in decide and explain. Invariant: a pod counts on a node from
the decision until the API server has said that it is not there, so that what is in flight is never given away twice. Started by __main__.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable
from typing import Any

from apiserver.api import errors, kinds, timestamps, types
from apiserver.client.client import Client
from apiserver.client.events import EventRecorder
from apiserver.client.informer import Informer
from apiserver.client.requests import ServerUnreachable
from scheduler import requests
from scheduler.decide import Decision, decide
from scheduler.explain import Refusal, explain
from scheduler.queue import PodQueue
from scheduler.requests import PodRequest
from scheduler.snapshot import Snapshot

__all__ = ["Scheduler"]

log = logging.getLogger("scheduler")
LIVE_PODS = "status.phase!=Succeeded,status.phase!=Failed"
MAX_REMEMBERED = 256


class Scheduler:
    """`now` wall seconds (conditions, Events), `clock` monotonic seconds (back-off), `rng` breaks ties. `in_flight` bindings at once."""

    def __init__(
        self,
        client: Client,
        *,
        name: str = "default-scheduler",
        in_flight: int = 32,
        rng: random.Random | None = None,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.client, self.name = client, name
        self._rng, self._now, self._clock = rng or random.Random(), now, clock
        self.snapshot, self.queue = Snapshot(), PodQueue()
        self.recorder = EventRecorder(client, name, now, senders=1)  # behind the bindings, not beside them
        self.pods = Informer(client, kinds.PODS, field_selector=LIVE_PODS, decode=types.Pod)
        self.nodes = Informer(client, kinds.NODES, decode=types.Node)
        self.pods.add_handler(self._on_pod)
        self.nodes.add_handler(self._on_node)
        self._refusals: dict[tuple[object, ...], Refusal] = {}
        self._seen_generation = -1
        self._wake = asyncio.Event()
        self._slots = asyncio.Semaphore(in_flight)
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Until cancelled."""
        background = [asyncio.ensure_future(job) for job in (self.pods.run(), self.nodes.run(), self.recorder.run())]
        try:
            await self.nodes.synced()
            await self.pods.synced()
            log.info("ready: %d nodes, %d pods waiting", self.snapshot.known, len(self.queue))
            while True:
                key = self._next()
                if key is None:
                    await self._pause()
                    continue
                await self._slots.acquire()
                if not self._attempt(key):
                    self._slots.release()
                await asyncio.sleep(0)
        finally:
            for task in (*background, *self._tasks):
                task.cancel()
            await asyncio.gather(*background, *self._tasks, return_exceptions=True)

    # what changed
    def _on_node(self, old: types.Node | None, new: types.Node | None) -> None:
        if new is None:
            assert old is not None
            self.snapshot.remove_node(old.metadata.name)
        else:
            self.snapshot.set_node(new)
        self._wake.set()

    def _on_pod(self, old: types.Pod | None, new: types.Pod | None) -> None:
        if old is not None and (new is None or new.metadata.uid != old.metadata.uid):
            self.snapshot.remove_pod(old.metadata.uid)
            self.queue.remove(old.metadata.key)
        if new is not None:
            self._see_pod(old, new)
        self._wake.set()

    def _see_pod(self, old: types.Pod | None, new: types.Pod) -> None:
        key, node = new.metadata.key, new.spec.node_name
        if new.status.phase in ("Succeeded", "Failed"):
            self.snapshot.remove_pod(new.metadata.uid)
            self.queue.remove(key)
        elif node:
            self.queue.remove(key)
            same = old is not None and old.spec.node_name == node and old.metadata.generation == new.metadata.generation and self.snapshot.homes.get(new.metadata.uid) == node
            if not same:
                self.snapshot.place(requests.from_pod(new), node)
        elif self._ours(new):
            if old is None or old.spec != new.spec or old.metadata.uid != new.metadata.uid or not self._ours(old):  # a new status alone (our own words) is no reason to try again
                self.queue.add(key, new.spec.priority)
        else:
            self.queue.remove(key)

    def _ours(self, pod: types.Pod) -> bool:
        return pod.spec.scheduler_name in (self.name, "") and not pod.metadata.deletion_timestamp and not pod.spec.scheduling_gates and not pod.spec.node_name

    # what is next
    def _next(self) -> str | None:
        if self.snapshot.generation != self._seen_generation:
            self._seen_generation = self.snapshot.generation
            self._refusals.clear()
            self.queue.wake_all(self._clock())
        return self.queue.pop(self._clock())

    async def _pause(self) -> None:
        self._wake.clear()
        due = self.queue.next_due_s()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(None if due is None else max(due - self._clock(), 0.001)):
                await self._wake.wait()

    def _attempt(self, key: str) -> bool:
        """Decides about one pod. True: a task has taken over the caller's slot."""
        pod = self.pods.store.get(key)
        if pod is None or not self._ours(pod):
            self.queue.remove(key)
            return False
        try:
            request = requests.from_pod(pod)
        except errors.BadRequest as e:
            self.queue.park(key, self._clock())
            self._start(self._report(pod, f"cannot read the pod's requests: {e}"))
            return True
        refusal = self._refusals.get(request.needs) if self._refusals else None
        decision = Decision("") if refusal else decide(request, self.snapshot, self._rng)
        if decision.node:
            self.snapshot.place(request, decision.node)
            self._start(self._bind(pod, request, decision))
        else:
            refusal = refusal or explain(request, self.snapshot)
            if len(self._refusals) < MAX_REMEMBERED:
                self._refusals[request.needs] = refusal
            self.queue.park(key, self._clock())
            log.info("%s fits nowhere: %s", key, refusal.message)
            self._start(self._report(pod, refusal.message))
        return True

    def _start(self, job: Any) -> None:
        task = asyncio.ensure_future(job)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._slots.release()
        if not task.cancelled() and task.exception() is not None:
            log.error("a binding or a report failed", exc_info=task.exception())

    # writes
    async def _bind(self, pod: types.Pod, request: PodRequest, decision: Decision) -> None:
        key, meta = request.key, pod.metadata
        binding = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": meta.name, "namespace": meta.namespace, "uid": meta.uid},
            "target": {"apiVersion": "v1", "kind": "Node", "name": decision.node},
        }
        try:
            await self.client.create(kinds.PODS, binding, meta.namespace, name=meta.name, subresource="binding")
        except (ServerUnreachable, errors.Timeout, errors.InternalError) as e:
            await self._settle(request, decision.node, e)
        except errors.ApiError as e:
            await self._give_up(request, decision.node, e, pod)
        except BaseException:
            self.snapshot.remove_pod(request.uid)
            self.queue.retry(key, self._clock())
            raise
        else:
            log.info("%s → %s (score %d, %d of %d nodes looked at)", key, decision.node, decision.rank[2], decision.looked_at, self.snapshot.known)
            self.recorder.event(kinds.PODS, pod, "Normal", "Scheduled", f"Successfully assigned {key} to {decision.node}")

    async def _give_up(self, request: PodRequest, node: str, why: errors.ApiError, pod: types.Pod) -> None:
        """The API server refused: the pod is gone, bound by somebody else, or the node is."""
        delay = self.queue.retry(request.key, self._clock())
        current = self.pods.store.get(request.key)
        if current is None or current.metadata.uid != request.uid or not current.spec.node_name:
            self.snapshot.remove_pod(request.uid)
        log.warning("%s was not bound to %s: %s; again in %.0f s if it still waits", request.key, node, why, delay)
        if not isinstance(why, errors.NotFound | errors.Conflict):
            self.recorder.event(kinds.PODS, pod, "Warning", "FailedScheduling", f"binding rejected: {why}")
        self._wake.set()

    async def _settle(self, request: PodRequest, node: str, why: Exception) -> None:
        """No answer: the binding may stand. The pod goes on counting until the API server tells what it has."""
        log.warning("%s: no answer to its binding to %s (%s); asking", request.key, node, why)
        namespace, _, name = request.key.rpartition("/")
        delay = 0.2
        while True:
            await asyncio.sleep(delay)
            delay = min(delay * 2, 5.0)
            try:
                current = await self.client.get(kinds.PODS, name, namespace)
            except errors.NotFound:
                current = None
            except errors.ApiError:
                continue
            if current is not None and current["metadata"]["uid"] == request.uid and current["spec"].get("nodeName"):
                return  # the informer brings it
            self.snapshot.remove_pod(request.uid)
            self.queue.retry(request.key, self._clock())
            self._wake.set()
            return

    async def _report(self, pod: types.Pod, message: str) -> None:
        """FailedScheduling, and PodScheduled=False where the pod does not say so already."""
        self.recorder.event(kinds.PODS, pod, "Warning", "FailedScheduling", message)
        old = next((c for c in pod.status.conditions if c.type == "PodScheduled"), None)
        if old is not None and (old.status, old.reason, old.message) == ("False", "Unschedulable", message):
            return
        since = old.last_transition_time if old is not None and old.status == "False" and old.last_transition_time else timestamps.format_time(self._now())
        condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message, "lastProbeTime": None, "lastTransitionTime": since}
        patch = {"metadata": {"uid": pod.metadata.uid}, "status": {"conditions": [condition]}}
        try:
            await self.client.patch(kinds.PODS, pod.metadata.name, patch, pod.metadata.namespace, type="strategic", subresource="status")
        except errors.NotFound:
            return
        except errors.ApiError as e:
            log.warning("%s: PodScheduled=False not written: %s", pod.metadata.key, e)
