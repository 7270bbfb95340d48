"""`minik up`: from flags to a running one-node cluster. Certificates and kubeconfigs, the guard and its processes, then waiting until the API answers and the node is Ready.
Safe to run again: what runs is left running, what is missing is added."""

from __future__ import annotations

import base64
import dataclasses
import http.client
import json
import os
import pathlib
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from agent.runtime.fdstore import FdStore
from cluster import config, host, pki

READY_TIMEOUT_S = 60.0


class UpError(RuntimeError):
    """The cluster cannot be brought up; the text says why and where to look."""


Say = Callable[[str], None]


def kubeconfig(c: config.Config, stem: str) -> bytes:
    """A kubeconfig with everything inline (client-go's v1.Config), as JSON, which every YAML reader reads."""

    def data(name: str) -> str:
        return base64.b64encode((c.pki / name).read_bytes()).decode()

    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": c.name, "cluster": {"server": c.server, "certificate-authority-data": data("ca.crt")}}],
        "users": [{"name": stem, "user": {"client-certificate-data": data(f"{stem}.crt"), "client-key-data": data(f"{stem}.key")}}],
        "contexts": [{"name": c.name, "context": {"cluster": c.name, "user": stem}}],
        "current-context": c.name,
    }
    return json.dumps(document, indent=2).encode() + b"\n"


def running_guard(c: config.Config) -> dict[str, Any] | None:
    """The guard's status, None where none runs."""
    store = FdStore(str(c.run_dir / "guard.sock"))
    try:
        return store.status()
    except OSError:
        return None
    finally:
        store.close()


def _hostnames(c: config.Config) -> tuple[str, ...]:
    name = os.uname().nodename.lower()
    return (name,) if config.NODE_NAME.fullmatch(name) and name != c.node_name else ()


def prepare(c: config.Config, say: Say) -> None:
    """Data directory, certificates, kubeconfigs. Raises UpError, OSError."""
    for folder, mode in ((c.data, 0o755), (c.data / "log", 0o755), (c.data / "store", 0o700), (c.data / "pods", 0o711), (c.run_dir, 0o711)):
        folder.mkdir(mode=mode, parents=True, exist_ok=True)
    leaves = pki.plan_leaves(c.node_name, (c.node_ip,), c.kubernetes_ip, _hostnames(c))
    issued = pki.ensure(c.pki, c.name, leaves)
    if issued:
        say(f"issued certificates: {', '.join(issued)}")
    targets = {"admin": c.data / "admin.kubeconfig"} | {n: c.pki / f"{n}.kubeconfig" for n in ("node", "scheduler", "controller-manager")}
    for stem, path in targets.items():
        wanted = kubeconfig(c, stem)
        if not path.exists() or path.read_bytes() != wanted:
            pki.write(path, wanted)


def start_guard(c: config.Config) -> None:
    """Detached from this terminal, in the cgroup `system` of every hierarchy the runtime uses. Raises UpError."""
    from agent.runtime.cgroups import detect

    spec_path = c.run_dir / "guard.json"
    spec_path.write_text(json.dumps(config.plan_spec(c), indent=1))
    (c.run_dir / "cluster.json").write_text(json.dumps(dataclasses.asdict(c), indent=1))
    driver = detect.driver()
    system = f"{c.cgroup}/system"
    driver.create(system, {"devices": [{"allow": True}]}, leaf=True)
    joins = driver.join_files(system) or (f"{host.CGROUP_ROOT}/{system}/cgroup.procs",)

    def join() -> None:  # in the child, before it starts anything, so that everything is born there
        for path in joins:
            with open(path, "w") as f:
                f.write("0")

    with open(c.data / "log" / "guard.log", "ab", buffering=0) as log:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-E", str(config.ROOT / "agent/runtime/guard.py"), str(spec_path)],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd="/",
            preexec_fn=join,
        )  # fmt: skip
    wait_for(lambda: running_guard(c) or (process.poll() is not None and "died"), 10, "the guard does not answer", c, step_s=0.005)
    if process.poll() is not None:
        raise UpError(f"the guard ended at once: {tail(c.data / 'log' / 'guard.log')}")


def tail(path: pathlib.Path, lines: int = 3) -> str:
    try:
        return " | ".join(path.read_text(errors="replace").splitlines()[-lines:])
    except OSError:
        return f"(no {path})"


def wait_for(condition: Callable[[], Any], timeout_s: float, what: str, c: config.Config, step_s: float = 0.02) -> Any:
    deadline = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            logs = "; ".join(f"{p.stem}: {tail(p, 2)}" for p in sorted((c.data / "log").glob("*.log")))
            raise UpError(f"{what} after {timeout_s:.0f} s. Last log lines: {logs}")
        time.sleep(step_s)


class Api:
    """The few calls `up` and `status` need, over http.client with the admin's certificate."""

    def __init__(self, c: config.Config) -> None:
        self.c = c
        self.context = ssl.create_default_context(cafile=str(c.pki / "ca.crt"))
        self.context.load_cert_chain(c.pki / "admin.crt", c.pki / "admin.key")

    def get(self, path: str, timeout_s: float = 5.0) -> tuple[int, bytes]:
        """(status, body); (0, b"") where nobody answers."""
        connection = http.client.HTTPSConnection("127.0.0.1", self.c.port, timeout=timeout_s, context=self.context)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read()
        except (OSError, http.client.HTTPException):
            return 0, b""
        finally:
            connection.close()

    def ready(self) -> bool:
        return self.get("/readyz")[0] == 200

    def node_ready(self) -> bool:
        status, body = self.get(f"/api/v1/nodes/{self.c.node_name}")
        if status != 200:
            return False
        conditions = json.loads(body).get("status", {}).get("conditions", [])
        return any(x["type"] == "Ready" and x["status"] == "True" for x in conditions)


def up(c: config.Config, say: Say) -> config.Config:
    """Returns when the API is ready and the node is. Raises UpError, config.ConfigError, OSError."""
    if os.geteuid():
        raise UpError("minik up needs root: it makes namespaces, cgroups and network rules")
    started = time.monotonic()
    c = dataclasses.replace(c, node_ip=c.node_ip or host.default_address())
    guard = running_guard(c)
    if guard:
        saved = config.from_dict(json.loads((c.run_dir / "cluster.json").read_text()))
        differing = [f.name for f in dataclasses.fields(c) if getattr(c, f.name) != getattr(saved, f.name)]
        if differing:
            raise UpError(f"cluster {c.name!r} already runs with other values of {', '.join(differing)}; `minik down` first to change them")
        say(f"cluster {c.name!r} is already running (guard pid {guard['pid']})")
    else:
        for flag, port in (("--port", c.port), ("--agent-port", c.agent_port)):
            why = host.port_holder(c.bind_address, port)
            if why:
                raise UpError(f"cannot listen on {flag} {port}: {why}")
        prepare(c, say)
        start_guard(c)
        say(f"started the guard; logs are in {c.data / 'log'}")
    api = Api(c)
    wait_for(api.ready, READY_TIMEOUT_S, "the API server is not ready", c)
    say(f"API ready at {c.server} ({time.monotonic() - started:.2f} s)")
    wait_for(api.node_ready, READY_TIMEOUT_S, f"node {c.node_name} is not Ready", c)
    say(f"node {c.node_name} Ready ({time.monotonic() - started:.2f} s)")
    return c
