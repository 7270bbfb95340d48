"""exec, attach and port-forward over WebSocket channels (v4/v5.channel.k8s.io: 0 stdin, 1 stdout, 2 stderr, 3 error Status, 4 resize, 255 close). Called by server."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import os
import socket
import struct
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from agent import logs
from agent.runtime import cri

STDIN, STDOUT, STDERR, ERROR, RESIZE, CLOSE = 0, 1, 2, 3, 4, 255
PROTOCOLS = ("v5.channel.k8s.io", "v4.channel.k8s.io")
PORT_FORWARD_HALF_CLOSE = "half-close.portforward.minik"  # ours, spoken by the API server: as v4, but each direction ends by itself, with `255 <channel>`
PORT_FORWARD_PROTOCOLS = (PORT_FORWARD_HALF_CLOSE, "v4.channel.k8s.io", "portforward.k8s.io")
CHUNK = 32 * 1024
CLONE_NEWNET = 0x40000000

Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Wants:
    """Which streams the client asked for."""

    stdin: bool
    stdout: bool
    stderr: bool
    tty: bool

    @property
    def first_channel(self) -> int:
        return STDOUT if self.stdout else STDERR if self.stderr else ERROR


def success() -> dict[str, Any]:
    return {"metadata": {}, "status": "Success"}


def exit_status(code: int) -> dict[str, Any]:
    """The Status of the error channel: Success, or NonZeroExitCode with its ExitCode cause (as kubelet's remotecommand sends it)."""
    if code == 0:
        return success()
    return {
        "metadata": {}, "status": "Failure", "message": f"command terminated with non-zero exit code: exit status {code}", "reason": "NonZeroExitCode",
        "details": {"causes": [{"reason": "ExitCode", "message": str(code)}]},
    }  # fmt: skip


def failure(message: str) -> dict[str, Any]:
    return {"metadata": {}, "status": "Failure", "message": message, "reason": "InternalError", "code": 500}


class Channels:
    """One WebSocket as numbered channels."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive, self._send = receive, send
        self._lock = asyncio.Lock()
        self._gone = False

    async def send(self, channel: int, data: bytes) -> None:
        """Raises ConnectionError when the client is gone."""
        async with self._lock:
            if self._gone:
                raise ConnectionResetError("the client is gone")
            try:
                await self._send({"type": "websocket.send", "bytes": bytes((channel,)) + data})
            except Exception as e:
                self._gone = True
                raise ConnectionResetError(f"the client is gone: {e}") from e

    async def receive(self) -> tuple[int, bytes] | None:
        """The next frame; None once the client has closed."""
        while True:
            message = await self._receive()
            if message["type"] == "websocket.disconnect":
                self._gone = True
                return None
            data = message.get("bytes") or (message.get("text") or "").encode()
            if data:
                return data[0], bytes(data[1:])

    async def finish(self, status: Mapping[str, Any]) -> None:
        with contextlib.suppress(ConnectionError):
            await self.send(ERROR, orjson.dumps(status))
        await self.close()

    async def close(self) -> None:
        if not self._gone:
            with contextlib.suppress(Exception):
                await self._send({"type": "websocket.close", "code": 1000})


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


async def readable(fd: int) -> None:
    """Until the fd can be read."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_reader(fd, _resolve, ready)
    try:
        await ready
    finally:
        loop.remove_reader(fd)


async def write_all(fd: int, data: bytes) -> None:
    """Raises OSError (EPIPE: nobody reads)."""
    loop = asyncio.get_running_loop()
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:
            ready: asyncio.Future[None] = loop.create_future()
            loop.add_writer(fd, _resolve, ready)
            try:
                await ready
            finally:
                loop.remove_writer(fd)


async def _pump_out(fd: int, channel: int, channels: Channels) -> None:
    """Everything that comes out of the fd. A terminal ends with EIO. Without a client what comes is thrown away, so that nobody blocks."""
    gone = False
    os.set_blocking(fd, False)
    while True:
        await readable(fd)
        try:
            data = os.read(fd, CHUNK)
        except BlockingIOError:
            continue
        except OSError:
            return
        if not data:
            return
        if not gone:
            try:
                await channels.send(channel, data)
            except ConnectionError:
                gone = True


class _Input:
    """The client's frames: stdin bytes, sizes, the end of stdin."""

    def __init__(self, channels: Channels, stdin_fd: int | None, resize: Callable[[int, int], Any], owns: bool = True) -> None:
        self._channels, self._fd, self._resize, self._owns = channels, stdin_fd, resize, owns

    def close_stdin(self) -> None:
        if self._fd is not None and self._owns:
            os.close(self._fd)
        self._fd = None

    async def run(self) -> None:
        """Returns when the client has closed."""
        if self._fd is not None:
            os.set_blocking(self._fd, False)
        while (frame := await self._channels.receive()) is not None:
            channel, data = frame
            if channel == STDIN and self._fd is not None:
                try:
                    await write_all(self._fd, data)
                except OSError:
                    self.close_stdin()
            elif channel == RESIZE:
                with contextlib.suppress(ValueError, KeyError, TypeError, OSError):
                    size = orjson.loads(data)
                    result = self._resize(int(size["Height"]), int(size["Width"]))
                    if result is not None:
                        await result
            elif channel == CLOSE and data[:1] == bytes((STDIN,)):
                self.close_stdin()
        self.close_stdin()


async def run_exec(runtime: cri.RuntimeService, container_id: str, command: Sequence[str], wants: Wants, channels: Channels) -> None:
    """A command in a running container, its streams over the channels, its exit code last."""
    try:
        session = await runtime.exec(container_id, command, tty=wants.tty, stdin=wants.stdin, stdout=wants.stdout, stderr=wants.stderr and not wants.tty)
    except (OSError, KeyError) as e:
        await channels.finish(_exec_failure(command, e))
        return
    await channels.send(wants.first_channel, b"")
    if wants.tty:
        assert session.pty_fd is not None
        outputs, stdin_fd, owns = [(session.pty_fd, STDOUT)], session.pty_fd if wants.stdin else None, False
    else:
        outputs = [(fd, channel) for fd, channel in ((session.stdout_fd, STDOUT), (session.stderr_fd, STDERR)) if fd is not None]
        stdin_fd, owns = session.stdin_fd, True
    frames = _Input(channels, stdin_fd, session.resize, owns)
    incoming = asyncio.create_task(frames.run())
    pumps = [asyncio.create_task(_pump_out(fd, channel, channels)) for fd, channel in outputs]
    waiter = asyncio.create_task(session.wait())
    try:
        await asyncio.wait([waiter, incoming], return_when=asyncio.FIRST_COMPLETED)
        if not waiter.done() and wants.tty:  # the client hung up: its terminal goes, and with it what runs there
            await session.kill(1)
        result = await waiter
        # a background child may hold the pipes open: what the command itself wrote is there already
        await asyncio.wait(pumps, timeout=0.5)
        await channels.finish(exit_status(result.exit_code))
    finally:
        for task in (incoming, waiter, *pumps):
            task.cancel()
        await asyncio.gather(incoming, waiter, *pumps, return_exceptions=True)
        frames.close_stdin()
        for fd, _ in outputs:
            os.close(fd)


def _exec_failure(command: Sequence[str], error: Exception) -> dict[str, Any]:
    """Nothing ran, so there is no exit code: an error, in the words that runc's users know where it is the command's fault."""
    name = command[0] if command else ""
    if isinstance(error, cri.StartError) and error.errno == errno.ENOENT:
        why = f'exec: "{name}": {"no such file or directory" if "/" in name else "executable file not found in $PATH"}'
    elif isinstance(error, cri.StartError) and error.errno:
        why = f'exec: "{name}": {os.strerror(error.errno).lower()}'
    else:
        why = str(error)
    return failure(f"error executing command in container: {why}")


async def run_attach(runtime: cri.RuntimeService, status: cri.ContainerStatus, log_path: str, wants: Wants, channels: Channels) -> None:
    """What the container writes from now on (read from its log) and, where it has a stdin, what it is to read."""
    stdin_fd = await runtime.open_stdin(status.id) if wants.stdin else None
    await channels.send(wants.first_channel, b"")
    frames = _Input(channels, stdin_fd, lambda rows, columns: runtime.resize_terminal(status.id, rows, columns))
    alive = True

    async def follow(stream: str, channel: int) -> None:
        options = logs.Options(follow=True, tail=0, stream=stream)
        async for data in logs.LogReader(log_path).read(options, lambda: alive):
            await channels.send(channel, data)

    # the pumps first: each stands at the log's end before any input can make the container write
    pumps = [asyncio.create_task(follow(s, c)) for s, c, wanted in (("stdout", STDOUT, wants.stdout), ("stderr", STDERR, wants.stderr and not wants.tty)) if wanted]
    incoming = asyncio.create_task(frames.run())
    ended = asyncio.create_task(_until_exit(runtime, status.id))
    try:
        await asyncio.wait([ended, incoming], return_when=asyncio.FIRST_COMPLETED)
        if ended.done():
            alive = False
            await asyncio.wait(pumps, timeout=2) if pumps else None
            await channels.finish(success())  # as CRI's Attach, which knows no exit code: clients ask the pod's status
    finally:
        for task in (incoming, ended, *pumps):
            task.cancel()
        await asyncio.gather(incoming, ended, *pumps, return_exceptions=True)
        frames.close_stdin()


async def _until_exit(runtime: cri.RuntimeService, container_id: str) -> int:
    while True:
        try:
            status = await runtime.container_status(container_id)
        except cri.NotFoundError:
            return 137
        if status.state == "exited":
            return status.exit_code
        await asyncio.sleep(0.1)


async def run_port_forward(netns: int | None, ports: Sequence[int], channels: Channels, *, half_close: bool = False) -> None:
    """Channel 2i carries port i's bytes, 2i+1 its error; each begins with the port, two bytes, little-endian (kubelet's WebSocket port-forward). `netns` None: the host's.
    Ends with the client, or when every port's connection has ended (with `half_close`, in both directions)."""
    links: dict[int, socket.socket] = {}
    pumps: list[asyncio.Task[None]] = []
    incoming = over = None
    try:
        for i, port in enumerate(ports):
            for channel in (2 * i, 2 * i + 1):
                await channels.send(channel, struct.pack("<H", port))
            try:
                links[2 * i] = await connect_in(netns, port)
            except OSError as e:
                text = f"failed to connect to localhost:{port} inside namespace: {os.strerror(e.errno) if e.errno else e}"
                await channels.send(2 * i + 1, text.encode())
                continue
            pumps.append(asyncio.create_task(_pump_socket(links[2 * i], 2 * i, channels, half_close)))
        sent_all = asyncio.Event()
        if not half_close or not links:
            sent_all.set()
        incoming = asyncio.create_task(_pump_frames(links, channels, sent_all))
        over = asyncio.create_task(_both_ends(pumps, sent_all))
        await asyncio.wait([over, incoming], return_when=asyncio.FIRST_COMPLETED)
        await channels.close()
    except ConnectionError:
        pass
    finally:
        tasks = [*pumps, *(task for task in (incoming, over) if task is not None)]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for link in links.values():
            link.close()


async def _both_ends(pumps: Sequence[asyncio.Task[None]], sent_all: asyncio.Event) -> None:
    await asyncio.gather(*pumps)
    await sent_all.wait()


async def _pump_frames(links: Mapping[int, socket.socket], channels: Channels, sent_all: asyncio.Event) -> None:
    """The client's bytes to their sockets, until it closes; `sent_all` once it has ended every channel."""
    loop = asyncio.get_running_loop()
    open_channels = set(links)
    while (frame := await channels.receive()) is not None:
        channel, data = frame
        with contextlib.suppress(OSError):
            if channel == CLOSE and data and data[0] in open_channels:
                open_channels.discard(data[0])
                if not open_channels:
                    sent_all.set()
                links[data[0]].shutdown(socket.SHUT_WR)
            elif channel in open_channels:
                await loop.sock_sendall(links[channel], data)


async def _pump_socket(link: socket.socket, channel: int, channels: Channels, half_close: bool) -> None:
    loop = asyncio.get_running_loop()
    with contextlib.suppress(OSError):
        while data := await loop.sock_recv(link, CHUNK):
            await channels.send(channel, data)
    if half_close:
        with contextlib.suppress(ConnectionError):
            await channels.send(CLOSE, bytes((channel,)))


async def connect_in(netns: int | None, port: int) -> socket.socket:
    """A TCP connection to the loopback of a network namespace. Raises OSError."""
    link = socket.socket(socket.AF_INET, socket.SOCK_STREAM) if netns is None else await _socket_in(netns)
    link.setblocking(False)
    try:
        await asyncio.wait_for(asyncio.get_running_loop().sock_connect(link, ("127.0.0.1", port)), 5)
    except BaseException:
        link.close()
        raise
    return link


async def _socket_in(netns: int) -> socket.socket:
    """A socket belongs to the namespace of the thread that made it: a thread of its own joins, makes it and ends (setns(2))."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[socket.socket] = loop.create_future()

    def give(result: socket.socket | OSError) -> None:
        if isinstance(result, OSError):
            done.set_exception(result)
        else:
            done.set_result(result)

    def make() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        result: socket.socket | OSError
        if libc.setns(netns, CLONE_NEWNET) < 0:
            code = ctypes.get_errno()
            result = OSError(code, f"setns: {os.strerror(code)}")
        else:
            try:
                result = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            except OSError as e:
                result = e
        loop.call_soon_threadsafe(give, result)

    threading.Thread(target=make, name="netns", daemon=True).start()
    return await done
