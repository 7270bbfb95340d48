"""Virtual hosts: several "machines" on one kernel, for tests and for multi-node clusters on a laptop. A host is a set of net, mount, uts, ipc, pid and cgroup namespaces with
private /run, /var/lib, /tmp and its own subtree of every cgroup hierarchy at /sys/fs/cgroup; a Fabric is the bridge they share, in a network namespace of its own.

Nothing has a name on the real host but the cgroups (`minik-vh-<pid>-<host>`): everything else dies with its processes, and these die with their maker
(PR_SET_PDEATHSIG). `sweep()` removes the cgroups of makers that were killed. Needs iproute2, unshare(1) and nsenter(1) (util-linux).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

from cluster import host

ROOT = pathlib.Path(__file__).resolve().parent.parent
PREFIX = "minik-vh-"
PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


def _die_with_parent() -> None:
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _run(argv: list[str]) -> None:
    done = subprocess.run(argv, check=False, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"`{' '.join(argv)}` failed: {done.stderr.strip()}")


def _hierarchies() -> list[pathlib.Path]:
    """Mounted cgroup hierarchies, each once: v1's directories (not their symlinked aliases) and the v2 tree."""
    root = host.CGROUP_ROOT
    if (root / "cgroup.controllers").exists():
        return [root]
    return sorted(p for p in root.iterdir() if p.is_dir() and not p.is_symlink() and (p / "cgroup.procs").exists())


def sweep() -> None:
    """Remove the cgroups of virtual hosts whose maker is dead, with whatever still runs in them."""
    trees = []
    for hierarchy in _hierarchies():
        for tree in hierarchy.glob(f"{PREFIX}*"):
            maker = tree.name[len(PREFIX) :].split("-")[0]
            if not pathlib.Path("/proc", maker).exists():
                trees.append(tree)
    host.kill_pids(lambda: host.cgroup_pids(trees))
    host.remove_cgroups(trees)


class Fabric:
    """One Ethernet segment. Use as a context manager."""

    def __init__(self, gateway: str = "10.99.0.254/24") -> None:
        self.gateway = gateway
        self.process = subprocess.Popen(["unshare", "--net", "sleep", "infinity"], preexec_fn=_die_with_parent)
        self._await_namespace()
        self.ip("link", "add", "br0", "type", "bridge")
        self.ip("address", "add", gateway, "dev", "br0")
        self.ip("link", "set", "br0", "up")
        self.ip("link", "set", "lo", "up")

    def _await_namespace(self) -> None:
        own = os.readlink("/proc/self/ns/net")
        deadline = time.monotonic() + 10
        while os.readlink(f"/proc/{self.process.pid}/ns/net") == own:
            if time.monotonic() > deadline:
                raise RuntimeError("unshare --net did not make a network namespace")
            time.sleep(0.002)

    def ip(self, *arguments: str) -> None:
        _run(["nsenter", "-t", str(self.process.pid), "-n", "ip", *arguments])

    def close(self) -> None:
        self.process.kill()
        self.process.wait()

    def __enter__(self) -> Fabric:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Host:
    """One virtual machine-like host on a fabric. Use as a context manager."""

    def __init__(self, fabric: Fabric, name: str, address: str) -> None:
        self.fabric, self.name, self.address = fabric, name, address
        self.cgroup = f"{PREFIX}{os.getpid()}-{name}"
        self.trees = [h / self.cgroup for h in _hierarchies()]
        for tree in self.trees:
            tree.mkdir()
            for setting in ("cpuset.cpus", "cpuset.mems"):
                if tree.parent.name == "cpuset" and (tree / setting).exists():
                    (tree / setting).write_text((tree.parent / setting).read_text())
        ready, ready_write = os.pipe()
        self.process = subprocess.Popen(
            ["unshare", "-m", "-u", "-i", "-n", "-p", "-f", "--kill-child=SIGKILL", "--propagation", "private", "--",
             sys.executable, "-m", "cluster.hosts", name, self.cgroup, str(ready_write)],
            cwd=ROOT, pass_fds=[ready_write], preexec_fn=_die_with_parent, env=os.environ | {"PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        os.close(ready_write)
        with os.fdopen(ready) as f:
            if f.read(5) != "ready":
                self.close()
                raise RuntimeError(f"virtual host {name} did not start")
        children = pathlib.Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        self.init_pid = int(children[0])
        self._wire()

    def _wire(self) -> None:
        port = f"p{self.init_pid}"
        self.fabric.ip("link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", str(self.init_pid))
        self.fabric.ip("link", "set", port, "master", "br0", "up")
        for arguments in (
            ("link", "set", "lo", "up"), ("address", "add", f"{self.address}/24", "dev", "eth0"), ("link", "set", "eth0", "up"),
            ("route", "add", "default", "via", self.fabric.gateway.split("/")[0]),
        ):  # fmt: skip
            _run([*self.enter(), "ip", *arguments])

    def enter(self) -> list[str]:
        """argv prefix that runs a command in this host."""
        return ["nsenter", "-t", str(self.init_pid), "-m", "-u", "-i", "-n", "-p", "-C", "--"]

    def run(self, *argv: str, timeout_s: float = 120, check: bool = True, **kwargs) -> subprocess.CompletedProcess:
        """A command in this host, its output as text. Raises RuntimeError with what it said where it fails and `check`."""
        done = subprocess.run([*self.enter(), *argv], check=False, capture_output=True, text=True, timeout=timeout_s, cwd=ROOT, **kwargs)
        if check and done.returncode:
            raise RuntimeError(f"`{' '.join(argv)}` on {self.name} exited with {done.returncode}:\n{done.stdout}{done.stderr}")
        return done

    def popen(self, *argv: str, **kwargs) -> subprocess.Popen:
        """A command that goes on in this host, and dies with the returned process, which is nsenter: it stays outside of the pid namespace."""
        return subprocess.Popen([*self.enter(), "setpriv", "--pdeathsig", "KILL", *argv], cwd=ROOT, text=True, preexec_fn=_die_with_parent, **kwargs)

    def cut(self) -> None:
        """The cable is pulled: 100 % loss."""
        self.fabric.ip("link", "set", f"p{self.init_pid}", "down")

    def heal(self) -> None:
        self.fabric.ip("link", "set", f"p{self.init_pid}", "up")

    def close(self) -> None:
        """Power off: every process in it is killed."""
        self.process.kill()
        self.process.wait()
        host.kill_pids(lambda: host.cgroup_pids(self.trees))
        host.remove_cgroups(self.trees)

    def __enter__(self) -> Host:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


# --- inside: the host's first process


def _mount(source: str, target: str, kind: str = "", flags: int = 0, data: str = "") -> None:
    if _libc.mount(source.encode(), target.encode(), kind.encode() or None, flags, data.encode() or None):
        code = ctypes.get_errno()
        raise OSError(code, f"mount {source} on {target}: {os.strerror(code)}")


def _own_file_systems(cgroup: str) -> None:
    ms_bind, ms_move = 4096, 8192
    hierarchies = _hierarchies()
    for folder in ("/run", "/var/lib", "/tmp") if not str(ROOT).startswith(("/tmp/", "/run/", "/var/lib/")) else ("/run", "/var/lib"):
        _mount("tmpfs", folder, "tmpfs", data="mode=0755" if folder != "/tmp" else "mode=1777")
    staging = "/run/cgroup"
    os.makedirs(staging)
    if hierarchies == [host.CGROUP_ROOT]:
        _mount(str(host.CGROUP_ROOT / cgroup), staging, flags=ms_bind)
    else:
        _mount("tmpfs", staging, "tmpfs", data="mode=0755")
        for h in hierarchies:
            target = f"{staging}/{h.name}"
            os.mkdir(target)
            _mount(str(h / cgroup), target, flags=ms_bind)
    _mount("proc", "/proc", "proc")
    _mount("sysfs", "/sys", "sysfs")
    _mount(staging, "/sys/fs/cgroup", flags=ms_move)
    os.rmdir(staging)


def init(name: str, cgroup: str, ready_fd: int) -> None:
    """pid 1 of a virtual host: sets it up, then only reaps."""
    clone_newcgroup = 0x02000000
    for h in _hierarchies():
        (h / cgroup / "cgroup.procs").write_text("0")
    if _libc.unshare(clone_newcgroup):
        raise OSError(ctypes.get_errno(), "unshare(CLONE_NEWCGROUP)")
    _own_file_systems(cgroup)
    _libc.sethostname(name.encode(), len(name))
    os.write(ready_fd, b"ready")
    os.close(ready_fd)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    while True:
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, 0):
                pass
        signal.sigtimedwait({signal.SIGCHLD}, 0.2)


def kubectl(version: str) -> str:
    """Path of `kubectl.<version>`: from $KUBECTL_DIR, else beside the kubectl in PATH. Raises FileNotFoundError that says what to set."""
    found = os.environ.get("KUBECTL_DIR") or (shutil.which("kubectl") and os.path.dirname(os.path.realpath(shutil.which("kubectl") or "")))
    path = pathlib.Path(found or "/nonexistent", f"kubectl.{version}")
    if not path.exists():
        raise FileNotFoundError(f"kubectl.{version} is not in {found or 'PATH'}: set KUBECTL_DIR to the folder that holds kubectl.1.NN")
    return str(path)


if __name__ == "__main__":
    init(sys.argv[1], sys.argv[2], int(sys.argv[3]))
