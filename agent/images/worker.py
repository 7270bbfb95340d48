"""`python -m agent.images.worker`: one pull or import in a process of its own, so that the agent's loop, memory and descriptors are spared. One JSON request on stdin,
one JSON answer on stdout; then the layers are made safe on disk. Called by `puller` alone."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from typing import Any

from agent.images import fetch
from agent.images.model import Auth, Image, ImageError, ImagePullError, InvalidReference
from agent.images.registry import load_settings
from agent.images.store import ImageStore


def _serve(store: ImageStore, request: dict[str, Any]) -> dict[str, Any]:
    try:
        images: list[Image]
        if request["operation"] == "pull":
            auth = Auth(**request["auth"]) if request["auth"] else None
            images = [fetch.fetch(store, request["reference"], auth, load_settings(request["registries"]))]
        else:
            images = store.import_archive(request["path"], request["reference"])
        return {"images": [dataclasses.asdict(image) for image in images]}
    except ImageError as error:
        return {"error": {"type": type(error).__name__, "text": str(error), "retriable": error.retriable if isinstance(error, ImagePullError) else not isinstance(error, InvalidReference)}}
    except OSError as error:
        return {"error": {"type": "ImagePullError", "text": str(error), "retriable": True}}


def main() -> None:
    request = json.load(sys.stdin)
    store = ImageStore(request["root"])
    answer = _serve(store, request)
    try:
        sys.stdout.write(json.dumps(answer))
        sys.stdout.flush()
    except BrokenPipeError:
        pass  # whoever asked is gone; the image is here nevertheless
    os.close(1)
    if "images" in answer:
        store.layers.sync()
    os._exit(0)  # stdout is closed already; nothing else is to be flushed


if __name__ == "__main__":
    main()
