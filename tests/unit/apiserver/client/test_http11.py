from __future__ import annotations

import asyncio

import pytest

from apiserver.api import errors
from apiserver.client.client import Client
from apiserver.client.config import ClientConfig
from apiserver.client.http11 import HttpTransport
from apiserver.client.requests import Request, ServerUnreachable, build
from tests.fakes.http import raw_server, read_request

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


async def test_many_requests_share_few_connections() -> None:
    connections = []

    async def handle(reader, writer):
        connections.append(writer)
        while True:
            await read_request(reader)
            writer.write(OK)

    async with raw_server(handle) as url:
        transport = HttpTransport(ClientConfig(url))
        for _ in range(20):
            assert (await transport.request(build("GET", "/x"), 5)).body == b"ok"
        assert len(connections) == 1
        answers = await asyncio.gather(*(transport.request(build("POST", "/x", body=b"{}"), 5) for _ in range(200)))
        assert {a.body for a in answers} == {b"ok"}
        assert len(connections) <= 64
        await transport.close()


async def test_the_request_on_the_wire() -> None:
    seen = []

    async def handle(reader, writer):
        seen.append(await read_request(reader))
        writer.write(OK)

    async with raw_server(handle) as url:
        transport = HttpTransport(ClientConfig(url + "/prefix", token="secret"))
        await transport.request(build("PATCH", "/a", query={"x": True, "y": None, "z": ["1", "2 3"]}, body=b'{"a":1}', content_type="application/merge-patch+json"), 5)
        await transport.close()
    head, _, body = seen[0].partition(b"\r\n\r\n")
    assert head.startswith(b"PATCH /prefix/a?x=true&z=1&z=2+3 HTTP/1.1\r\n")
    assert b"authorization: Bearer secret" in head and b"content-type: application/merge-patch+json" in head
    assert body == b'{"a":1}'


@pytest.mark.parametrize(("method", "times"), [("GET", 2), ("POST", 1)])
async def test_a_connection_closed_while_idle_is_retried_only_for_reads(method: str, times: int) -> None:
    """The server closes right after it received the second request on a kept-alive connection."""
    served = []

    async def handle(reader, writer):
        await read_request(reader)
        writer.write(OK)
        await read_request(reader)
        served.append("cut")

    async with raw_server(handle) as url:
        transport = HttpTransport(ClientConfig(url))
        await transport.request(build("GET", "/"), 5)
        if method == "GET":
            assert (await transport.request(build("GET", "/"), 5)).body == b"ok"
        else:
            with pytest.raises(ServerUnreachable) as e:
                await transport.request(build("POST", "/", body=b"{}"), 5)
            assert e.value.sent
        assert served == ["cut"]
        await transport.close()


async def test_refused_says_that_nothing_was_sent() -> None:
    async with raw_server(lambda r, w: asyncio.sleep(0)) as url:
        pass
    transport = HttpTransport(ClientConfig(url))
    with pytest.raises(ServerUnreachable, match=f"cannot reach {url}: connection refused") as e:
        await transport.request(build("POST", "/", body=b""), 5)
    assert not e.value.sent


async def test_a_stream_arrives_in_pieces_and_a_cut_one_raises() -> None:
    go = asyncio.Event()

    async def handle(reader, writer):
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n")
        await go.wait()
        writer.write(b"5\r\nd")

    async with raw_server(handle) as url:
        stream = await HttpTransport(ClientConfig(url)).stream(build("GET", "/"), 5)
        assert await stream.read() == b"abc"
        go.set()
        assert await stream.read() == b"d"
        with pytest.raises(ServerUnreachable):
            await stream.read()
        await stream.aclose()


async def test_a_fast_server_does_not_fill_the_memory_of_a_slow_reader() -> None:
    total = 64 << 20
    sent = 0

    async def handle(reader, writer):
        nonlocal sent
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % total)
        while sent < total:
            writer.write(bytes(1 << 20))
            await writer.drain()
            sent += 1 << 20

    async with raw_server(handle) as url:
        stream = await HttpTransport(ClientConfig(url)).stream(build("GET", "/"), 5)
        before = -1
        while sent != before:  # until the server can write no more
            before = sent
            await asyncio.sleep(0.2)
        assert sent < total
        got = 0
        while data := await stream.read():
            got += len(data)
        assert got == total
        await stream.aclose()


@pytest.mark.parametrize("answer", [b"garbage\r\n\r\n", b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n", b""])
async def test_an_answer_that_is_none(answer: bytes) -> None:
    async def handle(reader, writer):
        await read_request(reader)
        writer.write(answer)

    async with raw_server(handle) as url:
        with pytest.raises(ServerUnreachable):
            await HttpTransport(ClientConfig(url)).request(build("POST", "/", body=b""), 5)


async def test_a_silent_server_is_a_timeout_and_the_connection_is_not_used_again() -> None:
    seen = []

    async def handle(reader, writer):
        seen.append(await read_request(reader))
        await asyncio.sleep(60)

    async with raw_server(handle) as url:
        transport = HttpTransport(ClientConfig(url))
        for n in (1, 2):
            with pytest.raises(errors.Timeout, match="no answer"):
                await transport.request(Request("GET", "/"), 0.1)
            assert len(seen) == n
        assert not transport._idle
        await transport.close()


async def test_429_is_waited_out_and_other_refusals_are_raised() -> None:
    answers = [
        b"HTTP/1.1 429 Too Many Requests\r\nretry-after: 0\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}",
        b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\n\r\nbusy",
    ]

    async def handle(reader, writer):
        while True:
            await read_request(reader)
            writer.write(answers.pop(0))

    async with raw_server(handle) as url, Client(ClientConfig(url)) as client:
        assert (await client.request("POST", "/x", body={})).body == b"{}"
        with pytest.raises(errors.Unavailable, match="busy"):
            await client.request("POST", "/x", body={})
        assert answers == []
