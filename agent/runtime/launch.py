"""Starting a planned child: clone3, the operations, and the conversation over its status socket. A library that needs no zygote (`launch`), and what the zygote starts every
container with (`start`). Standard library only; single-threaded callers only, since the child is a raw clone of the interpreter.

The status socket (SOCK_SEQPACKET, close-on-exec): the child may send {"terminal": true} with the pty's master; it waits for "go"; a failure is {"errno", "message"}; the end
of file is execve's success.
"""

from __future__ import annotations

import errno
import json
import os
import socket
from collections import namedtuple

from agent.runtime import plan, process, syscalls, wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

# `status`: the parent's end. The caller owns it and `pidfd`, and reaps `pid`.
Child = namedtuple("Child", "pid pidfd status")
Paths = namedtuple("Paths", "root upper work")


def this_host(hierarchies: Sequence | None) -> plan.Host:
    """What this process may pass on."""
    return plan.Host(syscalls.bounding_set(), syscalls.capget()[1], hierarchies)


def clone_flags(spec: Mapping[str, Any], joined: int = 0) -> int:
    """For clone3: what the spec wants new, without what is joined instead; the cgroup namespace comes later, once the child is in its cgroup."""
    return (plan.namespaces(spec) | syscalls.CLONE_NEWNS) & ~joined & ~syscalls.CLONE_NEWCGROUP


def start(make_operations: Callable[[int], list], flags: int, cgroup_fd: int = -1) -> Child:
    """`make_operations(status_fd)` plans for the child's end of the status socket, in the parent. Raises OSError."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    try:
        operations = make_operations(theirs.fileno())
        pid, pidfd = syscalls.clone3(flags, cgroup_fd)
    except BaseException:
        ours.close()
        theirs.close()
        raise
    if pid == 0:
        _become(operations, theirs.fileno())
    theirs.close()
    return Child(pid, pidfd, ours)


def _become(operations: list, status_fd: int) -> None:
    """In the child; never returns."""
    what = None
    try:
        os.umask(0)  # modes are the plan's; the container's own umask comes with its identity
        for what in operations:
            what.execute()
        message, number = "the plan ended without execve", errno.EINVAL
    except OSError as e:
        message, number = error_text(e, what.describe() if what else "start"), e.errno or errno.EIO
    except BaseException as e:  # noqa: BLE001 — a child must report and end, whatever it was
        message, number = f"cannot {what.describe() if what else 'start'}: {type(e).__name__}: {e}", errno.EIO
    try:
        socket.socket(fileno=status_fd).send(json.dumps({"errno": number, "message": message[:60_000]}).encode(), socket.MSG_NOSIGNAL)
    finally:
        os._exit(process.NO_GO_EXIT_CODE)  # where nobody heard the reason, the successor tries again and hears it


def error_text(e: OSError, what: str) -> str:
    """Our own texts stand as they are; a bare one of the os module gets the operation's name and its path."""
    text = str(e.strerror or e)
    if text.startswith(("cannot ", "exec", "unable to ", "chdir to ")):
        return text
    return f"cannot {what}: {f'{e.filename}: ' if e.filename else ''}{text.lower()}"


def read_status(status: socket.socket) -> tuple[dict[str, Any] | None, list[int]]:
    """The child's next word, {} at the end of file. Raises BlockingIOError on a non-blocking socket."""
    try:
        got = wire.receive_or_reset(status)
    except ConnectionResetError:  # it ended before it had read "go": what it said, if anything, comes after this
        got = wire.receive(status) or ({"errno": errno.ECHILD, "message": "cannot start: the process died while it was set up"}, [])
    return ({}, []) if got is None else got


def launch(spec: Mapping[str, Any], paths: Paths, *, layers: Sequence[str] = (), cgroup_files: Sequence[str] = (), stdio: Sequence[int] = (0, 1, 2), seccomp: bytes = b"",
           mount_fds: Mapping[int, int] | None = None, host: plan.Host | None = None) -> tuple[int, int]:  # fmt: skip
    """Start one container and return (pid, pidfd) when execve has succeeded; the caller reaps it. Without `layers` the root is spec.root.path. Raises OSError in the words of
    the operation that failed. `spec` must be valid (spec.validate_spec); `paths.upper` and
    `paths.work` are empty directories used once."""

    def operations(status_fd: int) -> list:
        wanted = plan.Launch(spec, tuple(layers), paths.upper, paths.work, paths.root, tuple(cgroup_files), (), mount_fds or {}, tuple(stdio), False, status_fd, seccomp)
        return plan.plan_container(wanted, host or this_host(()))

    child = start(operations, clone_flags(spec))
    with child.status:
        try:
            child.status.send(b"go")
        except OSError:
            pass  # it has failed already; its reason can be read
        message, _ = read_status(child.status)
    if not message:
        return child.pid, child.pidfd
    os.close(child.pidfd)
    os.waitpid(child.pid, 0)
    raise OSError(message["errno"], message["message"])
