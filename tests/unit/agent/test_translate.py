"""Pod → sandbox and container configurations: commands, environment, users, limits, mounts, files."""

from __future__ import annotations

import base64

import pytest

from agent import downward, environment, observe, podspec, resources, translate
from agent.images.model import ImageConfig
from agent.runtime import spec as runtime_spec

NODE = translate.NodeFacts("node1", ("192.0.2.7",), 4 << 30, {"cpu": "2", "memory": "4Gi"})


def make(container: dict | None = None, **spec) -> tuple[dict, podspec.ContainerSpec]:
    c = {"name": "main", "image": "busybox", **(container or {})}
    p = {"metadata": {"name": "web-0", "namespace": "shop", "uid": "u1", "labels": {"app": "web"}, "annotations": {"note": 'say "hi"'}}, "spec": {"containers": [c], **spec}}
    return p, podspec.containers(p)[-1] if not spec.get("initContainers") else next(x for x in podspec.containers(p) if x.name == "main")


def inputs(container: podspec.ContainerSpec, image: ImageConfig = ImageConfig(cmd=("sh",)), objects=None, services=None, mounts=()) -> translate.ContainerInputs:
    return translate.ContainerInputs(
        container=container, attempt=3, backoff_s=20, id="c1", sandbox_id="s1", pod_ip="10.42.0.5", image_id="sha256:1", image=image, layers=["/l"], mounts=mounts,
        objects=objects or {}, services=services or {}, node=NODE, log_path="/log",
    )  # fmt: skip


def oci(container: dict | None = None, *, image: ImageConfig = ImageConfig(cmd=("sh",)), objects=None, services=None, mounts=(), **spec) -> dict:
    p, c = make(container, **spec)
    result = translate.oci_spec(p, inputs(c, image, objects, services, mounts))
    runtime_spec.validate_spec(result)
    return result


def env_of(result: dict) -> dict[str, str]:
    return dict(v.split("=", 1) for v in result["process"]["env"])


@pytest.mark.parametrize(
    ("command", "args", "expected"),
    [
        (None, None, ["/entry", "a"]), (["/x"], None, ["/x"]), (None, ["b"], ["/entry", "b"]), (["/x"], ["b"], ["/x", "b"]),
        (["/x"], ["$(WHO)", "$$(WHO)", "$(NOBODY)"], ["/x", "me", "$(WHO)", "$(NOBODY)"]),
    ],
)  # fmt: skip
def test_command_and_args_over_entrypoint_and_cmd(command, args, expected):
    container = {"command": command, "args": args, "env": [{"name": "WHO", "value": "me"}]}
    assert oci(container, image=ImageConfig(entrypoint=("/entry",), cmd=("a",)))["process"]["args"] == expected


def test_nothing_to_run_is_a_config_error():
    with pytest.raises(environment.ConfigError, match="no command specified"):
        oci(image=ImageConfig())


def test_environment_precedence_and_expansion():
    objects = {("ConfigMap", "cm"): {"kind": "ConfigMap", "data": {"A": "cm", "B": "cm"}}, ("Secret", "s"): {"kind": "Secret", "data": {"P": base64.b64encode(b"pw").decode()}}}
    container = {
        "envFrom": [{"configMapRef": {"name": "cm"}}, {"prefix": "X_", "secretRef": {"name": "s"}}],
        "env": [
            {"name": "B", "value": "own"}, {"name": "C", "value": "$(B)-$(A)-$(SVC)-$(LATER)"}, {"name": "LATER", "value": "l"}, {"name": "IMG", "value": "pod"},
            {"name": "K", "valueFrom": {"secretKeyRef": {"name": "s", "key": "P"}}}, {"name": "O", "valueFrom": {"configMapKeyRef": {"name": "none", "key": "k", "optional": True}}},
        ],
    }  # fmt: skip
    env = env_of(oci(container, image=ImageConfig(cmd=("sh",), env=("IMG=image", "PATH=/img")), objects=objects, services={"SVC": "10.43.0.9"}))
    assert env["A"] == "cm"
    assert env["B"] == "own"
    assert env["C"] == "own-cm-10.43.0.9-$(LATER)"
    assert (env["X_P"], env["K"], env["IMG"], env["PATH"], env["HOSTNAME"]) == ("pw", "pw", "pod", "/img", "web-0")
    assert "O" not in env


@pytest.mark.parametrize(
    ("env", "text"),
    [
        ({"configMapKeyRef": {"name": "cm", "key": "k"}}, 'configmap "cm" not found'),
        ({"secretKeyRef": {"name": "have", "key": "k"}}, "couldn't find key k in Secret shop/have"),
        ({"fieldRef": {"fieldPath": "spec.nonsense"}}, "fieldPath 'spec.nonsense' is not supported"),
    ],
)
def test_environment_errors_name_what_is_missing(env: dict, text: str):
    with pytest.raises(environment.ConfigError, match=text):
        oci({"env": [{"name": "V", "valueFrom": env}]}, objects={("Secret", "have"): {"kind": "Secret", "data": {}}})


@pytest.mark.parametrize(
    ("ref", "value"),
    [
        ({"fieldRef": {"fieldPath": "metadata.name"}}, "web-0"), ({"fieldRef": {"fieldPath": "metadata.labels['app']"}}, "web"), ({"fieldRef": {"fieldPath": "status.podIP"}}, "10.42.0.5"),
        ({"fieldRef": {"fieldPath": "status.hostIP"}}, "192.0.2.7"), ({"fieldRef": {"fieldPath": "spec.serviceAccountName"}}, "default"),
        ({"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}}, "64"), ({"resourceFieldRef": {"resource": "limits.cpu"}}, "2"),
        ({"resourceFieldRef": {"resource": "requests.cpu", "divisor": "1m"}}, "250"),
    ],
)  # fmt: skip
def test_downward_api(ref: dict, value: str):
    container = {"env": [{"name": "V", "valueFrom": ref}], "resources": {"limits": {"memory": "64Mi"}, "requests": {"cpu": "250m"}}}
    assert env_of(oci(container))["V"] == value


def test_labels_and_annotations_as_files_are_quoted():
    p, _ = make()
    assert downward.field_value(p, "metadata.annotations", downward.Facts()) == 'note="say \\"hi\\""'


def test_service_variables():
    def service(name: str, ns: str, ip: str, *ports: dict) -> dict:
        return {"metadata": {"name": name, "namespace": ns}, "spec": {"clusterIP": ip, "ports": list(ports)}}

    all_services = [
        service("kubernetes", "default", "10.43.0.1", {"name": "https", "port": 443}), service("my-db", "shop", "10.43.0.7", {"port": 5432}, {"name": "dns", "port": 53, "protocol": "UDP"}),
        service("other", "elsewhere", "10.43.0.8", {"port": 1}), service("headless", "shop", "None", {"port": 1}),
    ]  # fmt: skip
    got = environment.service_variables(all_services, "shop", True)
    assert got["KUBERNETES_SERVICE_HOST"] == "10.43.0.1"
    assert got["KUBERNETES_SERVICE_PORT_HTTPS"] == "443"
    assert (got["MY_DB_SERVICE_HOST"], got["MY_DB_SERVICE_PORT"], got["MY_DB_PORT"]) == ("10.43.0.7", "5432", "tcp://10.43.0.7:5432")
    assert (got["MY_DB_PORT_53_UDP_PROTO"], got["MY_DB_PORT_5432_TCP_ADDR"]) == ("udp", "10.43.0.7")
    assert not [k for k in got if k.startswith(("OTHER", "HEADLESS"))]
    assert set(environment.service_variables(all_services, "shop", False)) == {k for k in got if k.startswith("KUBERNETES")}


@pytest.mark.parametrize(
    ("pod_context", "context", "image_user", "expected"),
    [
        ({}, {}, "", {"uid": 0, "gid": 0}), ({}, {}, "web", {"username": "web"}), ({"runAsUser": 5}, {}, "web", {"uid": 5, "gid": 0}),
        ({"runAsUser": 5, "fsGroup": 7, "supplementalGroups": [8]}, {"runAsUser": 6, "runAsGroup": 9}, "", {"uid": 6, "gid": 9, "additionalGids": [8, 7]}),
    ],
)  # fmt: skip
def test_user(pod_context: dict, context: dict, image_user: str, expected: dict):
    assert oci({"securityContext": context}, image=ImageConfig(cmd=("x",), user=image_user), securityContext=pod_context)["process"]["user"] == expected


@pytest.mark.parametrize(
    ("context", "image_user", "text"),
    [
        ({"runAsNonRoot": True}, "", "image will run as root"), ({"runAsNonRoot": True, "runAsUser": 0}, "", "breaks non-root policy"),
        ({"runAsNonRoot": True}, "web", "non-numeric user"), ({"capabilities": {"add": ["NONSENSE"]}}, "", "unknown capability"),
        ({"seccompProfile": {"type": "Localhost", "localhostProfile": "x"}}, "", "Localhost is not supported"),
    ],
)  # fmt: skip
def test_security_context_that_cannot_be_kept(context: dict, image_user: str, text: str):
    with pytest.raises(environment.ConfigError, match=text):
        oci({"securityContext": context}, image=ImageConfig(cmd=("x",), user=image_user))


def test_security_context():
    got = oci({"securityContext": {"capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}, "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True}})
    assert got["process"]["capabilities"]["bounding"] == ["CAP_NET_BIND_SERVICE"]
    assert got["process"]["noNewPrivileges"] is True
    assert got["root"]["readonly"] is True
    assert got["linux"]["seccomp"] == "default"
    assert oci({"securityContext": {"seccompProfile": {"type": "Unconfined"}}})["linux"]["seccomp"] is None
    privileged = oci({"securityContext": {"privileged": True}})
    assert "CAP_SYS_ADMIN" in privileged["process"]["capabilities"]["effective"]
    assert privileged["linux"]["maskedPaths"] == []


def test_limits():
    got = oci({"resources": {"limits": {"cpu": "500m", "memory": "64Mi"}}})["linux"]["resources"]
    assert got == {"cpu": {"shares": 512, "quota": 50_000, "period": 100_000}, "memory": {"limit": 64 << 20}}
    assert oci()["linux"]["resources"] == {"cpu": {"shares": 2}}


def test_the_pods_own_cgroup_is_limited_where_all_containers_are():
    limited = {"limits": {"cpu": "1", "memory": "1Gi"}}
    p, _ = make({"resources": limited})
    p["spec"]["containers"].append({"name": "b", "image": "x", "resources": limited})
    assert resources.pod_resources(p)["memory"] == {"limit": 2 << 30}
    assert resources.pod_resources(p)["cpu"] == {"shares": 2048, "quota": 200_000, "period": 100_000}
    p["spec"]["containers"].append({"name": "c", "image": "x"})
    assert "memory" not in resources.pod_resources(p)


@pytest.mark.parametrize(
    ("res", "qos", "score"),
    [({}, "BestEffort", 1000), ({"requests": {"memory": "1Gi"}}, "Burstable", 750), ({"limits": {"cpu": "1", "memory": "1Gi"}}, "Guaranteed", -997)],
)
def test_quality_of_service(res: dict, qos: str, score: int):
    p, c = make({"resources": res})
    assert podspec.qos_class(p) == qos
    assert resources.oom_score_adj(p, c, 4 << 30) == score


def test_volumes_are_bound_and_take_over_default_mounts():
    got = oci(mounts=[translate.BoundVolume("/v/data", "/data", True), translate.BoundVolume("/v/shm", "/dev/shm")])
    assert {"destination": "/data", "type": "bind", "source": "/v/data", "options": ["rbind", "ro", "rprivate"]} in got["mounts"]
    assert [m["source"] for m in got["mounts"] if m["destination"] == "/dev/shm"] == ["/v/shm"]


def test_records_for_adoption():
    p, c = make()
    got = translate.container_config(p, inputs(c, ImageConfig(cmd=("sh",), stop_signal="SIGQUIT")))
    assert got.labels[observe.LABEL_POD_UID] == "u1"
    assert got.labels[observe.LABEL_CONTAINER] == "main"
    assert (got.annotations[observe.ANNOTATION_RESTARTS], got.annotations[observe.ANNOTATION_BACKOFF]) == ("3", "20")
    assert got.annotations[observe.ANNOTATION_STOP_SIGNAL] == "SIGQUIT"
    sandbox = translate.sandbox_config(p, "s1", "10.42.0.5", NODE)
    assert (sandbox.hostname, sandbox.cgroup, sandbox.annotations[observe.ANNOTATION_IP]) == ("web-0", "u1", "10.42.0.5")


def test_hosts_file():
    p, _ = make(hostAliases=[{"ip": "1.2.3.4", "hostnames": ["a", "b"]}], subdomain="sub")
    text = translate.etc_hosts(p, "10.42.0.5", "node1")
    assert "127.0.0.1\tlocalhost\n" in text
    assert "10.42.0.5\tweb-0.sub.shop.svc.cluster.local\tweb-0\n" in text
    assert "1.2.3.4\ta\tb\n" in text


HOST = "nameserver 127.0.0.53\nnameserver 9.9.9.9\nsearch lan\noptions edns0\n"


@pytest.mark.parametrize(
    ("spec", "servers", "expected"),
    [
        ({}, ["10.43.0.10"], "search shop.svc.cluster.local svc.cluster.local cluster.local lan\nnameserver 10.43.0.10\noptions ndots:5\n"),
        ({}, [], "search lan\nnameserver 9.9.9.9\noptions edns0\n"),
        ({"dnsPolicy": "Default"}, ["10.43.0.10"], "search lan\nnameserver 9.9.9.9\noptions edns0\n"),
        ({"hostNetwork": True}, ["10.43.0.10"], "search lan\nnameserver 9.9.9.9\noptions edns0\n"),
        ({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["1.1.1.1"], "searches": ["x"], "options": [{"name": "ndots", "value": "2"}]}}, ["10.43.0.10"], "search x\nnameserver 1.1.1.1\noptions ndots:2\n"),
    ],
)  # fmt: skip
def test_resolv_conf(spec: dict, servers: list, expected: str):
    p, _ = make(**spec)
    assert translate.resolv_conf(p, translate.Dns(servers, host=HOST)) == expected


def test_sysctls_must_be_the_pods_own():
    assert oci(securityContext={"sysctls": [{"name": "net.ipv4.ip_unprivileged_port_start", "value": "0"}]})["linux"]["sysctl"] == {"net.ipv4.ip_unprivileged_port_start": "0"}
    with pytest.raises(environment.ConfigError, match="not namespaced"):
        oci(securityContext={"sysctls": [{"name": "vm.swappiness", "value": "1"}]})
