"""One object's state as the watch cache holds and hands it out: bytes made once, everything else made on demand. Owns no index; Cache makes entries, registry and
rest read them. Nothing here may be changed by a reader: entries, their `obj`, `labels` and `fields` are shared by every request.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

EventType = Literal["ADDED", "MODIFIED", "DELETED"]


@dataclass(frozen=True, slots=True)
class View:
    """Another version of the stored object, such as events.k8s.io/v1 of a core/v1 Event. `convert(obj) -> obj` must not change its argument; results are kept per `name`."""

    name: str
    convert: Callable[[dict[str, Any]], dict[str, Any]]


class Fields(Mapping[str, str]):
    """Field-selector values of an object by dotted path, as text: absent is "" (or the type's zero), booleans `true`/`false`. Any path may be asked."""


class Entry:
    """One object at one revision.

    key, namespace, name, revision (its resourceVersion), `data`: complete JSON bytes with resourceVersion. `obj`: the decoded dict, shared, READ-ONLY (copy by
    `orjson.loads(entry.data)`). `labels`: dict (empty if none). `fields`: Fields. `row`: a slot for REST to keep a rendered Table row in; None at first.
    """


class WatchEvent:
    """type ADDED|MODIFIED|DELETED as one watcher's selector sees it; `entry` (for DELETED: the last state that matched, at the deletion's revision); `revision`;
    `line`: b'{"type":"ADDED","object":{…}}\\n', made once and shared by every watcher."""
