"""Who a container's process runs as: OCI `process.user` and the image's own /etc/passwd and /etc/group. Pure but for `read_databases`, which the child calls once it is inside
the container's root; standard library only.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import namedtuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

_LIMIT_BYTES = 4 << 20
Identity = namedtuple("Identity", "uid gid groups home")


def read_database(path: str) -> list[list[str]]:
    """The fields of each line; nothing where the file is missing or is not a regular one (an image may put a FIFO there)."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return []
    try:
        s = os.fstat(fd)
        if not stat.S_ISREG(s.st_mode):
            return []
        text = os.read(fd, min(s.st_size, _LIMIT_BYTES)).decode(errors="surrogateescape")
    finally:
        os.close(fd)
    return [line.split(":") for line in text.splitlines() if line and not line.startswith("#")]


def needs_databases(user: Mapping[str, Any], has_home: bool) -> bool:
    return bool(user.get("username")) or user.get("gid") is None or not has_home


def resolve(user: Mapping[str, Any], passwd: list[list[str]], group: list[list[str]]) -> Identity:
    """`username` is "name|uid[:group|gid]". Given uid and gid win over it; the groups that list the user are added unless uid and gid were all that was given;
    the primary group is among the groups, so that a setgid program cannot shed it.
    Raises OSError(ENOENT) in Docker's words for a name that the image does not know."""
    name, _, group_name = (user.get("username") or "").partition(":")
    entry = None
    if name:
        entry = _passwd_entry(name, passwd)
        if entry is None and not name.isdigit():
            raise OSError(errno.ENOENT, f"unable to find user {name}: no matching entries in passwd file")
    uid = user.get("uid")
    if uid is None:
        uid = int(entry[2]) if entry else int(name or 0)
        group_given = group_name
    else:
        entry = _passwd_entry(str(uid), passwd)
        group_given = ""
    if entry is None:
        entry = _passwd_entry(str(uid), passwd)
    gid = user.get("gid")
    if gid is None:
        gid = _group_id(group_given, group) if group_given else int(entry[3]) if entry and entry[3].isdigit() else 0
    groups = list(user.get("additionalGids") or ())
    if entry is not None and (user.get("username") or user.get("gid") is None) and not group_given:
        groups += [int(g[2]) for g in group if len(g) > 3 and g[2].isdigit() and entry[0] in g[3].split(",")]
    home = entry[5] if entry and len(entry) > 5 and entry[5] else "/"
    return Identity(uid, gid, sorted({gid, *groups}), home)


def _passwd_entry(name: str, passwd: list[list[str]]) -> list[str] | None:
    """By name first, then by number: what a shadow-utils' user called "1000" would expect."""
    usable = [e for e in passwd if len(e) >= 4 and e[2].isdigit()]
    for index in (0, 2):
        for entry in usable:
            if entry[index] == name:
                return entry
    return None


def _group_id(name: str, group: list[list[str]]) -> int:
    for entry in group:
        if len(entry) > 2 and entry[0] == name and entry[2].isdigit():
            return int(entry[2])
    if name.isdigit():
        return int(name)
    raise OSError(errno.ENOENT, f"unable to find group {name}: no matching entries in group file")
