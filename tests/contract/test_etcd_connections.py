"""What etcd's connections suffer: cut in the middle of a stream, members that die or hang, TLS, other people's writes. Against real etcd processes."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import ipaddress
import pathlib
import subprocess
import sys
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from apiserver.store import base
from apiserver.store.etcd import EtcdStore
from tests.contract.etcd_server import EtcdServer, Proxy, free_ports

DEADLINE_S = 60


@pytest_asyncio.fixture
async def proxy(etcd_server: EtcdServer) -> AsyncIterator[Proxy]:
    proxy = Proxy(etcd_server.port)
    await proxy.start()
    yield proxy
    await proxy.stop()


async def follow(store: EtcdStore, prefix: str, after: int, until: asyncio.Future[int]) -> list[base.Event]:
    events: list[base.Event] = []
    async with contextlib.aclosing(store.watch(prefix, after)) as batches:
        async for batch in batches:
            events += batch.events
            if until.done() and batch.revision >= until.result():
                return events
    raise AssertionError("the watch ended by itself")


async def test_cut_connections_lose_and_double_nothing(etcd_server: EtcdServer, proxy: Proxy, prefix: str) -> None:
    """A watch through a proxy that is cut again and again, at any byte, while another client writes (and deletes) straight to the server."""
    writer = await EtcdStore.open(etcd_server.endpoint)
    watcher = await EtcdStore.open(f"http://127.0.0.1:{proxy.port}", progress_interval_s=0.2)
    start = await writer.revision()
    end: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    watching = asyncio.create_task(follow(watcher, prefix, start, end))
    written: list[int] = []
    cuts = 0

    async def write(worker: int) -> None:
        for n in range(150):
            revision = await writer.create(f"{prefix}{worker}-{n}", b"x" * 3000)
            written.append(revision)
            if n % 4 == 0:
                written.append((await writer.delete(f"{prefix}{worker}-{n}", revision))[1])

    async with asyncio.timeout(DEADLINE_S):
        tasks = [asyncio.create_task(write(n)) for n in range(8)]
        for count in range(100, 1500, 100):
            while len(written) < count:
                await asyncio.sleep(0.001)
            cuts += proxy.cut()
        await asyncio.gather(*tasks)
        end.set_result(max(written))
        events = await watching
    assert [event.kv.mod_revision for event in events] == sorted(written)
    assert all(event.prev is not None and len(event.prev.value) == 3000 for event in events if event.type == "DELETE")
    assert cuts >= 2 and proxy.accepted >= 3, "the proxy cut nothing: the test shows nothing"
    await watcher.close()
    await writer.close()


async def test_compaction_while_disconnected_is_told(etcd_server: EtcdServer, proxy: Proxy, prefix: str) -> None:
    """Also at the one revision etcd itself does not check: a deletion at the very revision of the compaction."""
    writer = await EtcdStore.open(etcd_server.endpoint)
    watcher = await EtcdStore.open(f"http://127.0.0.1:{proxy.port}", progress_interval_s=0.2)
    await writer.create(prefix + "a", b"1")
    start = await writer.revision()
    async with asyncio.timeout(DEADLINE_S), contextlib.aclosing(watcher.watch(prefix, start)) as batches:
        assert (await anext(batches)).revision == start
        proxy.refuse = True
        proxy.cut()
        _, deleted = await writer.delete(prefix + "a")
        assert deleted == start + 1
        await writer.compact(deleted)
        proxy.refuse = False
        with pytest.raises(base.Compacted) as caught:
            async for batch in batches:
                assert batch.revision <= start, "the deletion was skipped in silence"
        assert caught.value.compacted == deleted
    await watcher.close()
    await writer.close()


async def test_reads_and_watches_fail_over(etcd_server: EtcdServer, prefix: str) -> None:
    """Two ways to the server, each cut off in turn; a third that nobody listens on."""
    proxies = [Proxy(etcd_server.port), Proxy(etcd_server.port)]
    for proxy in proxies:
        await proxy.start()
    endpoints = [f"http://127.0.0.1:{free_ports(1)[0]}"] + [f"http://127.0.0.1:{proxy.port}" for proxy in proxies]
    store = await EtcdStore.open(endpoints, progress_interval_s=0.2)
    end: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    watching = asyncio.create_task(follow(store, prefix, await store.revision(), end))
    revisions = []
    async with asyncio.timeout(DEADLINE_S):
        for turn in range(6):
            for number, proxy in enumerate(proxies):
                proxy.refuse = number == turn % 2
                if proxy.refuse:
                    proxy.cut()
            await store.revision()  # a read finds the way that is open …
            while True:
                try:
                    revisions.append(await store.create(f"{prefix}{turn}", b""))  # … and a write goes it
                    break
                except base.StoreUnavailable:
                    continue
                except base.KeyExists:
                    kv = await store.get(f"{prefix}{turn}")
                    assert kv is not None
                    revisions.append(kv.mod_revision)
                    break
        end.set_result(revisions[-1])
        assert [event.kv.mod_revision for event in await watching] == revisions
    await store.close()
    for proxy in proxies:
        await proxy.stop()


async def test_server_killed_and_started_again(tmp_path: pathlib.Path) -> None:
    server = EtcdServer(tmp_path / "single")
    try:
        await asyncio.to_thread(server.start)
        store = await EtcdStore.open(server.endpoint, progress_interval_s=0.2, timeout_s=1)
        start = await store.revision()
        end: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        watching = asyncio.create_task(follow(store, "/registry/", start, end))
        first = await store.create("/registry/a", b"1")
        server.kill()
        with pytest.raises(base.StoreUnavailable, match=r"127\.0\.0\.1"):
            await store.create("/registry/b", b"2")
        with pytest.raises(base.StoreUnavailable):
            await store.get("/registry/a")
        await asyncio.to_thread(server.start)
        async with asyncio.timeout(DEADLINE_S):
            while True:
                with contextlib.suppress(base.StoreUnavailable):
                    second = await store.create("/registry/c", b"3")
                    break
            end.set_result(second)
            keys = [event.kv.key for event in await watching]
        assert keys[0] == "/registry/a" and keys[-1] == "/registry/c" and first == start + 1
        await store.close()
    finally:
        server.kill()


async def test_cluster_of_three_survives_its_leader(tmp_path: pathlib.Path) -> None:
    ports = [free_ports(2) for _ in range(3)]
    cluster = ",".join(f"m{n}=http://127.0.0.1:{peer}" for n, (_, peer) in enumerate(ports))
    members = [EtcdServer(tmp_path / f"m{n}", "--initial-cluster", cluster, ports=ports[n]) for n in range(3)]
    try:
        for member in members:
            member.spawn()
        for member in members:
            await asyncio.to_thread(member.wait_ready)
        store = await EtcdStore.open([member.endpoint for member in members], progress_interval_s=0.2, timeout_s=10)
        end: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        watching = asyncio.create_task(follow(store, "/registry/", await store.revision(), end))
        acknowledged: dict[str, int] = {}
        async with asyncio.timeout(DEADLINE_S):
            for n in range(300):
                if n == 100:
                    members[_leader(members)].kill()
                key = f"/registry/{n}"
                with contextlib.suppress(base.StoreUnavailable):  # its outcome is unknown
                    acknowledged[key] = await store.create(key, b"")
            end.set_result(await store.revision())
            events = await watching
        seen = {event.kv.key: event.kv.mod_revision for event in events}
        assert len(events) == len(seen), "an event came twice"
        assert acknowledged.items() <= seen.items() and len(acknowledged) >= 290
        assert {kv.key for kv in (await store.range("/registry/")).kvs} == set(seen)
        await store.close()
    finally:
        for member in members:
            member.kill()


def _leader(members: list[EtcdServer]) -> int:
    import json

    endpoints = ",".join(member.endpoint for member in members)
    text = subprocess.run(["etcdctl", "--endpoints", endpoints, "endpoint", "status", "-w", "json"], check=True, capture_output=True, env={"ETCDCTL_API": "3", "PATH": "/usr/bin:/bin"}).stdout
    for number, status in enumerate(json.loads(text)):
        if status["Status"]["header"]["member_id"] == status["Status"]["leader"]:
            return number
    raise AssertionError("no leader")


async def test_other_peoples_writes_do_not_hold_up_progress(etcd_server: EtcdServer, prefix: str) -> None:
    """Somebody else writes outside of the prefix: the watch's marks still reach every revision that was seen, and no key of ours shows under the prefix."""
    ours, theirs = await EtcdStore.open(etcd_server.endpoint), await EtcdStore.open(etcd_server.endpoint)
    start = await ours.create(prefix + "a", b"")
    async with asyncio.timeout(DEADLINE_S), contextlib.aclosing(ours.watch(prefix, start)) as batches:
        assert (await anext(batches)).revision == start
        for n in range(5):
            await theirs.create(f"/theirs{prefix}{n}", b"")
            seen = await ours.revision()
            async for batch in batches:
                assert batch.events == []
                if batch.revision >= seen:
                    break
    assert [kv.key for kv in (await ours.range(prefix)).kvs] == [prefix + "a"]
    await ours.close()
    await theirs.close()


async def test_events_with_one_ttl_share_leases(etcd_server: EtcdServer, prefix: str) -> None:
    store = await EtcdStore.open(etcd_server.endpoint)
    before = _leases(etcd_server)
    await asyncio.gather(*(store.create(f"{prefix}{n}", b"", ttl_s=3600) for n in range(50)))
    assert len(_leases(etcd_server) - before) == 1
    await store.close()


async def test_a_lease_that_was_revoked_is_replaced(etcd_server: EtcdServer, prefix: str) -> None:
    store = await EtcdStore.open(etcd_server.endpoint)
    before = _leases(etcd_server)
    await store.create(prefix + "a", b"", ttl_s=7200)
    [lease] = _leases(etcd_server) - before
    _etcdctl(etcd_server, "lease", "revoke", lease)
    await store.create(prefix + "b", b"", ttl_s=7200)
    assert [kv.key for kv in (await store.range(prefix)).kvs] == [prefix + "b"]
    await store.close()


def _etcdctl(server: EtcdServer, *arguments: str) -> str:
    command = ["etcdctl", "--endpoints", server.endpoint, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, env={"ETCDCTL_API": "3", "PATH": "/usr/bin:/bin"}).stdout


def _leases(server: EtcdServer) -> set[str]:
    return {word for word in _etcdctl(server, "lease", "list").split() if len(word) == 16}


async def test_keys_are_there_to_see_with_etcdctl(etcd_server: EtcdServer, prefix: str) -> None:
    store = await EtcdStore.open(etcd_server.endpoint)
    await store.create(prefix + "default/hello", b'{"kind":"Pod"}')
    assert _etcdctl(etcd_server, "get", "--prefix", prefix).splitlines() == [prefix + "default/hello", '{"kind":"Pod"}']
    await store.close()


# TLS


def _certificate(directory: pathlib.Path, name: str, issuer: tuple[x509.Certificate, ec.EllipticCurvePrivateKey] | None) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(subject_name=subject, issuer_name=issuer[0].subject if issuer else subject, public_key=key.public_key(), serial_number=x509.random_serial_number())
    builder = builder.not_valid_before(now - datetime.timedelta(hours=1)).not_valid_after(now + datetime.timedelta(days=1))
    builder = builder.add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
    certificate = builder.sign(issuer[1] if issuer else key, hashes.SHA256())
    (directory / f"{name}.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (directory / f"{name}.key").write_bytes(private)
    return certificate, key


async def test_mutual_tls(tmp_path: pathlib.Path) -> None:
    ca = _certificate(tmp_path, "ca", None)
    _certificate(tmp_path, "server", ca)
    _certificate(tmp_path, "client", ca)
    _certificate(tmp_path, "stranger", _certificate(tmp_path, "other-ca", None))
    pem = {name: str(tmp_path / name) for name in ("ca.crt", "server.crt", "server.key", "client.crt", "client.key", "stranger.crt", "stranger.key", "other-ca.crt")}
    flags = ["--cert-file", pem["server.crt"], "--key-file", pem["server.key"], "--trusted-ca-file", pem["ca.crt"], "--client-cert-auth"]
    server = EtcdServer(tmp_path / "tls", *flags, scheme="https")
    try:
        await asyncio.to_thread(server.start)
        store = await EtcdStore.open(server.endpoint, ca=pem["ca.crt"], cert=pem["client.crt"], key=pem["client.key"])
        revision = await store.create("/registry/a", b"secret")
        end: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        end.set_result(revision)
        assert len(await follow(store, "/registry/", revision - 1, end)) == 1
        await store.close()
        for wrong in ({"ca": pem["other-ca.crt"], "cert": pem["client.crt"], "key": pem["client.key"]}, {"ca": pem["ca.crt"], "cert": pem["stranger.crt"], "key": pem["stranger.key"]}, {"ca": pem["ca.crt"]}):
            with pytest.raises(base.StoreUnavailable, match=f"127.0.0.1:{server.port}"):
                await EtcdStore.open(server.endpoint, **wrong, timeout_s=1)
    finally:
        server.kill()


@pytest.mark.parametrize(
    ("endpoints", "files", "message"),
    [
        ("", {}, "no etcd endpoint given"),
        ("ftp://127.0.0.1:1", {}, "etcd endpoint 'ftp://127.0.0.1:1': want http://host:port or https://host:port"),
        ("http://127.0.0.1:99999", {}, "etcd endpoint 'http://127.0.0.1:99999'"),
        ("http://a:1,https://b:2", {}, "http and https cannot be mixed"),
        ("https://127.0.0.1:1", {"ca": "/nowhere/ca.crt"}, "cannot read /nowhere/ca.crt for etcd: No such file"),
        ("https://127.0.0.1:1", {"cert": "/dev/null"}, "certificate and key must be given together"),
    ],
)
async def test_wrong_settings_are_named(endpoints: str, files: dict[str, str], message: str) -> None:
    with pytest.raises(base.StoreError, match=message):
        await EtcdStore.open(endpoints, **files, timeout_s=0.5)


async def test_nobody_listens() -> None:
    port = free_ports(1)[0]
    with pytest.raises(base.StoreUnavailable, match=f"etcd at 127.0.0.1:{port}"):
        await EtcdStore.open(f"http://127.0.0.1:{port}", timeout_s=0.5)


@pytest.mark.parametrize("size", [1_700_000, 2_900_000])
async def test_a_value_that_etcd_does_not_take(etcd_server: EtcdServer, prefix: str, size: int) -> None:
    """etcd's own limit (1.5 MiB), and its gRPC server's above it (2 MiB): an error of the value, not of the store."""
    store = await EtcdStore.open(etcd_server.endpoint)
    try:
        with pytest.raises(base.ValueTooLarge, match="refused the request"):
            await store.create(prefix + "big", b"x" * size)
        assert await store.get(prefix + "big") is None
    finally:
        await store.close()


def test_grpc_is_imported_by_the_etcd_store_only() -> None:
    code = "import sys, apiserver.store.cache, apiserver.store.sqlite, apiserver.store.codec; sys.exit('grpc' in sys.modules or 'google.protobuf' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
