"""Performs planned actions: the one place that composes runtime, images, network and volumes. Each action raises ActionError with the reason and text of its event.

Called by workers, one PodMemory per pod; nothing here decides what is to be done.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import signal
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from agent import credentials, downward, environment, hooks, observe, plan, podspec, probes, translate
from agent.images import model, reference
from agent.network.addresses import AddressesExhausted, AddressPool
from agent.runtime import cri
from agent.volumes import subpath
from agent.volumes.payload import VolumeError
from agent.volumes.sources import Sources
from agent.volumes.volumes import Volumes
from apiserver.api import errors

log = logging.getLogger("agent")
TERMINATION_LOG = "/dev/termination-log"
MIN_GRACE_AFTER_HOOK_S = 2.0


class ActionError(Exception):
    """An action failed: `reason` for status and event, the text for both."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Network(Protocol):
    def attach(self, netns_fd: int, ip: str, name_seed: str) -> None: ...
    def detach(self, ip: str, name_seed: str) -> None: ...


class Images(Protocol):
    def resolve(self, reference: str) -> model.Image | None: ...


Pull = Callable[[str, model.Auth | None], Awaitable[model.Image]]
Record = Callable[[podspec.Pod, str, str, str, str], None]  # pod, type, reason, message, container


@dataclass
class Parts:
    """What the agent is wired from (agent.__main__ builds the real ones). `network` and `addresses` are set once the node has its pod CIDR."""

    runtime: cri.RuntimeService
    view: observe.RuntimeView
    images: Images
    pull: Pull
    volumes: Volumes
    sources: Sources
    node: translate.NodeFacts
    data_dir: str
    dns: translate.Dns
    services: Callable[[str, bool], Mapping[str, str]]
    record: Record
    now: Callable[[], float]
    new_id: Callable[[], str]
    network: Network | None = None
    addresses: AddressPool | None = None


@dataclass
class PodMemory:
    """What the agent remembers of one pod beyond the runtime's records; all of it can be found again after a restart."""

    volume_paths: dict[str, str] | None = None
    networked: str = ""  # the sandbox that has its address
    pulls: dict[str, int] = field(default_factory=dict)
    stopping: dict[str, float] = field(default_factory=dict)
    messages: dict[str, str] = field(default_factory=dict)
    cleaned: bool = False
    deleted: bool = False


class Executor:
    def __init__(self, parts: Parts) -> None:
        self.parts = parts

    # --- paths

    def pod_dir(self, uid: str) -> str:
        return os.path.join(self.parts.data_dir, "pods", uid)

    def log_dir(self, pod: podspec.Pod) -> str:
        meta = pod["metadata"]
        return os.path.join(self.parts.data_dir, "logs", f"{meta.get('namespace', '')}_{meta['name']}_{meta['uid']}")

    def remove_logs_except(self, uids: set[str]) -> None:
        """Log folders of pods that went while nobody looked."""
        top = os.path.join(self.parts.data_dir, "logs")
        for name in os.listdir(top) if os.path.isdir(top) else ():
            if name.count("_") == 2 and name.rpartition("_")[2] not in uids:
                shutil.rmtree(os.path.join(top, name), ignore_errors=True)

    def message_file(self, uid: str, container: str, container_id: str) -> str:
        return os.path.join(self.pod_dir(uid), "containers", container, container_id)

    def facts(self, pod: podspec.Pod) -> downward.Facts:
        return downward.Facts(self.pod_ip(pod), self.parts.node.ips, self.parts.node.allocatable)

    def pod_ip(self, pod: podspec.Pod) -> str:
        if pod["spec"].get("hostNetwork"):
            return self.parts.node.ips[0] if self.parts.node.ips else ""
        sandboxes = self.parts.view.sandboxes(podspec.uid(pod))
        return sandboxes[-1].config.annotations.get(observe.ANNOTATION_IP, "") if sandboxes else ""

    # --- sandbox

    async def run_sandbox(self, pod: podspec.Pod, memory: PodMemory) -> None:
        """Raises ActionError(FailedCreatePodSandBox)."""
        parts, uid = self.parts, podspec.uid(pod)
        try:
            for old in parts.view.sandboxes(uid):
                if old.state == "ready":
                    await self.stop_sandbox(old)
            host_network = bool(pod["spec"].get("hostNetwork"))
            ip = "" if host_network else self._allocate()
        except (OSError, AddressesExhausted) as e:
            raise ActionError("FailedCreatePodSandBox", f"Failed to create pod sandbox: {e}") from e
        config = translate.sandbox_config(pod, parts.new_id(), ip, parts.node)
        try:
            status = await parts.runtime.run_sandbox(config)
            if ip:
                await self._attach(config.id, ip)
            self._write_files(pod, ip or (parts.node.ips[0] if parts.node.ips else ""), config.id)
        except BaseException as e:
            with contextlib.suppress(OSError):
                await parts.runtime.remove_sandbox(config.id)
            self._release(config.id, ip)
            if isinstance(e, OSError):
                raise ActionError("FailedCreatePodSandBox", f"Failed to create pod sandbox: {e}") from e
            raise
        memory.networked = config.id
        parts.view.saw_sandbox(status)

    def _allocate(self) -> str:
        if self.parts.network is None or self.parts.addresses is None:
            raise OSError("network is not ready: the node has no pod CIDR yet")
        return self.parts.addresses.allocate()

    async def _attach(self, sandbox_id: str, ip: str) -> None:
        assert self.parts.network is not None
        fd = await self.parts.runtime.sandbox_netns(sandbox_id)
        try:
            self.parts.network.attach(fd, ip, sandbox_id)
        finally:
            os.close(fd)

    def _write_files(self, pod: podspec.Pod, ip: str, sandbox_id: str) -> None:
        """hosts, resolv.conf, hostname; and, last, the mark that the sandbox has its address (adopted() reads it)."""
        folder, node = self.pod_dir(podspec.uid(pod)), self.parts.node
        os.makedirs(folder, 0o700, exist_ok=True)
        files = {
            "hosts": translate.etc_hosts(pod, ip, node.name), "resolv.conf": translate.resolv_conf(pod, self.parts.dns),
            "hostname": translate.hostname(pod, node.name) + "\n", "sandbox": sandbox_id,
        }  # fmt: skip
        for name, text in files.items():
            path = os.path.join(folder, name)
            with open(path, "w") as f:
                f.write(text)
            os.chmod(path, 0o644)

    def adopted(self, uid: str) -> str:
        """The sandbox that was given its address before the agent restarted, "" if none."""
        try:
            with open(os.path.join(self.pod_dir(uid), "sandbox")) as f:
                return f.read()
        except FileNotFoundError:
            return ""

    async def stop_sandbox(self, sandbox: cri.SandboxStatus) -> None:
        """Raises OSError."""
        await self.parts.runtime.stop_sandbox(sandbox.config.id)
        self._release(sandbox.config.id, sandbox.config.annotations.get(observe.ANNOTATION_IP, ""))
        self.parts.view.sandbox_stopped(sandbox.config.labels.get(observe.LABEL_POD_UID, ""), sandbox.config.id)

    def _release(self, sandbox_id: str, ip: str) -> None:
        if not ip or self.parts.network is None or self.parts.addresses is None:
            return
        try:
            self.parts.network.detach(ip, sandbox_id)
        except OSError as e:
            log.warning("sandbox %s: cannot detach %s: %s", sandbox_id, ip, e)
        self.parts.addresses.release(ip)

    # --- volumes and images

    async def mount_volumes(self, pod: podspec.Pod, memory: PodMemory) -> None:
        """Also brings changed content in. Raises ActionError(FailedMount)."""
        try:
            memory.volume_paths = await self.parts.volumes.mount(pod, self.facts(pod))
        except VolumeError as e:
            raise ActionError("FailedMount", str(e)) from e

    async def pull_image(self, pod: podspec.Pod, memory: PodMemory, action: plan.PullImage) -> None:
        """Raises ActionError(ErrImagePull | InvalidImageName)."""
        image = action.image
        try:
            parsed = reference.parse(image)
            if parsed.is_localhost and self.parts.images.resolve(image) is not None:
                memory.pulls[action.container] = action.attempt
                self._event(pod, "Normal", "Pulled", f'Container image "{image}" already present on machine', action.container)
                return
            self._event(pod, "Normal", "Pulling", f'Pulling image "{image}"', action.container)
            began = self.parts.now()
            pulled = await self.parts.pull(image, await self._auth(pod, parsed))
        except model.InvalidReference as e:
            raise ActionError("InvalidImageName", f'Failed to apply default image tag "{image}": {e}') from e
        except (model.ImageError, errors.ApiError, OSError) as e:
            raise ActionError("ErrImagePull", str(e)) from e
        memory.pulls[action.container] = action.attempt
        took = f"{max(self.parts.now() - began, 0):.3f}s"
        text = f'Successfully pulled image "{image}" in {took} ({took} including waiting). Image size: {pulled.size_bytes} bytes.'
        self._event(pod, "Normal", "Pulled", text, action.container)

    async def _auth(self, pod: podspec.Pod, parsed: reference.Reference) -> model.Auth | None:
        uid, namespace = podspec.uid(pod), pod["metadata"].get("namespace", "")
        names = [s["name"] for s in pod["spec"].get("imagePullSecrets") or () if s.get("name")]
        secrets = [await self.parts.sources.get(uid, "Secret", namespace, name) for name in names]
        return credentials.for_registry(parsed.registry, parsed.repository, [s for s in secrets if s is not None])

    # --- containers

    async def start_container(self, pod: podspec.Pod, memory: PodMemory, action: plan.StartContainer) -> None:
        """Create, start, postStart. A command that cannot be exec'd leaves an exited container (StartError) and is no failure of the action.
        Raises ActionError(CreateContainerConfigError | CreateContainerError | RunContainerError)."""
        parts = self.parts
        container = next(c for c in podspec.containers(pod) if c.name == action.container)
        try:
            config = await self._configure(pod, memory, container, action)
        except (environment.ConfigError, VolumeError) as e:
            raise ActionError("CreateContainerConfigError", str(e)) from e
        except (errors.ApiError, OSError) as e:
            raise ActionError("CreateContainerConfigError", f"cannot read what the container needs: {e}") from e
        if memory.pulls.get(container.name) != action.attempt:
            self._event(pod, "Normal", "Pulled", f'Container image "{container.image}" already present on machine', container.name)
        try:
            parts.view.saw_container(await parts.runtime.create_container(config))
        except (OSError, ValueError) as e:
            raise ActionError("CreateContainerError", str(e)) from e
        self._event(pod, "Normal", "Created", f"Created container: {container.name}", container.name)
        try:
            status = await parts.runtime.start_container(config.id)
        except cri.StartError as e:
            self._event(pod, "Warning", "Failed", f"Error: {e}", container.name)
            parts.view.saw_container(await parts.runtime.container_status(config.id))
            return
        except OSError as e:
            raise ActionError("RunContainerError", str(e)) from e
        self._event(pod, "Normal", "Started", f"Started container {container.name}", container.name)
        hook = (container.spec.get("lifecycle") or {}).get("postStart")
        if hook:
            await self._post_start(pod, container, status, hook)
        parts.view.saw_container(status)

    async def _configure(self, pod: podspec.Pod, memory: PodMemory, container: podspec.ContainerSpec, action: plan.StartContainer) -> cri.ContainerConfig:
        parts, uid = self.parts, podspec.uid(pod)
        meta = pod["metadata"]
        image = parts.images.resolve(container.image)
        if image is None:
            raise environment.ConfigError(f'image "{container.image}" is gone from this node')
        wanted = environment.references(container.spec)
        found = await asyncio.gather(*(parts.sources.get(uid, r.kind, meta.get("namespace", ""), r.name) for r in wanted))
        objects = {(r.kind, r.name): o for r, o in zip(wanted, found, strict=True)}
        services = parts.services(meta.get("namespace", ""), pod["spec"].get("enableServiceLinks") is not False)
        container_id = parts.new_id()
        variables = {**services, **environment.render(pod, container.spec, objects, services, self.facts(pod))}
        inputs = translate.ContainerInputs(
            container=container, attempt=action.attempt, backoff_s=action.backoff_s, id=container_id, sandbox_id=parts.view.sandboxes(uid)[-1].config.id,
            pod_ip=self.pod_ip(pod), image_id=image.repo_digests[0] if image.repo_digests else image.id, image=image.config, layers=image.layers,
            mounts=self._mounts(pod, memory, container, container_id, variables), objects=objects, services=services, node=parts.node,
            log_path=os.path.join(self.log_dir(pod), container.name, f"{action.attempt}.log"),
        )  # fmt: skip
        os.makedirs(os.path.dirname(inputs.log_path), 0o755, exist_ok=True)
        return translate.container_config(pod, inputs)

    def _mounts(self, pod: podspec.Pod, memory: PodMemory, container: podspec.ContainerSpec, container_id: str, variables: Mapping[str, str]) -> list[translate.BoundVolume]:
        """volumeMounts, /etc files and the termination log. Raises VolumeError."""
        result, folder = [], self.pod_dir(podspec.uid(pod))
        for said in container.spec.get("volumeMounts") or ():
            source = (memory.volume_paths or {}).get(said["name"])
            if source is None:
                raise VolumeError(f'volumeMount "{said["name"]}": no such volume in the pod')
            sub = said.get("subPath") or environment.expand(said.get("subPathExpr") or "", variables)
            path = said["mountPath"] if said["mountPath"].startswith("/") else "/" + said["mountPath"]
            result.append(translate.BoundVolume(subpath.resolve(source, sub) if sub else source, path, bool(said.get("readOnly"))))
        taken = {m.destination for m in result}
        for name in ("hosts", "resolv.conf", "hostname"):
            if f"/etc/{name}" not in taken and not (name == "hosts" and pod["spec"].get("hostNetwork") and not pod["spec"].get("hostAliases")):
                result.append(translate.BoundVolume(os.path.join(folder, name), f"/etc/{name}"))
        message = self.message_file(podspec.uid(pod), container.name, container_id)
        os.makedirs(os.path.dirname(message), 0o755, exist_ok=True)
        os.close(os.open(message, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666))
        os.chmod(message, 0o666)
        result.append(translate.BoundVolume(message, container.spec.get("terminationMessagePath") or TERMINATION_LOG))
        return result

    def _target(self, pod: podspec.Pod, container: Mapping[str, Any], status: cri.ContainerStatus) -> probes.Target:
        return probes.Target(status.id, self.pod_ip(pod), container, status.started_at)

    async def _post_start(self, pod: podspec.Pod, container: podspec.ContainerSpec, status: cri.ContainerStatus, hook: Mapping[str, Any]) -> None:
        try:
            await hooks.run(hook, self._target(pod, container.spec, status), self.parts.runtime, podspec.grace_s(pod) or 1)
        except hooks.HookError as e:
            self._event(pod, "Warning", "FailedPostStartHook", f"PostStartHook failed: {e}", container.name)
            self._event(pod, "Normal", "Killing", "FailedPostStartHook", container.name)
            self.parts.view.saw_container(await self.parts.runtime.stop_container(status.id, podspec.grace_s(pod)))

    async def stop_container(self, pod: podspec.Pod, memory: PodMemory, action: plan.StopContainer) -> None:
        """preStop, then the stop signal, then KILL once the grace is over. Raises ActionError(FailedKillPod)."""
        parts = self.parts
        if action.container_id not in memory.stopping:
            self._event(pod, "Normal", "Killing", action.message, action.container)
            first = True
        else:
            first = False
        memory.stopping[action.container_id] = action.grace_s
        status = next((c for c in parts.view.containers(podspec.uid(pod)) if c.id == action.container_id), None)
        if status is None:
            return
        grace_s = action.grace_s
        container = next((c.spec for c in podspec.containers(pod) if c.name == action.container), {})
        hook = (container.get("lifecycle") or {}).get("preStop")
        try:
            if hook and first and grace_s > 0:
                grace_s = await self._pre_stop(pod, container, status, hook, grace_s)
            number = _signal_number(status.annotations.get(observe.ANNOTATION_STOP_SIGNAL, ""))
            parts.view.saw_container(await parts.runtime.stop_container(action.container_id, grace_s, number))
        except cri.NotFoundError:
            parts.view.forget_container(podspec.uid(pod), action.container_id)
        except OSError as e:
            memory.stopping.pop(action.container_id, None)
            raise ActionError("FailedKillPod", f"error killing container {action.container}: {e}") from e

    async def _pre_stop(self, pod: podspec.Pod, container: Mapping[str, Any], status: cri.ContainerStatus, hook: Mapping[str, Any], grace_s: float) -> float:
        """Runs the hook within the grace; gives what is left of it, at least 2 s."""
        began = self.parts.now()
        try:
            await hooks.run(hook, self._target(pod, container, status), self.parts.runtime, grace_s)
        except hooks.HookError as e:
            self._event(pod, "Warning", "FailedPreStopHook", f"PreStopHook failed: {e}", container["name"])
        return max(grace_s - (self.parts.now() - began), MIN_GRACE_AFTER_HOOK_S)

    async def remove_container(self, pod: podspec.Pod, container_id: str) -> None:
        uid = podspec.uid(pod)
        status = next((c for c in self.parts.view.containers(uid) if c.id == container_id), None)
        try:
            await self.parts.runtime.remove_container(container_id)
        except cri.NotFoundError:
            pass
        except OSError as e:
            raise ActionError("FailedRemoveContainer", str(e)) from e
        self.parts.view.forget_container(uid, container_id)
        if status is None:
            return
        paths = [self.message_file(uid, status.labels.get(observe.LABEL_CONTAINER, ""), container_id)]
        paths += [status.annotations[observe.ANNOTATION_LOG]] if status.state == "exited" and status.annotations.get(observe.ANNOTATION_LOG) else []
        for path in paths:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)

    async def clean_up(self, pod: podspec.Pod, memory: PodMemory) -> None:
        """Raises ActionError(FailedKillPod)."""
        parts, uid = self.parts, podspec.uid(pod)
        try:
            for sandbox in parts.view.sandboxes(uid):
                ip = sandbox.config.annotations.get(observe.ANNOTATION_IP, "")
                await parts.runtime.remove_sandbox(sandbox.config.id)
                if sandbox.state == "ready":
                    self._release(sandbox.config.id, ip)
            for container in parts.view.containers(uid):
                with contextlib.suppress(cri.NotFoundError):
                    await parts.runtime.remove_container(container.id)
            parts.volumes.tear_down(uid)
            shutil.rmtree(self.log_dir(pod), ignore_errors=True)
        except OSError as e:
            raise ActionError("FailedKillPod", f"error cleaning up pod: {e}") from e
        parts.view.forget_pod(uid)
        memory.cleaned = True

    def termination_message(self, pod: podspec.Pod, ended: cri.ContainerStatus) -> str:
        """What the container wrote to its terminationMessagePath (at most 4096 bytes), else with FallbackToLogsOnError the end of its log (2048 bytes, 80 lines)."""
        path = self.message_file(podspec.uid(pod), ended.labels.get(observe.LABEL_CONTAINER, ""), ended.id)
        text = _tail_bytes(path, 4096, head=True)
        if text or ended.exit_code == 0 or ended.annotations.get(observe.ANNOTATION_MESSAGE_POLICY) != "FallbackToLogsOnError":
            return text
        lines = _tail_bytes(ended.annotations.get(observe.ANNOTATION_LOG, ""), 8192).splitlines()[-80:]
        return "".join(line.split(" ", 3)[3] + "\n" for line in lines if line.count(" ") >= 3)[-2048:]

    def _event(self, pod: podspec.Pod, kind: str, reason: str, message: str, container: str = "") -> None:
        self.parts.record(pod, kind, reason, message, container)


def _signal_number(name: str) -> int:
    """SIGTERM, TERM, RTMIN+3 or a number; TERM where it means nothing."""
    text = name.upper().removeprefix("SIG")
    if text.isdigit() and 0 < int(text) < 65:
        return int(text)
    base, plus, offset = text.partition("+")
    found = getattr(signal, f"SIG{base}", None)
    if found is None:
        return signal.SIGTERM
    return int(found) + (int(offset) if plus and offset.isdigit() else 0)


def _tail_bytes(path: str, limit: int, head: bool = False) -> str:
    try:
        with open(path, "rb") as f:
            if not head:
                f.seek(max(os.fstat(f.fileno()).st_size - limit, 0))
            return f.read(limit).decode(errors="replace")
    except OSError:
        return ""
