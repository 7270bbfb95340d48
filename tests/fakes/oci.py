"""OCI layouts and layers made by hand, good and evil, for the tests of agent/images."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


@dataclass
class Layer:
    """A tar built member by member, exactly as told."""

    format: int = tarfile.PAX_FORMAT
    entries: list[tuple[tarfile.TarInfo, bytes]] = field(default_factory=list)

    def add(self, name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, mode: int = 0o644, **extra: Any) -> Layer:
        info = tarfile.TarInfo(name)
        info.type, info.mode, info.size, info.mtime = kind, mode, len(content), 1_600_000_000
        for key, value in extra.items():
            setattr(info, key, value)
        self.entries.append((info, content))
        return self

    def dir(self, name: str, mode: int = 0o755, **extra: Any) -> Layer:
        return self.add(name, kind=tarfile.DIRTYPE, mode=mode, **extra)

    def symlink(self, name: str, target: str) -> Layer:
        return self.add(name, kind=tarfile.SYMTYPE, mode=0o777, linkname=target)

    def link(self, name: str, target: str) -> Layer:
        return self.add(name, kind=tarfile.LNKTYPE, linkname=target)

    def tar(self) -> bytes:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=self.format) as archive:
            for info, content in self.entries:
                archive.addfile(info, io.BytesIO(content))
        return buffer.getvalue()


def write_layout(root: Path, name: str, layers: list[bytes], *, blobs: list[bytes] | None = None, architecture: str = "amd64", config: dict[str, Any] | None = None) -> dict[str, Any]:
    """An OCI layout with one image. `layers`: plain tars; `blobs`: what is stored for them (default: gzip). Returns the manifest."""
    blobs = blobs if blobs is not None else [gzip.compress(layer, 6, mtime=0) for layer in layers]
    directory = root / "blobs" / "sha256"
    directory.mkdir(parents=True, exist_ok=True)

    def put(data: bytes) -> str:
        (directory / digest(data)[7:]).write_bytes(data)
        return digest(data)

    document = {"architecture": architecture, "os": "linux", "config": config or {"Cmd": ["/bin/true"]}, "rootfs": {"type": "layers", "diff_ids": [digest(layer) for layer in layers]}}
    configuration = json.dumps(document).encode()
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": put(configuration), "size": len(configuration)},
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": put(blob), "size": len(blob)} for blob in blobs],
    }
    raw = json.dumps(manifest).encode()
    entry = {"mediaType": manifest["mediaType"], "digest": put(raw), "size": len(raw), "annotations": {"org.opencontainers.image.ref.name": name}}
    (root / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    (root / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return manifest
