"""The cluster's keys and certificates: one CA, the API server's and the node's serving certificates, a client certificate for every component, the ServiceAccount signing
key, the admin token. Made at the first `up`, renewed by a later `up` when a third of their life is left; nothing here talks to anybody.

EC P-256 throughout (facts: 97 µs a key and signature). Names follow Kubernetes' PKI best practices: CN is the user, O the groups.
"""

from __future__ import annotations

import datetime
import ipaddress
import json
import os
import pathlib
import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

CA_DAYS, LEAF_DAYS = 3650, 365
RENEW_LEFT = 1 / 3


@dataclass(frozen=True, slots=True)
class Leaf:
    """One certificate to be: file stem, subject, and for a server the names it answers to."""

    stem: str
    common_name: str
    organizations: tuple[str, ...] = ()
    server_names: tuple[str, ...] = ()  # DNS names and IP addresses; empty for a client certificate


def plan_leaves(node_name: str, node_ips: tuple[str, ...], service_ip: str, hostnames: tuple[str, ...]) -> list[Leaf]:
    """Every certificate of a one-node cluster. `service_ip` is that of the Service `kubernetes`."""
    local = ("localhost", "127.0.0.1", "::1")
    service = ("kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local", service_ip)
    return [
        Leaf("apiserver", "kube-apiserver", server_names=(*local, *service, node_name, *hostnames, *node_ips)),
        Leaf("kubelet", f"system:node:{node_name}", ("system:nodes",), server_names=(*local, node_name, *node_ips)),
        Leaf("apiserver-kubelet-client", "kube-apiserver-kubelet-client", ("system:masters",)),
        Leaf("admin", "kubernetes-admin", ("system:masters",)),
        Leaf("node", f"system:node:{node_name}", ("system:nodes",)),
        Leaf("scheduler", "system:kube-scheduler"),
        Leaf("controller-manager", "system:kube-controller-manager"),
    ]


def write(path: pathlib.Path, data: bytes, mode: int = 0o600) -> None:
    """A whole file or the old one, whatever happens: fsync, then rename(2)."""
    new = path.with_name(path.name + ".new")
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(fd, "wb") as f:
        f.write(data)
        f.flush()
        os.fsync(f.fileno())
    os.rename(new, path)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    from cryptography.hazmat.primitives import serialization as s

    return key.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.NoEncryption())


def _name(common_name: str, organizations: tuple[str, ...] = ()) -> x509.Name:
    from cryptography import x509

    return x509.Name(
        [x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, o) for o in organizations] + [x509.NameAttribute(x509.NameOID.COMMON_NAME, common_name)]
    )


def _builder(subject: x509.Name, issuer: x509.Name, public_key, days: int) -> x509.CertificateBuilder:
    from cryptography import x509

    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(days=days))
    )


def _key_usage(**used: bool) -> x509.KeyUsage:
    from cryptography import x509

    names = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only")
    return x509.KeyUsage(**{n: used.get(n, False) for n in names})


def _make_ca(folder: pathlib.Path, cluster: str) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = _name(f"{cluster}-ca")
    certificate = (
        _builder(name, name, key.public_key(), CA_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(key_cert_sign=True, crl_sign=True, digital_signature=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    write(folder / "ca.key", _key_pem(key))
    write(folder / "ca.crt", certificate.public_bytes(serialization.Encoding.PEM), 0o644)


def _alternative_names(names: tuple[str, ...]) -> x509.SubjectAlternativeName:
    from cryptography import x509

    general: list[x509.GeneralName] = []
    for n in dict.fromkeys(names):
        try:
            general.append(x509.IPAddress(ipaddress.ip_address(n)))
        except ValueError:
            general.append(x509.DNSName(n))
    return x509.SubjectAlternativeName(general)


def _issue(folder: pathlib.Path, leaf: Leaf, ca_key, ca_certificate: x509.Certificate) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    usage = x509.ExtendedKeyUsageOID.SERVER_AUTH if leaf.server_names else x509.ExtendedKeyUsageOID.CLIENT_AUTH
    builder = (
        _builder(_name(leaf.common_name, leaf.organizations), ca_certificate.subject, key.public_key(), LEAF_DAYS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
    )
    if leaf.server_names:
        builder = builder.add_extension(_alternative_names(leaf.server_names), critical=False)
    write(folder / f"{leaf.stem}.key", _key_pem(key))
    write(folder / f"{leaf.stem}.crt", builder.sign(ca_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM), 0o644)


def ensure(folder: pathlib.Path, cluster: str, leaves: list[Leaf]) -> list[str]:
    """Makes what is missing, was issued for other names, or is due for renewal; returns the stems that are new. `issued.json` remembers what was issued when, so that a
    start with nothing to do imports no cryptography. Raises OSError, and ValueError where the CA's files do not fit together."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    record_path = folder / "issued.json"
    record: dict = json.loads(record_path.read_text()) if record_path.exists() else {}
    new_ca = not (folder / "ca.crt").exists() or not (folder / "ca.key").exists()
    if new_ca:
        _make_ca(folder, cluster)
        record = {}
    if not (folder / "sa.key").exists():
        from cryptography.hazmat.primitives.asymmetric import ec

        write(folder / "sa.key", _key_pem(ec.generate_private_key(ec.SECP256R1())))
    if not (folder / "tokens.csv").exists():
        write(folder / "tokens.csv", f'{secrets.token_hex(24)},kubernetes-admin,admin,"system:masters"\n'.encode())
    now = time.time()
    due = []
    for leaf in leaves:
        said = [leaf.common_name, list(leaf.organizations), list(leaf.server_names)]
        known = record.get(leaf.stem)
        fresh = known and known["for"] == said and known["until"] - now > LEAF_DAYS * 86400 * RENEW_LEFT
        if not fresh or not (folder / f"{leaf.stem}.crt").exists():
            due.append(leaf)
            record[leaf.stem] = {"for": said, "until": now + LEAF_DAYS * 86400}
    if due:
        from cryptography import x509
        from cryptography.hazmat.primitives import serialization

        ca_key = serialization.load_pem_private_key((folder / "ca.key").read_bytes(), None)
        ca_certificate = x509.load_pem_x509_certificate((folder / "ca.crt").read_bytes())
        for leaf in due:
            _issue(folder, leaf, ca_key, ca_certificate)
        write(record_path, json.dumps(record, indent=1).encode())
    return [leaf.stem for leaf in due]


def admin_token(folder: pathlib.Path) -> str:
    """The static token of kubernetes-admin. Raises FileNotFoundError where no cluster has been made."""
    return (folder / "tokens.csv").read_text().split(",", 1)[0]
