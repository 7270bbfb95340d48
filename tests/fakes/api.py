"""A small API server for unit tests of what stands on the client: an ASGI app with one revision counter, compare-and-swap, selectors by equality, watches and faults.

Holds no rules of any kind (no defaults, no validation): whoever needs those runs the real one. `faults` lets a test refuse, cut and compact.
"""

from __future__ import annotations

import asyncio
import copy
import json
import uuid
from typing import Any
from urllib.parse import parse_qs

from apiserver.api import kinds

Obj = dict[str, Any]


class FakeApi:
    def __init__(self) -> None:
        self.revision = 100
        self.compacted = 0
        self.objects: dict[tuple[str, str, str], Obj] = {}
        self.history: list[tuple[int, str, str, Obj, Obj | None]] = []
        self.changed = asyncio.Condition()
        self.requests: list[tuple[str, str]] = []
        self.refuse: list[tuple[int, dict[str, str]]] = []
        self.cuts: list[asyncio.Event] = []

    # what tests do behind the client's back
    async def put(self, resource: kinds.Resource, obj: Obj) -> Obj:
        async with self.changed:
            return self._write(resource, copy.deepcopy(obj))

    async def drop(self, resource: kinds.Resource, name: str, namespace: str = "") -> None:
        async with self.changed:
            self._remove(resource, namespace, name)

    def read(self, resource: kinds.Resource, name: str, namespace: str = "") -> Obj | None:
        return self.objects.get((resource.group_resource, namespace, name))

    def all(self, resource: kinds.Resource, namespace: str = "") -> list[Obj]:
        return [o for (g, ns, _), o in sorted(self.objects.items()) if g == resource.group_resource and (not namespace or ns == namespace)]

    def compact(self) -> None:
        self.compacted = self.revision

    def cut_watches(self) -> None:
        for cut in self.cuts:
            cut.set()
        self.cuts = []

    async def until(self, condition: Any, timeout_s: float = 10.0) -> None:
        async with asyncio.timeout(timeout_s), self.changed:
            await self.changed.wait_for(condition)

    # state
    def _write(self, resource: kinds.Resource, obj: Obj) -> Obj:
        meta = obj["metadata"]
        key = (resource.group_resource, meta.get("namespace", ""), meta["name"])
        old = self.objects.get(key)
        self.revision += 1
        meta["uid"] = old["metadata"]["uid"] if old else meta.get("uid") or str(uuid.uuid4())
        meta.setdefault("creationTimestamp", "2026-01-01T00:00:00Z")
        meta["resourceVersion"] = str(self.revision)
        obj = {"apiVersion": resource.api_version, "kind": resource.kind, **obj}
        if meta.get("deletionTimestamp") and not meta.get("finalizers") and not (obj.get("spec") or {}).get("finalizers"):
            self.objects.pop(key, None)
            self.history.append((self.revision, "DELETED", resource.group_resource, obj, old))
        else:
            self.objects[key] = obj
            self.history.append((self.revision, "MODIFIED" if old else "ADDED", resource.group_resource, obj, old))
        self.changed.notify_all()
        return obj

    def _remove(self, resource: kinds.Resource, namespace: str, name: str) -> Obj:
        old = self.objects.pop((resource.group_resource, namespace, name))
        self.revision += 1
        gone = copy.deepcopy(old)
        gone["metadata"]["resourceVersion"] = str(self.revision)
        self.history.append((self.revision, "DELETED", resource.group_resource, gone, old))
        self.changed.notify_all()
        return gone

    # ASGI
    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        query = {k: v[0] for k, v in parse_qs(scope["query_string"].decode()).items()}
        self.requests.append((scope["method"], scope["path"]))
        if self.refuse:
            status, headers = self.refuse.pop(0)
            return await self._answer(send, status, _status(status, "Refused", "refused by the test"), headers)
        parsed = _parse(scope["path"])
        if parsed is None:
            return await self._answer(send, 404, _status(404, "NotFound", "the server could not find the requested resource"))
        resource, namespace, name, sub = parsed
        if query.get("watch"):
            return await self._watch(send, resource, namespace, query)
        async with self.changed:
            status, answer = self._handle(scope["method"], resource, namespace, name, sub, query, json.loads(body) if body else None)
        await self._answer(send, status, answer)

    async def _answer(self, send: Any, status: int, obj: Obj, headers: dict[str, str] | None = None) -> None:
        data = json.dumps(obj).encode()
        extra = [(k.encode(), v.encode()) for k, v in (headers or {}).items()]
        await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"application/json"), (b"content-length", str(len(data)).encode()), *extra]})
        await send({"type": "http.response.body", "body": data})

    def _handle(self, method: str, resource: kinds.Resource, namespace: str, name: str, sub: str, query: dict[str, str], body: Any) -> tuple[int, Obj]:
        old = self.objects.get((resource.group_resource, namespace, name)) if name else None
        if name and old is None and method != "PUT":
            return 404, _status(404, "NotFound", f'{resource.group_resource} "{name}" not found')
        if method == "GET":
            if old is not None:
                return 200, old
            items = [o for o in self.all(resource, namespace) if _selected(o, query)]
            return 200, {"kind": resource.list_kind, "apiVersion": resource.api_version, "metadata": {"resourceVersion": str(self.revision)}, "items": items}
        if method == "POST" and sub == "binding":
            assert old is not None
            if old["spec"].get("nodeName"):
                return 409, _status(409, "Conflict", f'pod {name} is already assigned to node "{old["spec"]["nodeName"]}"')
            new = copy.deepcopy(old)
            new["spec"]["nodeName"] = body["target"]["name"]
            self._write(resource, new)
            return 201, {"kind": "Status", "status": "Success", "metadata": {}}
        if method == "POST":
            body["metadata"].setdefault("namespace", namespace) if namespace else None
            body["metadata"].setdefault("name", f"{body['metadata'].get('generateName', '')}{self.revision}")
            if (resource.group_resource, namespace, body["metadata"]["name"]) in self.objects:
                return 409, _status(409, "AlreadyExists", f'{resource.group_resource} "{body["metadata"]["name"]}" already exists')
            return 201, self._write(resource, body)
        if method == "PUT":
            if old is None:
                return 404, _status(404, "NotFound", f'{resource.group_resource} "{name}" not found')
            if body["metadata"].get("resourceVersion", old["metadata"]["resourceVersion"]) != old["metadata"]["resourceVersion"]:
                return 409, _status(409, "Conflict", "the object has been modified")
            return 200, self._write(resource, {**old, "status": body.get("status")} if sub == "status" else body)
        if method == "PATCH":
            assert old is not None
            if isinstance(body, dict) and (body.get("metadata") or {}).get("resourceVersion", old["metadata"]["resourceVersion"]) != old["metadata"]["resourceVersion"]:
                return 409, _status(409, "Conflict", "the object has been modified")
            return 200, self._write(resource, _merge(copy.deepcopy(old), body))
        return self._delete(resource, namespace, name, old, body or {}, query)

    def _delete(self, resource: kinds.Resource, namespace: str, name: str, old: Obj | None, options: Obj, query: dict[str, str]) -> tuple[int, Obj]:
        if old is None:
            for each in [o for o in self.all(resource, namespace) if _selected(o, query)]:
                self._delete(resource, each["metadata"].get("namespace", ""), each["metadata"]["name"], each, options, {})
            return 200, {"kind": resource.list_kind, "metadata": {}, "items": []}
        uid = (options.get("preconditions") or {}).get("uid")
        if uid and uid != old["metadata"]["uid"]:
            return 409, _status(409, "Conflict", "the UID in the precondition does not match")
        if old["metadata"].get("finalizers") or (old.get("spec") or {}).get("finalizers"):
            new = copy.deepcopy(old)
            new["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
            return 200, self._write(resource, new)
        return 200, self._remove(resource, namespace, name)

    async def _watch(self, send: Any, resource: kinds.Resource, namespace: str, query: dict[str, str]) -> None:
        after = int(query.get("resourceVersion") or self.revision)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
        cut = asyncio.Event()
        self.cuts.append(cut)
        if after < self.compacted:
            line = json.dumps({"type": "ERROR", "object": _status(410, "Expired", "too old resource version")}).encode() + b"\n"
            await send({"type": "http.response.body", "body": line})
            return
        waiter = asyncio.ensure_future(cut.wait())
        while not cut.is_set():
            lines = []
            for revision, kind, group_resource, obj, old in self.history:
                if revision <= after or group_resource != resource.group_resource or (namespace and obj["metadata"].get("namespace") != namespace):
                    continue
                was, is_ = old is not None and _selected(old, query), kind != "DELETED" and _selected(obj, query)
                if was or is_:
                    seen = ("MODIFIED" if was else "ADDED") if is_ else "DELETED"
                    lines.append(json.dumps({"type": seen, "object": obj}).encode() + b"\n")
            after = max(after, self.revision)
            lines.append(json.dumps({"type": "BOOKMARK", "object": {"kind": resource.kind, "apiVersion": resource.api_version, "metadata": {"resourceVersion": str(after)}}}).encode() + b"\n")
            await send({"type": "http.response.body", "body": b"".join(lines), "more_body": True})

            async def news() -> None:
                async with self.changed:
                    await self.changed.wait_for(lambda: self.revision > after)

            task = asyncio.ensure_future(news())
            try:
                await asyncio.wait({task, waiter}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                task.cancel()
        raise ConnectionAbortedError("watch cut by the test")


def _status(code: int, reason: str, message: str) -> Obj:
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": code, "reason": reason, "message": message}


def _parse(path: str) -> tuple[kinds.Resource, str, str, str] | None:
    parts = path.strip("/").split("/")
    if parts[0] == "api":
        group, version, rest = "", parts[1], parts[2:]
    else:
        group, version, rest = parts[1], parts[2], parts[3:]
    namespace = ""
    if rest[0] == "namespaces" and len(rest) > 2 and rest[2] not in ("status", "finalize"):
        namespace, rest = rest[1], rest[2:]
    resource = kinds.find(group, version, rest[0])
    return (resource, namespace, *([*rest[1:], "", ""][:2])) if resource else None  # type: ignore[return-value]


def _merge(doc: Any, patch: Any) -> Any:
    if not isinstance(patch, dict) or not isinstance(doc, dict):
        return patch
    for k, v in patch.items():
        if v is None:
            doc.pop(k, None)
        else:
            doc[k] = _merge(doc.get(k, {} if isinstance(v, dict) else None), v)
    return doc


def _selected(obj: Obj, query: dict[str, str]) -> bool:
    labels = obj["metadata"].get("labels") or {}
    for term in filter(None, query.get("labelSelector", "").split(",")):
        key, _, value = term.partition("=")
        if labels.get(key) != value.lstrip("="):
            return False
    for term in filter(None, query.get("fieldSelector", "").split(",")):
        path, _, value = term.partition("=")
        node: Any = obj
        for part in path.rstrip("!").split("."):
            node = (node or {}).get(part)
        if ((node or "") != value.lstrip("=")) != path.endswith("!"):
            return False
    return True
