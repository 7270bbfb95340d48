"""Pods end to end: they run, end, fail and say why, as kubectl's users expect to read it."""

import json
import time

import pytest

from tests.e2e.support import container, is_ready, pod, wait_for


def status_of(p, i=0):
    statuses = p.get("status", {}).get("containerStatuses") or [{}]
    return statuses[i]


def test_a_pod_runs_with_an_address_and_its_own_view_of_the_world(space):
    space.apply(pod("one", container("c", "trap 'exit 0' TERM; hostname; sleep 3600 & wait")))
    space.wait_ready("one")
    p = space.pod("one")
    assert p["status"]["phase"] == "Running" and p["status"]["podIP"].startswith("10.42.")
    assert status_of(p)["containerID"].startswith("minik://") and status_of(p)["restartCount"] == 0
    assert space.ctl("exec", "one", "--", "hostname").stdout == "one\n"
    assert space.ctl("exec", "one", "--", "sh", "-c", "echo $$ $PPID; id -u").stdout.split()[-1] == "0"
    pids = space.ctl("exec", "one", "--", "ps").stdout
    assert "sleep 3600" in pids and "apiserver" not in pids
    assert p["status"]["podIP"] in space.ctl("exec", "one", "--", "ip", "addr").stdout
    assert space.ctl("exec", "one", "--", "cat", "/proc/1/status").stdout.count("Seccomp:\t2") == 1


def test_exit_codes_restarts_and_phases(space):
    space.apply(
        pod("three", container("c", "exit 3"), restartPolicy="Never"),
        pod("fine", container("c", "echo done"), restartPolicy="OnFailure"),
        pod("killed", container("c", "kill -9 $$"), restartPolicy="Never"),
        pod("loops", container("c", "exit 1")),
    )
    three = space.wait_pod("three", lambda p: p["status"].get("phase") == "Failed", "Failed")
    assert status_of(three)["state"]["terminated"]["exitCode"] == 3 and status_of(three)["state"]["terminated"]["reason"] == "Error"
    fine = space.wait_pod("fine", lambda p: p["status"].get("phase") == "Succeeded", "Succeeded")
    assert status_of(fine)["state"]["terminated"]["reason"] == "Completed"
    assert "Completed" in space.ctl("get", "pod", "fine").stdout
    space.wait_pod("loops", lambda p: status_of(p).get("state", {}).get("waiting", {}).get("reason") == "CrashLoopBackOff", "CrashLoopBackOff")
    loops = space.pod("loops")
    assert status_of(loops)["restartCount"] >= 1 and status_of(loops)["lastState"]["terminated"]["exitCode"] == 1
    assert "CrashLoopBackOff" in space.ctl("get", "pod", "loops").stdout
    assert space.wait_pod("killed", lambda p: p["status"].get("phase") in ("Failed", "Succeeded"), "ended")


def test_too_much_memory_is_oomkilled(space):
    hungry = container("c", "dd if=/dev/zero of=/dev/null bs=200M count=5", resources={"limits": {"memory": "32Mi"}})
    space.apply(pod("hungry", hungry, restartPolicy="Never"))
    p = space.wait_pod("hungry", lambda p: p["status"].get("phase") == "Failed", "Failed")
    assert status_of(p)["state"]["terminated"]["reason"] == "OOMKilled"
    assert status_of(p)["state"]["terminated"]["exitCode"] == 137


def test_a_command_the_image_does_not_have_is_named(space):
    space.apply(pod("nope", {"name": "c", "image": "localhost/busybox:1", "command": ["/no/such/thing"]}, restartPolicy="Never"))
    p = space.wait_pod("nope", lambda p: "terminated" in status_of(p).get("state", {}) or status_of(p).get("state", {}).get("waiting", {}).get("message"), "a reason")
    assert "/no/such/thing" in json.dumps(status_of(p)["state"])


def test_an_image_that_is_not_there_backs_off_and_says_so(space):
    space.apply(pod("noimage", {"name": "c", "image": "127.0.0.1:1/none:1"}), pod("never", {"name": "c", "image": "localhost/none:1", "imagePullPolicy": "Never"}))
    space.wait_pod("noimage", lambda p: status_of(p).get("state", {}).get("waiting", {}).get("reason") in ("ErrImagePull", "ImagePullBackOff"), "ErrImagePull")
    space.wait_pod("never", lambda p: status_of(p).get("state", {}).get("waiting", {}).get("reason") == "ErrImageNeverPull", "ErrImageNeverPull")
    wait_for(lambda: "127.0.0.1:1/none:1" in space.ctl("get", "events").stdout, "an event that names the image")


def test_a_pod_too_large_stays_pending_with_the_reason_node_by_node(space):
    space.apply(pod("huge", container("c", "sleep 1", resources={"requests": {"cpu": "1000"}})))
    p = space.wait_pod("huge", lambda p: any(c.get("reason") == "Unschedulable" for c in p["status"].get("conditions", [])), "Unschedulable")
    message = next(c["message"] for c in p["status"]["conditions"] if c["type"] == "PodScheduled")
    assert "0/1 nodes are available" in message and "Insufficient cpu" in message
    wait_for(lambda: "Insufficient cpu" in space.ctl("get", "events").stdout, "the event")


def test_configuration_reaches_the_container_as_env_and_files(space):
    space.apply(
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "conf"}, "data": {"color": "green", "file.txt": "from a file"}},
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "hidden"}, "stringData": {"password": "s3cret"}},
        pod(
            "configured",
            container(
                "c", 'echo "$COLOR $WORD $ME"; cat /etc/conf/file.txt; echo; ls -l /etc/hidden/..data/; touch /scratch/x && ls /scratch; sleep 3600',
                env=[
                    {"name": "COLOR", "valueFrom": {"configMapKeyRef": {"name": "conf", "key": "color"}}},
                    {"name": "WORD", "valueFrom": {"secretKeyRef": {"name": "hidden", "key": "password"}}},
                    {"name": "ME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                ],
                volumeMounts=[{"name": "conf", "mountPath": "/etc/conf"}, {"name": "hidden", "mountPath": "/etc/hidden", "readOnly": True}, {"name": "scratch", "mountPath": "/scratch"}],
            ),
            volumes=[{"name": "conf", "configMap": {"name": "conf"}}, {"name": "hidden", "secret": {"secretName": "hidden", "defaultMode": 0o400}}, {"name": "scratch", "emptyDir": {}}],
        ),
    )  # fmt: skip
    space.wait_ready("configured")
    text = wait_for(lambda: (t := space.ctl("logs", "configured").stdout) and "x" in t.split() and t, "its log")
    assert "green s3cret configured" in text and "from a file" in text and "-r--------" in text


def test_the_api_answers_a_pod_with_its_own_token(space):
    script = "ls /var/run/secrets/kubernetes.io/serviceaccount; cat /var/run/secrets/kubernetes.io/serviceaccount/namespace; echo; sleep 3600"
    space.apply(pod("caller", container("c", script)))
    space.wait_ready("caller")
    log = wait_for(lambda: (t := space.ctl("logs", "caller").stdout) and space.name in t and t, "its log")
    assert {"ca.crt", "namespace", "token"} <= set(log.split())
    token = space.ctl("exec", "caller", "--", "cat", "/var/run/secrets/kubernetes.io/serviceaccount/token").stdout
    answer = space.cluster.host.run("curl", "-s", "--cacert", "/var/lib/minik/pki/ca.crt", "-H", f"Authorization: Bearer {token}", "https://127.0.0.1:6443/api/v1/pods").stdout
    assert json.loads(answer)["reason"] == "Forbidden" and f"system:serviceaccount:{space.name}:default" in answer
    probe = "printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 2 $KUBERNETES_SERVICE_HOST $KUBERNETES_SERVICE_PORT && echo reached"  # a TLS server ends what is not TLS
    assert "reached" in space.ctl("exec", "caller", "--", "sh", "-c", probe).stdout


def test_deletion_is_graceful_then_forced(space):
    space.apply(pod("polite", container("c", "trap 'echo bye; exit 0' TERM; sleep 3600 & wait"), terminationGracePeriodSeconds=60), pod("deaf", container("c", "trap '' TERM; while :; do sleep 1; done")))
    space.wait_ready("polite", "deaf")
    started = time.monotonic()
    assert space.ctl("delete", "pod", "polite", "deaf").stdout == 'pod "polite" deleted\npod "deaf" deleted\n'
    assert time.monotonic() - started < 45, "the polite pod must not have waited for its 60 s"
    assert space.pods() == []


def test_logs_follow_until_the_container_ends(space):
    space.apply(pod("counter", container("c", "for i in 1 2 3 4 5; do echo line $i; sleep 0.2; done"), restartPolicy="Never"))
    space.wait_pod("counter", lambda p: p["status"].get("phase") in ("Running", "Succeeded"), "started")
    assert space.ctl("logs", "-f", "counter", timeout_s=30).stdout == "".join(f"line {i}\n" for i in range(1, 6))
    assert space.ctl("logs", "--tail=2", "counter").stdout == "line 4\nline 5\n"
    stamped = space.ctl("logs", "--timestamps", "--tail=1", "counter").stdout
    assert stamped.endswith(" line 5\n") and stamped[:4].isdigit() and "T" in stamped.split()[0]


def test_exec_passes_stdin_streams_and_exit_codes(space):
    space.apply(pod("box", container("c", "trap 'exit 0' TERM; sleep 3600 & wait")))
    space.wait_ready("box")
    done = space.ctl("exec", "-i", "box", "--", "sh", "-c", "cat; echo err >&2; exit 7", input="to stdin\n", check=False)
    assert (done.stdout, done.returncode) == ("to stdin\n", 7)
    assert "err\n" in done.stderr and "exit code 7" in done.stderr
    big = space.ctl("exec", "box", "--", "sh", "-c", "yes 0123456789abcdef | head -c 3000000").stdout
    assert len(big) == 3000000
    missing = space.ctl("exec", "box", "--", "no-such-command", check=False)
    assert missing.returncode != 0 and "no-such-command" in missing.stderr


@pytest.mark.parametrize(("words", "text"), [
    (["get", "pod", "nope"], 'Error from server (NotFound): pods "nope" not found'),
    (["get", "nonsense"], 'error: the server doesn\'t have a resource type "nonsense"'),
    (["apply", "-f", "/nowhere.yaml"], 'the path "/nowhere.yaml" does not exist'),
    (["logs", "nope"], 'pods "nope" not found'),
    (["exec", "nope", "--", "ls"], 'pods "nope" not found'),
    (["--server", "https://127.0.0.1:1", "get", "pods"], "The connection to the server 127.0.0.1:1 was refused"),
])  # fmt: skip
def test_bad_words_are_one_clear_line(space, words, text):
    done = space.ctl(*words, check=False)
    assert done.returncode == 1 and text in done.stderr and len(done.stderr.strip().splitlines()) == 1 and not done.stdout


@pytest.mark.parametrize(("document", "text"), [
    ("kind: Pod\napiVersion: v1\nmetadata:\n  name: x\n   broken: 1\n", "line 5"),
    ("kind: Foo\napiVersion: v1\nmetadata:\n  name: x\n", 'no matches for kind "Foo" in version "v1"'),
    ("kind: Pod\napiVersion: v1\nmetadata:\n  name: x\nspec:\n  containers:\n  - name: c\n    image: i\n    nope: 1\n", 'unknown field "spec.containers[0].nope"'),
    ("kind: Pod\napiVersion: v1\nmetadata:\n  name: x\nspec:\n  containers:\n  - name: c\n", "spec.containers[0].image: Required value"),
    ("kind: Pod\napiVersion: v1\nmetadata:\n  name: UPPER\nspec:\n  containers:\n  - {name: c, image: i}\n", "metadata.name: Invalid value"),
    ("metadata: {}\n", "apiVersion not set"),
])  # fmt: skip
def test_bad_documents_are_refused_with_their_place(space, document, text):
    done = space.ctl("apply", "-f", "-", input=document, check=False)
    assert done.returncode == 1 and text in done.stderr, done.stderr
    assert space.pods() == []


def test_fifty_pods_run_and_answer_through_one_service(space):
    from tests.e2e.support import service, web_pod

    names = {f"w{i:02}" for i in range(50)}
    space.apply(service("crowd", "crowd"), *(web_pod(n, "crowd") for n in sorted(names)))
    wait_for(lambda: sum(map(is_ready, space.pods())) == 50, space.describe, timeout_s=120)
    ip = json.loads(space.ctl("get", "svc", "crowd", "-o", "json").stdout)["spec"]["clusterIP"]
    script = f"for i in $(seq 1 1500); do curl -s -m 2 http://{ip}/; done | sort | uniq -c"
    wait_for(lambda: {line.split()[1] for line in space.cluster.host.run("sh", "-c", script).stdout.splitlines()} >= names, "an answer from each of 50 pods")
