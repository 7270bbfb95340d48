"""One pull, blocking: reference → manifest → configuration → layers, several at once, each verified → entered in the store. Called by `worker` (a process of its own)
and by `python -m agent.images pull`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait

from agent.images import manifests
from agent.images import reference as references
from agent.images.model import Auth, Image, ImageError, ImagePullError, LayerError, Platform, digest_of
from agent.images.registry import RegistryError, RegistrySettings, Repository
from agent.images.store import ImageStore

PARALLEL_LAYERS = 4
_MAX_CONFIG = 8 << 20


def fetch(store: ImageStore, reference: str, auth: Auth | None = None, settings: Mapping[str, RegistrySettings] | None = None, platform: Platform | None = None) -> Image:
    """See puller.pull."""
    parsed = references.parse(reference)
    try:
        repository = Repository(parsed.registry, parsed.repository, (settings or {}).get(parsed.registry, RegistrySettings()), auth)
        try:
            with store.adding():
                return _fetch(store, parsed, repository, platform or Platform.host())
        finally:
            repository.close()
    except ImagePullError as error:
        raise ImagePullError(f'failed to pull and unpack image "{parsed}": {error}', retriable=error.retriable) from error
    except ImageError as error:
        raise ImagePullError(f'failed to pull and unpack image "{parsed}": {error}', retriable=isinstance(error, LayerError)) from error
    except OSError as error:
        raise ImagePullError(f'failed to pull and unpack image "{parsed}": {error.strerror or error}') from error


def _fetch(store: ImageStore, parsed: references.Reference, repository: Repository, platform: Platform) -> Image:
    top = data = _manifest(repository, parsed.digest or parsed.tag, parsed.digest)
    document = manifests.parse(data[0], data[1])
    if isinstance(document, manifests.Index):
        chosen = document.choose(platform)
        data = _manifest(repository, chosen.digest, chosen.digest)
        document = manifests.parse(data[0], data[1])
    if not isinstance(document, manifests.Manifest):
        raise ImageError("an index within an index is not an image")
    config = _config(repository, document.config)
    _layers(store, repository, document, config)
    digests = dict.fromkeys(f"{parsed.name}@{digest_of(manifest)}" for manifest in (top[0], data[0]))
    tagged = references.Reference(parsed.registry, parsed.repository, parsed.tag)
    return store.record(config, [str(tagged)] if parsed.tag else [], list(digests), [top[0], data[0]])


def _manifest(repository: Repository, reference: str, digest: str) -> tuple[bytes, str]:
    data, media_type = repository.manifest(reference)
    if digest and digest_of(data) != digest:
        raise ImageError(f"manifest {digest}: digest mismatch: got {digest_of(data)}")
    return data, media_type


def _config(repository: Repository, descriptor: manifests.Descriptor) -> bytes:
    data = b""
    for chunk in repository.blob(descriptor.digest, descriptor.size):
        data += chunk
        if len(data) > _MAX_CONFIG:
            raise ImageError(f"image configuration {descriptor.digest} is larger than {_MAX_CONFIG} bytes")
    if digest_of(data) != descriptor.digest:
        raise ImageError(f"image configuration {descriptor.digest}: digest mismatch: got {digest_of(data)}")
    return data


def _layers(store: ImageStore, repository: Repository, manifest: manifests.Manifest, config: bytes) -> None:
    try:
        diff_ids = list((json.loads(config).get("rootfs") or {}).get("diff_ids") or ())
    except (ValueError, AttributeError, TypeError) as error:
        raise ImageError(f"the image configuration is malformed: {error}") from error
    if len(diff_ids) != len(manifest.layers):
        raise ImageError(f"the manifest has {len(manifest.layers)} layers, the image configuration {len(diff_ids)}: this is an artifact, not an image to run")
    with ThreadPoolExecutor(max_workers=PARALLEL_LAYERS, thread_name_prefix="layer") as pool:
        jobs: list[Future[bool]] = []
        largest_first = sorted(zip(diff_ids, manifest.layers), key=lambda pair: -pair[1].size)
        for diff_id, layer in largest_first:
            jobs.append(pool.submit(store.layers.add, diff_id, repository.blob(layer.digest, layer.size), blob_digest=layer.digest, blob_size=layer.size))
        done, pending = wait(jobs, return_when=FIRST_EXCEPTION)
        failures = [failure for job in done if (failure := job.exception())]
        if failures:
            repository.stop()
            for job in pending:
                job.cancel()
            raise next((failure for failure in failures if not isinstance(failure, RegistryError)), failures[0])
