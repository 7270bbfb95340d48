"""Pulls and imports without holding up an event loop: each runs in a process of its own (`worker`), posix_spawned. The agent calls `pull` and `import_archive`."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from agent.images import model
from agent.images.model import Auth, Image, ImageConfig
from agent.images.store import ImageStore

_SOURCES = str(Path(__file__).resolve().parents[2])


async def pull(store: ImageStore, reference: str, auth: Auth | None = None, registries: str = "") -> Image:
    """Fetches, verifies, unpacks and records an image. Concurrent pulls share layers. `registries`: a file as `registry.load_settings` reads it, default `registries.json`
    beside the store's directory. Cancelling kills the pull; `ImageStore.collect` clears what it leaves. Raises InvalidReference, ImagePullError (the whole text is for the
    pod's event)."""
    request = {
        "operation": "pull",
        "reference": reference,
        "auth": dataclasses.asdict(auth) if auth else None,
        "registries": registries or str(store.root.parent / "registries.json"),
    }
    return (await _ask(store, request))[0]


async def import_archive(store: ImageStore, path: str | os.PathLike[str], reference: str = "") -> list[Image]:
    """`ImageStore.import_archive` in a process of its own."""
    return await _ask(store, {"operation": "import", "path": os.path.abspath(path), "reference": reference})


async def _ask(store: ImageStore, request: dict[str, Any]) -> list[Image]:
    raw = await _run_worker(json.dumps({**request, "root": str(store.root.absolute())}).encode())
    try:
        answer = json.loads(raw)
    except ValueError:
        raise model.ImagePullError("the image worker died: see the agent's log") from None
    if "error" in answer:
        error = answer["error"]
        if error["type"] == "ImagePullError":
            raise model.ImagePullError(error["text"], retriable=error["retriable"])
        raise getattr(model, error["type"], model.ImageError)(error["text"])
    return [_image(document) for document in answer["images"]]


def _image(document: dict[str, Any]) -> Image:
    config: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in document["config"].items()}
    return Image(document["id"], tuple(document["references"]), tuple(document["repo_digests"]), document["layers"], ImageConfig(**config), document["size_bytes"])


async def _run_worker(request: bytes) -> bytes:
    """Everything the worker writes until it closes its stdout. It is reaped whenever it ends, be that after we have our answer."""
    loop = asyncio.get_running_loop()
    stdin = os.memfd_create("image-request")  # not argv: the request may hold a password
    out, out_child = os.pipe2(os.O_CLOEXEC)
    try:
        os.write(stdin, request)
        os.lseek(stdin, 0, os.SEEK_SET)
        actions = [(os.POSIX_SPAWN_DUP2, stdin, 0), (os.POSIX_SPAWN_DUP2, out_child, 1)]
        environment = {**os.environ, "PYTHONPATH": _SOURCES}
        pid = os.posix_spawn(sys.executable, [sys.executable, "-m", "agent.images.worker"], environment, file_actions=actions, setsigdef=[signal.SIGPIPE])  # noqa: ASYNC221 (vfork: 1 ms)
    except BaseException:
        os.close(out)
        raise
    finally:
        os.close(stdin)
        os.close(out_child)
    kill = _reap_later(loop, pid)
    os.set_blocking(out, False)
    parts: list[bytes] = []
    finished: asyncio.Future[None] = loop.create_future()

    def readable() -> None:
        with suppress(BlockingIOError):
            data = os.read(out, 1 << 16)
            if data:
                parts.append(data)
            elif not finished.done():
                finished.set_result(None)

    loop.add_reader(out, readable)
    try:
        await finished
    except asyncio.CancelledError:
        kill()
        raise
    finally:
        loop.remove_reader(out)
        os.close(out)
    return b"".join(parts)


def _reap_later(loop: asyncio.AbstractEventLoop, pid: int) -> Callable[[], None]:
    """Reaps the child when its pidfd says it is dead (pidfd_open(2)); returns a function that kills it."""
    pidfd = os.pidfd_open(pid)

    def ended() -> None:
        loop.remove_reader(pidfd)
        os.close(pidfd)
        with suppress(ChildProcessError):
            os.waitpid(pid, 0)

    def kill() -> None:
        with suppress(ProcessLookupError, OSError):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)

    loop.add_reader(pidfd, ended)
    return kill
