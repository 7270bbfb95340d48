"""A whole cluster in a virtual host, once per store; every test gets a namespace of its own. The host's tmpfs, network and cgroups go with it, also when pytest is killed."""

from __future__ import annotations

import itertools
import json
import shutil

import pytest

from cluster import hosts
from tests.e2e.support import ROOT, Cluster, Space, wait_for

_numbers = itertools.count(1)


@pytest.fixture(scope="session", params=["sqlite", "etcd"])
def cluster(request):
    hosts.sweep()
    with hosts.Fabric() as fabric, hosts.Host(fabric, f"n-{request.param}", "10.99.0.1") as host:
        if request.param == "etcd":
            assert shutil.which("etcd"), "etcd is not installed: `make setup-dev` installs etcd-server"
            host.popen("etcd", "--data-dir", "/run/etcd", "--log-level", "error")
            wait_for(lambda: host.run("etcdctl", "endpoint", "health", check=False, env={"ETCDCTL_API": "3", "PATH": "/usr/bin:/bin"}).returncode == 0, "etcd healthy")
        c = Cluster(host, request.param)
        c.minik("up", *c.up_flags())
        host.run(str(ROOT / ".venv/bin/python"), "-m", "agent.images", "busybox", "--binary", str(ROOT / ".cache/busybox"), "--data-dir", "/var/lib/minik")
        yield c
        c.minik("down")


@pytest.fixture
def space(cluster):
    name = f"t{next(_numbers)}"
    cluster.minikctl("apply", "-f", "-", input=json.dumps({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}))
    yield Space(cluster, name)
    cluster.minikctl("delete", "namespace", name, "--timeout=60s")
