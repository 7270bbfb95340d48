"""The whole API server below the socket: real store, cache, registry, admission and authorization, called as an ASGI app."""

from __future__ import annotations

import asyncio
import json
import random
from types import SimpleNamespace

import pytest

from apiserver.admission.chain import default_chain
from apiserver.auth.authenticator import Authenticator
from apiserver.auth.authorizer import Authorizer
from apiserver.auth.jwt import SigningKey
from apiserver.auth.serviceaccounts import Issuer
from apiserver.auth.user import UserInfo
from apiserver.registry.context import Config
from apiserver.registry.registry import Registry
from apiserver.registry.storage import Storage
from apiserver.rest.app import App
from apiserver.rest.components import Components
from apiserver.store.cache import Cache
from apiserver.store.sqlite import SqliteStore

ROOT = UserInfo("root", groups=("system:masters", "system:authenticated"))
DEADLINE_S = 20


class Answer:
    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    def json(self):
        return json.loads(self.body)

    @property
    def message(self):
        return self.json()["message"]


class Api:
    """`request` waits for the whole answer; `watch` gives a Stream."""

    def __init__(self, app, components, store):
        self.app, self.components, self.store, self.cache = app, components, store, components.cache

    def scope(self, method, target, headers, user):
        path, _, query = target.partition("?")
        pairs = [(name.lower().replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        scope = {"type": "http", "method": method, "path": path, "raw_path": path.encode(), "query_string": query.encode(), "headers": pairs, "scheme": "https",
                 "root_path": "", "http_version": "1.1", "asgi": {"version": "3.0"}, "server": ("127.0.0.1", 6443), "client": ("127.0.0.1", 1)}  # fmt: skip
        return scope | ({"minik.user": user} if user else {})

    async def request(self, method, target, body=None, *, user=ROOT, **headers):
        stream = Stream(self, method, target, body, user, headers)
        async with asyncio.timeout(DEADLINE_S):
            await stream.task
        return Answer(stream.status, stream.headers, b"".join(stream.chunks))

    async def create(self, path, obj, status=201):
        answer = await self.request("POST", path, obj)
        assert answer.status == status, answer.body
        return answer.json()

    def watch(self, target, *, user=ROOT, **headers):
        return Stream(self, "GET", target, None, user, headers)


class Stream:
    """One request's task; the lines of its answer as they come."""

    def __init__(self, api, method, target, body, user, headers):
        self.status, self.headers, self.chunks, self.lines = 0, {}, [], asyncio.Queue()
        data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        if body is not None:
            headers.setdefault("Content_Type", "application/json")
        sent = False
        self.gone = asyncio.Event()

        async def receive():
            nonlocal sent
            if not sent:
                sent = True
                return {"type": "http.request", "body": data, "more_body": False}
            await self.gone.wait()
            return {"type": "http.disconnect"}

        self.task = asyncio.ensure_future(api.app(api.scope(method, target, headers, user), receive, self._send))
        self.task.add_done_callback(lambda _: self.lines.put_nowait(None))

    async def _send(self, message):
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {name.decode(): value.decode() for name, value in message["headers"]}
            return
        self.chunks.append(message.get("body", b""))
        for line in message.get("body", b"").splitlines():
            self.lines.put_nowait(line)

    async def event(self):
        """(type, object), None at the end of the stream."""
        async with asyncio.timeout(DEADLINE_S):
            line = await self.lines.get()
        if line is None:
            return None
        event = json.loads(line)
        return event["type"], event["object"]

    async def events(self, count):
        """`count` events as (type, name)."""
        return [(kind, obj["metadata"]["name"]) for kind, obj in [await self.event() for _ in range(count)]]

    async def close(self):
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


@pytest.fixture
async def api(tmp_path):
    store = await SqliteStore.open(tmp_path / "state.db", progress_interval_s=0.1)
    cache = Cache(store)
    await cache.start()
    clock = SimpleNamespace(now=1_700_000_000.0)
    rng = random.Random(7)
    issuer = Issuer(SigningKey.generate(), "https://issuer", cache, now=lambda: clock.now, new_id=lambda: "id")
    authorizer = Authorizer(cache)

    async def rules_for(user, namespace):
        return (await authorizer.policy()).rules_for(user, namespace)

    admission = default_chain(Storage(store, cache), rng=rng, rules_for=rules_for)
    registry = Registry(store, cache, admission, Config(), now=lambda: clock.now, rng=rng, issue_token=issuer.issue)
    authenticator = Authenticator({"jane-token": UserInfo("jane", groups=("system:authenticated",))}, issuer, lambda: clock.now)
    components = Components(registry, cache, authenticator, authorizer, lambda: clock.now, rng, issuer, ready=True)
    api = Api(App(components), components, store)
    await api.create("/api/v1/namespaces", {"metadata": {"name": "a"}})
    await api.create("/api/v1/namespaces", {"metadata": {"name": "b"}})
    yield api
    components.stop()
    await cache.stop()
    await store.close()
