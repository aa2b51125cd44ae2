"""Weights that were uploaded to this service."""

import shutil
from pathlib import Path

from app.domain.errors import ModelRejected
from app.domain.model_sources import UploadSource
from app.storage.objects import Objects, uploaded_weights
from workers.zoo.download import verify_sha256


def fetch_upload(source: UploadSource, directory: Path, objects: Objects | None) -> Path:
    """Bring the uploaded file into ``directory``, its hash verified.

    Raises:
        ModelRejected: ``weights_unavailable``, ``weights_hash_mismatch``.
    """
    path = directory / "weights.safetensors"
    key = uploaded_weights(source.sha256)
    if objects is None or not objects.exists(key):
        raise ModelRejected(
            "weights_unavailable",
            f"no weights with SHA-256 {source.sha256} were uploaded",
            param="source.sha256",
            hint="Upload the safetensors file: POST /v1/weights, or foretune models upload FILE.",
        )
    with objects.open(key) as stored, path.open("wb") as file:
        shutil.copyfileobj(stored, file, 1 << 20)
    verify_sha256(path, source.sha256, "the uploaded file", "source.sha256")
    return path
