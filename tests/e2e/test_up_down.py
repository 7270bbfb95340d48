"""`minik` itself: up twice, hello, down, and a host that looks as it did before."""

import json

import pytest

from cluster import hosts
from tests.e2e.support import ROOT, Cluster, wait_for

SNAPSHOT = """
echo links; ls /sys/class/net; echo routes; ip route; ip rule
echo tables; nft list tables; echo mounts; cut -d' ' -f2- /proc/self/mounts | sort
echo cgroups; find /sys/fs/cgroup -type d | sort; echo run; ls -A /run; echo sysctl processes; ps -eo args | grep -v -e 'ps -eo' -e grep -e 'sh -c' | sort
"""


@pytest.fixture
def host():
    hosts.sweep()
    with hosts.Fabric() as fabric, hosts.Host(fabric, "solo", "10.99.0.1") as h:
        yield h


def test_up_twice_hello_down_and_nothing_is_left(host):
    c = Cluster(host, "sqlite")
    before = host.run("sh", "-c", SNAPSHOT).stdout
    first = c.minik("up", "--hello").stdout
    for name in ("hello-1", "hello-2", "hello-3"):
        assert f"hello from {name}" in first
    assert "Try next" in first
    pids = c.pids()
    assert {"guard", "apiserver", "scheduler", "agent", "zygote", "logger"} <= set(pids)
    pods = {p["metadata"]["uid"]: p["status"]["podIP"] for p in c.get("pods")["items"]}
    second = c.minik("up", "--hello").stdout
    assert "already running" in second and "unchanged" in second and "hello from" in second
    assert c.pids() == pids and {p["metadata"]["uid"]: p["status"]["podIP"] for p in c.get("pods")["items"]} == pods
    assert c.minik("down").stdout
    wait_for(lambda: host.run("sh", "-c", SNAPSHOT).stdout == before, lambda: f"the host as before:\n{_difference(before, host.run('sh', '-c', SNAPSHOT).stdout)}", timeout_s=10)
    c.minik("up")
    wait_for(lambda: len([p for p in c.get("pods")["items"] if p["status"].get("phase") == "Running"]) == 3, "the pods are back after down and up")
    assert [p["status"]["containerStatuses"][0]["restartCount"] for p in c.get("pods")["items"]] == [1, 1, 1]
    c.minik("down", "--purge")
    assert host.run("ls", "-A", "/var/lib").stdout == ""
    again = c.minik("down")
    assert "not running" in again.stdout


def _difference(a, b):
    import difflib

    return "\n".join(difflib.unified_diff(a.splitlines(), b.splitlines(), lineterm="", n=0))


def test_the_guards_death_leaves_containers_and_up_adopts_them(host):
    c = Cluster(host, "sqlite")
    c.minik("up", "--hello")
    ips = [p["status"]["podIP"] for p in c.get("pods")["items"]]
    ids = {p["metadata"]["name"]: p["status"]["containerStatuses"][0]["containerID"] for p in c.get("pods")["items"]}
    host.run("kill", "-9", str(c.pids()["guard"]))
    wait_for(lambda: c.minik("status", check=False).returncode == 1, "nothing runs")
    assert all(host.run("curl", "-s", "-m", "2", f"http://{ip}:8080/").stdout.startswith("hello from") for ip in ips)
    c.minik("up")
    wait_for(lambda: {p["metadata"]["name"]: p["status"]["containerStatuses"][0]["containerID"] for p in c.get("pods")["items"]} == ids, "the same containers")
    assert all(host.run("curl", "-s", "-m", "2", f"http://{ip}:8080/").stdout.startswith("hello from") for ip in ips)
    c.minik("down", "--purge")


@pytest.mark.parametrize(("flags", "text"), [
    (["--port", "99999"], "--port 99999"), (["--cluster-cidr", "10.0.0.0/8", "--service-cidr", "10.43.0.0/16"], "overlaps"), (["--store", "mysql"], "--store 'mysql'"),
    (["--store", "etcd"], "--etcd-endpoints"), (["--name", "Not_A_Name"], "--name 'Not_A_Name'"), (["--max-pods", "0"], "--max-pods 0"),
    (["--node-port-range", "5-1"], "--node-port-range '5-1'"),
])  # fmt: skip
def test_bad_flags_are_one_line(flags, text):
    import subprocess
    import sys

    done = subprocess.run([sys.executable, "-m", "cluster", "up", *flags], check=False, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and text in done.stderr and len(done.stderr.splitlines()) == 1


def test_two_clusters_side_by_side(host):
    c = Cluster(host, "sqlite")
    c.minik("up")
    flags = ["--name", "other", "--port", "7443", "--agent-port", "11250", "--cluster-cidr", "10.52.0.0/16", "--service-cidr", "10.53.0.0/16", "--node-port-range", "31000-31999"]
    c.minik("up", *flags)
    other = Cluster(host, "sqlite")
    other.kubeconfig = "/var/lib/minik-other/admin.kubeconfig"
    assert json.loads(other.minikctl("get", "svc", "kubernetes", "-o", "json").stdout)["spec"]["clusterIP"] == "10.53.0.1"
    assert c.get("svc", "kubernetes")["spec"]["clusterIP"] == "10.43.0.1"
    c.minik("down", "--name", "other", "--purge")
    assert c.minik("status").returncode == 0
    c.minik("down", "--purge")
