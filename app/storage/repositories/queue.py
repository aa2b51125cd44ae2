"""What waits and what is being worked on, over all tenants: for monitoring and admins."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, func, literal, null, or_, select
from sqlalchemy.orm import Session

from app.domain.states import DatasetState, EvaluationState, ModelState, SelectionState
from app.storage.leases import DATASET, EVALUATION, FINETUNE, JOB_KINDS, MODEL, is_held, is_open
from app.storage.tables import Dataset, Evaluation, Finetune, Model, Selection

_UNFINISHED: dict[str, tuple[type[Any], tuple[str, ...]]] = {
    DATASET.name: (Dataset, (DatasetState.RECEIVING, DATASET.states.open, DATASET.states.held, DatasetState.DELETING)),
    MODEL.name: (Model, (MODEL.states.open, MODEL.states.held, ModelState.QUARANTINED)),
    EVALUATION.name: (Evaluation, (EVALUATION.states.open, EVALUATION.states.held, EvaluationState.WAITING)),
    FINETUNE.name: (Finetune, (FINETUNE.states.open, FINETUNE.states.held)),
    "selection": (Selection, (SelectionState.QUEUED, SelectionState.RUNNING)),
}


@dataclass(frozen=True)
class Depth:
    """How many rows of a kind are in a state, and when the first of them was asked for."""

    kind: str
    state: str
    count: int
    oldest: datetime | None


@dataclass(frozen=True)
class TenantDepth:
    """How many jobs of a kind one tenant has."""

    kind: str
    tenant: str
    waiting: int
    held: int


@dataclass(frozen=True)
class HeldJob:
    """A job that a worker holds; ``taken_at`` is by the database's clock."""

    kind: str
    id: str
    tenant: str | None
    holder: str
    taken_at: float | None
    progress: dict[str, Any] | None


def depths(session: Session) -> list[Depth]:
    """Count what has not ended, by kind and state, zeros too.

    What has ended grows without end, and is not counted: each query reads a range of an index on the state.
    """
    found = []
    for kind, (table, states) in _UNFINISHED.items():
        counted = select(table.state, func.count(), func.min(table.created_at)).where(_in_states(table, states))
        rows = {state: (count, oldest) for state, count, oldest in session.execute(counted.group_by(table.state))}
        found += [Depth(kind, state, *rows.get(state, (0, None))) for state in states]
    return found


def tenants(session: Session) -> list[TenantDepth]:
    """Return who has jobs that wait or are held, by kind and tenant; checks of models are nobody's."""
    found = []
    for kind in (DATASET, EVALUATION, FINETUNE):
        table, states = kind.table, kind.states
        assert not issubclass(table, Model)
        counted = select(table.tenant, table.state, func.count()).where(or_(is_open(kind), is_held(kind)))
        counts: dict[str, dict[str, int]] = {}
        for tenant, state, count in session.execute(counted.group_by(table.tenant, table.state)):
            counts.setdefault(tenant, {})[state] = count
        for tenant, by_state in sorted(counts.items()):
            found.append(TenantDepth(kind.name, tenant, by_state.get(states.open, 0), by_state.get(states.held, 0)))
    return found


def held(session: Session) -> list[HeldJob]:
    """Return every job that a worker holds, those held longest first."""
    found = []
    for kind in JOB_KINDS:
        table = kind.table
        tenant = null() if issubclass(table, Model) else table.tenant
        columns: list[Any] = [table.id, tenant, table.lease_holder, table.lease_taken_at, table.progress]
        rows = session.execute(select(*columns).where(is_held(kind)))
        found += [HeldJob(kind.name, *row) for row in rows]
    return sorted(found, key=lambda job: job.taken_at or 0.0)


def _in_states(table: type[Any], states: tuple[str, ...]) -> ColumnElement[bool]:
    """Return the condition with the states as part of the SQL: see ``app.storage.leases.is_open``."""
    return or_(*[table.state == literal(str(state), literal_execute=True) for state in states])
