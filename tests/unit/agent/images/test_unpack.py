import gzip
import hashlib
import os
import stat
import tarfile
from pathlib import Path

import pytest
import zstandard

from agent.images.layers import LayerDirectory
from agent.images.model import LayerError
from tests.fakes.oci import Layer, digest


@pytest.fixture
def layers(tmp_path: Path) -> LayerDirectory:
    return LayerDirectory(tmp_path / "images")


def add(layers: LayerDirectory, tar: bytes, blob: bytes | None = None) -> Path:
    blob = tar if blob is None else blob
    layers.add(digest(tar), iter([blob[i : i + 700] for i in range(0, len(blob), 700)]), blob_digest=digest(blob), blob_size=len(blob))
    return Path(layers.path(digest(tar)))


def assert_refused(layers: LayerDirectory, tar: bytes, match: str, blob: bytes | None = None) -> None:
    with pytest.raises(LayerError, match=match):
        add(layers, tar, blob)
    assert layers.size_bytes(digest(tar)) is None
    assert list(layers.root.iterdir()) == []
    assert [entry for entry in layers.tmp.iterdir() if entry.suffix != ".lock"] == []


def test_every_kind_of_member(layers: LayerDirectory) -> None:
    layer = Layer().dir("bin", 0o750, uid=7, gid=8).add("bin/su", b"#!", mode=0o4755, uid=3, gid=4, pax_headers={"SCHILY.xattr.user.note": "hello"}).link("bin/su2", "bin/su")
    layer.symlink("etc/abs", "/usr/absent").symlink("up", "../../../..").add("dev/null", kind=tarfile.CHRTYPE, mode=0o666, devmajor=1, devminor=3)
    layer.add("run/pipe", kind=tarfile.FIFOTYPE, mode=0o622).dir("tmp", 0o1777).add("./" + "long/" * 60 + "name", b"x" * 5000).add("größe", b"22").add("/leading", b"1")
    root = add(layers, layer.tar())
    su = os.lstat(root / "bin/su")
    assert (stat.S_IMODE(su.st_mode), su.st_uid, su.st_gid, su.st_mtime, su.st_nlink) == (0o4755, 3, 4, 1_600_000_000, 2)
    assert os.getxattr(root / "bin/su", "user.note") == b"hello"
    bin_ = os.lstat(root / "bin")
    assert (stat.S_IMODE(bin_.st_mode), bin_.st_uid, bin_.st_gid, bin_.st_mtime) == (0o750, 7, 8, 1_600_000_000)
    assert os.readlink(root / "etc/abs") == "/usr/absent" and os.readlink(root / "up") == "../../../.."
    null = os.lstat(root / "dev/null")
    assert stat.S_ISCHR(null.st_mode) and null.st_rdev == os.makedev(1, 3) and stat.S_IMODE(null.st_mode) == 0o666
    assert stat.S_ISFIFO(os.lstat(root / "run/pipe").st_mode)
    assert stat.S_IMODE(os.lstat(root / "tmp").st_mode) == 0o1777
    assert (root / ("long/" * 60 + "name")).read_bytes() == b"x" * 5000
    assert (root / "größe").read_bytes() == b"22" and (root / "leading").read_bytes() == b"1"


@pytest.mark.parametrize("tar_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_all_tar_formats(layers: LayerDirectory, tar_format: int) -> None:
    name = "d/" * 60 + "f"
    root = add(layers, Layer(tar_format).add(name, b"content", uid=70_000).tar())
    assert (root / name).read_bytes() == b"content" and os.lstat(root / name).st_uid == 70_000


@pytest.mark.parametrize("compress", [gzip.compress, zstandard.compress, lambda data: gzip.compress(data[:1000]) + gzip.compress(data[1000:]), lambda data: gzip.compress(data) + bytes(1024)])
def test_compressions(layers: LayerDirectory, compress) -> None:
    content = os.urandom(100_000)
    tar = Layer().add("f", content).add("zeros", bytes(3_000_000)).tar()
    root = add(layers, tar, compress(tar))
    assert (root / "f").read_bytes() == content and (root / "zeros").stat().st_size == 3_000_000


def test_whiteouts_become_overlays_own(layers: LayerDirectory) -> None:
    layer = Layer().dir("a").add("a/.wh.gone").dir("b").add("b/.wh..wh..opq").add("b/new", b"1").add(".wh.c").dir("c").add("c/f", b"2").dir("d").add(".wh.d")
    layer.add(".wh.e").add("e/f", b"3").add(".wh..wh.plnk")
    root = add(layers, layer.tar())
    gone = os.lstat(root / "a/gone")
    assert stat.S_ISCHR(gone.st_mode) and gone.st_rdev == 0
    for name in "bcde":
        assert os.getxattr(root / name, "trusted.overlay.opaque") == b"y", name
    assert (root / "b/new").exists() and (root / "c/f").exists() and (root / "e/f").exists()
    assert sorted(os.listdir(root)) == ["a", "b", "c", "d", "e"]


def test_later_members_replace_earlier_ones(layers: LayerDirectory) -> None:
    layer = Layer().add("x", b"old").add("x", b"new").dir("y").add("y/deep/f", b"1").add("y", b"a file now").symlink("z", "x").dir("z").add("z/f", b"2")
    root = add(layers, layer.tar())
    assert (root / "x").read_bytes() == b"new" and (root / "y").read_bytes() == b"a file now" and (root / "z/f").read_bytes() == b"2"


def test_follows_a_symlink_that_stays_inside(layers: LayerDirectory) -> None:
    root = add(layers, Layer().dir("usr/bin").symlink("bin", "usr/bin").add("bin/tool", b"t").symlink("sbin", "/usr/bin").add("sbin/other", b"o").symlink("usr/lib", "../usr/bin").add("usr/lib/z", b"z").tar())
    assert sorted(os.listdir(root / "usr/bin")) == ["other", "tool", "z"]


@pytest.mark.parametrize(
    ("layer", "match"),
    [
        (Layer().add("../evil", b"x"), "escapes"),
        (Layer().add("a/../../evil", b"x"), "escapes"),
        (Layer().dir("../evil"), "escapes"),
        (Layer().link("l", "../../etc/passwd"), "escapes"),
        (Layer().symlink("l", "/etc").add("l/evil", b"x"), "leaves the layer"),
        (Layer().symlink("l", "../../..").add("l/evil", b"x"), "leaves the layer"),
        (Layer().symlink("l", "l").add("l/evil", b"x"), "leaves the layer|too many levels"),
        (Layer().symlink("l", "/etc").link("mine", "l/passwd"), "leaves the layer"),
        (Layer().symlink("l", "/etc/passwd").link("l2", "absent"), "No such file"),
        (Layer().add(".wh...", b""), "names no file"),
        (Layer().add(".wh.", b""), "names no file"),
        (Layer().add("f", b"x").add("f/g", b"x"), "cannot unpack f/g: Not a directory"),
    ],
)
def test_refuses_what_would_leave_the_layer(layers: LayerDirectory, layer: Layer, match: str) -> None:
    assert_refused(layers, layer.tar(), match)


def test_hard_link_to_a_symlink_links_the_symlink(layers: LayerDirectory) -> None:
    root = add(layers, Layer().symlink("s", "/etc/passwd").link("h", "s").tar())
    assert os.readlink(root / "h") == "/etc/passwd"


def test_writing_over_a_symlink_replaces_it(layers: LayerDirectory, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"untouched")
    root = add(layers, Layer().symlink("l", str(victim)).add("l", b"evil").tar())
    assert victim.read_bytes() == b"untouched" and (root / "l").read_bytes() == b"evil" and not (root / "l").is_symlink()


def test_overlay_xattrs_of_the_image_are_dropped(layers: LayerDirectory) -> None:
    root = add(layers, Layer().dir("d", pax_headers={"SCHILY.xattr.trusted.overlay.redirect": "/etc"}).tar())
    assert "trusted.overlay.redirect" not in os.listxattr(root / "d")


def test_refuses_damage(layers: LayerDirectory) -> None:
    tar = Layer().add("f", os.urandom(50_000)).tar()
    packed = gzip.compress(tar)
    assert_refused(layers, tar, "truncated", packed[:-2000])
    assert_refused(layers, tar, "truncated|unexpected EOF", tar[:20_000])
    assert_refused(layers, tar, "damaged gzip", packed[:1000] + bytes(100) + packed[1100:])
    assert_refused(layers, tar, "not a valid tar header", b"not a tar" * 1000)
    assert_refused(layers, tar, "diffID mismatch", gzip.compress(Layer().add("g", b"other").tar()))
    blob = gzip.compress(tar)
    with pytest.raises(LayerError, match="digest mismatch"):
        layers.add(digest(tar), iter([blob]), blob_digest="sha256:" + hashlib.sha256(b"else").hexdigest(), blob_size=len(blob))
    with pytest.raises(LayerError, match="size mismatch"):
        layers.add(digest(tar), iter([blob]), blob_digest=digest(blob), blob_size=len(blob) + 1)
    assert list(layers.root.iterdir()) == []


def test_a_layer_of_a_crashed_boot_is_not_trusted(layers: LayerDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    tar = Layer().add("f", b"1").tar()
    add(layers, tar)
    monkeypatch.setattr("agent.images.layers.boot_id", lambda: "the next boot")
    assert layers.size_bytes(digest(tar)) is None
    assert (add(layers, tar) / "f").read_bytes() == b"1"
    layers.sync()
    monkeypatch.setattr("agent.images.layers.boot_id", lambda: "yet another boot")
    assert layers.size_bytes(digest(tar)) == 1
