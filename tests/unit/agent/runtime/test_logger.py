"""render_lines: what of a chunk may be written, and how. (The processes themselves: tests/node/test_guard_logger.py.)"""

import os

from hypothesis import given
from hypothesis import strategies as st

from agent.runtime import logger

NOW = b"2026-01-02T03:04:05.000000006Z"


def test_stamp():
    assert logger.stamp(1_700_000_000_000_000_007) == b"2023-11-14T22:13:20.000000007Z"


def test_whole_lines_and_an_unfinished_one():
    assert logger.render_lines(b"a\n\nb\nrest", b"stdout", NOW, 100, ended=False) == (NOW + b" stdout F a\n" + NOW + b" stdout F \n" + NOW + b" stdout F b\n", 5)
    assert logger.render_lines(b"rest", b"stderr", NOW, 100, ended=True) == (NOW + b" stderr P rest\n", 4)
    assert logger.render_lines(b"rest", b"stderr", NOW, 4, ended=False) == (NOW + b" stderr P rest\n", 4)
    assert logger.render_lines(b"rest", b"stderr", NOW, 5, ended=False) == (b"", 0)


@given(st.lists(st.binary(max_size=40)), st.integers(1, 30))
def test_text_is_never_lost_or_changed(chunks, partial):
    data, pending, text = b"".join(chunks), b"", b""
    for chunk in chunks:
        pending += chunk
        out, covered = logger.render_lines(pending, b"stdout", NOW, partial, ended=False)
        text, pending = text + out, pending[covered:]
        assert len(pending) < partial or b"\n" not in pending
    out, covered = logger.render_lines(pending, b"stdout", NOW, partial, ended=True)
    text += out
    back = b""
    for line in text.split(b"\n")[:-1]:
        tag, rest = line[len(NOW) + 8 :][:1], line[len(NOW) + 10 :]
        back += rest + (b"\n" if tag == b"F" else b"")
    assert back == data


def test_rotation_keeps_the_newest_files(tmp_path, monkeypatch):
    monkeypatch.setattr(logger, "ROTATE_BYTES", 100)
    log = logger.LogFile(str(tmp_path / "c" / "0.log"))
    for i in range(20):
        log.append(b"%04d" % i + b"x" * 60 + b"\n", 1_700_000_000_000_000_000 + i)
    log.close()
    names = sorted(os.listdir(tmp_path / "c"))
    assert len(names) == 1 + logger.ROTATE_KEEP
    kept = b"".join((tmp_path / "c" / n).read_bytes()[:4] for n in sorted(names, key=lambda n: (n == "0.log", n)))
    assert kept == b"00150016001700180019"
