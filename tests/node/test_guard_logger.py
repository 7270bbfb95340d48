"""The guard and the logger as real processes: restarts, adoption of orphans, descriptors that outlive their owner, and not one lost line over kill -9."""

import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

import pytest

from agent.runtime import fdstore, loggerclient

RUNTIME = pathlib.Path(fdstore.__file__).parent


def wait_for(condition, what, timeout_s=20):
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.01)
    raise AssertionError(f"never happened: {what}")


@pytest.fixture
def run_dir():
    path = tempfile.mkdtemp(prefix="mk-", dir="/tmp")
    yield path
    shutil.rmtree(path)


@contextlib.contextmanager
def guard(run_dir, processes):
    spec = {
        "run_dir": run_dir,
        "sockets": {"logger": {"type": "seqpacket", "path": f"{run_dir}/logger.sock"}},
        "processes": [{"log": f"{run_dir}/{p['name']}.log", **p} for p in processes],
    }
    path = pathlib.Path(run_dir, "guard.json")
    path.write_text(json.dumps(spec))
    process = subprocess.Popen([sys.executable, "-I", "-S", "-E", str(RUNTIME / "guard.py"), str(path)], stderr=open(f"{run_dir}/guard.log", "w"))
    store = fdstore.FdStore(f"{run_dir}/guard.sock")
    try:
        wait_for(lambda: os.path.exists(f"{run_dir}/guard.sock"), "guard.sock")
        yield process, store
    finally:
        store.close()
        process.terminate()
        process.wait(20)


def pid_of(store, name):
    return next(p["pid"] for p in store.status()["processes"] if p["name"] == name)


LOGGER = [sys.executable, "-I", "-S", "-E", str(RUNTIME / "logger.py")]


def test_a_killed_process_comes_back_and_its_orphan_is_recorded(run_dir):
    child = "import os,time\npid=os.fork()\nif pid==0:\n time.sleep(0.2); os._exit(7)\nopen(os.environ['OUT'],'w').write(str(pid))\ntime.sleep(600)"
    with guard(run_dir, [{"name": "parent", "argv": [sys.executable, "-c", child], "env": {"OUT": f"{run_dir}/orphan"}}]) as (_, store):
        orphan = int(wait_for(lambda: os.path.exists(f"{run_dir}/orphan") and open(f"{run_dir}/orphan").read(), "orphan's pid"))
        first = pid_of(store, "parent")
        os.kill(first, signal.SIGKILL)
        record = wait_for(lambda: [n for n in os.listdir(f"{run_dir}/exits") if n.startswith(f"{orphan}.") and n.endswith(".json")], "exit record")
        assert json.loads(pathlib.Path(run_dir, "exits", record[0]).read_text())["status"] == 7
        again = wait_for(lambda: pid_of(store, "parent"), "restart")
        assert again != first
        status = store.status()["processes"][0]
        assert status["restarts"] == 1 and status["last_exit"] == "was killed by SIGKILL"


def test_fds_outlive_their_owner_and_come_back_by_prefix(run_dir):
    with guard(run_dir, []) as (_, store):
        r, w = os.pipe()
        store.put("sandbox/a", [r, w])
        store.put("sandbox/ab", [r])
        os.close(r)
        os.close(w)
        assert set(store.get("sandbox/a")) == {"sandbox/a"}
        mine = store.get("sandbox")
        assert {n: len(f) for n, f in mine.items()} == {"sandbox/a": 2, "sandbox/ab": 1}
        os.write(mine["sandbox/a"][1], b"x")
        assert os.read(mine["sandbox/ab"][0], 1) == b"x"
        store.drop("sandbox/a")
        assert set(store.get("")) == {"sandbox/ab"}
        for fd in [f for fds in mine.values() for f in fds]:
            os.close(fd)


def test_get_of_more_fds_than_one_packet_holds(run_dir):
    with guard(run_dir, []) as (_, store):
        null = os.open("/dev/null", os.O_RDONLY)
        for i in range(150):
            store.put(f"log/{i}", [null, null])
        got = store.get("log")
        assert len(got) == 150 and all(len(f) == 2 for f in got.values())
        for fd in [f for fds in got.values() for f in fds]:
            os.close(fd)
        os.close(null)


@pytest.mark.parametrize("request_", [b"not json", b"[]", b'{"op":"nope"}', b'{"op":"put"}'])
def test_the_guard_answers_nonsense_with_an_error_and_lives(run_dir, request_):
    import socket

    with guard(run_dir, []) as (process, store):
        s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        s.connect(f"{run_dir}/guard.sock")
        s.send(request_)
        assert json.loads(s.recv(65536))["error"]
        s.close()
        assert store.status()["pid"] == process.pid


def test_a_process_that_is_to_stop_is_still_served(run_dir):
    """An agent asked to stop may be in the middle of a call to the guard: neither may wait for the other."""
    script = f"""
import pathlib, signal, sys
sys.path.insert(0, {str(RUNTIME)!r})
import fdstore
store = fdstore.FdStore({run_dir!r} + "/guard.sock")
def stop(*_):
    store.put("late/one", [0])
    pathlib.Path({run_dir!r}, "served").write_text("yes")
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
pathlib.Path({run_dir!r}, "up").write_text("yes")
while True:
    signal.pause()
"""
    with guard(run_dir, [{"name": "agent", "argv": [sys.executable, "-c", script]}, {"name": "other", "argv": ["/bin/sleep", "600"]}]) as (_, store):
        wait_for(lambda: os.path.exists(f"{run_dir}/up"), "the process")
        store.call("stop-process", name="agent")
        assert os.path.exists(f"{run_dir}/served") and list(store.get("late")) == ["late/one"]
        assert [p["name"] for p in store.status()["processes"]] == ["other"]
        store.call("stop-process", name="agent")


def test_the_guards_death_takes_its_processes_along(run_dir):
    with guard(run_dir, [{"name": "sleeper", "argv": ["/bin/sleep", "600"]}]) as (process, store):
        pid = wait_for(lambda: pid_of(store, "sleeper"), "sleeper")
        process.kill()
        process.wait()

        def dead():
            try:
                return open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[0] == "Z"
            except FileNotFoundError:
                return True

        wait_for(dead, "death of the sleeper")


LINE = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z (stdout|stderr) ([FP]) (.*)$")


def parse(path):
    return [LINE.match(line).groups() for line in pathlib.Path(path).read_text().splitlines()]


def test_lines_survive_kill_9_of_the_logger(run_dir):
    log_path = f"{run_dir}/logs/pod/c/0.log"
    with guard(run_dir, [{"name": "logger", "argv": [*LOGGER, run_dir], "sockets": ["logger"]}]) as (_, store):
        wait_for(lambda: pid_of(store, "logger"), "logger")
        out, err = loggerclient.create(run_dir, "c1", log_path, store)
        count = 20000

        def write():
            with os.fdopen(out, "w", buffering=1) as f:
                for i in range(count):
                    f.write(f"line {i}\n")
            os.write(err, b"to stderr\nno newline at the end")
            os.close(err)

        writer = threading.Thread(target=write)
        writer.start()
        killed = 0
        while writer.is_alive() and killed < 5:
            os.kill(wait_for(lambda: pid_of(store, "logger"), "logger"), signal.SIGKILL)
            killed += 1
            time.sleep(0.02)
        writer.join()
        assert killed
        loggerclient.finish(run_dir, "c1", store)
        lines = parse(log_path)
        numbers = [int(t.split()[1]) for s, _, t in lines if s == "stdout"]
        assert set(numbers) == set(range(count))
        assert [(tag, t) for s, tag, t in lines if s == "stderr"] == [("F", "to stderr"), ("P", "no newline at the end")]
        assert not os.listdir(f"{run_dir}/fifo")
        assert not store.get("log")
        loggerclient.finish(run_dir, "c1", store)  # idempotent


def test_what_was_written_while_no_logger_ran_is_logged_even_if_the_writer_is_gone(run_dir):
    with guard(run_dir, []) as (_, store):
        import socket

        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)  # stands for the guard's: the logger is down
        listener.bind(f"{run_dir}/l.sock")
        os.unlink(f"{run_dir}/logger.sock")
        os.rename(f"{run_dir}/l.sock", f"{run_dir}/logger.sock")
        listener.listen()
        out, err = loggerclient.create(run_dir, "c2", f"{run_dir}/logs/2.log", store)
        subprocess.run(["/bin/sh", "-c", "echo last words"], stdout=out, stderr=err, check=True)
        os.close(out)
        os.close(err)
        env = os.environ | {"LISTEN_FDNAMES": "logger", "LISTEN_FDS": "1"}
        os.set_inheritable(listener.fileno(), True)
        code = "import os,sys\nos.dup2(int(sys.argv[1]),3)\nos.environ['LISTEN_PID']=str(os.getpid())\nos.execv(sys.argv[2],sys.argv[2:])"
        logger = subprocess.Popen([sys.executable, "-c", code, str(listener.fileno()), *LOGGER, run_dir], env=env, pass_fds=[listener.fileno()])
        try:
            wait_for(lambda: os.path.exists(f"{run_dir}/logs/2.log") and parse(f"{run_dir}/logs/2.log"), "the line")
            assert parse(f"{run_dir}/logs/2.log") == [("stdout", "F", "last words")]
        finally:
            logger.kill()
            logger.wait()
            listener.close()
