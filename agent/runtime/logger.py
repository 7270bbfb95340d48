"""The logger: turns what containers write into CRI-format log files (kubelet's: `<RFC 3339 nano> stdout|stderr F|P <text>`), for all containers of a node in one process.

Run as `python -I -S -E logger.py RUN_DIR`; standard library only. Its state is the directory `<run>/fifo/`: `<id>.json` names the log file, `<id>.out` and `<id>.err` are
FIFOs (fifo(7)); a new logger carries on from there. A chunk is looked at with tee(2), written, and only then consumed: a crash may double a line, never lose one.
It never decides when a log ends: loggerclient.finish() says so.
"""

from __future__ import annotations

import array
import ctypes
import errno
import fcntl
import json
import os
import select
import socket
import sys
import time

CHUNK_BYTES = 64 * 1024
PARTIAL_BYTES = 16 * 1024  # a longer line is split with tag P, as containerd does
ROTATE_BYTES, ROTATE_KEEP = 10 << 20, 4  # kubelet's containerLogMaxSize and containerLogMaxFiles (5 with the live one)
SPLICE_F_NONBLOCK = 2
FIONREAD = 0x541B
libc = ctypes.PyDLL(None, use_errno=True)
libc.tee.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_size_t, ctypes.c_uint]
libc.tee.restype = ctypes.c_ssize_t


def say(message: str) -> None:
    now = time.time()
    os.write(2, f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(now))}.{int(now % 1 * 1000):03d}Z INFO logger: {message}\n".encode())


def stamp(now_ns: int) -> bytes:
    """RFC 3339 with nanoseconds, UTC."""
    s, ns = divmod(now_ns, 1_000_000_000)
    return b"%s.%09dZ" % (time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(s)).encode(), ns)


def render_lines(data: bytes, stream: bytes, now: bytes, partial_bytes: int, ended: bool) -> tuple[bytes, int]:
    """(CRI text, how much of `data` it covers). An unfinished line stays uncovered until it is partial_bytes long or the stream has ended; then it is tagged P."""
    out = b""
    whole = data.rfind(b"\n") + 1
    if whole:
        prefix = now + b" " + stream + b" F "
        out = prefix + data[: whole - 1].replace(b"\n", b"\n" + prefix) + b"\n"
    rest = len(data) - whole
    if rest and (ended or rest >= partial_bytes):
        out += now + b" " + stream + b" P " + data[whole:] + b"\n"
        whole = len(data)
    return out, whole


class LogFile:
    """The file both streams of a container append to; rotated by size."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.fd = -1
        self.size = 0
        self.failed = False

    def open(self) -> None:
        os.makedirs(os.path.dirname(self.path), mode=0o755, exist_ok=True)
        self.fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        self.size = os.fstat(self.fd).st_size

    def append(self, data: bytes, now_ns: int) -> None:
        """Where the disk is full the text is dropped and said so once: a container must not stop for its log."""
        try:
            if self.fd < 0:
                self.open()
            if self.size and self.size + len(data) > ROTATE_BYTES:
                self.rotate(now_ns)
            view = memoryview(data)
            while view:
                n = os.write(self.fd, view)
                self.size += n
                view = view[n:]
            self.failed = False
        except OSError as e:
            if not self.failed:
                say(f"cannot write {self.path}: {e.strerror}; its text is being dropped")
            self.failed = True

    def rotate(self, now_ns: int) -> None:
        os.rename(self.path, f"{self.path}.{time.strftime('%Y%m%d-%H%M%S', time.gmtime(now_ns / 1e9))}.{now_ns % 1_000_000_000:09d}")
        os.close(self.fd)
        self.open()
        folder, base = os.path.split(self.path)
        old = sorted(n for n in os.listdir(folder) if n.startswith(base + "."))
        for name in old[:-ROTATE_KEEP]:
            os.unlink(os.path.join(folder, name))

    def reopen(self) -> None:
        self.close()
        self.open()

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class Stream:
    """One FIFO of one container (or the master of its terminal, which cannot be tee'd: read and written at once)."""

    def __init__(self, fd: int, name: bytes, log: LogFile, is_fifo: bool) -> None:
        self.fd, self.name, self.log, self.is_fifo = fd, name, log, is_fifo
        self.pending = b""  # terminal only: an unfinished line that is already read
        size = fcntl.fcntl(fd, fcntl.F_GETPIPE_SZ) if is_fifo else CHUNK_BYTES
        self.partial_bytes = min(PARTIAL_BYTES, size // 2)  # a pipe that is full of one unfinished line must still drain

    def copy(self, scratch: tuple[int, int], ended: bool = False) -> bool:
        """One look; True where there may be more. `scratch` is an empty pipe."""
        now_ns = time.time_ns()
        if not self.is_fifo:
            return self._copy_terminal(now_ns, ended)
        n = libc.tee(self.fd, scratch[1], CHUNK_BYTES, SPLICE_F_NONBLOCK)
        if n <= 0:
            return False
        data = os.read(scratch[0], CHUNK_BYTES)
        while len(data) < n:
            data += os.read(scratch[0], CHUNK_BYTES)
        text, covered = render_lines(data, self.name, stamp(now_ns), self.partial_bytes, ended)
        if not covered:
            return False
        self.log.append(text, now_ns)
        left = covered
        while left:
            left -= len(os.read(self.fd, left))
        return True

    def _copy_terminal(self, now_ns: int, ended: bool) -> bool:
        try:
            data = os.read(self.fd, CHUNK_BYTES)
        except BlockingIOError:
            data = b""
        except OSError as e:
            if e.errno != errno.EIO:  # EIO: every slave is closed, tty_ioctl(4)
                raise
            data = b""
        text, covered = render_lines(self.pending + data, self.name, stamp(now_ns), self.partial_bytes, ended)
        self.pending = (self.pending + data)[covered:]
        if text:
            self.log.append(text, now_ns)
        return bool(data)

    def waiting_bytes(self) -> int:
        buf = array.array("i", [0])
        fcntl.ioctl(self.fd, FIONREAD, buf)
        return buf[0]


class Logger:
    def __init__(self, run_dir: str, listener: socket.socket) -> None:
        self.folder = os.path.join(run_dir, "fifo")
        os.makedirs(self.folder, mode=0o700, exist_ok=True)
        self.guard_path = os.path.join(run_dir, "guard.sock")
        self.listener = listener
        self.epoll = select.epoll()
        self.scratch = os.pipe2(os.O_CLOEXEC)
        self.containers: dict[str, list[Stream]] = {}
        self.streams: dict[int, Stream] = {}
        self.clients: dict[int, socket.socket] = {}

    def add(self, container_id: str) -> None:
        """Idempotent. Raises OSError, ValueError where the state on disk is not usable."""
        if container_id in self.containers:
            return
        with open(os.path.join(self.folder, f"{container_id}.json"), encoding="utf-8") as f:
            config = json.load(f)
        log = LogFile(config["log_path"])
        found: list[Stream] = []
        if config.get("tty"):
            found.append(Stream(self.terminal(container_id), b"stdout", log, is_fifo=False))
        else:
            for suffix, name in (("out", b"stdout"), ("err", b"stderr")):
                fd = os.open(os.path.join(self.folder, f"{container_id}.{suffix}"), os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
                found.append(Stream(fd, name, log, is_fifo=True))
        log.append(b"", 0)  # the file is there from the start: `logs` of a silent container is empty, not an error
        self.containers[container_id] = found
        for s in found:
            self.streams[s.fd] = s
            self.epoll.register(s.fd, select.EPOLLIN | select.EPOLLET)

    def terminal(self, container_id: str) -> int:
        from fdstore import FdStore  # beside this file; only terminals need it

        store = FdStore(self.guard_path)
        try:
            fd = store.get(f"log/{container_id}")[f"log/{container_id}"][0]
        finally:
            store.close()
        os.set_blocking(fd, False)
        return fd

    def finish(self, container_id: str) -> None:
        """Drain, write an unfinished last line, forget. Idempotent; a container that is not known yet is drained all the same."""
        try:
            self.add(container_id)
        except FileNotFoundError:
            return
        for s in self.containers.pop(container_id):
            while s.copy(self.scratch):
                pass
            s.copy(self.scratch, ended=True)
            del self.streams[s.fd]
            self.epoll.unregister(s.fd)
            os.close(s.fd)
            s.log.close()
        for suffix in ("out", "err", "json"):
            try:
                os.unlink(os.path.join(self.folder, f"{container_id}.{suffix}"))
            except FileNotFoundError:
                pass

    def scan(self) -> None:
        """Carry on with what an earlier logger left."""
        for name in os.listdir(self.folder):
            if name.endswith(".json"):
                try:
                    self.add(name[:-5])
                except (OSError, ValueError, KeyError) as e:
                    say(f"cannot take over the log of {name[:-5]}: {e}")
        if self.containers:
            try:
                self.park()
            except OSError as e:
                say(f"cannot park the FIFOs: {e}")

    def park(self) -> None:
        """A guard that is new, too, does not hold the FIFOs of what its predecessor's containers write. Raises OSError."""
        from fdstore import FdStore  # beside this file; seldom needed

        store = FdStore(self.guard_path)
        try:
            held = store.get("log")
            for fds in held.values():
                for fd in fds:
                    os.close(fd)
            for container_id, streams in self.containers.items():
                if f"log/{container_id}" not in held:
                    store.put(f"log/{container_id}", [s.fd for s in streams])
        finally:
            store.close()

    def answer(self, fd: int) -> None:
        s = self.clients[fd]
        try:
            data = s.recv(65536)
        except OSError:
            data = b""
        if not data:
            self.epoll.unregister(fd)
            self.clients.pop(fd).close()
            return
        result: dict = {}
        try:
            request = json.loads(data)
            op, container_id = request["op"], request["id"]
            if op == "add":
                self.add(container_id)
            elif op == "finish":
                self.finish(container_id)
            elif op == "reopen":
                for stream in self.containers.get(container_id, [])[:1]:
                    stream.log.reopen()
            else:
                result = {"error": f"unknown op {op!r}"}
        except (OSError, ValueError, KeyError, TypeError) as e:
            result = {"error": f"{type(e).__name__}: {e}"}
            say(f"cannot do {data[:200]!r}: {e}")
        try:
            s.send(json.dumps(result).encode(), socket.MSG_DONTWAIT)
        except OSError:
            pass

    def accept(self) -> None:
        s, _ = self.listener.accept()
        s.setblocking(False)
        self.clients[s.fileno()] = s
        self.epoll.register(s.fileno(), select.EPOLLIN)

    def run(self) -> None:
        self.epoll.register(self.listener.fileno(), select.EPOLLIN)
        self.scan()
        while True:
            again: list[Stream] = []
            for fd, _ in self.epoll.poll():
                if fd == self.listener.fileno():
                    self.accept()
                elif fd in self.clients:
                    self.answer(fd)
                elif fd in self.streams:
                    again.append(self.streams[fd])
            while again:  # round robin, a chunk each, so that one loud container does not hold the others' lines
                again = [s for s in again if s.fd in self.streams and s.copy(self.scratch)]


def main() -> None:
    if os.environ.get("LISTEN_PID") != str(os.getpid()) or "logger" not in os.environ.get("LISTEN_FDNAMES", "").split(":"):
        sys.exit("logger: needs its listening socket from the guard (LISTEN_FDS)")
    index = os.environ["LISTEN_FDNAMES"].split(":").index("logger")
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    Logger(sys.argv[1], socket.socket(fileno=3 + index)).run()


if __name__ == "__main__":
    main()
