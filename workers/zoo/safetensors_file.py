"""Weights in a safetensors file at a URI."""

from pathlib import Path

from app.domain.model_spec import SafetensorsSource
from workers.zoo.download import download, verify_sha256


def fetch_safetensors(source: SafetensorsSource, directory: Path) -> Path:
    """Bring the file into ``directory``, its hash verified.

    Raises:
        ModelRejected: ``weights_unavailable``, ``weights_hash_mismatch``.
    """
    path = directory / "weights.safetensors"
    download(source.uri, path)
    verify_sha256(path, source.sha256, source.uri, "source.sha256")
    return path
