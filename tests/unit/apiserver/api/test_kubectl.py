"""kubectl as the judge: what it prints from our documents, how it reads YAML, how it applies strategic patches. Needs a kubectl on the machine."""

import json
import os

import pytest

from apiserver.api import kinds, manifests, patches
from tests.unit.apiserver.api.recorder import Recorder, find_kubectl

KUBECTL = next(filter(None, (find_kubectl(version) for version in ("1.33", "1.32", "1.31"))), None)
pytestmark = pytest.mark.skipif(KUBECTL is None and not os.environ.get("CI"), reason="no kubectl 1.31, 1.32 or 1.33 on this machine")


@pytest.fixture(scope="module")
def recorder():
    with Recorder() as server:
        yield server


def run(recorder, *args, stdin=None):
    done = recorder.kubectl(KUBECTL, *args, stdin=stdin)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_api_resources_lists_the_table(recorder):
    listed = {line.split()[0] for line in run(recorder, "api-resources", "--no-headers").splitlines()}
    assert listed == {resource.plural for resource in kinds.RESOURCES}
    assert "po" in run(recorder, "api-resources")


@pytest.mark.parametrize("version", ["1.27", "1.29", "1.31", "1.32"])
def test_every_kubectl_finds_its_way_through_discovery(recorder, version):
    binary = find_kubectl(version)
    if binary is None:
        pytest.skip(f"no kubectl {version} on this machine")
    recorder.answers["GET", "/apis/apps/v1/namespaces/default/deployments/d"] = {
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "namespace": "default"},
    }
    done = recorder.kubectl(binary, "get", "deploy", "d", "-o", "name")
    assert (done.returncode, done.stdout) == (0, "deployment.apps/d\n"), done.stderr


def test_explain_reads_the_openapi_document(recorder):
    text = run(recorder, "explain", "pod.spec.containers.livenessProbe.httpGet")
    assert "FIELDS" in text and "scheme\t<string>" in text
    assert "strategy\t<DeploymentStrategy>" in run(recorder, "explain", "deployment.spec")
    assert "priorityclasses" not in run(recorder, "explain", "leases.spec")


def test_apply_creates_with_strict_field_validation(recorder):
    manifest = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\ndata: {a: b}\n"
    before = len(recorder.requests)
    assert "configmap/c created" in run(recorder, "apply", "-f", "-", stdin=manifest)
    sent = [request for request in recorder.requests[before:] if request.method == "POST"]
    assert len(sent) == 1 and "fieldValidation=Strict" in sent[0].path


POD = {
    "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "labels": {"a": "b"}, "finalizers": ["x/a", "x/b"]},
    "spec": {
        "containers": [
            {"name": "a", "image": "1", "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "2"}], "command": ["x"]},
            {"name": "b", "image": "2", "ports": [{"containerPort": 80, "protocol": "TCP"}]},
            {"name": "c", "image": "3"},
        ],
        "volumes": [{"name": "v", "emptyDir": {}}, {"name": "w", "hostPath": {"path": "/x"}}],
        "tolerations": [{"key": "k", "operator": "Exists"}],
        "nodeSelector": {"x": "y", "z": "z"},
    },
}  # fmt: skip
PATCHES = [
    {"spec": {"containers": [{"name": "d", "image": "4"}, {"name": "a", "image": "9", "env": [{"name": "Z", "value": "3"}]}]}},
    {"spec": {"containers": [{"$patch": "delete", "name": "b"}]}},
    {"spec": {"$setElementOrder/containers": [{"name": "c"}, {"name": "e"}, {"name": "a"}], "containers": [{"name": "e", "image": "5"}]}},
    {"spec": {"$setElementOrder/containers": [{"name": "c"}, {"name": "a"}], "containers": [{"name": "a", "image": "5", "$setElementOrder/env": [{"name": "Y"}, {"name": "X"}]}]}},
    {"spec": {"volumes": [{"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/y"}}]}},
    {"spec": {"volumes": [{"name": "n", "emptyDir": {}}, {"$patch": "replace"}]}},
    {"spec": {"tolerations": [{"key": "q", "operator": "Exists"}], "nodeSelector": {"x": None, "q": "r"}}},
    {"spec": {"nodeSelector": {"$patch": "replace", "only": "this"}}},
    {"metadata": {"finalizers": ["x/c", "x/a"]}},
    {"metadata": {"$deleteFromPrimitiveList/finalizers": ["x/a"], "$setElementOrder/finalizers": ["x/c", "x/b"], "finalizers": ["x/c"]}},
    {"metadata": {"labels": {"a": None, "n": "m"}}, "spec": {"containers": [{"name": "b", "ports": [{"containerPort": 81}]}]}},
    {"spec": {"containers": [{"name": "a", "command": None, "env": [{"name": "X", "$patch": "delete"}]}]}},
]


@pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: json.dumps(patch)[:60])
def test_strategic_merge_agrees_with_kubectl(recorder, patch):
    theirs = json.loads(run(recorder, "patch", "--local", "-f", "-", "--type=strategic", "-p", json.dumps(patch), "-o", "json", stdin=json.dumps(POD)))
    ours = patches.strategic_merge(kinds.PODS, POD, patch)
    assert normal(ours) == normal(theirs)


def normal(pod):
    """Without what Go's encoder adds for empty structs."""
    pod = json.loads(json.dumps(pod))
    pod.pop("status", None)
    pod["metadata"].pop("creationTimestamp", None)
    for container in pod["spec"]["containers"]:
        if not container.get("resources"):
            container.pop("resources", None)
        for field in ("env", "command"):
            if not container.get(field):
                container.pop(field, None)
    if not pod["spec"].get("volumes"):
        pod["spec"].pop("volumes", None)
    return pod


_SCALARS = (
    "yes on off y n NO TRUE 0777 0644 0o644 12:30:45 2020-01-01 2020-01-01T00:00:00Z 1_000 0x1F 0b11 1e3 .5 1.0 ~ Null +1 08 1. 123456789012345678901234567890 = 1e400 "
    "0.1e1 -.5e3 -0x1f 1:2 2001:db8::1 1.5Gi 5e 0x + null nullx truex 0_ .inf1 1-2 0o8 09.5 1_ _1 0b2 0xg +.5 -0 1e21 1e-7 100000000000000000000 0.1 1.10"
)
SCALARS = _SCALARS.split()


def test_keys_are_read_as_kubectl_reads_them(recorder):
    text = "apiVersion: example.com/v1\nkind: Foo\nmetadata: {name: a}\nspec: {1: a, y: b, 1.5: c, off: d, 0x10: e, 2020-01-01: f, 'yes': g}\n"
    theirs = json.loads(run(recorder, "annotate", "--local", "-f", "-", "x=y", "-o", "json", stdin=text))["spec"]
    assert manifests.load(text, "f")[0].obj["spec"] == theirs


def test_scalars_are_read_as_kubectl_reads_them(recorder):
    text = "apiVersion: example.com/v1\nkind: Foo\nmetadata: {name: a}\nspec:\n" + "".join(f"  k{position}: {scalar}\n" for position, scalar in enumerate(SCALARS))
    theirs = json.loads(run(recorder, "annotate", "--local", "-f", "-", "x=y", "-o", "json", stdin=text))["spec"]
    (document,) = manifests.load(text, "f")
    ours = document.obj["spec"]
    assert {scalar: ours[f"k{n}"] for n, scalar in enumerate(SCALARS)} == {scalar: theirs[f"k{n}"] for n, scalar in enumerate(SCALARS)}
    assert {k: type(v) for k, v in ours.items()} == {k: type(v) for k, v in theirs.items()}
