"""The pure parts: paths, Accept headers, WebSocket frames, flags, socket activation, container choice, Swagger as protobuf."""

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apiserver import flags
from apiserver.api import errors
from apiserver.rest import health, logs, negotiation, nodes, respond, server, swagger_protobuf, websocket
from apiserver.rest.request import parse_path

PATHS = [
    ("/api/v1/pods", ("", "pods", "", "", "")),
    ("/api/v1/namespaces/a/pods", ("", "pods", "a", "", "")),
    ("/api/v1/namespaces/a/pods/", ("", "pods", "a", "", "")),
    ("/api/v1/namespaces/a/pods/p", ("", "pods", "a", "p", "")),
    ("/api/v1/namespaces/a/pods/p/log", ("", "pods", "a", "p", "log")),
    ("/api/v1/namespaces", ("", "namespaces", "", "", "")),
    ("/api/v1/namespaces/a", ("", "namespaces", "a", "a", "")),
    ("/api/v1/namespaces/a/status", ("", "namespaces", "a", "a", "status")),
    ("/api/v1/namespaces/a/finalize", ("", "namespaces", "a", "a", "finalize")),
    ("/api/v1/namespaces/status/pods", ("", "pods", "status", "", "")),
    ("/apis/apps/v1/namespaces/a/deployments/d/scale", ("apps", "deployments", "a", "d", "scale")),
    ("/api/v1/nodes/n/proxy/metrics/cadvisor", ("", "nodes", "", "n", "proxy")),
    ("/api/v1/watch/namespaces/a/pods", ("", "pods", "a", "", "")),
]


@pytest.mark.parametrize(("path", "expected"), PATHS)
def test_paths(path, expected):
    target = parse_path(path)
    assert (target.group, target.plural, target.namespace, target.name, target.subresource) == expected
    assert target.resource is not None
    assert not target.malformed


@pytest.mark.parametrize("path", ["/", "/api", "/api/v1", "/api/v1/", "/apis", "/apis/apps", "/apis/apps/v1", "/apis/apps/v1/", "/version", "//", "/apix/v1/pods", "", "*"])
def test_paths_that_name_no_resource(path):
    assert parse_path(path) is None


@given(st.lists(st.sampled_from(["", "api", "apis", "v1", "namespaces", "pods", "watch", "status", "apps", "proxy", "..", "%2e", "é"]), max_size=9))
def test_every_path_parses(parts):
    parse_path("/" + "/".join(parts))


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("", ("application/json", "", "v1")),
        ("*/*", ("application/json", "", "v1")),
        ("text/html,application/xhtml+xml,*/*;q=0.8", ("application/json", "", "v1")),
        ("application/vnd.kubernetes.protobuf,application/json", ("application/json", "", "v1")),
        ("application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json", ("application/json", "Table", "v1")),
        ("application/json;as=Table;v=v1beta1;g=meta.k8s.io", ("application/json", "Table", "v1beta1")),
        ("application/json;as=Nonsense;v=v1;g=meta.k8s.io,application/json", ("application/json", "", "v1")),
        ("application/json;q=0.5, application/yaml", ("application/yaml", "", "v1")),
        ("application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1", ("application/json", "PartialObjectMetadata", "v1")),
    ],
)
def test_accept(header, expected):
    form = negotiation.negotiate(header.encode())
    assert (form.media, form.shape, form.version) == expected


@given(st.binary(max_size=100))
def test_every_accept_header_is_answered_or_not_acceptable(header):
    try:
        negotiation.negotiate(header)
    except errors.NotAcceptable:
        pass


@pytest.mark.parametrize("length", [0, 1, 125, 126, 65535, 65536])
def test_frames_are_read_by_the_websockets_library(length):
    from websockets.client import ClientProtocol
    from websockets.protocol import OPEN
    from websockets.uri import parse_uri

    client = ClientProtocol(parse_uri("wss://x"), state=OPEN, max_size=None)
    client.receive_data(websocket.frame(b"x" * length, websocket.TEXT) + websocket.frame(b"end", websocket.BINARY))
    frames = client.events_received()
    assert [bytes(frame.data) for frame in frames] == [b"x" * length, b"end"]


def test_accept_key_is_the_rfcs():
    assert websocket.accept_key(b"dGhlIHNhbXBsZSBub25jZQ==") == b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


def test_warnings_stay_one_header():
    assert respond.warning('a "b"\r\nSet-Cookie: x\\') == b'299 - "a \\"b\\"  Set-Cookie: x\\\\"'


TLS = ["--tls-cert-file", __file__, "--tls-private-key-file", __file__, "--sqlite-path", "x"]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--tls-cert-file", __file__, "--sqlite-path", "x"], "--tls-private-key-file: is required"),
        ([*TLS, "--client-ca-file", "/no/such"], "--client-ca-file: cannot read /no/such: no such file"),
        ([*TLS, "--secure-port", "70000"], "--secure-port: 70000"),
        ([*TLS, "--secure-port", "x"], "--secure-port"),
        ([*TLS, "--nonsense"], "--nonsense"),
        ([*TLS, "--service-cluster-ip-range", "10.43.0.1/16"], "--service-cluster-ip-range"),
        ([*TLS, "--service-cluster-ip-range", "10.42.1.0/24"], "overlaps --cluster-cidr"),
        ([*TLS, "--service-node-port-range", "5-3"], "--service-node-port-range"),
        ([*TLS, "--node-cidr-mask-size", "8"], "--node-cidr-mask-size"),
        ([*TLS, "--bind-address", "x"], "--bind-address"),
        ([*TLS, "--storage-backend", "etcd"], "--etcd-servers: is required"),
        ([*TLS, "--storage-backend", "mongo"], "--storage-backend"),
        (TLS[:-2], "--sqlite-path: is required"),
        ([*TLS, "--kubelet-client-key", __file__], "--kubelet-client-certificate"),
    ],
)
def test_wrong_flags_are_named(words, text):
    with pytest.raises(flags.FlagError, match=text):
        flags.parse(words)


def test_right_flags():
    parsed = flags.parse([*TLS, "--service-node-port-range", "30000-30010"])
    assert parsed.node_ports == (30000, 30010)
    assert parsed.advertise_address


def test_no_socket_is_inherited_by_another_process_or_name():
    assert server.inherited_socket("https", {}, 1) is None
    assert server.inherited_socket("https", {"LISTEN_FDS": "1", "LISTEN_PID": "2", "LISTEN_FDNAMES": "https"}, 1) is None
    assert server.inherited_socket("https", {"LISTEN_FDS": "1", "LISTEN_PID": "1", "LISTEN_FDNAMES": "kubelet"}, 1) is None


def test_bind_says_what_is_taken():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(OSError, match="in use"):
            server.bind("127.0.0.1", taken.getsockname()[1])


def pod(*containers, init=(), annotations=None):
    return {"metadata": {"name": "p", "annotations": annotations}, "spec": {"containers": [{"name": c} for c in containers], "initContainers": [{"name": c} for c in init]}}


def test_the_container_of_a_log_or_exec():
    assert logs.choose_container(pod("a"), "") == "a"
    assert logs.choose_container(pod("a", "b"), "b") == "b"
    assert logs.choose_container(pod("a", init=["i"]), "i") == "i"
    assert logs.choose_container(pod("a", "b", annotations={"kubectl.kubernetes.io/default-container": "b"}), "", need_running=True) == "b"
    with pytest.raises(errors.BadRequest, match=r"a container name must be specified for pod p, choose one of: \[a b\] or one of the init containers: \[i\]"):
        logs.choose_container(pod("a", "b", init=["i"]), "")
    with pytest.raises(errors.BadRequest, match="container x is not valid for pod p"):
        logs.choose_container(pod("a"), "x")


def test_where_a_node_listens():
    node = {"metadata": {"name": "n"}, "status": {"addresses": [{"type": "Hostname", "address": "n"}, {"type": "InternalIP", "address": "fd00::1"}], "daemonEndpoints": {"kubeletEndpoint": {"Port": 1}}}}
    assert nodes.address_of(node).netloc == "[fd00::1]:1"
    with pytest.raises(errors.Unavailable, match="no address"):
        nodes.address_of({"metadata": {"name": "n"}})


def test_health_texts():
    assert health.render("readyz", [("ping", "")], verbose=False) == (200, "ok")
    status, text = health.render("readyz", [("ping", ""), ("store", "disk is gone")], verbose=False)
    assert status == 500
    assert "[+]ping ok\n[-]store failed: disk is gone\nreadyz check failed\n" in text


def test_swagger_as_protobuf_is_what_a_protobuf_reader_finds():
    from google.protobuf.internal import decoder

    def fields(data):
        at, found = 0, {}
        while at < len(data):
            tag, at = decoder._DecodeVarint(data, at)
            if tag & 7 == 2:
                size, at = decoder._DecodeVarint(data, at)
                value, at = data[at : at + size], at + size
            else:
                value, at = decoder._DecodeVarint(data, at)
            found.setdefault(tag >> 3, []).append(value)
        return found

    schema = {"type": "object", "description": "d", "required": ["a"], "properties": {"a": {"$ref": "#/x"}, "b": {"type": "array", "items": {"type": "string"}}}, "x-k": ["é"],
              "additionalProperties": {"type": "integer", "format": "int32"}}  # fmt: skip
    document = fields(swagger_protobuf.encode({"swagger": "2.0", "info": {"title": "t", "version": "v"}, "definitions": {"D": schema}}))
    assert document[1] == [b"2.0"]
    assert fields(document[2][0]) == {1: [b"t"], 2: [b"v"]}
    named = fields(fields(document[9][0])[1][0])
    assert named[1] == [b"D"]
    encoded = fields(named[2][0])
    assert (encoded[4], encoded[19]) == ([b"d"], [b"a"])
    assert fields(encoded[22][0]) == {1: [b"object"]}
    properties = [fields(item) for item in fields(encoded[25][0])[1]]
    assert [item[1] for item in properties] == [[b"a"], [b"b"]]
    assert fields(properties[0][2][0]) == {1: [b"#/x"]}
    extension = fields(encoded[31][0])
    assert (extension[1], fields(extension[2][0])) == ([b"x-k"], {2: ['["é"]'.encode()]})
