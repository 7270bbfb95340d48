"""The subset of OCI runtime-spec's config.json that this runtime acts on: safe defaults to build one, and a validation that names the wrong field. Pure but for
`host_devices`. Callers: agent.translate (builds), client.Runtime and launch (validate). Refuses what it cannot apply instead of dropping it.

Beyond the OCI text: `process.user` may carry `username` (the image config's `User`: "name|uid[:group|gid]", looked up in the container's own /etc/passwd and /etc/group);
a missing `uid` is then taken from it, a missing `gid` from the passwd line, and the groups that /etc/group lists for the user are added. `uid` and `gid` given win.
`linux.seccomp` may be the string "default": the profile of seccomp.py.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence
from typing import Any

from agent.runtime import capabilities

DEFAULT_CAPABILITIES = capabilities.DEFAULT
ALL_CAPABILITIES = capabilities.ALL
DEFAULT_MASKED_PATHS = (
    "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/scsi", "/proc/sched_debug", "/proc/timer_list", "/proc/timer_stats",
    "/sys/devices/virtual/powercap", "/sys/firmware",
)  # fmt: skip
DEFAULT_READONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
DEFAULT_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
NAMESPACES = ("mount", "pid", "network", "ipc", "uts", "cgroup")
RLIMITS = (
    "RLIMIT_CPU", "RLIMIT_FSIZE", "RLIMIT_DATA", "RLIMIT_STACK", "RLIMIT_CORE", "RLIMIT_RSS", "RLIMIT_NPROC", "RLIMIT_NOFILE", "RLIMIT_MEMLOCK", "RLIMIT_AS",
    "RLIMIT_LOCKS", "RLIMIT_SIGPENDING", "RLIMIT_MSGQUEUE", "RLIMIT_NICE", "RLIMIT_RTPRIO", "RLIMIT_RTTIME",
)  # fmt: skip


class SpecError(ValueError):
    """The spec cannot be run: "field: reason"."""


def default_mounts() -> list[dict[str, Any]]:
    """/proc, /dev and what is in it, /sys and the cgroups, read-only where a container has no business writing. In a sandbox /dev/shm becomes the pod's own."""
    return [
        {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
        {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
        {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]},
        {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]},
        {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
        {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["nosuid", "noexec", "nodev", "ro"]},
    ]


def default_spec(args: Sequence[str], *, env: Sequence[str] = (DEFAULT_PATH,), cwd: str = "/", caps: Sequence[str] = DEFAULT_CAPABILITIES) -> dict[str, Any]:
    """A complete, safe spec of an unprivileged container run as root. The caller changes what its user asked for: process.user, noNewPrivileges, mounts, resources …"""
    return {
        "ociVersion": "1.0.2",
        "process": {
            "args": list(args),
            "env": list(env),
            "cwd": cwd or "/",
            "user": {"uid": 0, "gid": 0},
            "capabilities": capability_sets(caps),
            "noNewPrivileges": False,
        },
        "root": {"path": "rootfs", "readonly": False},
        "mounts": default_mounts(),
        "linux": {
            "resources": {},
            "namespaces": [{"type": n} for n in NAMESPACES],
            "maskedPaths": list(DEFAULT_MASKED_PATHS),
            "readonlyPaths": list(DEFAULT_READONLY_PATHS),
            "seccomp": "default",
        },
    }


def capability_sets(names: Sequence[str]) -> dict[str, list[str]]:
    """OCI's five sets as Kubernetes' runtimes fill them: no inheritable, no ambient ones, so that a command run as non-root has none after exec."""
    return {"bounding": list(names), "effective": list(names), "permitted": list(names), "inheritable": [], "ambient": []}


def adjust_capabilities(base: Sequence[str], add: Sequence[str], drop: Sequence[str]) -> list[str]:
    """Kubernetes' securityContext.capabilities: names without CAP_, any case; ALL. In containerd's order: add ALL, drop ALL,
    add each, drop each. Raises SpecError for an unknown name."""
    names = {"ALL": None} | {c: c for c in ALL_CAPABILITIES}

    def full(name: str) -> str:
        upper = name.upper()
        known = upper if upper == "ALL" or upper.startswith("CAP_") else "CAP_" + upper
        if known not in names:
            raise SpecError(f'capabilities: unknown capability "{name}"')
        return known

    added, dropped = {full(n) for n in add}, {full(n) for n in drop}
    result = set(ALL_CAPABILITIES) if "ALL" in added else set(base)
    if "ALL" in dropped:
        result = set()
    result = (result | added) - dropped
    return [c for c in ALL_CAPABILITIES if c in result]


def make_privileged(spec: dict[str, Any]) -> None:
    """Kubernetes' `privileged: true`, in place: all capabilities, nothing masked, /sys and cgroups writable, every device of the host, no seccomp."""
    spec["process"]["capabilities"] = capability_sets(ALL_CAPABILITIES)
    spec["process"]["noNewPrivileges"] = False
    linux = spec["linux"]
    linux["maskedPaths"], linux["readonlyPaths"], linux["seccomp"] = [], [], None
    linux["devices"] = host_devices()
    linux.setdefault("resources", {})["devices"] = [{"allow": True, "access": "rwm"}]
    for mount in spec["mounts"]:
        if mount.get("type") in ("sysfs", "cgroup"):
            mount["options"] = [o for o in mount["options"] if o != "ro"]


def host_devices(folder: str = "/dev") -> list[dict[str, Any]]:
    """OCI linux.devices of every device node under /dev that a container's own /dev does not bring itself."""
    own = {"pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev", "console", "ptmx"}
    found = []
    for base, folders, files in os.walk(folder):
        folders[:] = [f for f in folders if base != folder or f not in own]
        for name in files:
            path = os.path.join(base, name)
            try:
                s = os.lstat(path)
            except OSError:
                continue
            kind = "c" if stat.S_ISCHR(s.st_mode) else "b" if stat.S_ISBLK(s.st_mode) else ""
            if not kind or (base == folder and name in own):
                continue
            found.append({"path": path, "type": kind, "major": os.major(s.st_rdev), "minor": os.minor(s.st_rdev), "fileMode": s.st_mode & 0o7777, "uid": s.st_uid, "gid": s.st_gid})
    return found


# --- validation

Fields = Mapping[str, type | tuple[type, ...]]
_NUMBER, _LIST = int, (list, tuple)
_TOP: Fields = {"ociVersion": str, "process": dict, "root": dict, "mounts": _LIST, "hostname": str, "domainname": str, "linux": dict, "annotations": dict}
_PROCESS: Fields = {
    "args": _LIST, "env": _LIST, "cwd": str, "user": dict, "capabilities": dict, "rlimits": _LIST, "noNewPrivileges": bool, "oomScoreAdj": _NUMBER, "terminal": bool,
    "consoleSize": dict,
}  # fmt: skip
_USER: Fields = {"uid": _NUMBER, "gid": _NUMBER, "additionalGids": _LIST, "username": str, "umask": _NUMBER}
_LINUX: Fields = {
    "namespaces": _LIST, "resources": dict, "maskedPaths": _LIST, "readonlyPaths": _LIST, "seccomp": (dict, str), "devices": _LIST, "sysctl": dict,
    "rootfsPropagation": str, "cgroupsPath": str,
}  # fmt: skip
_RESOURCES: Fields = {"cpu": dict, "memory": dict, "pids": dict, "devices": _LIST, "unified": dict}
_CPU: Fields = {"shares": _NUMBER, "quota": _NUMBER, "period": _NUMBER, "cpus": str, "mems": str, "burst": _NUMBER, "idle": _NUMBER}
_MEMORY: Fields = {"limit": _NUMBER, "reservation": _NUMBER, "swap": _NUMBER, "disableOOMKiller": bool, "swappiness": _NUMBER}
_MOUNT: Fields = {"destination": str, "type": str, "source": str, "options": _LIST}
_DEVICE: Fields = {"path": str, "type": str, "major": _NUMBER, "minor": _NUMBER, "fileMode": _NUMBER, "uid": _NUMBER, "gid": _NUMBER}
_RULE: Fields = {"allow": bool, "type": str, "major": _NUMBER, "minor": _NUMBER, "access": str}


def _check(where: str, value: Any, fields: Fields) -> None:
    if not isinstance(value, Mapping):
        raise SpecError(f"{where or 'spec'}: must be an object, is {type(value).__name__}")
    for name, v in value.items():
        path = f"{where}.{name}" if where else str(name)
        if name not in fields:
            raise SpecError(f"{path}: not supported by this runtime")
        if v is not None and (not isinstance(v, fields[name]) or (fields[name] is int and isinstance(v, bool))):
            raise SpecError(f"{path}: wrong type {type(v).__name__}")


def _strings(where: str, value: Any) -> None:
    if value is not None and not isinstance(value, list | tuple):
        raise SpecError(f"{where}: must be a list of strings")
    for i, v in enumerate(value or ()):
        if not isinstance(v, str):
            raise SpecError(f"{where}[{i}]: must be a string")
        if "\0" in v:
            raise SpecError(f"{where}[{i}]: must not contain a NUL byte")


def _absolute(where: str, value: Any) -> None:
    if not isinstance(value, str) or not value.startswith("/"):
        raise SpecError(f"{where}: must be an absolute path, is {value!r}")
    if "\0" in value:
        raise SpecError(f"{where}: must not contain a NUL byte")


def validate_spec(spec: Mapping[str, Any]) -> None:
    """Raises SpecError that names the first wrong, unknown or missing field."""
    _check("", spec, _TOP)
    if not spec.get("process"):
        raise SpecError("process: required")
    validate_process(spec["process"])
    _check("root", spec.get("root") or {}, {"path": str, "readonly": bool})
    for i, mount in enumerate(spec.get("mounts") or ()):
        _validate_mount(f"mounts[{i}]", mount)
    linux = spec.get("linux") or {}
    _check("linux", linux, _LINUX)
    for i, ns in enumerate(linux.get("namespaces") or ()):
        if not isinstance(ns, Mapping) or ns.get("type") not in NAMESPACES:
            raise SpecError(f"linux.namespaces[{i}].type: must be one of {', '.join(NAMESPACES)}")
    for name in ("maskedPaths", "readonlyPaths"):
        for i, path in enumerate(linux.get(name) or ()):
            _absolute(f"linux.{name}[{i}]", path)
    for i, device in enumerate(linux.get("devices") or ()):
        _check(f"linux.devices[{i}]", device, _DEVICE)
        _absolute(f"linux.devices[{i}].path", device.get("path"))
        if device.get("type") not in ("c", "b", "u", "p"):
            raise SpecError(f"linux.devices[{i}].type: must be c, b, u or p")
    for key, value in (linux.get("sysctl") or {}).items():
        if not isinstance(value, str) or not key or ".." in key:
            raise SpecError(f"linux.sysctl[{key}]: must be a name with a string value")
    if isinstance(linux.get("seccomp"), str) and linux["seccomp"] != "default":
        raise SpecError('linux.seccomp: must be a profile or "default"')
    validate_resources(linux.get("resources") or {})


def validate_process(process: Mapping[str, Any]) -> None:
    """OCI `process`. Raises SpecError."""
    _check("process", process, _PROCESS)
    if not process.get("args"):
        raise SpecError("process.args: required")
    _strings("process.args", process["args"])
    _strings("process.env", process.get("env"))
    for i, variable in enumerate(process.get("env") or ()):
        if "=" not in variable[1:]:
            raise SpecError(f"process.env[{i}]: must be NAME=value")
    _absolute("process.cwd", process.get("cwd", "/") or "/")
    user = process.get("user") or {}
    _check("process.user", user, _USER)
    for name in ("uid", "gid"):
        if user.get(name) is not None and not 0 <= user[name] < 2**32 - 1:
            raise SpecError(f"process.user.{name}: must be between 0 and {2**32 - 2}")
    for name, values in (process.get("capabilities") or {}).items():
        if name not in ("bounding", "effective", "permitted", "inheritable", "ambient"):
            raise SpecError(f"process.capabilities.{name}: unknown set")
        _strings(f"process.capabilities.{name}", values)
        for i, c in enumerate(values or ()):
            if c not in ALL_CAPABILITIES:
                raise SpecError(f'process.capabilities.{name}[{i}]: unknown capability "{c}"')
    for i, limit in enumerate(process.get("rlimits") or ()):
        _check(f"process.rlimits[{i}]", limit, {"type": str, "soft": int, "hard": int})
        if limit.get("type") not in RLIMITS:
            raise SpecError(f"process.rlimits[{i}].type: unknown limit {limit.get('type')!r}")
        if limit.get("soft", 0) > limit.get("hard", 0):
            raise SpecError(f"process.rlimits[{i}].soft: must not exceed hard")
    score = process.get("oomScoreAdj")
    if score is not None and not -1000 <= score <= 1000:
        raise SpecError("process.oomScoreAdj: must be between -1000 and 1000")


def _validate_mount(where: str, mount: Any) -> None:
    _check(where, mount, _MOUNT)
    _absolute(f"{where}.destination", mount.get("destination"))
    _strings(f"{where}.options", mount.get("options"))
    options = mount.get("options") or ()
    if "bind" in options or "rbind" in options or mount.get("type") in ("bind", "none"):
        _absolute(f"{where}.source", mount.get("source"))
    elif not mount.get("type"):
        raise SpecError(f"{where}.type: required")


def validate_resources(resources: Mapping[str, Any]) -> None:
    """OCI linux.resources. Raises SpecError."""
    base = "linux.resources"
    _check(base, resources, _RESOURCES)
    _check(f"{base}.cpu", resources.get("cpu") or {}, _CPU)
    _check(f"{base}.memory", resources.get("memory") or {}, _MEMORY)
    _check(f"{base}.pids", resources.get("pids") or {}, {"limit": int})
    for i, rule in enumerate(resources.get("devices") or ()):
        _check(f"{base}.devices[{i}]", rule, _RULE)
    period = (resources.get("cpu") or {}).get("period")
    if period is not None and not 1000 <= period <= 1_000_000:
        raise SpecError(f"{base}.cpu.period: must be between 1000 and 1000000 µs")
