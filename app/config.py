"""Every setting of the service and its workers, from ``FORETUNE_*`` environment variables and files of secrets."""

import os
import re
import socket
from functools import cached_property
from pathlib import Path
from typing import Literal, Self
from urllib.parse import quote, urlsplit, urlunsplit

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SecretsSettingsSource, SettingsConfigDict

from app.domain.quotas import NAMES as QUOTA_NAMES
from app.domain.quotas import Quotas
from app.domain.retention import LONGEST_DAYS
from app.s3_access import S3Access

_KEY = r"ft_[0-9a-f]{12}_[0-9A-Za-z_-]{32,}"


class Settings(BaseSettings):
    """The embedded preset by default: SQLite, a local folder, no broker.

    PostgreSQL, S3 and Redis are the same code with ``database_url``, ``objects_url`` and ``broker_url`` set. Any
    setting may also lie in a file of ``secrets_dir``, which is where passwords and keys belong.
    """

    model_config = SettingsConfigDict(env_prefix="FORETUNE_", extra="ignore")

    home: Path = Field(default_factory=lambda: Path.home() / ".foretune")
    """Holds everything of the embedded preset: the database, objects, weights, the admin key."""
    database_url: str = ""
    objects_url: str = ""
    broker_url: str = ""
    secrets_dir: Path | None = None
    """Files named after variables, such as ``foretune_database_password``; a variable that is set wins over it."""
    database_password: SecretStr = SecretStr("")
    """Goes into ``database_url`` where that has none; likewise the one below."""
    broker_password: SecretStr = SecretStr("")
    objects_access_key: SecretStr = SecretStr("")
    """Of an S3 store; without them, they are looked for where AWS's own tools do."""
    objects_secret_key: SecretStr = SecretStr("")
    objects_endpoint: str = ""
    """Where an S3 store answers that is not Amazon's, such as ``http://objects:8333``."""
    objects_timeout_seconds: float = Field(default=10, gt=0)
    """How long an S3 store may be silent; asked twice, it is given up."""
    admin_key: SecretStr = SecretStr("")
    """The admin key to accept; without it, one is made on first start and written to ``home``."""
    secret: SecretStr = SecretStr("")
    """Keys the HMAC of stored API keys; without it, one is made in ``home`` on first start."""
    migration_lock_seconds: float = Field(default=5, gt=0)
    """How long a migration may wait for a table that is in use, and everybody else behind it; then it tries again."""
    migration_statement_seconds: float = Field(default=900, gt=0)
    """How long one statement of a migration may take."""

    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=1, le=65535)
    max_upload_bytes: int = Field(default=4 * 2**30, gt=0)
    receive_timeout_seconds: float = Field(default=24 * 3600, gt=0)
    """An upload that has not finished after this long is removed."""
    idempotency_hours: float = Field(default=48, gt=0)

    requests_per_minute: int = Field(default=6000, ge=0)
    """How many requests one API key may send a minute; 0: any number."""
    failed_keys_per_minute: int = Field(default=60, ge=0)
    """How many requests with a wrong API key one address may send a minute before it has to pause; 0: any number."""
    tenant_bytes: int | None = Field(default=None, ge=0)
    """Quotas of a tenant when it is made, as ``app.domain.quotas`` explains them; None: no limit. This one is of bytes
    of uploaded archives."""
    tenant_datasets: int | None = Field(default=None, ge=0)
    tenant_open_selections: int | None = Field(default=None, ge=0)
    tenant_open_finetunes: int | None = Field(default=None, ge=0)
    tenant_worker_seconds_per_day: float | None = Field(default=None, ge=0)

    metrics_host: str = "127.0.0.1"
    metrics_port: int = Field(default=0, ge=0, le=65535)
    """Where a worker tells its Prometheus metrics under ``/metrics``; 0: nowhere. The API's own are on ``port``."""
    otlp_endpoint: str = ""
    """Where OpenTelemetry traces are sent by OTLP over HTTP, such as ``http://127.0.0.1:4318``; empty: nowhere."""

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
    precision: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    """In which precision networks compute features where that agrees with float32; auto: float16 on a GPU."""
    decode_threads: int = Field(default=0, ge=0, le=64)
    """Threads that decode images while a network computes; 0: one beside a CPU's, up to eight beside a GPU."""
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
    fetch_seconds: float = Field(default=4 * 3600, gt=0)
    """How long weights are fetched at most."""
    fetch_bytes_per_second: float = Field(default=100_000, ge=0)
    """A source that brings less than this in the mean is given up; 0: never."""
    fetch_patience_seconds: float = Field(default=120, ge=0)
    """How long a source may take to begin, which does not count in that mean."""
    retention_days: float | None = Field(default=None, gt=0, le=LONGEST_DAYS)
    """How long data sets, selections and fine-tunes are kept that do not say so themselves; None: until deleted."""
    orphan_seconds: float = Field(default=24 * 3600, ge=0)
    """How long ago an object was written that no row of the database knows of, when it is deleted."""
    webhook_private_hosts: str = ""
    """Hosts of webhooks that may be in the service's own network, such as ``hooks.intranet,127.0.0.1``; no other is."""
    webhook_timeout_seconds: float = Field(default=10, gt=0)
    """How long the receiver of a webhook may take for all of its answer."""
    webhook_patience_days: float = Field(default=5, gt=0)
    """A webhook at which nothing has arrived for so long is disabled."""
    webhook_history_days: float = Field(default=30, gt=0)
    """How long deliveries are listed."""
    zoo_manifest: Path | None = None
    """A YAML list of models to register at start instead of the packaged ones."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003  (there are no such files)
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003  (its folder would be a constant)
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read secrets from the folder that an environment variable names."""
        folder = Path(os.environ.get("FORETUNE_SECRETS_DIR", ""))
        is_there = folder != Path() and folder.is_dir()  # if not, the check of the setting says so
        files = [SecretsSettingsSource(settings_cls, secrets_dir=folder)] if is_there else []
        return (init_settings, env_settings, *files)

    @field_validator("secrets_dir")
    @classmethod
    def _is_a_folder(cls, folder: Path | None) -> Path | None:
        if folder is not None and not folder.is_dir():
            raise ValueError("there is no such folder")
        return folder

    @field_validator("admin_key")
    @classmethod
    def _is_a_key(cls, key: SecretStr) -> SecretStr:
        if key.get_secret_value() and not re.fullmatch(_KEY, key.get_secret_value()):
            raise ValueError("a key is ft_, 12 hexadecimal digits, _, and at least 32 letters, digits, _ or -")
        return key

    @model_validator(mode="after")
    def _with_passwords(self) -> Self:
        self.database_url = _with_password(self.database_url, self.database_password)
        self.broker_url = _with_password(self.broker_url, self.broker_password)
        return self

    @model_validator(mode="after")
    def _embedded_defaults(self) -> Self:
        self.home = self.home.expanduser().absolute()
        if not self.database_url:
            self.database_url = f"sqlite:///{self.home / 'foretune.db'}"
        if not self.objects_url:
            self.objects_url = (self.home / "objects").as_uri()
        return self

    @property
    def s3(self) -> S3Access:
        """How an S3 store is reached; other stores need none of it."""
        return S3Access(
            endpoint=self.objects_endpoint,
            access_key=self.objects_access_key.get_secret_value(),
            secret_key=self.objects_secret_key.get_secret_value(),
            timeout_seconds=self.objects_timeout_seconds,
        )

    @property
    def tenant_quotas(self) -> Quotas:
        """What a new tenant may have."""
        return Quotas(**{name: getattr(self, f"tenant_{name}") for name in QUOTA_NAMES})

    @property
    def webhook_private_host_names(self) -> frozenset[str]:
        """The hosts of ``webhook_private_hosts``."""
        names = self.webhook_private_hosts.split(",")
        return frozenset(name.strip().lower() for name in names if name.strip())

    @property
    def gradients(self) -> str:
        """What scores of gradients depend on, as part of the names of what is kept."""
        return f"{self.gradient_scalars}-{self.gradient_scope}-{self.gradient_images}"

    @property
    def weights(self) -> Path:
        """The folder of verified model weights of this machine."""
        return self.weights_cache or self.home / "weights"

    @property
    def worker_name(self) -> str:
        """What this machine's worker of this slot is called among all of the service."""
        return f"{socket.gethostname()}/{self.worker_slot}"

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


def _with_password(url: str, password: SecretStr) -> str:
    """Return a URL with a password in it, unless it has one, or there is none to put in."""
    parts = urlsplit(url)
    if not (url and password.get_secret_value()) or parts.password is not None or parts.hostname is None:
        return url
    user, _, place = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{user}:{quote(password.get_secret_value(), safe='')}@{place}"))


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
