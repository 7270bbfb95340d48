"""The agent over everything real: API server, guard, zygote, logger, network, in a virtual host. What a pod's fields do on the node."""

from __future__ import annotations

import itertools
import json

import pytest

from cluster import hosts
from tests.e2e.support import ROOT, Cluster, Space, container, is_ready, pod, wait_for

_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def cluster():
    with hosts.Fabric("10.97.0.254/24") as fabric, hosts.Host(fabric, "n-agent", "10.97.0.1") as host:
        c = Cluster(host, "sqlite")
        c.minik("up")
        host.run(str(ROOT / ".venv/bin/python"), "-m", "agent.images", "busybox", "--binary", str(ROOT / ".cache/busybox"), "--data-dir", "/var/lib/minik")
        yield c
        c.minik("down")


@pytest.fixture
def space(cluster):
    name = f"a{next(_numbers)}"
    cluster.minikctl("apply", "-f", "-", input=json.dumps({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}))
    yield Space(cluster, name)
    cluster.minikctl("delete", "namespace", name, "--wait=false", check=False)


def events(space: Space, name: str) -> dict[str, str]:
    items = json.loads(space.ctl("get", "events", "-o", "json").stdout)["items"]
    return {e["reason"]: e["message"] for e in items if e["involvedObject"]["name"] == name}


def status_of(found: dict, name: str = "c") -> dict:
    every = [s for f in ("initContainerStatuses", "containerStatuses") for s in found["status"].get(f) or ()]
    return next((s for s in every if s["name"] == name), {})


def output(space: Space, name: str, *command: str) -> str:
    return space.ctl("exec", name, "--", *command).stdout.strip()


SLEEP = "while :; do sleep 1; done"
STOPPABLE = "trap 'exit 0' TERM; while :; do sleep 0.05; done"


def test_init_containers_run_in_order_and_sidecars_beside(space):
    shared = [{"name": "d", "mountPath": "/d"}]
    sidecar = container("side", f"echo side >> /d/order; {STOPPABLE}", volumeMounts=shared, restartPolicy="Always")
    one = container("one", "echo one >> /d/order", volumeMounts=shared)
    two = container("two", "echo two >> /d/order", volumeMounts=shared)
    space.apply(pod("p", container("c", f"cat /d/order; {STOPPABLE}", volumeMounts=shared), initContainers=[one, sidecar, two], volumes=[{"name": "d", "emptyDir": {}}]))
    space.wait_ready("p")
    assert output(space, "p", "sed", "-n", "1p", "/d/order") == "one"
    assert set(output(space, "p", "cat", "/d/order").split()) == {"one", "side", "two"}
    found = space.pod("p")
    assert status_of(found, "one")["state"]["terminated"]["reason"] == "Completed"
    assert status_of(found, "side")["started"] is True
    assert "running" in status_of(found, "side")["state"]


def test_an_init_container_that_fails_for_good_fails_the_pod(space):
    space.apply(pod("p", container("c", SLEEP), initContainers=[container("i", "exit 7")], restartPolicy="Never"))
    found = space.wait_pod("p", lambda p: p["status"].get("phase") == "Failed", "Failed")
    assert status_of(found, "i")["state"]["terminated"]["exitCode"] == 7
    assert status_of(found, "c")["state"] == {"waiting": {"reason": "PodInitializing"}}


def test_readiness_follows_the_probe_and_liveness_restarts(space):
    ready = {"exec": {"command": ["test", "-e", "/tmp/ready"]}, "periodSeconds": 1}
    alive = {"exec": {"command": ["sh", "-c", "echo gone wrong; test ! -e /tmp/dead"]}, "periodSeconds": 1, "failureThreshold": 1}
    space.apply(pod("p", container("c", STOPPABLE, readinessProbe=ready, livenessProbe=alive), terminationGracePeriodSeconds=2))
    space.wait_pod("p", lambda p: status_of(p).get("started"), "started")
    assert not is_ready(space.pod("p"))
    output(space, "p", "touch", "/tmp/ready")
    space.wait_ready("p")
    output(space, "p", "rm", "/tmp/ready")
    space.wait_pod("p", lambda p: not is_ready(p), "not ready any more")
    output(space, "p", "touch", "/tmp/dead")
    found = space.wait_pod("p", lambda p: status_of(p).get("restartCount") == 1, "restarted")
    assert "terminated" in status_of(found)["lastState"]
    seen = events(space, "p")
    assert seen["Killing"] == "Container c failed liveness probe, will be restarted"
    assert "probe failed" in seen["Unhealthy"]


def test_a_startup_probe_holds_back_and_kills(space):
    never = {"tcpSocket": {"port": 1}, "periodSeconds": 1, "failureThreshold": 2}
    space.apply(pod("p", container("c", STOPPABLE, startupProbe=never), terminationGracePeriodSeconds=1))
    found = space.wait_pod("p", lambda p: (status_of(p).get("restartCount") or 0) >= 1, "restarted")
    assert status_of(found)["ready"] is False
    assert "connection refused" in events(space, "p")["Unhealthy"]


def test_hooks_and_the_order_of_an_end(space):
    hooks = {"postStart": {"exec": {"command": ["sh", "-c", "echo post > /h/post"]}}, "preStop": {"exec": {"command": ["sh", "-c", "echo pre >> /h/end"]}}}
    space.cluster.host.run("mkdir", "-p", "/run/hooks")
    script = "trap 'echo term >> /h/end; exit 0' TERM; while :; do sleep 0.05; done"
    mounts = [{"name": "h", "mountPath": "/h"}]
    space.apply(pod("p", container("c", script, lifecycle=hooks, volumeMounts=mounts), volumes=[{"name": "h", "hostPath": {"path": "/run/hooks"}}]))
    space.wait_ready("p")
    assert output(space, "p", "cat", "/h/post") == "post"
    space.ctl("delete", "pod", "p")
    assert space.cluster.host.run("cat", "/run/hooks/end").stdout.split() == ["pre", "term"]


def test_config_maps_and_secrets_change_under_a_running_pod(space):
    space.apply(
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "cm"}, "data": {"a": "1", "b": "x"}},
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "stringData": {"k": "hush"}},
    )
    volumes = [{"name": "cm", "configMap": {"name": "cm"}}, {"name": "s", "secret": {"secretName": "s", "defaultMode": 0o400}},
               {"name": "pod", "downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}}]  # fmt: skip
    mounts = [{"name": "cm", "mountPath": "/cm"}, {"name": "s", "mountPath": "/s", "readOnly": True}, {"name": "pod", "mountPath": "/pod"}, {"name": "cm", "mountPath": "/one", "subPath": "b"}]
    space.apply(pod("p", container("c", SLEEP, volumeMounts=mounts), volumes=volumes, labels={"app": "a"}, terminationGracePeriodSeconds=0))
    space.wait_ready("p")
    assert output(space, "p", "sh", "-c", "cat /cm/a /s/k /one; stat -Lc %a /s/k; stat -fc %T /s; cat /pod/labels") == '1hushx400\ntmpfs\napp="a"'
    assert space.ctl("exec", "p", "--", "sh", "-c", "echo no > /s/new", check=False).returncode != 0
    space.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "cm"}, "data": {"a": "2", "c": "new"}})
    wait_for(lambda: output(space, "p", "sh", "-c", "cat /cm/a /cm/c; ls /cm") == "2new" + "a\nc", "the new content")
    assert output(space, "p", "cat", "/one") == "x"


def test_what_is_missing_is_told_and_comes_in_when_it_is_there(space):
    env = [{"name": "V", "valueFrom": {"configMapKeyRef": {"name": "later", "key": "v"}}}]
    space.apply(pod("env", container("c", SLEEP, env=env), terminationGracePeriodSeconds=0))
    space.apply(pod("vol", container("c", SLEEP, volumeMounts=[{"name": "v", "mountPath": "/v"}]), volumes=[{"name": "v", "configMap": {"name": "later"}}], terminationGracePeriodSeconds=0))
    found = space.wait_pod("env", lambda p: (status_of(p).get("state") or {}).get("waiting", {}).get("reason") == "CreateContainerConfigError", "a config error")
    assert status_of(found)["state"]["waiting"]["message"] == 'configmap "later" not found'
    wait_for(lambda: "FailedMount" in events(space, "vol"), "FailedMount")
    assert 'configmap "later" not found' in events(space, "vol")["FailedMount"]
    space.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "later"}, "data": {"v": "here"}})
    space.wait_ready("env", "vol")
    assert output(space, "env", "sh", "-c", "echo $V") == "here"


def test_a_claim_is_refused_with_a_reason(space):
    space.apply(pod("p", container("c", SLEEP), volumes=[{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}], terminationGracePeriodSeconds=0))
    wait_for(lambda: "FailedMount" in events(space, "p"), "FailedMount")
    assert 'persistentVolumeClaim "data"' in events(space, "p")["FailedMount"]


def test_security_context_from_inside(space):
    context = {"runAsUser": 1000, "runAsGroup": 2000, "readOnlyRootFilesystem": True, "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    mounts = [{"name": "d", "mountPath": "/d"}]
    spec = pod("p", container("c", SLEEP, securityContext=context, volumeMounts=mounts), volumes=[{"name": "d", "emptyDir": {}}], securityContext={"fsGroup": 3000}, terminationGracePeriodSeconds=0)
    space.apply(spec)
    space.wait_ready("p")
    assert output(space, "p", "id") == "uid=1000 gid=2000 groups=2000,3000"
    assert "NoNewPrivs:\t1" in output(space, "p", "cat", "/proc/self/status")
    assert "CapBnd:\t0000000000000000" in output(space, "p", "cat", "/proc/self/status")
    assert space.ctl("exec", "p", "--", "touch", "/x", check=False).returncode != 0
    assert output(space, "p", "sh", "-c", "touch /d/f; stat -c %g /d/f") == "3000"
    space.apply(pod("root", container("c", SLEEP, securityContext={"runAsNonRoot": True}), terminationGracePeriodSeconds=0))
    found = space.wait_pod("root", lambda p: (status_of(p).get("state") or {}).get("waiting", {}).get("reason") == "CreateContainerConfigError", "refused")
    assert "image will run as root" in status_of(found)["state"]["waiting"]["message"]


def test_termination_messages_and_previous_logs(space):
    script = "echo attempt; if [ -e /d/second ]; then sleep 1000; fi; touch /d/second; echo why > /dev/termination-log; exit 4"
    space.apply(pod("p", container("c", script, volumeMounts=[{"name": "d", "mountPath": "/d"}]), volumes=[{"name": "d", "emptyDir": {}}], terminationGracePeriodSeconds=0))
    found = space.wait_pod("p", lambda p: status_of(p).get("restartCount") == 1 and "running" in status_of(p)["state"], "running again")
    ended = status_of(found)["lastState"]["terminated"]
    assert (ended["exitCode"], ended["reason"], ended["message"]) == (4, "Error", "why\n")
    assert space.ctl("logs", "p", "--previous").stdout == "attempt\n"


def test_a_deadline_fails_the_pod(space):
    space.apply(pod("p", container("c", STOPPABLE), activeDeadlineSeconds=1, terminationGracePeriodSeconds=1))
    found = space.wait_pod("p", lambda p: p["status"].get("phase") == "Failed", "Failed")
    assert found["status"]["reason"] == "DeadlineExceeded"


def test_deleting_by_force_leaves_nothing_on_the_node(space):
    space.apply(pod("p", container("c", "trap '' TERM; " + SLEEP)))
    space.wait_ready("p")
    uid = space.pod("p")["metadata"]["uid"]
    space.ctl("delete", "pod", "p", "--force", "--grace-period=0")
    left = f"find /var/lib/minik/pods/{uid} /run/minik/minik/*/pods/{uid} /sys/fs/cgroup -maxdepth 8 -name '*{uid}*' 2>/dev/null"
    wait_for(lambda: space.cluster.host.run("sh", "-c", left, check=False).stdout == "", "nothing of it left")


def test_a_pod_deleted_while_the_agent_is_dead_is_taken_down_by_the_next_one(space):
    space.apply(pod("gone", container("c", STOPPABLE), terminationGracePeriodSeconds=1), pod("stays", container("c", SLEEP), terminationGracePeriodSeconds=0))
    space.wait_ready("gone", "stays")
    before = space.pod("stays")
    uid = space.pod("gone")["metadata"]["uid"]
    space.cluster.host.run("kill", "-9", str(space.cluster.pids()["agent"]))
    space.ctl("delete", "pod", "gone", "--force", "--grace-period=0")
    left = f"find /var/lib/minik/pods -name '*{uid}*'"
    wait_for(lambda: space.cluster.host.run("sh", "-c", left, check=False).stdout == "", "the orphan is gone")
    after = space.pod("stays")
    assert status_of(after)["containerID"] == status_of(before)["containerID"]
    assert after["status"]["podIP"] == before["status"]["podIP"]
    assert output(space, "stays", "echo", "alive") == "alive"
    space.apply(pod("new", container("c", SLEEP), terminationGracePeriodSeconds=0))
    space.wait_ready("new")
    assert space.pod("new")["status"]["podIP"] != after["status"]["podIP"]


def test_a_changed_image_restarts_the_container(space):
    space.apply(pod("p", container("c", STOPPABLE), terminationGracePeriodSeconds=1))
    space.wait_ready("p")
    space.ctl("patch", "pod", "p", "--type=merge", "-p", json.dumps({"spec": {"containers": [container("c", STOPPABLE) | {"image": "localhost/none:1"}]}}), check=False)
    if space.pod("p")["spec"]["containers"][0]["image"] != "localhost/none:1":
        space.kubectl("1.31", "set", "image", "pod/p", "c=localhost/none:1")
    found = space.wait_pod("p", lambda p: (status_of(p).get("state") or {}).get("waiting", {}).get("reason") in ("ErrImagePull", "ImagePullBackOff"), "pulling the new image")
    assert "terminated" in status_of(found)["lastState"]


@pytest.mark.parametrize("version", ["1.27", "1.33"])
def test_attach_gives_input_and_shows_output(space, version):
    space.apply(pod("p", container("c", "read line; echo got $line; sleep 0.2; exit 0", stdin=True), restartPolicy="Never"))
    space.wait_pod("p", lambda p: "running" in (status_of(p).get("state") or {}), "running")
    done = space.kubectl(version, "attach", "-i", "p", input="words\n", check=False, timeout_s=60)
    assert "got words" in done.stdout


def test_the_node_is_described(space):
    node = json.loads(space.cluster.minikctl("get", "nodes", "-o", "json").stdout)["items"][0]
    status = node["status"]
    assert status["capacity"]["pods"] == "110"
    assert int(status["capacity"]["memory"].removesuffix("Ki")) > int(status["allocatable"]["memory"].removesuffix("Ki")) > 0
    assert {"type": "InternalIP", "address": "10.97.0.1"} in status["addresses"]
    assert {c["type"]: c["status"] for c in status["conditions"]} == {"MemoryPressure": "False", "DiskPressure": "False", "PIDPressure": "False", "Ready": "True"}
    assert node["metadata"]["labels"]["kubernetes.io/hostname"] == node["metadata"]["name"]
    lease = json.loads(space.cluster.minikctl("-n", "kube-node-lease", "get", "lease", node["metadata"]["name"], "-o", "json").stdout)
    assert lease["spec"]["holderIdentity"] == node["metadata"]["name"]


def test_the_nodes_server_lets_only_the_api_server_in(space):
    host = space.cluster.host
    url = "https://127.0.0.1:10250"
    pki = "/var/lib/minik/pki"
    assert host.run("curl", "-sk", f"{url}/healthz").stdout == "ok"
    code = ("curl", "-sk", "-o", "/dev/null", "-w", "%{http_code}")
    assert host.run(*code, f"{url}/pods").stdout == "401"
    assert host.run(*code, "--cert", f"{pki}/admin.crt", "--key", f"{pki}/admin.key", f"{url}/pods").stdout == "403"
    own = ("--cert", f"{pki}/apiserver-kubelet-client.crt", "--key", f"{pki}/apiserver-kubelet-client.key")
    assert json.loads(host.run("curl", "-sk", *own, f"{url}/pods").stdout)["kind"] == "PodList"
    assert "kubelet_running_pods" in host.run("curl", "-sk", *own, f"{url}/metrics").stdout
    upgrade = ("-H", "Connection: Upgrade", "-H", "Upgrade: websocket", "-H", "Sec-WebSocket-Version: 13", "-H", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==")
    assert host.run(*code, "--http1.1", *upgrade, f"{url}/exec/default/p/c?command=id&output=1").stdout == "401"
