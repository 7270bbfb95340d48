"""RBAC as pure evaluation: roles, bindings and one question. Owns the index from subject to rules and the matching of rules; reads nothing by itself (rolecache.py feeds it
from the watch cache). Deny is not expressible: without a matching rule there is no opinion.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from apiserver.api import errors, selectors
from apiserver.auth.attributes import NO_OPINION, Attributes, Decision
from apiserver.auth.user import UserInfo, parse_serviceaccount

Object = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Rule:
    """One PolicyRule; sets, because they are asked often."""

    verbs: frozenset[str]
    api_groups: frozenset[str] = frozenset()
    resources: frozenset[str] = frozenset()
    resource_names: frozenset[str] = frozenset()
    urls: tuple[str, ...] = ()

    @classmethod
    def parse(cls, rule: Object) -> Rule:
        """From a PolicyRule; anything that is not a list of strings there counts as empty."""
        verbs, groups, resources, names = (frozenset(_strings(rule.get(field))) for field in ("verbs", "apiGroups", "resources", "resourceNames"))
        return cls(verbs, groups, resources, names, tuple(_strings(rule.get("nonResourceURLs"))))

    def allows(self, a: Attributes) -> bool:
        if not ("*" in self.verbs or a.verb in self.verbs):
            return False
        if not a.resource:
            return any(url in ("*", a.path) or (url.endswith("*") and a.path.startswith(url[:-1])) for url in self.urls)
        if not ("*" in self.api_groups or a.api_group in self.api_groups):
            return False
        if not (a.resource_path in self.resources or "*" in self.resources or (a.subresource and f"*/{a.subresource}" in self.resources)):
            return False
        return not self.resource_names or (a.name != "" and a.name in self.resource_names)


@dataclass(frozen=True, slots=True)
class Grant:
    """The rules one binding gives to one subject, and how to say so."""

    rules: tuple[Rule, ...]
    raw: list[Object]
    reason: str


class Policy:
    """Built whole from the objects there are; immutable afterwards."""

    def __init__(self, cluster_roles: Iterable[Object], roles: Iterable[Object], cluster_bindings: Iterable[Object], bindings: Iterable[Object]) -> None:
        self._roles = {("", r["metadata"]["name"]): r for r in cluster_roles}
        self._cluster_role_objects = list(self._roles.values())
        self._roles |= {(r["metadata"]["namespace"], r["metadata"]["name"]): r for r in roles}
        self._rules: dict[tuple[str, str], tuple[tuple[Rule, ...], list[Object]]] = {}
        self._grants: dict[tuple[str, str, str], list[Grant]] = {}
        for binding in cluster_bindings:
            self._bind("", "ClusterRoleBinding", binding)
        for binding in bindings:
            self._bind(binding["metadata"]["namespace"], "RoleBinding", binding)

    def _bind(self, namespace: str, kind: str, binding: Object) -> None:
        ref = binding.get("roleRef") or {}
        role_namespace = namespace if ref.get("kind") == "Role" else ""
        rules, raw = self._rules_of((role_namespace, str(ref.get("name", ""))))
        name = binding["metadata"]["name"]
        shown = f"{name}/{namespace}" if namespace else name
        for subject in binding.get("subjects") or ():
            if not isinstance(subject, dict):
                continue
            subject_name = str(subject.get("name", ""))
            if subject.get("kind") == "ServiceAccount":
                subject_name = f"{subject.get('namespace') or namespace}:{subject_name}"
            reason = f'RBAC: allowed by {kind} "{shown}" of {ref.get("kind", "")} "{ref.get("name", "")}" to {subject.get("kind", "")} "{subject.get("name", "")}"'
            key = (str(subject.get("kind", "")), subject_name, namespace)
            self._grants.setdefault(key, []).append(Grant(rules, raw, reason))

    def _rules_of(self, key: tuple[str, str]) -> tuple[tuple[Rule, ...], list[Object]]:
        rules = self._rules.get(key)
        if rules is None:
            raw = self._raw_rules(key)
            rules = self._rules[key] = (tuple(Rule.parse(rule) for rule in raw), raw)
        return rules

    def _raw_rules(self, key: tuple[str, str]) -> list[Object]:
        """An aggregated ClusterRole has the rules of every ClusterRole its selectors match, beside its own."""
        role = self._roles.get(key)
        if role is None:
            return []
        found: list[Object] = [rule for rule in role.get("rules") or () if isinstance(rule, dict)]
        aggregation = role.get("aggregationRule")
        for selector in (aggregation.get("clusterRoleSelectors") or ()) if isinstance(aggregation, dict) and not key[0] else ():
            try:
                parsed = selectors.from_label_selector(selector)
            except errors.BadRequest:
                continue
            for other in self._cluster_role_objects:
                if other is not role and parsed.matches(other["metadata"].get("labels")):
                    found.extend(rule for rule in other.get("rules") or () if isinstance(rule, dict) and rule not in found)
        return found

    def _grants_of(self, user: UserInfo, namespace: str) -> Iterator[Grant]:
        account = parse_serviceaccount(user.name)
        subjects = [("User", user.name), *(("Group", group) for group in user.groups)]
        if account is not None:
            subjects.append(("ServiceAccount", f"{account[0]}:{account[1]}"))
        for scope in ("", namespace) if namespace else ("",):
            for kind, name in subjects:
                yield from self._grants.get((kind, name, scope), ())

    def authorize(self, a: Attributes) -> Decision:
        for grant in self._grants_of(a.user, a.namespace if a.resource else ""):
            if any(rule.allows(a) for rule in grant.rules):
                return Decision(True, grant.reason)
        return NO_OPINION

    def rules_for(self, user: UserInfo, namespace: str) -> list[Object]:
        """Every PolicyRule that holds for the user in a namespace, as written: what SelfSubjectRulesReview lists."""
        found: list[Object] = []
        for grant in self._grants_of(user, namespace):
            found.extend(rule for rule in grant.raw if rule not in found)
        return found


def _strings(value: object) -> list[str]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []
