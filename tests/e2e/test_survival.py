"""kill -9 of every process in turn, while a client calls a Service in a loop and a container counts lines into its log."""

import json
import subprocess

import pytest

from tests.e2e.support import container, pod, service, wait_for, web_pod

VICTIMS = ["apiserver", "scheduler", "agent", "zygote", "logger"]


def container_pids(cluster):
    """{pid: start time} of everything in the cluster's pod cgroups, as this host's own pids."""
    script = "cat /sys/fs/cgroup/pids/minik-minik/*/pods/*/*/cgroup.procs 2>/dev/null || find /sys/fs/cgroup/minik-minik/*/pods -name cgroup.procs -exec cat {} +"
    pids = cluster.host.run("sh", "-c", script).stdout.split()
    out = {}
    for p in pids:
        stat = cluster.host.run("cat", f"/proc/{p}/stat", check=False).stdout
        if stat:
            out[int(p)] = stat.rsplit(")", 1)[1].split()[19]
    return out


class Loop:
    """Calls an address until stopped; counts answers and failures. Bounded: 2,000 calls at the most."""

    def __init__(self, cluster, address):
        script = f"for i in $(seq 1 2000); do [ -e /run/stop-loop ] && break; curl -s -m 2 http://{address}/ || echo FAILED; sleep 0.02; done"
        cluster.host.run("rm", "-f", "/run/stop-loop")
        self.cluster = cluster
        self.process = cluster.host.popen("sh", "-c", script, stdout=subprocess.PIPE)

    def stop(self):
        self.cluster.host.run("touch", "/run/stop-loop")
        return self.process.communicate(timeout=120)[0].split()


def kill(cluster, name):
    """SIGKILL by its pid inside the host; returns when another one of that name runs."""
    before = cluster.pids()[name]
    cluster.host.run("kill", "-9", str(before))
    wait_for(lambda: cluster.pids().get(name, before) != before, f"a new {name}")
    wait_for(lambda: cluster.minik("status", check=False).returncode == 0, "API ready and node Ready")


@pytest.mark.parametrize("victim", VICTIMS)
def test_kill_9_loses_nothing(space, victim):
    cluster = space.cluster
    count = "i=0; while [ ! -e /tmp/stop ]; do i=$((i+1)); echo n $i; done; echo last $i; exit 5"
    space.apply(service("web", "web"), web_pod("a", "web"), web_pod("b", "web"), pod("counter", container("c", count), restartPolicy="Never"))
    space.wait_ready("a", "b", "counter")
    ip = json.loads(space.ctl("get", "svc", "web", "-o", "json").stdout)["spec"]["clusterIP"]
    wait_for(lambda: cluster.curl(ip), "the Service answers")
    before = container_pids(cluster)
    loop = Loop(cluster, ip)
    kill(cluster, victim)
    kill(cluster, victim)
    after = container_pids(cluster)
    assert {p: t for p, t in before.items() if p in after} and set(before.items()) <= set(after.items()), "a container's process changed"
    space.ctl("exec", "counter", "--", "touch", "/tmp/stop", check=False)  # the container may end, and take the exec with it, before touch does
    p = space.wait_pod("counter", lambda p: p["status"].get("phase") == "Failed", "Failed")
    assert p["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 5
    lines = space.ctl("logs", "counter").stdout.splitlines()
    total = int(lines[-1].split()[1])
    assert lines[-1] == f"last {total}"
    kept = rotated_lines(cluster, space.name, "counter")
    numbers = {int(line.split()[1]) for line in kept if line.startswith("n ")}
    assert max(numbers) == total and numbers == set(range(min(numbers), total + 1)), "a line is missing"
    answers = loop.stop()
    assert len(answers) > 10 and "FAILED" not in answers and set(answers) == {"a", "b"}
    space.apply(web_pod("c", "web"))
    space.wait_ready("c")


def rotated_lines(cluster, namespace, name):
    """Every line of every log file of a pod, oldest first."""
    script = f"cd /var/lib/minik/logs/{namespace}_{name}_*/c && cat $(ls 0.log.* 2>/dev/null | sort) 0.log"
    text = cluster.host.run("sh", "-c", script).stdout
    return [line.split(" ", 3)[3] for line in text.splitlines()]


def test_an_exit_while_the_agent_and_the_zygote_are_dead_is_reported(space):
    cluster = space.cluster
    space.apply(pod("short", container("c", "while [ ! -e /tmp/go ]; do sleep 0.05; done; exit 9"), restartPolicy="Never"))
    space.wait_ready("short")
    pids = cluster.pids()
    victim = next(p for p in container_pids(cluster) if "/tmp/go" in cluster.host.run("cat", f"/proc/{p}/cmdline", check=False).stdout)
    cluster.host.run("sh", "-c", f"kill -9 {pids['agent']} {pids['zygote']}; touch /proc/{victim}/root/tmp/go")
    p = space.wait_pod("short", lambda p: p["status"].get("phase") == "Failed", "Failed")
    assert p["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 9


def test_all_at_once(space):
    cluster = space.cluster
    space.apply(service("web", "web"), web_pod("a", "web"))
    space.wait_ready("a")
    ip = json.loads(space.ctl("get", "svc", "web", "-o", "json").stdout)["spec"]["clusterIP"]
    wait_for(lambda: cluster.curl(ip) == "a", "the Service answers")
    before = container_pids(cluster)
    pids = cluster.pids()
    cluster.host.run("kill", "-9", *(str(pids[v]) for v in VICTIMS))
    assert cluster.curl(ip) == "a", "Services need no running minik"
    wait_for(lambda: cluster.minik("status", check=False).returncode == 0, "everything back")
    assert set(before.items()) <= set(container_pids(cluster).items())
    space.apply(web_pod("b", "web"))
    space.wait_ready("b")
