"""Sandboxes in the zygote: a pod's namespaces as descriptors (parked in the guard, so that they outlive this process) and its cgroup. Standard library only."""

from __future__ import annotations

import os
import signal

from agent.runtime import fdstore, namespaces, state, syscalls
from agent.runtime.cgroups import base
from agent.runtime.loop import say

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class NotFound(Exception):
    """No sandbox or container of that id."""


class Sandbox:
    """`fds`: net, ipc, uts; `pid_fd`: the shared pid namespace, -1 for none."""

    __slots__ = ("fds", "pid_fd", "record")

    def __init__(self, record: dict[str, Any], fds: list[int], pid_fd: int = -1) -> None:
        self.record = record
        self.fds = fds
        self.pid_fd = pid_fd

    @property
    def config(self) -> dict[str, Any]:
        return self.record["config"]

    @property
    def ready(self) -> bool:
        return self.record["state"] == "ready"


class Sandboxes:
    def __init__(self, store: state.State, pool: namespaces.Pool, driver: base.Driver, parent: str, guard: fdstore.FdStore | None) -> None:
        """`parent`: the cgroup whose children are the pods'."""
        self._state, self._pool, self._driver, self._parent, self._guard = store, pool, driver, parent, guard
        self._all: dict[str, Sandbox] = {}

    def adopt(self, handed_over: dict[str, list[int]]) -> None:
        """After a restart: the records on disk with the descriptors of the guard or of the predecessor."""
        fds = dict(handed_over)
        if self._guard is not None:
            for name, got in self._guard.get("sandbox").items():
                sandbox_id = name.removeprefix("sandbox/")
                if sandbox_id in fds:
                    for fd in got:
                        os.close(fd)
                else:
                    fds[sandbox_id] = got
        living = {c.sandbox_id: c.pid for c in self._state.load()[0] if c.state == "running" and state.start_time(c.pid) == c.start_time}
        for record in self._state.load_sandboxes():
            sandbox_id = record["config"]["id"]
            got = fds.pop(sandbox_id, [])
            if len(got) < 3 and sandbox_id in living and not record["config"].get("shared_pid"):
                got = self._recover(sandbox_id, living[sandbox_id])
            if len(got) < 3 and record["state"] == "ready":
                say(f"sandbox {sandbox_id}: its namespaces are lost, it is not ready any more", "WARNING")
                record["state"] = "notready"
                self._state.save_sandbox(record)
            self._all[sandbox_id] = Sandbox(record, got[:3], got[3] if len(got) > 3 else -1)
        for sandbox_id, orphaned in fds.items():  # its record was never written, or is gone already
            for fd in orphaned:
                os.close(fd)
            if self._guard is not None:
                self._guard.drop(f"sandbox/{sandbox_id}")
        self._sweep_cgroups()

    def _sweep_cgroups(self) -> None:
        """Cgroups of pods without a record: a predecessor died between the two."""
        known = {s.config["cgroup"].split("/")[0] for s in self._all.values()}
        for name in self._driver.children(self._parent) - known:
            path = f"{self._parent}/{name}"
            if not self._driver.pids(path):
                try:
                    self._driver.remove(path)
                except OSError as e:
                    say(str(e), "WARNING")

    def _recover(self, sandbox_id: str, pid: int) -> list[int]:
        """The guard has died too: what a container still runs in (namespaces(7), /proc/<pid>/ns) is the sandbox. [] where the container ends meanwhile."""
        got: list[int] = []
        try:
            for name in namespaces.PodNamespaces._fields:
                got.append(os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY | os.O_CLOEXEC))
        except (FileNotFoundError, ProcessLookupError):
            for fd in got:
                os.close(fd)
            return []
        if self._guard is not None:
            self._guard.put(f"sandbox/{sandbox_id}", got)
        return got

    def hand_over(self) -> dict[str, list[int]]:
        return {i: [*s.fds, *([s.pid_fd] if s.pid_fd >= 0 else [])] for i, s in self._all.items() if s.fds}

    def get(self, sandbox_id: str) -> Sandbox:
        try:
            return self._all[sandbox_id]
        except KeyError:
            raise NotFound(f"no sandbox {sandbox_id}") from None

    def records(self) -> list[dict[str, Any]]:
        return [s.record for s in self._all.values()]

    def cgroup(self, sandbox: Sandbox) -> str:
        return f"{self._parent}/{sandbox.config['cgroup']}"

    def run(self, config: dict[str, Any], now: float) -> dict[str, Any]:
        """Idempotent. Raises OSError."""
        present = self._all.get(config["id"])
        if present is not None and present.ready:
            return present.record
        path = f"{self._parent}/{config['cgroup']}"
        self._driver.create(path, config.get("resources") or {}, leaf=False)
        record: dict[str, Any] = {"config": config, "state": "ready", "created_at": now}
        sandbox = Sandbox(record, list(self._make_namespaces(config)))
        try:
            if config.get("shared_pid") and not config.get("host_pid"):
                self._start_pause(sandbox, path)
            if self._guard is not None:
                self._guard.put(f"sandbox/{config['id']}", [*sandbox.fds, *([sandbox.pid_fd] if sandbox.pid_fd >= 0 else [])])
            self._state.save_sandbox(record)
        except BaseException:
            self._close(sandbox)
            raise
        self._all[config["id"]] = sandbox
        say(f"sandbox {config['id']}: ready")
        return record

    def _make_namespaces(self, config: dict[str, Any]) -> namespaces.PodNamespaces:
        made = self._pool.take(config["hostname"])
        for wanted, name in ((config.get("host_network"), "net"), (config.get("host_ipc"), "ipc")):
            if wanted:
                index = made._fields.index(name)
                os.close(made[index])
                made = made._replace(**{name: os.dup(self._pool.own[index])})
        return made

    def _start_pause(self, sandbox: Sandbox, path: str) -> None:
        """A shared pid namespace lives as long as its first process: one that only reaps."""
        leaf = f"{path}/pause"
        self._driver.create(leaf, {}, leaf=True)
        cgroup_fd = self._driver.clone_into(leaf)
        try:
            pid, pidfd = syscalls.clone3(syscalls.CLONE_NEWPID, cgroup_fd)
            if pid == 0:
                _pause(self._driver.join_files(leaf), sandbox.fds)
        finally:
            if cgroup_fd >= 0:
                os.close(cgroup_fd)
        os.close(pidfd)
        sandbox.pid_fd = os.open(f"/proc/{pid}/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        sandbox.record["pause"] = {"pid": pid, "start_time": state.start_time(pid)}

    def stop(self, sandbox_id: str) -> None:
        """The caller has stopped its containers. Idempotent."""
        sandbox = self.get(sandbox_id)
        pause = sandbox.record.pop("pause", None)
        if pause and state.start_time(pause["pid"]) == pause["start_time"]:
            os.kill(pause["pid"], signal.SIGKILL)
            try:
                os.waitpid(pause["pid"], 0)
            except ChildProcessError:
                pass  # a predecessor's: the guard reaps it
        self._close(sandbox)
        if self._guard is not None:
            self._guard.drop(f"sandbox/{sandbox_id}")
        if sandbox.ready:
            sandbox.record["state"] = "notready"
            self._state.save_sandbox(sandbox.record)
            say(f"sandbox {sandbox_id}: stopped")

    def remove(self, sandbox_id: str) -> None:
        """Raises OSError where something still runs in its cgroup."""
        self.stop(sandbox_id)
        self._driver.remove(self.cgroup(self.get(sandbox_id)))
        self._state.forget_sandbox(sandbox_id)
        del self._all[sandbox_id]

    @staticmethod
    def _close(sandbox: Sandbox) -> None:
        for fd in (*sandbox.fds, *([sandbox.pid_fd] if sandbox.pid_fd >= 0 else [])):
            os.close(fd)
        sandbox.fds, sandbox.pid_fd = [], -1


def _pause(join_files: tuple[str, ...], fds: list[int]) -> None:
    """In the child, forever: first process of a pod's pid namespace."""
    try:
        for path in join_files:
            base.write(path, "0")
        for fd in fds:
            syscalls.setns(fd)
        syscalls.close_range(3)
        os.setsid()
        syscalls.set_name("pause")
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
        while True:
            try:
                os.waitpid(-1, 0)
            except ChildProcessError:
                signal.sigwait({signal.SIGCHLD})
    finally:
        os._exit(1)
