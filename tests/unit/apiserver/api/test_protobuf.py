"""Protobuf bodies: what real kubectl sent (golden files, recorded by recorder.py), and malformed ones."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apiserver.api import defaults, kinds, protobuf, schema, validation
from apiserver.api.errors import BadRequest
from tests.unit.apiserver.api.recorder import GOLDEN

FILES = sorted(GOLDEN.glob("*.bin"))


def test_the_golden_files_are_there():
    assert len(FILES) >= 13


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_what_kubectl_sent(path):
    document = protobuf.decode(path.read_bytes())
    assert document == json.loads(path.with_suffix(".json").read_text())
    resource = kinds.for_kind(document["apiVersion"], document["kind"])
    if resource is not None:
        assert schema.check_fields(resource, document) == []
        if resource.namespaced:
            document["metadata"].setdefault("namespace", "default")
        if resource is not kinds.SELFSUBJECTACCESSREVIEWS and resource is not kinds.SELFSUBJECTREVIEWS:
            defaults.apply(resource, document)
            causes = validation.validate_create(resource, document)
            assert [cause.field for cause in causes if not cause.field.startswith("spec.selector")] == []


def field(number, data):
    return varint(number << 3 | 2) + varint(len(data)) + data


def number(number, value):
    return varint(number << 3) + varint(value)


def varint(value):
    value &= 2**64 - 1
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def body(api_version, kind, raw, content_type=b""):
    meta = field(1, api_version.encode()) + field(2, kind.encode())
    return protobuf.MAGIC + field(1, meta) + field(2, raw) + field(3, b"") + field(4, content_type)


def test_special_types():
    when = number(1, 1735689600) + number(2, 123456000)
    meta = field(1, b"x") + field(8, when) + field(11, field(1, b"k") + field(2, b"v"))
    lease = field(1, meta) + field(2, field(1, b"holder") + number(2, 40) + field(4, when))
    assert protobuf.decode(body("coordination.k8s.io/v1", "Lease", lease)) == {
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": "x", "creationTimestamp": "2025-01-01T00:00:00Z", "labels": {"k": "v"}},
        "spec": {"holderIdentity": "holder", "leaseDurationSeconds": 40, "renewTime": "2025-01-01T00:00:00.123456Z"},
    }


def test_negative_numbers_empty_times_and_unknown_fields():
    meta = field(1, b"x") + field(8, b"") + number(10, -1) + field(999, b"future")
    assert protobuf.decode(body("v1", "Namespace", field(1, meta))) == {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "x", "deletionGracePeriodSeconds": -1}}


def test_int_or_string_and_bytes():
    port = field(1, b"http") + number(3, 80) + field(4, number(1, 1) + number(2, 0) + field(3, b"web"))
    spec = field(1, port)
    assert protobuf.decode(body("v1", "Service", field(2, spec)))["spec"]["ports"] == [{"name": "http", "port": 80, "targetPort": "web"}]
    secret = field(2, field(1, b"k") + field(2, b"\x00\xff"))
    assert protobuf.decode(body("v1", "Secret", secret))["data"] == {"k": "AP8="}


def test_json_inside():
    assert protobuf.decode(body("v1", "ConfigMap", b'{"a":1}', b"application/json")) == {"a": 1}


@pytest.mark.parametrize(
    "data",
    [
        b"", b"{}", protobuf.MAGIC, body("v1", "Nonsense", b""), body("nope/v1", "Pod", b""), body("v1", "Pod", b"\xff"), body("v1", "Pod", field(1, b"x")[:-1]),
        body("v1", "Pod", number(1, 5)), body("v1", "ConfigMap", field(1, field(1, b"\xff\xfe"))), body("v1", "ConfigMap", b"{", b"application/json"), protobuf.MAGIC + b"\x80" * 12,
    ],
)
def test_malformed_bodies_are_bad_requests(data):
    with pytest.raises(BadRequest):
        protobuf.decode(data)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(FILES), st.integers(4, 200), st.binary(max_size=4))
def test_a_damaged_body_never_breaks_the_decoder(path, position, noise):
    data = path.read_bytes()
    try:
        protobuf.decode(data[:position] + noise + data[position + len(noise) :])
    except BadRequest:
        pass
