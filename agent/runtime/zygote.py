"""The zygote: parent of every container of a node, in one small single-threaded process. This module is its start and its replacement; server.py answers requests. It knows
no pods, opens no network connection, and needs only the standard library.

Run as `python -I -S -E zygote.py RUN_DIR --data-dir D --cgroup PATH [--pool N] [--debug]`, its listening socket from the guard (LISTEN_FDNAMES=zygote) or, without one, made
at RUN_DIR/zygote.sock. SIGHUP: replaced in place by execv, with its sockets, its children and their exit codes. SIGTERM: ends, containers go on.

Kept short: the script itself is compiled at every start, what it imports is not.
"""

from __future__ import annotations

import json
import os
import socket
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from agent.runtime import isolate, server, syscalls
from agent.runtime.loop import say

ISOLATED, HANDOVER = "MINIK_ZYGOTE_ISOLATED", "MINIK_ZYGOTE_HANDOVER"


def _reexecute(handed_over: dict | None) -> None:
    """Becomes a new zygote of the present source. Never returns."""
    if handed_over is not None:
        memfd = os.memfd_create("handover", 0)
        os.write(memfd, json.dumps(handed_over).encode())
        os.environ[HANDOVER] = str(memfd)
    else:
        os.environ[ISOLATED] = "1"
    executable = os.path.realpath(sys.executable)
    os.execv(executable, [executable, *sys.orig_argv[1:]])


def _take_handover() -> dict:
    memfd = os.environ.pop(HANDOVER, "")
    if not memfd:
        return {}
    with open(int(memfd), "rb") as f:
        f.seek(0)
        given = json.loads(f.read())
    for fd in [given["listener"], *given["clients"], *(f for s in given["sandboxes"].values() for f in s)]:
        os.set_inheritable(fd, False)
    return given


def _listen(run_dir: str) -> socket.socket:
    """The guard's socket (sd_listen_fds(3)), or our own."""
    names = os.environ.get("LISTEN_FDNAMES", "").split(":")
    if os.environ.get("LISTEN_PID") == str(os.getpid()) and "zygote" in names:
        fd = 3 + names.index("zygote")
        os.set_inheritable(fd, False)
        return socket.socket(fileno=fd)
    path = os.path.join(run_dir, "zygote.sock")
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    s.bind(path)
    s.listen(1024)
    return s


def main() -> None:
    try:
        arguments = server.parse_arguments(sys.argv[1:])
    except ValueError as e:
        sys.exit(f"zygote: {e}\n{server.USAGE}")
    os.umask(0o022)
    for name in ("run_dir", "data_dir"):
        arguments[name] = os.path.realpath(arguments[name])
        os.makedirs(arguments[name], mode=0o755, exist_ok=True)
    if not os.environ.get(ISOLATED):
        isolate.enter([arguments["run_dir"], arguments["data_dir"]], [sys.executable, os.__file__, __file__])
        _reexecute(None)
    syscalls.set_name("zygote")
    handed_over = _take_handover()
    listener = socket.socket(fileno=handed_over["listener"]) if handed_over else _listen(arguments["run_dir"])
    running = server.Server(arguments, listener)
    running.run(handed_over)
    if running.upgrading:
        say("upgrading in place")
        _reexecute(running.hand_over())
    say("stopped")


if __name__ == "__main__":
    main()
