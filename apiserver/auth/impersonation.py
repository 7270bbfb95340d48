"""Acting as somebody else (`kubectl --as`): the Impersonate-* headers taken apart, and what a user must be allowed to use them. Pure. REST asks once per request, authorizes every
one of `attributes`, and goes on as `user`.

Source: Kubernetes' "Authenticating", section "User impersonation".
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import unquote

from apiserver.api import errors
from apiserver.auth import user
from apiserver.auth.attributes import Attributes
from apiserver.auth.user import UserInfo

_PREFIX = b"impersonate-"
_EXTRA = "extra-"
_REVIEW_GROUP = "authentication.k8s.io"


@dataclass(frozen=True, slots=True)
class Impersonation:
    """`user`: who the request is to act as. `attributes`: all that the requester must be allowed."""

    user: UserInfo
    attributes: tuple[Attributes, ...]


def parse(requester: UserInfo, headers: Iterable[tuple[bytes, bytes]]) -> Impersonation | None:
    """What the headers of an ASGI scope ask for, None without any. Raises BadRequest for groups, uid or extra without a user."""
    found = [(name[len(_PREFIX) :].decode("latin-1"), value.decode("latin-1")) for name, value in headers if name.startswith(_PREFIX)]
    if not found:
        return None
    name = next((value for header, value in found if header == "user"), "")
    uid = next((value for header, value in found if header == "uid"), "")
    groups = [value for header, value in found if header == "group"]
    extra: dict[str, list[str]] = {}
    for header, value in found:
        if header.startswith(_EXTRA):
            extra.setdefault(unquote(header[len(_EXTRA) :]), []).append(value)
    if not name:
        raise errors.BadRequest("Impersonate-Group, Impersonate-Uid and Impersonate-Extra need an Impersonate-User: whom to act as is not said")
    wanted = UserInfo(name, uid, _groups(name, groups), extra)
    return Impersonation(wanted, tuple(_needed(requester, wanted, groups)))


def _groups(name: str, groups: list[str]) -> tuple[str, ...]:
    """The groups given, with those that every such user is in."""
    account = user.parse_serviceaccount(name)
    if account is not None and not groups:
        return user.serviceaccount_groups(account[0])
    everybody = user.UNAUTHENTICATED if name == user.ANONYMOUS else user.AUTHENTICATED
    if everybody in groups or user.UNAUTHENTICATED in groups:
        return tuple(groups)
    return (*groups, everybody)


def _needed(requester: UserInfo, wanted: UserInfo, groups: list[str]) -> Iterable[Attributes]:
    account = user.parse_serviceaccount(wanted.name)
    if account is not None:
        yield Attributes(requester, "impersonate", resource="serviceaccounts", namespace=account[0], name=account[1])
    else:
        yield Attributes(requester, "impersonate", resource="users", name=wanted.name)
    for group in groups:
        yield Attributes(requester, "impersonate", resource="groups", name=group)
    if wanted.uid:
        yield Attributes(requester, "impersonate", _REVIEW_GROUP, "uids", name=wanted.uid)
    for key, values in wanted.extra.items():
        for value in values:
            yield Attributes(requester, "impersonate", _REVIEW_GROUP, "userextras", key, name=value)
