"""A host of its own for tests of agent/network and agent/services: the test's thread moves into a fresh network namespace, pods and outside machines are more of them."""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent.network import netns

_libc = ctypes.PyDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), what)


def new_netns() -> int:
    """An fd of a new namespace, which lives as long as somebody holds one."""
    found: list[int] = []

    def run() -> None:
        _check(_libc.unshare(netns.CLONE_NEWNET), "unshare")
        found.append(os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return found[0]


@contextlib.contextmanager
def host() -> Iterator[None]:
    """The calling thread (and what it spawns) is on a host with nothing but lo; its own sysctls, links, rules."""
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _check(_libc.unshare(netns.CLONE_NEWNET), "unshare")
        ip("link", "set", "lo", "up")
        yield
    finally:
        _check(_libc.setns(before, netns.CLONE_NEWNET), "setns")
        os.close(before)


def ip(*arguments: str) -> str:
    return subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True).stdout


def nft(text: str) -> str:
    return subprocess.run(["nft", "-f", "-"], input=text, check=True, capture_output=True, text=True).stdout


@dataclass
class Machine:
    """Somewhere that sockets are made: a pod, an outside client, or (netns_fd -1) the host itself."""

    netns_fd: int
    address: str
    _open: list[socket.socket] = field(default_factory=list)

    def do(self, function: Callable[[], Any]) -> Any:
        return function() if self.netns_fd < 0 else netns.call_in(self.netns_fd, function)

    def _socket(self, kind: int) -> socket.socket:
        made = self.do(lambda: socket.socket(socket.AF_INET, kind))
        self._open.append(made)
        made.settimeout(5)
        return made

    def serve(self, name: str, port: int = 80, address: str = "0.0.0.0") -> None:
        """TCP: answers every connection with `<name> <client address>`."""
        listener = self._socket(socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.settimeout(None)
        listener.bind((address, port))
        listener.listen(64)

        def run() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, peer = listener.accept()
                    with connection:
                        connection.sendall(f"{name} {peer[0]}".encode())

        threading.Thread(target=run, daemon=True).start()

    def serve_udp(self, name: str, port: int = 53) -> None:
        server = self._socket(socket.SOCK_DGRAM)
        server.settimeout(None)
        server.bind(("0.0.0.0", port))

        def run() -> None:
            with contextlib.suppress(OSError):
                while True:
                    _, peer = server.recvfrom(2048)
                    if peer is None:  # shut down
                        return
                    server.sendto(f"{name} {peer[0]}".encode(), peer)

        threading.Thread(target=run, daemon=True).start()

    def ask(self, address: str, port: int = 80) -> tuple[str, str]:
        """(who answered, whom it saw). Raises OSError."""
        with self._socket(socket.SOCK_STREAM) as client:
            client.connect((address, port))
            parts = b""
            while data := client.recv(200):
                parts += data
        name, peer = parts.decode().split()
        return name, peer

    def udp(self) -> socket.socket:
        return self._socket(socket.SOCK_DGRAM)

    def close(self) -> None:
        for each in self._open:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        if self.netns_fd >= 0:
            os.close(self.netns_fd)


def outside(name: str, host_address: str, address: str) -> Machine:
    """A machine on a link of its own with the host (/24); its default route is the host."""
    fd = new_netns()
    ip("link", "add", name, "type", "veth", "peer", "name", f"{name}p")
    ip("link", "set", f"{name}p", "netns", f"/proc/{os.getpid()}/fd/{fd}")
    ip("addr", "add", f"{host_address}/24", "dev", name)
    ip("link", "set", name, "up")

    def configure() -> None:
        ip("addr", "add", f"{address}/24", "dev", f"{name}p")
        ip("link", "set", f"{name}p", "up")
        ip("link", "set", "lo", "up")

    netns.call_in(fd, configure)
    return Machine(fd, address)


def sysctl(name: str) -> str:
    return Path("/proc/sys/net/ipv4", name).read_text().strip()
