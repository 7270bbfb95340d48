"""The agent's runtime: cri.RuntimeService over the zygote's socket. It prepares what needs the host's mount namespace or an unlimited process (records, mount sources, log
FIFOs, seccomp programs, removal of big trees) and leaves every fork to the zygote. Callers: agent.execute. Knows nothing of pods.

A zygote that dies or upgrades is reconnected to; exits that happened meanwhile are read from its durable records, so no exit event is lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import shutil
import signal as signals
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from agent.runtime import connection, cri, execs, fdstore, loggerclient, records, spec, sweep, syscalls, wire

log = logging.getLogger("runtime")
KILL_TIMEOUT_S = 30.0
DISCARD_POLL_S = 0.02


class Runtime:
    """`run_dir`: the node's run directory, the same as the guard's and the zygote's."""

    def __init__(self, run_dir: str) -> None:
        self.run_dir = run_dir
        self.data_dir = ""  # told by the zygote
        self._zygote_pid = 0
        self._connection = connection.Connection(os.path.join(run_dir, "zygote.sock"), self._on_event, self._on_connect)
        self._guard = fdstore.FdStore(os.path.join(run_dir, "guard.sock"))
        self._records: dict[str, dict[str, Any]] = {}
        self._exited: dict[str, asyncio.Event] = {}  # set once a container's exit is known and its log drained
        self._final: dict[str, cri.ContainerStatus] = {}
        self._draining: dict[str, asyncio.Task[None]] = {}
        self._unheard: list[cri.ContainerStatus] = []
        self._listeners: list[asyncio.Queue[cri.ContainerStatus]] = []
        self._sessions: dict[tuple[int, int], execs.Session] = {}  # by pid and start time
        self._exec_exits: dict[tuple[int, int], int] = {}  # heard before the session's caller was resumed

    async def connect(self) -> None:
        """Raises RuntimeServiceError where no zygote listens."""
        await self._connection.connect()

    async def close(self) -> None:
        """Leaves every container running."""
        for task in self._draining.values():
            task.cancel()
        self._connection.close()
        self._guard.close()

    async def sweep(self) -> list[str]:
        """Removes what predecessors of this client, and of the zygote, were killed over: call it before anything is made. Gives the ids of what was found. Raises OSError."""
        listed, _ = await self._connection.call("list")
        containers, sandboxes = [], [s["config"]["id"] for s in listed["sandboxes"]]
        for status in listed["containers"]:
            if self._has_record(status["id"]):
                containers.append(status["id"])
            else:
                await self._discard(status["id"])
        return await asyncio.to_thread(sweep.sweep, self.run_dir, self.data_dir, containers, sandboxes)

    async def _discard(self, container_id: str) -> None:
        """Of a container without a record. Raises OSError where it does not die."""
        log.warning("container %s has no record: it goes", container_id)
        await self._connection.call("kill_all", id=container_id)
        for _ in range(int(KILL_TIMEOUT_S / DISCARD_POLL_S)):
            try:
                await self._connection.call("remove", id=container_id)
                return
            except cri.RuntimeServiceError as e:
                if e.errno != errno.EBUSY:
                    raise
            await asyncio.sleep(DISCARD_POLL_S)
        raise cri.RuntimeServiceError(errno.ETIMEDOUT, f"cannot remove container {container_id}: still alive {KILL_TIMEOUT_S:.0f} s after SIGKILL")

    async def layers_in_use(self) -> set[str]:
        """Layer directories of every container there is, running or not."""
        listed, _ = await self._connection.call("list")
        return {layer for i in {*self._records, *(c["id"] for c in listed["containers"])} if self._has_record(i) for layer in self._record(i)["layers"]}

    # --- what the zygote tells

    async def _on_connect(self) -> None:
        hello, _ = await self._connection.call_now("hello")
        self.data_dir = hello["data_dir"]
        if hello["pid"] != self._zygote_pid:
            for session in self._sessions.values():
                session.orphaned()
        self._zygote_pid = hello["pid"]
        listed, _ = await self._connection.call_now("list")
        for status in listed["containers"]:
            if status["state"] == "exited":
                self._ended(status)
            elif status["state"] == "running" and self._has_record(status["id"]):
                self._adopt_terminal(status["id"])

    def _on_event(self, message: dict[str, Any]) -> None:
        if message["event"] == "exit":
            self._ended(message["container"])
        elif message["event"] == "exec_exit":
            key = (message["pid"], message["start_time"])
            session = self._sessions.pop(key, None)
            if session:
                session.finished(message["exit_code"])
            else:
                self._exec_exits[key] = message["exit_code"]

    def _ended(self, status: Mapping[str, Any]) -> None:
        container_id = status["id"]
        if container_id not in self._final and container_id not in self._draining:
            self._draining[container_id] = asyncio.get_running_loop().create_task(self._drain(status))

    async def _drain(self, raw: Mapping[str, Any]) -> None:
        container_id = raw["id"]
        try:
            try:
                status = self._status(raw)
                if self._record(container_id)["log_path"]:
                    await loggerclient.finish_async(self.run_dir, container_id, self._guard)
            except cri.NotFoundError:
                return  # removed meanwhile
            except OSError as e:
                log.warning("container %s: its log may lack the last lines: %s", container_id, e)
            self._final[container_id] = status
            self._exit_event(container_id).set()
            self._publish(status)
        finally:
            self._draining.pop(container_id, None)

    def _publish(self, status: cri.ContainerStatus) -> None:
        if not self._listeners:
            self._unheard.append(status)
        for queue in self._listeners:
            queue.put_nowait(status)

    def _exit_event(self, container_id: str) -> asyncio.Event:
        return self._exited.setdefault(container_id, asyncio.Event())

    def _record(self, container_id: str) -> dict[str, Any]:
        record = self._records.get(container_id)
        if record is None:
            record = self._records[container_id] = records.read(self.run_dir, container_id)
        return record

    def _has_record(self, container_id: str) -> bool:
        """False for what has lost it (somebody's rm in the run directory): nobody can know whose it is, sweep() ends it."""
        try:
            self._record(container_id)
        except (cri.NotFoundError, ValueError):
            return False
        return True

    def _status(self, raw: Mapping[str, Any]) -> cri.ContainerStatus:
        record = self._record(raw["id"])
        fields = {n: raw[n] for n in ("id", "sandbox_id", "state", "pid", "created_at", "started_at", "finished_at", "exit_code", "reason", "message")}
        return cri.ContainerStatus(**fields, labels=record["labels"], annotations=record["annotations"])

    async def events(self) -> AsyncIterator[cri.ContainerStatus]:
        """See cri.RuntimeService.events; exits from before the first listener are kept for it."""
        queue: asyncio.Queue[cri.ContainerStatus] = asyncio.Queue()
        for status in self._unheard:
            queue.put_nowait(status)
        self._unheard.clear()
        self._listeners.append(queue)
        try:
            while True:
                yield await queue.get()
        finally:
            self._listeners.remove(queue)

    # --- sandboxes

    async def run_sandbox(self, config: cri.SandboxConfig) -> cri.SandboxStatus:
        records.check_id("sandbox", config.id)
        if not config.cgroup or ".." in config.cgroup.split("/"):
            raise cri.RuntimeServiceError(errno.EINVAL, f"sandbox {config.id}: cgroup: must be a path below the node's pods, is {config.cgroup!r}")
        try:
            spec.validate_resources(config.resources)
        except spec.SpecError as e:
            raise cri.RuntimeServiceError(errno.EINVAL, f"cannot run sandbox {config.id}: {e}") from e
        fields = {n: getattr(config, n) for n in config.__slots__}
        fields |= {n: dict(fields[n]) for n in ("labels", "annotations", "resources")}
        if not config.host_ipc:
            self._mount_shm(config.id)
        answer, _ = await self._connection.call("run_sandbox", config=fields)
        return _sandbox_status(answer)

    def _shm_path(self, sandbox_id: str) -> str:
        return sweep.shm_path(self.run_dir, sandbox_id)

    def _mount_shm(self, sandbox_id: str) -> None:
        """The pod's /dev/shm: a mount of the host, so that it outlives agent and zygote."""
        path = self._shm_path(sandbox_id)
        os.makedirs(path, mode=0o700, exist_ok=True)
        if not os.path.ismount(path):
            syscalls.mount("shm", path, "tmpfs", syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC, "mode=1777,size=65536k")

    async def sandbox_netns(self, sandbox_id: str) -> int:
        _, fds = await self._connection.call("sandbox_netns", id=sandbox_id)
        return fds[0]

    async def stop_sandbox(self, sandbox_id: str) -> None:
        for status in await self.list_containers():
            if status.sandbox_id == sandbox_id and status.state == "running":
                await self.stop_container(status.id, 0, signals.SIGKILL)
        with contextlib.suppress(cri.NotFoundError):
            await self._connection.call("stop_sandbox", id=sandbox_id)

    async def remove_sandbox(self, sandbox_id: str) -> None:
        await self.stop_sandbox(sandbox_id)
        for status in await self.list_containers():
            if status.sandbox_id == sandbox_id:
                await self.remove_container(status.id)
        sweep.unmount_shm(self.run_dir, sandbox_id)
        with contextlib.suppress(cri.NotFoundError):
            await self._connection.call("remove_sandbox", id=sandbox_id)

    async def list_sandboxes(self) -> list[cri.SandboxStatus]:
        listed, _ = await self._connection.call("list")
        return [_sandbox_status(s) for s in listed["sandboxes"]]

    # --- containers

    async def create_container(self, config: cri.ContainerConfig) -> cri.ContainerStatus:
        shm = self._shm_path(config.sandbox_id)
        record = records.build(config, shm if os.path.isdir(shm) else "", os.path.join(self.data_dir, "seccomp"))
        if config.id in self._records or os.path.exists(os.path.join(records.folder(self.run_dir, config.id), "state.json")):
            raise cri.RuntimeServiceError(errno.EEXIST, f"cannot create container {config.id}: it exists")
        records.write(self.run_dir, record)
        try:
            answer, _ = await self._connection.call("create", id=config.id)
        except (cri.RuntimeServiceError, cri.NotFoundError) as e:
            if getattr(e, "errno", 0) != errno.ETIMEDOUT:  # it may exist then, as after a cancelled call: its record stays
                records.remove(self.run_dir, config.id)
            raise
        self._records[config.id] = record
        return self._status(answer)

    async def start_container(self, container_id: str) -> cri.ContainerStatus:
        record = self._record(container_id)
        answer = await self._start(record)
        record["spec"] = {}  # its work is done; the file still has it
        if record["tty"]:
            self._adopt_terminal(container_id)
        status = self._status(answer)
        self._publish(status)
        return status

    async def _start(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Repeated over a zygote's death, with new descriptors each time: a child that died has used its mounts up."""
        repeated = False
        while True:
            fds: list[int] = []
            try:
                stdio = self._open_stdio(record, fds)
                mounts = self._open_mounts(record, fds)
                answer, got = await self._connection.call("start", fds, repeat=False, id=record["id"], stdio=stdio, mounts=mounts, repeated=repeated)
                wire.close_all(got)
                return answer
            except connection.Disconnected:
                repeated = True
            except cri.StartError:
                await self._refresh(record["id"])
                raise
            finally:
                wire.close_all(fds)

    async def _refresh(self, container_id: str) -> None:
        raw, _ = await self._connection.call("status", id=container_id)
        if raw["state"] == "exited":
            self._ended(raw)

    def _open_stdio(self, record: Mapping[str, Any], fds: list[int]) -> list[int]:
        """Appends to `fds`; gives the indexes of stdin, stdout, stderr in it, -1 for /dev/null."""
        if record["tty"]:
            return []
        indexes = [-1, -1, -1]
        if record["stdin"]:
            indexes[0] = len(fds)
            fds.append(self._make_stdin(record["id"]))
        if record["log_path"]:
            indexes[1:] = [len(fds), len(fds) + 1]
            fds.extend(loggerclient.create(self.run_dir, record["id"], record["log_path"], self._guard))
        return indexes

    def _stdin_path(self, container_id: str) -> str:
        return os.path.join(records.folder(self.run_dir, container_id), "stdin")

    def _make_stdin(self, container_id: str) -> int:
        path = self._stdin_path(container_id)
        with contextlib.suppress(FileExistsError):
            os.mkfifo(path, 0o600)
        keep = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            self._guard.put(f"stdin/{container_id}", [keep])
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        finally:
            os.close(keep)

    def _open_mounts(self, record: Mapping[str, Any], fds: list[int]) -> dict[str, int]:
        """A detached copy of each bind mount's source, taken in this (the host's) mount namespace. Gives {index in spec.mounts: index in fds}."""
        indexes = {}
        for i, mount in enumerate(record["spec"].get("mounts") or ()):
            if not records.is_bind(mount):
                continue
            try:
                fd = syscalls.open_tree(mount["source"], recursive="rbind" in (mount.get("options") or ()))
            except OSError as e:
                raise cri.RuntimeServiceError(e.errno, f"cannot mount {mount['source']} at {mount['destination']}: {os.strerror(e.errno or 0).lower()}") from e
            indexes[str(i)] = len(fds)
            fds.append(fd)
        return indexes

    def _adopt_terminal(self, container_id: str) -> None:
        """Have the logger read the terminal, where it does not yet (an agent killed between start and here)."""
        record = self._record(container_id)
        if not record["tty"] or not record["log_path"] or os.path.exists(os.path.join(self.run_dir, "fifo", f"{container_id}.json")):
            return
        for masters in self._guard.get(f"tty/{container_id}").values():
            loggerclient.create_terminal(self.run_dir, container_id, record["log_path"], masters[0], self._guard)
            wire.close_all(masters)

    async def stop_container(self, container_id: str, timeout_s: float, signal: int = signals.SIGTERM) -> cri.ContainerStatus:
        status = await self.container_status(container_id)
        if status.state != "running":
            return status
        exited = self._exit_event(container_id)
        if timeout_s > 0:
            await self.kill_container(container_id, signal)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(exited.wait(), timeout_s)
        if not exited.is_set():
            await self._connection.call("kill_all", id=container_id)
            try:
                await asyncio.wait_for(exited.wait(), KILL_TIMEOUT_S)
            except TimeoutError:
                raise cri.RuntimeServiceError(errno.ETIMEDOUT, f"cannot stop container {container_id}: still alive {KILL_TIMEOUT_S:.0f} s after SIGKILL") from None
        return self._final[container_id]

    async def kill_container(self, container_id: str, signal: int) -> None:
        await self._connection.call("signal", id=container_id, signal=int(signal))

    async def remove_container(self, container_id: str) -> None:
        try:
            await self.stop_container(container_id, 0)
        except cri.NotFoundError:
            return
        draining = self._draining.get(container_id)
        if draining:
            await draining
        await self._connection.call("remove", id=container_id)
        if os.path.exists(os.path.join(self.run_dir, "fifo", f"{container_id}.json")):  # it never ran, or the logger could not be reached when it ended
            await loggerclient.finish_async(self.run_dir, container_id, self._guard)
        await asyncio.to_thread(shutil.rmtree, os.path.join(self.data_dir, "containers", container_id), True)
        records.remove(self.run_dir, container_id)
        for prefix in ("stdin", "tty", "log"):
            with contextlib.suppress(OSError):
                self._guard.drop(f"{prefix}/{container_id}")
        self._records.pop(container_id, None)
        self._final.pop(container_id, None)
        self._exited.pop(container_id, None)

    async def container_status(self, container_id: str) -> cri.ContainerStatus:
        if container_id in self._final:
            return self._final[container_id]
        raw, _ = await self._connection.call("status", id=container_id)
        draining = self._draining.get(container_id)  # the zygote tells an end before it answers with one
        if draining is not None:
            await asyncio.shield(draining)
        return self._final.get(container_id) or self._status(raw)

    async def list_containers(self) -> list[cri.ContainerStatus]:
        listed, _ = await self._connection.call("list")
        return [self._status(c) for c in listed["containers"] if self._has_record(c["id"])]

    async def container_stats(self, container_id: str) -> cri.ContainerStats:
        raw, _ = await self._connection.call("stats", id=container_id)
        return cri.ContainerStats(id=container_id, **raw)

    async def update_resources(self, container_id: str, resources: Mapping[str, Any]) -> None:
        try:
            spec.validate_resources(resources)
        except spec.SpecError as e:
            raise cri.RuntimeServiceError(errno.EINVAL, f"cannot update container {container_id}: {e}") from e
        await self._connection.call("update", id=container_id, resources=dict(resources))

    # --- stdio of a running container

    async def open_stdin(self, container_id: str) -> int:
        record = self._record(container_id)
        if record["tty"]:
            masters = [fd for fds in self._guard.get(f"tty/{container_id}").values() for fd in fds]
            if not masters:
                raise cri.RuntimeServiceError(errno.EPIPE, f"container {container_id} has no terminal: it is not running")
            return masters[0]
        if not record["stdin"]:
            raise cri.RuntimeServiceError(errno.EINVAL, f"container {container_id} was created without stdin")
        try:
            return os.open(self._stdin_path(container_id), os.O_WRONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as e:
            raise cri.RuntimeServiceError(e.errno or errno.EIO, f"cannot open the stdin of {container_id}: {e.strerror}") from e

    async def close_stdin(self, container_id: str) -> None:
        self._guard.drop(f"stdin/{container_id}")

    async def resize_terminal(self, container_id: str, rows: int, columns: int) -> None:
        if not self._record(container_id)["tty"]:
            raise cri.RuntimeServiceError(errno.ENOTTY, f"container {container_id} has no terminal")
        fd = await self.open_stdin(container_id)
        try:
            execs.set_terminal_size(fd, rows, columns)
        finally:
            os.close(fd)

    # --- exec

    async def exec(self, container_id: str, args: Sequence[str], *, tty: bool = False, stdin: bool = False, stdout: bool = True, stderr: bool = True,
                   env: Sequence[str] = (), cwd: str = "") -> execs.Session:  # fmt: skip
        """Raises StartError where the command cannot be exec'd, NotFoundError, RuntimeServiceError."""
        if not args:
            raise cri.RuntimeServiceError(errno.EINVAL, "exec: a command is required")
        theirs: list[int] = []
        ours: list[int | None] = [None, None, None]
        indexes = [-1, -1, -1]
        try:
            if not tty:
                for i, wanted in enumerate((stdin, stdout, stderr)):
                    if wanted:
                        read_end, write_end = os.pipe2(os.O_CLOEXEC)
                        mine, other = (write_end, read_end) if i == 0 else (read_end, write_end)
                        ours[i], indexes[i] = mine, len(theirs)
                        theirs.append(other)
            answer, got = await self._connection.call(
                "exec", theirs, repeat=False, id=container_id, args=list(args), env=list(env), cwd=cwd, tty=tty, stdio=indexes
            )
        except BaseException:
            wire.close_all([fd for fd in ours if fd is not None])
            raise
        finally:
            wire.close_all(theirs)
        session = execs.Session(answer["pid"], answer["start_time"], got[0], os.path.join(self.run_dir, "exits"))
        session.stdin_fd, session.stdout_fd, session.stderr_fd = ours
        session.pty_fd = got[1] if tty else None
        key = (session.pid, session.start_time)
        if key in self._exec_exits:
            session.finished(self._exec_exits.pop(key))
        else:
            self._sessions[key] = session
        return session


def _sandbox_status(raw: Mapping[str, Any]) -> cri.SandboxStatus:
    return cri.SandboxStatus(config=cri.SandboxConfig(**raw["config"]), state=raw["state"], created_at=raw["created_at"])
