"""What the runtime's tests stand on: a real guard, logger and zygote with their own run directory, data directory and cgroups, and Debian's static busybox as a layer.
Everything it makes is gone afterwards, also when a test fails."""

import asyncio
import contextlib
import glob
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid

from agent.runtime import client, cri, fdstore, spec, state, syscalls
from agent.runtime.cgroups import detect

RUNTIME = pathlib.Path(fdstore.__file__).parent
APPLETS = (
    "sh cat ls id grep ps hostname mount umount sleep echo touch mkdir stat env true false kill ip unshare dd head tail sort wc chmod stty tty "
    "mknod test readlink seq sysctl pwd"
)


def busybox():
    """The layer, fetched once a machine with Debian's own client and unpacked, not installed."""
    layer = pathlib.Path("/var/tmp/minik-test-busybox")
    if not (layer / "bin/true").is_symlink():
        with tempfile.TemporaryDirectory() as work:
            subprocess.run(["apt-get", "download", "busybox-static"], cwd=work, check=True, capture_output=True)
            subprocess.run(["dpkg", "-x", glob.glob(f"{work}/*.deb")[0], f"{work}/x"], check=True)
            (layer / "bin").mkdir(parents=True, exist_ok=True)
            (layer / "etc").mkdir(exist_ok=True)
            (layer / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nweb:x:1000:1001:web:/home/web:/bin/sh\n")
            (layer / "etc/group").write_text("root:x:0:\nweb:x:1001:\nextra:x:2000:web,other\nnone:x:2001:other\n")
            (layer / "script").write_text("#!/nowhere/interpreter\n")
            (layer / "script").chmod(0o755)
            (layer / "garbage").write_bytes(b"\x7fELFnot really")
            (layer / "garbage").chmod(0o755)
            (layer / "plain").write_text("text\n")
            shutil.copy(f"{work}/x/bin/busybox", layer / "bin/busybox")
            for name in APPLETS.split():
                with contextlib.suppress(FileExistsError):
                    (layer / "bin" / name).symlink_to("busybox")
    return str(layer)


async def eventually(condition, what, timeout_s=20):
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        value = condition()
        if asyncio.iscoroutine(value):
            value = await value
        if value:
            return value
        await asyncio.sleep(0.01)
    raise AssertionError(f"never happened: {what}")


class Host:
    """guard + logger + zygote, and a connected Runtime."""

    def __init__(self, zygote_flags=()):
        self.name = f"minik-t{uuid.uuid4().hex[:8]}"
        self.run_dir = tempfile.mkdtemp(prefix="mk-", dir="/run")
        self.data_dir = tempfile.mkdtemp(prefix="mk-", dir="/dev/shm")
        self.cgroup = f"{self.name}/node"
        self.layer = os.path.join(self.data_dir, "busybox")  # where the zygote sees it whatever else is mounted here
        shutil.copytree(busybox(), self.layer, symlinks=True)
        python = [sys.executable, "-I", "-S", "-E"]
        zygote = [*python, str(RUNTIME / "zygote.py"), self.run_dir, "--data-dir", self.data_dir, "--cgroup", self.cgroup, *zygote_flags]
        processes = [("logger", [*python, str(RUNTIME / "logger.py"), self.run_dir]), ("zygote", zygote)]
        guard = {
            "run_dir": self.run_dir,
            "sockets": {n: {"type": "seqpacket", "path": f"{self.run_dir}/{n}.sock"} for n, _ in processes},
            "processes": [{"name": n, "argv": argv, "sockets": [n], "log": f"{self.data_dir}/{n}.log"} for n, argv in processes],
        }
        path = pathlib.Path(self.run_dir, "guard.json")
        path.write_text(json.dumps(guard))
        self._guard_log = open(f"{self.data_dir}/guard.log", "w")
        self._guard_argv = [*python, str(RUNTIME / "guard.py"), str(path)]
        self.guard = subprocess.Popen(self._guard_argv, stderr=self._guard_log)
        self.store = fdstore.FdStore(f"{self.run_dir}/guard.sock")
        self.runtime = client.Runtime(self.run_dir)
        self._count = 0

    async def __aenter__(self):
        await eventually(lambda: os.path.exists(f"{self.run_dir}/zygote.sock"), "the zygote's socket")
        try:
            await self.runtime.connect()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_):
        with contextlib.suppress(OSError, TimeoutError, KeyError):
            async with asyncio.timeout(20):
                for s in await self.runtime.list_sandboxes():
                    await self.runtime.remove_sandbox(s.config.id)
        await self.runtime.close()
        self.store.close()
        self.guard.terminate()
        self.guard.wait(30)
        self._guard_log.close()
        for path in glob.glob(f"{self.run_dir}/containers/*/state.json"):  # what a failed test left running
            saved = state.read_json(path)
            if saved["state"] == "running" and state.start_time(saved["pid"]) == saved["start_time"]:
                os.kill(saved["pid"], signal.SIGKILL)
        for path in glob.glob(f"{self.run_dir}/sandboxes/*.shm"):
            if os.path.ismount(path):
                syscalls.umount(path)
        driver = detect.driver()
        driver.kill(self.name)
        driver.remove(self.name)
        shutil.rmtree(self.run_dir)
        shutil.rmtree(self.data_dir)

    async def lose_guard(self):
        """kill -9 of the guard: logger and zygote go with it."""
        pids = [self.pid_of(n) for n in ("logger", "zygote")]
        self.guard.kill()
        self.guard.wait()
        await eventually(lambda: not any(os.path.exists(f"/proc/{p}") for p in pids), "logger and zygote dead, too")

    def start_guard(self):
        self.guard = subprocess.Popen(self._guard_argv, stderr=self._guard_log)

    def log(self, name="zygote"):
        return pathlib.Path(self.data_dir, f"{name}.log").read_text()

    def pid_of(self, name):
        return next(p["pid"] for p in self.store.status()["processes"] if p["name"] == name)

    async def sandbox(self, **fields):
        self._count += 1
        config = cri.SandboxConfig(id=f"s{self._count}", hostname=fields.pop("hostname", "pod-host"), cgroup=f"pod-{self._count}", **fields)
        await self.runtime.run_sandbox(config)
        return config.id

    def config(self, sandbox_id, args, change=None, **fields):
        self._count += 1
        wanted = spec.default_spec(args)
        if change:
            change(wanted)
        container_id = f"c{self._count}"
        return cri.ContainerConfig(
            id=container_id, sandbox_id=sandbox_id, spec=wanted, layers=[self.layer], log_path=f"{self.data_dir}/logs/{container_id}/0.log", **fields
        )

    async def create(self, args, change=None, sandbox_id="", **fields):
        config = self.config(sandbox_id or await self.sandbox(), args, change, **fields)
        await self.runtime.create_container(config)
        return config.id

    async def start(self, args, change=None, sandbox_id="", **fields):
        container_id = await self.create(args, change, sandbox_id, **fields)
        await self.runtime.start_container(container_id)
        return container_id

    async def ended(self, container_id, timeout_s=30):
        """Its final status, with its log drained."""
        await asyncio.wait_for(self.runtime._exit_event(container_id).wait(), timeout_s)
        return await self.runtime.container_status(container_id)

    def output(self, container_id):
        """What it wrote to stdout and stderr."""
        path = pathlib.Path(self.data_dir, "logs", container_id, "0.log")
        text = path.read_text() if path.exists() else ""
        return "".join(line.split(" ", 3)[3] + "\n" for line in text.splitlines())

    async def run(self, args, change=None, sandbox_id="", **fields):
        """(exit code, output) of a container that runs to its end."""
        container_id = await self.start(args, change, sandbox_id, **fields)
        status = await self.ended(container_id)
        return status.exit_code, self.output(container_id)

    async def execute(self, container_id, args, **fields):
        """(exit code, stdout) of an exec."""
        session = await self.runtime.exec(container_id, args, **fields)
        out = await asyncio.to_thread(read_all, session.stdout_fd)
        err = await asyncio.to_thread(read_all, session.stderr_fd)
        return (await session.wait()).exit_code, out + err


def read_all(fd):
    with os.fdopen(fd, "rb") as f:
        return f.read().decode()
