"""May they: the one `authorize()` that every request passes. system:masters may all; nodes what nodes.py says; everybody what RBAC grants. REST and the access reviews
call it; it refuses by returning a Decision, never by raising."""

from __future__ import annotations

from apiserver.auth import user
from apiserver.auth.attributes import Attributes, Decision
from apiserver.auth.authenticator import is_open
from apiserver.auth.nodes import NodeAuthorizer
from apiserver.auth.rbac import Policy
from apiserver.auth.rolecache import RoleCache
from apiserver.store.cache import Cache

_MASTERS = Decision(True)
_OPEN = Decision(True, "open to everybody")


class Authorizer:
    def __init__(self, cache: Cache) -> None:
        self._roles = RoleCache(cache)
        self._nodes = NodeAuthorizer(cache)

    async def authorize(self, a: Attributes, *, field_node: str = "") -> Decision:
        """`field_node`: see NodeAuthorizer.authorize."""
        if user.MASTERS in a.user.groups:
            return _MASTERS
        if not a.resource and a.verb == "get" and is_open(a.path):
            return _OPEN
        node = user.node_name(a.user)
        decision = None
        if node:
            decision = self._nodes.authorize(node, a, field_node)
            if decision.allowed:
                return decision
        granted = (await self._roles.policy()).authorize(a)
        return granted if granted.allowed or decision is None else decision

    async def policy(self) -> Policy:
        return await self._roles.policy()
