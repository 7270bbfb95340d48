"""Client of the guard's fd store: descriptors that must outlive the process that made them (nsfs, pidfds, log FIFOs) are parked in the guard and fetched back by
name. Blocking, one local round trip of some tens of microseconds; the zygote, the logger's callers and the runtime client use it.

Protocol: unix(7) SOCK_SEQPACKET, one JSON request a packet with descriptors as SCM_RIGHTS, one JSON answer (a `get` may need several packets: 253 descriptors fit
in one, SCM_MAX_FD).
"""

from __future__ import annotations

import json
import os
import socket

TYPE_CHECKING = False  # the zygote imports this module and has no room for typing
if TYPE_CHECKING:
    from typing import Any

MAX_PACKET_BYTES = 128 * 1024
MAX_FDS = 253


def matches(name: str, prefix: str) -> bool:
    """A name answers to itself and to every whole leading part: "sandbox/1" matches "sandbox/1", "sandbox", "sandbox/" and "", never "sandbox/11"."""
    return not prefix or name == prefix or name.startswith(prefix if prefix.endswith("/") else prefix + "/")


class FdStore:
    """Raises OSError where the guard is not there or refuses."""

    def __init__(self, path: str, timeout_s: float = 10.0) -> None:
        self.path, self.timeout_s = path, timeout_s
        self._socket: socket.socket | None = None

    def _connect(self) -> socket.socket:
        if self._socket is None:
            s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
            try:
                s.settimeout(self.timeout_s)
                s.connect(self.path)
            except OSError as e:
                s.close()
                raise OSError(e.errno, f"cannot reach the guard at {self.path}: {e.strerror or e}") from e
            self._socket = s
        return self._socket

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, request: dict[str, Any], fds: list[int]) -> socket.socket:
        data = json.dumps(request).encode()
        s = self._connect()
        try:
            socket.send_fds(s, [data], fds)
        except OSError:  # a connection to a guard that has been replaced
            self.close()
            s = self._connect()
            socket.send_fds(s, [data], fds)
        return s

    def _receive(self, s: socket.socket) -> tuple[dict[str, Any], list[int]]:
        data, fds, _flags, _ = socket.recv_fds(s, MAX_PACKET_BYTES, MAX_FDS)
        if not data:
            self.close()
            raise ConnectionResetError("the guard closed the connection")
        for fd in fds:
            os.set_inheritable(fd, False)
        answer = json.loads(data)
        if answer.get("error"):
            for fd in fds:
                os.close(fd)
            raise OSError(f"guard: {answer['error']}")
        return answer, fds

    def call(self, op: str, fds: list[int] | None = None, **fields: Any) -> dict[str, Any]:
        """One request, one answer without descriptors."""
        answer, got = self._receive(self._send({"op": op, **fields}, fds or []))
        for fd in got:
            os.close(fd)
        return answer

    def put(self, name: str, fds: list[int]) -> None:
        """Keep duplicates of `fds` under `name`, replacing what was there. The caller still owns its own."""
        self.call("put", fds, name=name)

    def drop(self, prefix: str) -> None:
        self.call("drop", prefix=prefix)

    def get(self, prefix: str) -> dict[str, list[int]]:
        """New descriptors (close-on-exec, the caller's to close) of every name that matches the prefix."""
        s = self._send({"op": "get", "prefix": prefix}, [])
        found: dict[str, list[int]] = {}
        while True:
            answer, fds = self._receive(s)
            for name, count in answer["names"]:
                found.setdefault(name, []).extend(fds[:count])
                fds = fds[count:]
            if not answer["more"]:
                return found

    def status(self) -> dict[str, Any]:
        """{"pid", "processes": [{"name", "pid", "restarts", "uptime_s", "last_exit"}], "fds"}."""
        return self.call("status")
