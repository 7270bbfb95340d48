"""What `minik up` was asked for, and every path, name and process that follows from it. Pure: plans the guard's SPEC, starts nothing."""

from __future__ import annotations

import ipaddress
import os
import pathlib
import re
import sys
from dataclasses import asdict, dataclass, fields
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parent.parent
NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,18}[a-z0-9])?")
NODE_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
RUN_ROOT = "/run/minik"
UNIX_PATH_MAX = 107  # unix(7): sun_path without its NUL


class ConfigError(ValueError):
    """A flag that cannot be meant; its text names the flag."""


@dataclass(frozen=True, slots=True)
class Config:
    """Flags of `minik up`; kept as cluster.json in the run directory for `down` and `status`."""

    name: str = "minik"
    node_name: str = ""
    data_dir: str = ""
    store: str = "sqlite"
    etcd_endpoints: str = ""
    etcd_cafile: str = ""
    etcd_certfile: str = ""
    etcd_keyfile: str = ""
    bind_address: str = "0.0.0.0"
    port: int = 6443
    agent_port: int = 10250
    node_ip: str = ""
    cluster_cidr: str = "10.42.0.0/16"
    service_cidr: str = "10.43.0.0/16"
    node_port_range: str = "30000-32767"
    max_pods: int = 110
    cgroup_parent: str = "/"
    controllers: str = "embedded"
    debug: bool = False

    # --- names and places

    @property
    def run_dir(self) -> pathlib.Path:
        return pathlib.Path(RUN_ROOT, self.name, self.node_name)

    @property
    def data(self) -> pathlib.Path:
        return pathlib.Path(self.data_dir)

    @property
    def pki(self) -> pathlib.Path:
        return self.data / "pki"

    @property
    def cgroup(self) -> str:
        """This node's cgroup, relative to a hierarchy's root."""
        return f"{self.cgroup_parent.strip('/')}/minik-{self.name}/{self.node_name}".lstrip("/")

    @property
    def kubernetes_ip(self) -> str:
        return str(ipaddress.ip_network(self.service_cidr)[1])

    @property
    def server(self) -> str:
        """The URL by which this host's own components and kubeconfigs call the API server."""
        return f"https://127.0.0.1:{self.port}"


def validate(c: Config) -> Config:
    """`c` with its defaults filled from the host. Raises ConfigError."""
    node_name = (c.node_name or os.uname().nodename).lower()
    data_dir = os.path.abspath(c.data_dir) if c.data_dir else ("/var/lib/minik" if c.name == "minik" else f"/var/lib/minik-{c.name}")
    c = Config(**(asdict(c) | {"node_name": node_name, "data_dir": data_dir}))
    if not NAME.fullmatch(c.name):
        raise ConfigError(f"--name {c.name!r}: must be 1 to 20 lower-case letters, digits and '-'")
    if not NODE_NAME.fullmatch(c.node_name):
        raise ConfigError(f"--node-name {c.node_name!r}: must be a lower-case DNS subdomain (RFC 1123)")
    if len(str(c.run_dir / "guard.sock")) > UNIX_PATH_MAX:
        raise ConfigError(f"--node-name {c.node_name!r}: too long, {c.run_dir}/guard.sock would exceed {UNIX_PATH_MAX} bytes")
    if c.store not in ("sqlite", "etcd"):
        raise ConfigError(f"--store {c.store!r}: must be sqlite or etcd")
    if c.store == "etcd" and not c.etcd_endpoints:
        raise ConfigError("--etcd-endpoints: required with --store etcd (e.g. http://127.0.0.1:2379)")
    if c.controllers not in ("embedded", "separate"):
        raise ConfigError(f"--controllers {c.controllers!r}: must be embedded or separate")
    for flag, address in (("--bind-address", c.bind_address), ("--node-ip", c.node_ip)):
        try:
            ipaddress.IPv4Address(address or "0.0.0.0")
        except ValueError:
            raise ConfigError(f"{flag} {address!r}: must be an IPv4 address") from None
    for flag, port in (("--port", c.port), ("--agent-port", c.agent_port)):
        if not 0 < port < 65536:
            raise ConfigError(f"{flag} {port}: must be between 1 and 65535")
    _validate_networks(c)
    if not 1 <= c.max_pods <= 500:
        raise ConfigError(f"--max-pods {c.max_pods}: must be between 1 and 500")
    return c


def _validate_networks(c: Config) -> None:
    networks = []
    for flag, text, longest in (("--cluster-cidr", c.cluster_cidr, 22), ("--service-cidr", c.service_cidr, 28)):
        try:
            network = ipaddress.IPv4Network(text)
        except ValueError as e:
            raise ConfigError(f"{flag} {text!r}: {e}") from None
        if network.prefixlen > longest:
            raise ConfigError(f"{flag} {text}: must be a /{longest} or larger")
        networks.append(network)
    if networks[0].overlaps(networks[1]):
        raise ConfigError(f"--cluster-cidr {c.cluster_cidr} overlaps --service-cidr {c.service_cidr}")
    low, _, high = c.node_port_range.partition("-")
    if not (low.isdigit() and high.isdigit() and 0 < int(low) <= int(high) < 65536):
        raise ConfigError(f"--node-port-range {c.node_port_range!r}: must be LOW-HIGH, like 30000-32767")


def from_dict(d: dict[str, Any]) -> Config:
    """What cluster.json says; unknown fields of a newer version are left out."""
    known = {f.name for f in fields(Config)}
    return Config(**{k: v for k, v in d.items() if k in known})


# --- the process tree


def plan_spec(c: Config, python: str = sys.executable) -> dict[str, Any]:
    """The guard's SPEC (see agent/runtime/guard.py): what runs on this host, in the order it is started."""
    run, runtime = str(c.run_dir), ROOT / "agent" / "runtime"
    bare = [python, "-I", "-S", "-E"]
    debug = ["--debug"] if c.debug else []
    processes: list[dict[str, Any]] = [
        {"name": "apiserver", "argv": [python, "-m", "apiserver", *apiserver_flags(c), *debug], "sockets": ["https"]},
        {"name": "logger", "argv": [*bare, str(runtime / "logger.py"), run], "sockets": ["logger"]},
        {"name": "zygote", "argv": [*bare, str(runtime / "zygote.py"), *zygote_flags(c), *debug], "sockets": ["zygote"]},
        {"name": "agent", "argv": [python, "-m", "agent", *agent_flags(c), *debug], "sockets": ["kubelet"]},
        {"name": "scheduler", "argv": [python, "-m", "scheduler", "--kubeconfig", str(c.pki / "scheduler.kubeconfig"), *debug], "sockets": []},
    ]
    if c.controllers == "separate":
        argv = [python, "-m", "apiserver.controllers", "--kubeconfig", str(c.pki / "controller-manager.kubeconfig"), "--cluster-cidr", c.cluster_cidr, *debug]
        processes.append({"name": "controllers", "argv": argv, "sockets": []})
    env = {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "PATH": os.environ.get("PATH", "/usr/bin:/bin") + ":/usr/sbin:/sbin"}
    for p in processes:
        p["env"] = env
        p["log"] = str(c.data / "log" / f"{p['name']}.log")
    return {
        "run_dir": run,
        "sockets": {
            "https": {"type": "tcp", "address": c.bind_address, "port": c.port},
            "kubelet": {"type": "tcp", "address": c.bind_address, "port": c.agent_port},
            "zygote": {"type": "seqpacket", "path": f"{run}/zygote.sock"},
            "logger": {"type": "seqpacket", "path": f"{run}/logger.sock"},
        },
        "processes": processes,
    }


def apiserver_flags(c: Config) -> list[str]:
    pki = c.pki
    flags = [
        "--bind-address", c.bind_address, "--secure-port", str(c.port), "--advertise-address", c.node_ip,
        "--tls-cert-file", f"{pki}/apiserver.crt", "--tls-private-key-file", f"{pki}/apiserver.key", "--client-ca-file", f"{pki}/ca.crt",
        "--token-auth-file", f"{pki}/tokens.csv", "--service-account-key-file", f"{pki}/sa.key", "--service-account-issuer", "https://kubernetes.default.svc.cluster.local",
        "--kubelet-client-certificate", f"{pki}/apiserver-kubelet-client.crt", "--kubelet-client-key", f"{pki}/apiserver-kubelet-client.key",
        "--kubelet-certificate-authority", f"{pki}/ca.crt", "--service-cluster-ip-range", c.service_cidr, "--service-node-port-range", c.node_port_range,
        "--cluster-cidr", c.cluster_cidr, "--controllers", c.controllers, "--storage-backend", c.store,
    ]  # fmt: skip
    if c.store == "sqlite":
        return [*flags, "--sqlite-path", str(c.data / "store" / "state.db")]
    flags += ["--etcd-servers", c.etcd_endpoints]
    for flag, value in (("--etcd-cafile", c.etcd_cafile), ("--etcd-certfile", c.etcd_certfile), ("--etcd-keyfile", c.etcd_keyfile)):
        flags += [flag, value] if value else []
    return flags


def agent_flags(c: Config) -> list[str]:
    return [
        "--kubeconfig", f"{c.pki}/node.kubeconfig", "--node-name", c.node_name, "--cluster-name", c.name, "--data-dir", c.data_dir, "--run-dir", str(c.run_dir),
        "--cgroup-parent", c.cgroup_parent, "--node-ip", c.node_ip, "--port", str(c.agent_port), "--tls-cert-file", f"{c.pki}/kubelet.crt",
        "--tls-private-key-file", f"{c.pki}/kubelet.key", "--client-ca-file", f"{c.pki}/ca.crt", "--max-pods", str(c.max_pods),
        "--service-cluster-ip-range", c.service_cidr, "--service-node-port-range", c.node_port_range, "--cluster-cidr", c.cluster_cidr,
    ]  # fmt: skip


def zygote_flags(c: Config) -> list[str]:
    return [str(c.run_dir), "--data-dir", c.data_dir, "--cgroup", c.cgroup]
