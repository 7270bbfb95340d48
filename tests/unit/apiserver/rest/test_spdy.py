"""SPDY/3.1 against an encoder of the test's own, built from the draft and sharing nothing with the code; and against real kubectl."""

from __future__ import annotations

import asyncio
import json
import os
import pathlib
import random
import shutil
import struct
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apiserver.rest import spdy
from apiserver.rest.spdy import DataReceived, Send, SpdyError, SpdyServer, Status, StreamOpened, StreamReset, WindowOpened


class Client:
    """The other end, as simple as it can be."""

    def __init__(self) -> None:
        self._compress = zlib.compressobj(9, zdict=spdy.DICTIONARY)
        self._decompress = zlib.decompressobj(zdict=spdy.DICTIONARY)

    def control(self, kind: int, payload: bytes, flags: int = 0, version: int = 3) -> bytes:
        return bytes([0x80, version, 0, kind, flags]) + len(payload).to_bytes(3, "big") + payload

    def block(self, headers: dict[str, str]) -> bytes:
        raw = len(headers).to_bytes(4, "big")
        for name, value in headers.items():
            raw += len(name.encode()).to_bytes(4, "big") + name.encode() + len(value.encode()).to_bytes(4, "big") + value.encode()
        return self._compress.compress(raw) + self._compress.flush(zlib.Z_SYNC_FLUSH)

    def syn(self, stream: int, headers: dict[str, str], flags: int = 0) -> bytes:
        return self.control(1, stream.to_bytes(4, "big") + b"\0\0\0\0" + b"\0\0" + self.block(headers), flags)

    def data(self, stream: int, data: bytes, fin: bool = False) -> bytes:
        return stream.to_bytes(4, "big") + bytes([fin]) + len(data).to_bytes(3, "big") + data

    def window(self, stream: int, delta: int) -> bytes:
        return self.control(9, stream.to_bytes(4, "big") + delta.to_bytes(4, "big"))

    def parse(self, raw: bytes) -> list[tuple[Any, ...]]:
        """("data", stream, bytes, fin) or (kind, flags, payload) of whole frames; a reply's payload becomes (stream, headers)."""
        frames: list[tuple[Any, ...]] = []
        while raw:
            length = int.from_bytes(raw[5:8], "big")
            head, payload, raw = raw[:8], raw[8 : 8 + length], raw[8 + length :]
            assert len(payload) == length, "a frame was cut short"
            if not head[0] & 0x80:
                frames.append(("data", int.from_bytes(head[:4], "big"), payload, head[4] == 1))
                continue
            assert head[:2] == b"\x80\x03"
            kind = int.from_bytes(head[2:4], "big")
            if kind == 2:
                inflated, headers, at = self._decompress.decompress(payload[4:]), {}, 4
                for _ in range(int.from_bytes(inflated[:4], "big")):
                    texts = []
                    for _ in range(2):
                        size = int.from_bytes(inflated[at : at + 4], "big")
                        texts.append(inflated[at + 4 : at + 4 + size].decode())
                        at += 4 + size
                    headers[texts[0]] = texts[1]
                frames.append((kind, head[4], int.from_bytes(payload[:4], "big"), headers))
            else:
                frames.append((kind, head[4], payload))
        return frames


def opened(client: Client, server: SpdyServer, *streams: int) -> None:
    for stream in streams:
        [event] = server.receive(client.syn(stream, {"streamtype": "x"}))
        assert isinstance(event, StreamOpened)


def test_the_dictionary_is_the_protocols() -> None:
    """Its Adler-32 stands in the first bytes of every SPDY/3 header block."""
    assert len(spdy.DICTIONARY) == 1423
    assert zlib.adler32(spdy.DICTIONARY) == 0xE3C6A7C2


def test_streams_as_exec_opens_them() -> None:
    client, server = Client(), SpdyServer()
    for stream, kind in ((1, "error"), (3, "stdin"), (5, "stdout")):
        assert server.receive(client.syn(stream, {"streamtype": kind, "X-Two": "a\0b"})) == [StreamOpened(stream, {"streamtype": kind, "x-two": "a\0b"}, False)]
        assert client.parse(server.reply(stream, {"Some": "thing"})) == [(2, 0, stream, {"some": "thing"})]
    assert server.receive(client.data(3, b"hello") + client.data(3, b"", fin=True)) == [DataReceived(3, b"hello", False), DataReceived(3, b"", True)]
    assert client.parse(server.send_data(5, b"out")) == [("data", 5, b"out", False)]
    assert client.parse(server.send_data(5, b"", fin=True)) == [("data", 5, b"", True)]
    assert client.parse(server.send_data(1, b'{"status":"Success"}', fin=True)) == [("data", 1, b'{"status":"Success"}', True)]
    with pytest.raises(ValueError, match="stream 5 is not open"):
        server.send_data(5, b"more")


@given(st.lists(st.sampled_from(["data", "big", "ping", "syn", "settings", "unknown"]), max_size=12), st.integers(0, 2**32))
def test_any_cutting_of_the_bytes_means_the_same(kinds: list[str], seed: int) -> None:
    rng, client = random.Random(seed), Client()
    raw, stream = client.syn(1, {"a": "b"}), 1
    for kind in kinds:
        match kind:
            case "data":
                raw += client.data(stream, rng.randbytes(rng.randrange(20)))
            case "big":
                raw += client.data(1, rng.randbytes(5000))
            case "ping":
                raw += client.control(6, struct.pack(">I", rng.randrange(0, 1000)))
            case "syn":
                stream += 2
                raw += client.syn(stream, {"n": str(stream), "same": "again"})
            case "settings":
                raw += client.control(4, struct.pack(">III", 1, 4, 100))
            case "unknown":
                raw += client.control(200, b"whatever")
    whole, pieces = SpdyServer().receive(raw), []
    server = SpdyServer()
    while raw:
        size = rng.choice([1, 2, 7, 100, 4000])
        pieces += server.receive(raw[:size])
        raw = raw[size:]
    assert _joined(pieces) == _joined(whole)


def _joined(events: list[Any]) -> list[Any]:
    """Data in pieces is as good as whole."""
    result: list[Any] = []
    for event in events:
        last = result[-1] if result else None
        if isinstance(event, DataReceived) and isinstance(last, DataReceived) and event.stream == last.stream and not last.fin:
            result[-1] = DataReceived(event.stream, last.data + event.data, event.fin)
        elif not (isinstance(event, DataReceived) and not event.data and not event.fin):
            result.append(event)
    return result


def test_data_is_handed_on_before_its_frame_is_complete() -> None:
    client, server = Client(), SpdyServer()
    opened(client, server, 1)
    raw = client.data(1, b"x" * 1000, fin=True)
    assert server.receive(raw[:108]) == [DataReceived(1, b"x" * 100, False)]
    assert server.receive(raw[108:]) == [DataReceived(1, b"x" * 900, True)]


def test_ping_is_answered_and_an_answer_is_not() -> None:
    client, server = Client(), SpdyServer()
    ping = client.control(6, b"\0\0\0\x07")
    assert server.receive(ping) == [Send(ping)]
    assert server.receive(client.control(6, b"\0\0\0\x08")) == []


def test_without_window_updates_sending_is_not_held_up() -> None:
    """As with kubectl, which never sends any."""
    client, server = Client(), SpdyServer()
    opened(client, server, 1)
    content = random.Random(1).randbytes(300_000)
    frames = client.parse(server.send_data(1, content, fin=True))
    assert b"".join(frame[2] for frame in frames) == content
    assert [frame[3] for frame in frames] == [False] * (len(frames) - 1) + [True]


def test_windows_are_kept_once_the_client_keeps_them() -> None:
    client, server = Client(), SpdyServer()
    opened(client, server, 1, 3)
    assert server.receive(client.window(1, 1000)) == []
    sent = b"".join(frame[2] for frame in client.parse(server.send_data(1, b"a" * 100_000, fin=True)))
    assert len(sent) == 65_536  # the session's window is the narrower
    assert server.pending(1) == 100_000 - 65_536
    assert server.send_data(3, b"b" * 10) == b""
    events = server.receive(client.window(0, 50_000))
    sends = [event for event in events if isinstance(event, Send)]
    frames = client.parse(b"".join(event.data for event in sends))
    assert sum(len(frame[2]) for frame in frames if frame[1] == 1) == 1000
    assert [frame[2] for frame in frames if frame[1] == 3] == [b"b" * 10]
    assert WindowOpened(1) in events and WindowOpened(3) in events
    events = server.receive(client.window(1, 1_000_000))
    assert sum(len(frame[2]) for frame in client.parse(events[0].data)) == 100_000 - 66_536
    assert client.parse(events[0].data)[-1][3], "the queued end of the stream was forgotten"
    assert server.pending(1) == 0


def test_a_smaller_initial_window_counts_for_open_streams_too() -> None:
    client, server = Client(), SpdyServer()
    opened(client, server, 1)
    assert server.receive(client.control(4, struct.pack(">III", 1, 7, 100))) == []
    assert [len(frame[2]) for frame in client.parse(server.send_data(1, b"a" * 500))] == [100]
    events = server.receive(client.control(4, struct.pack(">III", 1, 7, 350)))
    assert [len(frame[2]) for frame in client.parse(events[0].data)] == [250]


def test_consumed_data_opens_the_clients_windows() -> None:
    client, server = Client(), SpdyServer()
    opened(client, server, 1)
    assert server.consumed(1, 1000) == b""
    updates = client.parse(server.consumed(1, 40_000))
    assert [(kind, struct.unpack(">II", payload)) for kind, _, payload in updates] == [(9, (0, 41_000)), (9, (1, 41_000))]
    server.receive(client.data(1, b"", fin=True))
    assert [struct.unpack(">II", payload) for _, _, payload in client.parse(server.consumed(1, 40_000))] == [(0, 40_000)]


def test_resets() -> None:
    client, server = Client(), SpdyServer()
    opened(client, server, 1, 3)
    assert server.receive(client.control(3, struct.pack(">II", 1, 5))) == [StreamReset(1, 5)]
    assert server.receive(client.control(3, struct.pack(">II", 1, 5))) == []
    assert client.parse(server.reset(3, Status.REFUSED_STREAM)) == [(3, 0, struct.pack(">II", 3, 3))]
    assert server.reset(3) == b""
    assert server.receive(client.data(3, b"was under way")) == []
    [event] = server.receive(client.data(7, b"nobody opened this"))
    assert client.parse(event.data) == [(3, 0, struct.pack(">II", 7, Status.INVALID_STREAM))]
    opened(client, server, 9)
    server.receive(client.data(9, b"", fin=True))
    events = server.receive(client.data(9, b"after its end"))
    assert client.parse(events[0].data) == [(3, 0, struct.pack(">II", 9, Status.STREAM_ALREADY_CLOSED))]
    assert events[1] == StreamReset(9, Status.STREAM_ALREADY_CLOSED)


def test_too_many_streams_are_refused_and_the_compression_stays_in_step() -> None:
    client, server = Client(), SpdyServer(max_streams=2)
    opened(client, server, 1, 3)
    [event] = server.receive(client.syn(5, {"streamtype": "refused"}))
    assert client.parse(event.data) == [(3, 0, struct.pack(">II", 5, Status.REFUSED_STREAM))]
    server.reset(1)
    assert server.receive(client.syn(7, {"streamtype": "accepted"})) == [StreamOpened(7, {"streamtype": "accepted"}, False)]


def test_unidirectional_and_finished_streams() -> None:
    client, server = Client(), SpdyServer()
    assert server.receive(client.syn(1, {}, flags=2)) == [StreamOpened(1, {}, False)]
    with pytest.raises(ValueError, match="not open"):
        server.reply(1)
    assert server.receive(client.syn(3, {}, flags=1)) == [StreamOpened(3, {}, True)]
    assert client.parse(server.reply(3, fin=True)) == [(2, 1, 3, {})]
    assert server._streams.keys() == {1}
    server.receive(client.data(1, b"", fin=True))
    assert server._streams == {}


def _bomb(client: Client) -> bytes:
    return client.syn(1, {"a": "x" * 3_000_000})


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (lambda c: c.control(1, b"", version=2), "SPDY version 2, want 3"),
        (lambda c: b"GET / HTTP/1.1\r\n\r\n" * 10, "INVALID"),
        (lambda c: c.control(1, b"\0\0\0\1"), "too short"),
        (lambda c: c.control(3, b"\0"), "too short"),
        (lambda c: c.control(4, struct.pack(">I", 1000)), "too short"),
        (lambda c: c.control(1, b"\0\0\0\1" + bytes(6) + b"not zlib"), "header block"),
        (lambda c: c.syn(2, {}), "client opened stream 2 after 0"),
        (lambda c: c.syn(3, {}) + c.syn(3, {}), "client opened stream 3 after 3"),
        (lambda c: c.syn(3, {}) + c.syn(1, {}), "client opened stream 1 after 3"),
        (_bomb, "header block larger than"),
        (lambda c: c.data(0, b"x"), "data frame on stream 0"),
        (lambda c: c.window(0, 0), "window update of 0 bytes"),
        (lambda c: c.window(0, 2**31 - 1), "window update of"),
        (lambda c: c.control(4, struct.pack(">III", 1, 7, 2**31)), "initial window"),
        (lambda c: bytes.fromhex("8003000100") + (1 << 20).to_bytes(3, "big"), "control frame of 1048576 bytes"),
    ],
)
def test_what_breaks_the_protocol_ends_the_connection(raw: Any, message: str) -> None:
    client, server = Client(), SpdyServer()
    if message == "INVALID":  # the bytes of another protocol look like a data frame of a stream that nobody opened
        [event, *_] = server.receive(raw(client))
        assert client.parse(event.data)[0][0] == 3
        return
    with pytest.raises(SpdyError, match=message) as caught:
        server.receive(raw(client))
    assert client.parse(caught.value.goaway)[0][0] == 7


@given(st.binary(max_size=200), st.booleans())
def test_noise_raises_nothing_else(noise: bytes, framed: bool) -> None:
    server = SpdyServer()
    if framed and noise:
        noise = bytes([0x80, 3, 0, noise[0] % 12, noise[-1]]) + len(noise).to_bytes(3, "big") + noise
    try:
        server.receive(noise)
    except SpdyError:
        pass


# real kubectl


def _kubectl() -> str:
    found = shutil.which("kubectl")
    directory = os.environ.get("KUBECTL_DIR") or (os.path.dirname(os.path.realpath(found)) if found else "")
    path = os.path.join(directory, "kubectl.1.27")
    if not directory or not os.path.exists(path):
        if os.environ.get("CI"):
            pytest.fail(f"kubectl.1.27 is not in {directory or 'PATH'}: set KUBECTL_DIR")
        pytest.skip("kubectl.1.27 is not installed: set KUBECTL_DIR to where it is")
    return path


POD = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "default"}, "spec": {"containers": [{"name": "c"}]}, "status": {"phase": "Running"}}
GROUP = {"kind": "APIResourceList", "groupVersion": "v1", "resources": [{"name": "pods", "singularName": "", "namespaced": True, "kind": "Pod", "verbs": ["get"]}]}
DOCUMENTS = {
    "/api": {"kind": "APIVersions", "versions": ["v1"]},
    "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": []},
    "/api/v1": GROUP,
    "/api/v1/namespaces/default/pods/p": POD,
}


async def _serve_exec(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Enough of an API server for kubectl exec: what comes on stdin goes out, doubled, on stdout; its length on stderr; the exit code is 3."""
    while True:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
        except asyncio.IncompleteReadError:
            writer.close()
            return
        path = head.split(" ", 2)[1].partition("?")[0]
        if path.endswith("/exec"):
            break
        body = json.dumps(DOCUMENTS.get(path, {})).encode()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    writer.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v4.channel.k8s.io\r\n\r\n")
    server, streams, received = SpdyServer(), {}, b""
    while True:
        for event in server.receive(await reader.read(65536)):
            match event:
                case Send(data):
                    writer.write(data)
                case StreamOpened(stream, headers):
                    streams[headers["streamtype"]] = stream
                    writer.write(server.reply(stream))
                case DataReceived(stream, data, fin) if stream == streams.get("stdin"):
                    received += data
                    writer.write(server.consumed(stream, len(data)))
                    if fin:
                        writer.write(server.send_data(streams["stdout"], received * 2, fin=True))
                        writer.write(server.send_data(streams["stderr"], b"%d\n" % len(received), fin=True))
                        details = {"causes": [{"reason": "ExitCode", "message": "3"}]}
                        status = {"metadata": {}, "status": "Failure", "reason": "NonZeroExitCode", "message": "command terminated with exit code 3", "details": details}
                        writer.write(server.send_data(streams["error"], json.dumps(status).encode(), fin=True))
        await writer.drain()
        if reader.at_eof():
            writer.close()
            return


async def test_kubectl_exec(tmp_path: pathlib.Path) -> None:
    """Far more than a window in both directions, byte for byte."""
    kubectl = _kubectl()
    listener = await asyncio.start_server(_serve_exec, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    content = random.Random(7).randbytes(700_000)
    command = [kubectl, "--server", url, "--kubeconfig", "/dev/null", "--cache-dir", str(tmp_path), "exec", "-i", "p", "--", "double"]
    process = await asyncio.create_subprocess_exec(*command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE)
    try:
        async with asyncio.timeout(60):
            out, err = await process.communicate(content)
    finally:
        if process.returncode is None:
            process.kill()
        listener.close()
    assert (out == content * 2, err, process.returncode) == (True, b"700000\ncommand terminated with exit code 3\n", 3)
