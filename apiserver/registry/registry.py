"""What every verb means for every kind. Owns the order of things (read, prepare, default, admit, validate, compare-and-swap, answer); what differs from kind to kind
is in the strategies, what a subresource means in subresources, when a delete is final in deletion. Knows nothing of HTTP: REST calls it with decoded objects and sends the
bytes it returns, which are complete JSON documents with resourceVersion. Lists and watches are not here: REST reads them from the watch cache.
"""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Callable
from typing import Any

from apiserver.api import kinds
from apiserver.registry.context import Admission, Config, IssueToken, Object, RequestContext
from apiserver.store import base


class Registry:
    """Every method raises apiserver.api.errors only; store errors are translated here (Unavailable → 503, compacted → 410)."""

    def __init__(
        self, store: base.Store, cache: Any, admission: Admission, config: Config, *,
        now: Callable[[], float] = time.time, uid: Callable[[], str] = lambda: str(uuid.uuid4()), rng: random.Random | None = None, issue_token: IssueToken | None = None,
    ) -> None:
        raise NotImplementedError

    async def get(self, ctx: RequestContext, resource: kinds.Resource, namespace: str, name: str, subresource: str = "") -> bytes:
        """One object, consistently (from the store). subresource: "", "status" or "scale". Raises NotFound."""
        raise NotImplementedError

    async def create(self, ctx: RequestContext, resource: kinds.Resource, namespace: str, obj: Object) -> bytes:
        """POST on the collection; `obj` is taken over (and changed in place). pods' `bindings` collection is create(BINDINGS, …). Raises AlreadyExists, Invalid, Forbidden, BadRequest."""
        raise NotImplementedError

    async def create_subresource(self, ctx: RequestContext, resource: kinds.Resource, namespace: str, name: str, subresource: str, obj: Object) -> bytes:
        """POST on pods/binding, pods/eviction, serviceaccounts/token. Answers a Status (201) for the first two, the TokenRequest for the last."""
        raise NotImplementedError

    async def update(self, ctx: RequestContext, resource: kinds.Resource, namespace: str, name: str, obj: Object, subresource: str = "") -> bytes:
        """PUT. subresource: "", status, scale, finalize, ephemeralcontainers, resize, approval. Creates where Kubernetes lets PUT create (then ctx.created is True). Raises
        NotFound, Conflict, Invalid, Forbidden, BadRequest."""
        raise NotImplementedError

    async def patch(
        self, ctx: RequestContext, resource: kinds.Resource, namespace: str, name: str, patch_type: str, patch: Any, subresource: str = "",
    ) -> tuple[bytes, bool]:
        """PATCH; `patch_type` is the media type ("application/json-patch+json", "application/merge-patch+json", "application/strategic-merge-patch+json",
        "application/apply-patch+yaml"), `patch` the decoded body. Answers (document, created)."""
        raise NotImplementedError

    async def delete(self, ctx: RequestContext, resource: kinds.Resource, namespace: str, name: str, options: Object) -> tuple[bytes, bool]:
        """DELETE with decoded DeleteOptions ({} = none; `dryRun: [All]` there counts like ctx.dry_run). Answers (document, finished): a Status of success or, for kinds where
        Kubernetes does so, the deleted object; finished False = still being deleted (grace, finalizers), the document is then the object."""
        raise NotImplementedError

    async def delete_collection(
        self, ctx: RequestContext, resource: kinds.Resource, namespace: str, options: Object, *, label_selector: str = "", field_selector: str = "",
    ) -> bytes:
        """DELETE on the collection: each object as delete() would. Answers the List of what was found."""
        raise NotImplementedError
