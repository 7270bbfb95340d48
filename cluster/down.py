"""`minik down`: stops a cluster's processes and containers and takes its links, routes, tables, mounts, cgroups and run directory away; --purge also its data.
Each step works on what it finds, so it also cleans up after a guard that was killed, and succeeds where there is nothing to do."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import shutil
import time
from collections.abc import Callable

from agent.runtime.fdstore import FdStore
from cluster import config, host

STOP_TIMEOUT_S = 30.0  # the guard itself gives a process 10 s before it kills it
Say = Callable[[str], None]


def find(name: str, node_name: str = "", data_dir: str = "") -> list[config.Config]:
    """The clusters of this name on this host, by their cluster.json; without one, what the flags (or their defaults) say."""
    found = []
    for path in sorted(pathlib.Path(config.RUN_ROOT, name).glob("*/cluster.json")):
        saved = config.from_dict(json.loads(path.read_text()))
        if not node_name or saved.node_name == node_name:
            found.append(saved)
    return found or [config.validate(config.Config(name=name, node_name=node_name, data_dir=data_dir))]


def _stop_components(c: config.Config, names: tuple[str, ...]) -> bool:
    store = FdStore(str(c.run_dir / "guard.sock"), STOP_TIMEOUT_S)
    try:
        for name in names:
            store.call("stop-process", name=name)
    except OSError:
        return False
    finally:
        store.close()
    return True


def _stop_guard(c: config.Config, trees: list[pathlib.Path]) -> None:
    store = FdStore(str(c.run_dir / "guard.sock"), STOP_TIMEOUT_S)
    try:
        pid = store.call("stop")["pid"]
    except OSError:
        pid = 0
    finally:
        store.close()
    deadline = time.monotonic() + 15
    while pid and os.path.exists(f"/proc/{pid}") and time.monotonic() < deadline:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)
        time.sleep(0.005)
    host.kill_pids(lambda: host.cgroup_pids(trees) - {os.getpid()})


def _remove_network(c: config.Config) -> None:
    from agent.network.pods import PodNetwork
    from agent.services.proxy import ServiceProxy

    ServiceProxy(c.name, [c.node_ip] if c.node_ip else [], c.cluster_cidr, c.cluster_cidr, c.node_port_range, service_cidr=c.service_cidr).remove()
    PodNetwork(c.name, c.cluster_cidr, c.cluster_cidr, service_cidr=c.service_cidr).remove()


def down(c: config.Config, say: Say, purge: bool = False) -> None:
    """Raises OSError or TimeoutError where something refuses to go; the rest is gone by then, and running it again goes on."""
    trees = host.cgroup_trees(c.cgroup_parent, c.name)
    ran = _stop_components(c, ("agent", "scheduler", "controllers", "apiserver"))
    if ran:
        say("stopped agent, scheduler and API server")
    containers = host.cgroup_pids(trees, f"{c.node_name}/pods")
    if containers:
        host.kill_pids(lambda: host.cgroup_pids(trees, f"{c.node_name}/pods"))
        say(f"killed {len(containers)} container processes")
    _stop_guard(c, trees)
    _remove_network(c)
    host.unmount(host.mounts_below(c.data_dir, str(c.run_dir)))
    host.remove_cgroups(trees)
    shutil.rmtree(c.run_dir, ignore_errors=True)
    for folder in (c.run_dir.parent, pathlib.Path(config.RUN_ROOT)):
        with contextlib.suppress(OSError):
            folder.rmdir()
    shutil.rmtree(c.data / "containers", ignore_errors=True)
    if purge:
        shutil.rmtree(c.data, ignore_errors=True)
        say(f"removed {c.data}")
    say(f"cluster {c.name!r} is down" if ran else f"cluster {c.name!r} was not running; nothing is left of it")
