"""The guard: first process of a minik host and the reaper of all it starts. It starts the components named in SPEC.json, restarts what dies with back-off, and holds what
must outlive them: listening sockets (handed on as in sd_listen_fds(3)) and the fd store (see fdstore.py). It refuses to know what the components do.

Run as `python -I -S -E guard.py SPEC.json`; standard library only. PR_SET_CHILD_SUBREAPER (prctl(2)) makes orphans its children: their exit is recorded in
`<run>/exits/<pid>.<starttime>.json` before they are reaped, so that a container's exit code survives the death of the zygote. Its own death takes the components
with it (PR_SET_PDEATHSIG), never the containers.

SPEC: {"run_dir", "sockets": {name: {"type": "tcp", "address", "port"} | {"type": "seqpacket", "path"}},
       "processes": [{"name", "argv", "env", "sockets": [name], "log"}]}
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import socket
import sys
import time

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
BACKOFF_FIRST_S, BACKOFF_MAX_S, BACKOFF_RESET_S = 0.1, 10.0, 10.0
STOP_TIMEOUT_S = 10.0
LOG_LIMIT_BYTES = 10 << 20
MAX_PACKET_BYTES, MAX_FDS = 128 * 1024, 253
libc = ctypes.PyDLL(None, use_errno=True)


def log(message: str) -> None:
    now = time.time()
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now))
    os.write(2, f"{stamp}.{int(now % 1 * 1000):03d}Z INFO guard: {message}\n".encode())


def matches(name: str, prefix: str) -> bool:
    """As fdstore.matches; written here again because the guard imports nothing of ours and so survives any of our bugs."""
    return not prefix or name == prefix or name.startswith(prefix if prefix.endswith("/") else prefix + "/")


def open_socket(spec: dict) -> socket.socket:
    """A bound, listening socket. Raises OSError that names the address."""
    if spec["type"] == "tcp":
        family = socket.AF_INET6 if ":" in spec["address"] else socket.AF_INET
        s = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        where: tuple[str, int] | str = (spec["address"], spec["port"])
    else:
        s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        where = spec["path"]
        try:
            os.unlink(spec["path"])
        except FileNotFoundError:
            pass
    try:
        s.bind(where)
    except OSError as e:
        raise OSError(e.errno, f"cannot listen on {where}: {e.strerror}") from e
    s.listen(1024)
    return s


class Process:
    """One supervised component."""

    def __init__(self, spec: dict, sockets: dict[str, socket.socket]) -> None:
        self.name: str = spec["name"]
        self.spec = spec
        self.fds = [(n, sockets[n].fileno()) for n in spec.get("sockets", [])]
        self.pid = 0
        self.started = 0.0
        self.restarts = -1
        self.backoff_s = 0.0
        self.due = 0.0  # monotonic time of the next start while not running
        self.last_exit = ""
        self.kill_at: float | None = None  # monotonic; set once it is to stop for good
        self.waiting: list[socket.socket] = []  # who asked for that

    def start(self) -> None:
        self.restarts += 1
        self.started = time.monotonic()
        out = self._open_log()
        guard_pid = os.getpid()
        pid = os.fork()
        if pid == 0:
            try:
                self._exec(out, guard_pid)
            except BaseException as e:  # noqa: BLE001 — the child must never return into the guard's loop
                os.write(2, f"guard: cannot start {self.name}: {e}\n".encode())
            os._exit(127)
        os.close(out)
        self.pid = pid
        log(f"started {self.name} pid={pid} restarts={self.restarts}")

    def _open_log(self) -> int:
        path = self.spec["log"]
        try:
            if os.stat(path).st_size > LOG_LIMIT_BYTES:
                os.replace(path, path + ".1")
        except FileNotFoundError:
            pass
        return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)

    def _exec(self, out: int, guard_pid: int) -> None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != guard_pid:  # it died before the line above
            os._exit(1)
        signal.set_wakeup_fd(-1)
        for s in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
            signal.signal(s, signal.SIG_DFL)
        high = [os.dup2(fd, 200 + i, inheritable=False) for i, (_, fd) in enumerate(self.fds)]
        for i, fd in enumerate(high):
            os.dup2(fd, 3 + i, inheritable=True)
        null = os.open("/dev/null", os.O_RDONLY)
        os.dup2(null, 0, inheritable=True)
        os.dup2(out, 1, inheritable=True)
        os.dup2(out, 2, inheritable=True)
        os.closerange(3 + len(self.fds), 200)  # Python's own are close-on-exec; this covers what was inherited from the shell that ran `up`
        env = dict(os.environ) | self.spec.get("env", {})
        if self.fds:
            env |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(self.fds)), "LISTEN_FDNAMES": ":".join(n for n, _ in self.fds)}
        argv = self.spec["argv"]
        os.execve(argv[0], argv, env)

    def ended(self, how: str) -> None:
        now = time.monotonic()
        if now - self.started > BACKOFF_RESET_S:
            self.backoff_s = 0.0
        self.pid, self.last_exit, self.due = 0, how, now + self.backoff_s
        log(f"{self.name} {how}; starting again in {self.backoff_s:.1f} s")
        self.backoff_s = min(max(self.backoff_s * 2, BACKOFF_FIRST_S), BACKOFF_MAX_S)

    def status(self) -> dict:
        return {"name": self.name, "pid": self.pid, "restarts": max(self.restarts, 0), "uptime_s": round(time.monotonic() - self.started, 3) if self.pid else 0, "last_exit": self.last_exit}


def how_ended(code: int, status: int) -> str:
    """waitid(2)'s si_code and si_status in words."""
    if code == os.CLD_EXITED:
        return f"exited with {status}"
    return f"was killed by {signal.Signals(status).name if status in signal.valid_signals() else status}"


def start_time(pid: int) -> int:
    """proc(5) stat field 22, clock ticks since boot; readable while the process is a zombie. 0 where it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as f:
            data = f.read()
        return int(data[data.rindex(b")") + 2 :].split()[19])
    except (OSError, ValueError):
        return 0


class Guard:
    def __init__(self, spec: dict) -> None:
        self.run_dir: str = spec["run_dir"]
        self.exits_dir = os.path.join(self.run_dir, "exits")
        os.makedirs(self.exits_dir, mode=0o700, exist_ok=True)
        self.sockets = {name: open_socket(s) for name, s in spec["sockets"].items()}
        self.processes = [Process(p, self.sockets) for p in spec["processes"]]
        self.store: dict[str, list[int]] = {}
        self.listener = open_socket({"type": "seqpacket", "path": os.path.join(self.run_dir, "guard.sock")})
        self.listener.setblocking(False)
        self.clients: dict[int, socket.socket] = {}
        self.stopping = False
        self.poll = select.poll()

    # --- children

    def reap(self) -> None:
        while True:
            try:
                info = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if info is None:
                return
            mine = next((p for p in self.processes if p.pid == info.si_pid), None)
            if mine is None:
                self.record_exit(info)
            os.waitid(os.P_PID, info.si_pid, os.WEXITED)
            if mine is not None and mine.kill_at is not None:
                self.stopped(mine)
            elif mine is not None:
                mine.ended(how_ended(info.si_code, info.si_status))

    def record_exit(self, info: os.waitid_result) -> None:
        """Durable before the zombie goes: whoever looks for this process finds either the zombie or the record."""
        pid, started = info.si_pid, start_time(info.si_pid)
        path = os.path.join(self.exits_dir, f"{pid}.{started}.json")
        record = {"pid": pid, "start_time": started, "code": info.si_code, "status": info.si_status, "time": time.time()}
        fd = os.open(path + ".new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, json.dumps(record).encode())
            os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(path + ".new", path)
        log(f"orphan pid={pid} {how_ended(info.si_code, info.si_status)}")

    def start_due(self) -> float | None:
        """Starts what is due, kills what was to stop and has not; returns seconds until the next of these, None for never."""
        wait: float | None = None
        for p in self.processes:
            if p.kill_at is not None:
                left = p.kill_at - time.monotonic()
                if left <= 0:
                    log(f"{p.name} does not stop, killing it")
                    os.kill(p.pid, signal.SIGKILL)
                    p.kill_at = left = float("inf")
                if left != float("inf"):
                    wait = left if wait is None else min(wait, left)
                continue
            if p.pid or self.stopping:
                continue
            left = p.due - time.monotonic()
            if left <= 0:
                try:
                    p.start()
                except OSError as e:
                    p.ended(f"could not be started: {e}")
                    left = p.due - time.monotonic()
                else:
                    continue
            wait = left if wait is None else min(wait, left)
        return wait

    # --- fd store

    def serve(self, fd: int) -> None:
        s = self.clients[fd]
        try:
            data, fds, _, _ = socket.recv_fds(s, MAX_PACKET_BYTES, MAX_FDS, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            data, fds = b"", []
        for f in fds:
            os.set_inheritable(f, False)
        if not data:
            self.poll.unregister(fd)
            self.clients.pop(fd).close()
            return
        try:
            self.answer(s, json.loads(data), fds)
        except (ValueError, KeyError, TypeError, OSError) as e:
            for f in fds:
                os.close(f)
            self.reply(s, {"error": f"{type(e).__name__}: {e}"})

    def reply(self, s: socket.socket, answer: dict, fds: list[int] | None = None) -> None:
        s.settimeout(5)  # a client that does not read must not hold the guard for ever
        try:
            socket.send_fds(s, [json.dumps(answer).encode()], fds or [])
        except OSError as e:
            log(f"cannot answer a client: {e}")
        finally:
            s.setblocking(False)

    def answer(self, s: socket.socket, request: dict, fds: list[int]) -> None:
        op = request["op"]
        if op == "put":
            self.drop(request["name"])
            self.store[request["name"]] = fds
            self.reply(s, {})
            return
        if op == "get":
            self.give(s, request["prefix"])
        elif op == "drop":
            self.drop(request["prefix"])
            self.reply(s, {})
        elif op == "status":
            self.reply(s, {"pid": os.getpid(), "stopping": self.stopping, "fds": sum(map(len, self.store.values())), "processes": [p.status() for p in self.processes]})
        elif op == "stop":
            self.reply(s, {"pid": os.getpid()})
            self.stopping = True
        elif op == "stop-process":
            p = next((p for p in self.processes if p.name == request["name"]), None)
            if p is not None and self.stop_process(p):
                p.waiting.append(s)  # answered by stopped(); until then everyone is served, the one that stops too
            else:
                self.reply(s, {})
        else:
            raise ValueError(f"unknown op {op!r}")
        for f in fds:
            os.close(f)

    def drop(self, prefix: str) -> None:
        for name in [n for n in self.store if matches(n, prefix)]:
            for fd in self.store.pop(name):
                os.close(fd)

    def give(self, s: socket.socket, prefix: str) -> None:
        names: list[tuple[str, int]] = []
        fds: list[int] = []
        for name, held in self.store.items():
            if not matches(name, prefix):
                continue
            if len(fds) + len(held) > MAX_FDS:
                self.reply(s, {"names": names, "more": True}, fds)
                names, fds = [], []
            names.append((name, len(held)))
            fds.extend(held)
        self.reply(s, {"names": names, "more": False}, fds)

    # --- life

    def accept(self) -> None:
        try:
            s, _ = self.listener.accept()
        except BlockingIOError:
            return
        uid = int.from_bytes(s.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)[4:8], sys.byteorder)
        if uid != os.getuid():
            s.close()
            return
        s.setblocking(False)
        self.clients[s.fileno()] = s
        self.poll.register(s, select.POLLIN)

    def stop_process(self, p: Process) -> bool:
        """TERM, KILL after a while, and no restart: what `down` needs between stopping the agent and stopping its containers. False where it does not run."""
        if not p.pid:
            self.processes.remove(p)
            return False
        if p.kill_at is None:
            p.kill_at = time.monotonic() + STOP_TIMEOUT_S
            os.kill(p.pid, signal.SIGTERM)
        return True

    def stopped(self, p: Process) -> None:
        """It has ended and is reaped."""
        self.processes.remove(p)
        log(f"stopped {p.name}")
        for s in p.waiting:
            if s.fileno() >= 0:
                self.reply(s, {})

    def turn(self, wake_fd: int) -> None:
        """One round: start, wait, serve, reap."""
        wait = self.start_due()
        for fd, _ in self.poll.poll(None if wait is None else max(0, int(wait * 1000) + 1)):
            if fd == wake_fd:
                os.read(wake_fd, 4096)
            elif fd == self.listener.fileno():
                self.accept()
            elif fd in self.clients:
                self.serve(fd)
        self.reap()

    def run(self) -> None:
        wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: setattr(self, "stopping", True))
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        self.poll.register(wake_read, select.POLLIN)
        self.poll.register(self.listener, select.POLLIN)
        while not self.stopping:
            self.turn(wake_read)
        for p in reversed(list(self.processes)):
            if self.stop_process(p):
                while p in self.processes:
                    self.turn(wake_read)
        self.reap()
        os.unlink(os.path.join(self.run_dir, "guard.sock"))
        log("stopped")


def main() -> None:
    with open(sys.argv[1], encoding="utf-8") as f:
        spec = json.load(f)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    os.umask(0o022)
    try:
        guard = Guard(spec)
    except OSError as e:
        log(str(e))
        sys.exit(f"guard: {e}")
    guard.run()


if __name__ == "__main__":
    main()
