"""The fixed part of the table: its maps, base chains and rules, as text for `nft -f -` (nft(8)). Pure. Loaded once by `proxy.ensure`; what changes with Services is in the maps."""

from __future__ import annotations

import hashlib
from collections.abc import Collection

# Fields of each map's key and, for maps, of its value: what `nfnetlink` needs to encode elements.
SETS: dict[str, tuple[tuple[str, ...], str]] = {
    "services": (("ip", "proto", "port"), "verdict"),
    "node_ports": (("proto", "port"), "verdict"),
    "node_ports_inner": (("proto", "port"), "verdict"),
    "slots": (("ip", "proto", "port", "number"), "endpoint"),
    "endpoints": (("ip", "proto", "port", "ip", "port"), ""),
    "hairpin": (("ip", "ip"), ""),
    "foreign": (("ip",), ""),
    "unserved": (("ip", "proto", "port"), ""),
}
AFFINITY_SIZE = 1 << 18  # clients remembered at once; beyond, new ones are spread afresh

_TEMPLATE = """
table ip %(table)s {
  map services { typeof ip daddr . meta l4proto . th dport : verdict; }
  map node_ports { typeof meta l4proto . th dport : verdict; }
  map node_ports_inner { typeof meta l4proto . th dport : verdict; }
  map slots { typeof ip daddr . meta l4proto . th dport . numgen random mod 65536 : ip daddr . th dport; }
  map affinity { type ipv4_addr . ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service; size %(affinity)d; flags dynamic,timeout; }
  set endpoints { type ipv4_addr . inet_proto . inet_service . ipv4_addr . inet_service; }
  set hairpin { type ipv4_addr . ipv4_addr; }
  set foreign { type ipv4_addr; }
  set unserved { typeof ip daddr . meta l4proto . th dport; }
  set node_addresses { type ipv4_addr; elements = { %(node_addresses)s }; }

  # 127.0.0.0/8 never comes from a wire: pods share a link on which the kernel may route it (localhost:<NodePort>)
  chain martians { type filter hook prerouting priority raw; policy accept;
    iifname != "lo" ip daddr 127.0.0.0/8 drop
  }
  chain prerouting { type nat hook prerouting priority dstnat; policy accept;
    ip daddr . meta l4proto . th dport vmap @services
    ip daddr @node_addresses jump at_node
  }
  chain output { type nat hook output priority -100; policy accept;
    ip daddr . meta l4proto . th dport vmap @services
    ip daddr @node_addresses jump at_node_inner
    ip daddr 127.0.0.0/8 jump at_node_inner
  }
  chain at_node {
    ip saddr %(pods)s meta l4proto . th dport vmap @node_ports_inner
    meta l4proto . th dport vmap @node_ports
  }
  chain at_node_inner {
    meta l4proto . th dport vmap @node_ports_inner
    meta l4proto . th dport vmap @node_ports
  }
  chain postrouting { type nat hook postrouting priority srcnat; policy accept;
    ct status dnat ip saddr . ip daddr @hairpin masquerade
    ct status dnat ip saddr 127.0.0.0/8 oifname != "lo" masquerade
    ct status dnat ip saddr != %(pods)s ip daddr %(cluster)s ip daddr != %(pods)s masquerade
    ct status dnat ip saddr != %(pods)s ip daddr @foreign masquerade
    ip saddr %(pods)s ip daddr != %(cluster)s ip daddr != 224.0.0.0/4 masquerade
  }
  chain refuse {
    meta l4proto tcp reject with tcp reset
    reject with icmp port-unreachable
  }
  chain forward { type filter hook forward priority filter; policy accept;
    ip daddr . meta l4proto . th dport @unserved goto refuse%(refuse_rest)s
  }
  chain locally { type filter hook output priority filter; policy accept;
    ip daddr . meta l4proto . th dport @unserved goto refuse%(refuse_rest)s
  }
  chain %(marker)s { }
}
"""


def render(table: str, node_addresses: Collection[str], pod_cidr: str, cluster_cidr: str, service_cidr: str) -> tuple[str, str]:
    """(commands that replace the table, name of the marker chain). The marker names this very text: a table without it is someone else's or another version's."""
    values = {
        "table": table,
        "affinity": AFFINITY_SIZE,
        "node_addresses": ", ".join(sorted(node_addresses)),
        "pods": pod_cidr,
        "cluster": cluster_cidr,
        "refuse_rest": f"\n    ip daddr {service_cidr} ct direction original goto refuse" if service_cidr else "",
        "marker": "?",
    }
    marker = "version_" + hashlib.sha256((_TEMPLATE % values).encode()).hexdigest()[:12]
    body = _TEMPLATE % {**values, "marker": marker}
    if not node_addresses:
        body = body.replace("; elements = {  }", "")
    return f"table ip {table} {{ }}\ndelete table ip {table}\n{body}", marker


def rule_counts(commands: str) -> dict[str, int]:
    """How many rules render()'s text gives each chain that has any."""
    counts: dict[str, int] = {}
    chain = ""
    for line in commands.splitlines():
        words = line.split()
        if words[:1] == ["chain"]:
            chain = words[1] if words[-1] != "}" else ""
        elif words[:1] == ["}"]:
            chain = ""
        elif chain and words and words[0] != "#":
            counts[chain] = counts.get(chain, 0) + 1
    return counts
