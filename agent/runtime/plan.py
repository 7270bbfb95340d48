"""From a container's record to the list of operations that make it, in the order in which the kernel wants them. Pure; standard library only. Callers: containers.py in the
zygote, and launch.

Order: cgroups first (so that all memory is charged), the pod's namespaces, then the cgroup namespace (unshared after joining, else /proc/self/cgroup shows host paths), the
root, pivot_root, and everything else inside it.
"""

from __future__ import annotations

from collections import namedtuple

from agent.runtime import capabilities, process
from agent.runtime import operations as op
from agent.runtime import syscalls as sc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

# What the launching process is and may do: capability masks, and the v1 hierarchies as (directory, mount options, links), None on cgroup v2.
Host = namedtuple("Host", "bounding permitted hierarchies")
# One start. `namespace_fds`: nsfs descriptors to join; `mount_fds`: {index in spec.mounts: detached tree}; `stdio`: three descriptors, -1 = /dev/null; `seccomp`: BPF bytes.
Launch = namedtuple("Launch", "spec layers upper work root cgroup_files namespace_fds mount_fds stdio tty status_fd seccomp")

# asm-generic/resource.h: the same on every architecture that syscalls.py knows
RLIMIT_NUMBERS = {
    f"RLIMIT_{name}": number
    for number, name in enumerate(
        ("CPU", "FSIZE", "DATA", "STACK", "CORE", "RSS", "NPROC", "NOFILE", "MEMLOCK", "AS", "LOCKS", "SIGPENDING", "MSGQUEUE", "NICE", "RTPRIO", "RTTIME")
    )
}
NAMESPACE_FLAGS = {
    "mount": sc.CLONE_NEWNS,
    "pid": sc.CLONE_NEWPID,
    "network": sc.CLONE_NEWNET,
    "ipc": sc.CLONE_NEWIPC,
    "uts": sc.CLONE_NEWUTS,
    "cgroup": sc.CLONE_NEWCGROUP,
}
_FLAGS = {
    "ro": sc.MS_RDONLY, "nosuid": sc.MS_NOSUID, "nodev": sc.MS_NODEV, "noexec": sc.MS_NOEXEC, "noatime": sc.MS_NOATIME, "relatime": sc.MS_RELATIME,
    "strictatime": sc.MS_STRICTATIME,
}  # fmt: skip
_ATTRIBUTES = {
    "ro": sc.MOUNT_ATTR_RDONLY, "nosuid": sc.MOUNT_ATTR_NOSUID, "nodev": sc.MOUNT_ATTR_NODEV, "noexec": sc.MOUNT_ATTR_NOEXEC, "noatime": sc.MOUNT_ATTR_NOATIME,
}  # fmt: skip
_PROPAGATION = {"private": sc.MS_PRIVATE, "slave": sc.MS_SLAVE, "shared": sc.MS_SHARED, "unbindable": sc.MS_UNBINDABLE}
_PROPAGATION |= {f"r{name}": flag | sc.MS_REC for name, flag in _PROPAGATION.items()}
_NEUTRAL = {"rw", "suid", "dev", "exec", "atime", "defaults", "bind", "rbind", "async"}
_SHARED_SUPERBLOCK = ("sysfs", "cgroup", "cgroup2", "mqueue")
Options = namedtuple("Options", "flags attributes recursive_attributes propagation data bind")

_DEVICES = (("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0))
DEFAULT_DEVICES = tuple((f"/dev/{name}", "c", major, minor, 0o666, 0, 0) for name, major, minor in _DEVICES)
_LINKS = (("/dev/fd", "/proc/self/fd"), ("/dev/stdin", "/proc/self/fd/0"), ("/dev/stdout", "/proc/self/fd/1"), ("/dev/stderr", "/proc/self/fd/2"), ("/dev/ptmx", "pts/ptmx"))


def parse_options(options: Sequence[str]) -> Options:
    """OCI mount options; what is none of the kernel's flags is data for the file system. `rro` & co. apply to the whole tree (OCI runtime-spec 1.1)."""
    flags = attributes = recursive = propagation = 0
    data = []
    for option in options:
        if option in _FLAGS:
            flags |= _FLAGS[option]
            attributes |= _ATTRIBUTES.get(option, 0)
        elif option in _PROPAGATION:
            propagation = _PROPAGATION[option]
        elif option[:1] == "r" and option[1:] in _ATTRIBUTES:
            recursive |= _ATTRIBUTES[option[1:]]
        elif option not in _NEUTRAL:
            data.append(option)
    return Options(flags, attributes, recursive, propagation, ",".join(data), "bind" in options or "rbind" in options)


def capability_mask(names: Sequence[str] | None) -> int:
    return sum(1 << capabilities.NUMBERS[name] for name in set(names or ()))


def namespaces(spec: Mapping[str, Any]) -> int:
    """CLONE_NEW* of the namespaces that the spec asks for without a path."""
    return sum(NAMESPACE_FLAGS[n["type"]] for n in (spec.get("linux") or {}).get("namespaces") or ())


def plan_container(launch: Launch, host: Host) -> list:
    """Operations for a child that was cloned with its own mount (and where asked for pid) namespace."""
    spec = launch.spec
    linux = spec.get("linux") or {}
    ops: list = []
    if launch.cgroup_files:
        ops.append(op.JoinCgroups(tuple(launch.cgroup_files)))
    if launch.namespace_fds:
        ops.append(op.JoinNamespaces(tuple(launch.namespace_fds), 0))
    if namespaces(spec) & sc.CLONE_NEWCGROUP:
        ops.append(op.Unshare(sc.CLONE_NEWCGROUP))
    if spec.get("hostname"):
        ops.append(op.SetHostname(spec["hostname"]))
    if launch.layers:
        ops.append(op.MountOverlay(tuple(launch.layers), launch.upper, launch.work, launch.root))
    else:
        ops.append(op.BindRoot(spec["root"]["path"], launch.root))
    ops.append(op.PivotRoot(launch.root))
    ops += _plan_mounts(launch, host)
    if linux.get("sysctl"):
        ops.append(op.Sysctl(tuple(linux["sysctl"].items())))
    if linux.get("readonlyPaths"):
        ops.append(op.ReadonlyPaths(tuple(linux["readonlyPaths"])))
    if linux.get("maskedPaths"):
        ops.append(op.MaskPaths(tuple(linux["maskedPaths"])))
    process_spec = spec["process"]
    cwd = process_spec.get("cwd") or "/"
    if cwd != "/":
        ops.append(op.EnsureDirectory(cwd))
    ops += _plan_stdio(launch.tty, launch.stdio, launch.status_fd, process_spec, console=True)
    if (spec.get("root") or {}).get("readonly"):
        ops.append(op.SetAttributes("/", sc.MOUNT_ATTR_RDONLY))
    ops += plan_process(process_spec, launch.seccomp, launch.status_fd, host)
    return ops


def _plan_mounts(launch: Launch, host: Host) -> list:
    ops: list = []
    for i, mount in enumerate(launch.spec.get("mounts") or ()):
        target, fstype, options = mount["destination"], mount.get("type", ""), parse_options(mount.get("options") or ())
        if i in launch.mount_fds:
            ops.append(op.AttachTree(launch.mount_fds[i], target, options.attributes, options.recursive_attributes, options.propagation))
            continue
        if fstype in _SHARED_SUPERBLOCK:
            flags, attributes = options.flags & ~sc.MS_RDONLY, options.attributes & sc.MOUNT_ATTR_RDONLY
        else:
            flags, attributes = options.flags, 0
        if fstype == "cgroup" and host.hierarchies is None:
            fstype = "cgroup2"
        if fstype == "cgroup":
            ops.append(op.MountCgroups(target, host.hierarchies, flags, attributes))
        else:
            ops.append(op.Mount(mount.get("source") or fstype, target, fstype, flags, options.data, attributes))
        if target == "/dev":
            ops.append(_plan_devices(launch.spec))
    return ops


def _plan_devices(spec: Mapping[str, Any]) -> op.MakeDevices:
    """The six that OCI demands (runtime-spec config-linux.md, Default Devices) and the spec's own."""
    wanted = {d[0]: d for d in DEFAULT_DEVICES}
    for d in (spec.get("linux") or {}).get("devices") or ():
        mode = d.get("fileMode")
        wanted[d["path"]] = (d["path"], d["type"], d.get("major", 0), d.get("minor", 0), 0o666 if mode is None else mode, d.get("uid") or 0, d.get("gid") or 0)
    return op.MakeDevices(tuple(wanted.values()), _LINKS)


def _plan_stdio(tty: bool, stdio: Sequence[int], status_fd: int, process_spec: Mapping[str, Any], *, console: bool) -> list:
    if not tty:
        return [process.Stdio(tuple(stdio))]
    size = process_spec.get("consoleSize") or {}
    return [process.Terminal(status_fd, console, size.get("height", 0), size.get("width", 0))]


def plan_process(process_spec: Mapping[str, Any], seccomp: bytes, status_fd: int, host: Host) -> list:
    """From closed descriptors to execve."""
    sets = process_spec.get("capabilities") or {}
    masks = {name: capability_mask(sets.get(name)) & host.permitted for name in ("bounding", "effective", "permitted", "inheritable", "ambient")}
    drop = tuple(n for n in capabilities.NUMBERS.values() if host.bounding >> n & 1 and not masks["bounding"] >> n & 1)
    limits = tuple((RLIMIT_NUMBERS[limit["type"]], limit["type"], limit["soft"], limit["hard"]) for limit in process_spec.get("rlimits") or ())
    ops: list = [process.CloseDescriptors(status_fd)]
    if limits or process_spec.get("oomScoreAdj") is not None:
        ops.append(process.Limits(limits, process_spec.get("oomScoreAdj")))
    ops.append(process.WaitForGo(status_fd))
    ops.append(
        process.Become(
            user=process_spec.get("user") or {},
            env=tuple(process_spec.get("env") or ()),
            cwd=process_spec.get("cwd") or "/",
            groups_allowed=True,
            capabilities=(masks["effective"], masks["permitted"], masks["inheritable"], masks["ambient"]),
            bounding_drop=drop,
            no_new_privs=bool(process_spec.get("noNewPrivileges")),
            seccomp=seccomp,
            args=tuple(process_spec["args"]),
        )
    )
    return ops


def plan_exec(process_spec: Mapping[str, Any], launch: Launch, pidfd: int, host: Host) -> list:
    """A process that joins the container whose init `pidfd` is; its pid namespace was joined by the parent, for its children (setns(2))."""
    flags = sc.CLONE_NEWNS | sc.CLONE_NEWNET | sc.CLONE_NEWIPC | sc.CLONE_NEWUTS | sc.CLONE_NEWCGROUP
    ops: list = [op.JoinCgroups(tuple(launch.cgroup_files))] if launch.cgroup_files else []
    ops.append(op.JoinNamespaces((pidfd,), flags))
    ops += _plan_stdio(launch.tty, launch.stdio, launch.status_fd, process_spec, console=False)
    return ops + plan_process(process_spec, launch.seccomp, launch.status_fd, host)
