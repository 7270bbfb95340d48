"""Volumes on a real file system: what their files hold, how they change, what is refused."""

from __future__ import annotations

import asyncio
import base64
import os
import stat
import subprocess
from typing import Any

import pytest

from agent import downward
from agent.volumes import atomic, mounts, payload, subpath
from agent.volumes.payload import File, VolumeError
from agent.volumes.sources import Sources
from agent.volumes.tokens import Tokens
from agent.volumes.volumes import Volumes
from apiserver.api import errors, kinds

NO_FACTS = downward.Facts()


def pod(*volumes: dict, **spec: Any) -> dict:
    return {"metadata": {"name": "p", "namespace": "ns", "uid": "u1", "labels": {"app": "web"}}, "spec": {"containers": [{"name": "c"}], "volumes": list(volumes), **spec}}


def no_token(spec: payload.TokenSpec) -> str:
    raise AssertionError(f"no token was asked for: {spec}")


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def test_payload_of_each_kind():
    volume = {
        "name": "v",
        "projected": {
            "defaultMode": 0o640,
            "sources": [
                {"configMap": {"name": "cm", "items": [{"key": "a", "path": "sub/a", "mode": 0o600}]}}, {"secret": {"name": "s"}},
                {"downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}}, {"serviceAccountToken": {"path": "token", "audience": "x"}},
            ],
        },
    }  # fmt: skip
    objects = {("ConfigMap", "cm"): {"data": {"a": "A", "b": "B"}, "binaryData": {"c": b64("C")}}, ("Secret", "s"): {"data": {"k": b64("v")}}}
    files = payload.render(pod(), volume, objects, lambda spec: f"token for {spec.audience}", NO_FACTS)
    assert files == {"sub/a": File(b"A", 0o600), "k": File(b"v", 0o640), "labels": File(b'app="web"', 0o640), "token": File(b"token for x", 0o640)}
    assert payload.is_sensitive(volume)
    assert not payload.is_sensitive({"name": "v", "configMap": {"name": "cm"}})


@pytest.mark.parametrize(
    ("volume", "text"),
    [
        ({"configMap": {"name": "none"}}, 'configmap "none" not found'), ({"secret": {"secretName": "none"}}, 'secret "none" not found'),
        ({"configMap": {"name": "cm", "items": [{"key": "x", "path": "x"}]}}, "non-existent config key: x"),
        ({"configMap": {"name": "cm", "items": [{"key": "a", "path": "../x"}]}}, "invalid path"),
    ],
)  # fmt: skip
def test_payload_errors(volume: dict, text: str):
    objects = {("ConfigMap", "cm"): {"data": {"a": "A"}}}
    with pytest.raises(VolumeError, match=text):
        payload.render(pod(), {"name": "v", **volume}, objects, no_token, NO_FACTS)


def test_optional_ones_may_be_missing():
    assert payload.render(pod(), {"name": "v", "secret": {"secretName": "none", "optional": True}}, {}, no_token, NO_FACTS) == {}


def read_all(folder: str) -> dict[str, str]:
    return {os.path.relpath(os.path.join(d, n), folder): open(os.path.join(d, n)).read() for d, _, names in os.walk(folder) for n in names if ".." not in os.path.relpath(d, folder)}


def test_atomic_change_moves_one_link(tmp_path):
    folder = str(tmp_path)
    assert atomic.write(folder, {"a": File(b"1"), "sub/b": File(b"2", 0o600)}, "v1")
    assert os.readlink(tmp_path / "a") == "..data/a"
    assert (tmp_path / "sub/b").read_text() == "2"
    assert stat.S_IMODE(os.stat(tmp_path / "sub/b").st_mode) == 0o600
    assert not atomic.write(folder, {"a": File(b"1"), "sub/b": File(b"2", 0o600)}, "v2")
    held = open(tmp_path / "a")
    assert atomic.write(folder, {"a": File(b"new"), "c": File(b"3")}, "v3")
    assert held.read() == "1"
    assert sorted(os.listdir(folder)) == ["..data", "..v3", "a", "c"]
    assert (tmp_path / "a").read_text() == "new"


def test_sub_path_stays_in_its_volume(tmp_path):
    (tmp_path / "vol").mkdir()
    (tmp_path / "vol" / "out").symlink_to("../secret")
    (tmp_path / "secret").mkdir()
    assert subpath.resolve(str(tmp_path / "vol"), "new/dir") == str(tmp_path / "vol/new/dir")
    assert (tmp_path / "vol/new/dir").is_dir()
    for bad in ("out", "../secret", "/etc"):
        with pytest.raises(VolumeError):
            subpath.resolve(str(tmp_path / "vol"), bad)


class FakeClient:
    """A get, a watch that a test feeds, and token requests."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], dict] = {}
        self.events: asyncio.Queue = asyncio.Queue()
        self.gets, self.tokens = 0, 0

    async def get(self, resource, name, namespace=""):
        self.gets += 1
        try:
            return self.objects[(resource.kind, name)]
        except KeyError:
            raise errors.NotFound(resource, name) from None

    async def watch(self, resource, namespace="", **selection):
        while True:
            yield await self.events.get()

    async def create(self, resource, obj, namespace="", *, name="", subresource=""):
        assert (resource, name, subresource) == (kinds.SERVICEACCOUNTS, "default", "token")
        assert obj["spec"]["boundObjectRef"]["uid"] == "u1"
        self.tokens += 1
        return {"status": {"token": f"t{self.tokens}", "expirationTimestamp": "1970-01-01T01:00:00Z"}}


@pytest.fixture
def made(tmp_path):
    client, clock = FakeClient(), [0.0]
    changed: list = []
    sources = Sources(client, lambda *key: changed.append(key))
    volumes = Volumes(str(tmp_path / "data"), str(tmp_path / "run"), sources, Tokens(client, lambda: clock[0]))
    (tmp_path / "run").mkdir()
    volumes.prepare()
    yield volumes, client, sources, changed, clock
    for point in mounts.mounts_below(str(tmp_path)):
        mounts.umount(point)


async def test_a_missing_config_map_names_the_volume_and_comes_in_later(made):
    volumes, client, sources, _, _ = made
    p = pod({"name": "conf", "configMap": {"name": "cm"}})
    with pytest.raises(VolumeError, match=r'MountVolume\.SetUp failed for volume "conf" : configmap "cm" not found'):
        await volumes.mount(p, NO_FACTS)
    client.objects[("ConfigMap", "cm")] = {"metadata": {"resourceVersion": "1"}, "data": {"a": "A"}}
    paths = await volumes.mount(p, NO_FACTS)
    assert read_all(paths["conf"]) == {"a": "A"}
    volumes.tear_down("u1")
    assert not os.path.exists(paths["conf"])
    await sources.close()


async def test_a_changed_object_is_told_and_the_watch_ends_with_its_last_user(made, monkeypatch):
    monkeypatch.setattr("agent.volumes.sources.WATCH_AFTER_S", 0)
    volumes, client, sources, changed, _ = made
    client.objects[("ConfigMap", "cm")] = {"metadata": {"resourceVersion": "1"}, "data": {"a": "A"}}
    p = pod({"name": "conf", "configMap": {"name": "cm"}})
    paths = await volumes.mount(p, NO_FACTS)
    client.events.put_nowait(("MODIFIED", {"metadata": {"resourceVersion": "2"}, "data": {"a": "B"}}))
    async with asyncio.timeout(5):
        while not changed:
            await asyncio.sleep(0)
    assert changed == [("ConfigMap", "ns", "cm")]
    gets = client.gets
    await volumes.mount(p, NO_FACTS)
    assert read_all(paths["conf"]) == {"a": "B"}
    assert client.gets == gets
    sources.release("u1")
    assert sources.users("ConfigMap", "ns", "cm") == set()


async def test_secrets_and_tokens_are_on_tmpfs_for_root_alone(made):
    volumes, client, sources, _, clock = made
    client.objects[("Secret", "s")] = {"metadata": {"resourceVersion": "1"}, "data": {"k": b64("v")}}
    token = {"name": "tok", "projected": {"sources": [{"serviceAccountToken": {"path": "token", "expirationSeconds": 3600}}]}}
    p = pod({"name": "sec", "secret": {"secretName": "s", "defaultMode": 0o400}}, token)
    paths = await volumes.mount(p, NO_FACTS)
    for path in paths.values():
        assert subprocess.run(["stat", "-f", "-c", "%T", path], capture_output=True, text=True, check=True).stdout.strip() == "tmpfs"
    assert stat.S_IMODE(os.stat(os.path.join(paths["sec"], "k")).st_mode) == 0o400
    assert read_all(paths["tok"]) == {"token": "t1"}
    assert volumes.renew_at("u1") == 2880
    clock[0] = 2879
    await volumes.mount(p, NO_FACTS)
    assert client.tokens == 1
    clock[0] = 2880
    await volumes.mount(p, NO_FACTS)
    assert read_all(paths["tok"]) == {"token": "t2"}
    await sources.close()


async def test_empty_dirs(made):
    volumes, _, _, _, _ = made
    p = pod({"name": "d", "emptyDir": {}}, {"name": "m", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}, securityContext={"fsGroup": 1234})
    paths = await volumes.mount(p, NO_FACTS)
    assert stat.S_IMODE(os.stat(paths["d"]).st_mode) == 0o2777
    assert os.stat(paths["m"]).st_gid == 1234
    with pytest.raises(OSError, match="No space left"):
        with open(os.path.join(paths["m"], "big"), "wb") as f:
            f.write(b"x" * (2 << 20))
    open(os.path.join(paths["d"], "kept"), "w").close()
    assert await volumes.mount(p, NO_FACTS) == paths
    assert os.path.exists(os.path.join(paths["d"], "kept"))
    volumes.tear_down("u1")
    assert mounts.mounts_below(os.path.dirname(paths["m"])) == []
    assert volumes.orphans(set()) == []


@pytest.mark.parametrize(("kind", "ok"), [("", True), ("DirectoryOrCreate", True), ("FileOrCreate", True), ("Directory", False), ("File", False), ("Socket", False)])
async def test_host_path_types(made, tmp_path, kind: str, ok: bool):
    volumes, _, _, _, _ = made
    path = str(tmp_path / "host" / "x") if kind != "FileOrCreate" else str(tmp_path / "x")
    p = pod({"name": "h", "hostPath": {"path": path, "type": kind}})
    if ok:
        assert await volumes.mount(p, NO_FACTS) == {"h": path}
        assert os.path.isfile(path) == (kind == "FileOrCreate")
    else:
        with pytest.raises(VolumeError, match="hostPath type check failed"):
            await volumes.mount(p, NO_FACTS)


@pytest.mark.parametrize(("volume", "text"), [({"persistentVolumeClaim": {"claimName": "c"}}, 'persistentVolumeClaim "c"'), ({"nfs": {"server": "s", "path": "/"}}, "volume type nfs")])
async def test_what_is_not_supported_says_so(made, volume: dict, text: str):
    with pytest.raises(VolumeError, match=text):
        await made[0].mount(pod({"name": "v", **volume}), NO_FACTS)
