"""Killed and replaced: containers keep their pids, and nobody loses an exit code, an event or a line."""

import asyncio
import contextlib
import os
import signal

import pytest

from agent.runtime import client, cri, loggerclient, state
from agent.runtime.cgroups import detect
from tests.node.runtime_host import Host, eventually, read_all


@pytest.fixture
async def host():
    async with Host() as h:
        yield h


async def killed(host, name="zygote"):
    """kill -9; returns when its successor is there."""
    pid = host.pid_of(name)
    os.kill(pid, signal.SIGKILL)
    await eventually(lambda: host.pid_of(name) not in (0, pid), f"a new {name}")


async def test_containers_outlive_the_zygote_with_their_exit_codes(host):
    sandbox = await host.sandbox()
    lasting = await host.start(["sleep", "1000"], sandbox_id=sandbox)
    ending = await host.start(["sh", "-c", "while ! test -e /dev/shm/go; do sleep 0.01; done; echo last words; exit 42"], sandbox_id=sandbox)
    before = {s.id: (s.pid, s.started_at) for s in await host.runtime.list_containers()}
    await killed(host)
    assert {s.id: (s.pid, s.started_at) for s in await host.runtime.list_containers()} == before
    assert (await host.run(["touch", "/dev/shm/go"], sandbox_id=sandbox))[0] == 0, "the sandbox's namespaces and its /dev/shm are still there"
    status = await host.ended(ending)
    assert (status.exit_code, status.reason) == (42, "Error") and host.output(ending) == "last words\n"
    assert (await host.runtime.stop_container(lasting, 0)).exit_code == 137


async def test_an_end_while_there_is_no_zygote(host):
    """The guard records it, the next zygote reads it: also of a container killed for its memory."""
    sandbox = await host.sandbox()
    ending = await host.start(["sh", "-c", "while ! test -e /dev/shm/go; do sleep 0.01; done; exit 17"], sandbox_id=sandbox)

    def small(s):
        s["linux"]["resources"] = {"memory": {"limit": 16 << 20, "swap": 16 << 20}}

    greedy = await host.start(["sh", "-c", "while ! test -e /dev/shm/go; do sleep 0.01; done; dd if=/dev/zero of=/dev/null bs=64M count=1"], small, sandbox_id=sandbox)
    pids = [s.pid for s in await host.runtime.list_containers()]
    zygote = host.pid_of("zygote")
    os.kill(zygote, signal.SIGSTOP)  # there, and deaf
    with open(f"{host.run_dir}/sandboxes/{sandbox}.shm/go", "w"):
        pass
    await eventually(lambda: all(_is_zombie(p) for p in pids), "both ends")
    await killed(host)
    assert (await host.ended(ending)).exit_code == 17
    status = await host.ended(greedy)
    assert (status.exit_code, status.reason) == (137, "OOMKilled")
    assert os.listdir(f"{host.run_dir}/exits") == [], "records that were used are gone"


def _is_zombie(pid):
    try:
        with open(f"/proc/{pid}/stat") as f:
            return f.read().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


async def test_sandbox_namespaces_are_the_same_after_a_kill(host):
    sandbox = await host.sandbox(shared_pid=True)

    async def inodes():
        fd = await host.runtime.sandbox_netns(sandbox)
        try:
            return os.fstat(fd).st_ino
        finally:
            os.close(fd)

    before = await inodes()
    _, out = await host.run(["readlink", "/proc/self/ns/pid"], sandbox_id=sandbox)
    await killed(host)
    assert await inodes() == before
    assert (await host.run(["readlink", "/proc/self/ns/pid"], sandbox_id=sandbox))[1] == out
    await host.runtime.remove_sandbox(sandbox)


async def test_an_upgrade_in_place_keeps_pid_connection_execs_and_exits(host):
    container_id = await host.start(["sh", "-c", "while ! test -e /go; do sleep 0.01; done; exit 23"])
    session = await host.runtime.exec(container_id, ["sh", "-c", "read x; exit 11"], stdin=True)
    zygote, connection = host.pid_of("zygote"), host.runtime._connection._socket
    for round_number in range(2):
        os.kill(zygote, signal.SIGHUP)
        await eventually(lambda n=round_number: host.log().count("upgrading in place") == n + 1 and host.log().count(" ready: run=") == n + 2, "the upgrade")
        assert (await host.runtime.container_status(container_id)).state == "running"
    assert host.pid_of("zygote") == zygote and host.runtime._connection._socket is connection
    os.write(session.stdin_fd, b"x\n")
    assert (await session.wait()).exit_code == 11
    assert await host.execute(container_id, ["touch", "/go"]) == (0, "")
    assert (await host.ended(container_id)).exit_code == 23


async def test_execs_over_a_kill(host):
    """Their exit codes come from the guard's records."""
    container_id = await host.start(["sleep", "1000"])
    session = await host.runtime.exec(container_id, ["sh", "-c", "read x; echo got $x; exit 11"], stdin=True)
    await killed(host)
    os.write(session.stdin_fd, b"word\n")
    assert await asyncio.to_thread(read_all, session.stdout_fd) == "got word\n"
    assert (await asyncio.wait_for(session.wait(), 20)).exit_code == 11


async def test_calls_in_flight_are_repeated(host):
    sandbox = await host.sandbox()
    zygote = host.pid_of("zygote")
    os.kill(zygote, signal.SIGSTOP)
    calls = [asyncio.create_task(host.start(["sh", "-c", f"exit {i}"], sandbox_id=sandbox)) for i in range(5)]
    await asyncio.sleep(0)
    await killed(host)
    ids = await asyncio.wait_for(asyncio.gather(*calls), 30)
    assert [(await host.ended(i)).exit_code for i in ids] == list(range(5))


async def test_kills_in_the_middle_of_a_burst_leave_no_stray_process(host):
    """Whatever the moment, a container either runs and is known, or does not run."""
    sandbox = await host.sandbox()
    for _ in range(4):
        calls = [asyncio.create_task(host.start(["sleep", "1000"], sandbox_id=sandbox)) for _ in range(6)]
        await eventually(lambda: any(s.done() for s in calls) or host.log().count("started") > 0, "the burst under way")
        await killed(host)
        await asyncio.wait_for(asyncio.gather(*calls), 60)
    statuses = await host.runtime.list_containers()
    assert {s.state for s in statuses} == {"running"} and len(statuses) == 24, [s for s in statuses if s.state != "running"]
    known = {s.pid for s in statuses}
    assert await eventually(lambda: _pids_of(host) == known, "only known processes")


def _pids_of(host):
    return set(detect.driver().pids(f"{host.cgroup}/pods"))


async def test_a_restarted_agent_sees_everything_and_hears_what_it_missed(host):
    running = await host.start(["sleep", "1000"], labels={"who": "running"})
    with open(f"{host.run_dir}/sandboxes/s1.shm/x", "w"):
        pass
    ending = await host.start(["sh", "-c", "while test -e /dev/shm/x; do sleep 0.01; done; echo the end; exit 9"], sandbox_id="s1", labels={"who": "ending"})
    await host.runtime.close()
    os.unlink(f"{host.run_dir}/sandboxes/s1.shm/x")
    await eventually(lambda: state.read_json(f"{host.run_dir}/containers/{ending}/state.json")["state"] == "exited", "the end")
    host.runtime = client.Runtime(host.run_dir)
    await host.runtime.connect()
    listed = {s.id: s for s in await host.runtime.list_containers()}
    assert listed[running].state == "running" and listed[running].labels == {"who": "running"}
    assert (listed[ending].exit_code, listed[ending].labels) == (9, {"who": "ending"})
    heard = host.runtime.events()
    status = await asyncio.wait_for(anext(heard), 20)
    assert (status.id, status.exit_code) == (ending, 9) and host.output(ending) == "the end\n"
    await heard.aclose()
    assert [s.config.id for s in await host.runtime.list_sandboxes()] == ["s1"]
    assert (await host.execute(running, ["echo", "still"])) == (0, "still\n")


async def test_no_event_is_lost_over_kills(host):
    heard = []

    async def listen():
        async for status in host.runtime.events():
            if status.state == "exited":
                heard.append((status.id, status.exit_code))

    task = asyncio.create_task(listen())
    sandbox = await host.sandbox()
    wanted = []
    for i in range(12):
        container_id = await host.start(["sh", "-c", f"sleep 0.0{i % 5}; exit {i}"], sandbox_id=sandbox)
        wanted.append((container_id, i))
        if i % 4 == 3:
            await killed(host)
    await eventually(lambda: len(heard) >= len(wanted), "all exits")
    assert sorted(heard) == sorted(wanted)
    task.cancel()


async def test_lines_survive_the_death_of_logger_and_zygote(host):
    container_id = await host.start(["sh", "-c", "i=0; while test $i -lt 400; do echo line $i; i=$((i+1)); sleep 0.001; done"])
    for name in ("logger", "zygote", "logger"):
        await eventually(lambda: "line" in host.output(container_id), "some lines")
        await killed(host, name)
    assert (await host.ended(container_id)).exit_code == 0
    lines = host.output(container_id).splitlines()
    assert set(lines) == {f"line {i}" for i in range(400)}, "a crash may double a line, never lose one"


async def test_a_terminal_survives_the_zygote(host):
    container_id = await host.start(["sh", "-c", "read line; echo got $line"], tty=True, stdin=True)
    await killed(host)
    fd = await host.runtime.open_stdin(container_id)
    os.write(fd, b"typed\n")
    os.close(fd)
    assert (await host.ended(container_id)).exit_code == 0 and "got typed" in host.output(container_id)


async def test_a_created_container_can_be_started_by_the_next_zygote(host):
    container_id = await host.create(["sh", "-c", "exit 6"])
    await killed(host)
    await host.runtime.start_container(container_id)
    assert (await host.ended(container_id)).exit_code == 6


def _shms(host):
    with open("/proc/self/mounts") as f:
        return {os.path.basename(line.split()[1]) for line in f if f"{host.run_dir}/sandboxes/" in line}


async def test_what_was_cut_off_is_swept_and_what_lives_is_not(host):
    """What an agent and a zygote leave that are killed between two steps of making or removing something."""
    living = await host.start(["sh", "-c", "echo here; sleep 1000"])
    await eventually(lambda: host.output(living) == "here\n", "its line")
    before = set(os.listdir(f"{host.run_dir}/fifo")), set(host.store.get("")), _shms(host)
    for fd in loggerclient.create(host.run_dir, "lost", f"{host.data_dir}/logs/lost/0.log", host.store):
        os.close(fd)
    os.mkfifo(f"{host.run_dir}/fifo/half.out")
    os.makedirs(f"{host.run_dir}/containers/lost")
    os.makedirs(f"{host.data_dir}/containers/lost/upper")
    host.runtime._mount_shm("ghost")
    host.store.put("sandbox/ghost", [0, 1, 2])
    detect.driver().create(f"{host.cgroup}/pods/ghost", {}, leaf=False)
    await killed(host)
    assert await host.runtime.sweep() == ["ghost", "half", "lost"]
    assert (set(os.listdir(f"{host.run_dir}/fifo")), set(host.store.get("")), _shms(host)) == before
    assert os.listdir(f"{host.run_dir}/containers") == os.listdir(f"{host.data_dir}/containers") == [living]
    assert detect.driver().children(f"{host.cgroup}/pods") == {"pod-1"}
    assert await host.runtime.sweep() == []
    assert await host.execute(living, ["echo", "alive"]) == (0, "alive\n")


async def test_a_container_without_a_record_stops_nobody_and_goes(host):
    """The zygote knows it, its config.json is gone: nobody can say whose it is."""
    known = await host.start(["sleep", "1000"])
    lost = [await host.start(["sleep", "1000"], sandbox_id="s1"), await host.create(["sleep", "1000"], sandbox_id="s1")]
    pid = (await host.runtime.container_status(lost[0])).pid
    await host.runtime.close()
    for container_id in lost:
        os.unlink(f"{host.run_dir}/containers/{container_id}/config.json")
    host.runtime = client.Runtime(host.run_dir)
    await host.runtime.connect()
    assert [s.id for s in await host.runtime.list_containers()] == [known]
    assert set(lost) <= set(await host.runtime.sweep())
    assert not os.path.exists(f"/proc/{pid}") and os.listdir(f"{host.run_dir}/containers") == [known]
    assert await host.execute(known, ["echo", "alive"]) == (0, "alive\n")


async def test_a_cancelled_creation_can_be_found_and_removed(host):
    sandbox = await host.sandbox()
    os.kill(host.pid_of("zygote"), signal.SIGSTOP)
    config = host.config(sandbox, ["sleep", "1000"])
    call = asyncio.create_task(host.runtime.create_container(config))
    await eventually(lambda: host.runtime._connection._waiting, "the request on its way")
    call.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await call
    os.kill(host.pid_of("zygote"), signal.SIGCONT)
    assert [(s.id, s.state) for s in await host.runtime.list_containers()] == [(config.id, "created")]
    await host.runtime.remove_container(config.id)
    assert await host.runtime.list_containers() == []


async def test_a_container_that_never_ran_leaves_no_fifo_when_it_goes(host):
    container_id = await host.create(["sleep", "1000"])
    record = host.runtime._record(container_id)
    for fd in loggerclient.create(host.run_dir, container_id, record["log_path"], host.store):
        os.close(fd)
    await host.runtime.remove_container(container_id)
    assert os.listdir(f"{host.run_dir}/fifo") == [] and set(host.store.get("")) == {"sandbox/s1"}


async def test_containers_write_on_while_even_the_guard_is_dead(host):
    """Their FIFOs have no reader then: nobody gets a SIGPIPE, nothing that was written is lost."""
    sandbox = await host.sandbox()
    count = "i=0; while ! test -e /dev/shm/go; do i=$((i+1)); echo n $i; echo $i > /dev/shm/at; sleep 0.002; done; echo last $i"
    counting = await host.start(["sh", "-c", f"({count}) & wait $!; exit 7"], sandbox_id=sandbox)  # not pid 1, whom no signal kills by default
    ending = await host.start(["sh", "-c", "while ! test -e /dev/shm/end; do sleep 0.005; done; exit 3"], sandbox_id=sandbox)
    shm = f"{host.run_dir}/sandboxes/{sandbox}.shm"
    pids = {s.id: s.pid for s in await host.runtime.list_containers()}

    def at():
        with open(f"{shm}/at") as f:
            return int(f.read().strip() or 0)

    await eventually(lambda: "n 5\n" in host.output(counting), "some lines")
    await host.lose_guard()
    before = at()
    with open(f"{shm}/end", "w"):
        pass
    await eventually(lambda: at() > before + 20 and not os.path.exists(f"/proc/{pids[ending]}"), "it goes on, the other ends")
    host.start_guard()
    status = await host.ended(ending)
    assert (status.exit_code, status.reason) == (255, "ContainerStatusUnknown")
    assert {s.pid for s in await host.runtime.list_containers() if s.state == "running"} == {pids[counting]}
    await killed(host, "logger")
    with open(f"{shm}/go", "w"):
        pass
    assert (await host.ended(counting)).exit_code == 7
    lines = host.output(counting).splitlines()
    total = int(lines[-1].removeprefix("last "))
    assert total > before + 20 and set(lines[:-1]) == {f"n {i}" for i in range(1, total + 1)}


async def test_memory_of_the_zygote_does_not_grow_with_containers(host):
    """At most 0.05 MB each; what they cost is theirs."""

    def private_kb():
        with open(f"/proc/{host.pid_of('zygote')}/smaps_rollup") as f:
            return sum(int(line.split()[1]) for line in f if line.startswith("Private_"))

    sandbox = await host.sandbox()
    first = [await host.start(["sleep", "1000"], sandbox_id=sandbox) for _ in range(5)]
    before = private_kb()
    more = [await host.start(["sleep", "1000"], sandbox_id=sandbox) for _ in range(40)]
    assert private_kb() - before <= 40 * 50
    with contextlib.suppress(cri.RuntimeServiceError):
        await asyncio.gather(*(host.runtime.stop_container(i, 0) for i in first + more))
