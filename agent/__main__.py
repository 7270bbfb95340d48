"""`python -m agent`: flags → the real parts → one running node. The only place that builds them. SIGTERM ends the agent and leaves every container running."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import secrets
import signal
import socket
import ssl
import sys
import time
from collections.abc import Coroutine
from typing import Any

import uvloop

from agent import config as flags
from agent import execute, node, observe, plan, podspec, server, status, translate, workers
from agent.images.puller import pull
from agent.images.store import ImageStore
from agent.network.addresses import AddressPool
from agent.network.pods import PodNetwork
from agent.runtime import cri
from agent.runtime.client import Runtime
from agent.services.proxy import ServiceProxy
from agent.services_sync import ServiceSync
from agent.volumes.sources import Sources
from agent.volumes.tokens import Tokens
from agent.volumes.volumes import Volumes
from apiserver.api import errors, kinds
from apiserver.client import kubeconfig
from apiserver.client.client import Client
from apiserver.client.config import ConfigError
from apiserver.client.events import EventRecorder
from apiserver.client.informer import Informer

log = logging.getLogger("agent")
RELIST_S = 60.0
COLLECT_S = 300.0
START_S = 5.0


class Agent:
    """All parts of one node, and the order in which they come up: runtime, registration, server, network, then pods."""

    def __init__(self, config: flags.Config, client: Client) -> None:
        self.config, self.client = config, client
        self.tasks: list[asyncio.Task[None]] = []
        self.problem = "container runtime is not connected yet"
        self.runtime = Runtime(config.run_dir)
        self.view = observe.RuntimeView(self.runtime, self._pod_changed)
        self.recorder = EventRecorder(client, "kubelet", time.time, host=config.node_name)
        self.sources = Sources(client, self._source_changed)
        self.volumes = Volumes(config.data_dir, config.run_dir, self.sources, Tokens(client, time.time))
        self.services = Informer(client, kinds.SERVICES)
        self.slices = Informer(client, kinds.ENDPOINTSLICES)
        self.service_sync = ServiceSync(self.services, self.slices)
        self.own_pods = Informer(client, kinds.PODS, field_selector=f"spec.nodeName={config.node_name}")
        self.own_node = Informer(client, kinds.NODES, field_selector=f"metadata.name={config.node_name}")
        self._cidr_known, self._set_up = asyncio.Event(), asyncio.Event()
        os.makedirs(config.data_dir, 0o755, exist_ok=True)
        os.makedirs(config.run_dir, 0o755, exist_ok=True)
        self.machine = node.observe_machine(config.data_dir)
        self.images = ImageStore(os.path.join(config.data_dir, "images"))
        self.executor = execute.Executor(self._parts())
        settings = workers.Settings(plan.RestartBackoff(max_s=config.max_restart_period_s), status.NodeAddresses(config.node_ips))
        self.pods = workers.Pods(self.executor, client, settings)

    def _parts(self) -> execute.Parts:
        c = self.config
        facts = translate.NodeFacts(c.node_name, c.node_ips, self.machine.memory_bytes, node.allocatable(self.machine, c.max_pods), c.pod_pids_limit)
        return execute.Parts(
            runtime=self.runtime, view=self.view, images=self.images, pull=lambda ref, auth: pull(self.images, ref, auth), volumes=self.volumes, sources=self.sources, node=facts,
            data_dir=c.data_dir, dns=translate.Dns(c.cluster_dns, c.cluster_domain, _read(c.resolv_conf)), services=self.service_sync.variables, record=self._record,
            now=time.time, new_id=lambda: secrets.token_hex(16),
        )  # fmt: skip

    def _pod_changed(self, uid: str) -> None:
        self.pods.wake(uid)

    def _source_changed(self, kind: str, namespace: str, name: str) -> None:
        self.pods.source_changed(kind, namespace, name)

    def _record(self, pod: podspec.Pod, kind: str, reason: str, message: str, container: str) -> None:
        role = next((c.role for c in podspec.containers(pod) if c.name == container), None)
        field = {"app": "containers", "init": "initContainers", "sidecar": "initContainers", "ephemeral": "ephemeralContainers"}.get(role or "", "containers")
        self.recorder.event(kinds.PODS, pod, kind, reason, message, field_path=f"spec.{field}{{{container}}}" if container else "")

    async def run(self, listener: socket.socket, context: ssl.SSLContext | None) -> None:
        """Until cancelled."""
        c = self.config
        port = listener.getsockname()[1]
        reporter = node.NodeReporter(
            self.client, node.NodeConfig(c.node_name, c.node_ips, port, c.max_pods, c.labels), lambda: node.observe_machine(c.data_dir), lambda: self.problem, time.time
        )
        app = server.App(self.pods, self.runtime, c.node_name, time.time, secure=context is not None)
        listening = await server.serve(app, listener, context)
        try:
            await self._connect_runtime()
            self.volumes.prepare()
            self._spawn(self.recorder.run(), self.services.run(), self.slices.run(), self._follow_runtime(), self._collect_images())
            registered = await reporter.register()
            self.problem = "container runtime network not ready: the node has no pod CIDR yet"
            self.own_node.add_handler(self._node_changed)
            self._spawn(self.own_node.run(), reporter.run_lease(), self._report(reporter))
            self._node_changed(None, registered)
            await self._cidr_known.wait()
            await self._set_up_network()
            await self.services.synced()
            self.problem = ""
            self._set_up.set()
            reporter.changed()
            self.own_pods.add_handler(self.pods.changed)
            self._spawn(self.own_pods.run())
            await self.own_pods.synced()
            self.pods.adopt_orphans()
            app.pods_known.set()
            log.info("node %s is ready: %d pods", c.node_name, len(self.own_pods.store))
            gc.collect()
            gc.freeze()
            await asyncio.gather(*self.tasks)
        finally:
            listening.close()
            await self._close()

    async def _report(self, reporter: node.NodeReporter) -> None:
        """An agent that restarts is ready in a moment: it does not report its node NotReady, and tainted, for that."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(START_S):
                await self._set_up.wait()
        await reporter.run_status()

    def _spawn(self, *loops: Coroutine[Any, Any, None]) -> None:
        self.tasks += [asyncio.create_task(loop) for loop in loops]

    async def _close(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await self.pods.close()
        await self.sources.close()
        await self.runtime.close()
        await self.client.close()

    async def _connect_runtime(self) -> None:
        delay = 0.05
        while True:
            try:
                await self.runtime.connect()
                break
            except OSError as e:
                log.info("waiting for the runtime: %s", e)
                await asyncio.sleep(delay)
                delay = min(delay * 2, 1.0)
        try:
            swept = await self.runtime.sweep()
        except OSError as e:
            log.warning("cannot look for what was left behind: %s", e)
        else:
            log.info("removed what was left of %d containers and sandboxes", len(swept))
        await self.view.relist()  # nobody changes anything yet

    async def _collect_images(self) -> None:
        """Layers that no image and no container needs go."""
        while True:
            await asyncio.sleep(COLLECT_S)
            try:
                freed = await asyncio.to_thread(ImageStore(self.images.root).collect, await self.runtime.layers_in_use())
            except (OSError, cri.NotFoundError) as e:
                log.warning("cannot remove unused image layers: %s", e)
                continue
            if freed:
                log.info("removed unused image layers: %d bytes", freed)

    async def _follow_runtime(self) -> None:
        """Events as they come, and everything again every minute."""

        async def relist() -> None:
            while True:
                await asyncio.sleep(RELIST_S)
                try:
                    await self.view.relist()
                except (OSError, cri.NotFoundError) as e:
                    log.warning("cannot list containers: %s", e)

        again = asyncio.create_task(relist())
        try:
            while True:
                try:
                    await self.view.follow()
                except Exception:
                    log.exception("runtime events")
                    await asyncio.sleep(1)
        finally:
            again.cancel()

    def _node_changed(self, old: Any, new: Any) -> None:
        if new is not None and new["spec"].get("podCIDR"):
            self.pod_cidr = new["spec"]["podCIDR"]
            self._cidr_known.set()

    async def _set_up_network(self) -> None:
        c, parts = self.config, self.executor.parts
        network = PodNetwork(c.cluster_name, self.pod_cidr, c.cluster_cidr, 0, c.service_cidr)
        proxy = ServiceProxy(c.cluster_name, c.node_ips, self.pod_cidr, c.cluster_cidr, c.node_port_range, service_cidr=c.service_cidr)
        addresses = AddressPool(self.pod_cidr)
        held = [s.config.annotations.get(observe.ANNOTATION_IP, "") for uid in self.view.uids() for s in self.view.sandboxes(uid) if s.state == "ready"]
        addresses.restore(ip for ip in held if ip)
        delay = 0.5
        while True:
            try:
                for warning in network.ensure():
                    log.warning("network: %s", warning)
                    self.recorder.event(kinds.NODES, {"metadata": {"name": c.node_name}}, "Warning", "ForeignFirewall", warning)
                break
            except OSError as e:
                log.warning("cannot set up the pod network: %s (again in %g s)", e, delay)
                self.problem = f"container runtime network not ready: {e}"
                await asyncio.sleep(delay)
                delay = min(delay * 2, 10.0)
        parts.network, parts.addresses = network, addresses
        self._spawn(self.service_sync.run(proxy))


def _read(path: str) -> str:
    try:
        with open(path) as f:
            return f.read()
    except OSError:
        return ""


def _listener(config: flags.Config) -> socket.socket:
    """The socket handed over as `kubelet`, else one of our own. Raises OSError."""
    inherited = flags.inherited_socket("kubelet", dict(os.environ), os.getpid())
    if inherited is not None:
        return inherited
    return socket.create_server((config.bind_address, config.port), backlog=128)


async def _main(config: flags.Config, listener: socket.socket, context: ssl.SSLContext | None) -> None:
    agent = Agent(config, Client(kubeconfig.load(config.kubeconfig or None)))
    running = asyncio.current_task()
    assert running is not None
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, running.cancel)
    await agent.run(listener, context)


def main() -> int:
    try:
        config = flags.parse(sys.argv[1:])
        logging.basicConfig(level=logging.DEBUG if config.debug else logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
        listener = _listener(config)
        context = server.tls_context(config.tls_cert_file, config.tls_private_key_file, config.client_ca_file) if config.tls_cert_file else None
        uvloop.run(_main(config, listener, context))
    except (flags.FlagError, ConfigError) as e:
        print(f"agent: {e}", file=sys.stderr)
        return 2
    except (OSError, errors.ApiError) as e:
        print(f"agent: cannot start: {e}", file=sys.stderr)
        return 1
    except (asyncio.CancelledError, KeyboardInterrupt):
        log.info("stopped; containers go on")
    return 0


if __name__ == "__main__":
    sys.exit(main())
