"""minikctl and real kubectl, four versions, against one cluster: the same picture, the same habits."""

import contextlib
import json
import os
import pty
import re
import subprocess
import termios
import time

import pytest

from cluster import hosts
from tests.e2e.support import MINIKCTL, container, pod, wait_for

VERSIONS = ["1.27", "1.31", "1.32", "1.33"]


def rows(text):
    """A printed table without its ages."""
    return [re.sub(r"\s+", " ", re.sub(r"\b\d+[smh](\d+s)?\b", "AGE", line)).strip() for line in text.splitlines()]


@pytest.mark.parametrize("version", VERSIONS)
def test_the_same_picture(space, version):
    space.apply(pod("shown", container("c", "trap 'exit 0' TERM; sleep 3600 & wait"), labels={"app": "x"}))
    space.wait_ready("shown")
    for words in (["get", "pods"], ["get", "pods", "-o", "wide"], ["get", "pods", "--show-labels"], ["get", "nodes"], ["get", "svc", "-A"], ["get", "ns"], ["get", "pods", "-o", "name"]):
        assert rows(space.kubectl(version, *words).stdout) == rows(space.ctl(*words).stdout), words
    for kind in ("pod/shown", "node", "namespace"):
        ours, theirs = space.ctl("get", *kind.split("/"), "-o", "json").stdout, space.kubectl(version, "get", *kind.split("/"), "-o", "json").stdout
        assert _stable(json.loads(ours)) == _stable(json.loads(theirs))
    assert "name: shown" in space.kubectl(version, "get", "pod", "shown", "-o", "yaml").stdout


def _stable(obj):
    """Without what moves between two reads."""
    text = json.dumps(obj, sort_keys=True)
    text = re.sub(r'"(resourceVersion|lastHeartbeatTime|lastProbeTime)": "[^"]*"', r'"\1": ""', text)
    return json.loads(text)


@pytest.mark.parametrize("version", VERSIONS)
def test_kubectl_does_its_everyday_work(space, version):
    document = pod("work", container("c", "trap 'exit 0' TERM; echo started; sleep 3600 & wait"), labels={"keep": "1", "drop": "1"})
    assert "created" in space.kubectl(version, "apply", "-f", "-", input=json.dumps(document)).stdout
    space.wait_ready("work")
    assert "unchanged" in space.kubectl(version, "apply", "-f", "-", input=json.dumps(document)).stdout
    del document["metadata"]["labels"]["drop"]
    assert "configured" in space.kubectl(version, "apply", "-f", "-", input=json.dumps(document)).stdout
    assert space.pod("work")["metadata"]["labels"] == {"keep": "1"}
    described = space.kubectl(version, "describe", "pod", "work").stdout
    assert "Successfully assigned" in described and "Started container c" in described
    assert space.kubectl(version, "logs", "work").stdout == "started\n"
    done = space.kubectl(version, "exec", "-i", "work", "--", "sh", "-c", "cat; exit 3", input="through\n", check=False)
    assert done.stdout == "through\n" and done.returncode == 3, done.stderr
    assert "annotate" in space.kubectl(version, "annotate", "pod", "work", "a=b").stdout
    assert space.kubectl(version, "wait", "--for=condition=Ready", "pod/work", "--timeout=30s").returncode == 0
    name = f"made-by-{version.replace('.', '-')}-{space.name}"
    assert "created" in space.kubectl(version, "create", "ns", name).stdout
    assert space.kubectl(version, "auth", "can-i", "delete", "pods").stdout == "yes\n"
    assert "deleted" in space.kubectl(version, "delete", "ns", name, "--timeout=60s").stdout
    assert "deleted" in space.kubectl(version, "delete", "pod", "work", "--timeout=60s").stdout
    assert space.pods() == []


@pytest.mark.parametrize("tool", ["minikctl", "1.27", "1.33"])
def test_watch_and_follow(space, tool):
    cluster = space.cluster
    from cluster import hosts
    from tests.e2e.support import MINIKCTL

    base = MINIKCTL if tool == "minikctl" else [hosts.kubectl(tool), f"--cache-dir=/run/kubectl-{tool}"]
    watching = cluster.host.popen(*base, "--kubeconfig", cluster.kubeconfig, "-n", space.name, "get", "pods", "-w", stdout=subprocess.PIPE)
    try:
        time.sleep(1)  # a watch has no sign that it has begun; what follows it must show either way
        space.apply(pod("seen", container("c", "for i in 1 2 3; do echo $i; sleep 0.3; done"), restartPolicy="Never"))
        space.wait_pod("seen", lambda p: p["status"].get("phase") in ("Running", "Succeeded"), "started")
        followed = cluster.host.run(*base, "--kubeconfig", cluster.kubeconfig, "-n", space.name, "logs", "-f", "seen", timeout_s=30).stdout
        assert followed == "1\n2\n3\n"
        space.wait_pod("seen", lambda p: p["status"].get("phase") == "Succeeded", "Succeeded")
        wait_for(lambda: space.ctl("delete", "pod", "seen", "--ignore-not-found").returncode == 0, "deleted")
    finally:
        time.sleep(0.5)
        watching.terminate()
    text = watching.communicate(timeout=20)[0]
    assert text.count("NAME") == 1 and "seen" in text and "Completed" in text


def test_apply_by_minikctl_and_kubectl_are_interchangeable(space):
    document = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "shared"}, "data": {"a": "1", "b": "2"}}
    assert space.apply(document).stdout == "configmap/shared created\n"
    assert space.kubectl("1.33", "apply", "-f", "-", input=json.dumps(document)).stdout == "configmap/shared unchanged\n"
    del document["data"]["b"]
    assert space.apply(document).stdout == "configmap/shared configured\n"
    assert space.apply(document).stdout == "configmap/shared unchanged\n"
    assert json.loads(space.kubectl("1.33", "get", "cm", "shared", "-o", "json").stdout)["data"] == {"a": "1"}


def test_etcds_keys_are_where_kubernetes_has_them(space):
    if space.cluster.store != "etcd":
        pytest.skip("the store is sqlite: there is no etcd to look into")
    space.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "visible"}, "data": {"a": "1"}})
    environment = {"ETCDCTL_API": "3", "PATH": "/usr/bin:/bin"}
    keys = space.cluster.host.run("etcdctl", "get", "--prefix", "--keys-only", "/registry/", env=environment).stdout.split()
    assert f"/registry/configmaps/{space.name}/visible" in keys and f"/registry/namespaces/{space.name}" in keys
    value = space.cluster.host.run("etcdctl", "get", "--print-value-only", f"/registry/configmaps/{space.name}/visible", env=environment).stdout
    assert json.loads(value)["data"] == {"a": "1"}


def test_version_and_api_resources(space):
    assert space.ctl("version").stdout.splitlines()[1].startswith("Server Version: v1.36")
    ours = [line.split() for line in space.ctl("api-resources", "--no-headers").stdout.splitlines()]
    theirs = [line.split() for line in space.kubectl("1.33", "api-resources", "--no-headers").stdout.splitlines()]
    assert sorted(ours) == sorted(theirs) and len(ours) > 40


@pytest.mark.parametrize("version", VERSIONS)
def test_attaching_to_a_terminal_until_its_container_exits(space, version):
    """`kubectl run -i -t`: what it prints, and the exit code, which kubectl takes from the pod's status."""
    script = "read line; echo got $line; until stty size 2> /dev/null | grep '33 101'; do sleep 0.1; done; exit 3"
    words = ["run", "seen", "-i", "-t", "--restart=Never", "--image=localhost/busybox:1", "--command", "--", "sh", "-c", script]
    argv = [hosts.kubectl(version), "--kubeconfig", space.cluster.kubeconfig, f"--cache-dir=/run/kubectl-{version}", "-n", space.name, *words]
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (33, 101))
    client = space.cluster.host.popen(*argv, stdin=slave, stdout=slave, stderr=slave)
    os.close(slave)
    said = b""
    with contextlib.suppress(OSError):  # EIO: the terminal's other side is closed
        while data := os.read(master, 4096):
            said += data
            if b"press" in data:
                os.write(master, b"word\n")
    os.close(master)
    assert client.wait(60) == 3, said
    assert b"got word" in said and b"33 101" in said and b"couldn't attach" not in said, said


def test_minikctls_watch_survives_the_api_server(space):
    cluster = space.cluster
    watching = cluster.host.popen(*MINIKCTL, "--kubeconfig", cluster.kubeconfig, "-n", space.name, "get", "configmaps", "-w", "-o", "name", stdout=subprocess.PIPE)
    try:
        first = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "first"}}
        space.apply(first)
        seen = [watching.stdout.readline()]
        while not {"configmap/first\n", "configmap/kube-root-ca.crt\n"} <= set(seen):
            seen.append(watching.stdout.readline())
        before = cluster.pids()["apiserver"]
        cluster.host.run("kill", "-9", str(before))
        wait_for(lambda: cluster.pids().get("apiserver", before) != before and cluster.minik("status", check=False).returncode == 0, "a new API server")
        space.apply(first | {"metadata": {"name": "second"}})
        assert watching.stdout.readline() == "configmap/second\n"
    finally:
        watching.terminate()
        watching.communicate(timeout=20)


@pytest.mark.parametrize("version", VERSIONS)
def test_port_forward(space, version):
    """Two requests through one forward, a big answer, and a protocol in which the client ends first."""
    script = "mkdir /www; head -c 3000000 /dev/zero > /www/big; echo hello > /www/index.html; httpd -p 8080 -h /www; while :; do nc -l -p 9090 -e wc -c; done"
    space.apply(pod("p", container("c", f"trap 'exit 0' TERM; ({script}) & wait")))
    space.wait_ready("p")
    wait_for(lambda: space.kubectl(version, "exec", "p", "--", "wget", "-qO", "/dev/null", "http://127.0.0.1:8080/", check=False).returncode == 0, "httpd listens")
    words = ["--kubeconfig", space.cluster.kubeconfig, f"--cache-dir=/run/kubectl-{version}", "-n", space.name, "port-forward", "p", "18080:8080", "19090:9090"]
    forward = space.cluster.host.popen(hosts.kubectl(version), *words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        while not (line := forward.stdout.readline()).startswith("Forwarding from [::1]:19090"):
            assert line.startswith("Forwarding from"), line
        assert space.cluster.curl("127.0.0.1:18080") == "hello"
        assert len(space.cluster.host.run("curl", "-s", "-m", "20", "http://127.0.0.1:18080/big").stdout) == 3_000_000
        count = "import socket; s = socket.create_connection(('127.0.0.1', 19090), 20); s.sendall(b'x' * 5000); s.shutdown(1); print(s.makefile().read())"
        assert space.cluster.host.run("python3", "-c", count).stdout.split() == ["5000"]
    finally:
        forward.terminate()
        forward.communicate(timeout=20)
