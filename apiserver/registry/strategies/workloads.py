"""Jobs, secrets and other namespaced kinds with a small rule of their own."""

from __future__ import annotations

import base64

from apiserver.registry.context import Object, RequestContext
from apiserver.registry.strategies import strategy

_UID_LABELS = ("controller-uid", "batch.kubernetes.io/controller-uid")
_NAME_LABELS = ("job-name", "batch.kubernetes.io/job-name")


class JobStrategy(strategy.Strategy):
    """A Job without a manual selector selects its pods by its own uid."""

    def prepare_create(self, ctx: RequestContext, obj: Object, now: float) -> None:
        super().prepare_create(ctx, obj, now)
        spec = obj.get("spec")
        if not isinstance(spec, dict) or spec.get("manualSelector") or not isinstance(spec.get("template"), dict):
            return
        meta, uid = obj["metadata"], obj["metadata"]["uid"]
        template_meta = spec["template"].setdefault("metadata", {})
        labels = template_meta.get("labels") or {}
        template_meta["labels"] = {**labels, **dict.fromkeys(_UID_LABELS, uid), **dict.fromkeys(_NAME_LABELS, meta["name"])}
        selector = spec.get("selector") or {}
        spec["selector"] = {**selector, "matchLabels": {**(selector.get("matchLabels") or {}), _UID_LABELS[1]: uid}}


class SecretStrategy(strategy.Strategy):
    """stringData is write-only: it becomes data."""

    def prepare_create(self, ctx: RequestContext, obj: Object, now: float) -> None:
        super().prepare_create(ctx, obj, now)
        fold_string_data(obj)

    def prepare_update(self, new: Object, old: Object) -> None:
        super().prepare_update(new, old)
        fold_string_data(new)


def fold_string_data(obj: Object) -> None:
    texts = obj.pop("stringData", None)
    if texts:
        encoded = {key: base64.b64encode(str(text).encode()).decode() for key, text in texts.items()}
        obj["data"] = {**(obj.get("data") or {}), **encoded}
