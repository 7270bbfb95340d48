"""Images from a real registry through pods: pulled once, and refused with a reason that stands in the pod's events."""

import json
import os
import shutil

import pytest

from tests.e2e.support import ROOT, pod, wait_for
from tests.fakes.oci import Layer, write_layout

REGISTRY = "127.0.0.1:5055"
BUSYBOX = (ROOT / ".cache/busybox").read_bytes() if (ROOT / ".cache/busybox").exists() else b""
CONFIG = {"Entrypoint": ["/bin/busybox", "sh", "-c"], "Cmd": ["cat /greeting; sleep 3600"], "Env": ["FROM=image"], "WorkingDir": "/srv"}
BASE = Layer().dir("bin").add("bin/busybox", BUSYBOX, mode=0o755).add("greeting", b"old\n").dir("srv").tar()
TOP = Layer().add("greeting", b"hello from a registry\n").tar()
EVIL = Layer().add("../../../../escaped-from-a-layer", b"x").tar()


@pytest.fixture(scope="session")
def registry(cluster):
    """A docker-registry inside the cluster's host, with good, truncated, altered and evil images."""
    host = cluster.host
    data = f"/run/registry-{REGISTRY.rsplit(':', 1)[1]}"
    config = {"version": 0.1, "log": {"level": "error"}, "storage": {"filesystem": {"rootdirectory": data}}, "http": {"addr": REGISTRY}}
    host.run("sh", "-c", "cat > /run/registry.json", input=json.dumps(config))
    process = host.popen("docker-registry", "serve", "/run/registry.json")
    folder = ROOT / ".cache" / f"layouts-{os.getpid()}"  # the host sees the checkout; its /tmp is its own
    try:
        wait_for(lambda: host.run("curl", "-sf", f"http://{REGISTRY}/v2/", check=False).returncode == 0, "the registry answers")
        blobs = {}
        for name, layers in (("good", [BASE, TOP]), ("evil", [BASE, EVIL]), ("truncated", [BASE, TOP + b"1"]), ("altered", [BASE, TOP + b"2"])):
            manifest = write_layout(folder / name, "1", layers, config=CONFIG)
            host.run("skopeo", "copy", "-q", "--insecure-policy", "--dest-tls-verify=false", f"oci:{folder / name}:1", f"docker://{REGISTRY}/{name}:1")
            blobs[name] = manifest["layers"][1]["digest"].removeprefix("sha256:")
        paths = {n: f"{data}/docker/registry/v2/blobs/sha256/{b[:2]}/{b}/data" for n, b in blobs.items()}
        host.run("sh", "-c", f"truncate -s -20 {paths['truncated']}; printf X | dd of={paths['altered']} bs=1 seek=30 conv=notrunc")
        yield REGISTRY
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def test_a_pulled_image_runs_with_its_own_entrypoint_env_and_directory(space, registry):
    space.apply(pod("pulled", {"name": "c", "image": f"{registry}/good:1"}))
    space.wait_ready("pulled")
    assert wait_for(lambda: space.ctl("logs", "pulled").stdout, "its log") == "hello from a registry\n"
    assert space.ctl("exec", "pulled", "--", "/bin/busybox", "sh", "-c", "pwd; echo $FROM").stdout == "/srv\nimage\n"
    status = space.pod("pulled")["status"]["containerStatuses"][0]
    assert status["image"] == f"{registry}/good:1" and "sha256:" in status["imageID"]
    events = space.ctl("get", "events").stdout
    assert f'Pulling image "{registry}/good:1"' in events and "Successfully pulled image" in events


@pytest.mark.parametrize(("image", "reason"), [
    ("good:none", "manifest unknown"), ("nowhere:1", "nowhere"), ("truncated:1", ""), ("altered:1", "damaged"), ("evil:1", "../"),
])  # fmt: skip
def test_what_cannot_be_trusted_is_refused_with_a_reason(space, registry, image, reason):
    space.apply(pod("bad", {"name": "c", "image": f"{registry}/{image}"}))

    def waiting(p):
        return ((p["status"].get("containerStatuses") or [{}])[0].get("state") or {}).get("waiting", {})

    space.wait_pod("bad", lambda p: waiting(p).get("reason") in ("ErrImagePull", "ImagePullBackOff"), "ErrImagePull")
    space.wait_pod("bad", lambda p: waiting(p).get("reason") == "ImagePullBackOff", "ImagePullBackOff")
    events = wait_for(lambda: (t := space.ctl("get", "events").stdout) and f"{registry}/{image}" in t and "Failed" in t and t, "the event")
    assert reason in events, events
    host = space.cluster.host
    assert host.run("sh", "-c", "ls -A /var/lib/minik/images/tmp | grep -v '[.]lock$'", check=False).stdout == ""
    assert host.run("find", "/", "/var/lib", "/run", "/tmp", "-xdev", "-name", "escaped-from-a-layer", check=False).stdout == ""
    listed = host.run(str(ROOT / ".venv/bin/python"), "-m", "agent.images", "list", "--data-dir", "/var/lib/minik").stdout
    assert f"{registry}/{image}" not in listed


def test_an_imported_archive_is_there_without_a_pull(space, registry):
    host = space.cluster.host
    host.run("skopeo", "copy", "-q", "--insecure-policy", "--src-tls-verify=false", f"docker://{registry}/good:1", "docker-archive:/run/saved.tar:localhost/saved:1")
    host.run(str(ROOT / ".venv/bin/python"), "-m", "agent.images", "import", "/run/saved.tar", "--data-dir", "/var/lib/minik")
    space.apply(pod("saved", {"name": "c", "image": "localhost/saved:1", "imagePullPolicy": "Never"}))
    space.wait_ready("saved")
    assert wait_for(lambda: space.ctl("logs", "saved").stdout, "its log") == "hello from a registry\n"
