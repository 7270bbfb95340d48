"""One worker per pod: observe → plan → launch, and again when something has changed; beside it a publisher that writes the status. No pod holds up another.

Pods (the set of workers) is fed by the informer, the runtime view and the volume sources. Called by agent.__main__ and the node's server.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from typing import Any

from agent import observe, plan, podspec, probes, status
from agent.execute import ActionError, Executor, PodMemory
from agent.images import model
from agent.observe import Failure, Observed
from agent.runtime import cri
from apiserver.api import errors, kinds
from apiserver.client.client import Client

log = logging.getLogger("agent")
JOIN_S = 0.15  # statuses that nobody waits for are joined for so long
RETRY_S = {"volumes": (0.5, 120.0), "sandbox": (1.0, 60.0), "pull": (10.0, 300.0), "start": (5.0, 60.0), "stop": (1.0, 10.0), "cleanup": (1.0, 30.0), "delete": (0.5, 10.0)}
EVENT_OF_FAILURE = ("FailedMount", "FailedCreatePodSandBox", "FailedKillPod")


@dataclass(frozen=True, slots=True)
class Settings:
    backoff: plan.RestartBackoff
    addresses: status.NodeAddresses


class PodWorker:
    """Owns one pod (by uid) from its first sight until nothing of it is left on the node."""

    def __init__(self, pod: podspec.Pod, executor: Executor, client: Client, settings: Settings, vanished_grace_s: float | None = None) -> None:
        self.pod = pod
        self.uid = podspec.uid(pod)
        self.vanished = vanished_grace_s is not None
        self._vanished_grace_s = plan.VANISHED_GRACE_S if vanished_grace_s is None else vanished_grace_s
        self._executor, self._client, self._settings = executor, client, settings
        self._parts = executor.parts
        self.memory = PodMemory()
        adopted = executor.adopted(self.uid)
        if adopted and any(s.config.id == adopted for s in self._parts.view.sandboxes(self.uid)):
            self.memory.networked = adopted
        self._adopted_ready = {c["containerID"].removeprefix("minik://"): bool(c.get("ready")) for c in (pod.get("status") or {}).get("containerStatuses") or () if c.get("containerID")}
        self._prober = probes.Prober(self._parts.runtime, self._parts.now, self.wake, lambda c, m: self._record("Warning", "Unhealthy", m, c))
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._failures: dict[str, Failure] = {}
        self._wake, self._dirty, self._urgent = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._final: dict[str, Any] | None = None
        self._known_status: Mapping[str, Any] = pod.get("status") or {}
        self._publishing = asyncio.Lock()

    # --- what others tell

    def wake(self) -> None:
        self._wake.set()

    def update(self, pod: podspec.Pod) -> None:
        """A newer state of the pod from the API."""
        before, self.pod = self.pod, _newer(self.pod, pod)
        if before["metadata"].get("labels") != pod["metadata"].get("labels") or before["metadata"].get("annotations") != pod["metadata"].get("annotations"):
            self.refresh_volumes()
        self.wake()

    def vanish(self) -> None:
        """The pod is gone from the API."""
        self.vanished = True
        asked = self.pod["metadata"].get("deletionGracePeriodSeconds")
        if self.pod["metadata"].get("deletionTimestamp") and asked is not None:
            self._vanished_grace_s = max(float(asked), plan.VANISHED_GRACE_S)
        self.wake()

    def refresh_volumes(self) -> None:
        """Content that volumes or environments show may have changed: look now, also where the last try failed."""
        for key in [k for k, f in self._failures.items() if k == "volumes" or (k.startswith("start/") and f.reason == "CreateContainerConfigError")]:
            del self._failures[key]
        if self.memory.volume_paths is not None and "volumes" not in self._tasks and not self._desired().terminating:
            self._launch("volumes", self._executor.mount_volumes(self.pod, self.memory))
        self.wake()

    # --- the loop

    async def run(self) -> None:
        """Until nothing of the pod is left."""
        publisher = asyncio.create_task(self._publish_loop())
        try:
            while not self._done():
                self._wake.clear()
                try:
                    wake_at = self._pass()
                except Exception:
                    log.exception("pod %s: planning failed", podspec.key(self.pod))
                    wake_at = self._parts.now() + 5
                timeout = None if wake_at is None else max(wake_at - self._parts.now(), 0.0)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(timeout):
                        await self._wake.wait()
        finally:
            self._prober.close()
            publisher.cancel()
            for task in self._tasks.values():
                task.cancel()
            await asyncio.gather(publisher, *self._tasks.values(), return_exceptions=True)

    def _done(self) -> bool:
        return self.memory.cleaned and (self.memory.deleted or self.vanished) and not self._tasks

    def _desired(self) -> plan.Desired:
        return plan.Desired(self.pod, self.vanished, self._vanished_grace_s)

    def _pass(self) -> float | None:
        now = self._parts.now()
        observed = self.observe()
        made = plan.plan_pod(self._desired(), observed, now, self._settings.backoff)
        if any(isinstance(a, plan.CleanUp) for a in made.actions) and self._final is None:
            self._final = self._render(observed)
        for action in made.actions:
            self._perform(action)
        self._probe(observed)
        self._touch(observed)
        times = [t for t in (made.wake_at, status.next_change_at(observed, now), self._renew_at(now)) if t is not None]
        return min(times, default=None)

    def _renew_at(self, now: float) -> float | None:
        """When a token is due; renewing starts here once it is."""
        at = None if self._desired().terminating else self._parts.volumes.renew_at(self.uid)
        if at is not None and at <= now and "volumes" not in self._tasks and self.memory.volume_paths is not None:
            self._launch("volumes", self._executor.mount_volumes(self.pod, self.memory))
            return now + 60
        return max(at, now + 1) if at is not None else None

    def observe(self) -> Observed:
        """The pod as it is now."""
        view, memory = self._parts.view, self.memory
        sandboxes, containers = view.sandboxes(self.uid), view.containers(self.uid)
        sandbox = sandboxes[-1] if sandboxes else None
        for gone in memory.messages.keys() - {c.id for c in containers}:
            del memory.messages[gone]
        for container in containers:
            if container.state == "exited":
                memory.stopping.pop(container.id, None)
                if container.id not in memory.messages:
                    memory.messages[container.id] = self._executor.termination_message(self.pod, container)
        networked = sandbox is not None and (memory.networked == sandbox.config.id or sandbox.config.host_network)
        return Observed(
            sandbox=sandbox, networked=networked, containers=containers, volumes_ready=memory.volume_paths is not None, images=self._images(containers), pulls=dict(memory.pulls),
            failures=dict(self._failures), in_flight=frozenset(self._tasks), stopping=dict(memory.stopping), probes=self._prober.verdicts, messages=memory.messages,
            cleaned=memory.cleaned, deleted=memory.deleted,
        )  # fmt: skip

    def observe_containers(self) -> tuple[cri.ContainerStatus, ...]:
        """The runtime's containers of the pod, as last heard."""
        return self._parts.view.containers(self.uid)

    def _images(self, containers: tuple[cri.ContainerStatus, ...]) -> dict[str, str]:
        """Of the containers that do not run: which images are there."""
        running = {c.labels.get(observe.LABEL_CONTAINER) for c in containers if c.state == "running"}
        found = {}
        for container in podspec.containers(self.pod):
            if container.name not in running and container.image not in found:
                try:
                    image = self._parts.images.resolve(container.image)
                except model.InvalidReference:
                    continue
                if image is not None:
                    found[container.image] = image.id
        return found

    def _perform(self, action: plan.Action) -> None:
        run, pod, memory = self._executor, self.pod, self.memory
        match action:
            case plan.Cancel(target=target):
                task = self._tasks.get(target)
                if task is not None:
                    task.cancel()
            case plan.MountVolumes():
                self._launch(action.key, run.mount_volumes(pod, memory))
            case plan.RunSandbox():
                self._launch(action.key, run.run_sandbox(pod, memory))
            case plan.StopSandbox():
                self._launch(action.key, self._stop_sandbox(action.sandbox_id))
            case plan.PullImage():
                self._launch(action.key, run.pull_image(pod, memory, action))
            case plan.StartContainer():
                self._launch(action.key, run.start_container(pod, memory, action))
            case plan.StopContainer():
                self._launch(action.key, run.stop_container(pod, memory, action))
            case plan.RemoveContainer():
                self._launch(action.key, run.remove_container(pod, action.container_id))
            case plan.CleanUp():
                self._prober.close()
                self._launch(action.key, run.clean_up(pod, memory))
            case plan.DeletePod():
                self._launch(action.key, self._delete())

    async def _stop_sandbox(self, sandbox_id: str) -> None:
        sandbox = next((s for s in self._parts.view.sandboxes(self.uid) if s.config.id == sandbox_id), None)
        if sandbox is not None:
            try:
                await self._executor.stop_sandbox(sandbox)
            except OSError as e:
                raise ActionError("FailedKillPod", f"error stopping the sandbox: {e}") from e

    def _launch(self, key: str, action: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(self._guarded(key, action))
        self._tasks[key] = task
        task.add_done_callback(lambda _: self._ended(key, task))

    def _ended(self, key: str, task: asyncio.Task[None]) -> None:
        if self._tasks.get(key) is task:
            del self._tasks[key]
        self._wake.set()

    async def _guarded(self, key: str, action: Coroutine[Any, Any, None]) -> None:
        try:
            await action
        except ActionError as e:
            self._failed(key, e.reason, str(e))
        except asyncio.CancelledError:
            action.close()
        except Exception as e:
            log.exception("pod %s: %s", podspec.key(self.pod), key)
            self._failed(key, "InternalError", f"{type(e).__name__}: {e}")
        else:
            self._failures.pop(key, None)

    def _failed(self, key: str, reason: str, message: str) -> None:
        kind, _, name = key.partition("/")
        first, most = RETRY_S.get(kind, (1.0, 60.0))
        before = self._failures.get(key)
        count = before.count + 1 if before is not None else 1
        now = self._parts.now()
        delay = min(first * 2 ** (count - 1), most)
        self._failures[key] = Failure(reason, message, count, now, now + delay)
        log.warning("pod %s: %s: %s: %s (again in %g s)", podspec.key(self.pod), key, reason, message, delay)
        if kind == "pull":
            text = f'Failed to pull image "{self._image_of(name)}": {message}' if reason == "ErrImagePull" else message
            self._record("Warning", "Failed" if reason == "ErrImagePull" else "InspectFailed", text, name)
            self._record("Warning", "Failed", f"Error: {reason}", name)
        elif kind == "start":
            self._record("Warning", "Failed", f"Error: {message}", name)
        elif reason in EVENT_OF_FAILURE:
            self._record("Warning", reason, message)

    def _image_of(self, container: str) -> str:
        return next((c.image for c in podspec.containers(self.pod) if c.name == container), "")

    def _record(self, kind: str, reason: str, message: str, container: str = "") -> None:
        self._parts.record(self.pod, kind, reason, message, container)

    def _probe(self, observed: Observed) -> None:
        if self.memory.cleaned or self._final is not None:
            return
        specs = {c.name: c for c in podspec.containers(self.pod)}
        targets = []
        for container in observed.containers:
            spec = specs.get(container.labels.get(observe.LABEL_CONTAINER, ""))
            if spec is not None and container.state == "running" and container.id not in observed.stopping:
                targets.append(probes.Target(container.id, self._executor.pod_ip(self.pod), spec.spec, container.started_at))
        self._prober.sync(targets, self._adopted_ready)

    # --- status

    def _render(self, observed: Observed) -> dict[str, Any]:
        return status.render_status(self._desired(), observed, self._parts.now(), self._settings.addresses, self._settings.backoff)

    def _touch(self, observed: Observed) -> None:
        """Have the publisher look; at once where somebody waits for the change."""
        rendered = self._final if self._final is not None else self._render(observed)
        for event in status.events_between(self.pod, self._known_status, rendered):
            self._record(event.type, event.reason, event.message, event.container)
        self._known_status = rendered
        if self.vanished or status.render_patch(self.pod, rendered) is None:
            return
        if status.is_urgent(self.pod, rendered):
            self._urgent.set()
        self._dirty.set()

    async def _publish_loop(self) -> None:
        while True:
            await self._dirty.wait()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(JOIN_S):
                    await self._urgent.wait()
            self._dirty.clear()
            self._urgent.clear()
            try:
                await self.publish()
            except (errors.ApiError, OSError) as e:
                log.warning("pod %s: cannot write its status: %s", podspec.key(self.pod), e)
                await asyncio.sleep(1)
                self._dirty.set()
            except Exception:
                log.exception("pod %s: status", podspec.key(self.pod))
                await asyncio.sleep(5)
                self._dirty.set()

    async def publish(self) -> None:
        """Write the status if it differs from the API's. Raises ApiError, OSError."""
        async with self._publishing:
            if self.vanished:
                return
            rendered = self._final if self._final is not None else self._render(self.observe())
            patch = status.render_patch(self.pod, rendered)
            if patch is None:
                return
            meta = self.pod["metadata"]
            try:
                written = await self._client.patch(kinds.PODS, meta["name"], patch, meta.get("namespace", ""), type="strategic", subresource="status")
            except (errors.NotFound, errors.Conflict):
                return  # gone, or another pod of that name: the informer will say
            self.pod = _newer(self.pod, written)

    async def _delete(self) -> None:
        meta = self.pod["metadata"]
        options = {"gracePeriodSeconds": 0, "preconditions": {"uid": self.uid}}
        try:
            await self.publish()
            with contextlib.suppress(errors.NotFound, errors.Conflict):
                await self._client.delete(kinds.PODS, meta["name"], meta.get("namespace", ""), options)
        except (errors.ApiError, OSError) as e:
            raise ActionError("FailedDelete", str(e)) from e
        self.memory.deleted = True


def _newer(held: podspec.Pod, came: podspec.Pod) -> podspec.Pod:
    """Of two states of one pod the later one: revisions here are numbers that grow."""
    before, after = held["metadata"].get("resourceVersion", ""), came["metadata"].get("resourceVersion", "")
    if before.isdigit() and after.isdigit() and int(after) < int(before):
        return held
    return came


class Pods:
    """All workers of the node."""

    def __init__(self, executor: Executor, client: Client, settings: Settings) -> None:
        self._executor, self._client, self._settings = executor, client, settings
        self._workers: dict[str, PodWorker] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def get(self, namespace: str, name: str) -> PodWorker | None:
        """The worker of the pod of that name; of several the one that is not vanished."""
        found = [w for w in self._workers.values() if podspec.key(w.pod) == f"{namespace}/{name}"]
        return min(found, key=lambda w: w.vanished, default=None)

    def all(self) -> list[PodWorker]:
        return list(self._workers.values())

    def changed(self, old: podspec.Pod | None, new: podspec.Pod | None) -> None:
        """The informer's handler."""
        if old is not None and (new is None or podspec.uid(old) != podspec.uid(new)):
            worker = self._workers.get(podspec.uid(old))
            if worker is not None:
                worker.vanish()
        if new is not None:
            worker = self._workers.get(podspec.uid(new))
            if worker is not None:
                worker.update(new)
            else:
                self._start(PodWorker(new, self._executor, self._client, self._settings))

    def adopt_orphans(self) -> None:
        """After the informer's first list: what runs for pods that the API no longer knows is brought to its end."""
        view = self._executor.parts.view
        for uid in view.uids() - set(self._workers):
            labels, annotations = _labels_of(view, uid)
            meta = {"name": labels.get(observe.LABEL_POD_NAME, uid), "namespace": labels.get(observe.LABEL_POD_NAMESPACE, ""), "uid": uid}
            pod = {"metadata": meta, "spec": {"containers": []}, "status": {}}
            log.info("pod %s/%s (%s) is gone from the API: stopping what runs", meta["namespace"], meta["name"], uid)
            grace = float(annotations.get(observe.ANNOTATION_GRACE) or podspec.DEFAULT_GRACE_S)
            self._start(PodWorker(pod, self._executor, self._client, self._settings, vanished_grace_s=grace))
        for uid in self._executor.parts.volumes.orphans(set(self._workers)):
            try:
                self._executor.parts.volumes.tear_down(uid)
            except OSError as e:
                log.warning("cannot remove what is left of pod %s: %s", uid, e)
        self._executor.remove_logs_except(set(self._workers))

    def wake(self, uid: str) -> None:
        """The runtime view's callback."""
        worker = self._workers.get(uid)
        if worker is not None:
            worker.wake()

    def wake_all(self) -> None:
        for worker in self._workers.values():
            worker.wake()

    def source_changed(self, kind: str, namespace: str, name: str) -> None:
        """The volume sources' callback."""
        for uid in self._executor.parts.sources.users(kind, namespace, name):
            worker = self._workers.get(uid)
            if worker is not None:
                worker.refresh_volumes()

    async def close(self) -> None:
        """Stops looking after pods; containers go on."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _start(self, worker: PodWorker) -> None:
        self._workers[worker.uid] = worker
        task = asyncio.get_running_loop().create_task(self._run(worker))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, worker: PodWorker) -> None:
        try:
            await worker.run()
            log.info("pod %s: gone", podspec.key(worker.pod))
        except Exception:
            log.exception("pod %s: its worker ended", podspec.key(worker.pod))
        finally:
            self._workers.pop(worker.uid, None)


def _labels_of(view: observe.RuntimeView, uid: str) -> tuple[Mapping[str, str], Mapping[str, str]]:
    for sandbox in view.sandboxes(uid):
        return sandbox.config.labels, sandbox.config.annotations
    for container in view.containers(uid):
        return container.labels, container.annotations
    return {}, {}
