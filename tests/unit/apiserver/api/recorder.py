"""A loopback HTTP server that knows discovery and OpenAPI only, and keeps every other request: what real clients send. Run by test_kubectl and to record golden files:

    python -m tests.unit.apiserver.api.recorder KUBECTL NAME -- create namespace x      (writes tests/golden/protobuf/NAME.bin)
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from apiserver.api import discovery, errors, protobuf, schema

GOLDEN = Path(__file__).parents[3] / "golden" / "protobuf"


@dataclass
class Request:
    method: str
    path: str
    content_type: str
    body: bytes


def find_kubectl(version):
    """The path of `kubectl.1.32`, on the PATH or beside the kubectl there; None where there is none."""
    beside = os.path.dirname(os.path.realpath(shutil.which("kubectl") or "/nonexistent"))
    return shutil.which(f"kubectl.{version}") or shutil.which(f"kubectl.{version}", path=beside)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def answer(self, code, body, content_type="application/json"):
        self.send_response(code)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        path = self.path.partition("?")[0]
        accept = self.headers.get("Accept", "")
        if path in ("/api", "/apis") and "v=v2;" in accept.replace(" ", ""):
            self.answer(200, discovery.aggregated(path), "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList")
        elif path in ("/api", "/apis") and "v=v2beta1;" in accept.replace(" ", ""):
            self.answer(200, discovery.aggregated(path, "v2beta1"), "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList")
        elif path == "/openapi/v3":
            self.answer(200, json.dumps(schema.openapi_v3_index()).encode())
        elif path.startswith("/openapi/v3/"):
            self.answer(200, schema.openapi_v3(path.removeprefix("/openapi/v3/")))
        elif (document := discovery.legacy(path)) is not None:
            self.answer(200, document)
        else:
            self.record()

    def record(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.requests.append(Request(self.command, self.path, self.headers.get("Content-Type", ""), body))
        answer = self.server.answers.get((self.command, self.path.partition("?")[0]))
        if answer is None and self.command in ("POST", "PUT"):
            answer = protobuf.decode(body) if body.startswith(protobuf.MAGIC) else json.loads(body)
        if answer is None:
            answer = errors.to_status(errors.NotFound())
        self.answer(answer.get("code", 200) if answer.get("kind") == "Status" else 201 if self.command == "POST" else 200, json.dumps(answer).encode())

    do_POST = do_PUT = do_PATCH = do_DELETE = record


class Recorder:
    """`with Recorder() as recorder: recorder.kubectl(path, "create", "ns", "x")`; `answers` maps (method, path) to documents."""

    def __enter__(self):
        self.directory = tempfile.TemporaryDirectory()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self.requests = self.server.requests = []
        self.answers = self.server.answers = {}
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *exc):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()
        self.directory.cleanup()

    def kubectl(self, binary, *args, stdin=None):
        command = [binary, "--server", f"http://127.0.0.1:{self.server.server_port}", "--cache-dir", f"{self.directory.name}/cache", *args]
        environment = {"PATH": os.environ["PATH"], "HOME": self.directory.name, "KUBECONFIG": f"{self.directory.name}/none"}
        return subprocess.run(command, capture_output=True, text=True, env=environment, input=stdin, timeout=60, check=False)


def main():
    binary, name, _, *args = sys.argv[1:]
    with Recorder() as recorder:
        done = recorder.kubectl(binary, *args)
        bodies = [request.body for request in recorder.requests if request.body.startswith(protobuf.MAGIC)]
    print(done.stdout, done.stderr, [(r.method, r.path, r.content_type, len(r.body)) for r in recorder.requests])
    for position, body in enumerate(bodies):
        GOLDEN.mkdir(parents=True, exist_ok=True)
        path = GOLDEN / (f"{name}.bin" if not position else f"{name}-{position}.bin")
        path.write_bytes(body)
        path.with_suffix(".json").write_text(json.dumps(protobuf.decode(body), indent=2) + "\n")


if __name__ == "__main__":
    main()
