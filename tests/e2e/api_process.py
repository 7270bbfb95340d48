"""A real API server process on its own PKI, port and SQLite file, and the ways to talk to it: raw HTTP, and kubectl by version. No nodes, no root."""

from __future__ import annotations

import http.client
import json
import os
import pathlib
import re
import signal
import ssl
import subprocess
import sys
import time

from cluster import hosts, pki

ROOT = hosts.ROOT
NODE = "n1"


class Answer:
    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status, self.headers, self.body = status, headers, body

    def json(self) -> dict:
        return json.loads(self.body)


class ApiProcess:
    """`folder` must be empty and stay; `flags` are added to the command line."""

    def __init__(self, folder: pathlib.Path, *flags: str) -> None:
        self.folder, self.flags = folder, flags
        self.pki = folder / "pki"
        leaves = pki.plan_leaves(NODE, ("127.0.0.1",), "10.43.0.1", ())
        pki.ensure(self.pki, "test", leaves)
        with (self.pki / "tokens.csv").open("a") as tokens:
            tokens.write('jane-token,jane,7,"dev"\n')
        self.token = pki.admin_token(self.pki)
        self.process: subprocess.Popen[bytes] | None = None
        self.port = 0
        self.log = folder / "apiserver.log"

    def start(self) -> ApiProcess:
        p = self.pki
        argv = [
            sys.executable, "-m", "apiserver", "--bind-address", "127.0.0.1", "--secure-port", str(self.port), "--tls-cert-file", f"{p}/apiserver.crt",
            "--tls-private-key-file", f"{p}/apiserver.key", "--client-ca-file", f"{p}/ca.crt", "--token-auth-file", f"{p}/tokens.csv",
            "--service-account-key-file", f"{p}/sa.key", "--kubelet-client-certificate", f"{p}/apiserver-kubelet-client.crt",
            "--kubelet-client-key", f"{p}/apiserver-kubelet-client.key", "--kubelet-certificate-authority", f"{p}/ca.crt", "--sqlite-path", str(self.folder / "state.db"), *self.flags,
        ]  # fmt: skip
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(argv, cwd=ROOT, stderr=log, stdout=log)
        self.wait_ready()
        return self

    def wait_ready(self, timeout_s: float = 30.0) -> None:
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            assert self.process is not None
            if self.process.poll() is not None:
                raise AssertionError(f"the API server ended with {self.process.returncode}:\n{self.log.read_text()}")
            serving = re.search(r"serving on https://[\d.]+:(\d+)", self.log.read_text())
            if serving:
                self.port = int(serving.group(1))
                return
            time.sleep(0.05)
        raise AssertionError(f"the API server did not become ready:\n{self.log.read_text()}")

    def stop(self, signal_: int = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(signal_)
        return self.process.wait(30)

    def context(self, certificate: str = "") -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.pki / "ca.crt"))
        if certificate:
            context.load_cert_chain(self.pki / f"{certificate}.crt", self.pki / f"{certificate}.key")
        return context

    def connection(self, certificate: str = "", timeout_s: float = 30) -> http.client.HTTPSConnection:
        return http.client.HTTPSConnection("127.0.0.1", self.port, context=self.context(certificate), timeout=timeout_s)

    def request(self, method: str, path: str, body: object = None, *, token: str | None = None, certificate: str = "", **headers: str) -> Answer:
        """`body`: bytes as they are, anything else as JSON. `token` None = the admin's, "" = none. Header names with _ for -."""
        connection = self.connection(certificate)
        try:
            sent = {name.replace("_", "-"): value for name, value in headers.items()}
            used = self.token if token is None and not certificate else token
            if used:
                sent["Authorization"] = f"Bearer {used}"
            data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
            if data is not None:
                sent.setdefault("Content-Type", "application/json")
            connection.request(method, path, data, sent)
            answer = connection.getresponse()
            return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def kubeconfig(self) -> str:
        path = self.folder / "kubeconfig.json"
        path.write_text(json.dumps({
            "apiVersion": "v1", "kind": "Config", "current-context": "t",
            "clusters": [{"name": "t", "cluster": {"server": f"https://127.0.0.1:{self.port}", "certificate-authority": str(self.pki / "ca.crt")}}],
            "users": [{"name": "admin", "user": {"client-certificate": str(self.pki / "admin.crt"), "client-key": str(self.pki / "admin.key")}},
                      {"name": "jane", "user": {"token": "jane-token"}}],
            "contexts": [{"name": "t", "context": {"cluster": "t", "user": "admin"}}, {"name": "jane", "context": {"cluster": "t", "user": "jane"}}],
        }))  # fmt: skip
        return str(path)

    def kubectl(self, version: str, *words: str, input: str | None = None, check: bool = True, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
        argv = [hosts.kubectl(version), "--kubeconfig", self.kubeconfig(), f"--cache-dir={self.folder}/cache-{version}", *words]
        done = subprocess.run(argv, check=False, input=input, capture_output=True, text=True, timeout=timeout_s, env={**os.environ, "HOME": str(self.folder)})
        if check and done.returncode != 0:
            raise AssertionError(f"kubectl.{version} {' '.join(words)}: {done.returncode}\n{done.stdout}{done.stderr}\n--- server:\n{self.log.read_text()[-3000:]}")
        return done


def wait_for(condition, what: str, timeout_s: float = 30.0):
    """The first true value of condition(); fails with `what` at the deadline."""
    deadline = time.monotonic() + timeout_s
    while True:
        if value := condition():
            return value
        assert time.monotonic() < deadline, f"never happened: {what}"
        time.sleep(0.05)
