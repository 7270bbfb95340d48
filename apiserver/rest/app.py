"""The ASGI application: a FastAPI app that owns the routes people call by hand (health.py, /docs), with the Kubernetes API as plain ASGI in front of its router. Owns the way of
every request: authenticate, authorize, find the route, handle, count; and that no request ends without an answer."""

from __future__ import annotations

import asyncio
import logging
from time import perf_counter

from fastapi import FastAPI
from starlette.types import Receive, Scope, Send

from apiserver.api import errors
from apiserver.auth import impersonation
from apiserver.auth.attributes import Attributes, forbidden_text
from apiserver.auth.user import UserInfo
from apiserver.rest import health, respond, routes
from apiserver.rest.components import Components
from apiserver.rest.request import Message, Request
from apiserver.store import base

log = logging.getLogger("apiserver")
_NO_RESOURCE = ("", "", "")


class App(FastAPI):
    """Everything goes through `authenticate` and `authorize` first; then resource and document paths to the routes table, the rest to FastAPI's router."""

    def __init__(self, components: Components) -> None:
        super().__init__(title="minik", version=health.VERSION["gitVersion"], redoc_url=None, openapi_url="/openapi.json")
        self.components = components
        self.include_router(health.router(components))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        started = perf_counter()
        status = 0

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        request = Request(self.components, scope, receive, counted)
        long_running = False
        try:
            long_running = await self._serve(request)
        except Exception as err:  # noqa: BLE001 (the top of every request: nothing may get past)
            await self._fail(request, err, begun=status != 0)
        finally:
            target = request.target
            key = (request.verb, target.group, target.plural, target.subresource) if target is not None and target.resource is not None else (request.verb, *_NO_RESOURCE)
            self.components.metrics.count(key, status or 101, None if long_running else perf_counter() - started)

    async def _serve(self, request: Request) -> bool:
        """True for a long-running request. Raises ApiError."""
        components, scope = self.components, request.scope
        identity = scope.get("minik.user")
        if identity is None:
            connection = request.connection
            identity = components.authenticator.authenticate(request.path, scope["headers"], connection.peer if connection is not None else None)
        if any(name.startswith(b"impersonate-") for name, _ in scope["headers"]):
            identity = await self._impersonated(identity, scope)
        request.user = identity
        if "system:masters" not in identity.groups:
            await self._authorize(request)
        if request.target is None:
            await self._serve_path(request)
            return False
        route = routes.find(request)
        if not route.long_running:
            await route.handler(request)
            return False
        key = (request.verb, request.target.group, request.target.plural, request.target.subresource)
        components.metrics.long_running[key] += 1
        try:
            await route.handler(request)
        finally:
            components.metrics.long_running[key] -= 1
        return True

    async def _impersonated(self, requester: UserInfo, scope: Scope) -> UserInfo:
        """Whom the request acts as. Raises Forbidden, BadRequest."""
        wanted = impersonation.parse(requester, scope["headers"])
        if wanted is None:
            return requester
        for attributes in wanted.attributes:
            await self._demand(attributes)
        log.info("%s acts as %s: %s %s", requester.name, wanted.user.name, scope["method"], scope["path"])
        return wanted.user

    async def _authorize(self, request: Request) -> None:
        await self._demand(request.attributes(), request.field_node if request.verb in ("list", "watch") else "")

    async def _demand(self, attributes: Attributes, field_node: str = "") -> None:
        """Raises Forbidden."""
        decision = await self.components.authorizer.authorize(attributes, field_node=field_node)
        if not decision.allowed:
            details = {"name": attributes.name, "group": attributes.api_group, "kind": attributes.resource}
            raise errors.Forbidden(forbidden_text(attributes, decision.reason), {key: value for key, value in details.items() if value})

    async def _serve_path(self, request: Request) -> None:
        handler = routes.find_document(request.path)
        if handler is not None:
            if request.method not in ("GET", "HEAD"):
                raise errors.MethodNotAllowed()
            await handler(request)
            return
        await super().__call__(request.scope, request.receive, _StatusFor404(request.send))

    async def _fail(self, request: Request, err: Exception, *, begun: bool) -> None:
        """Turns whatever happened into a Status; once the answer has begun, into a broken connection."""
        if isinstance(err, errors.ApiError):
            answer = err
        elif isinstance(err, base.StoreUnavailable):
            answer = errors.Unavailable(f"the store does not answer: {err}")
        else:
            log.exception("%s %s failed", request.method, request.path)
            answer = errors.InternalError(f"{type(err).__name__}: {err}")
        if begun:
            connection = request.connection
            if connection is not None:
                connection.abort()
            log.warning("%s %s broke off: %s", request.method, request.path, answer.message)
            return
        if answer.code >= 500 and isinstance(err, errors.ApiError):
            log.warning("%s %s: %s", request.method, request.path, answer.message)
        try:
            await respond.failure(request.send, answer)
        except (OSError, RuntimeError, asyncio.IncompleteReadError) as gone:
            log.debug("%s %s: nobody to tell: %s", request.method, request.path, gone)


class _StatusFor404:
    """FastAPI's own 404 and 405 become Status objects: to a Kubernetes client every path is the API."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._swallow = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start" and message["status"] in (404, 405) and (b"content-type", b"application/json") in message["headers"]:
            self._swallow = True
            await respond.failure(self._send, errors.NotFound() if message["status"] == 404 else errors.MethodNotAllowed())
        elif not self._swallow:
            await self._send(message)
