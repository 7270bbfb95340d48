"""The API server alone, as a process, under kubectl 1.27, 1.31, 1.32 and 1.33: what people type, and what they see. Logs and exec go to a small node server of the test's own."""

import http.server
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.request

import pytest

from cluster import hosts
from tests.e2e.api_process import NODE, ROOT, ApiProcess, wait_for

VERSIONS = ["1.27", "1.31", "1.32", "1.33"]
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    process = ApiProcess(tmp_path_factory.mktemp("api")).start()
    yield process
    assert process.stop() == 0, process.log.read_text()


def start_node(server):
    """A Node object whose server is real; answers its process."""
    process = subprocess.Popen([sys.executable, "-m", "tests.e2e.node_server", str(server.pki)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    port = int(process.stdout.readline())
    body = {"kind": "Node", "apiVersion": "v1", "metadata": {"name": NODE}}
    assert server.request("POST", "/api/v1/nodes", body).status == 201
    status = {"addresses": [{"type": "InternalIP", "address": "127.0.0.1"}], "daemonEndpoints": {"kubeletEndpoint": {"Port": port}}}
    done = server.request("PATCH", f"/api/v1/nodes/{NODE}/status", {"status": status}, Content_Type="application/merge-patch+json")
    assert done.status == 200, done.body
    return process


@pytest.fixture(scope="module")
def node(server):
    process = start_node(server)
    yield process
    process.terminate()
    process.wait(20)


def pod(name, *containers, node_name="", **metadata):
    spec = {"containers": [{"name": c, "image": "localhost/busybox:1"} for c in (containers or ("c",))]}
    if node_name:
        spec["nodeName"] = node_name
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, **metadata}, "spec": spec}


@pytest.fixture
def namespace(server):
    name = f"t{next(_numbers)}"
    server.kubectl("1.33", "create", "namespace", name)
    wait_for(lambda: server.request("GET", f"/api/v1/namespaces/{name}/serviceaccounts/default").status == 200, "the default service account")
    return name


@pytest.fixture(params=VERSIONS)
def kubectl(request, server, namespace):
    """kubectl of one version in a namespace of its own."""

    def run(*words, **kwargs):
        return server.kubectl(request.param, "-n", namespace, *words, **kwargs)

    run.version, run.namespace, run.server = request.param, namespace, server
    return run


def test_versions_and_discovery(kubectl):
    assert "v1.36" in kubectl("version").stdout
    listed = kubectl("api-resources", "-o", "wide").stdout
    assert "deployments" in listed
    assert "deploy" in listed
    assert "apps/v1" in kubectl("api-versions").stdout.split()


def test_create_get_and_delete(kubectl):
    assert kubectl("create", "configmap", "c", "--from-literal=a=b").stdout == "configmap/c created\n"
    assert kubectl("get", "configmap", "c", "-o", "jsonpath={.data.a}").stdout == "b"
    assert "  a: b\n" in kubectl("get", "cm", "c", "-o", "yaml").stdout
    again = kubectl("create", "configmap", "c", check=False)
    assert again.returncode == 1
    assert 'configmaps "c" already exists' in again.stderr
    assert "deleted" in kubectl("delete", "cm", "c").stdout
    gone = kubectl("get", "cm", "c", check=False)
    assert gone.stderr == 'Error from server (NotFound): configmaps "c" not found\n'


def test_create_namespace_deployment_and_service(kubectl):
    name = f"{kubectl.namespace}-more"
    assert kubectl("create", "ns", name).stdout == f"namespace/{name} created\n"
    assert "created" in kubectl("create", "deployment", "d", "--image=localhost/busybox:1", "--replicas=2").stdout
    assert "created" in kubectl("create", "service", "clusterip", "s", "--tcp=80:8080").stdout
    assert kubectl("get", "deployment", "d", "-o", "jsonpath={.spec.replicas}").stdout == "2"
    assert kubectl("get", "svc", "s", "-o", "jsonpath={.spec.clusterIP}").stdout.startswith("10.43.")
    assert "scaled" in kubectl("scale", "deployment", "d", "--replicas=5").stdout
    assert kubectl("get", "deployment", "d", "-o", "jsonpath={.spec.replicas}").stdout == "5"
    kubectl("delete", "ns", name)


def test_apply_again_with_a_field_removed(kubectl):
    manifest = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "labels": {"keep": "1", "drop": "1"}}, "data": {"a": "1", "b": "2"}}
    assert kubectl("apply", "-f", "-", input=json.dumps(manifest)).stdout == "configmap/c created\n"
    kubectl("annotate", "configmap", "c", "by=somebody-else")
    del manifest["metadata"]["labels"]["drop"]
    manifest["data"] = {"a": "1", "c": "3"}
    assert kubectl("apply", "-f", "-", input=json.dumps(manifest)).stdout == "configmap/c configured\n"
    found = json.loads(kubectl("get", "configmap", "c", "-o", "json").stdout)
    assert found["data"] == {"a": "1", "c": "3"}
    assert found["metadata"]["labels"] == {"keep": "1"}
    assert found["metadata"]["annotations"]["by"] == "somebody-else"
    assert kubectl("apply", "-f", "-", input=json.dumps(manifest)).stdout == "configmap/c unchanged\n"


def test_apply_a_pod_merges_containers_by_name(kubectl):
    manifest = pod("p", "a", "b")
    kubectl("apply", "-f", "-", input=json.dumps(manifest))
    manifest["spec"]["containers"][1]["image"] = "localhost/busybox:2"
    assert kubectl("apply", "-f", "-", input=json.dumps(manifest)).stdout == "pod/p configured\n"
    assert kubectl("get", "pod", "p", "-o", "jsonpath={.spec.containers[*].image}").stdout == "localhost/busybox:1 localhost/busybox:2"


def test_an_unknown_field_is_named(kubectl):
    manifest = pod("p")
    manifest["spec"]["nodeNames"] = "x"
    refused = kubectl("apply", "-f", "-", input=json.dumps(manifest), check=False)
    assert refused.returncode == 1
    assert "nodeNames" in refused.stderr
    assert kubectl("get", "pods", "-o", "name").stdout == ""
    warned = kubectl("apply", "--validate=warn", "-f", "-", input=json.dumps(manifest))
    assert 'unknown field "spec.nodeNames"' in warned.stderr


def test_tables(kubectl):
    kubectl("apply", "-f", "-", input=json.dumps(pod("p", labels={"app": "x"})))
    head, row = kubectl("get", "pods").stdout.splitlines()
    assert head.split() == ["NAME", "READY", "STATUS", "RESTARTS", "AGE"]
    assert row.split()[:4] == ["p", "0/1", "Pending", "0"]
    wide = kubectl("get", "pods", "-o", "wide").stdout.splitlines()[0].split()
    assert wide[5:8] == ["IP", "NODE", "NOMINATED"]
    assert kubectl("get", "pods", "-A", "-l", "app=x", "--no-headers").stdout.count(kubectl.namespace) == 1
    assert kubectl("get", "pods", "-l", "app!=x", "-o", "name").stdout == ""
    assert kubectl("get", "pods", "--field-selector", "metadata.name=p,status.phase=Pending", "-o", "name").stdout == "pod/p\n"
    assert kubectl("get", "pods", "--show-labels", "--no-headers").stdout.split()[-1] == "app=x"
    assert kubectl("get", "po,cm", "--no-headers").stdout.startswith("pod/p ")
    assert "p" in kubectl("get", "pods", "--sort-by=.metadata.name").stdout


def test_watch_shows_changes_as_they_come(kubectl):
    kubectl("apply", "-f", "-", input=json.dumps(pod("p")))
    argv = [hosts.kubectl(kubectl.version), "--kubeconfig", kubectl.server.kubeconfig(), f"--cache-dir={kubectl.server.folder}/cache-{kubectl.version}", "-n", kubectl.namespace]
    watching = subprocess.Popen([*argv, "get", "pods", "-w", "--output-watch-events"], stdout=subprocess.PIPE, text=True)
    seen: list[str] = []

    def read():
        for line in iter(watching.stdout.readline, ""):
            seen.append(" ".join(line.split()[:2]))

    reader = threading.Thread(target=read)
    reader.start()
    try:
        wait_for(lambda: "ADDED p" in seen, "the present state")
        kubectl("label", "pod", "p", "a=b")
        wait_for(lambda: "MODIFIED p" in seen, "the change")
        kubectl("delete", "pod", "p", "--force", "--grace-period=0")
        wait_for(lambda: "DELETED p" in seen, "the deletion")
    finally:
        watching.terminate()
        watching.wait(20)
        reader.join(20)


def test_wait_for_deletion_and_conditions(kubectl):
    kubectl("apply", "-f", "-", input=json.dumps(pod("p")))
    timed_out = kubectl("wait", "pod/p", "--for=condition=Ready", "--timeout=1s", check=False)
    assert "timed out waiting for the condition" in timed_out.stderr
    path = f"/api/v1/namespaces/{kubectl.namespace}/pods/p/status"
    change = {"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}}
    assert kubectl.server.request("PATCH", path, change, Content_Type="application/strategic-merge-patch+json").status == 200
    assert "condition met" in kubectl("wait", "pod/p", "--for=condition=Ready", "--timeout=30s").stdout
    kubectl("delete", "pod", "p", "--wait=true", "--grace-period=0", "--force", timeout_s=60)


def test_describe(kubectl):
    kubectl("apply", "-f", "-", input=json.dumps(pod("p")))
    described = kubectl("describe", "pod", "p").stdout
    assert "Image:" in described
    assert "localhost/busybox:1" in described


def test_edit_commands(kubectl):
    kubectl("apply", "-f", "-", input=json.dumps(pod("p")))
    kubectl("label", "pod", "p", "a=b")
    kubectl("annotate", "pod", "p", "x=y")
    kubectl("patch", "pod", "p", "--type=json", "-p", '[{"op":"replace","path":"/metadata/labels/a","value":"c"}]')
    kubectl("set", "image", "pod/p", "c=localhost/busybox:9")
    found = json.loads(kubectl("get", "pod", "p", "-o", "json").stdout)
    assert found["metadata"]["labels"]["a"] == "c"
    assert found["spec"]["containers"][0]["image"] == "localhost/busybox:9"
    found["metadata"]["labels"]["a"] = "d"
    assert "replaced" in kubectl("replace", "-f", "-", input=json.dumps(found)).stdout
    found["metadata"]["resourceVersion"] = "1"
    stale = kubectl("replace", "-f", "-", input=json.dumps(found), check=False)
    assert "the object has been modified" in stale.stderr


def test_dry_run_changes_nothing(kubectl):
    kubectl("apply", "--dry-run=server", "-f", "-", input=json.dumps(pod("p")))
    assert kubectl("get", "pods", "-o", "name").stdout == ""


def test_permissions(kubectl):
    assert kubectl("auth", "can-i", "create", "pods").stdout.strip() == "yes"
    refused = kubectl("--context=jane", "get", "pods", check=False)
    assert f'pods is forbidden: User "jane" cannot list resource "pods" in API group "" in the namespace "{kubectl.namespace}"' in refused.stderr
    assert kubectl("--context=jane", "auth", "can-i", "get", "pods", check=False).stdout.strip() == "no"
    kubectl("create", "role", "r", "--verb=get,list", "--resource=pods")
    kubectl("create", "rolebinding", "rb", "--role=r", "--user=jane")
    assert kubectl("--context=jane", "get", "pods").returncode == 0
    assert "pods" in kubectl("--context=jane", "auth", "can-i", "--list").stdout


def test_tokens(kubectl):
    token = kubectl("create", "token", "default").stdout.strip()
    answer = kubectl.server.request("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", {}, token=token)
    assert answer.status == 201
    assert answer.json()["status"]["userInfo"]["username"] == f"system:serviceaccount:{kubectl.namespace}:default"
    assert kubectl.server.request("GET", f"/api/v1/namespaces/{kubectl.namespace}/secrets", token=token).status == 403


def test_explain(kubectl):
    assert "NodeName" in kubectl("explain", "pod.spec.nodeName").stdout


def test_logs(kubectl, node):
    kubectl("apply", "-f", "-", input=json.dumps(pod("p", "a", "waiting", node_name=NODE)))
    assert kubectl("logs", "p", "-c", "a").stdout == "".join(f"line {n}\n" for n in range(1, 6))
    assert kubectl("logs", "p", "-c", "a", "--tail=2").stdout == "line 4\nline 5\n"
    assert kubectl("logs", "p", "-c", "a", "-f").stdout.splitlines()[-1] == "line 8"
    waiting = kubectl("logs", "p", "-c", "waiting", check=False)
    assert 'container "waiting" in pod "p" is waiting to start: ContainerCreating' in waiting.stderr
    unknown = kubectl("logs", "p", "-c", "nope", check=False)
    assert "container nope is not valid for pod p" in unknown.stderr
    unscheduled = pod("q")
    kubectl("apply", "-f", "-", input=json.dumps(unscheduled))
    assert "does not have a host assigned" in kubectl("logs", "q", check=False).stderr


def test_exec(kubectl, node):
    kubectl("apply", "-f", "-", input=json.dumps(pod("p", node_name=NODE)))
    done = kubectl("exec", "p", "--", "sh", "-c", "echo out; echo err >&2; exit 3", check=False)
    assert (done.returncode, done.stdout) == (3, "out\n")
    assert done.stderr.startswith("err\n")
    assert kubectl("exec", "p", "--", "true").returncode == 0
    big = "x" * 300_000
    assert kubectl("exec", "-i", "p", "--", "cat", input=big).stdout == big
    assert len(kubectl("exec", "p", "--", "head", "-c", "3000000", "/dev/zero").stdout) == 3_000_000
    refused = kubectl("exec", "p", "--", "/no/such/command", check=False)
    assert refused.returncode == 1
    assert "/no/such/command" in refused.stderr
    assert "not found" in kubectl("exec", "nope", "--", "true", check=False).stderr


def test_copying_a_file_out_and_in(kubectl, node, tmp_path):
    kubectl("apply", "-f", "-", input=json.dumps(pod("p", node_name=NODE)))
    source, there, back = tmp_path / "source", tmp_path / "there", tmp_path / "back"
    source.write_bytes(os.urandom(200_000))
    kubectl("cp", str(source), f"p:{there}")
    assert there.read_bytes() == source.read_bytes()
    kubectl("cp", f"p:{there}", str(back))
    assert back.read_bytes() == source.read_bytes()


@pytest.fixture(scope="module")
def web():
    """A small HTTP server to forward to: /<n> answers n bytes."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            body = b"x" * int(self.path[1:])
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as web_server:
        thread = threading.Thread(target=web_server.serve_forever)
        thread.start()
        yield web_server.server_address[1]
        web_server.shutdown()
        thread.join()


def test_port_forward(kubectl, node, web):
    body = pod("p", node_name=NODE)
    kubectl("apply", "-f", "-", input=json.dumps(body))
    running = {"status": {"phase": "Running"}}
    path = f"/api/v1/namespaces/{kubectl.namespace}/pods/p/status"
    assert kubectl.server.request("PATCH", path, running, Content_Type="application/merge-patch+json").status == 200
    argv = [hosts.kubectl(kubectl.version), "--kubeconfig", kubectl.server.kubeconfig(), f"--cache-dir={kubectl.server.folder}/cache-{kubectl.version}", "-n", kubectl.namespace]
    forwarding = subprocess.Popen([*argv, "port-forward", "pod/p", f":{web}", ":1"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        ports = {}
        while len(ports) < 2:
            line = forwarding.stdout.readline()
            assert line.startswith("Forwarding from"), line
            if "127.0.0.1" in line:
                ours, _, theirs = line.split("127.0.0.1:")[1].partition(" -> ")
                ports[int(theirs)] = int(ours)
        for size in (3, 2_000_000, 0):
            with urllib.request.urlopen(f"http://127.0.0.1:{ports[web]}/{size}", timeout=20) as answer:
                assert len(answer.read()) == size
        with socket.create_connection(("127.0.0.1", ports[1]), 20) as nobody:
            nobody.sendall(b"hello")
            assert nobody.recv(10) == b""
    finally:
        forwarding.terminate()
        said = forwarding.communicate(timeout=20)[0]
    assert "failed to connect to port 1" in said


def test_attach(kubectl, node):
    kubectl("apply", "-f", "-", input=json.dumps(pod("p", node_name=NODE)))
    manifest = json.loads(kubectl("get", "pod", "p", "-o", "json").stdout)
    assert manifest["spec"]["nodeName"] == NODE
    kubectl.server.request(
        "PATCH", f"/api/v1/namespaces/{kubectl.namespace}/pods/p/status", {"status": {"phase": "Running"}}, Content_Type="application/merge-patch+json",
    )  # fmt: skip
    assert "hello" in kubectl("attach", "-i", "p", "-c", "c", input="hello\n", check=False).stdout


def test_a_log_that_nobody_reads_any_more_is_closed_on_the_node(server, namespace, node):
    path = f"/api/v1/namespaces/{namespace}/pods"
    assert server.request("POST", path, pod("p", "endless", node_name=NODE)).status == 201
    connection = server.connection("admin")
    connection.request("GET", f"{path}/p/log?follow=true")
    answer = connection.getresponse()
    assert answer.read(7) == b"line 1\n"
    answer.close()
    connection.close()
    assert node.stdout.readline() == "left\n"


def test_the_servers_stop_ends_logs_and_execs(tmp_path):
    """What would go on for ever does not keep the server from stopping, nor break it."""
    own = ApiProcess(tmp_path).start()
    node = start_node(own)
    try:
        wait_for(lambda: own.request("GET", "/api/v1/namespaces/default/serviceaccounts/default").status == 200, "the default service account")
        assert own.request("POST", "/api/v1/namespaces/default/pods", pod("p", "endless", node_name=NODE)).status == 201
        started = []
        for version, words in (("1.33", ["exec", "-i", "p", "--", "cat"]), ("1.27", ["exec", "-i", "p", "--", "cat"]), ("1.33", ["logs", "-f", "p"])):
            argv = [hosts.kubectl(version), "--kubeconfig", own.kubeconfig(), f"--cache-dir={tmp_path}/cache-{version}", *words]
            started.append(subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, bufsize=1))
        for process in started[:2]:
            process.stdin.write("here\n")
            assert process.stdout.readline() == "here\n"
        assert started[2].stdout.readline() == "line 1\n"
        assert own.stop() == 0
        for process in started:
            process.wait(30)
            process.stdin.close()
            process.stdout.close()
        assert "Traceback" not in own.log.read_text()
    finally:
        if own.process.poll() is None:
            own.stop(signal.SIGKILL)
        node.terminate()
        node.wait(20)


def test_deleting_a_namespace_takes_its_content(kubectl):
    kubectl("create", "configmap", "c")
    assert "deleted" in kubectl("delete", "namespace", kubectl.namespace, "--timeout=60s").stdout
    assert kubectl.server.request("GET", f"/api/v1/namespaces/{kubectl.namespace}/configmaps").json()["items"] == []
