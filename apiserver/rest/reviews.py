"""Questions about identity and permission, answered and never stored: SelfSubjectReview, TokenReview, SelfSubjectAccessReview, SubjectAccessReview,
LocalSubjectAccessReview, SelfSubjectRulesReview. Owns their bodies; the answers are auth's. `kubectl auth can-i`, `whoami`, dashboards and node servers ask."""

from __future__ import annotations

from typing import Any

from apiserver.api import errors, timestamps
from apiserver.auth import user
from apiserver.auth.attributes import Attributes
from apiserver.auth.jwt import InvalidToken
from apiserver.auth.user import UserInfo
from apiserver.rest import bodies, respond
from apiserver.rest.request import Request

Object = dict[str, Any]
_ALL = ["*"]


async def _read(request: Request) -> tuple[Object, Object]:
    """(body, its spec). Raises BadRequest."""
    resource = request.resource
    body = await bodies.read_object(request, resource, [])
    for field, want in (("apiVersion", resource.api_version), ("kind", resource.kind)):
        if body.setdefault(field, want) != want:
            raise errors.BadRequest(f"the {field} in the data ({body[field]}) does not match the expected {field} ({want})")
    metadata = body.setdefault("metadata", {}) or {}
    spec = body.setdefault("spec", {}) or {}
    if not isinstance(spec, dict) or not isinstance(metadata, dict):
        raise errors.BadRequest(f"{resource.kind}: metadata and spec must be objects")
    body["metadata"] = metadata | {"creationTimestamp": None}
    return body, spec


async def self_subject(request: Request) -> None:
    body, _ = await _read(request)
    body.pop("spec", None)
    body["metadata"] = {"creationTimestamp": timestamps.format_time(request.app.now())}
    body["status"] = {"userInfo": request.user.to_dict()}
    await respond.value(request, 201, body)


async def token(request: Request) -> None:
    body, spec = await _read(request)
    wanted = spec.get("audiences") or []
    if not spec.get("token"):
        raise _invalid(request, "spec.token", "FieldValueRequired", "Required value: token is required for TokenReview in authentication")
    try:
        who, audiences = request.app.authenticator.identify(str(spec["token"]), wanted)
        body["status"] = {"authenticated": True, "user": who.to_dict()} | ({"audiences": audiences} if audiences else {})
    except InvalidToken as err:
        body["status"] = {"authenticated": False, "user": {}, "error": f"[invalid bearer token, {err}]"}
    await respond.value(request, 201, body)


async def self_subject_access(request: Request) -> None:
    body, spec = await _read(request)
    await _answer_access(request, body, _attributes(request, request.user, spec))


async def subject_access(request: Request) -> None:
    """SubjectAccessReview, and LocalSubjectAccessReview, whose namespace must be the URL's."""
    body, spec = await _read(request)
    extra, groups = spec.get("extra") or {}, spec.get("groups") or []
    if not spec.get("user") and not groups:
        raise _invalid(request, "spec.user", "FieldValueRequired", "Required value: at least one of user or group must be specified")
    if not isinstance(extra, dict) or not isinstance(groups, list):
        raise errors.BadRequest(f"{request.resource.kind}: spec.groups must be a list and spec.extra an object")
    who = UserInfo(str(spec.get("user", "")), str(spec.get("uid", "")), tuple(str(group) for group in groups), extra)
    attributes = _attributes(request, who, spec)
    if request.namespace and attributes.namespace != request.namespace:
        raise errors.BadRequest(f"spec.resourceAttributes.namespace must match namespace: {request.namespace}")
    await _answer_access(request, body, attributes)


def _attributes(request: Request, who: UserInfo, spec: Object) -> Attributes:
    resource, path = spec.get("resourceAttributes"), spec.get("nonResourceAttributes")
    if bool(resource is not None) == bool(path is not None):
        why = "Invalid value: exactly one of nonResourceAttributes or resourceAttributes must be specified"
        raise _invalid(request, "spec.resourceAttributes", "FieldValueInvalid", why)
    given = resource if resource is not None else path
    if not isinstance(given, dict):
        raise errors.BadRequest(f"{request.resource.kind}: spec.resourceAttributes and spec.nonResourceAttributes must be objects")
    text = {key: value for key, value in given.items() if isinstance(value, str)}
    if resource is None:
        return Attributes(who, text.get("verb", ""), path=text.get("path", ""))
    return Attributes(
        who, text.get("verb", ""), text.get("group", ""), text.get("resource", "") or "*", text.get("subresource", ""), text.get("namespace", ""), text.get("name", ""),
    )  # fmt: skip


async def _answer_access(request: Request, body: Object, attributes: Attributes) -> None:
    decision = await request.app.authorizer.authorize(attributes)
    body["status"] = {"allowed": decision.allowed} | ({"reason": decision.reason} if decision.reason else {})
    await respond.value(request, 201, body)


async def self_subject_rules(request: Request) -> None:
    body, spec = await _read(request)
    namespace = str(spec.get("namespace") or "")
    if not namespace:
        raise errors.BadRequest("no namespace on request")
    resource_rules: list[Object] = []
    path_rules: list[Object] = []
    if user.MASTERS in request.user.groups:
        resource_rules.append({"verbs": _ALL, "apiGroups": _ALL, "resources": _ALL})
        path_rules.append({"verbs": _ALL, "nonResourceURLs": _ALL})
    for rule in (await request.app.authorizer.policy()).rules_for(request.user, namespace):
        if rule.get("nonResourceURLs"):
            path_rules.append({"verbs": rule.get("verbs") or [], "nonResourceURLs": rule["nonResourceURLs"]})
        else:
            resource_rules.append({key: rule[key] for key in ("verbs", "apiGroups", "resources", "resourceNames") if rule.get(key)})
    incomplete = bool(user.node_name(request.user))
    body["status"] = {"resourceRules": resource_rules, "nonResourceRules": path_rules, "incomplete": incomplete}
    if incomplete:
        body["status"]["evaluationError"] = "node authorizer does not support user rule resolution"
    await respond.value(request, 201, body)


def _invalid(request: Request, field: str, reason: str, message: str) -> errors.Invalid:
    return errors.Invalid(request.resource.group, request.resource.kind, "", [errors.Cause(field, reason, message)])
