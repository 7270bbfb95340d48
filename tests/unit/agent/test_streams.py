"""Port-forward over WebSocket channels, against real TCP servers on loopback."""

import asyncio
import contextlib
import struct

import pytest

from agent import streams

DEADLINE_S = 20


class Client:
    """The API server's side of the WebSocket."""

    def __init__(self):
        self.frames, self.sent = asyncio.Queue(), asyncio.Queue()
        self.channels = streams.Channels(self.frames.get, self.sent.put)

    def say(self, channel, data):
        self.frames.put_nowait({"type": "websocket.receive", "bytes": bytes((channel,)) + data})

    async def hear(self):
        message = await self.sent.get()
        return message["bytes"] if message["type"] == "websocket.send" else message["type"]

    async def hear_all(self):
        heard = []
        while (frame := await self.hear()) != "websocket.close":
            heard.append(frame)
        return heard


@contextlib.asynccontextmanager
async def serving(handle):
    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def answer_at_the_end(reader, writer):
    """Says how much it read, once there is no more: needs a half-close."""
    text = await reader.read()
    writer.write(b"%d bytes" % len(text))
    await writer.drain()
    writer.close()


async def greet_and_close(reader, writer):
    writer.write(b"bye")
    await writer.drain()
    writer.close()


async def test_each_direction_ends_by_itself():
    async with asyncio.timeout(DEADLINE_S), serving(answer_at_the_end) as port:
        client = Client()
        client.say(0, b"x" * 1000)
        client.say(streams.CLOSE, b"\0")
        await streams.run_port_forward(None, [port], client.channels, half_close=True)
        heard = await client.hear_all()
    begin = struct.pack("<H", port)
    assert heard == [b"\0" + begin, b"\1" + begin, b"\0" + b"1000 bytes", bytes((streams.CLOSE, 0))]


@pytest.mark.parametrize("half_close", [False, True])
async def test_the_servers_end_is_told(half_close):
    """The older protocol has no end of one direction: the WebSocket closes. Ours says it and waits for the client's."""
    async with asyncio.timeout(DEADLINE_S), serving(greet_and_close) as port:
        client = Client()
        if half_close:
            client.say(streams.CLOSE, b"\0")
        await streams.run_port_forward(None, [port], client.channels, half_close=half_close)
        heard = await client.hear_all()
    assert heard[2] == b"\0bye"
    assert heard[3:] == ([bytes((streams.CLOSE, 0))] if half_close else [])


async def test_nobody_listens():
    async with asyncio.timeout(DEADLINE_S):
        async with serving(greet_and_close) as port:
            pass
        client = Client()
        await streams.run_port_forward(None, [port], client.channels, half_close=True)
        heard = await client.hear_all()
    assert heard[2] == b"\1" + f"failed to connect to localhost:{port} inside namespace: Connection refused".encode()


async def test_a_client_that_leaves_ends_it():
    left = asyncio.Event()

    async def wait(reader, writer):
        await reader.read()
        left.set()
        writer.close()

    async with asyncio.timeout(DEADLINE_S), serving(wait) as port:
        client = Client()
        client.frames.put_nowait({"type": "websocket.disconnect"})
        await streams.run_port_forward(None, [port], client.channels, half_close=True)
        await left.wait()
