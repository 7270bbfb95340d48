"""`make bench [-- PART …]`: start (containers beside crun, runc and a C floor), clusters (up, pods, creates, memory, client), ruleset (Services beside nft)."""

from __future__ import annotations

import importlib
import sys

from bench import report

PARTS = ("start", "clusters", "ruleset")


def main() -> int:
    wanted = sys.argv[1:] or PARTS
    rows: list[report.Row] = []
    for part in wanted:
        if part not in PARTS:
            print(f"bench: no part {part!r}; there are {', '.join(PARTS)}", file=sys.stderr)
            return 1
        rows += importlib.import_module(f"bench.{part}").measure()
    print(f"Measured on {report.machine()}; medians of interleaved runs.\n")
    print(report.render(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
