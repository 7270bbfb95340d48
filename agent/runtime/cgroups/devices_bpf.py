"""cgroup v2 has no devices controller: a BPF program (BPF_PROG_TYPE_CGROUP_DEVICE, Linux 4.15) on the group says what may be used. Assembled here from the same rules that v1
writes to devices.allow and devices.deny; bpf(2), linux/bpf.h.
"""

from __future__ import annotations

import ctypes
import os
import struct

from agent.runtime import syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_PROG_LOAD, _PROG_ATTACH = 5, 8
_TYPE_CGROUP_DEVICE, _ATTACH_CGROUP_DEVICE, _ALLOW_MULTI = 15, 6, 2
_KINDS = {"b": 1, "c": 2}  # BPF_DEVCG_DEV_*
_ACCESS = {"m": 1, "r": 2, "w": 4}  # BPF_DEVCG_ACC_*
_LDX_W, _ALU_AND, _ALU_RSH, _MOV_REG, _MOV_IMM, _JNE_IMM, _JNE_REG, _JEQ_IMM, _EXIT = 0x61, 0x54, 0x74, 0xBC, 0xB4, 0x55, 0x5D, 0x15, 0x95
_R0, _R1, _ACCESS_REG, _KIND_REG, _MAJOR_REG, _MINOR_REG, _TEMP = 0, 1, 2, 3, 4, 5, 1


def _instruction(code: int, dst: int = 0, src: int = 0, offset: int = 0, immediate: int = 0) -> bytes:
    return struct.pack("<BBhi", code, dst | src << 4, offset, immediate)


def assemble(rules: Sequence[tuple[bool, str, int, int, str]]) -> bytes:
    """The program: the last rule that matches decides, so they are tried backwards; nothing matching is refused."""
    program = [
        _instruction(_LDX_W, _KIND_REG, _R1, 0),  # access_type: kind in the low half, access in the high one
        _instruction(_MOV_REG, _ACCESS_REG, _KIND_REG),
        _instruction(_ALU_AND, _KIND_REG, immediate=0xFFFF),
        _instruction(_ALU_RSH, _ACCESS_REG, immediate=16),
        _instruction(_LDX_W, _MAJOR_REG, _R1, 4),
        _instruction(_LDX_W, _MINOR_REG, _R1, 8),
    ]
    for allow, kind, major, minor, access in reversed(list(rules)):
        program += _rule(allow, kind, major, minor, access)
        if kind == "a" and set(access) == set("rwm"):
            return b"".join(program)  # decides everything: what is before it could never run, and the verifier refuses dead code
    return b"".join([*program, _instruction(_MOV_IMM, _R0, immediate=0), _instruction(_EXIT)])


def _rule(allow: bool, kind: str, major: int, minor: int, access: str) -> list[bytes]:
    jumps: list[tuple[int, int, int]] = []  # (code, register, immediate): to the next rule where it does not match
    if kind != "a":
        jumps.append((_JNE_IMM, _KIND_REG, _KINDS[kind]))
    if major >= 0:
        jumps.append((_JNE_IMM, _MAJOR_REG, major))
    if minor >= 0:
        jumps.append((_JNE_IMM, _MINOR_REG, minor))
    bits = sum(_ACCESS[a] for a in set(access))
    partial = bits != 7
    verdict = [_instruction(_MOV_IMM, _R0, immediate=int(allow)), _instruction(_EXIT)]
    length = len(jumps) + (3 if partial else 0) + len(verdict)
    code = [_instruction(op, register, offset=length - i - 1, immediate=immediate) for i, (op, register, immediate) in enumerate(jumps)]
    if partial:  # an allowing rule must cover all that is asked for, a refusing one any of it
        code += [_instruction(_MOV_REG, _TEMP, _ACCESS_REG), _instruction(_ALU_AND, _TEMP, immediate=bits)]
        skip = length - len(code) - 1
        code.append(_instruction(_JNE_REG, _TEMP, _ACCESS_REG, skip) if allow else _instruction(_JEQ_IMM, _TEMP, offset=skip, immediate=0))
    return code + verdict


def load(program: bytes) -> int:
    """A descriptor of the loaded program. Raises OSError."""
    code = ctypes.create_string_buffer(program, len(program))
    license_ = ctypes.create_string_buffer(b"Apache-2.0")
    attr = struct.pack("<IIQQIIQII", _TYPE_CGROUP_DEVICE, len(program) // 8, ctypes.addressof(code), ctypes.addressof(license_), 0, 0, 0, 0, 0)
    return syscalls.bpf(_PROG_LOAD, attr + bytes(64))


def attach(folder: str, rules: Sequence[tuple[bool, str, int, int, str]]) -> None:
    """Put the filter on the cgroup; the kernel drops it with the group. Raises OSError."""
    program_fd = load(assemble(rules))
    try:
        folder_fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            syscalls.bpf(_PROG_ATTACH, struct.pack("<IIII", folder_fd, program_fd, _ATTACH_CGROUP_DEVICE, _ALLOW_MULTI))
        finally:
            os.close(folder_fd)
    finally:
        os.close(program_fd)
