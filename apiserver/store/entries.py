"""One object's state as the watch cache holds and hands it out: bytes made once, everything else made on demand. Owns no index; Cache makes entries, registry and
rest read them. Nothing here may be changed by a reader: entries, their `obj`, `labels` and `fields` are shared by every request.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from apiserver.store import codec, keys

EventType = Literal["ADDED", "MODIFIED", "DELETED"]

# what Kubernetes' field selectors see in an object that lacks the field: the zero value of its Go type
_ZEROES = {
    "spec.hostNetwork": "false",
    "spec.unschedulable": "false",
    "status.replicas": "0",
    "status.successful": "0",
}


@dataclass(frozen=True, slots=True)
class View:
    """Another version of the stored object, such as events.k8s.io/v1 of a core/v1 Event. `convert(obj) -> obj` must not change its argument; results are kept per `name`."""

    name: str
    convert: Callable[[dict[str, Any]], dict[str, Any]]


class Fields(Mapping[str, str]):
    """Field-selector values of an object by dotted path, as text: absent is "" (or the type's zero), booleans `true`/`false`. Any path may be asked."""

    __slots__ = ("_obj",)

    def __init__(self, obj: dict[str, Any]) -> None:
        self._obj = obj

    def __getitem__(self, path: str) -> str:
        if path == "source":  # Events: Kubernetes' own special case
            return self._text("source.component") or self._text("reportingComponent")
        if path.startswith("regarding.") and "regarding" not in self._obj:
            path = "involvedObject." + path[len("regarding.") :]
        return self._text(path) or _ZEROES.get(path, "")

    def get(self, path: str, default: Any = "") -> Any:
        return self[path]

    def _text(self, path: str) -> str:
        value: Any = self._obj
        for step in path.split("."):
            if not isinstance(value, dict):
                return ""
            value = value.get(step)
        if isinstance(value, str):
            return value
        if isinstance(value, bool):
            return "true" if value else "false"
        return str(value) if isinstance(value, int | float) else ""

    def __iter__(self) -> Iterator[str]:
        """Every path that leads to a scalar."""
        return _paths(self._obj, "")

    def __len__(self) -> int:
        return sum(1 for _ in self)


def _paths(obj: dict[str, Any], base_path: str) -> Iterator[str]:
    for name, value in obj.items():
        if isinstance(value, dict):
            yield from _paths(value, f"{base_path}{name}.")
        elif not isinstance(value, list):
            yield base_path + name


class Decoded:
    """The objects decoded last, so that one object's readers share the work while thousands of idle objects do not stay in memory as dicts."""

    def __init__(self, limit: int = 512) -> None:
        self._limit = limit
        self._entries: deque[Entry] = deque()

    def keep(self, entry: Entry, obj: dict[str, Any]) -> None:
        entry._obj = obj
        self._entries.append(entry)
        if len(self._entries) > self._limit:
            self._entries.popleft()._obj = None


class Entry:
    """One object at one revision.

    key, namespace, name, revision (its resourceVersion), `data`: complete JSON bytes with resourceVersion. `obj`: the decoded dict, shared, READ-ONLY (copy by
    `orjson.loads(entry.data)`). `labels`: dict (empty if none). `fields`: Fields. `row`: a slot for REST to keep a rendered Table row in; None at first.
    A key that holds no object (a claim, a counter) has its raw value as `data` and an empty `obj`.
    """

    __slots__ = ("_decoded", "_labels", "_obj", "_views", "data", "key", "name", "namespace", "node_name", "revision", "row")

    def __init__(self, key: str, data: bytes, revision: int, location: keys.Location, decoded: Decoded) -> None:
        self.key, self.data, self.revision = key, data, revision
        self.namespace, self.name = location.namespace, location.name
        self.node_name = ""
        self.row: Any = None
        self._decoded = decoded
        self._obj: dict[str, Any] | None = None
        self._labels: dict[str, str] | None = None
        self._views: dict[str, Entry] | None = None

    @classmethod
    def stored(cls, key: str, value: bytes, revision: int, location: keys.Location, decoded: Decoded) -> Entry:
        """From the store's bytes."""
        return cls(key, codec.splice(value, revision) if codec.is_object(value) else value, revision, location, decoded)

    def __repr__(self) -> str:
        return f"Entry({self.key!r}, revision={self.revision})"

    @property
    def obj(self) -> dict[str, Any]:
        if self._obj is None:
            self._decoded.keep(self, codec.decode(self.data) if codec.is_object(self.data) else {})
        assert self._obj is not None
        return self._obj

    @property
    def labels(self) -> dict[str, str]:
        if self._labels is None:
            metadata = self.obj.get("metadata")
            labels = metadata.get("labels") if isinstance(metadata, dict) else None
            self._labels = labels if isinstance(labels, dict) else {}
        return self._labels

    @property
    def fields(self) -> Fields:
        return Fields(self.obj)

    def in_view(self, view: View) -> Entry:
        """The same object as another version; converted and encoded once."""
        if self._views is None:
            self._views = {}
        entry = self._views.get(view.name)
        if entry is None:
            data = codec.splice(codec.encode(view.convert(self.obj)), self.revision)
            entry = self._views[view.name] = self._copy(data, self.revision)
        return entry

    def deleted_at(self, revision: int) -> Entry:
        """This state as a DELETED event shows it: with the revision of the deletion."""
        entry = self._copy(codec.resplice(self.data, revision) if codec.is_object(self.data) else self.data, revision)
        entry._labels = self._labels
        return entry

    def _copy(self, data: bytes, revision: int) -> Entry:
        entry = Entry(self.key, data, revision, keys.Location("", self.namespace, self.name), self._decoded)
        entry.node_name = self.node_name
        return entry


class WatchEvent:
    """type ADDED|MODIFIED|DELETED as one watcher's selector sees it; `entry` (for DELETED: the last state that matched, at the deletion's revision); `revision`;
    `line`: b'{"type":"ADDED","object":{…}}\\n', made once and shared by every watcher."""

    __slots__ = ("_line", "entry", "revision", "type")

    def __init__(self, type_: EventType, entry: Entry) -> None:
        self.type: EventType = type_
        self.entry = entry
        self.revision = entry.revision
        self._line: bytes | None = None

    def __repr__(self) -> str:
        return f"WatchEvent({self.type}, {self.entry!r})"

    @property
    def line(self) -> bytes:
        line = self._line
        if line is None:
            line = self._line = b'{"type":"%b","object":%b}\n' % (self.type.encode(), self.entry.data)
        return line
