"""A warm, single-threaded Python that starts containers with the runtime's own library, driven by bench/start.py as start_floor is: a line in, "EXECD_NS CLEANED_NS" out.
Standard library only, run with -I -S -E like the zygote. Argument: a JSON file with spec, seccomp (path), layer, base, cgroup."""

import gc
import json
import os
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from agent.runtime import launch, syscalls
from agent.runtime.cgroups import detect


def main() -> None:
    with open(sys.argv[1], encoding="utf-8") as f:
        wanted = json.load(f)
    with open(wanted["seccomp"], "rb") as f:
        program = f.read()
    spec = wanted["spec"]
    driver = detect.driver()
    host = launch.this_host(driver.hierarchies)
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.mount("", "/", "", syscalls.MS_REC | syscalls.MS_PRIVATE)
    null = os.open("/dev/null", os.O_RDWR)
    gc.collect()
    gc.freeze()
    gc.disable()
    for serial, _ in enumerate(sys.stdin):
        run, cgroup = f"{wanted['base']}/{serial}", f"{wanted['cgroup']}/{serial}"
        begun = time.perf_counter_ns()
        for path in (run, f"{run}/upper", f"{run}/work", f"{run}/rootfs"):
            os.mkdir(path)
        driver.create(cgroup, spec["linux"]["resources"], leaf=True)
        paths = launch.Paths(f"{run}/rootfs", f"{run}/upper", f"{run}/work")
        pid, pidfd = launch.launch(spec, paths, layers=[wanted["layer"]], cgroup_files=driver.join_files(cgroup), stdio=(null, null, 2), seccomp=program, host=host)
        execd = time.perf_counter_ns()
        _, status = os.waitpid(pid, 0)
        driver.remove(cgroup)
        cleaned = time.perf_counter_ns()
        os.close(pidfd)
        if status:
            sys.exit(f"the container failed: {status}")
        print(execd - begun, cleaned - begun, flush=True)


main()
