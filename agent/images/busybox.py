"""The image `localhost/busybox:1`, made on the spot from a static busybox binary: no registry needed. The same binary gives the same image id everywhere.
Called by `python -m agent.images busybox`."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import tarfile
from pathlib import Path

from agent.images.model import Image, ImageError, Platform, digest_of
from agent.images.store import ImageStore

REFERENCE = "localhost/busybox:1"
_DIRECTORIES = (("bin", 0o755), ("dev", 0o755), ("etc", 0o755), ("home", 0o755), ("proc", 0o555), ("root", 0o700), ("run", 0o755), ("sbin", 0o755), ("sys", 0o555),
                ("tmp", 0o1777), ("usr", 0o755), ("usr/bin", 0o755), ("usr/sbin", 0o755), ("var", 0o755), ("var/spool", 0o755), ("var/tmp", 0o1777), ("var/www", 0o755))  # fmt: skip
_FILES = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/usr/sbin:/bin/false\nwww-data:x:33:33:www-data:/var/www:/bin/false\nnobody:x:65534:65534:nobody:/home:/bin/false\n",
    "etc/group": "root:x:0:\ndaemon:x:1:\ntty:x:5:\nwww-data:x:33:\nnogroup:x:65534:\n",
    "etc/shells": "/bin/sh\n/bin/ash\n",
    "etc/nsswitch.conf": "hosts: files dns\n",
}


def build(store: ImageStore, binary: str = "") -> Image:
    """`binary`: path of a static busybox, default the one in PATH. Idempotent. Raises ImageError."""
    path = binary or shutil.which("busybox") or ""
    if not path:
        raise ImageError("no busybox in PATH: install busybox-static, or give --binary")
    try:
        content = Path(path).read_bytes()
        _require_static(path, content)
        listed = subprocess.run([path, "--list-full"], capture_output=True, check=True, text=True, timeout=30).stdout.split()
    except (OSError, subprocess.SubprocessError) as error:
        raise ImageError(f"cannot use {path} as busybox: {error}") from error
    layer = _layer(content, sorted(set(listed) - {"bin/busybox", "linuxrc"}))
    diff_id = digest_of(layer)
    config = {
        "architecture": Platform.host().architecture,
        "config": {"Cmd": ["sh"], "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]},
        "created": "1970-01-01T00:00:00Z",
        "history": [{"created": "1970-01-01T00:00:00Z", "created_by": "static busybox and its applets"}],
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [diff_id]},
    }
    with store.adding():
        store.layers.add(diff_id, iter([layer]))
        return store.record(json.dumps(config, sort_keys=True, separators=(",", ":")).encode(), [REFERENCE])


def _require_static(path: str, content: bytes) -> None:
    """ELF, and no PT_INTERP program header (elf(5))."""
    if content[:4] != b"\x7fELF":
        raise ImageError(f"{path} is not an ELF program")
    order = "little" if content[5] == 1 else "big"
    wide = content[4] == 2

    def number(offset: int, size: int) -> int:
        return int.from_bytes(content[offset : offset + size], order)  # type: ignore[arg-type]

    offset = number(32, 8) if wide else number(28, 4)
    size, count = (number(54, 2), number(56, 2)) if wide else (number(42, 2), number(44, 2))
    if any(number(offset + i * size, 4) == 3 for i in range(count)):
        raise ImageError(f"{path} is dynamically linked: a static busybox is needed (package busybox-static)")


def _layer(binary: bytes, applets: list[str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:

        def add(name: str, kind: bytes, mode: int, content: bytes = b"", link: str = "") -> None:
            info = tarfile.TarInfo(name)
            info.type, info.mode, info.size, info.linkname = kind, mode, len(content), link
            archive.addfile(info, io.BytesIO(content))

        for name, mode in _DIRECTORIES:
            add(name, tarfile.DIRTYPE, mode)
        add("bin/busybox", tarfile.REGTYPE, 0o755, binary)
        for applet in applets:
            add(applet, tarfile.LNKTYPE, 0o755, link="bin/busybox")
        for name, text in _FILES.items():
            add(name, tarfile.REGTYPE, 0o644, text.encode())
    return buffer.getvalue()
