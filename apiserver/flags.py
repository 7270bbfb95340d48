"""The API server's command line: Kubernetes' flag names, parsed and checked into one value. Opens nothing but the files it must look at; refuses with one line that names the
flag. apiserver/__main__ calls `parse`."""

from __future__ import annotations

import argparse
import ipaddress
import os
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NoReturn

DEFAULT_ISSUER = "https://kubernetes.default.svc.cluster.local"


class FlagError(ValueError):
    """The text names the flag."""


@dataclass(frozen=True)
class Flags:
    bind_address: str
    secure_port: int
    advertise_address: str
    tls_cert_file: str
    tls_private_key_file: str
    client_ca_file: str
    token_auth_file: str
    service_account_key_file: str
    service_account_issuer: str
    kubelet_client_certificate: str
    kubelet_client_key: str
    kubelet_certificate_authority: str
    storage_backend: str
    sqlite_path: str
    etcd_servers: str
    etcd_cafile: str
    etcd_certfile: str
    etcd_keyfile: str
    service_cluster_ip_range: str
    service_node_port_range: str
    cluster_cidr: str
    node_cidr_mask_size: int
    controllers: str
    debug: bool

    @property
    def node_ports(self) -> tuple[int, int]:
        low, _, high = self.service_node_port_range.partition("-")
        return int(low), int(high)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise FlagError(message)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m apiserver", description="minik's API server.", allow_abbrev=False)
    text, number = parser.add_argument, lambda name, default, help_: parser.add_argument(name, type=int, default=default, help=help_)
    text("--bind-address", default="0.0.0.0", help="address to listen on, unless a socket named https is inherited (LISTEN_FDS)")
    number("--secure-port", 6443, "port to listen on and to advertise")
    text("--advertise-address", default="", help="where the cluster reaches this server; default: the address of the default route")
    text("--tls-cert-file", default="", help="server certificate, PEM")
    text("--tls-private-key-file", default="", help="its key, PEM")
    text("--client-ca-file", default="", help="CA of client certificates (CN = user, O = groups), PEM")
    text("--token-auth-file", default="", help='static tokens: token,user,uid,"group1,group2" a line')
    text("--service-account-key-file", default="", help="P-256 private key that signs and verifies ServiceAccount tokens, PEM")
    text("--service-account-issuer", default=DEFAULT_ISSUER, help="the iss of ServiceAccount tokens")
    text("--kubelet-client-certificate", default="", help="client certificate towards nodes, PEM")
    text("--kubelet-client-key", default="", help="its key, PEM")
    text("--kubelet-certificate-authority", default="", help="CA of the nodes' server certificates, PEM")
    text("--storage-backend", default="sqlite", choices=("sqlite", "etcd"), help="where objects are kept")
    text("--sqlite-path", default="", help="database file (backend sqlite)")
    text("--etcd-servers", default="", help="etcd URLs, separated by commas (backend etcd)")
    text("--etcd-cafile", default="", help="CA of etcd's certificates, PEM")
    text("--etcd-certfile", default="", help="client certificate towards etcd, PEM")
    text("--etcd-keyfile", default="", help="its key, PEM")
    text("--service-cluster-ip-range", default="10.43.0.0/16", help="CIDR of ClusterIPs")
    text("--service-node-port-range", default="30000-32767", help="NodePorts, low-high")
    text("--cluster-cidr", default="10.42.0.0/16", help="CIDR of pods")
    number("--node-cidr-mask-size", 22, "prefix length of a node's share of --cluster-cidr")
    text("--controllers", default="embedded", choices=("embedded", "separate"), help="control loops in this process, or run by apiserver.controllers")
    text("--debug", action="store_true", help="log more")
    return parser


def parse(argv: Sequence[str]) -> Flags:
    """Raises FlagError; --help exits."""
    values = vars(_parser().parse_args(argv))
    if not values["advertise_address"]:
        values["advertise_address"] = default_address(values["bind_address"])
    flags = Flags(**values)
    _check_files(flags)
    _check_addresses(flags)
    _check_store(flags)
    return flags


def _check_files(flags: Flags) -> None:
    for required in ("tls_cert_file", "tls_private_key_file"):
        if not getattr(flags, required):
            raise FlagError(f"{_name(required)}: is required")
    if bool(flags.kubelet_client_certificate) != bool(flags.kubelet_client_key):
        raise FlagError("--kubelet-client-certificate, --kubelet-client-key: one is useless without the other")
    if bool(flags.etcd_certfile) != bool(flags.etcd_keyfile):
        raise FlagError("--etcd-certfile, --etcd-keyfile: one is useless without the other")
    files = (
        "tls_cert_file", "tls_private_key_file", "client_ca_file", "token_auth_file", "service_account_key_file", "kubelet_client_certificate", "kubelet_client_key",
        "kubelet_certificate_authority", "etcd_cafile", "etcd_certfile", "etcd_keyfile",
    )  # fmt: skip
    for name in files:
        path = getattr(flags, name)
        if path and not os.access(path, os.R_OK):
            raise FlagError(f"{_name(name)}: cannot read {path}: {'no such file' if not os.path.exists(path) else 'permission denied'}")


def _check_addresses(flags: Flags) -> None:
    for name in ("bind_address", "advertise_address"):
        _valid(name, ipaddress.ip_address, getattr(flags, name))
    for name in ("service_cluster_ip_range", "cluster_cidr"):
        _valid(name, ipaddress.ip_network, getattr(flags, name))
    services, pods = ipaddress.ip_network(flags.service_cluster_ip_range), ipaddress.ip_network(flags.cluster_cidr)
    if services.overlaps(pods):
        raise FlagError(f"--service-cluster-ip-range: {services} overlaps --cluster-cidr {pods}")
    if not pods.prefixlen <= flags.node_cidr_mask_size <= pods.max_prefixlen:
        raise FlagError(f"--node-cidr-mask-size: {flags.node_cidr_mask_size} does not fit into --cluster-cidr {pods}")
    if not 0 <= flags.secure_port <= 65535:
        raise FlagError(f"--secure-port: {flags.secure_port} is not a port")
    low, dash, high = flags.service_node_port_range.partition("-")
    if not (dash and low.isdigit() and high.isdigit() and 0 < int(low) <= int(high) <= 65535):
        raise FlagError(f"--service-node-port-range: {flags.service_node_port_range!r} is not a range of ports such as 30000-32767")


def _check_store(flags: Flags) -> None:
    if flags.storage_backend == "sqlite" and not flags.sqlite_path:
        raise FlagError("--sqlite-path: is required with --storage-backend sqlite")
    if flags.storage_backend == "etcd" and not flags.etcd_servers:
        raise FlagError("--etcd-servers: is required with --storage-backend etcd")
    if not flags.service_account_issuer:
        raise FlagError("--service-account-issuer: must not be empty")


def _valid(name: str, check: Callable[[str], object], text: str) -> None:
    try:
        check(text)
    except ValueError as err:
        raise FlagError(f"{_name(name)}: {err}") from None


def _name(field: str) -> str:
    return "--" + field.replace("_", "-")


def default_address(bind_address: str) -> str:
    """The bound address, or, where that is the wildcard, the one that the default route leaves from; 127.0.0.1 without a route."""
    if bind_address not in ("0.0.0.0", "::", ""):
        return bind_address
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("198.51.100.1", 9))  # sends nothing: UDP's connect only looks the route up
            return str(probe.getsockname()[0])
        except OSError:
            return "127.0.0.1"


def refuse(error: object) -> int:
    """One line, exit status 2."""
    print(f"apiserver: {error}", file=sys.stderr)
    return 2
