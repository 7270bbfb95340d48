"""Services end to end: spread, NodePort, from a pod, back to itself, and a refusal where nobody is ready."""

import json

from tests.e2e.support import container, pod, service, wait_for, web_pod


def spec_of(space, name):
    return json.loads(space.ctl("get", "svc", name, "-o", "json").stdout)["spec"]


def answers(space, address, n=40):
    script = f"for i in $(seq 1 {n}); do curl -s -m 2 http://{address}/; done | sort -u"
    return set(space.cluster.host.run("sh", "-c", script).stdout.split())


def test_spread_over_ready_pods_from_node_and_pod_and_nodeport(space):
    space.apply(service("web", "web", type="NodePort"), web_pod("a", "web"), web_pod("b", "web"), pod("client", container("c", "sleep 3600")))
    space.wait_ready("a", "b", "client")
    spec = spec_of(space, "web")
    wait_for(lambda: answers(space, spec["clusterIP"]) == {"a", "b"}, "both pods answer at the ClusterIP")
    node_port = spec["ports"][0]["nodePort"]
    assert 30000 <= node_port <= 32767
    assert answers(space, f"{space.cluster.host.address}:{node_port}") == {"a", "b"}
    reached = space.ctl("exec", "client", "--", "sh", "-c", f"printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 2 {spec['clusterIP']} 80").stdout
    assert reached.split()[-1] in ("a", "b")


def test_a_pod_reaches_itself_through_its_service(space):
    space.apply(service("self", "self"), web_pod("only", "self"))
    space.wait_ready("only")
    ip = spec_of(space, "self")["clusterIP"]
    script = f"printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 2 {ip} 80"
    wait_for(lambda: space.ctl("exec", "only", "--", "sh", "-c", script, check=False).stdout.split()[-1:] == ["only"], "the hairpin answer")


def test_no_endpoint_is_a_refusal_and_a_new_one_is_found(space):
    space.apply(service("late", "late"))
    ip = spec_of(space, "late")["clusterIP"]

    def code():
        return space.cluster.host.run("curl", "-s", "-m", "5", f"http://{ip}/", check=False).returncode

    wait_for(lambda: code() == 7, "connection refused (curl's 7), not a time-out")
    space.apply(web_pod("came", "late"))
    space.wait_ready("came")
    wait_for(lambda: answers(space, ip, 3) == {"came"}, "the answer of the new pod")
    space.ctl("delete", "pod", "came")
    wait_for(lambda: code() == 7, "refused again")


def test_a_pod_that_is_not_ready_gets_nothing(space):
    unready = web_pod("unready", "mixed")
    unready["spec"]["containers"][0]["readinessProbe"] = {"exec": {"command": ["test", "-e", "/tmp/ready"]}, "periodSeconds": 1}
    space.apply(service("mixed", "mixed"), web_pod("good", "mixed"), unready)
    space.wait_ready("good")
    space.wait_pod("unready", lambda p: p["status"].get("phase") == "Running", "Running")
    ip = spec_of(space, "mixed")["clusterIP"]
    wait_for(lambda: answers(space, ip, 5) == {"good"}, "only the ready pod")
    assert answers(space, ip, 20) == {"good"}
    space.ctl("exec", "unready", "--", "touch", "/tmp/ready")
    space.wait_ready("unready")
    wait_for(lambda: answers(space, ip, 20) == {"good", "unready"}, "both")
