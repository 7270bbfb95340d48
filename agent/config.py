"""The agent's flags, checked, as one value. Called by agent.__main__; `python -m agent --help` prints what stands here."""

from __future__ import annotations

import argparse
import ipaddress
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass


class FlagError(ValueError):
    """A flag that cannot be used; the text names it."""


@dataclass(frozen=True, slots=True)
class Config:
    kubeconfig: str
    node_name: str
    cluster_name: str
    data_dir: str
    run_dir: str
    cgroup_parent: str
    node_ips: tuple[str, ...]
    bind_address: str
    port: int
    tls_cert_file: str
    tls_private_key_file: str
    client_ca_file: str
    max_pods: int
    pod_pids_limit: int
    cluster_dns: tuple[str, ...]
    cluster_domain: str
    resolv_conf: str
    service_cidr: str
    node_port_range: str
    cluster_cidr: str
    labels: dict[str, str]
    max_restart_period_s: float
    debug: bool


def parse(argv: Sequence[str]) -> Config:
    """Raises FlagError; argparse itself exits with 2 on unknown flags."""
    args = _parser().parse_args(argv)
    name = args.node_name or socket.gethostname().lower()
    run_dir = args.run_dir or f"/run/minik/{args.cluster_name}/{name}"
    tls = (args.tls_cert_file, args.tls_private_key_file, args.client_ca_file)
    if any(tls) and not all(tls):
        raise FlagError("--tls-cert-file, --tls-private-key-file and --client-ca-file belong together")
    return Config(
        kubeconfig=args.kubeconfig, node_name=name, cluster_name=args.cluster_name, data_dir=os.path.abspath(args.data_dir), run_dir=os.path.abspath(run_dir),
        cgroup_parent=args.cgroup_parent, node_ips=tuple(_addresses("--node-ip", args.node_ip)) or (default_ip(),), bind_address=args.bind_address, port=args.port,
        tls_cert_file=tls[0], tls_private_key_file=tls[1], client_ca_file=tls[2], max_pods=_at_least("--max-pods", args.max_pods, 1), pod_pids_limit=args.pod_max_pids,
        cluster_dns=tuple(_addresses("--cluster-dns", args.cluster_dns)), cluster_domain=args.cluster_domain, resolv_conf=args.resolv_conf,
        service_cidr=_network("--service-cluster-ip-range", args.service_cluster_ip_range), node_port_range=args.service_node_port_range,
        cluster_cidr=_network("--cluster-cidr", args.cluster_cidr), labels=_labels(args.node_labels), max_restart_period_s=args.max_container_restart_period, debug=args.debug,
    )  # fmt: skip


def _parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="agent", description="minik's node agent: makes the pods of one node real.")
    p.add_argument("--kubeconfig", default="", help="how to reach the API server")
    p.add_argument("--node-name", default="", help="this node's name (default: the host's)")
    p.add_argument("--cluster-name", default="minik", help="part of link, table and cgroup names")
    p.add_argument("--data-dir", default="/var/lib/minik", help="images, logs, pods' files")
    p.add_argument("--run-dir", default="", help="sockets and secrets (default /run/minik/<cluster>/<node>)")
    p.add_argument("--cgroup-parent", default="", help="where the runtime's cgroups hang")
    p.add_argument("--node-ip", default="", help="this node's addresses, comma separated (default: that of the default route)")
    p.add_argument("--bind-address", default="0.0.0.0", help="where the node's server listens")
    p.add_argument("--port", type=int, default=10250, help="port of the node's server, 0 for any")
    p.add_argument("--tls-cert-file", default="")
    p.add_argument("--tls-private-key-file", default="")
    p.add_argument("--client-ca-file", default="", help="who signs the API server's client certificate")
    p.add_argument("--max-pods", type=int, default=110)
    p.add_argument("--pod-max-pids", type=int, default=0, help="processes per pod, 0 for no limit")
    p.add_argument("--cluster-dns", default="", help="addresses of the cluster's DNS; empty: pods use the host's servers")
    p.add_argument("--cluster-domain", default="cluster.local")
    p.add_argument("--resolv-conf", default="/etc/resolv.conf", help="the host's, for pods")
    p.add_argument("--service-cluster-ip-range", default="10.43.0.0/16")
    p.add_argument("--service-node-port-range", default="30000-32767")
    p.add_argument("--cluster-cidr", default="10.42.0.0/16")
    p.add_argument("--node-labels", default="", help="key=value, comma separated")
    p.add_argument("--max-container-restart-period", type=float, default=300.0, help="longest wait between restarts of a failing container, seconds")
    p.add_argument("--debug", action="store_true")
    return p


def _at_least(flag: str, value: int, least: int) -> int:
    if value < least:
        raise FlagError(f"{flag}: must be at least {least}, is {value}")
    return value


def _addresses(flag: str, text: str) -> list[str]:
    result = []
    for part in filter(None, (t.strip() for t in text.split(","))):
        try:
            result.append(str(ipaddress.ip_address(part)))
        except ValueError:
            raise FlagError(f"{flag}: {part!r} is not an IP address") from None
    return result


def _network(flag: str, text: str) -> str:
    try:
        return str(ipaddress.ip_network(text))
    except ValueError as e:
        raise FlagError(f"{flag}: {e}") from None


def _labels(text: str) -> dict[str, str]:
    result = {}
    for part in filter(None, text.split(",")):
        name, equals, value = part.partition("=")
        if not equals or not name:
            raise FlagError(f"--node-labels: {part!r} is not key=value")
        result[name] = value
    return result


def default_ip() -> str:
    """The address that this host would send from; no packet is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        try:
            s.connect(("192.0.2.1", 9))
            return str(s.getsockname()[0])
        except OSError:
            return "127.0.0.1"


def inherited_socket(name: str, environ: dict[str, str], pid: int) -> socket.socket | None:
    """The listening socket of that name handed over at start (sd_listen_fds(3)), or None."""
    if environ.get("LISTEN_PID", str(pid)) != str(pid) or not environ.get("LISTEN_FDS", "").isdigit():
        return None
    names = environ.get("LISTEN_FDNAMES", "").split(":")
    for i in range(int(environ["LISTEN_FDS"])):
        if i < len(names) and names[i] == name:
            return socket.socket(fileno=3 + i)
    return None
