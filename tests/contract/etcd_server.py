"""A real etcd on loopback, in a directory of its own, on ports the kernel chose; and a TCP proxy to put before it, whose connections tests cut. For tests only."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
import shutil
import socket
import subprocess
import time


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for sock in sockets:
            sock.bind(("127.0.0.1", 0))
        return [sock.getsockname()[1] for sock in sockets]


class EtcdServer:
    """`start()` returns when it answers; `kill()` is SIGKILL; start() again goes on with the same data and ports."""

    def __init__(self, directory: pathlib.Path, *extra: str, scheme: str = "http", ports: list[int] | None = None) -> None:
        binary = shutil.which("etcd")
        if binary is None:
            raise RuntimeError("etcd is not installed (Debian: etcd-server)")
        self._directory = directory
        self.port, self.peer_port = ports or free_ports(2)
        self.endpoint = f"{scheme}://127.0.0.1:{self.port}"
        client, peer = self.endpoint, f"http://127.0.0.1:{self.peer_port}"
        self._command = [
            binary, "--name", directory.name, "--data-dir", str(directory / "data"), "--listen-client-urls", client, "--advertise-client-urls", client,
            "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--logger", "zap", "--log-outputs", "stderr", "--unsafe-no-fsync", "--heartbeat-interval", "50", "--election-timeout", "500", *extra,
        ]  # fmt: skip
        if "--initial-cluster" not in extra:
            self._command += ["--initial-cluster", f"{directory.name}={peer}"]
        self._process: subprocess.Popen[bytes] | None = None

    def spawn(self) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        with open(self._directory / "log", "ab") as log:
            environment = {name: value for name, value in os.environ.items() if not name.startswith("ETCD_")}
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log, env=environment)

    def start(self) -> None:
        self.spawn()
        self.wait_ready()

    def wait_ready(self, deadline_s: float = 30) -> None:
        end = time.monotonic() + deadline_s
        while time.monotonic() < end:
            assert self._process is not None
            if self._process.poll() is not None:
                break
            if b"serving client traffic" in (self._directory / "log").read_bytes():
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                    return
            time.sleep(0.02)
        raise RuntimeError(f"etcd did not start:\n{(self._directory / 'log').read_text()[-2000:]}")

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
            (self._directory / "log").write_bytes(b"")


class Proxy:
    """Forwards TCP to `port`. cut() resets every connection in the middle of whatever it carries; with `refuse` set new ones are closed at once."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.refuse = False
        self.accepted = 0
        self.port = 0

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refuse:
            writer.close()
            return
        self.accepted += 1
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._target)
        self._writers |= {writer, up_writer}
        pumps = [asyncio.create_task(self._pump(reader, up_writer)), asyncio.create_task(self._pump(up_reader, writer))]
        self._tasks |= set(pumps)
        await asyncio.wait(pumps)
        self._tasks -= set(pumps)
        self._writers -= {writer, up_writer}

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(16384):
                writer.write(data)
                await writer.drain()
        writer.close()

    def cut(self) -> int:
        """Returns how many connections were cut."""
        count = len(self._writers) // 2
        for writer in self._writers:
            writer.transport.abort()
        return count

    async def stop(self) -> None:
        self._server.close()
        self.cut()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
