"""What the service answers, as typed, frozen objects. A field that a newer service adds is kept."""

from datetime import datetime
from typing import Any, ClassVar, Generic, TypeVar

from pydantic import BaseModel, ConfigDict

from app.domain.states import DATASET_TERMINAL, SELECTION_TERMINAL


class Resource(BaseModel):
    """An answer, or a part of one."""

    model_config = ConfigDict(frozen=True, extra="allow")


class JobError(Resource):
    """Why a job failed."""

    code: str
    message: str
    param: str | None = None
    hint: str | None = None


class Progress(Resource):
    """How far a job has come."""

    stage: str
    done: int
    total: int


class Job(Resource):
    """Something a worker does."""

    terminal: ClassVar[frozenset[str]] = frozenset()
    id: str
    name: str
    status: str
    revision: int
    created_at: datetime
    error: JobError | None = None

    @property
    def has_ended(self) -> bool:
        """Whether its status is the last one."""
        return self.status in self.terminal


class ClassCount(Resource):
    """A class and its number of images."""

    name: str
    count: int
    example: str


class FileCounts(Resource):
    """What became of an archive's files."""

    total: int
    used: int
    ignored: int
    corrupt: int
    excluded: int


class DatasetWarning(Resource):
    """Something that the user should know about a data set."""

    code: str
    detail: str
    count: int
    examples: tuple[str, ...]


class Detected(Resource):
    """How an archive was understood."""

    layout: str
    root: str
    classes: tuple[ClassCount, ...]
    splits: dict[str, int]
    files: FileCounts
    warnings: tuple[DatasetWarning, ...]
    images: dict[str, Any]


class Dataset(Job):
    """An uploaded data set."""

    terminal = frozenset[str](DATASET_TERMINAL)
    bytes: int
    expires_at: datetime | None = None
    sha256: str | None
    digest: str | None
    progress: Progress | None
    detected: Detected | None


class FileOutcome(Resource):
    """What became of one file that is not part of the data set."""

    path: str
    outcome: str
    reason: str
    detail: str | None = None


class ModelCounts(Resource):
    """How many models of a selection stand where."""

    total: int
    queued: int = 0
    running: int = 0
    waiting: int = 0
    done: int = 0
    eliminated: int = 0
    over_budget: int = 0
    failed: int = 0
    cancelled: int = 0
    cached: int = 0

    @property
    def ended(self) -> int:
        """Models that nothing more will be known of."""
        return self.done + self.eliminated + self.over_budget + self.failed + self.cancelled


class CurrentModel(Resource):
    """A model that is being evaluated."""

    model: str
    name: str
    stage: str
    done: int
    total: int


class SelectionProgress(Resource):
    """How far a selection has come; ``fraction`` is between 0 and 1, one half being the proof where there is one."""

    models: ModelCounts
    fraction: float
    current: tuple[CurrentModel, ...]


class Race(Resource):
    """A race: models that are surely not among the first ``keep`` are dropped, at the latest look before all images."""

    keep: int
    error_probability: float
    looks: tuple[int, ...]


class Budget(Resource):
    """What a selection or a fine-tune may spend."""

    worker_seconds: float


class Proof(Resource):
    """The fine-tune that proves a ranking: its id, how far it is, and what is being trained just now."""

    finetune: str
    status: str
    progress: Progress | None


class Notice(Resource):
    """Something that the user should know, such as that a model of a selection is deprecated."""

    code: str
    detail: str
    model: str | None = None


class Selection(Job):
    """A ranking that is asked for."""

    terminal = frozenset[str](SELECTION_TERMINAL)
    dataset: str
    progress: SelectionProgress
    scores: tuple[str, ...]
    zoo: str | None = None
    constraints: dict[str, Any] | None = None
    watch: bool = False
    warnings: tuple[Notice, ...] = ()
    links: dict[str, str] = {}
    race: Race | None = None
    budget: Budget | None = None
    target: dict[str, Any] | None = None
    verify: dict[str, Any] | None = None
    proof: Proof | None = None
    worker_seconds: float = 0.0
    expires_at: datetime | None = None
    verdict: str | None


class ShuffledLabels(Resource):
    """The value of a score when labels say nothing, and how it was found."""

    mean: float
    origin: str


class Score(Resource):
    """One score of one model; larger is better. Where it is not defined, ``value`` is None and ``error`` says why."""

    value: float | None
    stderr: float | None
    null: ShuffledLabels | None = None
    warnings: tuple[str, ...] = ()
    error: JobError | None = None


class Estimate(Resource):
    """A value with an interval that holds it with probability ``level``."""

    mean: float
    interval: tuple[float, float]
    level: float
    origin: str


class ForecastTime(Resource):
    """When fine-tuning is expected to reach its target; ``verdict`` is reached, not_reached or unstable."""

    verdict: str
    steps: float | None
    interval: tuple[float, float] | None
    confidence: float | None
    seconds: float | None
    seconds_interval: tuple[float, float] | None
    cost: float | None
    cost_interval: tuple[float, float] | None
    largest_learning_rate: float | None
    best: float | None
    definition: str
    training: dict[str, Any]
    step_seconds: float | None
    device: str
    hardware: dict[str, Any]
    warnings: tuple[str, ...]


class Forecast(ForecastTime):
    """A forecast of one model's fine-tuning, with its curve."""

    selection: str
    model: str
    name: str
    curve: dict[str, tuple[float, ...]] | None


class Verified(Resource):
    """What really fine-tuning a model gave; ``test_accuracy`` is of images that training has not seen."""

    finetune: str
    verdict: str
    test_accuracy: float | None
    interval: tuple[float, float] | None
    learning_rate: float | None
    steps: int
    seconds: float
    error: JobError | None


class Precision(Resource):
    """In which precision a model's features were computed, and how far that was from float32 on a few images."""

    used: str
    wanted: str | None = None
    images: int | None = None
    relative_error: float | None = None
    same_neighbours: float | None = None
    reason: str | None = None


class RankedModel(Resource):
    """One row of a ranking; ``rank`` is None until the model is evaluated."""

    rank: int | None
    rank_interval: tuple[int, int] | None
    tie_group: int | None
    model: str
    name: str
    version: int
    parameters: int | None
    license: str
    pretraining: tuple[str, ...]
    probability_of_best: float | None
    probability_of_top_k: float | None
    probe_accuracy: Estimate | None
    images: int | None = None
    scores: dict[str, Score]
    forecast: ForecastTime | None = None
    forecast_error: JobError | None = None
    verified: Verified | None = None
    precision: Precision | None = None
    seconds: dict[str, float] | None
    cached: bool | None
    status: str
    error: JobError | None


class Results(Resource):
    """A ranking: evaluated models by rank, then the others by name."""

    selection: str
    revision: int
    final: bool
    status: str
    ranked_by: str
    verdict: str | None
    evidence: dict[str, Any]
    warnings: tuple[Notice, ...] = ()
    data: tuple[RankedModel, ...]


class ExplainedClass(Resource):
    """How a model does on one class, and how the other model of the comparison does."""

    name: str
    held_out: int
    accuracy: float | None
    against: float | None
    beyond_chance: bool
    contribution: float


class ConfusedClasses(Resource):
    """Held-out images of one class that were taken for another; ``share`` is of the class's held-out images."""

    name: str
    predicted: str
    images: int
    share: float


class ComparedModel(Resource):
    """One of the two models of an explanation."""

    model: str
    name: str
    rank: int


class Explanation(Resource):
    """Why a model stands where it stands."""

    selection: str
    revision: int
    model: ComparedModel
    against: ComparedModel | None
    summary: str
    classes: tuple[ExplainedClass, ...]
    confusions: tuple[ConfusedClasses, ...]
    correlation: dict[str, Any]


class Key(Resource):
    """An API key as it can be listed."""

    id: str
    name: str
    tenant: str
    prefix: str
    scopes: tuple[str, ...]
    created_at: datetime
    user: str | None = None
    expires_at: datetime | None = None
    rotated_at: datetime | None = None
    previous_until: datetime | None = None
    last_used_at: datetime | None = None


class NewKey(Key):
    """An API key as it is shown once."""

    key: str


class Readiness(Resource):
    """Whether the service can work: ``ready``, ``degraded`` or ``down``, and which part is not."""

    status: str
    checks: dict[str, str]


Item = TypeVar("Item", bound=Resource)


class ListOf(Resource, Generic[Item]):
    """One page of a list."""

    data: tuple[Item, ...]
    next_cursor: str | None
