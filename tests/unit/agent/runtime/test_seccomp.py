import os
import platform
import struct

import pytest

from agent.runtime import seccomp, spec

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="the numbers below are x86-64's")
ALLOW, EPERM, ENOSYS = 0x7FFF0000, 0x50001, 0x50026
NUMBERS = {
    "read": 0, "socket": 41, "clone": 56, "fork": 57, "execve": 59, "mount": 165, "reboot": 169, "init_module": 175, "unshare": 272, "personality": 135, "keyctl": 250,
    "bpf": 321, "userfaultfd": 323, "clone3": 435, "io_uring_setup": 425, "openat2": 437, "futex": 202, "chroot": 161,
}  # fmt: skip


def verdict(program, number, *args, arch=0xC000003E):
    """Runs the classic BPF on a struct seccomp_data."""
    data = struct.pack("<iIQ6Q", number, arch, 0, *(list(args) + [0] * (6 - len(args))))
    a = x = at = 0
    memory = [0] * 16
    while True:
        code, jt, jf, k = struct.unpack_from("<HBBI", program, at * 8)
        at += 1
        kind = code & 7
        if kind == 0:
            a = struct.unpack_from("<I", data, k)[0] if code & 0xE0 == 0x20 else memory[k] if code & 0xE0 == 0x60 else k
        elif kind == 2:
            memory[k] = a
        elif kind == 4:
            a = {0x50: a & k, 0x40: a | k}[code & 0xF0]
        elif kind == 5:
            op = code & 0xF0
            if op == 0:
                at += k
            else:
                at += jt if {0x10: a == k, 0x20: a > k, 0x30: a >= k, 0x40: bool(a & k)}[op] else jf
        elif kind == 6:
            return k if code & 0x18 == 0 else a
        else:
            raise AssertionError(f"unexpected instruction {code:#x} {x}")


@pytest.fixture(scope="module")
def default():
    return seccomp.compile_default(spec.DEFAULT_CAPABILITIES)


@pytest.mark.parametrize(
    ("name", "args", "expected"),
    [
        ("read", (), ALLOW), ("execve", (), ALLOW), ("openat2", (), ALLOW), ("futex", (), ALLOW), ("fork", (), ALLOW), ("chroot", (), ALLOW),
        ("mount", (), EPERM), ("reboot", (), EPERM), ("init_module", (), EPERM), ("unshare", (), EPERM), ("keyctl", (), EPERM), ("bpf", (), EPERM), ("userfaultfd", (), EPERM),
        ("io_uring_setup", (), EPERM), ("clone3", (), ENOSYS),
        ("clone", (0x11,), ALLOW), ("clone", (0x3D0F00,), ALLOW), ("clone", (0x10000000,), EPERM), ("clone", (0x40000011,), EPERM), ("clone", (0x60020000,), EPERM),
        ("personality", (0,), ALLOW), ("personality", (0x0040000,), ENOSYS),
        ("socket", (2,), ALLOW), ("socket", (40,), EPERM),
    ],
)  # fmt: skip
def test_default_profile(default, name, args, expected):
    assert verdict(default, NUMBERS[name], *args) == expected


def test_what_it_has_not_heard_of_is_not_implemented(default):
    assert verdict(default, 4000) == ENOSYS and verdict(default, 0, arch=0xC00000B7) == ENOSYS


def test_capabilities_open_what_they_are_for():
    program = seccomp.compile_default(["CAP_SYS_ADMIN", "CAP_SYS_BOOT"])
    assert {verdict(program, NUMBERS[n]) for n in ("mount", "unshare", "bpf", "reboot", "clone3")} == {ALLOW}
    assert verdict(program, NUMBERS["clone"], 0x10000000) == ALLOW and verdict(program, NUMBERS["init_module"]) == EPERM


def test_profiles_of_ones_own():
    profile = {
        "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38, "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": [{"names": ["read", "no_such_call"], "action": "SCMP_ACT_ALLOW"}, {"names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}]}],
    }  # fmt: skip
    program = seccomp.compile_profile(profile)
    assert [verdict(program, 0), verdict(program, 1), verdict(program, 41, 1), verdict(program, 41, 2)] == [ALLOW, ENOSYS, ALLOW, ENOSYS]


@pytest.mark.parametrize(
    ("profile", "text"),
    [
        ({"defaultAction": "X"}, "linux.seccomp.defaultAction: must be one of"),
        ({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_Z80"], "syscalls": [{}]}, "architectures\\[0\\]: unknown architecture 'SCMP_ARCH_Z80'"),
        ({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"], "action": "?"}]}, "syscalls\\[0\\].action"),
        ({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ERRNO", "args": [{"op": "~"}]}]}, "args\\[0\\].op: unknown operator '~'"),
    ],
)
def test_wrong_profiles_are_named(profile, text):
    with pytest.raises(ValueError, match=text):
        seccomp.compile_profile(profile)


def test_the_file_is_made_once(tmp_path, monkeypatch):
    path = seccomp.cached("default", spec.DEFAULT_CAPABILITIES, str(tmp_path))
    stamp = os.stat(path).st_mtime_ns
    monkeypatch.setattr(seccomp, "compile_default", lambda _: pytest.fail("compiled again"))
    assert seccomp.cached("default", [*spec.DEFAULT_CAPABILITIES, "CAP_NET_ADMIN"], str(tmp_path)) == path, "capabilities without a part in it change nothing"
    assert os.stat(path).st_mtime_ns == stamp and os.listdir(tmp_path) == [os.path.basename(path)]
    assert seccomp.cached({"defaultAction": "SCMP_ACT_ALLOW"}, [], str(tmp_path)) == ""
