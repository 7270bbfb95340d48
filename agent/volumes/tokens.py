"""ServiceAccount tokens for pods, asked for by TokenRequest, kept in memory, renewed at 80 % of their life or after a day (kubelet's rule). Called by volumes.Volumes."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from dataclasses import dataclass

from agent import podspec
from agent.volumes.payload import TokenSpec
from apiserver.api import kinds
from apiserver.client.client import Client

MAX_AGE_S = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Token:
    text: str
    issued_at: float
    expires_at: float

    @property
    def renew_at(self) -> float:
        return self.issued_at + min((self.expires_at - self.issued_at) * 0.8, MAX_AGE_S)


class Tokens:
    def __init__(self, client: Client, now: Callable[[], float]) -> None:
        self._client = client
        self._now = now
        self._held: dict[str, dict[TokenSpec, Token]] = {}

    async def get(self, pod: podspec.Pod, spec: TokenSpec) -> str:
        """A token bound to the pod, fresh enough. Raises ApiError, OSError; an older one that is still good is given rather than none."""
        held = self._held.setdefault(podspec.uid(pod), {})
        token = held.get(spec)
        if token is not None and self._now() < token.renew_at:
            return token.text
        try:
            token = held[spec] = await self._request(pod, spec)
        except Exception:
            if token is None or self._now() >= token.expires_at:
                raise
        return token.text

    def renew_at(self, pod_uid: str) -> float | None:
        """When the next token of the pod is due (Unix seconds)."""
        return min((t.renew_at for t in self._held.get(pod_uid, {}).values()), default=None)

    def forget(self, pod_uid: str) -> None:
        self._held.pop(pod_uid, None)

    async def _request(self, pod: podspec.Pod, spec: TokenSpec) -> Token:
        meta = pod["metadata"]
        body = {
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "spec": {
                **({"audiences": [spec.audience]} if spec.audience else {}), "expirationSeconds": spec.expiration_s,
                "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": meta["name"], "uid": meta["uid"]},
            },
        }  # fmt: skip
        account = pod["spec"].get("serviceAccountName") or "default"
        answer = await self._client.create(kinds.SERVICEACCOUNTS, body, meta.get("namespace", ""), name=account, subresource="token")
        status = answer["status"]
        expires = datetime.datetime.fromisoformat(status["expirationTimestamp"].replace("Z", "+00:00")).timestamp()
        return Token(status["token"], self._now(), expires)
