"""A layer's tar becomes a directory that overlayfs can use as a lower (OCI image-spec, layer.md; kernel Documentation/filesystems/overlayfs.rst, "whiteouts and opaque
directories"). Every name is resolved by directory fds from the layer's root, never by the kernel through a symlink: a member that would be written outside is refused.
Called by `layers` alone, on a directory that nobody else sees yet."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager

from agent.images import tar
from agent.images.model import LayerError
from agent.images.streams import LayerStream

_WHITEOUT, _OPAQUE, _AUFS = b".wh.", b".wh..wh..opq", b".wh..wh."
_OPAQUE_XATTR = "trusted.overlay.opaque"
_OPEN_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_MAX_CACHED = 128
_MAX_SYMLINKS = 40


def unpack(stream: LayerStream, root_fd: int) -> int:
    """Extracts everything below `root_fd`; returns the bytes of regular files. Raises LayerError (the layer is at fault) or OSError (this machine is)."""
    with _Unpacker(stream, root_fd) as unpacker:
        for member in tar.members(stream):
            unpacker.add(member)
        unpacker.finish()
        return unpacker.size_bytes


def _clean(name: bytes, what: str) -> tuple[bytes, ...]:
    """Components, `.` and leading slashes dropped. Raises LayerError where `..` climbs above the root."""
    parts: list[bytes] = []
    for part in name.split(b"/"):
        if part == b"..":
            if not parts:
                raise LayerError(f'refusing {what} "{name.decode("utf-8", "replace")}": it escapes the layer\'s root')
            parts.pop()
        elif part not in (b"", b"."):
            parts.append(part)
    return tuple(parts)


class _Unpacker:
    """Invariant: every fd in `_dirs` is a directory below the root, reached without following a symlink out of it."""

    def __init__(self, stream: LayerStream, root_fd: int) -> None:
        self._stream, self._root = stream, root_fd
        self._dirs: dict[tuple[bytes, ...], tuple[int, tuple[bytes, ...]]] = {}  # as written → (fd, where it really is)
        self._times: dict[tuple[bytes, ...], int] = {}
        umask = os.umask(0o022)
        os.umask(umask)
        self._masked = umask | 0o7000
        self._stale = False  # something a cached fd was reached through is gone
        self.size_bytes = 0

    def __enter__(self) -> _Unpacker:
        return self

    def __exit__(self, *_: object) -> None:
        self._forget()

    def _forget(self) -> None:
        for fd, _ in self._dirs.values():
            os.close(fd)
        self._dirs.clear()

    def add(self, member: tar.Member) -> None:
        if self._stale or len(self._dirs) > _MAX_CACHED:
            self._forget()
            self._stale = False
        path = _clean(member.name, "member")
        with self._naming(member):
            if not path:
                if member.kind == tar.DIRECTORY:
                    self._set_owner(member, self._root)
                    self._times[()] = member.mtime_ns
            elif path[-1].startswith(_WHITEOUT):
                self._whiteout(path)
            else:
                self._create(member, path)
        if member.kind == tar.REGULAR:
            self._stream.skip(-member.size % tar.BLOCK)

    @contextmanager
    def _naming(self, member: tar.Member) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.EPERM):
                raise OSError(error.errno, f"cannot unpack {member.text}: {os.strerror(error.errno)}") from error
            raise LayerError(f"cannot unpack {member.text}: {os.strerror(error.errno or 0)}") from error

    def _create(self, member: tar.Member, path: tuple[bytes, ...]) -> None:
        parent, _ = self._directory(path[:-1])
        name, kind = path[-1], member.kind
        if kind == tar.REGULAR:
            self._file(member, parent, name)
        elif kind == tar.DIRECTORY:
            self._mkdir(member, parent, name, path)
        elif kind == tar.LINK:
            target = _clean(member.linkname, "hard link target")
            if not target:
                raise LayerError(f"hard link {member.text!r} points at the root")
            source, _ = self._directory(target[:-1], create=False)
            if target == path:
                return
            self._replace(parent, name)
            os.link(target[-1], name, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)
        else:
            self._replace(parent, name)
            self._special(member, parent, name)

    def _special(self, member: tar.Member, parent: int, name: bytes) -> None:
        if member.kind == tar.SYMLINK:
            if not member.linkname:
                raise LayerError(f"symlink {member.text!r} has no target")
            os.symlink(member.linkname, name, dir_fd=parent)
        elif member.kind == tar.FIFO:
            os.mkfifo(name, member.mode, dir_fd=parent)
        elif member.kind in (tar.CHARACTER, tar.BLOCK_DEVICE):
            os.mknod(name, member.mode | (stat.S_IFCHR if member.kind == tar.CHARACTER else stat.S_IFBLK), os.makedev(*member.device), dir_fd=parent)
        else:
            raise LayerError(f"member {member.text!r} has the unknown type {member.kind!r}")
        if member.uid or member.gid:
            os.chown(name, member.uid, member.gid, dir_fd=parent, follow_symlinks=False)
        if member.kind != tar.SYMLINK:
            os.chmod(name, member.mode, dir_fd=parent)
        os.utime(name, ns=(member.mtime_ns, member.mtime_ns), dir_fd=parent, follow_symlinks=False)

    def _file(self, member: tar.Member, parent: int, name: bytes) -> None:
        mode = member.mode & 0o777
        try:
            fd = os.open(name, _OPEN_NEW, mode, dir_fd=parent)
        except FileExistsError:
            self._replace(parent, name)
            fd = os.open(name, _OPEN_NEW, mode, dir_fd=parent)
        try:
            missing = member.size
            while missing:
                data = self._stream.read_some(missing)
                missing -= len(data)
                while data:
                    data = data[os.write(fd, data) :]
            if member.uid or member.gid or member.mode & self._masked or member.xattrs:
                self._set_owner(member, fd)
            os.utime(fd, ns=(member.mtime_ns, member.mtime_ns))
        finally:
            os.close(fd)
        self.size_bytes += member.size

    def _mkdir(self, member: tar.Member, parent: int, name: bytes, path: tuple[bytes, ...]) -> None:
        try:
            os.mkdir(name, 0o755, dir_fd=parent)
        except FileExistsError:
            found = os.stat(name, dir_fd=parent, follow_symlinks=False)
            if not stat.S_ISDIR(found.st_mode):
                self._replace(parent, name)
                os.mkdir(name, 0o755, dir_fd=parent)
                if _is_whiteout(found):
                    self._make_opaque(name, parent)
        fd = os.open(name, _OPEN_DIR, dir_fd=parent)
        try:
            self._set_owner(member, fd)
        finally:
            os.close(fd)
        self._times[path] = member.mtime_ns

    def _set_owner(self, member: tar.Member, fd: int) -> None:
        """Owner first: chown clears setuid bits and file capabilities (chown(2))."""
        os.fchown(fd, member.uid, member.gid)
        os.fchmod(fd, member.mode)
        for name, value in member.xattrs.items():
            if name.startswith(b"user.") or name == b"security.capability":  # never trusted.overlay.*: it could redirect the overlay
                try:
                    os.setxattr(fd, name, value)
                except OSError as error:
                    if error.errno != errno.ENOTSUP:
                        raise

    def _whiteout(self, path: tuple[bytes, ...]) -> None:
        parent, _ = self._directory(path[:-1])
        if path[-1] == _OPAQUE:
            os.setxattr(parent, _OPAQUE_XATTR, b"y")
            return
        if path[-1].startswith(_AUFS):
            return  # aufs' own bookkeeping
        name = path[-1][len(_WHITEOUT) :]
        if name in (b"", b".", b".."):
            raise LayerError(f'refusing whiteout "{b"/".join(path).decode("utf-8", "replace")}": it names no file')
        try:
            os.mknod(name, stat.S_IFCHR, os.makedev(0, 0), dir_fd=parent)
        except FileExistsError:  # this layer has it too: only what lies below is hidden
            if stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
                self._make_opaque(name, parent)

    def _make_opaque(self, name: bytes, parent: int) -> None:
        fd = os.open(name, _OPEN_DIR, dir_fd=parent)
        try:
            os.setxattr(fd, _OPAQUE_XATTR, b"y")
        finally:
            os.close(fd)

    def _replace(self, parent: int, name: bytes) -> None:
        """Removes what an earlier member of this layer put there."""
        try:
            found = os.stat(name, dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            return
        if stat.S_ISDIR(found.st_mode):
            shutil.rmtree(name, dir_fd=parent)
        else:
            os.unlink(name, dir_fd=parent)
        self._stale = True

    def _directory(self, path: tuple[bytes, ...], *, create: bool = True, links: int = 0) -> tuple[int, tuple[bytes, ...]]:
        """An fd of the directory and its real place. Missing ones are made where `create`."""
        if not path:
            return self._root, ()
        known = self._dirs.get(path)
        if known is not None:
            return known
        parent, where = self._directory(path[:-1], create=create, links=links)
        name = path[-1]
        try:
            fd = os.open(name, _OPEN_DIR, dir_fd=parent)
        except FileNotFoundError:
            if not create:
                raise
            os.mkdir(name, 0o755, dir_fd=parent)
            fd = os.open(name, _OPEN_DIR, dir_fd=parent)
        except NotADirectoryError:
            found = os.stat(name, dir_fd=parent, follow_symlinks=False)
            if stat.S_ISLNK(found.st_mode):
                return self._through_symlink(path, parent, where, links)
            if not (create and _is_whiteout(found)):
                raise
            os.unlink(name, dir_fd=parent)
            os.mkdir(name, 0o755, dir_fd=parent)
            self._make_opaque(name, parent)
            fd = os.open(name, _OPEN_DIR, dir_fd=parent)
        return self._remember(path, fd, (*where, name))

    def _through_symlink(self, path: tuple[bytes, ...], parent: int, where: tuple[bytes, ...], links: int) -> tuple[int, tuple[bytes, ...]]:
        """Some tools write `bin/x` after `bin -> usr/bin`: allowed where the link leads to a directory of this layer, seen with the layer as root."""
        shown = b"/".join(path).decode("utf-8", "replace")
        target = os.readlink(path[-1], dir_fd=parent)
        refusal = LayerError(f'refusing to write through the symlink "{shown}" -> "{target.decode("utf-8", "replace")}": it leaves the layer')
        if links >= _MAX_SYMLINKS:
            raise LayerError(f'too many levels of symlinks at "{shown}"')
        try:
            real = _clean(target if target.startswith(b"/") else b"/".join((*where, target)), "symlink")
            fd, resolved = self._directory(real, create=False, links=links + 1)
        except (LayerError, FileNotFoundError, NotADirectoryError) as error:
            raise refusal from error
        return self._remember(path, os.dup(fd), resolved)

    def _remember(self, path: tuple[bytes, ...], fd: int, where: tuple[bytes, ...]) -> tuple[int, tuple[bytes, ...]]:
        self._dirs[path] = (fd, where)
        return fd, where

    def finish(self) -> None:
        """Directories' times last: writing into them changed them."""
        self._forget()
        for path, mtime_ns in self._times.items():
            try:
                fd = self._directory(path, create=False)[0]
            except (FileNotFoundError, NotADirectoryError, LayerError):
                continue  # replaced by a later member
            os.utime(fd, ns=(mtime_ns, mtime_ns))
            if len(self._dirs) > _MAX_CACHED:
                self._forget()


def _is_whiteout(found: os.stat_result) -> bool:
    return stat.S_ISCHR(found.st_mode) and found.st_rdev == 0
