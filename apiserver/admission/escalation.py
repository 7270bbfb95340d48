"""RBAC escalation: nobody grants, by a role or a binding, what they do not have themselves, unless they hold the verb `escalate` (roles) or `bind` (bindings).
Owns the comparison of rules; who has which rules is asked of the injected `rules_for`. Source: kubernetes.io/docs/reference/access-authn-authz/rbac
("Privilege escalation prevention and bootstrapping").
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from itertools import product
from typing import Any

from apiserver.admission.request import Base, Object, Reader, Request
from apiserver.api import errors, kinds, selectors

MASTERS = "system:masters"
# (user, namespace or "") → every PolicyRule that holds for the user there
RulesFor = Callable[[Any, str], Awaitable[list[Object]]]
_ROLES = (kinds.ROLES, kinds.CLUSTERROLES)
_BINDINGS = (kinds.ROLEBINDINGS, kinds.CLUSTERROLEBINDINGS)


class Escalation(Base):
    def __init__(self, reader: Reader, rules_for: RulesFor) -> None:
        self.reader, self.rules_for = reader, rules_for

    def handles(self, resource: kinds.Resource, subresource: str, operation: str) -> bool:
        return not subresource and operation in {"CREATE", "UPDATE"} and resource in (*_ROLES, *_BINDINGS)

    async def validate(self, request: Request) -> None:
        obj = request.obj or {}
        if MASTERS in request.user.groups:
            return
        if request.resource in _ROLES:
            await self._role(request, obj)
        else:
            await self._binding(request, obj)

    async def _role(self, request: Request, obj: Object) -> None:
        old = request.old or {}
        if (obj.get("rules") or []) == (old.get("rules") or []) and obj.get("aggregationRule") == old.get("aggregationRule"):
            return
        held = await self.rules_for(request.user, request.namespace)
        if _may(held, "escalate", request.resource, request.name):
            return
        if obj.get("aggregationRule") and not covered(held, [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]):
            raise errors.Forbidden.to(request.resource, request.name, "must have cluster-admin privileges to use the aggregationRule")
        self._refuse_more(request, held, obj.get("rules") or [])

    async def _binding(self, request: Request, obj: Object) -> None:
        old, reference = request.old or {}, obj.get("roleRef") or {}
        if reference == old.get("roleRef") and (obj.get("subjects") or []) == (old.get("subjects") or []):
            return
        held = await self.rules_for(request.user, request.namespace)
        role_kind = kinds.ROLES if reference.get("kind") == "Role" else kinds.CLUSTERROLES
        name = str(reference.get("name", ""))
        if _may(held, "bind", role_kind, name):
            return
        role = await self.reader.read(role_kind, request.namespace, name)
        if role is None:
            raise errors.NotFound(role_kind, name)
        self._refuse_more(request, held, self._rules_of(role))

    def _rules_of(self, role: Object) -> list[Object]:
        """Its own rules and those of the ClusterRoles it aggregates."""
        rules = list(role.get("rules") or [])
        for selector in (role.get("aggregationRule") or {}).get("clusterRoleSelectors") or ():
            parsed = selectors.from_label_selector(selector)
            for other in self.reader.list_cached(kinds.CLUSTERROLES):
                if parsed.matches(other["metadata"].get("labels")):
                    rules += other.get("rules") or []
        return rules

    def _refuse_more(self, request: Request, held: list[Object], granted: list[Object]) -> None:
        missing = [rule for rule in granted if not covered(held, [rule])]
        if missing:
            groups = ",".join(f'"{group}"' for group in request.user.groups)
            listed = "\n".join(_text(rule) for rule in missing)
            why = f'user "{request.user.name}" (groups=[{groups}]) is attempting to grant RBAC permissions not currently held:\n{listed}'
            raise errors.Forbidden.to(request.resource, request.name, why)


def covered(held: list[Object], granted: list[Object]) -> bool:
    """Whether every single thing that `granted` allows is allowed by one of the rules held."""
    return all(any(_covers(rule, single) for rule in held) for rule in granted for single in _singles(rule))


def _singles(rule: Object) -> Iterator[Object]:
    """A rule as rules of one verb on one thing each."""
    names = rule.get("resourceNames") or []
    for group, resource, verb in product(rule.get("apiGroups") or (), rule.get("resources") or (), rule.get("verbs") or ()):
        for name in names or [None]:
            yield {"apiGroups": [group], "resources": [resource], "verbs": [verb], "resourceNames": [name] if name is not None else []}
    for url, verb in product(rule.get("nonResourceURLs") or (), rule.get("verbs") or ()):
        yield {"nonResourceURLs": [url], "verbs": [verb]}


def _covers(rule: Object, single: Object) -> bool:
    if not _has(rule.get("verbs"), single["verbs"][0]):
        return False
    if "nonResourceURLs" in single:
        url = single["nonResourceURLs"][0]
        return any(have in {"*", url} or (have.endswith("*") and url.startswith(have[:-1])) for have in rule.get("nonResourceURLs") or ())
    names, wanted = rule.get("resourceNames") or [], single["resourceNames"]
    if names and not (wanted and wanted[0] in names):
        return False
    return _has(rule.get("apiGroups"), single["apiGroups"][0]) and _has_resource(rule.get("resources"), single["resources"][0])


def _has(have: list[str] | None, want: str) -> bool:
    return "*" in (have or ()) or want in (have or ())


def _has_resource(have: list[str] | None, want: str) -> bool:
    """`*/scale` has every resource's subresource scale."""
    _, slash, subresource = want.partition("/")
    return _has(have, want) or (bool(slash) and f"*/{subresource}" in (have or ()))


def _may(held: list[Object], verb: str, resource: kinds.Resource, name: str) -> bool:
    single = {"apiGroups": [resource.group], "resources": [resource.plural], "verbs": [verb], "resourceNames": [name]}
    return any(_covers(rule, single) for rule in held)


def _text(rule: Object) -> str:
    """A rule as Kubernetes prints it in this message."""
    words = {"apiGroups": "APIGroups", "resources": "Resources", "resourceNames": "ResourceNames", "nonResourceURLs": "NonResourceURLs", "verbs": "Verbs"}
    parts = [f"{word}:[{', '.join(chr(34) + text + chr(34) for text in rule[field])}]" for field, word in words.items() if rule.get(field)]
    return "{" + ", ".join(parts) + "}"
