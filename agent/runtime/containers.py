"""Containers in the zygote: created, started, watched until they end, removed; adopted after a restart. Every change is on disk before anyone is told, and whoever ends is
recorded before it is reaped. Standard library only.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
from collections import namedtuple

from agent.runtime import fdstore, launch, namespaces, plan, process, sandboxes, state, syscalls, wire
from agent.runtime.cgroups import base
from agent.runtime.loop import Loop, say

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    Answer = Callable[[dict[str, Any] | None, Sequence[int], BaseException | None], None]

# What the parts of the zygote share. `publish(event)` tells every client.
Zygote = namedtuple("Zygote", "loop state pool driver sandboxes guard host data_dir publish debug")
START_TIMEOUT_S = 120.0
SETTLE_POLL_S = 0.005
OWN_NAME = "zygote"  # of a child that has not exec'd yet
RECORD_DEADLINE_S, RECORD_POLL_S = 10.0, 0.01
UNKNOWN_EXIT_CODE = 255
UNKNOWN_EXIT = "its exit code is not known: minik was killed while it ran"
START_ERROR_CODE = 128  # what kubelet reports for a container that never ran
PREFIX = "unable to start container process: "


class StartError(OSError):
    """The child could not become the container."""


class Again(OSError):
    """The request came at a moment that has passed: the client repeats it."""


def go(child: launch.Child) -> None:
    """The child is written down, it may exec. One that has failed already says why on its own."""
    try:
        child.status.send(b"go", socket.MSG_NOSIGNAL)
    except OSError:
        return


def reap(loop: Loop, pidfd: int) -> None:
    """A child that is ending and of no more interest; it may take a while to (a set-up that hangs in a file system)."""

    def ended() -> None:
        if os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG) is not None:
            loop.remove(pidfd)
            os.close(pidfd)

    loop.add(pidfd, ended)


def _fresh_work(folder: str) -> str:
    """An overlay's work directory that no volatile mount has used: an attempt that a killed zygote did not finish leaves its own behind."""
    for attempt in range(1000):
        try:
            os.mkdir(f"{folder}/work{attempt}", 0o700)
            return f"{folder}/work{attempt}"
        except FileExistsError:
            continue
    raise OSError(errno.EEXIST, f"cannot make a work directory in {folder}")


class Starting:
    """A start under way: the child, who waits for the answer, and the descriptors to close."""

    def __init__(self, container: state.Container, child: launch.Child, answer: Answer, tty: bool) -> None:
        self.container, self.child, self.answers, self.tty = container, child, [answer], tty


class Containers:
    def __init__(self, zygote: Zygote) -> None:
        self._z = zygote
        self._loop: Loop = zygote.loop
        self._state: state.State = zygote.state
        self._driver: base.Driver = zygote.driver
        self._pool: namespaces.Pool = zygote.pool
        self._guard: fdstore.FdStore | None = zygote.guard
        self._all: dict[str, state.Container] = {}
        self._configs: dict[str, dict[str, Any]] = {}  # of containers not started yet
        self._starting: dict[str, Starting] = {}
        self._unsettled: dict[str, list[Answer]] = {}  # adopted in the middle of a start; who has asked for them
        self._programs: dict[str, bytes] = {}

    # --- asked for

    def get(self, container_id: str) -> state.Container:
        try:
            return self._all[container_id]
        except KeyError:
            raise sandboxes.NotFound(f"no container {container_id}") from None

    def statuses(self) -> list[dict[str, Any]]:
        return [c.status() for c in self._all.values()]

    @property
    def pending(self) -> bool:
        return bool(self._starting)

    def folder(self, container_id: str) -> str:
        return f"{self._z.data_dir}/containers/{container_id}"

    def create(self, container_id: str, now: float) -> dict[str, Any]:
        """Its config.json is there. Idempotent: a repeated request finds it created. Raises OSError, NotFound."""
        if container_id in self._all:
            return self._all[container_id].status()
        config = self._state.config(container_id)
        sandbox = self._z.sandboxes.get(config["sandbox_id"])
        if not sandbox.ready:
            raise OSError(errno.ESTALE, f"cannot create container {container_id}: sandbox {config['sandbox_id']} is not ready")
        folder = self.folder(container_id)
        for name in ("upper", "rootfs"):
            os.makedirs(f"{folder}/{name}", 0o755, exist_ok=True)
        container = state.Container(container_id, config["sandbox_id"], f"{self._z.sandboxes.cgroup(sandbox)}/{container_id}", now)
        linux = config["spec"].get("linux") or {}
        asked_pid = any(n.get("type") == "pid" for n in linux.get("namespaces") or ())
        container.own_pid_namespace = asked_pid and not sandbox.config.get("host_pid") and sandbox.pid_fd < 0
        try:
            self._driver.create(container.cgroup, linux.get("resources") or {}, leaf=True)
            self._state.save(container)
        except BaseException:
            self._driver.remove(container.cgroup)
            raise
        self._all[container_id] = container
        self._configs[container_id] = config
        return container.status()

    def start(self, request: dict[str, Any], fds: list[int], answer: Answer) -> None:
        """Answers when execve has succeeded or failed. Idempotent."""
        container = self.get(request["id"])
        if container.id in self._starting:
            self._starting[container.id].answers.append(answer)
            return
        if container.id in self._unsettled:
            self._unsettled[container.id].append(answer)
            return
        if container.state == "exited" and request.get("repeated") and container.reason == "StartError":
            raise StartError(container.start_errno, container.message)
        if container.state == "running" or (container.state == "exited" and request.get("repeated")):
            answer(container.status(), (), None)
            return
        if container.state != "created":
            raise OSError(errno.EINVAL, f"cannot start container {container.id}: it has already run")
        config = self._configs.get(container.id) or self._state.config(container.id)
        sandbox = self._z.sandboxes.get(container.sandbox_id)
        if not sandbox.ready:
            raise OSError(errno.ESTALE, f"cannot start container {container.id}: sandbox {container.sandbox_id} is not ready")
        child = self._clone(container, config, sandbox, request, fds)
        container.pid, container.pidfd, container.start_time = child.pid, child.pidfd, state.start_time(child.pid)
        container.state, container.started_at = "running", state.now()
        self._state.save(container)
        starting = Starting(container, child, answer, bool(config["tty"]))
        self._starting[container.id] = starting
        child.status.setblocking(False)
        self._loop.add(child.status.fileno(), lambda: self._heard(starting))
        self._loop.call_later(START_TIMEOUT_S, lambda: self._give_up(starting))
        if not starting.tty:
            go(starting.child)

    def _clone(self, container: state.Container, config: dict[str, Any], sandbox: sandboxes.Sandbox, request: dict[str, Any], fds: list[int]) -> launch.Child:
        folder = self.folder(container.id)
        stdio = tuple(fds[i] if i >= 0 else -1 for i in request["stdio"]) if not config["tty"] else ()
        work = _fresh_work(folder)
        mounts = {int(i): fds[j] for i, j in request["mounts"].items()}

        def operations(status_fd: int) -> list:
            wanted = plan.Launch(
                config["spec"], config["layers"], f"{folder}/upper", work, f"{folder}/rootfs", self._driver.join_files(container.cgroup), sandbox.fds,
                mounts, stdio, bool(config["tty"]), status_fd, self.program(config["seccomp"]),
            )  # fmt: skip
            made = plan.plan_container(wanted, self._z.host)
            if self._z.debug:
                for op in made:
                    say(f"container {container.id}: {op.describe()}", "DEBUG")
            return made

        flags = syscalls.CLONE_NEWNS | (syscalls.CLONE_NEWPID if container.own_pid_namespace else 0)
        cgroup_fd = self._driver.clone_into(container.cgroup)
        if sandbox.pid_fd >= 0:
            self._pool.children_into(sandbox.pid_fd)
        try:
            return launch.start(operations, flags, cgroup_fd)
        finally:
            if sandbox.pid_fd >= 0:
                self._pool.children_back()
            if cgroup_fd >= 0:
                os.close(cgroup_fd)

    def program(self, path: str) -> bytes:
        """A compiled seccomp filter; there are few different ones."""
        if not path:
            return b""
        if path not in self._programs:
            with open(path, "rb") as f:
                self._programs[path] = f.read()
        return self._programs[path]

    # --- a start under way

    def _heard(self, starting: Starting) -> None:
        try:
            message, fds = launch.read_status(starting.child.status)
        except BlockingIOError:
            return
        if message and message.get("terminal"):
            if self._guard is not None:
                self._guard.put(f"tty/{starting.container.id}", fds)
            wire.close_all(fds)
            go(starting.child)
            return
        wire.close_all(fds)
        self._end_start(starting)
        container = starting.container
        if message:
            self._failed(starting, message)
            return
        self._configs.pop(container.id, None)
        self._watch(container)
        say(f"container {container.id}: started pid={container.pid}")
        container.confirmed = True
        for answer in starting.answers:
            answer(container.status(), (), None)
        self._state.save(container)

    def _end_start(self, starting: Starting) -> None:
        self._loop.remove(starting.child.status.fileno())
        starting.child.status.close()
        del self._starting[starting.container.id]

    def _give_up(self, starting: Starting) -> None:
        if self._starting.get(starting.container.id) is starting:
            signal.pidfd_send_signal(starting.child.pidfd, signal.SIGKILL)
            self._end_start(starting)
            self._failed(starting, {"errno": errno.ETIMEDOUT, "message": f"its set-up took longer than {START_TIMEOUT_S:.0f} s"})

    def _failed(self, starting: Starting, message: dict[str, Any]) -> None:
        container = starting.container
        container.state, container.reason, container.message = "exited", "StartError", PREFIX + message["message"]
        container.exit_code, container.started_at, container.finished_at = START_ERROR_CODE, 0.0, state.now()
        container.start_errno = message["errno"]
        self._state.save(container)
        reap(self._loop, container.pidfd)
        container.pidfd = -1
        self._configs.pop(container.id, None)
        say(f"container {container.id}: {container.message}", "WARNING")
        error = StartError(message["errno"], container.message)
        for answer in starting.answers:
            answer(None, (), error)
        self._z.publish({"event": "exit", "container": container.status()})

    # --- the end

    def _watch(self, container: state.Container) -> None:
        self._loop.add(container.pidfd, lambda: self._ended(container))

    def _ended(self, container: state.Container) -> None:
        try:
            result = os.waitid(os.P_PIDFD, container.pidfd, os.WEXITED | os.WNOWAIT | os.WNOHANG)
        except ChildProcessError:  # adopted: the guard reaps it
            self._loop.remove(container.pidfd)
            self._await_record(container, state.now() + RECORD_DEADLINE_S)
            return
        if result is None:
            return
        self._loop.remove(container.pidfd)
        self._finish(container, state.exit_code(result.si_code, result.si_status), state.now())
        os.waitid(os.P_PIDFD, container.pidfd, os.WEXITED)
        self._closed(container)

    def _await_record(self, container: state.Container, deadline: float) -> None:
        record = self._state.take_exit(container.pid, container.start_time)
        if record is not None:
            self._finish(container, state.exit_code(record["code"], record["status"]), record["time"])
            self._state.drop_exit(container.pid, container.start_time)
        elif state.now() < deadline:
            self._loop.call_later(RECORD_POLL_S, lambda: self._await_record(container, deadline))
            return
        else:
            code = state.exit_code_from_pidfd(container.pidfd) if container.pidfd >= 0 else None
            if code is None:
                say(f"container {container.id}: nobody recorded its exit code", "WARNING")
                container.message = UNKNOWN_EXIT
            self._finish(container, UNKNOWN_EXIT_CODE if code is None else code, state.now())
        self._closed(container)

    def _closed(self, container: state.Container) -> None:
        if container.pidfd >= 0:
            os.close(container.pidfd)
            container.pidfd = -1
        self._settled(container)
        if container.state == "exited":
            self._z.publish({"event": "exit", "container": container.status()})

    def _finish(self, container: state.Container, code: int, when: float) -> None:
        """On disk before the process is reaped."""
        if code == process.NO_GO_EXIT_CODE and not container.confirmed:
            container.state, container.pid, container.start_time, container.started_at = "created", 0, 0, 0.0
            self._state.save(container)
            say(f"container {container.id}: its start was cut off, it can be started again")
            return
        if not container.own_pid_namespace:
            self._driver.kill(container.cgroup)  # what its init left behind
        container.state, container.exit_code, container.finished_at = "exited", code, when
        if code and self._driver.oom_kills(container.cgroup):
            container.reason = "OOMKilled"
        elif container.message == UNKNOWN_EXIT:
            container.reason = "ContainerStatusUnknown"
        else:
            container.reason = "Error" if code else "Completed"
        self._state.save(container)
        say(f"container {container.id}: exited with {code} ({container.reason})")

    # --- signals, limits, removal

    def signal(self, container_id: str, number: int) -> None:
        """To its init; one that is not running is left alone."""
        container = self.get(container_id)
        if container.state == "running" and container.pidfd >= 0:
            try:
                signal.pidfd_send_signal(container.pidfd, number)
            except ProcessLookupError:
                return

    def kill_all(self, container_id: str) -> None:
        """SIGKILL to every process; with a pid namespace of its own the init's death is everyone's (pid_namespaces(7))."""
        container = self.get(container_id)
        if container.state != "running":
            return
        if container.own_pid_namespace:
            self.signal(container_id, signal.SIGKILL)
        else:
            self._driver.kill(container.cgroup)

    def update(self, container_id: str, resources: dict[str, Any]) -> None:
        self._driver.update(self.get(container_id).cgroup, resources)

    def stats(self, container_id: str) -> dict[str, Any]:
        return self._driver.stats(self.get(container_id).cgroup)._asdict()

    def remove(self, container_id: str) -> None:
        """Raises OSError while it runs; the client removes its files. Idempotent."""
        container = self._all.get(container_id)
        if container is None:
            return
        if container.state == "running":
            raise OSError(errno.EBUSY, f"cannot remove container {container_id}: it is running")
        self._driver.remove(container.cgroup)
        self._state.forget(container_id)
        self._configs.pop(container_id, None)
        del self._all[container_id]

    # --- after a restart

    def adopt(self) -> None:
        """Every container on disk: the living are watched, the dead get their exit codes."""
        found, unreadable = self._state.load()
        for text in unreadable:
            say(f"cannot read the state of container {text}", "ERROR")
        for container in found:
            self._all[container.id] = container
            if container.state == "running":
                self._adopt_running(container)
        running = sum(c.state == "running" for c in found)
        if found:
            say(f"adopted {len(found)} containers, {running} running")

    def _adopt_running(self, container: state.Container) -> None:
        try:
            pidfd = os.pidfd_open(container.pid)
        except ProcessLookupError:
            pidfd = -1
        if pidfd >= 0 and state.start_time(container.pid) != container.start_time:
            os.close(pidfd)
            pidfd = -1
        container.pidfd = pidfd
        if not container.confirmed:
            self._unsettled[container.id] = []
            self._settle(container)
        if pidfd >= 0:
            self._watch(container)
        else:
            self._await_record(container, state.now())  # it is reaped: its record was there before

    def _settle(self, container: state.Container) -> None:
        """Adopted in the middle of its start: wait until it has exec'd, or ended (_closed)."""
        if container.id not in self._unsettled or container.pidfd < 0:
            return
        if state.process_name(container.pid) == OWN_NAME:
            self._loop.call_later(SETTLE_POLL_S, lambda: self._settle(container))
            return
        if state.start_time(container.pid) == container.start_time and not _is_zombie(container.pid):
            container.confirmed = True
            self._state.save(container)
            self._settled(container)

    def _settled(self, container: state.Container) -> None:
        for answer in self._unsettled.pop(container.id, ()):
            answer(None, (), Again(errno.EAGAIN, "its start was being looked into"))


def _is_zombie(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", "rb") as f:
            data = f.read()
        return data[data.rindex(b")") + 2 :][:1] in (b"Z", b"X")
    except OSError:
        return True
