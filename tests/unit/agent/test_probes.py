"""Probes: thresholds, verdicts, and one try of each kind against real sockets."""

from __future__ import annotations

import asyncio

import pytest

from agent import probes
from agent.observe import ProbeVerdict
from agent.probes import Outcome, Probe, State

YES, NO = Outcome(True), Outcome(False, "no")


def probe(kind: str = "readiness", **said) -> Probe:
    return probes.parse(kind, said)  # type: ignore[arg-type]


def test_defaults_and_liveness_ignores_its_success_threshold():
    assert probe() == Probe("readiness", {}, 0, 10, 1, 1, 3)
    assert probe("liveness", successThreshold=4).success_threshold == 1


@pytest.mark.parametrize(
    ("outcomes", "result"),
    [([], None), ([YES], None), ([YES, YES], True), ([YES, NO, YES], None), ([YES, YES, NO, NO], True), ([YES, YES, NO, NO, NO], False), ([NO, NO, NO, YES, YES], True)],
)
def test_thresholds_count_in_a_row(outcomes: list, result: bool | None):
    p, state = probe(successThreshold=2, failureThreshold=3), State()
    for outcome in outcomes:
        state = probes.step(state, outcome, p)
    assert state.result is result


@pytest.mark.parametrize(
    ("kinds", "results", "expected"),
    [
        ([], {}, ProbeVerdict()), (["readiness"], {}, ProbeVerdict(ready=False)), (["readiness"], {"readiness": True}, ProbeVerdict()),
        (["startup", "readiness"], {"readiness": True}, ProbeVerdict(started=False, ready=False)), (["startup"], {"startup": False}, ProbeVerdict(False, False, "startup")),
        (["liveness"], {"liveness": False}, ProbeVerdict(unhealthy="liveness")), (["liveness"], {"liveness": None}, ProbeVerdict()),
    ],
)  # fmt: skip
def test_verdicts(kinds: list, results: dict, expected: ProbeVerdict):
    assert probes.verdict(results, [probe(k) for k in kinds]) == expected


@pytest.fixture
async def answering():
    """An HTTP server of few words: /<status> answers with it, /hang never does."""

    async def handle(reader, writer):
        line = await reader.readline()
        path = line.split()[1].decode()
        headers = {}
        while (header := (await reader.readline()).strip()):
            name, _, value = header.decode().partition(": ")
            headers[name] = value
        if path == "/hang":
            await reader.read()
        elif path == "/header":
            writer.write(b"HTTP/1.1 %d X\r\n\r\n" % (200 if headers.get("X-A") == "1" else 400))
        else:
            writer.write(f"HTTP/1.1 {path[1:]} X\r\nlocation: /elsewhere\r\n\r\nbody".encode())
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()


def target(port: int) -> probes.Target:
    return probes.Target("c1", "127.0.0.1", {"name": "c", "ports": [{"name": "web", "containerPort": port}]}, 0.0)


@pytest.mark.parametrize(
    ("path", "ok", "text"),
    [("/200", True, ""), ("/302", True, ""), ("/404", False, "HTTP probe failed with statuscode: 404"), ("/503", False, "statuscode: 503"), ("/hang", False, "context deadline exceeded")],
)
async def test_http(answering: int, path: str, ok: bool, text: str):
    got = await probes.try_once(probe(httpGet={"path": path, "port": "web"}, timeoutSeconds=1), target(answering), None)  # type: ignore[arg-type]
    assert got.ok is ok
    assert text in got.message


async def test_http_headers_are_sent(answering: int):
    said = {"path": "/header", "port": answering, "httpHeaders": [{"name": "X-A", "value": "1"}]}
    assert (await probes.try_once(probe(httpGet=said), target(answering), None)).ok  # type: ignore[arg-type]


async def test_tcp_and_what_cannot_be_reached(answering: int):
    assert (await probes.try_once(probe(tcpSocket={"port": answering}), target(answering), None)).ok  # type: ignore[arg-type]
    refused = await probes.try_once(probe(tcpSocket={"port": 1}), target(answering), None)  # type: ignore[arg-type]
    assert refused == Outcome(False, "dial tcp 127.0.0.1:1: connect: connection refused")
    unknown = await probes.try_once(probe(tcpSocket={"port": "nobody"}), target(answering), None)  # type: ignore[arg-type]
    assert "nobody" in unknown.message
    grpc = await probes.try_once(probe(grpc={"port": 1}), target(answering), None)  # type: ignore[arg-type]
    assert "grpc probes are not supported" in grpc.message


async def test_liveness_waits_for_startup_and_a_failure_is_told(answering: int):
    changed, unhealthy = asyncio.Event(), []
    prober = probes.Prober(None, lambda: 0.0, changed.set, lambda name, text: unhealthy.append((name, text)))  # type: ignore[arg-type]
    container = {"name": "c", "startupProbe": {"httpGet": {"path": "/200", "port": answering}}, "livenessProbe": {"httpGet": {"path": "/500", "port": answering}, "failureThreshold": 1}}
    prober.sync([probes.Target("c1", "127.0.0.1", container, 0.0)], {})
    assert prober.verdicts == {"c1": ProbeVerdict(started=False, ready=False)}
    async with asyncio.timeout(10):
        while not prober.verdicts["c1"].unhealthy:
            changed.clear()
            await changed.wait()
    assert prober.verdicts["c1"] == ProbeVerdict(unhealthy="liveness")
    assert unhealthy == [("c", "Liveness probe failed: HTTP probe failed with statuscode: 500")]
    prober.sync([], {})
    assert prober.verdicts == {}
