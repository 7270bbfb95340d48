import os
import socket

import pytest

from agent.runtime import isolate, server, state, wire


@pytest.fixture
def pair():
    a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    yield a, b
    a.close()
    b.close()


@pytest.mark.parametrize("size", [1, 99_000, 100_001, 5_000_000])
def test_messages_of_any_size_with_descriptors(pair, size):
    read_end, write_end = os.pipe()
    wire.send(pair[0], {"x": "y" * size}, [write_end])
    message, fds = wire.receive(pair[1])
    assert message == {"x": "y" * size} and len(fds) == 1 and not os.get_inheritable(fds[0])
    os.write(fds[0], b"!")
    assert os.read(read_end, 1) == b"!"
    wire.close_all([read_end, write_end, *fds])


def test_the_end_and_nonsense(pair):
    pair[0].send(b"{nonsense")
    with pytest.raises(ValueError, match="cannot read a message"):
        wire.receive(pair[1])
    pair[0].send(b"[1]")
    with pytest.raises(ValueError, match="not a JSON object"):
        wire.receive(pair[1])
    pair[0].send(b'{"memfd": 10}')
    with pytest.raises(ValueError):
        wire.receive(pair[1])
    with pytest.raises(ValueError, match="at most 250 fit"):
        wire.send(pair[0], {}, [0] * 251)
    pair[0].close()
    assert wire.receive(pair[1]) is None


def test_arguments():
    assert server.parse_arguments(["/r", "--data-dir", "/d", "--cgroup", "/a/b/", "--pool", "3", "--debug"]) == {
        "run_dir": "/r", "data_dir": "/d", "cgroup": "a/b", "pool": 3, "debug": True,
    }  # fmt: skip
    for argv, text in ((["/r", "--data-dir", "/d"], "cgroup is missing"), (["/r", "--x", "1"], "unknown argument '--x'"), (["/r", "--pool"], "--pool needs a value")):
        with pytest.raises(ValueError, match=text):
            server.parse_arguments(argv)


def test_what_the_private_mount_namespace_keeps():
    points = ["/", "/proc", "/sys", "/sys/fs/cgroup", "/sys/fs/cgroup/memory", "/dev", "/dev/shm", "/home", "/usr", "/usr/lib/x", "/run", "/run/user/0", "/data", "/data/deep", "/database"]
    gone = isolate.superfluous(points, ["/usr/bin/python3", "/usr/lib/libc.so", "/run/minik/c"], ["/data"])
    assert gone == ["/database", "/run/user/0", "/usr/lib/x", "/home", "/dev/shm", "/dev"]


def test_mountinfo_and_maps():
    assert isolate.mount_points("22 27 0:21 / /a\\040b rw - proc proc rw\n") == ["/a b"]
    maps = "5-6 r-xp 0 fe:00 12 /usr/lib/libc.so.6\n7-8 rw-p 0 00:00 0 \n9-a rw-p 0 00:00 0 [heap]\nb-c r 0 0:1 3 /usr/bin/py thon\n"
    assert isolate.mapped_files(maps) == {"/usr/lib/libc.so.6", "/usr/bin/py thon"}


def test_exit_codes_and_start_time():
    assert (state.exit_code(os.CLD_EXITED, 7), state.exit_code(os.CLD_KILLED, 9), state.exit_code(os.CLD_DUMPED, 11)) == (7, 137, 139)
    assert state.start_time(os.getpid()) > 0 and state.start_time(2**22 + 1) == 0


def test_a_pidfd_tells_the_exit_code_after_reaping():
    pid = os.fork()
    if pid == 0:
        os._exit(41)
    pidfd = os.pidfd_open(pid)
    os.waitpid(pid, 0)
    assert state.exit_code_from_pidfd(pidfd) in (41, None), "None before Linux 6.15"
    os.close(pidfd)
