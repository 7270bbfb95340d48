"""Who a request comes from, as a value, and the names Kubernetes reserves. Owns no credentials; authenticators make it, authorizers and the registry read it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

MASTERS = "system:masters"
AUTHENTICATED = "system:authenticated"
UNAUTHENTICATED = "system:unauthenticated"
ANONYMOUS = "system:anonymous"
NODES = "system:nodes"
NODE_PREFIX = "system:node:"
SERVICEACCOUNT_PREFIX = "system:serviceaccount:"
SERVICEACCOUNTS = "system:serviceaccounts"


@dataclass(frozen=True, slots=True)
class UserInfo:
    """authentication.k8s.io/v1 UserInfo: `groups` in the order the authenticator gave them."""

    name: str
    uid: str = ""
    groups: tuple[str, ...] = ()
    extra: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def to_dict(self) -> dict:
        """The JSON shape of TokenReview.status.user and SelfSubjectReview.status.userInfo: empty fields left out."""
        out: dict = {"username": self.name}
        if self.uid:
            out["uid"] = self.uid
        if self.groups:
            out["groups"] = list(self.groups)
        if self.extra:
            out["extra"] = {key: list(values) for key, values in self.extra.items()}
        return out


def anonymous() -> UserInfo:
    return UserInfo(ANONYMOUS, groups=(UNAUTHENTICATED,))


def serviceaccount_name(namespace: str, name: str) -> str:
    return f"{SERVICEACCOUNT_PREFIX}{namespace}:{name}"


def serviceaccount_groups(namespace: str) -> tuple[str, ...]:
    return (SERVICEACCOUNTS, f"{SERVICEACCOUNTS}:{namespace}", AUTHENTICATED)


def parse_serviceaccount(user_name: str) -> tuple[str, str] | None:
    """(namespace, name) of `system:serviceaccount:<namespace>:<name>`, else None."""
    if not user_name.startswith(SERVICEACCOUNT_PREFIX):
        return None
    namespace, _, name = user_name[len(SERVICEACCOUNT_PREFIX) :].partition(":")
    return (namespace, name) if namespace and name else None


def node_name(user: UserInfo) -> str:
    """The node a node identity (`system:node:<name>` in group system:nodes) stands for, else ""."""
    if user.name.startswith(NODE_PREFIX) and NODES in user.groups:
        return user.name[len(NODE_PREFIX) :]
    return ""
