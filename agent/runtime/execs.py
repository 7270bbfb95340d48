"""A running exec: its descriptors and its exit code, from the zygote while that lives, else from the guard's record of an orphan. Made by client.Runtime.exec."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import json
import os
import signal
import struct
import termios
from typing import Any

from agent.runtime import cri

LOST_EXIT_CODE = 255
_RECORD_DEADLINE_S = 10.0


def exit_code(code: int, status: int) -> int:
    """waitid(2)'s si_code and si_status as a shell tells them: 128 + N for death by signal N."""
    return status if code == os.CLD_EXITED else 128 + status


def set_terminal_size(fd: int, rows: int, columns: int) -> None:
    """TIOCSWINSZ, tty_ioctl(4)."""
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


class Session:
    """cri.ExecSession. Owns `pidfd`; the stdio descriptors are the caller's."""

    def __init__(self, pid: int, start_time: int, pidfd: int, exits_dir: str) -> None:
        self.pid = pid
        self.start_time = start_time
        self.stdin_fd: int | None = None
        self.stdout_fd: int | None = None
        self.stderr_fd: int | None = None
        self.pty_fd: int | None = None
        self._pidfd = pidfd
        self._record = os.path.join(exits_dir, f"{pid}.{start_time}.json")
        self._ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._orphaned: asyncio.Task[None] | None = None

    def finished(self, code: int) -> None:
        """Called by the client with the zygote's word."""
        if not self._ended.done():
            self._ended.set_result(code)

    def orphaned(self) -> None:
        """Called by the client when the zygote that was this process's parent has gone: the guard reaps it now."""
        if not self._ended.done() and self._orphaned is None:
            self._orphaned = asyncio.get_running_loop().create_task(self._await_record())

    async def _await_record(self) -> None:
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        loop.add_reader(self._pidfd, ended.set)
        try:
            await ended.wait()
        finally:
            loop.remove_reader(self._pidfd)
        deadline = loop.time() + _RECORD_DEADLINE_S
        while not self._ended.done():
            try:
                with open(self._record, encoding="utf-8") as f:
                    record: dict[str, Any] = json.load(f)
                self.finished(exit_code(record["code"], record["status"]))
            except (FileNotFoundError, ValueError):
                if loop.time() > deadline:
                    self.finished(LOST_EXIT_CODE)
                    return
                await asyncio.sleep(0.01)

    async def wait(self) -> cri.ExecResult:
        return cri.ExecResult(await asyncio.shield(self._ended))

    def resize(self, rows: int, columns: int) -> None:
        if self.pty_fd is None:
            raise cri.RuntimeServiceError(errno.ENOTTY, "cannot resize: this exec has no terminal")
        set_terminal_size(self.pty_fd, rows, columns)

    async def kill(self, signal_number: int = signal.SIGKILL) -> None:
        """Idempotent."""
        if self._pidfd < 0:
            return
        try:
            signal.pidfd_send_signal(self._pidfd, signal_number)
        except ProcessLookupError:
            return

    def __del__(self) -> None:
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1
