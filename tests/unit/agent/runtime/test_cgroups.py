import os
import struct

import pytest

from agent.runtime.cgroups import base, detect, devices_bpf, v1, v2

V1 = """\
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
"""
OVERMOUNTED = V1 + "50 27 0:50 / /sys/fs/cgroup/memory rw - tmpfs tmpfs rw\n"


def test_mountinfo_is_read_with_later_mounts_hiding_earlier_ones():
    hierarchies, unified = detect.parse_mountinfo(V1)
    assert hierarchies == {"/sys/fs/cgroup/cpu,cpuacct": ("cpu", "cpuacct"), "/sys/fs/cgroup/memory": ("memory",), "/sys/fs/cgroup/systemd": ("name=systemd",)}
    assert unified == ["/sys/fs/cgroup/unified"]
    assert "/sys/fs/cgroup/memory" not in detect.parse_mountinfo(OVERMOUNTED)[0]


def test_a_host_without_memory_control_is_refused():
    with pytest.raises(OSError, match="neither a cgroup v2 tree"):
        detect.driver("27 1 254:0 / / rw - ext4 /dev/vda rw\n")


def test_v1_shows_joint_hierarchies_with_links():
    driver = v1.DriverV1([v1.Hierarchy(("cpu", "cpuacct"), "/a"), v1.Hierarchy(("name=systemd",), "/b"), v1.Hierarchy(("memory",), "/m")])
    assert driver.hierarchies == (("cpu,cpuacct", "cpu,cpuacct", ("cpu", "cpuacct")), ("systemd", "none,name=systemd", ()), ("memory", "memory", ()))
    assert driver.join_files("x/y") == ("/a/x/y/tasks", "/b/x/y/tasks", "/m/x/y/tasks")


@pytest.mark.parametrize(("shares", "weight"), [(2, 1), (1024, 39), (262144, 10000), (0, 1), (10**9, 10000)])
def test_weights(shares, weight):
    assert v2.weight_from_shares(shares) == weight


def test_v2_settings():
    resources = {
        "cpu": {"shares": 1024, "quota": 50000, "period": 100000, "cpus": "0-1"},
        "memory": {"limit": 100, "swap": 150, "reservation": 50},
        "pids": {"limit": 7},
        "unified": {"memory.high": "90"},
    }
    assert v2.settings(resources) == {
        "cpu.weight": "39", "cpu.max": "50000 100000", "cpuset.cpus": "0-1", "memory.max": "100", "memory.swap.max": "50", "memory.low": "50", "pids.max": "7", "memory.high": "90",
    }  # fmt: skip
    assert v2.settings({"cpu": {"quota": -1}, "memory": {"limit": -1, "swap": -1}, "pids": {"limit": 0}}) == {
        "cpu.max": "max 100000", "memory.max": "max", "memory.swap.max": "max", "pids.max": "max",
    }  # fmt: skip
    assert v2.settings({}) == {}


def verdict(program, kind, major, minor, access):
    """What the kernel would compute: the instructions that assemble() uses, on the three words of bpf_cgroup_dev_ctx."""
    words = {0: {"b": 1, "c": 2}[kind] | sum({"m": 1, "r": 2, "w": 4}[a] for a in access) << 16, 4: major, 8: minor}
    registers, at = [0] * 11, 0
    while True:
        code, pair, offset, immediate = struct.unpack_from("<BBhi", program, at * 8)
        dst, src = pair & 15, pair >> 4
        at += 1
        if code == 0x61:
            registers[dst] = words[offset]
        elif code in (0xBC, 0xB4):
            registers[dst] = registers[src] if code == 0xBC else immediate
        elif code == 0x54:
            registers[dst] &= immediate
        elif code == 0x74:
            registers[dst] >>= immediate
        elif code == 0x95:
            return registers[0]
        else:
            jump = {0x55: registers[dst] != immediate, 0x5D: registers[dst] != registers[src], 0x15: registers[dst] == immediate}[code]
            at += offset if jump else 0


@pytest.mark.parametrize(
    ("extra", "device", "allowed"),
    [
        ([], ("c", 1, 3, "rw"), 1),
        ([], ("c", 136, 5, "rw"), 1),
        ([], ("c", 1, 11, "r"), 0),
        ([], ("c", 1, 11, "m"), 1),
        ([], ("c", 1, 11, "rm"), 0),
        ([], ("b", 8, 0, "r"), 0),
        ([], ("b", 8, 0, "m"), 1),
        ([{"allow": True, "type": "b", "major": 8, "minor": 0, "access": "r"}], ("b", 8, 0, "r"), 1),
        ([{"allow": True, "type": "b", "major": 8, "minor": 0, "access": "r"}], ("b", 8, 0, "w"), 0),
        ([{"allow": True, "type": "b", "major": 8, "access": "rwm"}], ("b", 8, 99, "rw"), 1),
        ([{"allow": False, "type": "c", "major": 1, "minor": 3, "access": "w"}], ("c", 1, 3, "rw"), 0),
        ([{"allow": False, "type": "c", "major": 1, "minor": 3, "access": "w"}], ("c", 1, 3, "r"), 1),
        ([{"allow": True, "access": "rwm"}], ("b", 8, 0, "rwm"), 1),
        ([{"allow": True, "access": "rwm"}, {"allow": False, "type": "b", "access": "rwm"}], ("b", 8, 0, "r"), 0),
    ],
)
def test_device_programs_decide_as_the_rules_say(extra, device, allowed):
    assert verdict(devices_bpf.assemble(base.device_rules({"devices": extra})), *device) == allowed


@pytest.mark.skipif(os.geteuid() != 0, reason="loading a BPF program needs root")
@pytest.mark.parametrize("extra", [[], [{"allow": True, "access": "rwm"}], [{"allow": False, "type": "b", "access": "w"}]])
def test_the_kernel_accepts_device_programs(extra):
    os.close(devices_bpf.load(devices_bpf.assemble(base.device_rules({"devices": extra}))))
