"""What is to be authorized, as values: who, which verb, on what; and the answer. Pure; the words of refusals are Kubernetes' own. REST and the access reviews make
Attributes, authorizers answer with a Decision."""

from __future__ import annotations

from dataclasses import dataclass

from apiserver.auth.user import UserInfo


@dataclass(frozen=True, slots=True)
class Attributes:
    """A request on a resource (`path` empty) or on a path (`resource` empty). `verb` in lower case: get list watch create update patch delete deletecollection, or the
    HTTP method for paths. `api_group` "" is core."""

    user: UserInfo
    verb: str
    api_group: str = ""
    resource: str = ""
    subresource: str = ""
    namespace: str = ""
    name: str = ""
    path: str = ""

    @property
    def resource_path(self) -> str:
        """`pods/log`: as RBAC rules name it."""
        return f"{self.resource}/{self.subresource}" if self.subresource else self.resource


@dataclass(frozen=True, slots=True)
class Decision:
    """`reason` says which rule allowed, or why not (may be empty)."""

    allowed: bool
    reason: str = ""


NO_OPINION = Decision(False)


def forbidden_text(attributes: Attributes, reason: str = "") -> str:
    """`pods "x" is forbidden: User "jane" cannot get resource "pods" in API group "" in the namespace "default"`."""
    a = attributes
    tail = f": {reason}" if reason else ""
    if not a.resource:
        return f'forbidden: User "{a.user.name}" cannot {a.verb} path "{a.path}"{tail}'
    what = f"{a.resource}.{a.api_group}" if a.api_group else a.resource
    where = f'in the namespace "{a.namespace}"' if a.namespace else "at the cluster scope"
    subject = f'{what} "{a.name}"' if a.name else what
    return f'{subject} is forbidden: User "{a.user.name}" cannot {a.verb} resource "{a.resource_path}" in API group "{a.api_group}" {where}{tail}'
