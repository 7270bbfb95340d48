"""Execs in the zygote: processes that join a running container's namespaces and cgroup with its own capabilities and seccomp filter. Their exit goes to the client that asked;
execs of a zygote that was killed are the guard's to reap (execs.py reads its records). Standard library only.
"""

from __future__ import annotations

import errno
import os
from collections import namedtuple

from agent.runtime import containers, launch, plan, state, wire
from agent.runtime.loop import Loop, say

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from agent.runtime.containers import Answer

# `client`: the connection's descriptor, whom the exit is told.
Running = namedtuple("Running", "pid start_time pidfd client")


class Executions:
    def __init__(self, zygote: containers.Zygote, all_containers: containers.Containers) -> None:
        self._z = zygote
        self._loop: Loop = zygote.loop
        self._containers = all_containers
        self._running: dict[int, Running] = {}
        self._starting: set[launch.Child] = set()

    @property
    def pending(self) -> bool:
        return bool(self._starting)

    def start(self, request: dict[str, Any], fds: list[int], client: int, answer: Answer) -> None:
        """Answers {"pid", "start_time"} with [pidfd] or [pidfd, pty master] when execve has succeeded. Raises OSError, NotFound."""
        container = self._containers.get(request["id"])
        if container.state != "running" or container.pidfd < 0:
            raise OSError(errno.ESRCH, f"cannot exec in container {container.id}: container not running")
        config = self._z.state.config(container.id)
        child = self._clone(container, config, request, fds)
        self._starting.add(child)
        child.status.setblocking(False)
        if not request["tty"]:
            containers.go(child)
        terminal: list[int] = []
        self._loop.add(child.status.fileno(), lambda: self._heard(child, client, terminal, answer))

    def _clone(self, container: state.Container, config: dict[str, Any], request: dict[str, Any], fds: list[int]) -> launch.Child:
        process_spec = dict(config["spec"]["process"])
        process_spec["args"] = request["args"]
        process_spec["env"] = [*(process_spec.get("env") or ()), *(["TERM=xterm"] if request["tty"] else []), *request["env"]]
        process_spec["cwd"] = request["cwd"] or process_spec.get("cwd") or "/"
        process_spec.pop("consoleSize", None)
        stdio = () if request["tty"] else tuple(fds[i] if i >= 0 else -1 for i in request["stdio"])

        def operations(status_fd: int) -> list:
            wanted = plan.Launch(
                config["spec"], (), "", "", "", self._z.driver.join_files(container.cgroup), (), {}, stdio, bool(request["tty"]), status_fd,
                self._containers.program(config["seccomp"]),
            )  # fmt: skip
            return plan.plan_exec(process_spec, wanted, container.pidfd, self._z.host)

        cgroup_fd = self._z.driver.clone_into(container.cgroup)
        self._z.pool.children_into(container.pidfd)
        try:
            return launch.start(operations, 0, cgroup_fd)
        finally:
            self._z.pool.children_back()
            if cgroup_fd >= 0:
                os.close(cgroup_fd)

    def _heard(self, child: launch.Child, client: int, terminal: list[int], answer: Answer) -> None:
        try:
            message, fds = launch.read_status(child.status)
        except BlockingIOError:
            return
        if message and message.get("terminal"):
            terminal.extend(fds)
            containers.go(child)
            return
        wire.close_all(fds)
        self._loop.remove(child.status.fileno())
        child.status.close()
        self._starting.discard(child)
        if message:
            containers.reap(self._loop, child.pidfd)
            wire.close_all(terminal)
            answer(None, (), containers.StartError(message["errno"], containers.PREFIX + message["message"]))
            return
        running = Running(child.pid, state.start_time(child.pid), child.pidfd, client)
        answer({"pid": running.pid, "start_time": running.start_time}, [child.pidfd, *terminal], None)
        wire.close_all(terminal)
        self._watch(running)

    def _watch(self, running: Running) -> None:
        self._running[running.pidfd] = running
        self._loop.add(running.pidfd, lambda: self._ended(running))

    def _ended(self, running: Running) -> None:
        result = os.waitid(os.P_PIDFD, running.pidfd, os.WEXITED | os.WNOHANG)
        if result is None:
            return
        self._loop.remove(running.pidfd)
        del self._running[running.pidfd]
        os.close(running.pidfd)
        code = state.exit_code(result.si_code, result.si_status)
        say(f"exec pid={running.pid}: exited with {code}")
        self._z.publish({"event": "exec_exit", "pid": running.pid, "start_time": running.start_time, "exit_code": code}, running.client)

    def hand_over(self) -> list[list[int]]:
        return [list(r) for r in self._running.values()]

    def adopt(self, handed_over: list[list[int]]) -> None:
        """Only over an execv: the processes are still this one's children."""
        for fields in handed_over:
            os.set_inheritable(fields[2], False)
            self._watch(Running(*fields))
