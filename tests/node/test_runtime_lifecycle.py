"""Create, start, stop, remove; how ends are told; exec, terminals, stdin."""

import asyncio
import errno
import os
import re
import signal

import pytest

from agent.runtime import cri
from agent.runtime.cgroups import detect
from tests.node.runtime_host import Host, eventually, read_all


@pytest.fixture
async def host():
    async with Host() as h:
        yield h


async def test_states_times_labels_and_events(host):
    events = []

    async def listen():
        async for status in host.runtime.events():
            events.append((status.id, status.state))

    task = asyncio.create_task(listen())
    container_id = await host.create(["sh", "-c", "sleep 0.1; exit 5"], labels={"a": "b"}, annotations={"x": "y"})
    created = await host.runtime.container_status(container_id)
    assert (created.state, created.pid, created.started_at, created.labels, created.annotations) == ("created", 0, 0, {"a": "b"}, {"x": "y"})
    started = await host.runtime.start_container(container_id)
    assert started.state == "running" and started.pid > 0 and started.started_at >= started.created_at
    ended = await host.ended(container_id)
    assert (ended.state, ended.exit_code, ended.reason) == ("exited", 5, "Error") and ended.finished_at >= ended.started_at
    await eventually(lambda: len(events) >= 2, "both events")
    assert events == [(container_id, "running"), (container_id, "exited")]
    task.cancel()


@pytest.mark.parametrize(("script", "code", "reason"), [("exit 0", 0, "Completed"), ("exit 3", 3, "Error"), ("kill -ABRT $$; sh -c 'kill -9 $PPID'; exit 9", 9, "Error")])
async def test_exit_codes(host, script, code, reason):
    container_id = await host.start(["sh", "-c", script])
    status = await host.ended(container_id)
    assert (status.exit_code, status.reason) == (code, reason)


async def test_who_is_told_of_an_end_finds_the_whole_log(host):
    container_id = await host.start(["sh", "-c", "read x; echo end"], stdin=True)
    logger = host.pid_of("logger")
    os.kill(logger, signal.SIGSTOP)
    asyncio.get_running_loop().call_later(0.5, os.kill, logger, signal.SIGCONT)
    stdin = await host.runtime.open_stdin(container_id)
    os.write(stdin, b"go\n")
    os.close(stdin)
    while (await host.runtime.container_status(container_id)).state != "exited":
        await asyncio.sleep(0.01)
    assert host.output(container_id) == "end\n"


async def test_a_signal_is_128_plus_its_number(host):
    container_id = await host.start(["sleep", "1000"])
    await host.runtime.kill_container(container_id, signal.SIGKILL)
    assert (await host.ended(container_id)).exit_code == 137


@pytest.mark.parametrize(
    ("args", "number", "text"),
    [
        (["nope"], errno.ENOENT, 'exec: "nope": executable file not found in $PATH'),
        (["/nope"], errno.ENOENT, 'exec: "/nope": stat /nope: no such file or directory'),
        (["/etc"], errno.EISDIR, 'exec: "/etc": is a directory'),
        (["/plain"], errno.EACCES, 'exec: "/plain": permission denied'),
        (["/garbage"], errno.ENOEXEC, "exec /garbage: exec format error"),
        (["/script"], errno.ENOENT, "exec /script: no such file or directory"),
        (["/bin/sh/x"], errno.ENOTDIR, 'exec: "/bin/sh/x": stat /bin/sh/x: not a directory'),
    ],
)
async def test_a_command_that_cannot_run_says_why(host, args, number, text):
    container_id = await host.create(args)
    with pytest.raises(cri.StartError) as e:
        await host.runtime.start_container(container_id)
    assert (e.value.errno, e.value.strerror) == (number, f"unable to start container process: {text}")
    status = await host.ended(container_id)
    assert (status.state, status.exit_code, status.reason, status.started_at) == ("exited", 128, "StartError", 0) and status.message == e.value.strerror


async def test_other_things_that_go_wrong_at_the_start_name_themselves(host, tmp_path):
    for change, text in (
        (lambda s: s["process"].update(user={"username": "ghost"}), "unable to find user ghost: no matching entries in passwd file"),
        (lambda s: s["process"].update(user={"username": "root:ghosts"}), "unable to find group ghosts: no matching entries in group file"),
        (lambda s: s["process"].update(cwd="/plain"), 'chdir to cwd ("/plain") set in config.json failed: not a directory'),
        (lambda s: s["linux"].update(sysctl={"net.nope": "1"}), "cannot set sysctl net.nope to '1': no such file or directory"),
        (lambda s: s["mounts"].append({"destination": "/x", "type": "nofs", "source": "x", "options": []}), "cannot mount nofs at /x: no such device"),
    ):
        container_id = await host.create(["true"], change)
        with pytest.raises(cri.StartError) as e:
            await host.runtime.start_container(container_id)
        assert e.value.strerror == f"unable to start container process: {text}"
    container_id = await host.create(["true"], lambda s: s["mounts"].append({"destination": "/x", "type": "bind", "source": f"{tmp_path}/gone", "options": ["bind"]}))
    with pytest.raises(cri.RuntimeServiceError, match=r"cannot mount .*/gone at /x: no such file or directory"):
        await host.runtime.start_container(container_id)


async def test_a_set_up_that_fails_is_never_taken_for_a_start(host):
    """Whether the child has read the parent's word by then or not."""
    sandbox = await host.sandbox()

    def early(s):
        s["mounts"].insert(0, {"destination": "/x", "type": "nofs", "source": "x", "options": []})

    ids = [await host.create(["true"], early, sandbox_id=sandbox) for _ in range(30)]
    results = await asyncio.gather(*(host.runtime.start_container(i) for i in ids), return_exceptions=True)
    assert {type(r) for r in results} == {cri.StartError}
    assert {(s.state, s.reason) for s in await host.runtime.list_containers()} == {("exited", "StartError")}


async def test_wrong_specs_are_refused_by_name_and_leave_nothing(host):
    sandbox = await host.sandbox()
    for change, text in (
        (lambda s: s["process"].update(args=[]), "process.args: required"),
        (lambda s: s["process"].update(cwd="rel"), "process.cwd: must be an absolute path"),
        (lambda s: s["linux"].update(frob=1), "linux.frob: not supported"),
        (lambda s: s["process"]["capabilities"]["bounding"].append("CAP_X"), 'unknown capability "CAP_X"'),
    ):
        with pytest.raises(cri.RuntimeServiceError, match=text):
            await host.runtime.create_container(host.config(sandbox, ["true"], change))
    with pytest.raises(cri.NotFoundError):
        await host.runtime.create_container(host.config("nosandbox", ["true"]))
    assert await host.runtime.list_containers() == [] and os.listdir(f"{host.run_dir}/containers") == []


async def test_outgrowing_the_memory_limit_is_oomkilled(host):
    def change(s):
        s["linux"]["resources"] = {"memory": {"limit": 16 << 20, "swap": 16 << 20}}

    container_id = await host.start(["sh", "-c", "dd if=/dev/zero of=/dev/null bs=64M count=1"], change)
    status = await host.ended(container_id)
    assert status.reason == "OOMKilled" and status.exit_code == 137


async def test_pids_limit(host):
    def change(s):
        s["linux"]["resources"] = {"pids": {"limit": 8}}

    _, out = await host.run(["sh", "-c", "for i in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 5 & done; echo unreached"], change)
    assert "can't fork" in out


async def test_stop_asks_first_and_kills_later(host):
    polite = await host.start(["sh", "-c", "trap 'echo bye; exit 7' TERM; echo ready; while true; do sleep 0.05; done"])
    await eventually(lambda: "ready" in host.output(polite), "the trap")
    status = await host.runtime.stop_container(polite, 20)
    assert status.exit_code == 7 and "bye" in host.output(polite)
    stubborn = await host.start(["sh", "-c", "trap '' TERM; sleep 1000 & sleep 1000"])
    status = await host.runtime.stop_container(stubborn, 0.2)
    assert status.exit_code == 137
    assert (await host.runtime.stop_container(stubborn, 10)).exit_code == 137, "idempotent"


async def test_nothing_is_left_of_what_was_removed(host):
    sandbox = await host.sandbox()
    container_id = await host.start(["sh", "-c", "sleep 1000 & sleep 1000"], sandbox_id=sandbox)
    with open("/proc/self/mountinfo") as f:
        before = f.read()
    driver = detect.driver()
    path = f"{host.cgroup}/pods/pod-1/{container_id}"
    await eventually(lambda: len(driver.pids(path)) == 2, "the shell and its child")
    pids = driver.pids(path)
    await host.runtime.remove_container(container_id)
    await host.runtime.remove_container(container_id)
    await host.runtime.remove_sandbox(sandbox)
    await host.runtime.remove_sandbox(sandbox)
    assert not any(os.path.exists(f"/proc/{p}") for p in pids) and driver.pids(path) == []
    assert not any(os.path.exists(f"{h[0]}") for h in [(f"/sys/fs/cgroup/{c[0]}/{host.cgroup}/pods/pod-1",) for c in driver.hierarchies or ()])
    assert os.listdir(f"{host.data_dir}/containers") == [] and os.listdir(f"{host.run_dir}/containers") == [] and os.listdir(f"{host.run_dir}/sandboxes") == []
    with open("/proc/self/mountinfo") as f:
        assert len(f.read().splitlines()) == len(before.splitlines()) - 1, "the pod's /dev/shm"
    assert await host.runtime.list_containers() == [] and await host.runtime.list_sandboxes() == []
    with pytest.raises(cri.NotFoundError):
        await host.runtime.container_status(container_id)


async def test_a_stopped_sandbox_takes_its_containers_along(host):
    sandbox = await host.sandbox()
    container_id = await host.start(["sleep", "1000"], sandbox_id=sandbox)
    await host.runtime.stop_sandbox(sandbox)
    assert (await host.ended(container_id)).exit_code == 137
    assert [s.state for s in await host.runtime.list_sandboxes()] == ["notready"]
    with pytest.raises(cri.RuntimeServiceError, match="not ready"):
        await host.create(["true"], sandbox_id=sandbox)
    with pytest.raises(cri.RuntimeServiceError, match="stopped"):
        await host.runtime.sandbox_netns(sandbox)


async def test_netns_is_the_containers(host):
    sandbox = await host.sandbox()
    fd = await host.runtime.sandbox_netns(sandbox)
    _, out = await host.run(["readlink", "/proc/self/ns/net"], sandbox_id=sandbox)
    assert out.strip() == f"net:[{os.fstat(fd).st_ino}]"
    os.close(fd)


async def test_a_burst_of_starts(host):
    sandbox = await host.sandbox()
    ids = await asyncio.gather(*(host.start(["sh", "-c", f"exit {i}"], sandbox_id=sandbox) for i in range(25)))
    codes = [(await host.ended(i)).exit_code for i in ids]
    assert codes == list(range(25))


async def test_a_large_spec_travels(host):
    """The record is a file; an exec's arguments go through the socket, and over 100 kB through a memfd."""
    big = "x" * 100_000
    code, out = await host.run(["sh", "-c", "echo ${#BIG}"], lambda s: s["process"]["env"].append(f"BIG={big}"))
    assert (code, out.strip()) == (0, "100000")
    container_id = await host.start(["sleep", "1000"])
    assert await host.execute(container_id, ["sh", "-c", "echo ${#A} ${#B}"], env=[f"A={big}", f"B={big}"]) == (0, "100000 100000\n")


async def test_stats_and_update(host):
    container_id = await host.start(["sh", "-c", "while true; do :; done"])
    await eventually(lambda: _cpu(host, container_id), "some CPU time")
    stats = await host.runtime.container_stats(container_id)
    assert stats.memory_bytes > 0 and stats.pids == 1 and stats.memory_limit_bytes == 0
    await host.runtime.update_resources(container_id, {"memory": {"limit": 64 << 20}})
    assert (await host.runtime.container_stats(container_id)).memory_limit_bytes == 64 << 20


async def _cpu(host, container_id):
    return (await host.runtime.container_stats(container_id)).cpu_ns > 10_000_000


# --- exec


async def test_exec_joins_everything(host):
    container_id = await host.start(["sleep", "1000"])
    script = "for n in mnt pid net ipc uts cgroup; do readlink /proc/self/ns/$n; readlink /proc/1/ns/$n; done; grep -E 'Cap|Seccomp:' /proc/self/status; cat /proc/self/cgroup"
    code, out = await host.execute(container_id, ["sh", "-c", script])
    lines = out.splitlines()
    assert code == 0 and all(lines[i] == lines[i + 1] for i in range(0, 12, 2))
    assert "CapEff:\t00000000a80425fb" in out and "Seccomp:\t2" in out and all(line.endswith(":/") for line in lines[18:])


async def test_exec_exit_codes_env_cwd_user(host):
    def change(s):
        s["process"]["user"] = {"username": "web"}
        s["process"]["env"].append("A=container")

    container_id = await host.start(["sleep", "1000"], change)
    assert await host.execute(container_id, ["sh", "-c", "exit 9"]) == (9, "")
    assert await host.execute(container_id, ["sh", "-c", "kill -9 $$"]) == (137, "")
    assert await host.execute(container_id, ["sh", "-c", "echo $A $B; pwd; id -un; echo err >&2"], env=["B=exec"], cwd="/etc") == (0, "container exec\n/etc\nweb\nerr\n")
    for args, text in ((["nope"], 'exec: "nope": executable file not found in $PATH'), (["/nope"], "stat /nope: no such file or directory")):
        with pytest.raises(cri.StartError, match=re.escape(text)):
            await host.runtime.exec(container_id, args)
    with pytest.raises(cri.StartError, match=r'chdir to cwd \("/missing"\)'):
        await host.runtime.exec(container_id, ["true"], cwd="/missing")


async def test_exec_needs_a_running_container(host):
    container_id = await host.start(["true"])
    await host.ended(container_id)
    with pytest.raises(cri.RuntimeServiceError, match="container not running"):
        await host.runtime.exec(container_id, ["true"])
    with pytest.raises(cri.NotFoundError):
        await host.runtime.exec("nobody", ["true"])


async def test_exec_stdin_and_kill(host):
    container_id = await host.start(["sleep", "1000"])
    session = await host.runtime.exec(container_id, ["cat"], stdin=True, stderr=False)
    assert session.stderr_fd is None
    os.write(session.stdin_fd, b"through\n")
    os.close(session.stdin_fd)
    assert await asyncio.to_thread(read_all, session.stdout_fd) == "through\n"
    assert (await session.wait()).exit_code == 0
    session = await host.runtime.exec(container_id, ["sleep", "1000"])
    await session.kill()
    assert (await session.wait()).exit_code == 137
    os.close(session.stdout_fd)
    os.close(session.stderr_fd)


async def test_no_signal_is_ignored(host):
    """The zygote ignores some, Python others; none of it is the container's business."""
    command = ["grep", "SigIgn", "/proc/self/status"]
    _, text = await host.run(command)
    container_id = await host.start(["sleep", "1000"])
    code, exec_text = await host.execute(container_id, command)
    assert code == 0
    for said in (text, exec_text):
        assert said.split() == ["SigIgn:", "0000000000000000"]


async def test_exec_is_interrupted_from_its_terminal(host):
    container_id = await host.start(["sleep", "1000"])
    session = await host.runtime.exec(container_id, ["sh", "-c", "trap 'exit 42' INT; echo ready; sleep 1000"], tty=True, stdin=True)
    text = b""
    while b"ready" not in text:
        text += await asyncio.to_thread(os.read, session.pty_fd, 4096)
    os.write(session.pty_fd, b"\x03")
    assert (await asyncio.wait_for(session.wait(), 20)).exit_code == 42
    os.close(session.pty_fd)


async def test_exec_with_a_terminal(host):
    container_id = await host.start(["sleep", "1000"])
    session = await host.runtime.exec(container_id, ["sh", "-c", "tty; stty size; read x; stty size; echo got $x $TERM"], tty=True, stdin=True)
    session.resize(40, 100)
    text = b""
    while b"pts" not in text or text.count(b"\n") < 2:
        text += await asyncio.to_thread(os.read, session.pty_fd, 4096)
    session.resize(41, 101)
    os.write(session.pty_fd, b"word\n")
    assert (await session.wait()).exit_code == 0
    while True:
        try:
            text += os.read(session.pty_fd, 4096)
        except OSError as e:
            assert e.errno == errno.EIO
            break
    os.close(session.pty_fd)
    assert b"/dev/pts/" in text and b"41 101" in text and b"got word xterm" in text


async def test_container_with_a_terminal(host):
    container_id = await host.start(["sh", "-c", "tty; test -c /dev/console && echo console; read line; echo got $line; exit 4"], tty=True, stdin=True)
    await eventually(lambda: "console" in host.output(container_id), "the terminal's output in the log")
    await host.runtime.resize_terminal(container_id, 30, 90)
    fd = await host.runtime.open_stdin(container_id)
    os.write(fd, b"typed\n")
    os.close(fd)
    assert (await host.ended(container_id)).exit_code == 4
    assert "got typed" in host.output(container_id) and "/dev/pts/0" in host.output(container_id)


async def test_container_with_an_open_stdin(host):
    container_id = await host.start(["sh", "-c", "read a; echo one $a; cat; echo end"], stdin=True)
    for text in (b"first\n", b"second\n"):
        fd = await host.runtime.open_stdin(container_id)
        os.write(fd, text)
        os.close(fd)
    await eventually(lambda: "second" in host.output(container_id), "both lines")
    assert (await host.runtime.container_status(container_id)).state == "running", "stdin stays open without a writer"
    await host.runtime.close_stdin(container_id)
    assert (await host.ended(container_id)).exit_code == 0
    assert host.output(container_id) == "one first\nsecond\nend\n"


async def test_without_stdin_and_log(host):
    config = host.config(await host.sandbox(), ["sh", "-c", "cat; echo lost; exit 2"])
    config = type(config)(**{n: getattr(config, n) for n in config.__slots__} | {"log_path": ""})
    await host.runtime.create_container(config)
    await host.runtime.start_container(config.id)
    assert (await host.ended(config.id)).exit_code == 2


async def test_unknown_ids_and_bad_ids(host):
    for call in (host.runtime.start_container, host.runtime.container_status, host.runtime.container_stats):
        with pytest.raises(cri.NotFoundError):
            await call("nobody")
    await host.runtime.remove_container("nobody")
    await host.runtime.remove_sandbox("nobody")
    with pytest.raises(cri.RuntimeServiceError, match=r"sandbox id '\.\./x'"):
        await host.runtime.run_sandbox(cri.SandboxConfig(id="../x", hostname="h", cgroup="c"))
    with pytest.raises(cri.RuntimeServiceError, match="cgroup: must be a path below"):
        await host.runtime.run_sandbox(cri.SandboxConfig(id="x", hostname="h", cgroup="../c"))
