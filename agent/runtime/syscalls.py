"""The system calls that Python 3.11's os lacks, through ctypes, and nothing else: no policy, no state. Every failure is an OSError whose text is "cannot X: cause".

PyDLL keeps the GIL over the call: 0.25 µs for a simple one, and after clone3 the child finds its interpreter as the parent left it. Standard library only: the zygote
imports this. Numbers: linux/mount.h, linux/prctl.h, linux/sched.h, asm/unistd.h (calls since 5.1 have the same number on every architecture).
"""

from __future__ import annotations

import ctypes
import os

_libc = ctypes.PyDLL(None, use_errno=True)
_int, _long, _ulong, _char_p, _void_p, _uint = ctypes.c_int, ctypes.c_long, ctypes.c_ulong, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_uint

CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS, CLONE_NEWIPC = 0x20000, 0x2000000, 0x4000000, 0x8000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
CLONE_PIDFD, CLONE_INTO_CGROUP = 0x1000, 0x200000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_NOATIME, MS_BIND, MS_MOVE, MS_REC = 1, 2, 4, 8, 32, 1024, 4096, 8192, 16384
MS_PRIVATE, MS_SLAVE, MS_SHARED, MS_RELATIME, MS_STRICTATIME, MS_UNBINDABLE = 1 << 18, 1 << 19, 1 << 20, 1 << 21, 1 << 24, 1 << 17
MNT_DETACH = 2
MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOATIME = 1, 2, 4, 8, 0x10
AT_FDCWD, AT_EMPTY_PATH, AT_RECURSIVE = -100, 0x1000, 0x8000
OPEN_TREE_CLONE, OPEN_TREE_CLOEXEC = 1, os.O_CLOEXEC
MOVE_MOUNT_F_EMPTY_PATH, MOVE_MOUNT_T_SYMLINKS = 4, 0x10
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_KEEPCAPS, PR_SET_SECCOMP, PR_CAPBSET_READ, PR_CAPBSET_DROP = 1, 4, 8, 22, 23, 24
PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT, PR_SET_CHILD_SUBREAPER, PR_SET_NAME = 38, 47, 36, 15
PR_CAP_AMBIENT_RAISE, PR_CAP_AMBIENT_CLEAR_ALL = 2, 4
CLOSE_RANGE_CLOEXEC = 4
_CLONE3, _OPEN_TREE, _MOVE_MOUNT, _CLOSE_RANGE, _MOUNT_SETATTR = 435, 428, 429, 436, 442
_ARCH = {"x86_64": (155, 321, 13), "aarch64": (41, 280, 134)}
try:
    _PIVOT_ROOT, _BPF, _RT_SIGACTION = _ARCH[os.uname().machine]
except KeyError:
    raise ImportError(f"the container runtime has no system call numbers for {os.uname().machine}") from None


def _function(name: str, *argtypes: type, restype: type = _int) -> ctypes._FuncPointer:
    function = _libc[name]  # a new object each time: syscall(2) gets one per signature
    function.argtypes = argtypes
    function.restype = restype
    return function


_mount = _function("mount", _char_p, _char_p, _char_p, _ulong, _char_p)
_umount2 = _function("umount2", _char_p, _int)
_unshare = _function("unshare", _int)
_setns = _function("setns", _int, _int)
_prctl = _function("prctl", _int, _ulong, _ulong, _ulong, _ulong)
_capset = _function("capset", _void_p, _void_p)
_capget = _function("capget", _void_p, _void_p)
_prlimit = _function("prlimit64", _int, _int, _void_p, _void_p)
_sethostname = _function("sethostname", _char_p, ctypes.c_size_t)
_setdomainname = _function("setdomainname", _char_p, ctypes.c_size_t)
_clone3 = _function("syscall", _long, _void_p, ctypes.c_size_t, restype=_long)
_pivot_root = _function("syscall", _long, _char_p, _char_p, restype=_long)
_open_tree = _function("syscall", _long, _int, _char_p, _uint, restype=_long)
_move_mount = _function("syscall", _long, _int, _char_p, _int, _char_p, _uint, restype=_long)
_mount_setattr = _function("syscall", _long, _int, _char_p, _uint, _void_p, ctypes.c_size_t, restype=_long)
_close_range = _function("syscall", _long, _uint, _uint, _uint, restype=_long)
_bpf = _function("syscall", _long, _int, _void_p, _uint, restype=_long)


def _fail(what: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"cannot {what}: {os.strerror(number).lower()}")


class CloneArgs(ctypes.Structure):
    """struct clone_args, clone(2)."""

    _fields_ = [
        (n, ctypes.c_uint64)
        for n in ("flags", "pidfd", "child_tid", "parent_tid", "exit_signal", "stack", "stack_size", "tls", "set_tid", "set_tid_size", "cgroup")
    ]


def clone3(flags: int, cgroup_fd: int = -1) -> tuple[int, int]:
    """(pid, pidfd) in the parent, (0, -1) in the child. Only from a single-threaded process; the child must end in execve or os._exit. clone(2)."""
    pidfd = ctypes.c_int(-1)
    args = CloneArgs(flags=flags | CLONE_PIDFD, pidfd=ctypes.addressof(pidfd), exit_signal=17)
    if cgroup_fd >= 0:
        args.flags |= CLONE_INTO_CGROUP
        args.cgroup = cgroup_fd
    pid = _clone3(_CLONE3, ctypes.byref(args), ctypes.sizeof(args))
    if pid < 0:
        raise _fail(f"clone3 with flags {flags:#x}")
    return (pid, pidfd.value) if pid else (0, -1)


def unshare(flags: int) -> None:
    if _unshare(flags):
        raise _fail(f"unshare namespaces {flags:#x}")


def setns(fd: int, flags: int = 0) -> None:
    """setns(2): `fd` is an nsfs file, or a pidfd with several flags (Linux 5.8)."""
    if _setns(fd, flags):
        raise _fail(f"join namespace {flags:#x}")


def mount(source: str, target: str, fstype: str, flags: int = 0, data: str = "") -> None:
    if _mount(os.fsencode(source) or None, os.fsencode(target), fstype.encode() or None, flags, os.fsencode(data) or None):
        raise _fail(f"mount {fstype or source} at {target}" + (f" with {data[:200]}" if data else ""))


def umount(target: str, flags: int = MNT_DETACH) -> None:
    if _umount2(os.fsencode(target), flags):
        raise _fail(f"unmount {target}")


def pivot_root(new_root: str, put_old: str) -> None:
    if _pivot_root(_PIVOT_ROOT, os.fsencode(new_root), os.fsencode(put_old)) < 0:
        raise _fail(f"pivot_root to {new_root}")


def open_tree(path: str, *, dirfd: int = AT_FDCWD, recursive: bool = True, clone: bool = True) -> int:
    """A detached copy of the mount (tree) at `path` as a descriptor: it can be moved into another mount namespace. open_tree(2), Linux 5.2."""
    flags = OPEN_TREE_CLOEXEC | (OPEN_TREE_CLONE if clone else 0) | (AT_RECURSIVE if recursive and clone else 0) | (AT_EMPTY_PATH if not path else 0)
    fd = _open_tree(_OPEN_TREE, dirfd, os.fsencode(path), flags)
    if fd < 0:
        raise _fail(f"open the mount tree of {path}")
    return fd


def move_mount(fd: int, target: str) -> None:
    """Attach a detached mount at `target`, through symlinks as mount(2) goes. move_mount(2), Linux 5.2."""
    if _move_mount(_MOVE_MOUNT, fd, b"", AT_FDCWD, os.fsencode(target), MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_SYMLINKS) < 0:
        raise _fail(f"mount at {target}")


class _MountAttr(ctypes.Structure):
    _fields_ = [("attr_set", ctypes.c_uint64), ("attr_clr", ctypes.c_uint64), ("propagation", ctypes.c_uint64), ("userns_fd", ctypes.c_uint64)]


def mount_setattr(path: str, attr_set: int, *, attr_clr: int = 0, propagation: int = 0, dirfd: int = AT_FDCWD, recursive: bool = False) -> None:
    """mount_setattr(2), Linux 5.12. With path "" the mount that `dirfd` stands for."""
    attr = _MountAttr(attr_set, attr_clr, propagation, 0)
    flags = (AT_RECURSIVE if recursive else 0) | (AT_EMPTY_PATH if not path else 0)
    if _mount_setattr(_MOUNT_SETATTR, dirfd, os.fsencode(path), flags, ctypes.byref(attr), ctypes.sizeof(attr)) < 0:
        raise _fail(f"set mount attributes {attr_set:#x} on {path or f'mount {dirfd}'}")


def prctl(option: int, arg2: int = 0, arg3: int = 0, arg4: int = 0, arg5: int = 0) -> int:
    result = _prctl(option, arg2, arg3, arg4, arg5)
    if result < 0:
        raise _fail(f"prctl({option}, {arg2})")
    return result


def set_name(name: str) -> None:
    """The process name that ps shows; at most 15 bytes."""
    buffer = ctypes.create_string_buffer(name.encode()[:15])
    prctl(PR_SET_NAME, ctypes.addressof(buffer))


class _CapHeader(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


_CapData = ctypes.c_uint32 * 6  # effective, permitted, inheritable of caps 0–31, then of 32–63
_CAPABILITY_VERSION_3 = 0x20080522


def capset(effective: int, permitted: int, inheritable: int) -> None:
    """Bit masks, bit = capability's number; capset(2)."""
    low = 0xFFFFFFFF
    header = _CapHeader(_CAPABILITY_VERSION_3, 0)
    data = _CapData(effective & low, permitted & low, inheritable & low, effective >> 32, permitted >> 32, inheritable >> 32)
    if _capset(ctypes.byref(header), ctypes.byref(data)):
        raise _fail(f"set capabilities {permitted:#x}")


def capget() -> tuple[int, int, int]:
    """(effective, permitted, inheritable) of this process as bit masks."""
    header = _CapHeader(_CAPABILITY_VERSION_3, 0)
    d = _CapData()
    if _capget(ctypes.byref(header), ctypes.byref(d)):
        raise _fail("read capabilities")
    return d[0] | d[3] << 32, d[1] | d[4] << 32, d[2] | d[5] << 32


def bounding_set() -> int:
    """Bit mask of the capability bounding set."""
    mask = 0
    for number in range(64):
        if _prctl(PR_CAPBSET_READ, number, 0, 0, 0) == 1:
            mask |= 1 << number
    return mask


class _SockFprog(ctypes.Structure):
    _fields_ = [("len", ctypes.c_ushort), ("filter", _void_p)]


def load_seccomp(program: bytes) -> None:
    """Install a classic BPF filter (struct sock_filter, 8 bytes each) on this process; seccomp(2). Needs no_new_privs or CAP_SYS_ADMIN."""
    buffer = ctypes.create_string_buffer(program, len(program))
    fprog = _SockFprog(len(program) // 8, ctypes.addressof(buffer))
    if _prctl(PR_SET_SECCOMP, 2, ctypes.addressof(fprog), 0, 0):
        raise _fail("load the seccomp filter")


_rt_sigaction = _function("syscall", _long, ctypes.c_int, _void_p, _void_p, ctypes.c_size_t, restype=_long)


def default_signal(number: int) -> None:
    """rt_sigaction(2) to SIG_DFL past the C library, which keeps 32 and 33 to itself: an ignored one is inherited all the same. An all-zero struct sigaction is SIG_DFL."""
    action = ctypes.create_string_buffer(32)
    if _rt_sigaction(_RT_SIGACTION, number, action, None, 8) < 0:
        raise _fail(f"reset signal {number}")


def close_range(first: int, last: int = 0xFFFFFFFF, flags: int = 0) -> None:
    if _close_range(_CLOSE_RANGE, first, last, flags) < 0:
        raise _fail(f"close descriptors from {first}")


class _Rlimit(ctypes.Structure):
    _fields_ = [("soft", ctypes.c_uint64), ("hard", ctypes.c_uint64)]


def setrlimit(number: int, soft: int, hard: int) -> None:
    """Negative: no limit. (The resource module would cost the zygote 0.2 MB.)"""
    limit = _Rlimit(soft & 0xFFFFFFFFFFFFFFFF, hard & 0xFFFFFFFFFFFFFFFF)
    if _prlimit(0, number, ctypes.byref(limit), None):
        raise _fail(f"set resource limit {number} to {soft}:{hard}")


def sethostname(name: str) -> None:
    data = name.encode()
    if _sethostname(data, len(data)):
        raise _fail(f"set the host name to {name!r}")


def setdomainname(name: str) -> None:
    data = name.encode()
    if _setdomainname(data, len(data)):
        raise _fail(f"set the domain name to {name!r}")


def bpf(command: int, attr: bytes) -> int:
    """bpf(2) with a ready union bpf_attr (pointers in it must stay alive in the caller)."""
    buffer = ctypes.create_string_buffer(attr, len(attr))
    result = _bpf(_BPF, command, ctypes.addressof(buffer), len(attr))
    if result < 0:
        raise _fail(f"bpf({command})")
    return result
