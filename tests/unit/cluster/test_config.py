"""Flags to values and to the process tree; certificates that a TLS library believes."""

import dataclasses
import datetime
import ssl
import stat

import pytest
from cryptography import x509

from cluster import config, pki


def test_defaults_come_from_the_host():
    c = config.validate(config.Config(node_name="N1"))
    assert (c.node_name, c.data_dir, str(c.run_dir), c.kubernetes_ip, c.server) == ("n1", "/var/lib/minik", "/run/minik/minik/n1", "10.43.0.1", "https://127.0.0.1:6443")
    assert config.validate(config.Config(name="two", node_name="n")).data_dir == "/var/lib/minik-two"


@pytest.mark.parametrize(("change", "flag"), [
    ({"name": "A"}, "--name"), ({"name": "x" * 21}, "--name"), ({"node_name": "-"}, "--node-name"), ({"node_name": "n" * 100}, "--node-name"), ({"store": "x"}, "--store"),
    ({"store": "etcd"}, "--etcd-endpoints"), ({"port": 0}, "--port"), ({"agent_port": 70000}, "--agent-port"), ({"cluster_cidr": "10.0.0.0/24"}, "--cluster-cidr"),
    ({"cluster_cidr": "x"}, "--cluster-cidr"), ({"service_cidr": "10.42.1.0/24"}, "overlaps"), ({"node_port_range": "1"}, "--node-port-range"), ({"max_pods": 501}, "--max-pods"),
    ({"controllers": "x"}, "--controllers"), ({"node_ip": "x"}, "--node-ip"), ({"bind_address": "1.2.3"}, "--bind-address"),
])  # fmt: skip
def test_what_cannot_be_meant_is_named(change, flag):
    with pytest.raises(config.ConfigError, match=flag):
        config.validate(dataclasses.replace(config.Config(node_name="n"), **change))


def test_cluster_json_of_another_version_is_read():
    c = config.validate(config.Config(node_name="n"))
    assert config.from_dict(dataclasses.asdict(c) | {"from_the_future": 1}) == c


def test_every_process_gets_its_sockets_and_its_log():
    spec = config.plan_spec(config.validate(config.Config(node_name="n", controllers="separate", store="etcd", etcd_endpoints="http://e:2379")), python="/py")
    assert [p["name"] for p in spec["processes"]] == ["apiserver", "logger", "zygote", "agent", "scheduler", "controllers"]
    for p in spec["processes"]:
        assert set(p["sockets"]) <= set(spec["sockets"]) and p["argv"][0] == "/py" and p["log"] == f"/var/lib/minik/log/{p['name']}.log"
    api = spec["processes"][0]["argv"]
    assert api[api.index("--etcd-servers") + 1] == "http://e:2379" and "--sqlite-path" not in api


def test_certificates_chain_name_and_renew(tmp_path):
    leaves = pki.plan_leaves("n1", ("192.0.2.7",), "10.43.0.1", ())
    assert set(pki.ensure(tmp_path, "c", leaves)) == {leaf.stem for leaf in leaves}
    assert pki.ensure(tmp_path, "c", leaves) == []
    ca = x509.load_pem_x509_certificate((tmp_path / "ca.crt").read_bytes())
    server = x509.load_pem_x509_certificate((tmp_path / "apiserver.crt").read_bytes())
    server.verify_directly_issued_by(ca)
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert "kubernetes.default.svc" in names.get_values_for_type(x509.DNSName)
    assert {"10.43.0.1", "192.0.2.7", "127.0.0.1"} <= {str(i) for i in names.get_values_for_type(x509.IPAddress)}
    node = x509.load_pem_x509_certificate((tmp_path / "node.crt").read_bytes())
    assert "O=system:nodes" in node.subject.rfc4514_string() and "CN=system:node:n1" in node.subject.rfc4514_string()
    assert all(stat.S_IMODE(p.stat().st_mode) == 0o600 for p in tmp_path.glob("*.key"))
    assert pki.ensure(tmp_path, "c", pki.plan_leaves("n1", ("192.0.2.8",), "10.43.0.1", ())) == ["apiserver", "kubelet"]
    context = ssl.create_default_context(cafile=str(tmp_path / "ca.crt"))
    context.load_cert_chain(tmp_path / "admin.crt", tmp_path / "admin.key")


def test_a_certificate_near_its_end_is_issued_again(tmp_path, monkeypatch):
    leaves = [pki.Leaf("admin", "me")]
    pki.ensure(tmp_path, "c", leaves)
    first = x509.load_pem_x509_certificate((tmp_path / "admin.crt").read_bytes())
    later = first.not_valid_after_utc - datetime.timedelta(days=30)
    monkeypatch.setattr(pki.time, "time", later.timestamp)
    assert pki.ensure(tmp_path, "c", leaves) == ["admin"]


def test_the_admins_token_is_kept(tmp_path):
    pki.ensure(tmp_path, "c", [])
    token = pki.admin_token(tmp_path)
    pki.ensure(tmp_path, "c", [])
    assert len(token) == 48 and pki.admin_token(tmp_path) == token
