from agent.runtime import operations as op
from agent.runtime import plan, process, spec
from agent.runtime import syscalls as sc

HOST = plan.Host(bounding=(1 << 41) - 1, permitted=(1 << 41) - 1 & ~(1 << 24), hierarchies=(("cpu", "cpu", ()), ("memory", "memory", ())))


def made(change=None, host=HOST, **fields):
    wanted = spec.default_spec(["sh", "-c", "true"])
    if change:
        change(wanted)
    launch = plan.Launch(
        **{
            "spec": wanted, "layers": ["/l1", "/l2"], "upper": "/u", "work": "/w", "root": "/r", "cgroup_files": ("/cg/tasks",), "namespace_fds": (5, 6), "mount_fds": {},
            "stdio": (-1, 7, 8), "tty": False, "status_fd": 9, "seccomp": b"bpf",
        }
        | fields
    )  # fmt: skip
    return plan.plan_container(launch, host)


def kinds(ops):
    return [type(o).__name__ for o in ops]


def test_the_order_that_the_kernel_wants():
    names = kinds(made())
    expected = ["JoinCgroups", "JoinNamespaces", "Unshare", "MountOverlay", "PivotRoot", "Mount", "MakeDevices", "ReadonlyPaths", "MaskPaths", "Stdio", "CloseDescriptors", "WaitForGo", "Become"]
    positions = [names.index(n) for n in expected]
    assert positions == sorted(positions[:5]) + positions[5:] and positions[5:] == [5, *positions[6:]] and names[-1] == "Become"
    assert names.index("PivotRoot") < names.index("Mount") and names.index("MaskPaths") > max(i for i, n in enumerate(names) if n.startswith("Mount"))


def test_equal_specs_make_equal_plans_and_every_step_says_what_it_does():
    assert made() == made()
    assert all(len(line.split(None, 1)[1]) > 5 for line in op.describe_all(made()))


def test_devices_come_right_after_dev_is_mounted():
    ops = made(lambda s: s["linux"].update(devices=[{"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 0o600}]))
    at = next(i for i, o in enumerate(ops) if isinstance(o, op.MakeDevices))
    assert ops[at - 1].target == "/dev" and ("/dev/fuse", "c", 10, 229, 0o600, 0, 0) in ops[at].devices and len(ops[at].devices) == 7


def test_shared_superblocks_are_never_mounted_read_only():
    for o in made():
        if isinstance(o, op.Mount) and o.fstype in ("sysfs", "mqueue"):
            assert not o.flags & sc.MS_RDONLY
        if isinstance(o, op.Mount) and o.fstype == "sysfs":
            assert o.attributes == sc.MOUNT_ATTR_RDONLY


def test_cgroups_are_shown_as_the_host_has_them():
    (v1,) = [o for o in made() if isinstance(o, op.MountCgroups)]
    assert v1.hierarchies == HOST.hierarchies and v1.attributes == sc.MOUNT_ATTR_RDONLY
    (v2,) = [o for o in made(host=HOST._replace(hierarchies=None)) if isinstance(o, op.Mount) and o.target == "/sys/fs/cgroup"]
    assert v2.fstype == "cgroup2"


def test_capabilities_are_cut_to_what_the_host_may_give():
    become = made(lambda s: s["process"].update(capabilities=spec.capability_sets(spec.ALL_CAPABILITIES)))[-1]
    effective, permitted, inheritable, ambient = become.capabilities
    assert effective == permitted == HOST.permitted and (inheritable, ambient) == (0, 0) and become.bounding_drop == (24,)
    assert set(made()[-1].bounding_drop) == set(range(41)) - {spec.ALL_CAPABILITIES.index(c) for c in spec.DEFAULT_CAPABILITIES}


def test_bind_mounts_take_their_descriptor_and_attributes():
    def change(s):
        s["mounts"].append({"destination": "/d", "type": "bind", "source": "/s", "options": ["rbind", "ro", "rnoexec", "rslave"]})

    (attach,) = [o for o in made(change, mount_fds={7: 33}) if isinstance(o, op.AttachTree)]
    assert attach == op.AttachTree(33, "/d", sc.MOUNT_ATTR_RDONLY, sc.MOUNT_ATTR_NOEXEC, sc.MS_SLAVE | sc.MS_REC)


def test_options():
    assert plan.parse_options(["rw", "nosuid", "size=1m", "mode=755"]) == plan.Options(sc.MS_NOSUID, sc.MOUNT_ATTR_NOSUID, 0, 0, "size=1m,mode=755", False)
    assert plan.parse_options(["bind", "rprivate"]) == plan.Options(0, 0, 0, sc.MS_PRIVATE | sc.MS_REC, "", True)


def test_what_is_not_asked_for_is_not_done():
    def change(s):
        s["linux"] = {"namespaces": [{"type": "mount"}]}
        s["mounts"] = []

    names = kinds(made(change, layers=[], cgroup_files=(), namespace_fds=()))
    assert names == ["BindRoot", "PivotRoot", "Stdio", "CloseDescriptors", "WaitForGo", "Become"]


def test_an_exec_joins_and_makes_nothing():
    launch = plan.Launch({}, (), "", "", "", ("/cg/tasks",), (), {}, (1, 2, 3), False, 9, b"")
    ops = plan.plan_exec({"args": ["ls"], "cwd": "/"}, launch, 44, HOST)
    assert kinds(ops) == ["JoinCgroups", "JoinNamespaces", "Stdio", "CloseDescriptors", "WaitForGo", "Become"] and ops[1].fds == (44,)
    terminal = plan.plan_exec({"args": ["ls"]}, launch._replace(tty=True), 44, HOST)[2]
    assert terminal == process.Terminal(9, False, 0, 0)
