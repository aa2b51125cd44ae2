"""The tables, one class each. Migrations in ``migrations/`` are held equal to them by a test."""

from datetime import UTC, datetime
from typing import Any, ClassVar

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    Index,
    MetaData,
    String,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator

from app.domain.states import DatasetState, EvaluationState, FinetuneState, ModelState, SelectionState
from app.logs import current_request_id
from app.tracing import current_traceparent

Json = dict[str, Any]


class UtcDateTime(TypeDecorator[datetime]):
    """A moment in UTC on both databases; SQLite alone would forget the time zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, _dialect: Dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, _dialect: Dialect) -> datetime | None:
        return None if value is None else value.replace(tzinfo=value.tzinfo or UTC).astimezone(UTC)


def now() -> datetime:
    """Return the present moment in UTC."""
    return datetime.now(UTC)


class Base(DeclarativeBase):
    """Names every constraint, so that a later migration can find it on both databases."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        Json: JSON,
        list[str]: JSON,
        list[int]: JSON,
        list[Json]: JSON,
        datetime: UtcDateTime,
        str: String,
    }


def _partial_index(name: str, *columns: str, where: str) -> Index:
    """Return an index of some rows only.

    It is used by queries whose SQL itself says which rows these are: a parameter may be anything to whoever plans.
    """
    return Index(name, *columns, sqlite_where=text(where), postgresql_where=text(where))


class Tenant(Base):
    """Who owns data sets, selections and fine-tunes, and how much of each; a limit that is None is no limit.

    ``served_at`` is when a worker last took a job of the tenant, by the database's clock.
    """

    __tablename__ = "tenants"

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    max_bytes: Mapped[int | None] = mapped_column(BigInteger)
    max_datasets: Mapped[int | None]
    max_open_selections: Mapped[int | None]
    max_open_finetunes: Mapped[int | None]
    max_worker_seconds_per_day: Mapped[float | None] = mapped_column(Float)
    served_at: Mapped[float | None] = mapped_column(Float)
    created_at: Mapped[datetime] = mapped_column(default=now)
    suspended_at: Mapped[datetime | None]

    __table_args__ = (Index("ix_tenants_listing", "created_at", "id"),)


class WorkerSeconds(Base):
    """How long workers have held jobs of one tenant on one day, which is a date in UTC: 2026-11-22."""

    __tablename__ = "worker_seconds"

    tenant: Mapped[str] = mapped_column(primary_key=True)
    day: Mapped[str] = mapped_column(primary_key=True)
    seconds: Mapped[float] = mapped_column(Float)


class ApiKey(Base):
    """A key as it is stored: its public prefix and the HMAC of its secret.

    After a rotation the secret before is good, too, until ``previous_until``.
    """

    __tablename__ = "api_keys"

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant: Mapped[str] = mapped_column(index=True)
    name: Mapped[str]
    user: Mapped[str | None]
    prefix: Mapped[str] = mapped_column(unique=True)
    digest: Mapped[str]
    previous_digest: Mapped[str | None]
    previous_until: Mapped[datetime | None]
    scopes: Mapped[list[str]]
    created_at: Mapped[datetime] = mapped_column(default=now)
    rotated_at: Mapped[datetime | None]
    expires_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]


class AuditEvent(Base):
    """One line of the audit log: who did what to whom. Lines are only ever added.

    What is done to models has a log of its own, ``model_events``, which everybody reads.
    """

    __tablename__ = "audit_events"

    id: Mapped[str] = mapped_column(primary_key=True)
    created_at: Mapped[datetime] = mapped_column(default=now)
    actor: Mapped[str]
    tenant: Mapped[str]
    action: Mapped[str]
    target: Mapped[str]
    details: Mapped[Json] = mapped_column(default=dict)

    __table_args__ = (
        Index("ix_audit_events_listing", "created_at", "id"),
        Index("ix_audit_events_tenant", "tenant", "created_at", "id"),
    )


class IdempotencyKey(Base):
    """The answer that a request with this key got, to be given again."""

    __tablename__ = "idempotency_keys"

    tenant: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    fingerprint: Mapped[str]
    status: Mapped[int | None]
    body: Mapped[Json | None]
    created_at: Mapped[datetime] = mapped_column(default=now, index=True)


class Requested:
    """What joins a worker's log lines and spans to the request that asked for the work; None where nobody asked."""

    request_id: Mapped[str | None] = mapped_column(default=current_request_id)
    traceparent: Mapped[str | None] = mapped_column(default=current_traceparent)


class Leased:
    """The columns by which exactly one worker holds a job; see ``app.storage.leases``."""

    lease_token: Mapped[str | None]
    lease_holder: Mapped[str | None]
    lease_taken_at: Mapped[float | None] = mapped_column(Float)
    lease_expires_at: Mapped[float | None] = mapped_column(Float)
    rung_at: Mapped[float | None] = mapped_column(Float)
    failures: Mapped[Json] = mapped_column(default=dict)
    error: Mapped[Json | None]
    revision: Mapped[int] = mapped_column(default=1)
    progress: Mapped[Json | None]
    created_at: Mapped[datetime] = mapped_column(default=now)
    updated_at: Mapped[datetime] = mapped_column(default=now, onupdate=now)


class Dataset(Requested, Leased, Base):
    """An upload and what was understood of it."""

    __tablename__ = "datasets"

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant: Mapped[str]
    name: Mapped[str]
    state: Mapped[str] = mapped_column(default=DatasetState.RECEIVING)
    bytes: Mapped[int] = mapped_column(BigInteger, default=0)
    sha256: Mapped[str | None]
    digest: Mapped[str | None] = mapped_column(index=True)
    report: Mapped[Json | None]
    expires_at: Mapped[datetime | None] = mapped_column(index=True)

    __table_args__ = (
        Index("ix_datasets_listing", "tenant", "created_at", "id"),
        Index("ix_datasets_work", "state", "tenant", "created_at", "id"),
        Index(
            "uq_datasets_bytes",
            "tenant",
            "sha256",
            unique=True,
            sqlite_where=text("state NOT IN ('receiving', 'deleting', 'deleted')"),
            postgresql_where=text("state NOT IN ('receiving', 'deleting', 'deleted')"),
        ),
    )


class Model(Requested, Leased, Base):
    """One version of a zoo model: ``spec`` never changes, ``tags`` are for people to find it by."""

    __tablename__ = "models"

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    version: Mapped[int]
    state: Mapped[str] = mapped_column(default=ModelState.PENDING)
    spec: Mapped[Json]
    spec_digest: Mapped[str]
    tags: Mapped[list[str]] = mapped_column(default=list)
    facts: Mapped[Json | None]
    checks: Mapped[list[Json] | None]
    reason: Mapped[str | None]

    __table_args__ = (
        UniqueConstraint("name", "version"),
        UniqueConstraint("name", "spec_digest"),
        Index("ix_models_work", "state", "created_at"),
        Index("ix_models_listing", "created_at", "id"),
        Index(
            "uq_models_active_name",
            "name",
            unique=True,
            sqlite_where=text("state = 'active'"),
            postgresql_where=text("state = 'active'"),
        ),
    )


class ModelEvent(Base):
    """One line of the audit log: who did what to a model, and why. Lines are only ever added."""

    __tablename__ = "model_events"

    id: Mapped[str] = mapped_column(primary_key=True)
    model_id: Mapped[str] = mapped_column(ForeignKey("models.id"))
    created_at: Mapped[datetime] = mapped_column(default=now)
    actor: Mapped[str]
    action: Mapped[str]
    reason: Mapped[str | None]
    details: Mapped[Json] = mapped_column(default=dict)

    __table_args__ = (Index("ix_model_events_listing", "model_id", "created_at", "id"),)


class Zoo(Base):
    """A named part of the zoo."""

    __tablename__ = "zoos"

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    description: Mapped[str] = mapped_column(default="")
    created_at: Mapped[datetime] = mapped_column(default=now)
    updated_at: Mapped[datetime] = mapped_column(default=now, onupdate=now)

    __table_args__ = (Index("ix_zoos_listing", "created_at", "id"),)


class ZooMember(Base):
    """A model's name in a zoo: whichever version of it is active belongs to the zoo."""

    __tablename__ = "zoo_members"

    zoo_id: Mapped[str] = mapped_column(ForeignKey("zoos.id", ondelete="CASCADE"), primary_key=True)
    model_name: Mapped[str] = mapped_column(primary_key=True, index=True)


class Selection(Requested, Base):
    """The question which model to fine-tune on one data set, and its ranking.

    ``race`` and ``looks`` are those of ``app.domain.racing``; without them each model sees all images at once.
    ``target`` is the training that is forecast for each model; ``verify`` how many of the first are really fine-tuned.
    ``ranked`` counts what the ranking knows: evaluations that ended, and looks before the last that did.
    ``settled_at`` is when a worker last began to assemble the ranking, by the database's clock.
    ``constraints`` are those of ``app.domain.model_constraints``, ``zoo`` the name of the part of the zoo it is about.
    With ``watch``, a model that joins the zoo later is ranked too, by a selection that names this one as its previous.
    """

    __tablename__ = "selections"

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant: Mapped[str]
    name: Mapped[str]
    dataset_id: Mapped[str] = mapped_column(ForeignKey("datasets.id"), index=True)
    state: Mapped[str] = mapped_column(default=SelectionState.QUEUED)
    scores: Mapped[list[str]]
    revision: Mapped[int] = mapped_column(default=1)
    ranking: Mapped[Json | None]
    evaluations: Mapped[int]
    ranked: Mapped[int] = mapped_column(default=0)
    settled_at: Mapped[float | None] = mapped_column(Float)
    race: Mapped[Json | None]
    looks: Mapped[list[int] | None]
    budget_seconds: Mapped[float | None] = mapped_column(Float)
    spent_seconds: Mapped[float] = mapped_column(Float, default=0.0)
    target: Mapped[Json | None]
    verify: Mapped[Json | None]
    constraints: Mapped[Json | None]
    zoo: Mapped[str | None]
    watch: Mapped[bool] = mapped_column(default=False)
    previous_id: Mapped[str | None] = mapped_column(ForeignKey("selections.id"), unique=True)
    warnings: Mapped[list[Json]] = mapped_column(default=list)
    error: Mapped[Json | None]
    created_at: Mapped[datetime] = mapped_column(default=now)
    updated_at: Mapped[datetime] = mapped_column(default=now, onupdate=now)
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    expires_at: Mapped[datetime | None] = mapped_column(index=True)
    deleted_at: Mapped[datetime | None]

    __table_args__ = (
        Index("ix_selections_listing", "tenant", "created_at", "id"),
        Index("ix_selections_state", "state"),
    )


class Evaluation(Leased, Base):
    """One model on one data set, for one selection; ``look`` counts the looks of a race that it has behind it.

    ``ran_on`` is the kind of device on which the network ran over all images at once; None where it did not.
    """

    __tablename__ = "evaluations"

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant: Mapped[str]
    selection_id: Mapped[str] = mapped_column(ForeignKey("selections.id", ondelete="CASCADE"))
    model_id: Mapped[str] = mapped_column(ForeignKey("models.id"))
    state: Mapped[str] = mapped_column(default=EvaluationState.QUEUED)
    look: Mapped[int] = mapped_column(default=0)
    result: Mapped[Json | None]
    ran_on: Mapped[str | None]

    __table_args__ = (
        UniqueConstraint("selection_id", "model_id"),
        _partial_index("ix_evaluations_past", "ran_on", "created_at", "id", where="ran_on IS NOT NULL"),
        _partial_index(
            "ix_evaluations_work",
            "state",
            "tenant",
            "created_at",
            "id",
            where="state = 'queued' OR state = 'running' OR state = 'waiting'",
        ),
        _partial_index("ix_evaluations_model", "model_id", "created_at", "id", where="state = 'queued'"),
        _partial_index("ix_evaluations_rung", "state", "rung_at", where="state = 'queued' AND rung_at IS NOT NULL"),
    )


class Finetune(Requested, Leased, Base):
    """Some models really fine-tuned on one data set, one after the other, by one worker.

    ``selection_id`` is that of the selection whose first models it is to prove, if any.
    """

    __tablename__ = "finetunes"

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant: Mapped[str]
    name: Mapped[str]
    dataset_id: Mapped[str] = mapped_column(ForeignKey("datasets.id"), index=True)
    selection_id: Mapped[str | None] = mapped_column(ForeignKey("selections.id"), unique=True)
    model_ids: Mapped[list[str]]
    recipe: Mapped[Json]
    state: Mapped[str] = mapped_column(default=FinetuneState.QUEUED)
    budget_seconds: Mapped[float | None] = mapped_column(Float)
    spent_seconds: Mapped[float] = mapped_column(Float, default=0.0)
    warnings: Mapped[list[Json]] = mapped_column(default=list)
    result: Mapped[Json | None]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    expires_at: Mapped[datetime | None] = mapped_column(index=True)
    deleted_at: Mapped[datetime | None]

    __table_args__ = (
        Index("ix_finetunes_listing", "tenant", "created_at", "id"),
        Index("ix_finetunes_work", "state", "tenant", "created_at", "id"),
    )


class Worker(Base):
    """A worker process that was seen alive; ``versions`` are those of what computes, by name."""

    __tablename__ = "workers"

    name: Mapped[str] = mapped_column(primary_key=True)
    pid: Mapped[int]
    device: Mapped[str]
    versions: Mapped[Json] = mapped_column(default=dict)
    images_per_second: Mapped[float] = mapped_column(Float, default=0.0)
    started_at: Mapped[datetime] = mapped_column(default=now)
    seen_at: Mapped[float] = mapped_column(Float)
