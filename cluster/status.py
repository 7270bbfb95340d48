"""`minik status`: the processes of this host's cluster with their memory, and whether API and node are ready. Only looks."""

from __future__ import annotations

import os
from typing import Any

from cluster import config, host, up


def observe(c: config.Config) -> dict[str, Any] | None:
    """{"guard": pid, "processes": [{name, pid, restarts, uptime_s, pss_kib}], "containers": n, "api": bool, "node": bool}; None where no guard runs."""
    guard = up.running_guard(c)
    if guard is None:
        return None
    processes = [{"name": "guard", "pid": guard["pid"], "restarts": 0, "uptime_s": 0.0}, *guard["processes"]]
    for p in processes:
        p["pss_kib"] = host.pss_kib(p["pid"]) if p["pid"] else 0
    api = up.Api(c)
    ready = api.ready()
    return {
        "guard": guard["pid"],
        "processes": processes,
        "container_pids": len(host.cgroup_pids(host.cgroup_trees(c.cgroup_parent, c.name), f"{c.node_name}/pods")),
        "api": ready,
        "node": ready and api.node_ready(),
    }


def render_pids(state: dict[str, Any]) -> str:
    """`name:pid,…`, the form the load generators' --pids takes."""
    return ",".join(f"{p['name']}:{p['pid']}" for p in state["processes"] if p["pid"])


def render(c: config.Config, state: dict[str, Any]) -> str:
    rows = [("NAME", "PID", "RESTARTS", "UPTIME", "PSS")]
    for p in state["processes"]:
        uptime = f"{p['uptime_s']:.0f}s" if p["pid"] and p["name"] != "guard" else "-"
        rows.append((p["name"], str(p["pid"] or "-"), str(p["restarts"]), uptime, f"{p['pss_kib'] / 1024:.1f}Mi"))
    widths = [max(len(r[i]) for r in rows) for i in range(5)]
    lines = ["   ".join(v.ljust(w) for v, w in zip(r, widths)).rstrip() for r in rows]
    total = sum(p["pss_kib"] for p in state["processes"]) / 1024
    lines.append(f"cluster {c.name!r}, store {c.store}, data {c.data_dir}: {total:.0f} MiB in all, {state['container_pids']} container processes")
    lines.append(f"API {c.server}: {'ready' if state['api'] else 'NOT ready'}; node {c.node_name}: {'Ready' if state['node'] else 'NOT Ready'}")
    return os.linesep.join(lines)
