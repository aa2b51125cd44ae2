"""Every setting of the service and its workers, from ``FORETUNE_*`` environment variables."""

import os
from functools import cached_property
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """The embedded preset by default: SQLite, a local folder, no broker.

    PostgreSQL, S3 and Redis are the same code with ``database_url``, ``objects_url`` and ``broker_url`` set.
    """

    model_config = SettingsConfigDict(env_prefix="FORETUNE_", extra="ignore")

    home: Path = Field(default_factory=lambda: Path.home() / ".foretune")
    """Holds everything of the embedded preset: the database, objects, weights, the admin key."""
    database_url: str = ""
    objects_url: str = ""
    broker_url: str = ""
    secret: SecretStr = SecretStr("")
    """Keys the HMAC of stored API keys; without it, one is made in ``home`` on first start."""

    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=1, le=65535)
    max_upload_bytes: int = Field(default=4 * 2**30, gt=0)
    receive_timeout_seconds: float = Field(default=24 * 3600, gt=0)
    """An upload that has not finished after this long is removed."""
    idempotency_hours: float = Field(default=48, gt=0)

    lease_seconds: float = Field(default=60, gt=0)
    sweep_seconds: float = Field(default=0.25, gt=0)
    """How often a worker looks for waiting work and expired leases."""
    ring_again_seconds: float = Field(default=20, gt=0)
    """How long a rung doorbell may stay unanswered before it is rung again."""
    worker_slot: str = "0"
    """Names this worker process among those of the host; its successor takes over at once what it left."""
    batch_size: int = Field(default=32, gt=0)
    device: str = ""
    """``cpu``, ``cuda``, ``cuda:1``; empty: the GPU where there is one."""
    threads: int = Field(default=0, ge=0)
    """Compute threads of a CPU worker; 0: one for each core."""
    max_images: int = Field(default=5000, gt=0)
    """A larger data set is evaluated on a class-balanced sample of this many images."""
    gradient_images: int = Field(default=200, gt=0)
    """Scores of gradients are computed on a class-balanced subset of this many images, or of two of each class."""
    gradient_scalars: Literal["random", "ridge_head"] = "random"
    """Whose gradients are scored: random directions of the features, or those of a ridge regression's classifier."""
    gradient_scope: Literal["all", "last_convolution"] = "all"
    """With respect to which parameters."""
    forecast_images: int = Field(default=100, gt=1)
    """Fine-tuning is forecast from the gradients of a class-balanced subset of this many images, or of four of each
    class."""
    checkpoint_seconds: float = Field(default=60, gt=0)
    """How often a fine-tune stores where it is: what a lost worker did since then is done again."""
    watch_patience_seconds: float = Field(default=600, ge=0)
    """How long a new model waits for others that are being checked before selections that watch the zoo rank it."""
    weights_cache: Path | None = None
    """Where verified weights lie; by default ``home/weights``."""
    weights_cache_bytes: int = Field(default=50 * 2**30, gt=0)
    """How much they may take; those that were not used for longest make room, and are fetched again when needed."""
    zoo_manifest: Path | None = None
    """A YAML list of models to register at start instead of the packaged ones."""

    @model_validator(mode="after")
    def _embedded_defaults(self) -> Self:
        self.home = self.home.expanduser().absolute()
        if not self.database_url:
            self.database_url = f"sqlite:///{self.home / 'foretune.db'}"
        if not self.objects_url:
            self.objects_url = (self.home / "objects").as_uri()
        return self

    @property
    def gradients(self) -> str:
        """What scores of gradients depend on, as part of the names of what is kept."""
        return f"{self.gradient_scalars}-{self.gradient_scope}-{self.gradient_images}"

    @property
    def weights(self) -> Path:
        """The folder of verified model weights of this machine."""
        return self.weights_cache or self.home / "weights"

    @property
    def admin_key_file(self) -> Path:
        """Where the embedded preset writes the admin key on first start."""
        return self.home / "admin.key"

    @cached_property
    def secret_bytes(self) -> bytes:
        """Return the HMAC key of stored API keys, making ``home/secret.key`` on first use."""
        if self.secret.get_secret_value():
            return self.secret.get_secret_value().encode()
        path = self.home / "secret.key"
        if not path.exists():
            self.home.mkdir(parents=True, exist_ok=True)
            write_private(path, os.urandom(32).hex())
        return path.read_text().strip().encode()


def write_private(path: Path, text: str) -> None:
    """Write a new file that only its owner may read; a file that is already there stays as it is.

    The file appears with its content or not at all, so that a second process never reads half a key.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text + "\n")
    try:
        os.link(draft, path)
    except FileExistsError:
        pass
    finally:
        draft.unlink()
