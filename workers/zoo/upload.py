"""Weights that were uploaded to this service."""

from pathlib import Path

from app.domain.errors import ModelRejected
from app.domain.model_sources import UploadSource
from app.storage.objects import Objects, uploaded_weights
from workers.zoo.download import blocks_of, verify_sha256
from workers.zoo.transfer import Transfer


def fetch_upload(source: UploadSource, transfer: Transfer, objects: Objects | None) -> Path:
    """Bring the uploaded file into the transfer's directory, its hash verified.

    Raises:
        ModelRejected: ``weights_unavailable``, ``weights_hash_mismatch``, ``no_room_on_disk``.
    """
    path = transfer.directory / "weights.safetensors"
    key = uploaded_weights(source.sha256)
    if objects is None or not objects.exists(key):
        raise ModelRejected(
            "weights_unavailable",
            f"no weights with SHA-256 {source.sha256} were uploaded",
            param="source.sha256",
            hint="Upload the safetensors file: POST /v1/weights, or foretune models upload FILE.",
        )
    with objects.open(key) as stored:
        transfer.write(blocks_of(stored), path, getattr(stored, "size", None))
    verify_sha256(path, source.sha256, "the uploaded file", "source.sha256")
    return path
