"""An OCI runtime's `run`, driven by bench/start.py as start_floor is: a line in, "0 CLEANED_NS" out. Run in a mount namespace of its own without a cgroup2 mount beside
cgroup v1: crun refuses such a hybrid host. Arguments: the program, its state directory, a bundle, a cgroup path. Standard library only, run with -I -S -E."""

import json
import os
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from agent.runtime import syscalls


def main() -> None:
    program, state_dir, bundle, cgroup = sys.argv[1:]
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.mount("", "/", "", syscalls.MS_REC | syscalls.MS_PRIVATE)
    with open("/proc/self/mountinfo", encoding="utf-8") as f:
        mounts = [line.split() for line in f]
    if any(m[m.index("-") + 1] == "cgroup" for m in mounts):
        for m in mounts:
            if m[m.index("-") + 1] == "cgroup2":
                syscalls.umount(m[4])
    null = os.open("/dev/null", os.O_RDWR)
    with open(f"{bundle}/config.json", encoding="utf-8") as f:
        config = json.load(f)
    for serial, _ in enumerate(sys.stdin):
        name = f"{os.path.basename(program)}-{os.getpid()}-{serial}"
        config["linux"]["cgroupsPath"] = f"/{cgroup}/{name}"
        with open(f"{bundle}/config.json", "w", encoding="utf-8") as f:
            json.dump(config, f)
        begun = time.perf_counter_ns()
        pid = os.posix_spawn(
            program, [program, "--root", state_dir, "run", "--bundle", bundle, name], os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, null, 0), (os.POSIX_SPAWN_DUP2, null, 1)]
        )
        _, status = os.waitpid(pid, 0)
        cleaned = time.perf_counter_ns()
        if status:
            sys.exit(f"{program} failed: {status}")
        print(0, cleaned - begun, flush=True)


main()
