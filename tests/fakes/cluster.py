"""A control plane of real processes for tests: `python -m apiserver` on SQLite (or a given store), and on request the scheduler; certificates made for it, ports free ones.

No node: whoever needs containers starts an agent. Everything is ended, by pid, in stop(); logs stay in the directory for the failing test to show.
"""

from __future__ import annotations

import base64
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

from apiserver.client import kubeconfig
from apiserver.client.config import ClientConfig
from cluster import pki

ROOT = pathlib.Path(__file__).resolve().parents[2]
ENV = {**os.environ, "PYTHONPATH": str(ROOT)}


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class ControlPlane:
    def __init__(self, folder: pathlib.Path, *, controllers: str = "embedded", store: tuple[str, ...] = ()) -> None:
        self.folder, self.port, self.controllers = folder, free_port(), controllers
        self.store = store or ("--storage-backend", "sqlite", "--sqlite-path", str(folder / "store.db"))
        self.pki = folder / "pki"
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        pki.ensure(self.pki, "test", pki.plan_leaves("test-node", (), "10.43.0.1", ()))

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def kubeconfig(self, user: str = "admin") -> str:
        """The file of one of pki's client certificates."""
        path = self.folder / f"{user}.kubeconfig"
        encoded = {n: base64.b64encode((self.pki / n).read_bytes()).decode() for n in ("ca.crt", f"{user}.crt", f"{user}.key")}
        document = {
            "apiVersion": "v1", "kind": "Config", "current-context": "test", "contexts": [{"name": "test", "context": {"cluster": "test", "user": user}}],
            "clusters": [{"name": "test", "cluster": {"server": self.url, "certificate-authority-data": encoded["ca.crt"]}}],
            "users": [{"name": user, "user": {"client-certificate-data": encoded[f"{user}.crt"], "client-key-data": encoded[f"{user}.key"]}}],
        }  # fmt: skip
        path.write_text(json.dumps(document))
        return str(path)

    def config(self, user: str = "admin") -> ClientConfig:
        return kubeconfig.load(self.kubeconfig(user))

    def start(self, name: str, *argv: str) -> subprocess.Popen[bytes]:
        with open(self.folder / f"{name}.log", "ab") as log:
            self.processes[name] = subprocess.Popen([sys.executable, "-m", *argv], cwd=ROOT, env=ENV, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        return self.processes[name]

    def start_apiserver(self, timeout_s: float = 30) -> None:
        p = self.pki
        self.start(
            "apiserver", "apiserver", "--bind-address", "127.0.0.1", "--secure-port", str(self.port), "--advertise-address", "127.0.0.1",
            "--tls-cert-file", f"{p}/apiserver.crt", "--tls-private-key-file", f"{p}/apiserver.key", "--client-ca-file", f"{p}/ca.crt",
            "--token-auth-file", f"{p}/tokens.csv", "--service-account-key-file", f"{p}/sa.key", "--controllers", self.controllers, *self.store,
        )  # fmt: skip
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if self.processes["apiserver"].poll() is not None:
                raise RuntimeError(f"the API server ended at once:\n{self.log('apiserver')}")
            with socket.socket() as s:
                if s.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.02)
        raise RuntimeError(f"the API server does not listen:\n{self.log('apiserver')}")

    def start_scheduler(self, *flags: str) -> None:
        self.start("scheduler", "scheduler", "--kubeconfig", self.kubeconfig("scheduler"), *flags)

    def start_controllers(self, *flags: str) -> None:
        self.start("controllers", "apiserver.controllers", "--kubeconfig", self.kubeconfig("controller-manager"), *flags)

    def kill(self, name: str, number: int = signal.SIGKILL) -> int:
        """Signals and waits; the exit status."""
        process = self.processes.pop(name)
        process.send_signal(number)
        return process.wait(20)

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")[-5000:]

    def stop(self) -> None:
        for name in reversed(list(self.processes)):
            self.kill(name)
