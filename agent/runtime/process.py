"""The last steps in the child, the same for a container's init and for an exec: terminal, stdio, limits, identity, capabilities, seccomp, execve. Values with `describe` and
`execute`, like operations.py. Error texts of the exec are those that users of runc and containerd know. Standard library only.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import socket
import stat
import termios
from collections import namedtuple

from agent.runtime import syscalls, users

NO_GO_EXIT_CODE = 254  # of a child that never got to execve: its parent died before it could say "go", or its set-up failed
_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_TIOCGPTPEER, _TIOCSPTLCK, _TIOCGPTN = 0x5441, 0x40045431, 0x80045430


class Terminal(namedtuple("Terminal", "status_fd console rows columns")):
    """A pty from the container's own devpts: the master goes to the parent, the slave becomes stdio and, for a container's init, /dev/console. tty_ioctl(4)."""

    __slots__ = ()

    def describe(self) -> str:
        return "open a terminal"

    def execute(self) -> None:
        master = os.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
        fcntl.ioctl(master, _TIOCSPTLCK, b"\0\0\0\0")
        slave = fcntl.ioctl(master, _TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
        if self.rows and self.columns:
            termios.tcsetwinsize(slave, (self.rows, self.columns))
        if self.console:
            number = int.from_bytes(fcntl.ioctl(master, _TIOCGPTN, b"\0\0\0\0"), "little")
            os.close(os.open("/dev/console", os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o620))
            syscalls.mount(f"/dev/pts/{number}", "/dev/console", "", syscalls.MS_BIND)
        with socket.socket(fileno=os.dup(self.status_fd)) as status:
            socket.send_fds(status, [b'{"terminal":true}'], [master])
        os.close(master)
        os.setsid()
        fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
        for target in (0, 1, 2):
            os.dup2(slave, target)
        os.close(slave)


class Stdio(namedtuple("Stdio", "fds")):
    """stdin, stdout, stderr; -1 becomes the container's /dev/null."""

    __slots__ = ()

    def describe(self) -> str:
        return f"stdio from descriptors {list(self.fds)}"

    def execute(self) -> None:
        os.setsid()
        null = -1
        high = []
        for fd in self.fds:
            if fd < 0 and null < 0:
                null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
            high.append(fcntl.fcntl(null if fd < 0 else fd, fcntl.F_DUPFD_CLOEXEC, 10))
        for target, fd in enumerate(high):
            os.dup2(fd, target)


class CloseDescriptors(namedtuple("CloseDescriptors", "status_fd")):
    """Closes what the zygote holds, before the image chooses any path that /proc/self/fd could be part of."""

    __slots__ = ()

    def describe(self) -> str:
        return "close inherited descriptors"

    def execute(self) -> None:
        if self.status_fd > 3:
            syscalls.close_range(3, self.status_fd - 1)
        syscalls.close_range(self.status_fd + 1)


class Limits(namedtuple("Limits", "rlimits oom_score_adj")):
    """`rlimits`: (resource number, name, soft, hard). Lowering the OOM score below the parent's needs CAP_SYS_RESOURCE; where even root lacks it the score stays."""

    __slots__ = ()

    def describe(self) -> str:
        limits = ", ".join(f"{name}={soft}:{hard}" for _, name, soft, hard in self.rlimits)
        return f"set limits {limits}" + ("" if self.oom_score_adj is None else f" oom_score_adj={self.oom_score_adj}")

    def execute(self) -> None:
        if self.oom_score_adj is not None:
            fd = os.open("/proc/self/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(fd, str(self.oom_score_adj).encode())
            except PermissionError:
                if syscalls.capget()[0] >> 24 & 1:
                    raise
            finally:
                os.close(fd)
        for number, name, soft, hard in self.rlimits:
            try:
                syscalls.setrlimit(number, soft, hard)
            except OSError as e:
                raise OSError(e.errno, f"cannot set {name} to {soft}:{hard}: {os.strerror(e.errno or 0).lower()}") from e


class WaitForGo(namedtuple("WaitForGo", "status_fd")):
    """The parent has written down this process: from here on a parent that dies leaves a container that its successor knows."""

    __slots__ = ()

    def describe(self) -> str:
        return "wait until the parent has recorded this process"

    def execute(self) -> None:
        if os.read(self.status_fd, 16) != b"go":
            os._exit(NO_GO_EXIT_CODE)


class Become(namedtuple("Become", "user env cwd groups_allowed capabilities bounding_drop no_new_privs seccomp args")):
    """Identity, working directory, capabilities, seccomp, execve: never returns. `capabilities`: masks of (effective, permitted, inheritable, ambient)."""

    __slots__ = ()

    def describe(self) -> str:
        return f"run {list(self.args)} in {self.cwd} as {self.user}"

    def execute(self) -> None:
        env = dict(v.split("=", 1) for v in self.env)
        if users.needs_databases(self.user, "HOME" in env):
            who = users.resolve(self.user, users.read_database("/etc/passwd"), users.read_database("/etc/group"))
        else:
            gid = self.user.get("gid") or 0
            who = users.Identity(self.user.get("uid") or 0, gid, sorted({gid, *(self.user.get("additionalGids") or ())}), "/")
        env.setdefault("HOME", who.home)
        self._enter_cwd()
        self._own_stdio(who.uid)
        if self.seccomp and not self.no_new_privs:
            syscalls.load_seccomp(self.seccomp)  # while CAP_SYS_ADMIN is still there
        self._take_identity(who)
        if self.no_new_privs:
            syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
            if self.seccomp:
                syscalls.load_seccomp(self.seccomp)
        run(self.args, env)

    def _enter_cwd(self) -> None:
        try:
            os.chdir(self.cwd)
        except OSError as e:
            raise OSError(e.errno, f'chdir to cwd ("{self.cwd}") set in config.json failed: {os.strerror(e.errno or 0).lower()}') from e
        if not os.getcwd().startswith("/"):  # "(unreachable)": outside this root, getcwd(3)
            raise OSError(errno.EACCES, f"cannot enter working directory {self.cwd}: it is outside the container")

    def _own_stdio(self, uid: int) -> None:
        """So that a non-root process can reopen /dev/stdout, which leads to its FIFO or terminal."""
        if uid:
            for fd in (0, 1, 2):
                s = os.fstat(fd)
                if s.st_uid != uid and not (stat.S_ISCHR(s.st_mode) and s.st_rdev == os.makedev(1, 3)):
                    os.fchown(fd, uid, -1)

    def _take_identity(self, who: users.Identity) -> None:
        effective, permitted, inheritable, ambient = self.capabilities
        for number in self.bounding_drop:
            syscalls.prctl(syscalls.PR_CAPBSET_DROP, number)
        if who.uid:
            syscalls.prctl(syscalls.PR_SET_KEEPCAPS, 1)
        if self.groups_allowed:
            os.setgroups(who.groups)
        os.setresgid(who.gid, who.gid, who.gid)
        os.setresuid(who.uid, who.uid, who.uid)
        syscalls.capset(effective, permitted, inheritable)
        for number in range(64):
            if ambient >> number & 1:
                syscalls.prctl(syscalls.PR_CAP_AMBIENT, syscalls.PR_CAP_AMBIENT_RAISE, number)
        umask = self.user.get("umask")
        os.umask(0o022 if umask is None else umask)


_LIBC_OWN = (32, 33)  # nptl(7)
_RESETTABLE = sorted(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP})


def reset_signals() -> None:
    """An ignored signal stays so over execve: Python ignores SIGPIPE and SIGXFSZ, and who started us in the background SIGINT and SIGQUIT (Ctrl-C in a container's terminal)."""
    for number in _RESETTABLE:
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    for reserved in _LIBC_OWN:
        syscalls.default_signal(reserved)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def run(args: tuple, env: dict) -> None:
    """execve with a look-up in the container's own PATH. Returns never; raises OSError in runc's words."""
    reset_signals()
    name = args[0]
    if "/" in name:
        _execute(name, args, env)
    refused = False
    folders = (env.get("PATH") or _DEFAULT_PATH).split(":")
    for folder in folders:
        try:
            os.execve(f"{folder or '.'}/{name}", args, env)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except PermissionError:
            refused = True
        except OSError as e:
            raise OSError(e.errno, f"exec {folder or '.'}/{name}: {os.strerror(e.errno or 0).lower()}") from None
    for folder in folders:
        if os.path.isfile(f"{folder or '.'}/{name}"):
            if refused:
                raise OSError(errno.EACCES, f'exec: "{name}": permission denied')
            raise OSError(errno.ENOENT, f"exec {folder or '.'}/{name}: no such file or directory")  # its interpreter is what is missing
    raise OSError(errno.ENOENT, f'exec: "{name}": executable file not found in $PATH')


def _execute(name: str, args: tuple, env: dict) -> None:
    try:
        os.execve(name, args, env)
    except OSError as e:
        try:
            mode = os.stat(name).st_mode
        except OSError as missing:
            raise OSError(missing.errno, f'exec: "{name}": stat {name}: {os.strerror(missing.errno or 0).lower()}') from None
        if stat.S_ISDIR(mode):
            raise OSError(errno.EISDIR, f'exec: "{name}": is a directory') from None
        if e.errno == errno.EACCES:
            raise OSError(errno.EACCES, f'exec: "{name}": permission denied') from None
        raise OSError(e.errno, f"exec {name}: {os.strerror(e.errno or 0).lower()}") from None
