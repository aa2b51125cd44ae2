"""/v1/selections: ask which model to fine-tune on a data set, and watch the ranking come about."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Response
from pydantic import BaseModel, Field
from sqlalchemy.orm import Session

from app.api.access import Reader, ServiceDep, Writer
from app.api.chosen_models import choose_models
from app.api.envelopes import After, Limit, ListOf, Name, Notice, RetentionDays, StrictModel, Text
from app.api.idempotency import IdempotencyKeyHeader, answer_once
from app.api.model_constraints import ConstraintsRequest
from app.api.polling import ASKED_FOR, WITH_ETAG, IfNoneMatch, Wait, answer_poll, point_to_job
from app.api.problems import JobError, responses
from app.api.recent_callers import Caller
from app.api.recipes import HardwareRequest, RecipeRequest, TargetRequest
from app.api.selection_progress import Proof, SelectionProgress, progress_view, proof_view
from app.config import Settings
from app.domain.errors import BadRequest
from app.domain.finetuning import Recipe
from app.domain.model_constraints import UNCONSTRAINED
from app.domain.retention import expiry
from app.scoring.registry import DEFAULT_SCORES, find
from app.storage.repositories.evaluation_progress import EvaluationProgress, progress_of
from app.storage.repositories.finetunes import ProofProgress, proofs_of
from app.storage.repositories.selections import (
    Selections,
    next_selections,
    seen_revision,
)
from app.storage.repositories.usage import Allowance
from app.storage.tables import Selection

router = APIRouter(tags=["selections"])

_MOST_RUNG = 16


class Race(StrictModel):
    """Compare models on growing subsets of the images, and drop those that surely cannot win any more."""

    keep: int = Field(default=3, ge=1, le=1000, description="How many of the first models the race is for.")
    error_probability: float = Field(
        default=0.05, gt=0, le=0.5, description="Of dropping, by the luck of the subsets, one of the true first `keep`."
    )


class Budget(StrictModel):
    """How much may be spent; what is known when it is spent is the result."""

    worker_seconds: float = Field(ge=1, le=1e9, description="Seconds that workers hold models of this selection.")


class Verify(StrictModel):
    """A real fine-tune of the first models, once all are ranked."""

    k: int = Field(default=3, ge=1, le=10, description="How many of the first.")
    budget_seconds: float | None = Field(
        default=None, ge=1, le=1e9, description="Worker time; models that fall behind are given up for it."
    )
    recipe: RecipeRequest | None = Field(default=None, description="What is left out is as in arXiv:2102.00084.")

    def as_dict(self) -> dict[str, Any]:
        """Return what is stored.

        Raises:
            BadRequest: ``invalid_recipe``.
        """
        recipe = self.recipe.read("verify.recipe") if self.recipe else Recipe()
        return {"k": self.k, "budget_seconds": self.budget_seconds, "recipe": recipe.as_dict()}


class SelectionRequest(StrictModel):
    """Which data set to rank the zoo on."""

    dataset: Text = Field(description="Id of a data set that is ready.")
    models: Annotated[list[Text], Field(min_length=1, max_length=1000)] | None = Field(
        default=None,
        description="Ids or names of active models, or deprecated ones; without it, every active model.",
    )
    zoo: Text | None = Field(default=None, description="Only members of this named part of the zoo.")
    constraints: ConstraintsRequest | None = Field(
        default=None, description="What every model has to be: one that is named and is not is refused."
    )
    watch: bool = Field(
        default=False, description="Rank models that join the zoo later, too, by selections that follow this one."
    )
    scores: Annotated[list[Text], Field(min_length=1, max_length=100)] | None = Field(
        default=None,
        description="Scores to compute; by default a dozen of every kind. The order is by linear_probe in any case.",
    )
    race: Race | None = Field(
        default=None, description="Without it, every model is evaluated on all images; `{}` takes the defaults."
    )
    budget: Budget | None = Field(default=None, description="Without it, the selection takes what it takes.")
    target: TargetRequest | None = Field(
        default=None,
        description="Forecast fine-tuning for every model: its time to this target. `{}` takes the defaults.",
    )
    hardware: HardwareRequest | None = Field(default=None, description="Whose seconds and costs are forecast.")
    verify: Verify | None = Field(
        default=None, description="Fine-tune the first models for real, and say whether that bears the ranking out."
    )
    retention_days: RetentionDays | None = None
    name: Name | None = None


class RaceView(Race):
    """A race, and the numbers of images it looks at."""

    looks: list[int]


class SelectionView(BaseModel):
    """A selection as users see it; the ranking is at `links.results`."""

    id: str
    object: str = "selection"
    name: str
    dataset: str
    status: str
    revision: int
    progress: SelectionProgress
    scores: list[str]
    zoo: str | None
    constraints: dict[str, Any] | None
    watch: bool
    warnings: list[Notice] = Field(description="Such as `model_deprecated`.")
    race: RaceView | None
    budget: Budget | None
    target: dict[str, Any] | None = Field(description="The fine-tuning that is forecast.")
    verify: dict[str, Any] | None = Field(description="The fine-tuning of the first models that is really done.")
    proof: Proof | None = Field(description="Of `verify`, once all models are ranked.")
    worker_seconds: float = Field(description="Spent so far; time alone is no new revision.")
    verdict: str | None
    stability: dict[str, Any] | None
    created_at: datetime
    updated_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    expires_at: datetime | None = Field(description="When it is deleted, if it has ended by then.")
    error: JobError | None
    links: dict[str, str]


def view(
    row: Selection, evaluations: list[EvaluationProgress], proof: ProofProgress | None, next_id: str | None = None
) -> SelectionView:
    """Return a selection as users see it.

    Args:
        row: the selection.
        evaluations: how far each of them is.
        proof: how far its proof is, if it was begun.
        next_id: of the selection that follows this one, if there is one.
    """
    ranking = row.ranking or {}
    path = f"/v1/selections/{row.id}"
    links = {
        "self": path,
        "results": f"{path}/results",
        "events": f"{path}/events",
        "cancel": f"{path}/cancel",
        "dataset": f"/v1/datasets/{row.dataset_id}",
    }
    if proof is not None:
        links["proof"] = f"/v1/finetunes/{proof.id}"
    if row.previous_id is not None:
        links["previous"] = f"/v1/selections/{row.previous_id}"
    if next_id is not None:
        links["next"] = f"/v1/selections/{next_id}"
    return SelectionView(
        id=row.id,
        name=row.name,
        dataset=row.dataset_id,
        status=row.state,
        revision=seen_revision(row.revision, row.state, proof.revision if proof else None),
        progress=progress_view(row, evaluations, proof),
        scores=row.scores,
        zoo=row.zoo,
        constraints=row.constraints,
        watch=row.watch,
        warnings=[Notice(**warning) for warning in row.warnings],
        race=RaceView(**row.race, looks=row.looks or []) if row.race else None,
        budget=Budget(worker_seconds=row.budget_seconds) if row.budget_seconds else None,
        target=row.target,
        verify=row.verify,
        proof=proof_view(proof),
        worker_seconds=round(row.spent_seconds, 3),
        verdict=ranking.get("verdict"),
        stability=ranking.get("stability"),
        created_at=row.created_at,
        updated_at=row.updated_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
        expires_at=row.expires_at,
        error=JobError(**row.error) if row.error else None,
        links=links,
    )


def read_view(session: Session, row: Selection) -> SelectionView:
    """Return a row as users see it, reading its evaluations and its proof."""
    return _viewer(session, [row])(row)


def _viewer(session: Session, rows: Sequence[Selection]) -> Callable[[Selection], SelectionView]:
    evaluations = progress_of(session, [row.id for row in rows])
    proofs = proofs_of(session, [row.id for row in rows if row.verify])
    following = next_selections(session, [row.id for row in rows if row.watch])
    return lambda row: view(row, evaluations[row.id], proofs.get(row.id), following.get(row.id))


@router.post(
    "/v1/selections",
    status_code=202,
    response_model=SelectionView,
    summary="Rank the zoo on a data set",
    responses=responses(400, 401, 403, 404, 409, 410, 413, 422, also=ASKED_FOR),
)
def create_selection(
    request: SelectionRequest,
    response: Response,
    service: ServiceDep,
    caller: Writer,
    idempotency_key: IdempotencyKeyHeader = None,
) -> Any:
    """Create one evaluation for each model; workers take it from there."""
    evaluations: list[EvaluationProgress] = []
    with service.database.write() as session:

        def create() -> tuple[int, SelectionView]:
            row = _create(session, caller, request, service.settings)
            evaluations.extend(progress_of(session, [row.id])[row.id])
            return 202, view(row, evaluations, None)

        asked = "selections", request.model_dump_json(exclude_unset=True)
        answer = answer_once(session, caller.tenant, idempotency_key, asked, create)
    for evaluation in evaluations[:_MOST_RUNG]:
        if not service.bell.ring("evaluation", evaluation.id):
            break  # the broker is down; the workers' sweep finds the rest, as it finds those that are not rung here
    point_to_job(response, answer.status, answer.path)
    return answer.body


def _refuse_watch_with(request: SelectionRequest) -> None:
    if request.race or request.budget:
        raise BadRequest(
            "watch_with_race",
            "A race and a budget compare models on growing subsets, which one that comes later has not seen.",
            param="watch",
            hint='Leave "watch" out, or "race" and "budget".',
        )
    if request.models:
        raise BadRequest(
            "watch_with_models",
            "The selection names its models, so none that comes later belongs to it.",
            param="watch",
            hint='Leave "models" out, and say by "zoo" and "constraints" which ones are meant.',
        )


def _create(session: Session, caller: Caller, request: SelectionRequest, settings: Settings) -> Selection:
    allowance = Allowance(session, caller.tenant, "open_selections", "worker_seconds_per_day")
    allowance.demand(open_selections=1, worker_seconds_per_day=1)
    if request.hardware and not request.target:
        raise BadRequest(
            "hardware_without_target",
            "Hardware is whose time a forecast is of, and no forecast is asked for.",
            param="hardware",
            hint='Add "target": {}, or leave "hardware" out.',
        )
    scores = [find(name).name for name in request.scores or DEFAULT_SCORES]
    if request.watch:
        _refuse_watch_with(request)
    constraints = request.constraints.read() if request.constraints else UNCONSTRAINED
    models = choose_models(session, request.models, constraints, request.zoo)
    return Selections(session, caller.tenant).create(
        request.dataset,
        models,
        list(dict.fromkeys(scores)),
        request.name,
        race=request.race.model_dump() if request.race else None,
        budget_seconds=request.budget.worker_seconds if request.budget else None,
        target=request.target.question(request.hardware) if request.target else None,
        verify=request.verify.as_dict() if request.verify else None,
        constraints=constraints.as_dict() or None,
        zoo=request.zoo,
        watch=request.watch,
        max_images=settings.max_images,
        expires_at=expiry(request.retention_days or settings.retention_days),
    )


@router.get("/v1/selections", summary="List selections, newest first", responses=responses(401, 403, 422))
def list_selections(
    service: ServiceDep, caller: Reader, limit: Limit = 50, after: After = None
) -> ListOf[SelectionView]:
    """List the tenant's selections."""
    with service.database.read() as session:
        page = Selections(session, caller.tenant).page(limit=limit, cursor=after)
        return ListOf.of(page, _viewer(session, page.rows))


@router.get(
    "/v1/selections/{selection_id}",
    response_model=SelectionView,
    summary="Poll a selection",
    responses=responses(401, 403, 404, 410, 422, also=WITH_ETAG),
)
async def get_selection(
    selection_id: str,
    service: ServiceDep,
    caller: Reader,
    wait: Wait = 0,
    if_none_match: IfNoneMatch = None,
) -> Any:
    """Return one selection; with `wait`, hold the answer until something changes."""
    return await answer_poll(
        service,
        lambda session: Selections(session, caller.tenant),
        selection_id,
        read_view,
        known=if_none_match,
        wait=wait,
    )


@router.post(
    "/v1/selections/{selection_id}/cancel",
    status_code=202,
    response_model=SelectionView,
    summary="Cancel a selection",
    responses=responses(401, 403, 404, 410, 422),
)
def cancel_selection(selection_id: str, service: ServiceDep, caller: Writer) -> SelectionView:
    """End a selection, and its watch; what was ranked so far stays readable. Cancelling twice is the same as once."""
    with service.database.write() as session:
        return read_view(session, Selections(session, caller.tenant).cancel(selection_id))
