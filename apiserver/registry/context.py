"""The values a call into the registry carries: who asks and how (RequestContext), what admission sees (AdmissionRequest), and the settings of one cluster (Config).

Nothing here acts. REST makes a RequestContext per request; apiserver/__main__ makes the Config; admission receives AdmissionRequests.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from apiserver.api import kinds

Object = dict[str, Any]
Operation = Literal["CREATE", "UPDATE", "DELETE", "CONNECT"]


class User(Protocol):
    """Whoever asks: apiserver.auth.user.UserInfo, or anything shaped like it."""

    @property
    def name(self) -> str: ...
    @property
    def uid(self) -> str: ...
    @property
    def groups(self) -> tuple[str, ...] | list[str]: ...
    @property
    def extra(self) -> Any: ...


@dataclass(slots=True)
class RequestContext:
    """One request. `field_validation` is Strict, Warn or Ignore (the query parameter fieldValidation; an empty one counts as Warn). The registry writes two fields
    back: `warnings` (texts for Warning headers) and `created` (a PUT or an apply made the object: answer 201)."""

    user: User
    field_manager: str = ""
    field_validation: str = "Warn"
    dry_run: bool = False
    force: bool = False
    warnings: list[str] = field(default_factory=list)
    created: bool = False


@dataclass(slots=True)
class AdmissionRequest:
    """What an admission plugin may look at and, in admit(), change: `obj` in place. `old` is None on CREATE, `obj` is None on DELETE. Both are whole objects also for
    the status subresource; for binding and eviction `obj` is the Binding or Eviction and `old` the Pod."""

    operation: Operation
    user: User
    resource: kinds.Resource
    subresource: str
    namespace: str
    name: str
    obj: Object | None
    old: Object | None
    dry_run: bool
    warnings: list[str]


class Admission(Protocol):
    """apiserver.admission.chain.Chain, seen from here. Raises errors.ApiError (mostly Forbidden) to refuse."""

    async def admit(self, request: AdmissionRequest) -> None:
        """Mutating plugins, after defaulting and before validation."""

    async def validate(self, request: AdmissionRequest) -> None:
        """Validating plugins, on what is about to be stored."""


# (namespace, service account name, its uid, audiences, expiration_seconds, bound_object {kind, apiVersion, name, uid} or None) -> (token, expiry in Unix seconds)
IssueToken = Callable[[str, str, str, list[str], int, Object | None], Awaitable[tuple[str, float]] | tuple[str, float]]


@dataclass(frozen=True, slots=True)
class Config:
    """One cluster's settings: CIDRs as text, ports inclusive, TTL in seconds."""

    service_cluster_ip_range: str = "10.43.0.0/16"
    node_port_range: tuple[int, int] = (30000, 32767)
    advertise_address: str = "127.0.0.1"
    advertise_port: int = 6443
    event_ttl_s: int = 3600
