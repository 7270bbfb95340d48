"""python -m apiserver: flags → wiring → serving; the only place that builds the API server's real objects. Owns start order, the background jobs (compaction, claims' repair,
embedded controllers) and the graceful stop. Logs to stderr, one line each; writes nothing to stdout."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import random
import signal
import socket
import ssl
import sys
import time
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING

from apiserver import flags as command_line
from apiserver.flags import FlagError, Flags
from apiserver.store import base

if TYPE_CHECKING:
    from apiserver.auth.serviceaccounts import Issuer
    from apiserver.rest.app import App
    from apiserver.rest.components import Components
    from apiserver.rest.nodes import NodeConnector

log = logging.getLogger("apiserver")
COMPACTION_INTERVAL_S = 300.0
SOCKET_NAME = "https"
_MAX_RESTART_S = 30.0
# Entries of the watch cache are many, long-lived and never part of a cycle: looking at them again and again cost up to a fifth of a write.
GC_THRESHOLDS = (50_000, 20, 100)


class _OneLine(logging.Formatter):
    """`time level component: text`; a traceback follows on the same line."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S")
        self.converter = time.gmtime

    def format(self, record: logging.LogRecord) -> str:
        return super().format(record).replace("\n", " | ")


def set_up_logging(debug: bool) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_OneLine())
    logging.basicConfig(level=logging.DEBUG if debug else logging.INFO, handlers=[handler], force=True)
    for noisy in ("uvicorn.error", "asyncio", "websockets"):
        logging.getLogger(noisy).setLevel(logging.INFO if debug else logging.WARNING)


async def open_store(flags: Flags) -> base.Store:
    """Raises StoreError."""
    if flags.storage_backend == "sqlite":
        from apiserver.store.sqlite import SqliteStore

        return await SqliteStore.open(flags.sqlite_path)
    from apiserver.store.etcd import EtcdStore

    return await EtcdStore.open(flags.etcd_servers, ca=flags.etcd_cafile, cert=flags.etcd_certfile, key=flags.etcd_keyfile)


class ApiServer:
    """One process's objects, built in `start`, ended in `stop`."""

    def __init__(self, flags: Flags, listening: socket.socket, context: ssl.SSLContext) -> None:
        self.flags, self.listening, self.context = flags, listening, context
        self._jobs: list[asyncio.Task[None]] = []

    async def run(self) -> None:
        """Until SIGTERM or SIGINT. Raises StoreError, OSError, ValueError where it cannot start."""
        began = time.monotonic()
        from apiserver.store.cache import Cache

        self.store = await open_store(self.flags)
        try:
            self.cache = Cache(self.store)
            await self.cache.start()
            try:
                await self._serve(began)
            finally:
                await self._end_jobs()
                await self.cache.stop()
        finally:
            await self.store.close()
        log.info("stopped")

    async def _serve(self, began: float) -> None:
        from apiserver.registry import bootstrap
        from apiserver.rest.app import App
        from apiserver.rest.server import Server

        self.components = self._components()
        await bootstrap.ensure(self.components.registry)
        await self.cache.fresh()  # the roles just written decide about the first requests
        app = App(self.components)
        server = Server(app, self.context, self.components.stop)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop, server, signal.Signals(number).name)

        def started() -> None:
            self.components.ready = True
            self._start_jobs(app)
            gc.collect()
            gc.freeze()
            gc.set_threshold(*GC_THRESHOLDS)
            gc.enable()
            host, port = self.listening.getsockname()[:2]
            log.info("serving on https://%s:%d after %.0f ms (store %s)", host, port, (time.monotonic() - began) * 1e3, self.flags.storage_backend)

        await server.run_on([self.listening], started)

    def _stop(self, server: object, name: str) -> None:
        log.info("%s: stopping", name)
        server.stop()  # type: ignore[attr-defined]

    def _components(self) -> Components:
        from apiserver.admission.chain import default_chain
        from apiserver.auth import tokenfile
        from apiserver.auth.authenticator import Authenticator
        from apiserver.auth.authorizer import Authorizer
        from apiserver.registry.context import Config
        from apiserver.registry.registry import Registry
        from apiserver.registry.storage import Storage
        from apiserver.rest.components import Components

        flags = self.flags
        rng = random.Random()
        authorizer = Authorizer(self.cache)

        async def rules_for(user: object, namespace: str) -> list:
            return (await authorizer.policy()).rules_for(user, namespace)  # type: ignore[arg-type]

        config = Config(flags.service_cluster_ip_range, flags.node_ports, flags.advertise_address, self.listening.getsockname()[1])
        issuer = self._issuer()
        admission = default_chain(Storage(self.store, self.cache), rng=rng, rules_for=rules_for)
        registry = Registry(self.store, self.cache, admission, config, rng=rng, issue_token=issuer.issue if issuer is not None else None)
        tokens = tokenfile.load(flags.token_auth_file) if flags.token_auth_file else {}
        return Components(registry, self.cache, Authenticator(tokens, issuer, time.time), authorizer, time.time, rng, issuer, self._node_connector())

    def _issuer(self) -> Issuer | None:
        if not self.flags.service_account_key_file:
            return None
        from apiserver.auth.jwt import SigningKey
        from apiserver.auth.serviceaccounts import Issuer

        key = SigningKey.load(self.flags.service_account_key_file)
        return Issuer(key, self.flags.service_account_issuer, self.cache, now=time.time, new_id=lambda: str(uuid.uuid4()))

    def _node_connector(self) -> NodeConnector | None:
        if not self.flags.kubelet_client_certificate:
            return None
        from apiserver.client.config import ClientConfig
        from apiserver.rest.nodes import NodeConnector

        flags = self.flags
        authority = Path(flags.kubelet_certificate_authority).read_bytes() if flags.kubelet_certificate_authority else b""
        certificate, key = Path(flags.kubelet_client_certificate).read_bytes(), Path(flags.kubelet_client_key).read_bytes()
        return NodeConnector(self.cache, ClientConfig("https://node", authority, certificate, key))

    # background jobs

    def _start_jobs(self, app: App) -> None:
        from apiserver.registry import repair

        self._start_job("compaction", lambda: compact_for_ever(self.store, COMPACTION_INTERVAL_S))
        self._start_job("repair", lambda: repair.run(self.components.registry))
        if self.flags.controllers == "embedded":
            self._start_job("controllers", lambda: self._run_controllers(app))

    def _start_job(self, name: str, job: Callable[[], Awaitable[None]]) -> None:
        self._jobs.append(asyncio.create_task(keep_running(name, job), name=name))

    async def _run_controllers(self, app: App) -> None:
        """Through the same front door as everybody, minus the socket."""
        from apiserver import controllers
        from apiserver.auth.user import AUTHENTICATED, UserInfo
        from apiserver.client.client import Client
        from apiserver.client.inprocess import AsgiTransport
        from apiserver.controllers.config import Config

        flags = self.flags
        root_ca = Path(flags.client_ca_file).read_text() if flags.client_ca_file else ""
        # An embedded store has one server and so one set of loops; several servers on one etcd elect the one that runs them.
        config = Config(flags.cluster_cidr, flags.node_cidr_mask_size, root_ca, leader_elect=flags.storage_backend == "etcd", identity=f"{socket.gethostname()}:{flags.secure_port}")
        identity = UserInfo("system:kube-controller-manager", groups=(AUTHENTICATED,))
        async with Client(transport=AsgiTransport(app, {"minik.user": identity})) as client:
            await controllers.run(client, config)

    async def _end_jobs(self) -> None:
        for job in self._jobs:
            job.cancel()
        await asyncio.gather(*self._jobs, return_exceptions=True)


async def keep_running(name: str, job: Callable[[], Awaitable[None]]) -> None:
    """Runs `job` again, with back-off, whenever it fails or ends."""
    backoff_s = 0.5
    while True:
        began = time.monotonic()
        try:
            await job()
            log.warning("%s ended; starting again in %.3g s", name, backoff_s)
        except Exception:
            log.exception("%s failed; starting again in %.3g s", name, backoff_s)
        if time.monotonic() - began > _MAX_RESTART_S:
            backoff_s = 0.5
        await asyncio.sleep(backoff_s)
        backoff_s = min(backoff_s * 2, _MAX_RESTART_S)


async def compact_for_ever(store: base.Store, interval_s: float) -> None:
    """Every interval, forgets what was already old at the one before: a watch may always resume from `interval_s` ago."""
    revision = await store.revision()
    while True:
        await asyncio.sleep(interval_s)
        try:
            current = await store.revision()
            with contextlib.suppress(base.Compacted):  # another server was first
                await store.compact(revision)
                log.debug("compacted up to revision %d", revision)
            revision = current
        except base.StoreError as err:
            log.warning("cannot compact: %s", err)


def main(argv: list[str]) -> int:
    gc.disable()  # until started: what is made by then stays
    from apiserver.rest import server

    try:
        flags = command_line.parse(argv)
        set_up_logging(flags.debug)
        context = server.tls_context(flags.tls_cert_file, flags.tls_private_key_file, flags.client_ca_file)
    except FlagError as err:
        return command_line.refuse(err)
    except (OSError, ssl.SSLError) as err:
        return command_line.refuse(f"--tls-cert-file, --tls-private-key-file, --client-ca-file: cannot be used: {err}")
    try:
        listening = server.inherited_socket(SOCKET_NAME, dict(os.environ), os.getpid()) or server.bind(flags.bind_address, flags.secure_port)
    except OSError as err:
        return command_line.refuse(f"cannot listen on {flags.bind_address}:{flags.secure_port}: {err.strerror or err}")
    import uvloop

    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(ApiServer(flags, listening, context).run())
    except (base.StoreError, ValueError, OSError) as err:
        log.error("cannot start: %s", err)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
