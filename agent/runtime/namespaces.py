"""Namespaces as descriptors: made ahead of need, handed out ready (loopback up, sysctls set), without any process that lives in them (namespaces(7): an open nsfs file keeps
one). Single-threaded: the zygote steps into a new namespace and back. Standard library only.
"""

from __future__ import annotations

import collections
import fcntl
import os
import socket
import struct

from agent.runtime import syscalls

_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1
_KINDS = (("net", syscalls.CLONE_NEWNET), ("ipc", syscalls.CLONE_NEWIPC), ("uts", syscalls.CLONE_NEWUTS))
# What containerd sets for every pod: any user may bind low ports and send pings, inside the pod's own network.
_SYSCTLS = (("/proc/sys/net/ipv4/ip_unprivileged_port_start", b"0"), ("/proc/sys/net/ipv4/ping_group_range", b"0 2147483647"))

PodNamespaces = collections.namedtuple("PodNamespaces", "net ipc uts")


def open_own() -> PodNamespaces:
    return PodNamespaces(*(os.open(f"/proc/self/ns/{name}", os.O_RDONLY | os.O_CLOEXEC) for name, _ in _KINDS))


def _loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as s:
        request = struct.pack("16sH14x", b"lo", 0)
        flags = struct.unpack("16sH14x", fcntl.ioctl(s, _SIOCGIFFLAGS, request))[1]
        fcntl.ioctl(s, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", flags | _IFF_UP))


class Pool:
    """`size` sets of net, ipc and uts namespaces kept ready."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.own = open_own()
        self.own_pid = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        self._ready: collections.deque[PodNamespaces] = collections.deque()

    def refill(self) -> bool:
        """Makes one set; True while more are wanted."""
        if len(self._ready) < self.size:
            self._ready.append(self.make())
        return len(self._ready) < self.size

    def make(self) -> PodNamespaces:
        """Raises OSError."""
        syscalls.unshare(syscalls.CLONE_NEWNET | syscalls.CLONE_NEWIPC | syscalls.CLONE_NEWUTS)
        try:
            _loopback_up()
            for path, value in _SYSCTLS:
                try:
                    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
                except FileNotFoundError:
                    continue
                try:
                    os.write(fd, value)
                finally:
                    os.close(fd)
            return open_own()
        finally:
            self._return()

    def _return(self) -> None:
        for fd, (_, flag) in zip(self.own, _KINDS):
            syscalls.setns(fd, flag)

    def take(self, hostname: str) -> PodNamespaces:
        """The caller owns the descriptors. Raises OSError."""
        namespaces = self._ready.popleft() if self._ready else self.make()
        try:
            syscalls.setns(namespaces.uts, syscalls.CLONE_NEWUTS)
            try:
                syscalls.sethostname(hostname)
            finally:
                syscalls.setns(self.own.uts, syscalls.CLONE_NEWUTS)
        except OSError:
            for fd in namespaces:
                os.close(fd)
            raise
        return namespaces

    def children_into(self, fd: int) -> None:
        """From now on children are born in that pid namespace (setns(2), CLONE_NEWPID); `children_back` ends it."""
        syscalls.setns(fd, syscalls.CLONE_NEWPID)

    def children_back(self) -> None:
        syscalls.setns(self.own_pid, syscalls.CLONE_NEWPID)
