"""Weights in a safetensors file at a URI."""

from pathlib import Path

from app.domain.model_sources import SafetensorsSource, without_queries
from workers.zoo.download import download, verify_sha256
from workers.zoo.transfer import Transfer


def fetch_safetensors(source: SafetensorsSource, transfer: Transfer) -> Path:
    """Bring the file into the transfer's directory, its hash verified.

    Raises:
        ModelRejected: ``weights_unavailable``, ``weights_hash_mismatch``, ``no_room_on_disk``.
    """
    path = transfer.directory / "weights.safetensors"
    download(source.uri, path, transfer)
    verify_sha256(path, source.sha256, without_queries(source.uri), "source.sha256")
    return path
