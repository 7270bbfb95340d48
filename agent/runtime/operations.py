"""The steps by which a fresh child becomes a container: each a value that says what it does (`describe`) and does it (`execute`). plan.py chooses and orders them, launch.py
runs them in the child. Everything up to PivotRoot sees the zygote's mount namespace, everything after it only the container's root: paths and the image's symlinks cannot
lead out of it. Standard library only.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import namedtuple

from agent.runtime import syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_DEVICE_KINDS = {"c": stat.S_IFCHR, "u": stat.S_IFCHR, "b": stat.S_IFBLK, "p": stat.S_IFIFO}
_OVERLAY_DATA_BYTES = 4000  # mount(2) takes one page of options


def make_target(target: str, directory: bool) -> None:
    """What a mount goes on, made where the image lacks it; the image's symlinks are followed, inside its root."""
    real = os.path.realpath(target)
    if directory:
        os.makedirs(real, 0o755, exist_ok=True)
        return
    os.makedirs(os.path.dirname(real), 0o755, exist_ok=True)
    os.close(os.open(real, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o644))


class JoinCgroups(namedtuple("JoinCgroups", "files")):
    """Writing "0" to a v1 `tasks` file moves the writer without the thread-group lock that `cgroup.procs` takes."""

    __slots__ = ()

    def describe(self) -> str:
        return f"join cgroups {', '.join(self.files)}"

    def execute(self) -> None:
        path = ""
        try:
            for path in self.files:
                fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
                os.write(fd, b"0")
                os.close(fd)
        except OSError as e:
            raise OSError(e.errno, f"cannot join cgroup {path}: {os.strerror(e.errno or 0).lower()}") from e


class JoinNamespaces(namedtuple("JoinNamespaces", "fds flags")):
    """nsfs descriptors, or a pidfd with several flags."""

    __slots__ = ()

    def describe(self) -> str:
        return f"join namespaces of descriptors {list(self.fds)} ({self.flags:#x})"

    def execute(self) -> None:
        for fd in self.fds:
            syscalls.setns(fd, self.flags)


class Unshare(namedtuple("Unshare", "flags")):
    __slots__ = ()

    def describe(self) -> str:
        return f"unshare namespaces {self.flags:#x}"

    def execute(self) -> None:
        syscalls.unshare(self.flags)


class SetHostname(namedtuple("SetHostname", "name")):
    __slots__ = ()

    def describe(self) -> str:
        return f"set the host name {self.name}"

    def execute(self) -> None:
        syscalls.sethostname(self.name)


class MountOverlay(namedtuple("MountOverlay", "layers upper work target")):
    """`layers` bottom first. `volatile` spares the sync at unmount (Linux 5.10): the work directory is used once."""

    __slots__ = ()

    def describe(self) -> str:
        return f"mount overlay of {len(self.layers)} layers with upper {self.upper} at {self.target}"

    def execute(self) -> None:
        lower = [_escape(p) for p in reversed(self.layers)]
        data = f"upperdir={_escape(self.upper)},workdir={_escape(self.work)},volatile"
        if sum(map(len, lower)) + len(lower) + len(data) > _OVERLAY_DATA_BYTES:
            lower = [f"/proc/self/fd/{os.open(p, os.O_PATH | os.O_CLOEXEC)}" for p in reversed(self.layers)]
        try:
            syscalls.mount("overlay", self.target, "overlay", 0, f"lowerdir={':'.join(lower)},{data}")
        except OSError as e:
            if e.errno != errno.EINVAL:
                raise
            syscalls.mount("overlay", self.target, "overlay", 0, f"lowerdir={':'.join(lower)},{data.removesuffix(',volatile')}")


def _escape(path: str) -> str:
    return path.replace("\\", "\\\\").replace(":", "\\:").replace(",", "\\,")


class BindRoot(namedtuple("BindRoot", "source target")):
    """A root file system without layers: the OCI bundle's own directory."""

    __slots__ = ()

    def describe(self) -> str:
        return f"bind root {self.source} at {self.target}"

    def execute(self) -> None:
        syscalls.mount(self.source, self.target, "", syscalls.MS_BIND | syscalls.MS_REC)


class PivotRoot(namedtuple("PivotRoot", "path")):
    """pivot_root(2), "pivot_root(".", ".")": the old root lies under the new one just long enough to be detached."""

    __slots__ = ()

    def describe(self) -> str:
        return f"pivot_root to {self.path}"

    def execute(self) -> None:
        os.chdir(self.path)
        syscalls.pivot_root(".", ".")
        syscalls.umount(".")
        os.chdir("/")


class Mount(namedtuple("Mount", "source target fstype flags data attributes")):
    """A new file system. `attributes` are set on the mount alone afterwards: a read-only flag given to mount(2) would make a shared superblock (sysfs) read-only too."""

    __slots__ = ()

    def describe(self) -> str:
        return f"mount {self.fstype} at {self.target} with flags {self.flags:#x} {self.data}"

    def execute(self) -> None:
        try:
            syscalls.mount(self.source, self.target, self.fstype, self.flags, self.data)
        except FileNotFoundError:
            try:
                os.mkdir(self.target, 0o755)  # the usual case, without a walk
            except OSError:
                make_target(self.target, True)
            syscalls.mount(self.source, self.target, self.fstype, self.flags, self.data)
        if self.attributes:
            syscalls.mount_setattr(self.target, self.attributes)


class AttachTree(namedtuple("AttachTree", "fd target attributes recursive_attributes propagation")):
    """A detached mount tree that the caller cloned in its own mount namespace."""

    __slots__ = ()

    def describe(self) -> str:
        return f"attach mount {self.fd} at {self.target} with attributes {self.attributes:#x}, recursively {self.recursive_attributes:#x}"

    def execute(self) -> None:
        if self.attributes:
            syscalls.mount_setattr("", self.attributes, dirfd=self.fd)
        if self.recursive_attributes:
            syscalls.mount_setattr("", self.recursive_attributes, dirfd=self.fd, recursive=True)
        try:
            syscalls.move_mount(self.fd, self.target)
        except FileNotFoundError:
            make_target(self.target, stat.S_ISDIR(os.fstat(self.fd).st_mode))
            syscalls.move_mount(self.fd, self.target)
        if self.propagation:
            syscalls.mount("", self.target, "", self.propagation)


class MountCgroups(namedtuple("MountCgroups", "target hierarchies flags attributes")):
    """cgroup v1: a tmpfs with every hierarchy the container is in, its own cgroup being their root (its cgroup namespace). `hierarchies`: (directory, options, symlinks)."""

    __slots__ = ()

    def describe(self) -> str:
        return f"mount cgroup hierarchies {', '.join(h[0] for h in self.hierarchies)} at {self.target}"

    def execute(self) -> None:
        Mount("tmpfs", self.target, "tmpfs", self.flags, "mode=755", 0).execute()
        for directory, options, links in self.hierarchies:
            path = f"{self.target}/{directory}"
            os.mkdir(path, 0o755)
            syscalls.mount("cgroup", path, "cgroup", self.flags, options)
            if self.attributes:
                syscalls.mount_setattr(path, self.attributes)
            for link in links:
                os.symlink(directory, f"{self.target}/{link}")
        if self.attributes:
            syscalls.mount_setattr(self.target, self.attributes)


class MakeDevices(namedtuple("MakeDevices", "devices links")):
    """`devices`: (path, type, major, minor, mode, uid, gid); `links`: (path, target)."""

    __slots__ = ()

    def describe(self) -> str:
        return f"make devices {', '.join(d[0] for d in self.devices)}"

    def execute(self) -> None:
        for path, kind, major, minor, mode, uid, gid in self.devices:
            try:
                os.mknod(path, mode | _DEVICE_KINDS[kind], os.makedev(major, minor))
            except FileNotFoundError:
                os.makedirs(os.path.dirname(path), 0o755)
                os.mknod(path, mode | _DEVICE_KINDS[kind], os.makedev(major, minor))
            except FileExistsError:
                continue
            if uid or gid:
                os.chown(path, uid, gid)
        for path, target in self.links:
            try:
                os.symlink(target, path)
            except FileExistsError:
                continue


class Sysctl(namedtuple("Sysctl", "values")):
    __slots__ = ()

    def describe(self) -> str:
        return f"set sysctls {', '.join(k for k, _ in self.values)}"

    def execute(self) -> None:
        for key, value in self.values:
            path = "/proc/sys/" + key.replace(".", "/")
            try:
                _write(path, value)
            except OSError as e:
                raise OSError(e.errno, f"cannot set sysctl {key} to {value!r}: {os.strerror(e.errno or 0).lower()}") from e


def _write(path: str, value: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, value.encode())
    finally:
        os.close(fd)


class MaskPaths(namedtuple("MaskPaths", "paths")):
    """OCI linux.maskedPaths: files become /dev/null, directories an empty read-only tmpfs (one for all); what is not there is passed over."""

    __slots__ = ()

    def describe(self) -> str:
        return f"mask {', '.join(self.paths)}"

    def execute(self) -> None:
        null = os.stat("/dev/null")
        if not stat.S_ISCHR(null.st_mode) or null.st_rdev != os.makedev(1, 3):
            raise OSError(errno.ENODEV, "cannot mask paths: /dev/null is not the null device")
        empty = ""
        for path in self.paths:
            try:
                mode = os.stat(path).st_mode
            except (FileNotFoundError, NotADirectoryError):
                continue
            if not stat.S_ISDIR(mode):
                syscalls.mount("/dev/null", path, "", syscalls.MS_BIND)
            elif empty:
                syscalls.mount(empty, path, "", syscalls.MS_BIND)
            else:
                syscalls.mount("tmpfs", path, "tmpfs", syscalls.MS_RDONLY | syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC, "size=0k,nr_inodes=1")
                empty = path


class ReadonlyPaths(namedtuple("ReadonlyPaths", "paths")):
    __slots__ = ()

    def describe(self) -> str:
        return f"make read-only {', '.join(self.paths)}"

    def execute(self) -> None:
        for path in self.paths:
            try:
                syscalls.mount(path, path, "", syscalls.MS_BIND | syscalls.MS_REC)
            except (FileNotFoundError, NotADirectoryError):
                continue
            syscalls.mount_setattr(path, syscalls.MOUNT_ATTR_RDONLY, recursive=True)


class EnsureDirectory(namedtuple("EnsureDirectory", "path")):
    """The working directory, which an image need not have."""

    __slots__ = ()

    def describe(self) -> str:
        return f"make directory {self.path} where it is missing"

    def execute(self) -> None:
        try:
            os.stat(self.path)
        except FileNotFoundError:
            os.makedirs(os.path.realpath(self.path), 0o755, exist_ok=True)


class SetAttributes(namedtuple("SetAttributes", "path attributes")):
    """Of the mount at `path` alone, e.g. the root's read-only flag once everything is in place."""

    __slots__ = ()

    def describe(self) -> str:
        return f"set mount attributes {self.attributes:#x} on {self.path}"

    def execute(self) -> None:
        syscalls.mount_setattr(self.path, self.attributes)


def describe_all(operations: Sequence) -> list[str]:
    """What `--debug` prints before a start."""
    return [f"{i + 1:3} {op.describe()}" for i, op in enumerate(operations)]
