"""THE routes table: every method on every kind of path, the verb it is authorized and counted as, and its handler. Owns dispatch only. app.py asks `find` for each request.

Resource paths have one of three shapes: a collection (/api/v1/namespaces/x/pods), an object (…/pods/y), a subresource (…/pods/y/log). A row names a subresource, or
`resource/subresource`, or a resource; the most specific row wins. Whether a resource has a verb or subresource at all is kinds' table's to say.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple

from apiserver.api import errors
from apiserver.rest import documents, logs, reading, reviews, streaming, watching, writing
from apiserver.rest.request import Request

Handler = Callable[[Request], Awaitable[None]]


class Route(NamedTuple):
    """`on`: "" for any resource, else the narrower name. `long_running`: not timed, ended at the server's stop."""

    verb: str
    on: str
    handler: Handler
    long_running: bool = False


COLLECTIONS = (
    Route("list", "", reading.list_),
    Route("watch", "", watching.watch, long_running=True),
    Route("create", "", writing.create),
    Route("deletecollection", "", writing.delete_collection),
    Route("create", "selfsubjectreviews.authentication.k8s.io", reviews.self_subject),
    Route("create", "tokenreviews.authentication.k8s.io", reviews.token),
    Route("create", "selfsubjectaccessreviews.authorization.k8s.io", reviews.self_subject_access),
    Route("create", "subjectaccessreviews.authorization.k8s.io", reviews.subject_access),
    Route("create", "localsubjectaccessreviews.authorization.k8s.io", reviews.subject_access),
    Route("create", "selfsubjectrulesreviews.authorization.k8s.io", reviews.self_subject_rules),
)
OBJECTS = (
    Route("get", "", reading.get),
    Route("watch", "", watching.watch, long_running=True),
    Route("update", "", writing.update),
    Route("patch", "", writing.patch),
    Route("delete", "", writing.delete),
)
SUBRESOURCES = (
    Route("get", "", reading.get),
    Route("get", "scale", reading.get_scale),
    Route("update", "", writing.update),
    Route("patch", "", writing.patch),
    Route("create", "binding", writing.create_subresource),
    Route("create", "eviction", writing.create_subresource),
    Route("create", "token", writing.create_subresource),
    Route("get", "log", logs.log, long_running=True),
    Route("get", "exec", streaming.connect, long_running=True),
    Route("create", "exec", streaming.connect, long_running=True),
    Route("get", "attach", streaming.connect, long_running=True),
    Route("create", "attach", streaming.connect, long_running=True),
    Route("get", "portforward", streaming.connect, long_running=True),
    Route("create", "portforward", streaming.connect, long_running=True),
    Route("get", "nodes/proxy", logs.node_proxy, long_running=True),
)
# Paths that name no resource: (prefix, whether everything below it too, handler). What is not here is FastAPI's (health.py) or not there.
DOCUMENTS = (
    ("/api", True, documents.discover),
    ("/apis", True, documents.discover),
    ("/openapi/v3", True, documents.openapi_v3),
    ("/openapi/v2", False, documents.openapi_v2),
)

_TABLES = {shape: {(route.verb, route.on): route for route in table} for shape, table in (("", COLLECTIONS), ("object", OBJECTS), ("sub", SUBRESOURCES))}


def find(request: Request) -> Route:
    """The route of a resource request. Raises NotFound, MethodNotAllowed."""
    target, verb = request.target, request.verb
    assert target is not None
    resource = target.resource
    if resource is None or target.malformed:
        raise errors.NotFound()
    if target.subresource:
        return _subresource(request)
    shape = "object" if target.name else ""
    table = _TABLES[shape]
    route = table.get((verb, resource.group_resource)) or table.get((verb, ""))
    if route is None or verb not in resource.verbs:
        raise errors.MethodNotAllowed()
    if not shape and resource.namespaced and not target.namespace and verb in ("create", "deletecollection"):
        if verb == "create" and resource.group != "authorization.k8s.io":
            raise errors.MethodNotAllowed("the server does not allow this method on the requested resource: a namespace is needed to create")
        raise errors.MethodNotAllowed()
    return route


def _subresource(request: Request) -> Route:
    target = request.target
    assert target is not None
    assert target.resource is not None
    sub = target.resource.subresource(target.subresource)
    if sub is None:
        raise errors.NotFound()
    table = _TABLES["sub"]
    route = table.get((request.verb, f"{target.plural}/{sub.name}")) or table.get((request.verb, sub.name))
    if route is None and sub.name != "proxy":
        route = table.get((request.verb, ""))
    allowed = request.verb in sub.verbs or (request.verb == "get" and "update" in sub.verbs and sub.name != "finalize")
    if route is None or not allowed:
        raise errors.MethodNotAllowed()
    return route


def find_document(path: str) -> Handler | None:
    """The handler of a path that names no resource."""
    for prefix, below, handler in DOCUMENTS:
        if path == prefix or (path.startswith(prefix + "/") and (below or path == prefix + "/")):
            return handler
    return None
