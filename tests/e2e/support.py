"""The cluster under test and the ways into it, and the few manifests that tests vary."""

from __future__ import annotations

import json
import time

from cluster import hosts

ROOT = hosts.ROOT
MINIK = [str(ROOT / ".venv/bin/python"), "-m", "cluster"]
MINIKCTL = [str(ROOT / ".venv/bin/python"), "-m", "ctl"]


def wait_for(condition, what, timeout_s=60.0, step_s=0.05):
    """The first true value of condition(); fails the test with `what` (called, if it is callable) at the deadline."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"never happened: {what() if callable(what) else what}")
        time.sleep(step_s)


class Cluster:
    """One running cluster and the ways into it."""

    def __init__(self, host: hosts.Host, store: str) -> None:
        self.host, self.store = host, store
        self.kubeconfig = "/var/lib/minik/admin.kubeconfig"

    def up_flags(self) -> list[str]:
        return ["--store", "etcd", "--etcd-endpoints", "http://127.0.0.1:2379"] if self.store == "etcd" else []

    def minik(self, *words: str, **kwargs):
        return self.host.run(*MINIK, *words, **kwargs)

    def minikctl(self, *words: str, **kwargs):
        return self.host.run(*MINIKCTL, "--kubeconfig", self.kubeconfig, *words, **kwargs)

    def kubectl(self, version: str, *words: str, **kwargs):
        return self.host.run(hosts.kubectl(version), "--kubeconfig", self.kubeconfig, f"--cache-dir=/run/kubectl-{version}", *words, **kwargs)

    def get(self, *words: str) -> dict:
        return json.loads(self.minikctl("get", *words, "-o", "json").stdout)

    def pids(self) -> dict[str, int]:
        return {n: int(p) for n, p in (x.split(":") for x in self.minik("status", "-o", "pids", check=False).stdout.strip().split(",") if ":" in x)}

    def curl(self, address: str, *more: str) -> str:
        """What answers at http://address/, "" where nobody does."""
        return self.host.run("curl", "-s", "-m", "2", *more, f"http://{address}/", check=False).stdout.strip()


class Space:
    """A namespace of the cluster."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.cluster, self.name = cluster, name

    def ctl(self, *words: str, **kwargs):
        return self.cluster.minikctl("-n", self.name, *words, **kwargs)

    def kubectl(self, version: str, *words: str, **kwargs):
        return self.cluster.kubectl(version, "-n", self.name, *words, **kwargs)

    def apply(self, *objects: dict):
        text = "\n---\n".join(json.dumps(o) for o in objects)
        return self.ctl("apply", "-f", "-", input=text)

    def pod(self, name: str) -> dict:
        return json.loads(self.ctl("get", "pod", name, "-o", "json").stdout)

    def pods(self) -> list[dict]:
        return json.loads(self.ctl("get", "pods", "-o", "json").stdout)["items"]

    def describe(self) -> str:
        """Everything a failed test wants to see."""
        return self.ctl("get", "pods", "-o", "wide", check=False).stdout + self.ctl("get", "events", check=False).stdout

    def wait_pod(self, name: str, condition, what: str, timeout_s: float = 60.0) -> dict:
        found: dict = {}

        def holds():
            found.clear()
            found.update(self.pod(name))
            return condition(found)

        wait_for(holds, lambda: f"{name}: {what}\n{json.dumps(found.get('status'), indent=1)}\n{self.describe()}", timeout_s)
        return found

    def wait_ready(self, *names: str, timeout_s: float = 60.0) -> None:
        for name in names:
            self.wait_pod(name, is_ready, "Ready", timeout_s)


def is_ready(pod: dict) -> bool:
    return any(c["type"] == "Ready" and c["status"] == "True" for c in pod.get("status", {}).get("conditions", []))


def container(name: str, script: str, **more) -> dict:
    return {"name": name, "image": "localhost/busybox:1", "command": ["sh", "-c", script], **more}


def pod(name: str, *containers: dict, labels: dict | None = None, **spec) -> dict:
    meta = {"name": name, **({"labels": labels} if labels else {})}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": {"terminationGracePeriodSeconds": 2, "containers": list(containers), **spec}}


def web_pod(name: str, app: str, **spec) -> dict:
    script = f"mkdir -p /tmp/www; echo {name} > /tmp/www/index.html; trap 'exit 0' TERM; httpd -f -p 8080 -h /tmp/www & wait"
    listens = {"tcpSocket": {"port": 8080}, "periodSeconds": 1}  # without it a pod is Ready before httpd listens
    return pod(name, container("web", script, readinessProbe=listens), labels={"app": app}, **spec)


def service(name: str, app: str, port: int = 80, **spec) -> dict:
    return {
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
        "spec": {"selector": {"app": app}, "ports": [{"port": port, "targetPort": 8080}], **spec},
    }  # fmt: skip
