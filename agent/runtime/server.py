"""The zygote's server: its clients, the table of its requests, and how it hands everything over to its successor. The work is in sandboxes, containers and executions.
Standard library only.
"""

from __future__ import annotations

import errno
import gc
import os
import signal
import socket
import sys

from agent.runtime import containers, executions, fdstore, launch, namespaces, sandboxes, state, wire
from agent.runtime.cgroups import detect
from agent.runtime.loop import Loop, say

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any


USAGE = "usage: zygote.py RUN_DIR --data-dir DIR --cgroup PATH [--pool N] [--debug]"
POOL_SIZE = 8


def parse_arguments(argv: Sequence[str]) -> dict[str, Any]:
    """argparse would cost a megabyte. Raises ValueError."""
    found: dict[str, Any] = {"run_dir": "", "data_dir": "", "cgroup": "", "pool": POOL_SIZE, "debug": False}
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        name = word.removeprefix("--").replace("-", "_")
        if word == "--debug":
            found["debug"] = True
        elif word.startswith("--") and name in found and name != "run_dir":
            if not rest:
                raise ValueError(f"{word} needs a value")
            found[name] = rest.pop(0)
        elif not word.startswith("-") and not found["run_dir"]:
            found["run_dir"] = word
        else:
            raise ValueError(f"unknown argument {word!r}")
    for name in ("run_dir", "data_dir", "cgroup"):
        if not found[name]:
            raise ValueError(f"{name.replace('_', '-')} is missing")
    found["cgroup"] = found["cgroup"].strip("/")
    found["pool"] = int(found["pool"])
    return found


class Client:
    """One connection. An answer that its queue has no room for is kept until it has."""

    def __init__(self, s: socket.socket, loop: Loop) -> None:
        self.socket, self._loop = s, loop
        self._unsent: list[tuple[dict[str, Any], list[int]]] = []

    def send(self, message: dict[str, Any], fds: Sequence[int] = ()) -> None:
        if self._unsent or not self._try(message, fds):
            self._unsent.append((message, [os.dup(fd) for fd in fds]))
            if len(self._unsent) == 1:
                self._loop.call_later(0.01, self._again)

    def _try(self, message: dict[str, Any], fds: Sequence[int]) -> bool:
        try:
            wire.send(self.socket, message, fds)
        except BlockingIOError:
            return False
        except OSError:
            return True  # it is gone; the loop will notice
        return True

    def _again(self) -> None:
        while self._unsent and self._try(*self._unsent[0]):
            wire.close_all(self._unsent.pop(0)[1])
        if self._unsent:
            self._loop.call_later(0.01, self._again)

    def close(self) -> None:
        for _, fds in self._unsent:
            wire.close_all(fds)
        self._unsent.clear()
        self.socket.close()


class Server:
    """Requests in, answers out. `handlers` is the protocol's table of what is answered at once; `start` and `exec` are answered when
    execve has succeeded, `sandbox_netns` with a descriptor (see _serve)."""

    def __init__(self, arguments: dict[str, Any], listener: socket.socket) -> None:
        self.arguments = arguments
        self.loop = Loop()
        self.listener = listener
        self.clients: dict[int, Client] = {}
        self.upgrading = False
        run_dir = arguments["run_dir"]
        guard_path = os.path.join(run_dir, "guard.sock")
        guard = fdstore.FdStore(guard_path) if os.path.exists(guard_path) else None
        store = state.State(run_dir)
        driver = detect.driver()
        pool = namespaces.Pool(arguments["pool"])
        self.loop.idle = pool.refill
        self.pool = pool
        self.sandboxes = sandboxes.Sandboxes(store, pool, driver, f"{arguments['cgroup']}/pods", guard)
        host = launch.this_host(driver.hierarchies)
        zygote = containers.Zygote(self.loop, store, pool, driver, self.sandboxes, guard, host, arguments["data_dir"], self.publish, arguments["debug"])
        self.containers = containers.Containers(zygote)
        self.executions = executions.Executions(zygote, self.containers)
        self.driver, self.store = driver, store
        self.handlers: dict[str, Callable[[dict[str, Any]], dict[str, Any] | None]] = {
            "hello": self._hello,
            "list": lambda request: {"sandboxes": self.sandboxes.records(), "containers": self.containers.statuses()},
            "run_sandbox": self._run_sandbox,
            "stop_sandbox": lambda request: self.sandboxes.stop(request["id"]),
            "remove_sandbox": lambda request: self.sandboxes.remove(request["id"]),
            "create": lambda request: self.containers.create(request["id"], state.now()),
            "status": lambda request: self.containers.get(request["id"]).status(),
            "signal": lambda request: self.containers.signal(request["id"], request["signal"]),
            "kill_all": lambda request: self.containers.kill_all(request["id"]),
            "update": lambda request: self.containers.update(request["id"], request["resources"]),
            "stats": lambda request: self.containers.stats(request["id"]),
            "remove": lambda request: self.containers.remove(request["id"]),
        }

    # --- clients

    def accept(self) -> None:
        try:
            s, _ = self.listener.accept()
        except BlockingIOError:
            return
        if int.from_bytes(s.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)[4:8], sys.byteorder) != os.getuid():
            s.close()
            return
        self.add_client(s)

    def add_client(self, s: socket.socket) -> None:
        s.setblocking(False)
        self.clients[s.fileno()] = Client(s, self.loop)
        self.loop.add(s.fileno(), lambda: self._readable(s))

    def _readable(self, s: socket.socket) -> None:
        try:
            got = wire.receive(s)
        except BlockingIOError:
            return
        except (OSError, ValueError) as e:
            say(f"a client is dropped: {e}", "WARNING")
            got = None
        if got is None:
            self.loop.remove(s.fileno())
            self.clients.pop(s.fileno()).close()
            return
        self._serve(s.fileno(), *got)

    def _serve(self, client: int, request: dict[str, Any], fds: list[int]) -> None:
        def answer(ok: dict[str, Any] | None, out_fds: Sequence[int], error: BaseException | None) -> None:
            present = self.clients.get(client)
            if present is None:
                return
            if error is not None:
                kind = next((t.__name__ for t in (sandboxes.NotFound, containers.StartError, containers.Again) if isinstance(error, t)), "OSError")
                text = str(error.strerror or error) if isinstance(error, OSError) else str(error)
                present.send({"seq": request.get("seq"), "error": {"type": kind, "errno": getattr(error, "errno", None), "message": text}})
            else:
                present.send({"seq": request.get("seq"), "ok": ok or {}}, out_fds)

        try:
            op = request.get("op")
            if op == "start":
                self.containers.start(request, fds, answer)
            elif op == "exec":
                self.executions.start(request, fds, client, answer)
            elif op == "sandbox_netns":
                answer(None, [self._netns(request["id"])], None)
            elif op in self.handlers:
                answer(self.handlers[op](request), (), None)
            else:
                raise OSError(errno.EINVAL, f"unknown request {op!r}")
        except (OSError, sandboxes.NotFound) as e:
            answer(None, (), e)
        except (KeyError, IndexError, TypeError, ValueError) as e:
            say(f"cannot understand {request.get('op')!r}: {type(e).__name__}: {e}", "ERROR")
            answer(None, (), OSError(errno.EINVAL, f"cannot understand the request {request.get('op')!r}: {type(e).__name__}: {e}"))
        finally:
            wire.close_all(fds)

    def publish(self, event: dict[str, Any], client: int = -1) -> None:
        for fd, present in list(self.clients.items()):
            if client in (-1, fd):
                present.send(event)

    # --- small requests

    def _hello(self, request: dict[str, Any]) -> dict[str, Any]:
        return {"pid": os.getpid(), "data_dir": self.arguments["data_dir"], "cgroup_version": self.driver.version}

    def _run_sandbox(self, request: dict[str, Any]) -> dict[str, Any]:
        record = self.sandboxes.run(request["config"], state.now())
        self.loop.busy()
        return record

    def _netns(self, sandbox_id: str) -> int:
        sandbox = self.sandboxes.get(sandbox_id)
        if not sandbox.fds:
            raise OSError(errno.ESRCH, f"sandbox {sandbox_id} has no network namespace: it is stopped")
        return sandbox.fds[0]

    # --- life

    def run(self, handed_over: dict[str, Any]) -> None:
        """Until SIGTERM. SIGHUP ends it with `upgrading` set."""
        self.sandboxes.adopt(handed_over.get("sandboxes", {}))
        self.containers.adopt()
        for fd in handed_over.get("clients", ()):
            self.add_client(socket.socket(fileno=fd))
        self.executions.adopt(handed_over.get("executions", []))
        self._drop_stale_exits()
        self.listener.setblocking(False)
        self.loop.add(self.listener.fileno(), self.accept)
        wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        self.loop.add(wake_read, lambda: _drain(wake_read))
        signal.signal(signal.SIGTERM, lambda *_: setattr(self.loop, "stopping", True))
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, lambda *_: self.loop.call_later(0, self._upgrade))
        gc.collect()
        gc.freeze()
        gc.disable()  # a child that collects would copy every page
        say(f"ready: run={self.arguments['run_dir']} cgroup={self.arguments['cgroup']} (v{self.driver.version})")
        self.loop.run()

    def _drop_stale_exits(self) -> None:
        self.store.drop_stale_exits(state.now())
        self.loop.call_later(state.STALE_EXIT_S, self._drop_stale_exits)

    def _upgrade(self) -> None:
        if self.containers.pending or self.executions.pending:
            self.loop.call_later(0.005, self._upgrade)
            return
        self.upgrading = self.loop.stopping = True

    def hand_over(self) -> dict[str, Any]:
        given: dict[str, Any] = {
            "listener": self.listener.fileno(),
            "clients": list(self.clients),
            "sandboxes": self.sandboxes.hand_over(),
            "executions": self.executions.hand_over(),
        }
        fds = [given["listener"], *given["clients"], *(f for s in given["sandboxes"].values() for f in s), *(e[2] for e in given["executions"])]
        for fd in fds:
            os.set_inheritable(fd, True)
        return given


def _drain(fd: int) -> None:
    os.read(fd, 64)
