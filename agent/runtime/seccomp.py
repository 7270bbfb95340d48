"""Seccomp filters: our default profile and OCI linux.seccomp objects, compiled by libseccomp once and kept as BPF bytes in a file, which the zygote loads with prctl(2)
without any library. Called by records (the agent's side) and launch.

The default profile allows what programs use, refuses with EPERM what would reach outside a container, and answers ENOSYS to whatever it has not heard of, so that a newer
libc falls back. What a capability is needed for is allowed where the container has that capability.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import platform
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

VERSION = 1  # raise when the profile or the compilation changes: files of older ones are then left alone

_FILES = """
access faccessat faccessat2 chmod fchmod fchmodat fchmodat2 chown chown32 fchown fchown32 fchownat lchown lchown32 close close_range creat open openat openat2
dup dup2 dup3 fcntl fcntl64 flock fadvise64 fadvise64_64 arm_fadvise64_64 fallocate fsync fdatasync sync syncfs sync_file_range sync_file_range2 ftruncate ftruncate64
truncate truncate64 getcwd chdir fchdir getdents getdents64 link linkat symlink symlinkat readlink readlinkat unlink unlinkat rename renameat renameat2 mkdir mkdirat rmdir
mknod mknodat lseek _llseek read readv pread64 preadv preadv2 write writev pwrite64 pwritev pwritev2 readahead sendfile sendfile64 copy_file_range splice tee vmsplice
stat stat64 lstat lstat64 fstat fstat64 fstatat64 newfstatat statx statfs statfs64 fstatfs fstatfs64 umask utime utimes futimesat utimensat utimensat_time64 ustat
getxattr lgetxattr fgetxattr setxattr lsetxattr fsetxattr listxattr llistxattr flistxattr removexattr lremovexattr fremovexattr getxattrat setxattrat listxattrat removexattrat
name_to_handle_at inotify_init inotify_init1 inotify_add_watch inotify_rm_watch fanotify_mark ioctl pipe pipe2 memfd_create memfd_secret cachestat statmount listmount
landlock_create_ruleset landlock_add_rule landlock_restrict_self
"""
_MEMORY = """
brk mmap mmap2 munmap mremap mprotect madvise mincore msync mlock mlock2 munlock mlockall munlockall membarrier remap_file_pages process_mrelease map_shadow_stack mseal
pkey_alloc pkey_free pkey_mprotect shmat shmctl shmdt shmget ipc
"""
_PROCESSES = """
fork vfork execve execveat exit exit_group wait4 waitid waitpid kill tkill tgkill pidfd_open pidfd_send_signal getpid gettid getppid getpgid getpgrp setpgid getsid setsid
getuid getuid32 geteuid geteuid32 getgid getgid32 getegid getegid32 getresuid getresuid32 getresgid getresgid32 getgroups getgroups32 setuid setuid32 setgid setgid32
setreuid setreuid32 setregid setregid32 setresuid setresuid32 setresgid setresgid32 setgroups setgroups32 setfsuid setfsuid32 setfsgid setfsgid32 capget capset prctl
arch_prctl set_thread_area get_thread_area modify_ldt set_tid_address set_robust_list get_robust_list rseq restart_syscall seccomp ptrace process_vm_readv process_vm_writev
sched_yield sched_getaffinity sched_setaffinity sched_getattr sched_setattr sched_getparam sched_setparam sched_getscheduler sched_setscheduler sched_get_priority_max
sched_get_priority_min sched_rr_get_interval sched_rr_get_interval_time64 getpriority setpriority ioprio_get ioprio_set getrlimit ugetrlimit setrlimit prlimit64 getrusage
times uname sysinfo getcpu getrandom rt_sigaction rt_sigprocmask rt_sigpending rt_sigqueueinfo rt_tgsigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait
rt_sigtimedwait_time64 sigaltstack sigaction signal sigpending sigprocmask sigreturn sigsuspend pause alarm cacheflush breakpoint set_tls get_tls
riscv_flush_icache riscv_hwprobe uretprobe uprobe lsm_get_self_attr lsm_list_modules
"""
_TIME_AND_EVENTS = """
nanosleep clock_nanosleep clock_nanosleep_time64 clock_gettime clock_gettime64 clock_getres clock_getres_time64 gettimeofday time adjtimex clock_adjtime clock_adjtime64
getitimer setitimer timer_create timer_delete timer_gettime timer_gettime64 timer_settime timer_settime64 timer_getoverrun timerfd_create timerfd_gettime timerfd_gettime64
timerfd_settime timerfd_settime64 eventfd eventfd2 signalfd signalfd4 epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_wait epoll_wait_old epoll_pwait epoll_pwait2
poll ppoll ppoll_time64 select _newselect pselect6 pselect6_time64 futex futex_time64 futex_waitv futex_wake futex_wait futex_requeue
io_setup io_destroy io_submit io_cancel io_getevents io_pgetevents io_pgetevents_time64
mq_open mq_unlink mq_notify mq_getsetattr mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 msgctl msgget msgrcv msgsnd semctl semget semop semtimedop
semtimedop_time64
"""
_NETWORK = """
socketpair bind listen accept accept4 connect getsockname getpeername getsockopt setsockopt send sendto sendmsg sendmmsg recv recvfrom recvmsg recvmmsg recvmmsg_time64
shutdown socketcall
"""
_NAMESPACES = "clone3 setns unshare"
_BY_CAPABILITY = {
    "CAP_SYS_ADMIN": """bpf clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie mount mount_setattr move_mount open_tree open_tree_attr perf_event_open
        quotactl quotactl_fd setdomainname sethostname setns syslog umount umount2 unshare pivot_root""",
    "CAP_SYS_BOOT": "reboot",
    "CAP_SYS_CHROOT": "chroot",
    "CAP_SYS_MODULE": "delete_module init_module finit_module",
    "CAP_SYS_PACCT": "acct",
    "CAP_SYS_PTRACE": "kcmp pidfd_getfd process_madvise",
    "CAP_SYS_RAWIO": "iopl ioperm",
    "CAP_SYS_TIME": "settimeofday stime clock_settime clock_settime64",
    "CAP_SYS_TTY_CONFIG": "vhangup",
    "CAP_SYS_NICE": "get_mempolicy mbind set_mempolicy set_mempolicy_home_node migrate_pages move_pages",
    "CAP_SYSLOG": "syslog",
    "CAP_BPF": "bpf",
    "CAP_PERFMON": "perf_event_open",
    "CAP_DAC_READ_SEARCH": "open_by_handle_at",
}
_REFUSED = """
add_key keyctl request_key kexec_load kexec_file_load swapon swapoff nfsservctl userfaultfd io_uring_setup io_uring_enter io_uring_register pivot_root vm86 vm86old
"""
_NAMESPACE_FLAGS = tuple(1 << bit for bit in (17, 25, 26, 27, 28, 29, 30))  # CLONE_NEW* of clone(2); CLONE_NEWTIME is clone3's and unshare's alone
_PERSONALITIES = (0x0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)
_AF_VSOCK = 40
_ACTIONS = ("SCMP_ACT_KILL", "SCMP_ACT_KILL_THREAD", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_TRAP", "SCMP_ACT_ERRNO", "SCMP_ACT_LOG", "SCMP_ACT_ALLOW")
_OPERATORS = {f"SCMP_CMP_{n}": n for n in ("NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ")}


def cached(profile: str | Mapping[str, Any], capabilities: Sequence[str], folder: str) -> str:
    """The path of the compiled filter in `folder`, made there where it is not; "" for a profile that allows everything. Raises ValueError for a wrong profile, OSError."""
    if not isinstance(profile, str) and profile.get("defaultAction") == "SCMP_ACT_ALLOW" and not profile.get("syscalls"):
        return ""
    relevant = sorted(set(capabilities) & set(_BY_CAPABILITY)) if profile == "default" else []
    text = json.dumps([VERSION, platform.machine(), profile, relevant], sort_keys=True)
    path = os.path.join(folder, hashlib.sha256(text.encode()).hexdigest()[:32] + ".bpf")
    if os.path.exists(path):
        return path
    program = compile_default(relevant) if isinstance(profile, str) else compile_profile(profile)
    os.makedirs(folder, mode=0o700, exist_ok=True)
    fd, temporary = tempfile.mkstemp(dir=folder)
    with os.fdopen(fd, "wb") as f:
        f.write(program)
    os.rename(temporary, path)
    return path


def default_allowed(capabilities: Sequence[str]) -> set[str]:
    """Names that the default profile allows without looking at arguments."""
    names = set((_FILES + _MEMORY + _PROCESSES + _TIME_AND_EVENTS + _NETWORK).split())
    for capability in capabilities:
        names |= set(_BY_CAPABILITY.get(capability, "").split())
    return names


def compile_default(capabilities: Sequence[str]) -> bytes:
    """BPF bytes of the default profile for a container with these capabilities."""
    import pyseccomp

    allowed = default_allowed(capabilities)
    f = pyseccomp.SyscallFilter(pyseccomp.ERRNO(errno.ENOSYS))
    _prepare(f, pyseccomp, _architectures(pyseccomp))
    gated = {n for names in _BY_CAPABILITY.values() for n in names.split()}
    for name in sorted(allowed):
        _add(f, pyseccomp.ALLOW, name)
    for name in sorted((gated | set(_REFUSED.split()) | set(_NAMESPACES.split())) - allowed - {"clone3"}):
        _add(f, pyseccomp.ERRNO(errno.EPERM), name)
    if "CAP_SYS_ADMIN" in capabilities:
        _add(f, pyseccomp.ALLOW, "clone")
    else:  # clone3's flags are out of a filter's sight: ENOSYS makes libcs use clone
        flags_at = 1 if platform.machine() == "s390x" else 0
        _add(f, pyseccomp.ALLOW, "clone", pyseccomp.Arg(flags_at, pyseccomp.MASKED_EQ, sum(_NAMESPACE_FLAGS), 0))
        for flag in _NAMESPACE_FLAGS:
            _add(f, pyseccomp.ERRNO(errno.EPERM), "clone", pyseccomp.Arg(flags_at, pyseccomp.MASKED_EQ, flag, flag))
    for value in _PERSONALITIES:
        _add(f, pyseccomp.ALLOW, "personality", pyseccomp.Arg(0, pyseccomp.EQ, value))
    _add(f, pyseccomp.ALLOW, "socket", pyseccomp.Arg(0, pyseccomp.NE, _AF_VSOCK))
    _add(f, pyseccomp.ERRNO(errno.EPERM), "socket", pyseccomp.Arg(0, pyseccomp.EQ, _AF_VSOCK))
    return _export(f)


def compile_profile(profile: Mapping[str, Any]) -> bytes:
    """BPF bytes of an OCI linux.seccomp object (runtime-spec config-linux.md, seccomp). Raises ValueError that names the field."""
    import pyseccomp

    where = "linux.seccomp"
    f = pyseccomp.SyscallFilter(_action(pyseccomp, f"{where}.defaultAction", profile.get("defaultAction"), profile.get("defaultErrnoRet")))
    wanted = []
    for i, name in enumerate(profile.get("architectures") or ()):
        arch = getattr(pyseccomp.Arch, name.removeprefix("SCMP_ARCH_"), None)
        if arch is None:
            raise ValueError(f"{where}.architectures[{i}]: unknown architecture {name!r}")
        wanted.append(arch)
    _prepare(f, pyseccomp, wanted)
    for i, rule in enumerate(profile.get("syscalls") or ()):
        action = _action(pyseccomp, f"{where}.syscalls[{i}].action", rule.get("action"), rule.get("errnoRet"))
        arguments = []
        for j, a in enumerate(rule.get("args") or ()):
            operator = _OPERATORS.get(a.get("op", ""))
            if operator is None:
                raise ValueError(f"{where}.syscalls[{i}].args[{j}].op: unknown operator {a.get('op')!r}")
            values = (a["value"], a.get("valueTwo", 0)) if operator == "MASKED_EQ" else (a["value"],)
            arguments.append(pyseccomp.Arg(a["index"], getattr(pyseccomp, operator), *values))
        for name in rule.get("names") or ():
            if action != f._defaction:  # libseccomp refuses a rule that changes nothing
                _add(f, action, name, *arguments)
    return _export(f)


def _action(pyseccomp: Any, where: str, name: Any, errno_ret: int | None) -> int:
    if name not in _ACTIONS:
        raise ValueError(f"{where}: must be one of {', '.join(_ACTIONS)}, is {name!r}")
    short = name.removeprefix("SCMP_ACT_")
    if short == "ERRNO":
        return pyseccomp.ERRNO(errno.EPERM if errno_ret is None else errno_ret)
    return {"KILL": pyseccomp.KILL, "KILL_THREAD": pyseccomp.KILL, "KILL_PROCESS": pyseccomp.KILL_PROCESS, "TRAP": pyseccomp.TRAP, "LOG": pyseccomp.LOG, "ALLOW": pyseccomp.ALLOW}[short]


def _architectures(pyseccomp: Any) -> list[Any]:
    """The native one is always there; its 32-bit sibling beside it, so that images with 32-bit programs work."""
    return {"x86_64": [pyseccomp.Arch.X86], "aarch64": [pyseccomp.Arch.ARM]}.get(platform.machine(), [])


def _prepare(f: Any, pyseccomp: Any, architectures: Sequence[Any]) -> None:
    f.set_attr(pyseccomp.Attr.CTL_NNP, 0)  # whether no_new_privs is set is the spec's to say
    f.set_attr(pyseccomp.Attr.ACT_BADARCH, pyseccomp.ERRNO(errno.ENOSYS))
    for arch in architectures:
        if not f.exist_arch(arch):
            f.add_arch(arch)
    f.set_attr(pyseccomp.Attr.CTL_OPTIMIZE, 2)  # a binary tree instead of a chain


def _add(f: Any, action: int, name: str, *arguments: Any) -> None:
    """A name that this libseccomp does not know is passed over: the default action covers it. Raises ValueError."""
    import pyseccomp

    try:
        if pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, name) == -1:
            return
    except (OSError, ValueError):
        return
    try:
        f.add_rule(action, name, *arguments)
    except OSError as e:
        raise ValueError(f"linux.seccomp: cannot add a rule for {name}: {e.strerror or e}") from e


def _export(f: Any) -> bytes:
    fd = os.memfd_create("seccomp")
    with os.fdopen(fd, "wb+") as out:
        f.export_bpf(out)
        out.seek(0)
        return out.read()
