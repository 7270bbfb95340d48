"""The API server as a process: starts, stops, is killed, is sent nonsense, speaks WebSocket; and what its certificates and flags decide."""

import base64
import json
import os
import random
import signal
import socket
import ssl
import subprocess
import sys
import threading

import pytest

from tests.e2e.api_process import ROOT, ApiProcess, wait_for

CMS = "/api/v1/namespaces/default/configmaps"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    process = ApiProcess(tmp_path_factory.mktemp("api")).start()
    yield process
    assert process.stop() == 0, process.log.read_text()


@pytest.fixture
def own(tmp_path):
    """A server of the test's own."""
    process = ApiProcess(tmp_path)
    yield process
    if process.process is not None and process.process.poll() is None:
        process.stop(signal.SIGKILL)


def names(server, path=CMS):
    return {item["metadata"]["name"] for item in server.request("GET", path).json()["items"]}


class Raw:
    """A TLS connection to write anything on."""

    def __init__(self, server, certificate=""):
        plain = socket.create_connection(("127.0.0.1", server.port), 20)
        self.socket = server.context(certificate).wrap_socket(plain, server_hostname="127.0.0.1")
        self.buffer = b""

    def send(self, data):
        self.socket.sendall(data)
        return self

    def until(self, mark):
        """Everything up to and with `mark`; fails if the server closes before it."""
        while mark not in self.buffer:
            data = self.socket.recv(65536)
            assert data, f"closed after {self.buffer!r}"
            self.buffer += data
        found, _, self.buffer = self.buffer.partition(mark)
        return found + mark

    def rest(self):
        """Everything until the server closes."""
        while data := self.socket.recv(65536):
            self.buffer += data
        return self.buffer

    def close(self):
        self.socket.close()


def test_who_a_certificate_stands_for(server):
    def whoami(**kwargs):
        return server.request("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", {}, **kwargs).json()["status"]["userInfo"]

    assert whoami(certificate="admin") == {"username": "kubernetes-admin", "groups": ["system:masters", "system:authenticated"]}
    assert whoami()["username"] == "kubernetes-admin"
    assert whoami(token="jane-token") == {"username": "jane", "uid": "7", "groups": ["dev", "system:authenticated"]}
    assert whoami(certificate="node")["username"] == "system:node:n1"
    assert server.request("GET", "/api", token="").status == 401
    assert server.request("GET", "/api", token="wrong").status == 401


def test_a_certificate_of_another_ca_is_refused_in_the_handshake(server, own):
    context = server.context()
    context.load_cert_chain(own.pki / "admin.crt", own.pki / "admin.key")
    with socket.create_connection(("127.0.0.1", server.port), 20) as plain, pytest.raises((ssl.SSLError, ConnectionResetError, AssertionError)):
        wrapped = context.wrap_socket(plain, server_hostname="127.0.0.1")
        wrapped.sendall(b"GET /version HTTP/1.1\r\nhost: x\r\n\r\n")
        assert wrapped.recv(100)  # TLS 1.3 tells the client only now


def test_components_may_what_they_need_and_no_more(server):
    assert server.request("GET", "/api/v1/pods", certificate="scheduler").status == 200
    assert server.request("GET", "/api/v1/secrets", certificate="scheduler").status == 403
    assert server.request("GET", "/api/v1/namespaces", certificate="controller-manager").status == 200
    own_node = {"metadata": {"name": "n1"}}
    assert server.request("POST", "/api/v1/nodes", own_node, certificate="node").status == 201
    other = server.request("POST", "/api/v1/nodes", {"metadata": {"name": "n2"}}, certificate="node")
    assert other.status == 403
    assert server.request("GET", "/api/v1/pods?fieldSelector=spec.nodeName%3Dn1", certificate="node").status == 200
    assert server.request("GET", "/api/v1/pods", certificate="node").status == 403
    assert server.request("GET", "/api/v1/secrets", certificate="node").status == 403


def test_what_was_acknowledged_survives_kill_9(own):
    own.start()
    acknowledged = set()

    def write(worker):
        for n in range(1000):
            try:
                if own.request("POST", CMS, {"metadata": {"name": f"c-{worker}-{n}"}}).status != 201:
                    return
            except (OSError, ssl.SSLError):
                return
            acknowledged.add(f"c-{worker}-{n}")

    workers = [threading.Thread(target=write, args=(n,)) for n in range(4)]
    for worker in workers:
        worker.start()
    wait_for(lambda: len(acknowledged) > 60, "some writes")
    own.stop(signal.SIGKILL)
    for worker in workers:
        worker.join(30)
    before = own.port
    own.start()
    assert own.port == before
    assert acknowledged <= names(own)


def test_a_watch_goes_on_after_a_restart_without_loss(own):
    own.start()
    at = own.request("GET", CMS).json()["metadata"]["resourceVersion"]
    own.request("POST", CMS, {"metadata": {"name": "x"}})
    own.stop(signal.SIGKILL)
    own.start()
    own.request("POST", CMS, {"metadata": {"name": "y"}})
    lines = own.request("GET", f"{CMS}?watch=1&timeoutSeconds=1&resourceVersion={at}").body.splitlines()
    seen = [(event["type"], event["object"]["metadata"]["name"]) for event in map(json.loads, lines)]
    assert [event for event in seen if event[1] in "xy"] == [("ADDED", "x"), ("ADDED", "y")]


def test_sigterm_ends_watches_cleanly_and_is_quick(own):
    own.start()
    raw = Raw(own, "admin").send(b"GET /api/v1/pods?watch=1 HTTP/1.1\r\nhost: x\r\n\r\n")
    assert b" 200 " in raw.until(b"\r\n\r\n")
    idle = Raw(own, "admin")
    assert own.stop() == 0
    assert raw.rest().endswith(b"0\r\n\r\n")
    idle.close()
    assert "stopped" in own.log.read_text()
    assert "Traceback" not in own.log.read_text()


def test_a_socket_is_inherited(own, tmp_path):
    """sd_listen_fds(3): the socket outlives the server, so connections wait in it while none runs."""
    listening = socket.create_server(("127.0.0.1", 0))
    own.port = listening.getsockname()[1]
    p = own.pki
    flags = ["--tls-cert-file", f"{p}/apiserver.crt", "--tls-private-key-file", f"{p}/apiserver.key", "--client-ca-file", f"{p}/ca.crt", "--token-auth-file", f"{p}/tokens.csv",
             "--sqlite-path", str(tmp_path / "inherited.db")]  # fmt: skip
    starter = "import os, sys; os.dup2(int(sys.argv[1]), 3); os.environ.update(LISTEN_FDS='1', LISTEN_FDNAMES='https', LISTEN_PID=str(os.getpid())); "
    argv = [sys.executable, "-c", starter + "os.execv(sys.executable, [sys.executable, '-m', 'apiserver', *sys.argv[2:]])", str(listening.fileno()), *flags]
    for _ in range(2):
        with own.log.open("wb") as log:
            own.process = subprocess.Popen(argv, cwd=ROOT, pass_fds=(listening.fileno(),), stderr=log, stdout=log)
        assert own.request("GET", "/version").status == 200  # waits in the socket's backlog until the server is there
        assert own.stop() == 0, own.log.read_text()
    listening.close()


@pytest.mark.parametrize("words", [["--secure-port", "1"], ["--nonsense"], ["--tls-cert-file", "/no/such", "--tls-private-key-file", "/no/such", "--sqlite-path", "x"]])
def test_bad_flags_are_one_line(words):
    done = subprocess.run([sys.executable, "-m", "apiserver", *words], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("apiserver: ")


def test_files_that_are_no_certificates_are_one_line(tmp_path):
    wrong = tmp_path / "wrong.pem"
    wrong.write_text("nonsense")
    argv = [sys.executable, "-m", "apiserver", "--tls-cert-file", str(wrong), "--tls-private-key-file", str(wrong), "--sqlite-path", str(tmp_path / "x.db")]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)


NONSENSE = [
    b"\r\n\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\x16\x03\x01\x00\xa5\x01\x00", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"GET " + b"/" * 70000 + b" HTTP/1.1\r\n\r\n",
    b"POST /api/v1/namespaces HTTP/1.1\r\ncontent-length: -1\r\n\r\n", b"POST /api/v1/namespaces HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
    b"POST /api/v1/namespaces HTTP/1.1\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\nhello", b"CONNECT example.com:1 HTTP/1.1\r\n\r\n", b"OPTIONS * HTTP/1.1\r\nhost: x\r\n\r\n",
    b"GET /api/v1/\xff\xfe HTTP/1.1\r\nhost: x\r\n\r\n", b"GET /%ff%00%2f HTTP/1.1\r\nhost: x\r\n\r\n", b"GET /api?%gg=%zz&&==; HTTP/1.1\r\nhost: x\r\n\r\n",
    b"GET /version HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: nonsense\r\n\r\n", b"GET http://other/version HTTP/1.1\r\nhost: x\r\n\r\n",
    b"GET /version HTTP/1.1\r\n" + b"x: y\r\n" * 100000 + b"\r\n", b"HEAD /api/v1/pods HTTP/1.0\r\n\r\n", b"GET /api/v1/pods HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n",
]  # fmt: skip


def is_well(server):
    assert server.process.poll() is None, server.log.read_text()
    assert server.request("GET", "/readyz", token="").body == b"ok"


@pytest.mark.parametrize("data", NONSENSE, ids=lambda data: repr(data[:40]))
def test_nonsense_does_not_hurt_the_server(server, data):
    raw = Raw(server, "admin")
    raw.socket.settimeout(5)
    try:
        raw.send(data)
        raw.socket.recv(65536)
    except OSError:  # closed on us, or no answer to what is not yet a request
        pass
    raw.close()
    is_well(server)


def test_random_bytes_paths_and_headers_do_not_hurt_the_server(server):
    rng = random.Random(20260101)
    words = ["/api", "/apis", "/v1", "/namespaces", "/pods", "/default", "/x", "//", "/..", "/%00", "/watch", "/log", "?watch=1&timeoutSeconds=1", "&limit=0", "?limit=99999999999999999999",
             "&continue=e30", "&fieldSelector=a%3D", "&labelSelector=%21", "/status", "?resourceVersion=-1", "&dryRun=All"]  # fmt: skip
    headers = ["accept: application/json;as=Table", "content-type: application/json-patch+json", "accept: " + "x" * 4000, "authorization: Bearer x", "accept-encoding: gzip", "content-length: 2"]
    for _ in range(120):
        path = "".join(rng.choices(words, k=rng.randint(1, 6)))
        lines = [f"{rng.choice(['GET', 'POST', 'PUT', 'PATCH', 'DELETE', 'HEAD'])} {path} HTTP/1.1", "host: x", "connection: close", *rng.sample(headers, rng.randint(0, 2)), "", ""]
        data = "\r\n".join(lines).encode() + bytes(rng.randbytes(rng.randint(0, 40)))
        if rng.random() < 0.2:
            data = rng.randbytes(rng.randint(1, 2000))
        raw = Raw(server, "admin")
        raw.socket.settimeout(3)
        try:
            raw.send(data)
            if rng.random() < 0.7:
                raw.socket.recv(65536)
        except OSError:
            pass
        raw.close()
    is_well(server)
    assert "Traceback" not in server.log.read_text()


def test_half_open_and_broken_connections_do_not_hurt_the_server(server):
    plain = [socket.create_connection(("127.0.0.1", server.port), 20) for _ in range(30)]  # no TLS handshake at all
    begun = [Raw(server).send(b"GET /api/v1/po") for _ in range(10)]
    bodies = [Raw(server, "admin").send(b"POST /api/v1/namespaces HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{") for _ in range(10)]
    for raw in bodies[:5]:
        raw.close()
    garbage = [socket.create_connection(("127.0.0.1", server.port), 20) for _ in range(5)]
    for connection in garbage:
        connection.sendall(os.urandom(300))
    is_well(server)
    for thing in (*plain, *begun, *bodies[5:], *garbage):
        thing.close()
    is_well(server)


def test_pipelined_and_kept_alive_requests_are_answered_in_order(server):
    raw = Raw(server, "admin")
    raw.send(b"".join(b"GET /api/v1/namespaces/%b HTTP/1.1\r\nhost: x\r\n\r\n" % name for name in (b"default", b"nope", b"kube-system")))
    seen = []
    for _ in range(3):
        head = raw.until(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        while len(raw.buffer) < length:
            raw.buffer += raw.socket.recv(65536)
        seen.append(json.loads(raw.buffer[:length])["metadata"].get("name", "nobody"))
        raw.buffer = raw.buffer[length:]
    raw.close()
    assert seen == ["default", "nobody", "kube-system"]


def test_a_body_that_is_too_large_is_refused_before_it_comes(server):
    raw = Raw(server, "admin").send(b"POST /api/v1/namespaces HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 999999999\r\n\r\n")
    assert b" 413 " in raw.until(b"\r\n\r\n")
    raw.close()


def websocket_client(server, path, *protocols):
    from websockets.sync.client import connect

    return connect(f"wss://127.0.0.1:{server.port}{path}", ssl=server.context(), subprotocols=list(protocols), compression=None, open_timeout=20)


def open_watches(server):
    lines = server.request("GET", "/metrics").body.decode().splitlines()
    return sum(int(line.split()[-1]) for line in lines if line.startswith("apiserver_longrunning_requests{") and 'resource="configmaps"' in line)


def test_watch_over_websocket(server):
    """As dashboards in a browser do it: the token as a subprotocol, an event a frame."""
    wait_for(lambda: "kube-root-ca.crt" in names(server), "the controllers' own ConfigMap")
    before = open_watches(server)
    encoded = base64.urlsafe_b64encode(server.token.encode()).rstrip(b"=").decode()
    at = server.request("GET", CMS).json()["metadata"]["resourceVersion"]
    protocols = (f"base64url.bearer.authorization.k8s.io.{encoded}", "base64.binary.k8s.io")
    with websocket_client(server, f"{CMS}?watch=1&resourceVersion={at}", *protocols) as socket_:
        assert socket_.subprotocol == "base64.binary.k8s.io"
        for name in ("w1", "w2"):
            assert server.request("POST", CMS, {"metadata": {"name": name}}).status == 201
        assert [json.loads(socket_.recv(20))["object"]["metadata"]["name"] for _ in range(2)] == ["w1", "w2"]
        socket_.ping().wait(20)
    wait_for(lambda: open_watches(server) == before, "the watch's end")


def test_an_upgrade_that_nobody_asked_for_is_answered_plainly(server):
    raw = Raw(server, "admin").send(b"GET /api/v1/namespaces/default HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n")
    assert b'"name":"default"' in raw.rest()


def test_documents_have_tags_that_save_their_transfer(server):
    index = server.request("GET", "/openapi/v3").json()
    path = index["paths"]["apis/apps/v1"]["serverRelativeURL"]
    first = server.request("GET", path)
    assert "io.k8s.api.apps.v1.Deployment" in first.json()["components"]["schemas"]
    assert server.request("GET", path, If_None_Match=first.headers["etag"]).status == 304
    both = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json"
    assert server.request("GET", "/apis", Accept=both).json()["apiVersion"] == "apidiscovery.k8s.io/v2"
    old = "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json"
    assert server.request("GET", "/apis", Accept=old).json()["apiVersion"] == "apidiscovery.k8s.io/v2beta1"
    assert server.request("GET", "/apis").json()["kind"] == "APIGroupList"
    assert server.request("GET", "/api/v1").json()["kind"] == "APIResourceList"


def test_the_page_for_people(server):
    page = server.request("GET", "/", Accept="text/html")
    assert page.headers["content-type"].startswith("text/html")
    assert b"/openapi/v3" in page.body
    assert "/version" in server.request("GET", "/").json()["paths"]
    assert b"swagger" in server.request("GET", "/docs").body.lower()
