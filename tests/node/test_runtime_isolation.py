"""What a container sees, asked from inside it."""

import os
import pathlib
import re

import pytest

from agent.runtime import spec
from tests.node.runtime_host import Host

NAMESPACES = ("mnt", "pid", "net", "ipc", "uts", "cgroup")


@pytest.fixture
async def host():
    async with Host() as h:
        yield h


def fields(text):
    return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)


def mask(names):
    return sum(1 << spec.ALL_CAPABILITIES.index(n) for n in names)


async def test_every_namespace_is_its_own(host):
    _, out = await host.run(["sh", "-c", f"for n in {' '.join(NAMESPACES)}; do readlink /proc/self/ns/$n; done"])
    ours = {os.readlink(f"/proc/self/ns/{n}") for n in NAMESPACES}
    assert len(out.split()) == len(NAMESPACES) and not ours & set(out.split())


async def test_containers_of_a_pod_share_net_ipc_uts_and_nothing_else(host):
    sandbox = await host.sandbox(hostname="shared")
    first, second = [await host.start(["sleep", "1000"], sandbox_id=sandbox) for _ in range(2)]
    script = ["sh", "-c", f"hostname; for n in {' '.join(NAMESPACES)}; do readlink /proc/self/ns/$n; done"]
    (_, a), (_, b) = await host.execute(first, script), await host.execute(second, script)
    assert a.split()[0] == b.split()[0] == "shared"
    assert {line.split(":")[0] for line in set(a.split()) & set(b.split())} - {"shared"} == {"net", "ipc", "uts"}


async def test_it_is_process_one_of_a_small_world(host):
    code, out = await host.run(["sh", "-c", "echo $$; ls /proc | grep -c '^[0-9]'; cat /proc/self/cgroup; ls /"])
    lines = out.splitlines()
    assert code == 0 and lines[0] == "1" and int(lines[1]) <= 4
    assert all(line.endswith(":/") for line in lines if re.match(r"\d+:", line)), out
    assert "garbage" in lines and "work" not in lines


async def test_mounts_are_as_oci_wants_them(host):
    _, out = await host.run(["cat", "/proc/mounts"])
    found = {line.split()[1]: line.split() for line in out.splitlines()}
    assert found["/"][2] == "overlay" and found["/"][3].startswith("rw")
    assert found["/proc"][2] == "proc" and {"nosuid", "nodev", "noexec"} <= set(found["/proc"][3].split(","))
    assert found["/sys"][2] == "sysfs" and found["/sys"][3].startswith("ro")
    assert {found[p][2] for p in ("/dev", "/dev/shm")} == {"tmpfs"} and found["/dev/pts"][2] == "devpts" and found["/dev/mqueue"][2] == "mqueue"
    assert found["/sys/fs/cgroup"][3].startswith("ro")
    for path in ("/proc/sys", "/proc/irq", "/proc/bus", "/proc/fs", "/proc/sysrq-trigger"):
        if os.path.exists(path):
            assert found[path][3].startswith("ro"), path
    assert not any(host.data_dir == p or p.startswith("/run") for p in found)


async def test_devices(host):
    _, out = await host.run(["sh", "-c", "stat -c '%n %a %t,%T' /dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty; ls -l /dev/fd /dev/ptmx /dev/stdout; head -c 4 /dev/zero | wc -c"])
    for name, minor in (("null", 3), ("zero", 5), ("full", 7), ("random", 8), ("urandom", 9)):
        assert f"/dev/{name} 666 1,{minor}" in out
    assert "/dev/tty 666 5,0" in out and "/proc/self/fd" in out and "pts/ptmx" in out and out.splitlines()[-1] == "4"


async def test_a_device_that_was_not_given_cannot_be_opened(host):
    code, out = await host.run(["sh", "-c", "mknod /dev/kmsg2 c 1 11 && cat /dev/kmsg2"])
    assert code != 0 and "Operation not permitted" in out


async def test_masked_and_readonly_paths(host):
    code, out = await host.run(["sh", "-c", "wc -c < /proc/keys; wc -c < /proc/timer_list; ls -A /sys/firmware | wc -l; echo x > /proc/sys/kernel/hostname"])
    assert out.split()[:3] == ["0", "0", "0"]
    assert code != 0 and "Read-only file system" in out


async def test_default_capabilities_and_seccomp(host):
    _, out = await host.run(["cat", "/proc/self/status"])
    status = fields(out)
    wanted = mask(spec.DEFAULT_CAPABILITIES)
    assert [int(status[n], 16) for n in ("CapBnd", "CapPrm", "CapEff")] == [wanted] * 3
    assert [int(status[n], 16) for n in ("CapInh", "CapAmb")] == [0, 0]
    assert status["Seccomp"].strip() == "2" and status["NoNewPrivs"].strip() == "0"


async def test_seccomp_refuses_what_reaches_outside(host):
    code, out = await host.run(["unshare", "-r", "true"])
    assert code != 0 and "Operation not permitted" in out
    code, out = await host.run(["mount", "-t", "tmpfs", "x", "/script"])
    assert code != 0


async def test_added_and_dropped_capabilities_and_no_new_privs(host):
    def change(s):
        s["process"]["capabilities"] = spec.capability_sets(spec.adjust_capabilities(spec.DEFAULT_CAPABILITIES, ["NET_ADMIN"], ["ALL"]))
        s["process"]["noNewPrivileges"] = True

    code, out = await host.run(["sh", "-c", "cat /proc/self/status; chown 1:1 /script"], change)
    status = fields(out)
    assert int(status["CapEff"], 16) == mask(["CAP_NET_ADMIN"]) and status["NoNewPrivs"].strip() == "1" and status["Seccomp"].strip() == "2"
    assert code != 0, "chown needs CAP_CHOWN"


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ({"uid": 0, "gid": 0}, "uid=0(root) gid=0(root) groups=0(root)"),
        ({"username": "web"}, "uid=1000(web) gid=1001(web) groups=1001(web),2000(extra)"),
        ({"username": "1000"}, "uid=1000(web) gid=1001(web) groups=1001(web),2000(extra)"),
        ({"username": "web:none"}, "uid=1000(web) gid=2001(none) groups=2001(none)"),
        ({"username": "4242:77"}, "uid=4242 gid=77 groups=77"),
        ({"uid": 1000}, "uid=1000(web) gid=1001(web) groups=1001(web),2000(extra)"),
        ({"uid": 5, "gid": 6, "additionalGids": [7, 8]}, "uid=5 gid=6 groups=6,7,8"),
    ],
)
async def test_users(host, user, expected):
    _, out = await host.run(["sh", "-c", "id; grep Cap /proc/self/status; echo >> /dev/stdout"], lambda s: s["process"].update(user=user))
    assert out.splitlines()[0] == expected
    effective = int(fields(out)["CapEff"], 16)
    assert effective == (mask(spec.DEFAULT_CAPABILITIES) if "uid=0" in expected else 0), "non-root has no capabilities after exec"
    assert "ermission denied" not in out, "a user can reopen its own stdout"


async def test_home_workdir_env_and_hostname(host):
    def change(s):
        s["process"].update(cwd="/new/work dir", env=["PATH=/bin", "A=b=c", "EMPTY="], user={"username": "web"})

    code, out = await host.run(["sh", "-c", 'pwd; echo "$HOME|$A|$EMPTY|"; hostname'], change)
    assert (code, out.splitlines()) == (0, ["/new/work dir", "/home/web|b=c||", "pod-host"])


async def test_read_only_root(host):
    def change(s):
        s["root"]["readonly"] = True
        s["process"]["cwd"] = "/made/for/it"
        s["mounts"].append({"destination": "/scratch", "type": "tmpfs", "source": "tmpfs", "options": ["size=1m"]})

    code, out = await host.run(["sh", "-c", "pwd; touch /scratch/a && echo scratch; touch /dev/shm/b && echo shm; touch /x"], change)
    assert out.splitlines()[:3] == ["/made/for/it", "scratch", "shm"] and code != 0 and "Read-only file system" in out


async def test_bind_mounts(host, tmp_path):
    (tmp_path / "hosts").write_text("10.0.0.1 me\n")
    (tmp_path / "data").mkdir()

    def change(s):
        s["mounts"] += [
            {"destination": "/etc/hosts", "type": "bind", "source": str(tmp_path / "hosts"), "options": ["rbind", "ro"]},
            {"destination": "/var/run/deep/data", "type": "bind", "source": str(tmp_path / "data"), "options": ["rbind", "rw", "nosuid"]},
        ]

    code, out = await host.run(["sh", "-c", "cat /etc/hosts; echo there > /var/run/deep/data/file; grep deep /proc/mounts; echo x >> /etc/hosts"], change)
    assert out.startswith("10.0.0.1 me\n") and "nosuid" in out and code != 0 and "Read-only file system" in out
    assert (tmp_path / "data/file").read_text() == "there\n"


async def test_an_image_cannot_lead_a_mount_out_of_its_root(host, tmp_path):
    """Its symlinks are followed inside its own root."""
    layer = pathlib.Path(host.data_dir, "layer")
    (layer / "etc").mkdir(parents=True)
    (layer / "etc/target").symlink_to("/../../../../../../../../../../tmp/minik-escape-probe/file")
    (tmp_path / "source").write_text("inside")
    host.layer, busybox = str(layer), host.layer

    def change(s):
        s["mounts"].append({"destination": "/etc/target", "type": "bind", "source": str(tmp_path / "source"), "options": ["bind"]})
        s["mounts"].append({"destination": "/bin", "type": "bind", "source": f"{busybox}/bin", "options": ["bind"]})

    code, out = await host.run(["/bin/sh", "-c", "cat /tmp/minik-escape-probe/file"], change)
    assert (code, out.strip()) == (0, "inside")
    assert not os.path.exists("/tmp/minik-escape-probe")


async def test_many_layers_with_long_paths(host):
    layers = []
    for i in range(90):
        layer = pathlib.Path(host.data_dir, "layer-" + "x" * 60 + f"-{i}")
        layer.mkdir()
        (layer / "which").write_text(str(i))
        (layer / f"only-{i}").write_text("")
        layers.append(str(layer))
    config = host.config(await host.sandbox(), ["sh", "-c", "cat /which; ls / | grep -c only-"])
    config = type(config)(**{n: getattr(config, n) for n in config.__slots__} | {"layers": [host.layer, *layers]})
    await host.runtime.create_container(config)
    await host.runtime.start_container(config.id)
    await host.ended(config.id)
    assert host.output(config.id).split() == ["8990"]


async def test_privileged(host):
    code, out = await host.run(["sh", "-c", "mount -t tmpfs x /etc && cat /proc/self/status && ls /dev; echo 1 > /proc/sys/vm/drop_caches"], spec.make_privileged)
    assert code == 0, out
    status = fields(out)
    assert status["Seccomp"].strip() == "0" and int(status["CapEff"], 16) & mask(["CAP_SYS_ADMIN"])
    assert {n for n in os.listdir("/dev") if n.startswith(("vd", "sd", "nvme"))} <= set(out.split())


async def test_host_namespaces(host):
    sandbox = await host.sandbox(host_network=True, host_ipc=True, host_pid=True)
    _, out = await host.run(["sh", "-c", "for n in net ipc pid uts; do readlink /proc/self/ns/$n; done"], sandbox_id=sandbox)
    assert out.split()[:3] == [os.readlink(f"/proc/self/ns/{n}") for n in ("net", "ipc", "pid")]


async def test_shared_pid_namespace_and_the_end_of_one_of_its_containers(host):
    sandbox = await host.sandbox(shared_pid=True)
    first = await host.start(["sh", "-c", "sleep 1000 & sleep 1000"], sandbox_id=sandbox)
    code, out = await host.run(["ps"], sandbox_id=sandbox)
    assert code == 0 and "sleep 1000" in out and "pause" in out
    status = await host.runtime.stop_container(first, 0)
    assert status.exit_code == 137
    _, out = await host.run(["ps"], sandbox_id=sandbox)
    assert "sleep 1000" not in out


async def test_dev_shm_belongs_to_the_pod(host):
    sandbox = await host.sandbox()
    await host.run(["sh", "-c", "echo hello > /dev/shm/note"], sandbox_id=sandbox)
    assert (await host.run(["cat", "/dev/shm/note"], sandbox_id=sandbox))[1] == "hello\n"
    assert (await host.run(["ls", "-A", "/dev/shm"]))[1] == ""


async def test_sysctls_of_the_pod(host):
    _, out = await host.run(["cat", "/proc/sys/net/core/somaxconn", "/proc/sys/net/ipv4/ip_unprivileged_port_start"], lambda s: s["linux"].update(sysctl={"net.core.somaxconn": "77"}))
    assert out.split() == ["77", "0"]


async def test_the_interpreter_of_the_host_cannot_be_written_through_proc_self_exe(host):
    """An image whose command is `#!/proc/self/exe` runs the zygote's own interpreter: its mount is read-only (CVE-2019-5736)."""
    flags = os.statvfs(f"/proc/{host.pid_of('zygote')}/exe").f_flag  # of the mount that the link leads to
    assert flags & os.ST_RDONLY
    code, _ = await host.run(["sh", "-c", "printf '#!/proc/self/exe\\nopen(\"/proc/self/exe\", \"ab\")' > /attack; chmod 755 /attack; /attack"])
    assert code != 0


async def test_resources_are_limits_of_its_cgroup(host):
    if host.runtime and (await host.runtime._connection.call("hello"))[0]["cgroup_version"] != 1:
        pytest.skip("reads cgroup v1 files")

    def change(s):
        s["linux"]["resources"] = {"cpu": {"shares": 512, "quota": 50000, "period": 100000}, "memory": {"limit": 64 << 20}, "pids": {"limit": 33}}

    script = "cd /sys/fs/cgroup; cat cpu/cpu.shares cpu/cpu.cfs_quota_us memory/memory.limit_in_bytes pids/pids.max; cat cpuset/cpuset.cpus"
    _, out = await host.run(["sh", "-c", script], change)
    assert out.split()[:4] == ["512", "50000", str(64 << 20), "33"] and out.split()[4]


async def test_rlimits_and_umask(host):
    def change(s):
        s["process"]["rlimits"] = [{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}]
        s["process"]["user"]["umask"] = 0o077

    _, out = await host.run(["sh", "-c", "ulimit -n; ulimit -Hn; umask"], change)
    assert out.split() == ["100", "200", "0077"]
