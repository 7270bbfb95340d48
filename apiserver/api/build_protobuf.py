"""Trims a table of Kubernetes' protobuf fields to what is served here, into the committed `protobuf_fields.json`. Run by hand when the API version changes:
`python -m apiserver.api.build_protobuf TABLE`. Nothing of the running server imports this module.

TABLE is JSON: message → field number → [JSON name, type]. Kept: the same, shortened names, and a third element 1 on scalars whose zero value means something
(pointers in Go, and fields that Go's JSON never omits): protobuf sends the zeros of all other fields too, and Go's JSON would leave them out.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

from apiserver.api import kinds, schema

JSON = dict[str, Any]
TARGET = Path(__file__).parent / "protobuf_fields.json"
SCALARS = frozenset(("string", "bool", "int32", "int64", "bytes"))
META_KINDS = ("DeleteOptions", "CreateOptions", "UpdateOptions", "PatchOptions", "ListOptions", "GetOptions", "Status")

# Pointers to scalars in Kubernetes' Go types (API reference: "optional" with a default other than zero, or with a meaning of "unset").
_POINTERS = (
    "replicas automountServiceAccountToken runAsUser runAsGroup runAsNonRoot fsGroup privileged readOnlyRootFilesystem allowPrivilegeEscalation "
    "terminationGracePeriodSeconds gracePeriodSeconds activeDeadlineSeconds deletionGracePeriodSeconds hostUsers shareProcessNamespace enableServiceLinks "
    "setHostnameAsFQDN priority optional defaultMode mode tolerationSeconds suspend parallelism completions backoffLimit backoffLimitPerIndex maxFailedIndexes "
    "ttlSecondsAfterFinished startingDeadlineSeconds successfulJobsHistoryLimit failedJobsHistoryLimit revisionHistoryLimit progressDeadlineSeconds minReplicas "
    "immutable allocateLoadBalancerNodePorts serving terminating controller blockOwnerDeletion started expirationSeconds storageClassName "
    "leaseDurationSeconds leaseTransitions orphanDependents timeoutSeconds targetAverageUtilization averageUtilization stabilizationWindowSeconds manualSelector "
    "podReplacementPolicy completionMode attachRequired podInfoOnMount storageCapacity requiresRepublish volumeBindingMode allowVolumeExpansion preemptionPolicy "
    "ready uid resourceVersion endPort partition ignoreStoreReadErrorWithClusterBreakingPotential"
)
POINTERS = frozenset(_POINTERS.split())
# Of those, the ones that are plain values in these messages.
PLAIN = frozenset(
    (message, name)
    for message in ("ObjectMeta", "OwnerReference", "ListMeta", "ObjectReference", "StatusDetails", "UserInfo", "BoundObjectReference", "Probe")
    for name in ("uid", "resourceVersion", "timeoutSeconds")
)


def shorten(name: str) -> str:
    """k8s.io.api.core.v1.Pod → core.v1.Pod; k8s.io.apimachinery.pkg.apis.meta.v1.Time → meta.v1.Time."""
    return re.sub(r"^k8s\.io\.(?:api|apimachinery\.pkg(?:\.apis)?)\.", "", name)


def message_of(group: str, version: str, kind: str) -> str:
    return f"{group.partition('.')[0] or 'core'}.{version}.{kind}"


def split_type(text: str) -> tuple[str, str]:
    """("repeated " | "map<string," | "", element type)."""
    if text.startswith("repeated "):
        return "repeated ", text.removeprefix("repeated ")
    if text.startswith("map<string,"):
        return "map<string,", text.removeprefix("map<string,").rstrip(">")
    return "", text


def trim(table: JSON) -> JSON:
    """The messages that served kinds reach, by short name."""
    short = {shorten(name): fields for name, fields in table.items()}
    todo = [message_of(r.group, r.version, r.kind) for r in kinds.RESOURCES]
    todo += [message_of(s.group, s.version, s.kind) for r in kinds.RESOURCES for s in r.subresources if s.version]
    todo += [f"meta.v1.{kind}" for kind in META_KINDS]
    required = {name.partition("k8s.api.")[2] or name.partition("pkg.apis.")[2]: raw.get("required", ()) for name, raw in schema.load()["definitions"].items()}
    result: JSON = {}
    while todo:
        message = todo.pop()
        if message in result or message not in short:
            continue
        result[message] = fields = {}
        kept = required.get(message, ())
        for number, (name, kind) in short[message].items():
            wrapper, element = split_type(kind)
            if element not in SCALARS:
                element = shorten(element)
                todo.append(element)
            entry = [name, f"{wrapper}{element}{'>' if wrapper.startswith('map') else ''}"]
            plain = (message.rpartition(".")[2], name) in PLAIN
            if not wrapper and element in SCALARS and (name in kept or (name in POINTERS and not plain)):
                entry.append(1)
            fields[number] = entry
    return dict(sorted(result.items()))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m apiserver.api.build_protobuf", description="trim the table of protobuf fields")
    parser.add_argument("table", type=Path, help="message → field number → [JSON name, type]")
    args = parser.parse_args(argv)
    trimmed = trim(json.loads(args.table.read_text()))
    lines = (f"{json.dumps(name)}:{json.dumps(fields, separators=(',', ':'))}" for name, fields in trimmed.items())
    TARGET.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    print(f"{len(trimmed)} messages, {TARGET.stat().st_size // 1024} kB in {TARGET.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
