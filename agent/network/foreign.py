"""Firewalls of others: does a foreign FORWARD policy drop pods' packets? Verdicts of other tables cannot be overridden from ours, so we say so and offer the rule.
Called by `PodNetwork.ensure`; runs `nft` and `iptables-legacy` to read, never to write."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterable
from typing import Any


def forward_warnings(cluster_cidr: str) -> list[str]:
    """Texts for the operator; empty where nothing stands in the way, or where a rule of that chain already names the pods' network."""
    warnings = list(parse_nft(_output(["nft", "-j", "list", "ruleset"]), cluster_cidr))
    legacy = _output(["iptables-legacy", "-S", "FORWARD"]) if _legacy_in_use() else ""
    if "-P FORWARD DROP" in legacy and cluster_cidr not in legacy:
        warnings.append(_warning("iptables-legacy FORWARD", cluster_cidr, "iptables-legacy"))
    return warnings


def parse_nft(ruleset: str, cluster_cidr: str) -> Iterable[str]:
    """Pure: base chains of the forward hook with policy drop (`nft -j list ruleset`, libnftables-json(5)), unless a rule of theirs, or of a chain that they jump to, names the pods' network."""
    try:
        items: list[dict[str, Any]] = json.loads(ruleset)["nftables"]
    except (ValueError, KeyError, TypeError):
        return
    rules = [item["rule"] for item in items if "rule" in item]
    for item in items:
        chain = item.get("chain") or {}
        if chain.get("hook") != "forward" or chain.get("policy") != "drop" or chain.get("family") not in ("ip", "inet"):
            continue
        seen, waiting = set(), [chain["name"]]
        texts = ""
        while waiting:
            name = waiting.pop()
            if name in seen:
                continue
            seen.add(name)
            for rule in rules:
                if (rule["family"], rule["table"], rule["chain"]) == (chain["family"], chain["table"], name):
                    texts += json.dumps(rule["expr"])
                    waiting += [verdict["target"] for part in rule["expr"] for key in ("jump", "goto") if (verdict := part.get(key))]
        address, _, length = cluster_cidr.partition("/")
        if f'{{"addr": "{address}", "len": {length}}}' not in texts:
            tool = "iptables" if (chain["table"], chain["name"]) == ("filter", "FORWARD") else ""
            yield _warning(f"table {chain['family']} {chain['table']}, chain {chain['name']}", cluster_cidr, tool)


def _warning(where: str, cidr: str, tool: str) -> str:
    if tool:
        rule = f"{tool} -I FORWARD -s {cidr} -j ACCEPT; {tool} -I FORWARD -d {cidr} -j ACCEPT"
    else:
        rule = f"accept ip saddr {cidr} and ip daddr {cidr} there"
    return f"another program drops forwarded packets by default ({where}): pods may not reach one another or other hosts; to allow it: {rule}"


def _legacy_in_use() -> bool:
    try:
        with open("/proc/net/ip_tables_names") as file:
            return "filter" in file.read().split()
    except OSError:
        return False


def _output(command: list[str]) -> str:
    if not shutil.which(command[0]):
        return ""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=False).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
