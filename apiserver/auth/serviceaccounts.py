"""ServiceAccount tokens: issued bound to an account and perhaps a pod, node or secret, verified against what still exists. Owns the claims' meaning (Kubernetes' own
names); signing is jwt.py's. The registry issues through `Issuer.issue`, the authenticator verifies through `Issuer.authenticate`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from apiserver.api import kinds
from apiserver.auth import jwt
from apiserver.auth.user import UserInfo, serviceaccount_groups, serviceaccount_name

_BOUND = {"Pod": ("pod", kinds.PODS), "Node": ("node", kinds.NODES), "Secret": ("secret", kinds.SECRETS)}
_CACHED_TOKENS = 4096


class Objects(Protocol):
    """What is asked of the watch cache."""

    def get(self, key: str) -> Any: ...


class Issuer:
    """`now` gives Unix seconds, `new_id` the jti. `audiences`: those the API server answers to; the first is what a request without audiences gets."""

    def __init__(
        self, key: jwt.SigningKey, issuer: str, objects: Objects, *, now: Callable[[], float], new_id: Callable[[], str], audiences: Sequence[str] = (),
    ) -> None:
        self.key, self.issuer, self._objects, self._now, self._new_id = key, issuer, objects, now, new_id
        self.audiences = tuple(audiences) or (issuer,)
        self._verified: dict[str, dict[str, Any]] = {}

    def issue(  # noqa: PLR0917 (the registry's IssueToken)
        self, namespace: str, name: str, uid: str, audiences: Sequence[str], expiration_seconds: int, bound: Mapping[str, Any] | None = None,
    ) -> tuple[str, float]:
        """(token, expiry in Unix seconds). `bound` is an object reference {kind, name, uid}; registry.context.IssueToken's shape."""
        issued = int(self._now())
        expires = issued + expiration_seconds
        private: dict[str, Any] = {"namespace": namespace, "serviceaccount": {"name": name, "uid": uid}}
        if bound and bound.get("kind") in _BOUND:
            claim, _ = _BOUND[bound["kind"]]
            private[claim] = {"name": bound.get("name", ""), "uid": bound.get("uid", "")}
            if claim == "pod":
                private.update(self._node_of(namespace, bound.get("name", "")))
        claims = {
            "aud": list(audiences) or list(self.audiences), "exp": expires, "iat": issued, "nbf": issued, "iss": self.issuer, "jti": self._new_id(),
            "kubernetes.io": private, "sub": serviceaccount_name(namespace, name),
        }  # fmt: skip
        return self.key.sign(claims), float(expires)

    def _node_of(self, namespace: str, pod: str) -> dict[str, Any]:
        entry = self._objects.get(kinds.PODS.key(namespace, pod))
        node = entry.fields["spec.nodeName"] if entry is not None else ""
        if not node:
            return {}
        found = self._objects.get(kinds.NODES.key("", node))
        return {"node": {"name": node, "uid": found.obj["metadata"].get("uid", "")} if found is not None else {"name": node}}

    def authenticate(self, token: str, audiences: Sequence[str] = ()) -> tuple[UserInfo, list[str]]:
        """The account and the audiences (of those asked for; default the server's own) the token is good for. Raises jwt.InvalidToken with the reason."""
        claims = self._claims(token)
        now, wanted = self._now(), audiences or self.audiences
        if not _number(claims.get("exp")) > now:
            raise jwt.InvalidToken("token has expired")
        if _number(claims.get("nbf", 0)) > now + 60:
            raise jwt.InvalidToken("token is not valid yet")
        given = claims.get("aud") or []
        good = [audience for audience in wanted if audience in (given if isinstance(given, list) else [given])]
        if not good:
            raise jwt.InvalidToken(f"token audiences {given} are not among {list(wanted)}")
        return self._account(claims), good

    def _claims(self, token: str) -> dict[str, Any]:
        claims = self._verified.get(token)
        if claims is None:
            claims = self.key.verify(token)
            if claims.get("iss") != self.issuer:
                raise jwt.InvalidToken("token is from another issuer")
            if len(self._verified) >= _CACHED_TOKENS:
                self._verified.clear()
            self._verified[token] = claims
        return claims

    def _account(self, claims: dict[str, Any]) -> UserInfo:
        private = claims.get("kubernetes.io")
        account = private.get("serviceaccount") if isinstance(private, dict) else None
        if not isinstance(private, dict) or not isinstance(account, dict):
            raise jwt.InvalidToken("token has no kubernetes.io claims")
        namespace, name, uid = str(private.get("namespace", "")), str(account.get("name", "")), str(account.get("uid", ""))
        self._exists(kinds.SERVICEACCOUNTS, namespace, name, uid)
        extra = {"authentication.kubernetes.io/credential-id": (f"JTI={claims.get('jti', '')}",)}
        for claim, resource in _BOUND.values():
            bound = private.get(claim)
            if not isinstance(bound, dict):
                continue
            if claim != "node" or "pod" not in private:
                self._exists(resource, namespace, str(bound.get("name", "")), str(bound.get("uid", "")))
            if claim != "secret":
                extra[f"authentication.kubernetes.io/{claim}-name"] = (str(bound.get("name", "")),)
                extra[f"authentication.kubernetes.io/{claim}-uid"] = (str(bound.get("uid", "")),)
        return UserInfo(serviceaccount_name(namespace, name), uid, serviceaccount_groups(namespace), extra)

    def _exists(self, resource: kinds.Resource, namespace: str, name: str, uid: str) -> None:
        entry = self._objects.get(resource.key(namespace, name))
        if entry is None or entry.obj["metadata"].get("uid") != uid:
            raise jwt.InvalidToken(f"{resource.singular} {namespace + '/' if resource.namespaced else ''}{name} of the token no longer exists")


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else 0.0
