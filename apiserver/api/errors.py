"""Every error the API answers with, as one tree, and its mapping to and from Kubernetes' Status. The registry, REST and the client raise these; nothing here logs.

ApiError ─ BadRequest 400 · Unauthorized 401 · Forbidden 403 · NotFound 404 · MethodNotAllowed 405 · NotAcceptable 406
         ─ AlreadyExists 409 · Conflict 409 · Gone 410 ─ Expired 410 · RequestEntityTooLarge 413 · UnsupportedMediaType 415
         ─ Invalid 422 · Unprocessable 422 · TooManyRequests 429 · InternalError 500 · Unavailable 503 · Timeout 504
Texts follow Kubernetes' own (`pods "x" not found`), because clients and people match on them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from apiserver.api.kinds import Resource

JSON = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Cause:
    """One wrong field: its path (`spec.containers[0].image`), Kubernetes' reason (`FieldValueRequired`) and the text after the path (`Required value`)."""

    field: str
    reason: str
    message: str

    def __str__(self) -> str:
        return f"{self.field}: {self.message}" if self.field else self.message

    def to_dict(self) -> JSON:
        return {"reason": self.reason, "message": self.message, "field": self.field}


class ApiError(Exception):
    """Root. `code` is the HTTP status, `reason` the Status reason, `details` the Status details (may be empty)."""

    code: int = 500
    reason: str = ""
    default_message: ClassVar[str] = "unknown error"

    def __init__(self, message: str = "", details: JSON | None = None) -> None:
        super().__init__(message or self.default_message)
        self.message: str = message or self.default_message
        self.details: JSON = details or {}


class BadRequest(ApiError):
    code, reason = 400, "BadRequest"


class Unauthorized(ApiError):
    code, reason = 401, "Unauthorized"
    default_message = "Unauthorized"


class Forbidden(ApiError):
    """`message` is the whole text; `Forbidden.to(resource, name, why)` builds Kubernetes' usual one."""

    code, reason = 403, "Forbidden"
    default_message = "forbidden"

    @classmethod
    def to(cls, resource: Resource | str, name: str, why: str) -> Forbidden:
        return cls(f'{_resource_text(resource)} "{name}" is forbidden: {why}', _details(resource, name))


class NotFound(ApiError):
    """An object that is not there; without a name, a resource that is not served."""

    code, reason = 404, "NotFound"
    default_message = "the server could not find the requested resource"

    def __init__(self, resource: Resource | str = "", name: str = "") -> None:
        super().__init__(f'{_resource_text(resource)} "{name}" not found' if resource else "", _details(resource, name) if resource else None)


class MethodNotAllowed(ApiError):
    code, reason = 405, "MethodNotAllowed"
    default_message = "the server does not allow this method on the requested resource"


class NotAcceptable(ApiError):
    """Takes the media types that would have been accepted."""

    code, reason = 406, "NotAcceptable"

    def __init__(self, accepted: Iterable[str] = ("application/json",)) -> None:
        super().__init__(f"only the following media types are accepted: {', '.join(accepted)}")


class AlreadyExists(ApiError):
    code, reason = 409, "AlreadyExists"

    def __init__(self, resource: Resource | str, name: str) -> None:
        super().__init__(f'{_resource_text(resource)} "{name}" already exists', _details(resource, name))


class Conflict(ApiError):
    """A lost compare-and-swap, a failed precondition, or a field another manager owns."""

    code, reason = 409, "Conflict"
    MODIFIED = "the object has been modified; please apply your changes to the latest version and try again"

    def __init__(self, resource: Resource | str, name: str, message: str = MODIFIED, causes: Sequence[Cause] = ()) -> None:
        details = _details(resource, name)
        if causes:
            details["causes"] = [cause.to_dict() for cause in causes]
        super().__init__(f'Operation cannot be fulfilled on {_resource_text(resource)} "{name}": {message}', details)


class Gone(ApiError):
    code, reason = 410, "Gone"


class Expired(Gone):
    """A resourceVersion or continue token that was compacted away: the client must list again."""

    reason = "Expired"
    default_message = "The resourceVersion for the provided watch is too old."


class RequestEntityTooLarge(ApiError):
    code, reason = 413, "RequestEntityTooLarge"

    def __init__(self, limit_bytes: int = 3 * 1024 * 1024, *, why: str = "") -> None:
        super().__init__(f"Request entity too large: {why or f'limit is {limit_bytes}'}")


class UnsupportedMediaType(ApiError):
    """Takes the media types that would have been accepted."""

    code, reason = 415, "UnsupportedMediaType"

    def __init__(self, accepted: Iterable[str] = ("application/json", "application/yaml", "application/vnd.kubernetes.protobuf")) -> None:
        super().__init__(f"the body of the request was in an unknown format - accepted media types include: {', '.join(accepted)}")


class Unprocessable(ApiError):
    """A patch that does not fit the document."""

    code, reason = 422, "Invalid"


class Invalid(ApiError):
    """Validation failed: `Pod "x" is invalid: spec.containers: Required value`, every cause in details.causes."""

    code, reason = 422, "Invalid"

    def __init__(self, group: str, kind: str, name: str, causes: Sequence[Cause]) -> None:
        causes = list(dict.fromkeys(causes))
        texts = [str(cause) for cause in causes]
        listed = texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"
        qualified = f"{kind}.{group}" if group else kind
        details: JSON = {"name": name, "kind": kind, "causes": [cause.to_dict() for cause in causes]}
        if group:
            details["group"] = group
        super().__init__(f'{qualified} "{name}" is invalid: {listed}', {k: v for k, v in details.items() if v})
        self.causes = tuple(causes)


class TooManyRequests(ApiError):
    """`retry_after_s` goes out as details.retryAfterSeconds and, by REST, as the Retry-After header."""

    code, reason = 429, "TooManyRequests"
    default_message = "Too many requests, please try again later."

    def __init__(self, message: str = "", retry_after_s: int = 1, causes: Sequence[Cause] = ()) -> None:
        details: JSON = {"retryAfterSeconds": retry_after_s} if retry_after_s else {}
        if causes:
            details["causes"] = [cause.to_dict() for cause in causes]
        super().__init__(message, details)
        self.retry_after_s = retry_after_s


class InternalError(ApiError):
    code, reason = 500, "InternalError"

    def __init__(self, cause: str = "unexpected error") -> None:
        super().__init__(f"Internal error occurred: {cause}", {"causes": [{"message": cause}]})


class Unavailable(ApiError):
    code, reason = 503, "ServiceUnavailable"
    default_message = "The server is currently unable to handle the request"


class Timeout(ApiError):
    code, reason = 504, "Timeout"
    default_message = "Timeout: request did not complete within the allotted timeout"


_BY_REASON: dict[str, type[ApiError]] = {
    cls.reason: cls
    for cls in (
        BadRequest, Unauthorized, Forbidden, NotFound, MethodNotAllowed, NotAcceptable, AlreadyExists, Conflict, Gone, Expired, RequestEntityTooLarge,
        UnsupportedMediaType, Invalid, TooManyRequests, InternalError, Unavailable, Timeout,
    )
}
_BY_CODE: dict[int, type[ApiError]] = {
    400: BadRequest, 401: Unauthorized, 403: Forbidden, 404: NotFound, 405: MethodNotAllowed, 406: NotAcceptable, 409: Conflict, 410: Gone,
    413: RequestEntityTooLarge, 415: UnsupportedMediaType, 422: Invalid, 429: TooManyRequests, 500: InternalError, 503: Unavailable, 504: Timeout,
}


def to_status(err: ApiError) -> JSON:
    """The Status object of an error, as it goes over the wire."""
    status: JSON = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": err.message}
    if err.reason:
        status["reason"] = err.reason
    if err.details:
        status["details"] = err.details
    status["code"] = err.code
    return status


def from_status(status: JSON) -> ApiError:
    """The error that a Status stands for, of the same class, code, reason, message and details. Anything unknown becomes ApiError itself."""
    reason, code = str(status.get("reason") or ""), int(status.get("code") or 500)
    cls = _BY_REASON.get(reason) or _BY_CODE.get(code) or ApiError
    err = cls.__new__(cls)
    ApiError.__init__(err, str(status.get("message") or reason or f"HTTP {code}"), dict(status.get("details") or {}))
    err.code = code
    if reason:
        err.reason = reason
    if isinstance(err, Invalid):
        err.causes = tuple(Cause(c.get("field", ""), c.get("reason", ""), c.get("message", "")) for c in err.details.get("causes") or ())
    if isinstance(err, TooManyRequests):
        err.retry_after_s = int(err.details.get("retryAfterSeconds") or 0)
    return err


def success(details: JSON | None = None) -> JSON:
    """The Status that answers a finished DELETE."""
    status: JSON = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}
    if details:
        status["details"] = details
    return status


def _resource_text(resource: Resource | str) -> str:
    return resource if isinstance(resource, str) else resource.group_resource


def _details(resource: Resource | str, name: str) -> JSON:
    """StatusDetails; Kubernetes puts the plural (not the kind) into `kind` here."""
    plural, _, group = _resource_text(resource).partition(".")
    return {key: value for key, value in (("name", name), ("group", group), ("kind", plural)) if value}
