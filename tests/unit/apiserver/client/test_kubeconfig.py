from __future__ import annotations

import subprocess

import pytest

from apiserver.client import kubeconfig
from apiserver.client.blocking import BlockingClient
from apiserver.client.client import Client
from apiserver.client.config import ClientConfig, ConfigError

YAML = """
apiVersion: v1
kind: Config
current-context: here
contexts:
- {name: here, context: {cluster: c, user: u, namespace: web}}
- {name: other, context: {cluster: c, user: missing}}
clusters:
- name: c
  cluster: {server: "https://10.0.0.1:6443/", certificate-authority: ca.pem}
users:
- name: u
  user: {client-certificate-data: Q0VSVA==, client-key-data: S0VZ, token: t}
"""


def test_inline_data_and_files_relative_to_it(tmp_path) -> None:
    (tmp_path / "ca.pem").write_bytes(b"CA")
    (tmp_path / "config").write_text(YAML)
    config = kubeconfig.load(environ={"KUBECONFIG": f"{tmp_path}/absent:{tmp_path}/config"})
    assert config == ClientConfig("https://10.0.0.1:6443", ca_data=b"CA", cert_data=b"CERT", key_data=b"KEY", token="t", namespace="web")
    assert config.address == ("10.0.0.1", 6443)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "Expecting property name"),
        ("a: [", "config"),
        ("- x", "not a kubeconfig"),
        ("{}", "current-context is not set"),
        (YAML.replace("current-context: here", "current-context: nope"), "context 'nope' does not exist in contexts"),
        (YAML.replace("current-context: here", "current-context: other"), "user 'missing' does not exist"),
        (YAML.replace("Q0VSVA==", "'%%'"), "client-certificate-data: not base64"),
        (YAML.replace("certificate-authority: ca.pem", "certificate-authority: /absent.pem"), "cannot read /absent.pem: No such file"),
        (YAML.replace('"https://10.0.0.1:6443/"', '"10.0.0.1"').replace(", certificate-authority: ca.pem", ""), "not an http"),
        (YAML.replace("token: t", "exec: {command: x}"), "exec is not supported"),
    ],
)
def test_errors_name_file_and_field(tmp_path, text: str, message: str) -> None:
    (tmp_path / "ca.pem").write_bytes(b"CA")
    path = tmp_path / "config"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as e:
        kubeconfig.load(str(path))
    assert str(path) in str(e.value) or "/absent.pem" in str(e.value)


def test_nothing_to_load(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(kubeconfig, "ADMIN_KUBECONFIG", str(tmp_path / "none"))
    with pytest.raises(ConfigError, match="no kubeconfig"):
        kubeconfig.load(environ={"HOME": str(tmp_path)})


def test_in_cluster(tmp_path) -> None:
    (tmp_path / "ca.crt").write_bytes(b"CA")
    (tmp_path / "token").write_text("tok")
    (tmp_path / "namespace").write_text("ns1")
    config = kubeconfig.load_in_cluster({"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "443"}, str(tmp_path))
    assert (config.address, config.namespace, config.token_file) == (("fd00::1", 443), "ns1", f"{tmp_path}/token")


async def test_mutual_tls_with_inline_keys(tmp_path) -> None:
    """A real TLS server that asks for the client's certificate; a server of another CA is refused by both clients."""
    import asyncio
    import ssl

    from apiserver.client.requests import ServerUnreachable

    def make(name: str, *extra: str) -> None:
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", f"/CN={name}",
             "-keyout", f"{tmp_path}/{name}.key", "-out", f"{tmp_path}/{name}.crt", *extra],
            check=True, capture_output=True,
        )  # fmt: skip

    make("server", "-addext", "subjectAltName=IP:127.0.0.1")
    make("me")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(f"{tmp_path}/server.crt", f"{tmp_path}/server.key")
    context.load_verify_locations(f"{tmp_path}/me.crt")
    context.verify_mode = ssl.CERT_REQUIRED
    subjects = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return
        subjects.append(writer.get_extra_info("peercert")["subject"])
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=context)
    read = lambda name: (tmp_path / name).read_bytes()  # noqa: E731
    url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    good = ClientConfig(url, ca_data=read("server.crt"), cert_data=read("me.crt"), key_data=read("me.key"))
    stranger = ClientConfig(url, ca_data=read("me.crt"))
    async with Client(good) as client:
        assert (await client.request("GET", "/")).body == b"{}"
    assert (await asyncio.to_thread(BlockingClient(good).request, "GET", "/")).body == b"{}"
    assert subjects == [((("commonName", "me"),),)] * 2
    with pytest.raises(ServerUnreachable, match="certificate does not verify"):
        await Client(stranger).request("GET", "/")
    with pytest.raises(ServerUnreachable, match="certificate does not verify"):
        await asyncio.to_thread(BlockingClient(stranger).request, "GET", "/")
    with pytest.raises(ConfigError, match="certificate-authority"):
        ClientConfig(url, ca_data=b"nonsense").ssl_context()
    with pytest.raises(ConfigError, match="client-certificate"):
        ClientConfig(url, ca_data=read("me.crt"), cert_data=read("me.crt"), key_data=read("server.key")).ssl_context()
    server.close()
