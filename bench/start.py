"""Container start with full isolation (six namespaces, overlay, cgroups, capabilities, seccomp, pivot_root), beside a C floor that does the same, and beside crun and runc with
the same spec where they are installed. `python -m bench start`. cgroup v1 only for the floor; crun and runc get a plain directory as root, so they are spared the overlay."""

from __future__ import annotations

import asyncio
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

from agent.runtime import capabilities, cri, plan, seccomp, spec
from agent.runtime.cgroups import detect
from bench.report import Row
from tests.node import runtime_host

HERE = pathlib.Path(__file__).parent
ROUNDS = 60


def wanted_spec() -> dict[str, Any]:
    result = spec.default_spec(["true"], env=["PATH=/bin", "HOME=/"])
    result["linux"]["resources"] = {"cpu": {"shares": 512}, "memory": {"limit": 64 << 20}, "pids": {"limit": 100}}
    names = sorted(seccomp.default_allowed(spec.DEFAULT_CAPABILITIES) | {"clone"})
    result["linux"]["seccomp"] = {
        "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38, "architectures": ["SCMP_ARCH_X86_64"], "syscalls": [{"names": names, "action": "SCMP_ACT_ALLOW"}],
    }  # fmt: skip
    result["hostname"] = "bench"
    return result


class Driven:
    """A contender that makes one container for each line it is sent."""

    def __init__(self, argv: list[str]) -> None:
        self._process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)

    def once(self) -> tuple[float, float]:
        """(exec'd, cleaned) in ms."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write("\n")
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._process.args} has ended")
        execd, cleaned = line.split()
        return int(execd) / 1e6, int(cleaned) / 1e6

    def close(self) -> None:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()


def _oci(program: str, work: pathlib.Path, layer: str, cgroup: str) -> Driven:
    """crun or runc: `run` creates, starts, waits and deletes."""
    bundle = work / os.path.basename(program)
    bundle.mkdir()
    shutil.copytree(layer, bundle / "rootfs", symlinks=True)
    for name in ("proc", "sys", "dev"):
        (bundle / "rootfs" / name).mkdir()
    (bundle / "config.json").write_text(json.dumps(wanted_spec()))
    return Driven([sys.executable, "-I", "-S", "-E", str(HERE / "start_oci.py"), program, str(work / "oci-state"), str(bundle), cgroup])


class Zygote:
    """The whole way of the agent: asyncio client, zygote, log FIFOs; create, start, exit, removal. The sandbox is there already, as for a pod's second container."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._loop.run_until_complete(self._open())

    async def _open(self) -> None:
        self._host = await runtime_host.Host().__aenter__()
        self._sandbox = await self._host.sandbox()

    async def _once(self) -> tuple[float, float]:
        config = self._host.config(self._sandbox, ["true"], lambda s: s.update(wanted_spec() | {"hostname": ""}))
        fields = {n: getattr(config, n) for n in config.__slots__}
        begun = time.perf_counter()
        await self._host.runtime.create_container(cri.ContainerConfig(**fields))
        await self._host.runtime.start_container(config.id)
        execd = time.perf_counter()
        await self._host.ended(config.id)
        await self._host.runtime.remove_container(config.id)
        return (execd - begun) * 1e3, (time.perf_counter() - begun) * 1e3

    def once(self) -> tuple[float, float]:
        return self._loop.run_until_complete(self._once())

    def close(self) -> None:
        self._loop.run_until_complete(self._host.__aexit__())
        self._loop.close()


def _contenders(work: pathlib.Path, cgroup: str) -> dict[str, Any]:
    layer = runtime_host.busybox()
    driver = detect.driver()
    program = work / "filter.bpf"
    wanted = wanted_spec()
    program.write_bytes(seccomp.compile_profile(wanted["linux"].pop("seccomp")))
    mask = plan.capability_mask(capabilities.DEFAULT)
    found: dict[str, Any] = {}
    if driver.hierarchies is not None and shutil.which("gcc"):
        binary = work / "start_floor"
        subprocess.run(["gcc", "-O2", "-Wall", "-o", str(binary), str(HERE / "start_floor.c")], check=True)
        shown = {directory: options for directory, options, _ in driver.hierarchies}
        places = [f"{os.path.dirname(f[: -len('/tasks')])}|{name}|{shown[name]}" for name, f in zip(shown, driver.join_files("x"))]
        (work / "c").mkdir()
        found["C floor"] = Driven([str(binary), layer, str(work / "c"), str(program), hex(mask), f"{cgroup}/c", *places])
    (work / "library").mkdir()
    (work / "launch.json").write_text(json.dumps({"spec": wanted, "seccomp": str(program), "layer": layer, "base": str(work / "library"), "cgroup": f"{cgroup}/library"}))
    found["library"] = Driven([sys.executable, "-I", "-S", "-E", str(HERE / "start_launcher.py"), str(work / "launch.json")])
    found["agent"] = Zygote()
    for name in ("crun", "runc"):
        program = shutil.which(name)
        if program:
            found[name] = _oci(program, work, layer, f"{cgroup}/oci")
    return found


def run(rounds: int = ROUNDS) -> dict[str, tuple[float, float]]:
    """contender → medians of (exec'd, cleaned) in ms; the rounds are interleaved."""
    driver = detect.driver()
    cgroup = f"minik-bench-{os.getpid()}"
    for part in ("c", "library", "oci"):
        driver.create(f"{cgroup}/{part}/none", {}, leaf=False)
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        contenders: dict[str, Any] = {}
        try:
            contenders = _contenders(pathlib.Path(folder), cgroup)
            times: dict[str, list[tuple[float, float]]] = {n: [] for n in contenders}
            for i in range(rounds + 3):
                for name, contender in contenders.items():
                    figures = contender.once()
                    if i >= 3:
                        times[name].append(figures)
        finally:
            for contender in contenders.values():
                contender.close()
            driver.remove(cgroup)
    return {n: (statistics.median(t[0] for t in ts), statistics.median(t[1] for t in ts)) for n, ts in times.items()}


def measure(rounds: int = ROUNDS) -> list[Row]:
    found = run(rounds)
    rows = []
    execd, cleaned = found["library"]
    floor = found.get("C floor")
    note = f"{execd / floor[0]:.2f} × C floor ({floor[0]:.2f} ms)" if floor else "no C floor: needs gcc and cgroup v1"
    rows.append(Row("container start, full isolation, exec'd", execd, "ms", "≤ 1.7 × C floor", note=note))
    peers = ", ".join(f"{n} {found[n][1]:.1f} ms ({found[n][1] / cleaned:.1f} ×)" for n in ("crun", "runc") if n in found)
    note = f"{cleaned / floor[1]:.2f} × C floor ({floor[1]:.2f} ms)" if floor else ""
    rows.append(Row("container start to cleaned up", cleaned, "ms", "≥ 3 × faster than crun", peers, note))
    rows.append(Row("the same through agent client, zygote and logger, exec'd", found["agent"][0], "ms", note=f"{found['agent'][1]:.1f} ms with exit, drained log and removal"))
    return rows


if __name__ == "__main__":
    for row in measure(int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS):
        print(row)
