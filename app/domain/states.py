"""The states of every job and the edges between them.

    dataset     receiving -> received -> preparing -> ready | rejected;   any -> deleting -> deleted
    model       pending -> checking -> active | rejected | quarantined;   rejected, quarantined -> pending;
                pending, checking -> rejected where an admin withdraws it
                active <-> disabled;   active <-> deprecated;   deprecated -> disabled
    selection   queued -> running -> done | failed | cancelled
    evaluation  queued -> running -> done | failed | cancelled | over_budget;   running -> queued when a lease expired;
                in a race also running -> waiting -> queued | eliminated
    finetune    queued -> running -> done | failed | cancelled;   running -> queued when a lease expired

A job waits in its open state, is held in its held state by one worker with a lease, and ends in a terminal one.
"""

from dataclasses import dataclass
from enum import StrEnum


class DatasetState(StrEnum):
    """Where an upload stands on its way to a usable data set."""

    RECEIVING = "receiving"
    RECEIVED = "received"
    PREPARING = "preparing"
    READY = "ready"
    REJECTED = "rejected"
    DELETING = "deleting"
    DELETED = "deleted"


class ModelState(StrEnum):
    """Whether a zoo model may be used."""

    PENDING = "pending"
    CHECKING = "checking"
    ACTIVE = "active"
    REJECTED = "rejected"
    QUARANTINED = "quarantined"
    """Its checks ended worker after worker; they run again when an admin says so."""
    DEPRECATED = "deprecated"
    """Left out of selections that do not name it."""
    DISABLED = "disabled"


class SelectionState(StrEnum):
    """How far a ranking has come."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class EvaluationState(StrEnum):
    """How far one model on one data set has come."""

    QUEUED = "queued"
    RUNNING = "running"
    WAITING = "waiting"
    """Seen on one subset of a race; goes on once the other models were, too."""
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    ELIMINATED = "eliminated"
    """Dropped from a race: enough other models are surely better."""
    OVER_BUDGET = "over_budget"
    """The selection's worker time was spent before this model had seen all images."""


class FinetuneState(StrEnum):
    """How far the fine-tuning of some models has come."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True)
class JobStates:
    """The part of a state machine that a worker's lease moves through.

    A job whose workers were lost too often ends in ``lost``, where it has such a state, and else in ``failed``.
    """

    open: str
    held: str
    done: str
    failed: str
    lost: str | None = None

    def after(self, code: str) -> str:
        """Return the state of a job that ended with an error."""
        return self.lost if self.lost and code == "worker_lost" else self.failed


DATASET_JOB = JobStates(DatasetState.RECEIVED, DatasetState.PREPARING, DatasetState.READY, DatasetState.REJECTED)
MODEL_JOB = JobStates(
    ModelState.PENDING, ModelState.CHECKING, ModelState.ACTIVE, ModelState.REJECTED, lost=ModelState.QUARANTINED
)
EVALUATION_JOB = JobStates(
    EvaluationState.QUEUED, EvaluationState.RUNNING, EvaluationState.DONE, EvaluationState.FAILED
)
FINETUNE_JOB = JobStates(FinetuneState.QUEUED, FinetuneState.RUNNING, FinetuneState.DONE, FinetuneState.FAILED)

EVALUATION_TERMINAL = frozenset(
    {
        EvaluationState.DONE,
        EvaluationState.FAILED,
        EvaluationState.CANCELLED,
        EvaluationState.ELIMINATED,
        EvaluationState.OVER_BUDGET,
    }
)
DATASET_GONE = frozenset({DatasetState.DELETING, DatasetState.DELETED})
DATASET_TERMINAL = frozenset({DatasetState.READY, DatasetState.REJECTED}) | DATASET_GONE
MODEL_TERMINAL = frozenset(ModelState) - {ModelState.PENDING, ModelState.CHECKING}
MODEL_USABLE = frozenset({ModelState.ACTIVE, ModelState.DEPRECATED})
"""Of these, only active ones are in a selection that names none."""
MODEL_EDGES = {
    ModelState.PENDING: frozenset({ModelState.REJECTED}),
    ModelState.CHECKING: frozenset({ModelState.REJECTED}),
    ModelState.ACTIVE: frozenset({ModelState.DISABLED, ModelState.DEPRECATED}),
    ModelState.DEPRECATED: frozenset({ModelState.ACTIVE, ModelState.DISABLED}),
    ModelState.DISABLED: frozenset({ModelState.ACTIVE}),
    ModelState.REJECTED: frozenset({ModelState.PENDING}),
    ModelState.QUARANTINED: frozenset({ModelState.PENDING}),
}
"""Where an admin may move a model from each state; workers do the rest. An unchecked one is withdrawn."""
SELECTION_TERMINAL = frozenset({SelectionState.DONE, SelectionState.FAILED, SelectionState.CANCELLED})
FINETUNE_TERMINAL = frozenset({FinetuneState.DONE, FinetuneState.FAILED, FinetuneState.CANCELLED})

RETRY_BUDGET = {"worker_lost": 3, "out_of_memory": 2, "device_failed": 2, "storage_unavailable": 3, "storage_full": 3}
RETRY_BUDGET |= {"hub_unavailable": 3, "source_unavailable": 3, "database_unavailable": 3}
"""How often a job may be tried again after each error; every other error is final at once."""
