"""The first success: the busybox image made on the spot, manifests/hello.yaml applied, and the answers of at least two pods read through their Service."""

from __future__ import annotations

import http.client
import json
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable

from cluster import config, up

IMAGE = "localhost/busybox:1"
MANIFEST = config.ROOT / "manifests" / "hello.yaml"
NODE_PORT = 30080
Say = Callable[[str], None]


def ensure_image(c: config.Config, say: Say, busybox: pathlib.Path | None = None) -> None:
    """`localhost/busybox:1` from the static busybox that `make` fetched. Raises UpError."""
    from agent.images.store import ImageStore

    if ImageStore(c.data / "images").resolve(IMAGE) is not None:
        return
    binary = busybox or config.ROOT / ".cache" / "busybox"
    if not binary.exists():
        raise up.UpError(f"no static busybox at {binary}; `make setup` fetches it")
    done = subprocess.run(
        [sys.executable, "-m", "agent.images", "busybox", "--binary", str(binary), "--data-dir", c.data_dir], check=False, capture_output=True, text=True, cwd=config.ROOT
    )
    if done.returncode:
        raise up.UpError(f"cannot make {IMAGE}: {done.stderr.strip()}")
    say(f"made image {IMAGE}")


def apply(c: config.Config, manifest: pathlib.Path = MANIFEST) -> str:
    """Through the client, as anybody would. Raises UpError with what it said."""
    done = subprocess.run(
        [sys.executable, "-m", "ctl", "--kubeconfig", str(c.data / "admin.kubeconfig"), "apply", "-f", str(manifest)],
        check=False, capture_output=True, text=True, cwd=config.ROOT,
    )  # fmt: skip
    if done.returncode:
        raise up.UpError(f"minikctl apply -f {manifest.name} failed: {done.stderr.strip()}")
    return done.stdout


def fetch(address: str, port: int, timeout_s: float = 2.0) -> str:
    """The body at `/`, "" where nobody answers."""
    connection = http.client.HTTPConnection(address, port, timeout=timeout_s)
    try:
        connection.request("GET", "/")
        return connection.getresponse().read().decode(errors="replace").strip()
    except (OSError, http.client.HTTPException):
        return ""
    finally:
        connection.close()


def collect(address: str, port: int, wanted: int, timeout_s: float = 30.0) -> dict[str, int]:
    """Answer → how often, until `wanted` different ones have come or the time is over."""
    answers: dict[str, int] = {}
    deadline = time.monotonic() + timeout_s
    while len(answers) < wanted and time.monotonic() < deadline:
        answer = fetch(address, port)
        if answer:
            answers[answer] = answers.get(answer, 0) + 1
        else:
            time.sleep(0.02)
    return answers


def hello(c: config.Config, say: Say) -> None:
    """Raises UpError where fewer than two pods answer."""
    started = time.monotonic()
    ensure_image(c, say)
    for line in apply(c).splitlines():
        say(line)
    status, body = up.Api(c).get("/api/v1/namespaces/default/services/hello")
    if status != 200:
        raise up.UpError(f"Service hello is not there: {body.decode(errors='replace')[:200]}")
    cluster_ip = json.loads(body)["spec"]["clusterIP"]
    for what, address, port in (("ClusterIP", cluster_ip, 80), ("NodePort", c.node_ip, NODE_PORT)):
        answers = collect(address, port, 3)
        if len(answers) < 2:
            raise up.UpError(f"Service hello answered from {len(answers)} pods at {address}:{port}; see `minikctl get pods -o wide` and the logs in {c.data / 'log'}")
        for answer, times in sorted(answers.items()):
            say(f"{what} {address}:{port} answered {times}x: {answer}")
    say(f"three pods behind one Service, {time.monotonic() - started:.2f} s after the cluster was ready")


def try_next(c: config.Config) -> str:
    """What a newcomer can type now."""
    return f"""
Try next:
  .venv/bin/minikctl get pods -o wide          .venv/bin/minikctl logs hello-1
  .venv/bin/minikctl exec hello-1 -- ps        .venv/bin/minikctl delete pod hello-2
  curl http://{c.node_ip}:{NODE_PORT}/
  export KUBECONFIG={c.data / "admin.kubeconfig"}    # and kubectl, k9s, Helm work too
  .venv/bin/minik status                       make down"""
