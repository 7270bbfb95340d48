"""Images against a real docker-registry on loopback, with layouts pushed by skopeo and archives written by it."""

import asyncio
import base64
import gzip
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import zstandard

from agent.images import fetch, model, puller, registry
from agent.images.store import ImageStore
from tests.fakes.oci import Layer, digest, write_layout

MISSING = [tool for tool in ("docker-registry", "skopeo") if shutil.which(tool) is None]
assert not MISSING, f"{' and '.join(MISSING)} not installed: `make setup-dev` installs them"

BASE = Layer().dir("bin").add("bin/app", b"v1", mode=0o755).dir("etc").add("etc/old", b"old").tar()
TOP = Layer().dir("etc").add("etc/.wh.old").add("etc/new", os.urandom(400_000)).tar()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class RealRegistry:
    """docker-registry; `htpasswd` adds basic authentication, `tls` a (certificate, key)."""

    def __init__(self, directory: Path, htpasswd: str = "", tls: tuple[str, str] | None = None) -> None:
        self.port, self.directory = free_port(), directory
        http: dict[str, object] = {"addr": f"127.0.0.1:{self.port}"}
        config: dict[str, object] = {"version": 0.1, "log": {"level": "error"}, "storage": {"filesystem": {"rootdirectory": str(directory / "data")}}, "http": http}
        if htpasswd:
            (directory / "htpasswd").write_text(htpasswd)
            config["auth"] = {"htpasswd": {"realm": "test", "path": str(directory / "htpasswd")}}
        if tls:
            http["tls"] = {"certificate": tls[0], "key": tls[1]}
        (directory / "config.yml").write_text(json.dumps(config))
        self.process = subprocess.Popen(["docker-registry", "serve", str(directory / "config.yml")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                assert time.monotonic() < deadline and self.process.poll() is None, "docker-registry did not start"
                time.sleep(0.02)

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    def blob_file(self, blob_digest: str) -> Path:
        value = blob_digest[7:]
        return self.directory / "data/docker/registry/v2/blobs/sha256" / value[:2] / value / "data"

    def push(self, layout: Path, name: str, *options: str) -> None:
        subprocess.run(["skopeo", "copy", "-q", "--insecure-policy", "--dest-tls-verify=false", *options, f"oci:{layout}", f"docker://{self.host}/{name}"], check=True)

    def put_manifest(self, name: str, tag: str, document: dict) -> None:
        request = urllib.request.Request(f"http://{self.host}/v2/{name}/manifests/{tag}", json.dumps(document).encode(), {"Content-Type": document["mediaType"]}, method="PUT")
        urllib.request.urlopen(request).close()

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealRegistry]:
    running = RealRegistry(tmp_path_factory.mktemp("registry"))
    yield running
    running.stop()


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(tmp_path / "data" / "images")


def assert_nothing_left(store: ImageStore) -> None:
    assert list(store.layers.root.iterdir()) == [] and store.list() == []
    assert [entry for entry in store.layers.tmp.iterdir() if entry.suffix != ".lock"] == []


async def test_pull_by_tag_then_resolve_by_every_name(hub: RealRegistry, store: ImageStore, tmp_path: Path) -> None:
    write_layout(tmp_path / "l", "x", [BASE, TOP], config={"Entrypoint": ["/bin/app"], "Cmd": ["-v"], "Env": ["A=1"], "User": "7:8", "WorkingDir": "/etc", "StopSignal": "SIGINT", "ExposedPorts": {"80/tcp": {}}})
    hub.push(tmp_path / "l", "team/app:1")
    image = await puller.pull(store, f"{hub.host}/team/app:1")
    assert image.references == (f"{hub.host}/team/app:1",)
    assert image.config == model.ImageConfig(("/bin/app",), ("-v",), ("A=1",), "/etc", "7:8", "SIGINT", (), ("80/tcp",))
    assert [Path(layer).name for layer in image.layers] == [digest(BASE)[7:], digest(TOP)[7:]]
    assert (Path(image.layers[0]) / "etc/old").read_bytes() == b"old" and os.lstat(Path(image.layers[1]) / "etc/old").st_rdev == 0
    assert image.size_bytes == 400_005
    for name in (f"{hub.host}/team/app:1", image.repo_digests[0], image.id, image.id[7:]):
        assert store.resolve(name) == image, name
    assert store.resolve(f"{hub.host}/team/app:2") is None
    by_digest = await puller.pull(ImageStore(tmp_path / "other"), image.repo_digests[0])
    assert by_digest.id == image.id and by_digest.references == ()


async def test_many_layers_and_many_pulls_at_once(hub: RealRegistry, store: ImageStore, tmp_path: Path) -> None:
    layers = [Layer().add(f"f{i}", os.urandom(200_000)).tar() for i in range(12)]
    for i in range(3):
        write_layout(tmp_path / f"l{i}", "x", layers[: 12 - i])
        hub.push(tmp_path / f"l{i}", f"many:{i}")
    images = await asyncio.gather(*(puller.pull(store, f"{hub.host}/many:{i % 3}") for i in range(6)))
    assert sorted({len(image.layers) for image in images}) == [10, 11, 12]
    assert len([entry for entry in store.layers.root.iterdir() if not entry.suffix]) == 12
    assert (Path(images[0].layers[11]) / "f11").stat().st_size == 200_000


async def test_index_is_resolved_by_platform(hub: RealRegistry, store: ImageStore, tmp_path: Path) -> None:
    here = model.Platform.host()
    entries = []
    for architecture, content in ((here.architecture, b"right"), ("mips", b"wrong")):
        layout = tmp_path / architecture
        write_layout(layout, "x", [Layer().add("which", content).tar()], architecture=architecture)
        hub.push(layout, f"multi:{architecture}")
        entry = json.loads((layout / "index.json").read_text())["manifests"][0]
        entries.append({"mediaType": entry["mediaType"], "digest": entry["digest"], "size": entry["size"], "platform": {"os": "linux", "architecture": architecture}})
    index = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": entries[::-1]}
    hub.put_manifest("multi", "all", index)
    image = await puller.pull(store, f"{hub.host}/multi:all")
    assert (Path(image.layers[0]) / "which").read_bytes() == b"right"
    assert f"{hub.host}/multi@{digest(json.dumps(index).encode())}" in image.repo_digests
    hub.put_manifest("multi", "none", {**index, "manifests": entries[1:]})
    with pytest.raises(model.ImagePullError, match=r'failed to pull and unpack image ".*/multi:none": no match for platform in manifest: linux/.* is needed, it has linux/mips'):
        await puller.pull(store, f"{hub.host}/multi:none")


async def test_zstd_layers(hub: RealRegistry, store: ImageStore, tmp_path: Path) -> None:
    write_layout(tmp_path / "l", "x", [BASE], blobs=[zstandard.compress(BASE)])
    index = json.loads((tmp_path / "l/index.json").read_text())["manifests"][0]
    manifest = json.loads((tmp_path / "l/blobs/sha256" / index["digest"][7:]).read_text())
    manifest["layers"][0]["mediaType"] = "application/vnd.oci.image.layer.v1.tar+zstd"
    for descriptor in (manifest["config"], *manifest["layers"]):
        with urllib.request.urlopen(urllib.request.Request(f"http://{hub.host}/v2/z/blobs/uploads/", b"", method="POST")) as started:
            location = started.headers["Location"]
        data = (tmp_path / "l/blobs/sha256" / descriptor["digest"][7:]).read_bytes()
        urllib.request.urlopen(urllib.request.Request(f"{location}&digest={descriptor['digest']}", data, {"Content-Type": "application/octet-stream"}, method="PUT")).close()
    hub.put_manifest("z", "1", manifest)
    assert (Path((await puller.pull(store, f"{hub.host}/z:1")).layers[0]) / "bin/app").read_bytes() == b"v1"


async def test_unknown_names_have_reasons(hub: RealRegistry, store: ImageStore, tmp_path: Path) -> None:
    write_layout(tmp_path / "l", "x", [BASE])
    hub.push(tmp_path / "l", "known:1")
    with pytest.raises(model.ImagePullError, match=r'failed to pull and unpack image ".*/known:2": manifest unknown: .*/known: 2 not found') as caught:
        await puller.pull(store, f"{hub.host}/known:2")
    assert not caught.value.retriable
    with pytest.raises(model.ImagePullError, match=r"manifest unknown|repository name not known"):
        await puller.pull(store, f"{hub.host}/nobody/nothing")
    with pytest.raises(model.ImagePullError, match="connection refused") as caught:
        await puller.pull(store, f"127.0.0.1:{free_port()}/x")
    assert caught.value.retriable
    with pytest.raises(model.InvalidReference, match="must be lowercase"):
        await puller.pull(store, "UPPER")
    assert_nothing_left(store)


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (lambda data: data[:-5] + bytes(5), "digest mismatch|damaged gzip"),
        (lambda data: data[: len(data) // 2], r"blob sha256:\w+ is truncated: the registry has \d+ bytes of \d+"),
        (lambda data: gzip.compress(b"no tar at all" * 500), "not a valid tar"),
    ],
)
async def test_a_damaged_blob_is_refused_and_leaves_nothing(hub: RealRegistry, store: ImageStore, tmp_path: Path, damage, match: str) -> None:
    good = Layer().add("good", os.urandom(50_000)).tar()
    manifest = write_layout(tmp_path / "l", "x", [good, Layer().add("bad", os.urandom(50_000)).tar()])
    hub.push(tmp_path / "l", "damaged:1")
    blob = hub.blob_file(manifest["layers"][1]["digest"])
    blob.write_bytes(damage(blob.read_bytes()))
    with pytest.raises(model.ImagePullError, match=match):
        await puller.pull(store, f"{hub.host}/damaged:1")
    assert store.list() == [] and not Path(store.layers.path(digest(good))).with_name("bad").exists()
    store.collect()
    assert_nothing_left(store)


async def test_an_evil_layer_is_refused(hub: RealRegistry, store: ImageStore, tmp_path: Path) -> None:
    write_layout(tmp_path / "l", "x", [Layer().add("../../../../evil", b"x").tar()])
    hub.push(tmp_path / "l", "evil:1")
    with pytest.raises(model.ImagePullError, match=r'refusing member "\.\./\.\./\.\./\.\./evil": it escapes the layer\'s root'):
        await puller.pull(store, f"{hub.host}/evil:1")
    assert_nothing_left(store)


async def test_basic_auth_tls_and_config(tmp_path: Path, store: ImageStore) -> None:
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", key, "-out", cert, "-days", "2", "-subj", "/CN=test",
                    "-addext", "subjectAltName=IP:127.0.0.1"], check=True, capture_output=True)  # fmt: skip
    secure = RealRegistry(tmp_path, "user:$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n", (str(cert), str(key)))
    try:
        with pytest.raises(model.ImagePullError, match=r"pull access denied for .*, repository does not exist or may require authorization"):
            await puller.pull(store, f"{secure.host}/private:1")
        with pytest.raises(model.ImagePullError, match="pull access denied"):
            await puller.pull(store, f"{secure.host}/private:1", model.Auth("user", "wrong"))
        write_layout(tmp_path / "l", "x", [BASE])
        secure.push(tmp_path / "l", "private:1", "--dest-creds=user:secret")
        assert (await puller.pull(store, f"{secure.host}/private:1", model.Auth("user", "secret"))).config.cmd == ("/bin/true",)
        (tmp_path / "data/registries.json").write_text(json.dumps({secure.host: {"ca_file": str(cert), "username": "user", "password": "secret"}}))
        assert (await puller.pull(store, f"{secure.host}/private:1")).config.cmd == ("/bin/true",)
        (tmp_path / "data/registries.json").write_text(json.dumps({secure.host: {"ca_file": str(tmp_path / "absent.pem")}}))
        with pytest.raises(model.ImagePullError, match="no such file"):
            await puller.pull(store, f"{secure.host}/private:1")
        (tmp_path / "data/registries.json").write_text(json.dumps({secure.host: {"cafile": "x"}}))
        with pytest.raises(model.ImageError, match='unknown field "cafile"'):
            await puller.pull(store, f"{secure.host}/private:1")
    finally:
        secure.stop()


class Front(BaseHTTPRequestHandler):
    """A registry's front: bearer tokens, and a storage service that breaks connections. Forwards to the real registry."""

    protocol_version = "HTTP/1.1"
    upstream = ""
    broken: set[str] = set()
    seen: list[tuple[str, str]] = []

    def log_message(self, *_: object) -> None: ...

    def answer(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        here = f"http://127.0.0.1:{self.server.server_address[1]}"
        auth = self.headers.get("Authorization", "")
        if self.path.startswith("/token?"):
            assert "service=front" in self.path and "scope=repository%3Aapp%3Apull" in self.path
            good = auth == "Basic " + base64.b64encode(b"me:secret").decode()
            return self.answer(200 if good else 401, {}, b'{"token":"t0k"}' if good else b"")
        if self.path.startswith("/storage"):
            Front.seen.append((self.path, auth))
            with urllib.request.urlopen(f"{Front.upstream}{self.path[8:]}") as response:
                data = response.read()
            start = int(self.headers.get("Range", "bytes=0-")[6:-1])
            if self.path not in Front.broken:
                Front.broken.add(self.path)
                self.send_response(200)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data[: len(data) // 2])
                self.close_connection = True
                return None
            return self.answer(206 if start else 200, {}, data[start:])
        if auth != "Bearer t0k":
            return self.answer(401, {"WWW-Authenticate": f'Bearer realm="{here}/token",service="front",scope="repository:app:pull"'})
        if "/blobs/" in self.path:
            return self.answer(307, {"Location": f"http://localhost:{self.server.server_address[1]}/storage{self.path}"})
        with urllib.request.urlopen(urllib.request.Request(f"{Front.upstream}{self.path}", headers={"Accept": self.headers["Accept"]})) as response:
            return self.answer(200, {"Content-Type": response.headers["Content-Type"]}, response.read())


async def test_bearer_token_redirect_and_resume(hub: RealRegistry, store: ImageStore, tmp_path: Path) -> None:
    write_layout(tmp_path / "l", "x", [Layer().add("big", os.urandom(3_000_000)).tar()])
    hub.push(tmp_path / "l", "app:1")
    Front.upstream = f"http://{hub.host}"
    server = ThreadingHTTPServer(("127.0.0.1", 0), Front)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        name = f"127.0.0.1:{server.server_address[1]}/app:1"
        with pytest.raises(model.ImagePullError, match="failed to fetch a token"):
            await puller.pull(store, name)
        config = {"auths": {name.split("/")[0]: {"auth": base64.b64encode(b"me:secret").decode()}}}
        image = await puller.pull(store, name, registry.auth_from_docker_config(config, name.split("/")[0]))
    finally:
        server.shutdown()
        server.server_close()
    assert (Path(image.layers[0]) / "big").stat().st_size == 3_000_000
    assert len(Front.seen) >= 4 and all(auth == "" for _, auth in Front.seen), "storage must be asked again, and never see the token"


@pytest.mark.parametrize(("transport", "packed"), [("docker-archive", False), ("docker-archive", True), ("oci-archive", False), ("oci-archive", True), ("oci", False)])
async def test_import_what_skopeo_writes(store: ImageStore, tmp_path: Path, transport: str, packed: bool) -> None:
    write_layout(tmp_path / "l", "x", [BASE, TOP])
    target = tmp_path / "out"
    subprocess.run(["skopeo", "copy", "-q", "--insecure-policy", f"oci:{tmp_path / 'l'}", f"{transport}:{target}:registry.example/team/app:9"], check=True)
    if packed:
        target.write_bytes(gzip.compress(target.read_bytes()))
    [image] = await puller.import_archive(store, target)
    assert image.references == ("registry.example/team/app:9",) and image == store.resolve("registry.example/team/app:9")
    assert [Path(layer).name for layer in image.layers] == [digest(BASE)[7:], digest(TOP)[7:]]
    [renamed] = await puller.import_archive(store, target, "localhost/mine:2")
    assert renamed.id == image.id and store.resolve("localhost/mine:2") is not None


async def test_import_refuses_what_is_no_image(store: ImageStore, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello")
    (tmp_path / "empty.tar").write_bytes(Layer().add("f", b"").tar())
    write_layout(tmp_path / "l", "", [BASE])
    for path, match in (("text", "cannot import .*text: truncated"), ("empty.tar", "neither a docker-archive"), ("absent", "no such file"), ("l", "has no name")):
        with pytest.raises(model.ArchiveError, match=match):
            await puller.import_archive(store, tmp_path / path)
    manifest = write_layout(tmp_path / "m", "a/b:1", [BASE])
    blob = tmp_path / "m/blobs/sha256" / manifest["layers"][0]["digest"][7:]
    blob.write_bytes(blob.read_bytes()[:-9])
    with pytest.raises(model.ArchiveError, match="truncated"):
        await puller.import_archive(store, tmp_path / "m")
    assert_nothing_left(store)


def test_remove_and_collect(store: ImageStore, tmp_path: Path) -> None:
    write_layout(tmp_path / "one", "example.org/one:1", [BASE, TOP])
    write_layout(tmp_path / "two", "example.org/two:1", [BASE])
    store.import_archive(tmp_path / "one")
    [two] = store.import_archive(tmp_path / "two")
    store.import_archive(tmp_path / "two", "example.org/alias:1")
    store.remove("example.org/one:1")
    assert store.resolve("example.org/one:1") is None
    top = store.layers.path(digest(TOP))
    assert store.collect(in_use=[top]) == 0 and Path(top).is_dir()
    assert store.collect() == 400_000 and not Path(top).exists()
    store.remove("example.org/two:1")
    assert store.resolve("example.org/alias:1") is not None and Path(two.layers[0]).is_dir()
    store.remove("example.org/alias:1")
    store.collect()
    assert_nothing_left(store)
    with pytest.raises(model.ImageNotFound, match=r"No such image: example\.org/alias:1"):
        store.remove("example.org/alias:1")


async def test_a_killed_pull_leaves_nothing_visible(hub: RealRegistry, store: ImageStore, tmp_path: Path) -> None:
    layers = [Layer().add("f", os.urandom(8_000_000)).tar() for _ in range(4)]
    write_layout(tmp_path / "l", "x", layers)
    hub.push(tmp_path / "l", "big:1")
    task = asyncio.create_task(puller.pull(store, f"{hub.host}/big:1"))
    while not [entry for entry in store.layers.tmp.iterdir() if entry.is_dir()]:
        await asyncio.sleep(0.002)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert store.resolve(f"{hub.host}/big:1") is None
    deadline = time.monotonic() + 10
    while any(entry.is_dir() for entry in store.layers.tmp.iterdir()):  # until its lock is gone
        store.collect()
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
    assert len((await puller.pull(store, f"{hub.host}/big:1")).layers) == 4


def test_retagging_moves_the_name(store: ImageStore, tmp_path: Path) -> None:
    for index, content in enumerate((BASE, TOP)):
        write_layout(tmp_path / str(index), "example.org/app:1", [content])
    [old] = store.import_archive(tmp_path / "0")
    [new] = ImageStore(store.root).import_archive(tmp_path / "1")
    found = store.resolve("example.org/app:1")
    assert found is not None and found.id == new.id != old.id
    assert store.resolve(old.id) is not None, "still known by its digest"


def test_command_line(tmp_path: Path, hub: RealRegistry) -> None:
    write_layout(tmp_path / "l", "x", [BASE])
    hub.push(tmp_path / "l", "cli:1")

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-m", "agent.images", *arguments, "--data-dir", str(tmp_path / "d")], check=False, capture_output=True, text=True)

    assert f"{hub.host}/cli:1" in run("pull", f"{hub.host}/cli:1").stdout
    assert f"{hub.host}/cli:1" in run("list").stdout
    assert run("remove", f"{hub.host}/cli:1").returncode == 0
    failed = run("remove", "absent")
    assert failed.returncode == 1 and failed.stderr == "error: No such image: absent\n"
    assert run("pull", f"{hub.host}/cli:2").stderr.startswith(f'error: failed to pull and unpack image "{hub.host}/cli:2": manifest unknown')


def test_fetch_of_a_pushed_docker_schema2_image(hub: RealRegistry, store: ImageStore, tmp_path: Path) -> None:
    write_layout(tmp_path / "l", "x", [BASE])
    hub.push(tmp_path / "l", "v2s2:1", "--format", "v2s2")
    assert fetch.fetch(store, f"{hub.host}/v2s2:1").config.cmd == ("/bin/true",)
