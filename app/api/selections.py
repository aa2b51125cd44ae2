"""/v1/selections: ask which model to fine-tune on a data set, and watch the ranking come about."""

import hashlib
from collections import Counter
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Response
from pydantic import BaseModel, Field
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from app.api.access import Caller, Reader, Service, ServiceDep, Writer
from app.api.datasets import IdempotencyKeyHeader
from app.api.envelopes import After, Limit, ListOf, Name, StrictModel, Text
from app.api.polling import IfNoneMatch, Wait, answer, is_known, not_modified, wait_for_news
from app.api.problems import JobError, responses
from app.api.recipes import RecipeRequest, TargetRequest
from app.domain.errors import Conflict
from app.domain.finetuning import Recipe
from app.domain.states import EVALUATION_TERMINAL, EvaluationState
from app.scoring.registry import DEFAULT_SCORES, find
from app.storage.repositories.idempotency import IdempotencyKeys
from app.storage.repositories.models import Models
from app.storage.repositories.selections import EvaluationProgress, Selections, progress_of
from app.storage.tables import Model, Selection

router = APIRouter(tags=["selections"])

_Stages = dict[str, tuple[float, float]]
_STAGES: _Stages = {"loading": (0.0, 0.0), "extracting": (0.0, 1.0), "scoring": (1.0, 0.0)}
_STAGES_WITH_GRADIENTS: _Stages = {
    "loading": (0.0, 0.0),
    "extracting": (0.0, 0.2),
    "gradients": (0.2, 0.3),
    "scoring": (0.5, 0.0),
    "linearising": (0.5, 0.4),
    "timing": (0.9, 0.1),
}
"""Share of an evaluation's work that lies behind a stage, and that is done in it, about."""


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
        recipe = self.recipe.recipe() if self.recipe else Recipe()
        return {"k": self.k, "budget_seconds": self.budget_seconds, "recipe": recipe.as_dict()}


class SelectionRequest(StrictModel):
    """Which data set to rank the zoo on."""

    dataset: Text = Field(description="Id of a data set that is ready.")
    models: Annotated[list[Text], Field(min_length=1, max_length=1000)] | None = Field(
        default=None, description="Ids or names of active models; without it, every active model."
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
    verify: Verify | None = Field(
        default=None, description="Fine-tune the first models for real, and say whether that bears the ranking out."
    )
    name: Name | None = None


class Counts(BaseModel):
    """How many models stand where."""

    total: int
    queued: int = 0
    running: int = 0
    waiting: int = Field(default=0, description="In a race: seen on a subset; the others are to see it, too.")
    done: int = 0
    eliminated: int = Field(default=0, description="Dropped from a race.")
    over_budget: int = Field(default=0, description="Stopped because the budget was spent.")
    failed: int = 0
    cancelled: int = 0
    cached: int = 0


class Current(BaseModel):
    """A model that is being evaluated."""

    model: str
    name: str
    stage: str
    done: int
    total: int


class SelectionProgress(BaseModel):
    """How far a selection has come."""

    models: Counts
    fraction: float
    current: list[Current]


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
    race: RaceView | None
    budget: Budget | None
    target: dict[str, Any] | None = Field(description="The fine-tuning that is forecast.")
    verify: dict[str, Any] | None = Field(description="The fine-tuning of the first models that is really done.")
    worker_seconds: float = Field(description="Spent so far.")
    verdict: str | None
    stability: dict[str, Any] | None
    created_at: datetime
    updated_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    error: JobError | None
    links: dict[str, str]


def view(row: Selection, evaluations: list[EvaluationProgress]) -> SelectionView:
    """Return a row and the progress of its evaluations as users see it."""
    ranking = row.ranking or {}
    path = f"/v1/selections/{row.id}"
    return SelectionView(
        id=row.id,
        name=row.name,
        dataset=row.dataset_id,
        status=row.state,
        revision=row.revision,
        progress=_progress(evaluations, row.looks or [], _stages(row)),
        scores=row.scores,
        race=RaceView(**row.race, looks=row.looks or []) if row.race else None,
        budget=Budget(worker_seconds=row.budget_seconds) if row.budget_seconds else None,
        target=row.target,
        verify=row.verify,
        worker_seconds=round(row.spent_seconds, 3),
        verdict=ranking.get("verdict"),
        stability=ranking.get("stability"),
        created_at=row.created_at,
        updated_at=row.updated_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
        error=JobError(**row.error) if row.error else None,
        links={
            "self": path,
            "results": f"{path}/results",
            "events": f"{path}/events",
            "cancel": f"{path}/cancel",
            "dataset": f"/v1/datasets/{row.dataset_id}",
        },
    )


def read_view(session: Session, row: Selection) -> SelectionView:
    """Return a row as users see it, reading its evaluations."""
    return view(row, progress_of(session, [row.id])[row.id])


@router.post(
    "/v1/selections",
    status_code=202,
    response_model=SelectionView,
    summary="Rank the zoo on a data set",
    responses=responses(400, 401, 403, 404, 409, 413, 422),
)
def create_selection(
    request: SelectionRequest,
    response: Response,
    service: ServiceDep,
    caller: Writer,
    idempotency_key: IdempotencyKeyHeader = None,
) -> Any:
    """Create one evaluation for each model; workers take it from there."""
    body_text = request.model_dump_json(exclude_unset=True)
    fingerprint = hashlib.sha256(f"selections\n{body_text}".encode()).hexdigest()
    with service.database.write() as session:
        keys = IdempotencyKeys(session, caller.tenant)
        answered = keys.begin(idempotency_key, fingerprint) if idempotency_key else None
        if answered is None:
            row = _create(session, caller, request, service.settings.max_images)
            evaluation_ids = [evaluation.id for evaluation in progress_of(session, [row.id])[row.id]]
            answered = 202, read_view(session, row).model_dump(mode="json")
            if idempotency_key:
                keys.finish(idempotency_key, *answered)
        else:
            evaluation_ids = []
    for evaluation_id in evaluation_ids:
        if not service.bell.ring("evaluation", evaluation_id):
            break  # the broker is down; the workers' sweep finds the rest
    response.status_code = answered[0]
    response.headers["Location"] = f"/v1/selections/{answered[1]['id']}"
    response.headers["Retry-After"] = "1"
    return answered[1]


def _create(session: Session, caller: Caller, request: SelectionRequest, max_images: int) -> Selection:
    scores = [find(name).name for name in request.scores or DEFAULT_SCORES]
    models = _models(Models(session), request)
    return Selections(session, caller.tenant).create(
        request.dataset,
        models,
        list(dict.fromkeys(scores)),
        request.name,
        race=request.race.model_dump() if request.race else None,
        budget_seconds=request.budget.worker_seconds if request.budget else None,
        target=request.target.question() if request.target else None,
        verify=request.verify.as_dict() if request.verify else None,
        max_images=max_images,
    )


def _models(zoo: Models, request: SelectionRequest) -> list[Model]:
    if request.models:
        return zoo.choose(request.models)
    models = zoo.active()
    if not models:
        unchecked = zoo.count_unchecked()
        raise Conflict(
            "no_active_models",
            f"The zoo has no active model yet; {unchecked} are waiting for their checks.",
            param="models",
            hint="Wait a minute and try again; see GET /v1/models."
            if unchecked
            else "Ask an admin to register models: POST /v1/models.",
        )
    return models


def _stages(row: Selection) -> _Stages:
    has_gradients = row.target is not None or any(find(name).needs_gradients for name in row.scores)
    return _STAGES_WITH_GRADIENTS if has_gradients else _STAGES


def _progress(evaluations: list[EvaluationProgress], looks: list[int], stages: _Stages) -> SelectionProgress:
    counts = Counter(evaluation.state for evaluation in evaluations)
    running = [evaluation for evaluation in evaluations if evaluation.state == EvaluationState.RUNNING]
    current = [Current(model=e.model_id, name=e.name, **e.progress) for e in running if e.progress]
    cached = sum(bool(e.progress and e.progress.get("stage") == "cached") for e in evaluations)
    return SelectionProgress(
        models=Counts(total=len(evaluations), cached=cached, **counts),
        fraction=round(sum(_share_done(e, looks, stages) for e in evaluations) / max(len(evaluations), 1), 4),
        current=current,
    )


def _share_done(evaluation: EvaluationProgress, looks: list[int], stages: _Stages) -> float:
    """Return how much of its work an evaluation has behind it; that of a look is the images it adds."""
    if evaluation.state in EVALUATION_TERMINAL:
        return 1.0
    behind = looks[evaluation.look - 1] / looks[-1] if evaluation.look else 0.0
    after = looks[evaluation.look] / looks[-1] if looks else 1.0
    if evaluation.state == EvaluationState.RUNNING and evaluation.progress:
        progress = evaluation.progress
        before, in_stage = stages.get(progress["stage"], (0.0, 1.0))
        seen: float = before + in_stage * progress["done"] / max(progress["total"], 1)
        return max(behind, seen * after)
    return behind


@router.get("/v1/selections", summary="List selections, newest first", responses=responses(401, 403, 422))
def list_selections(
    service: ServiceDep, caller: Reader, limit: Limit = 50, after: After = None
) -> ListOf[SelectionView]:
    """List the tenant's selections."""
    with service.database.read() as session:
        page = Selections(session, caller.tenant).page(limit=limit, cursor=after)
        evaluations = progress_of(session, [row.id for row in page.rows])
        views = [view(row, evaluations[row.id]) for row in page.rows]
    return ListOf(data=views, has_more=page.next_cursor is not None, next_cursor=page.next_cursor)


@router.get(
    "/v1/selections/{selection_id}",
    response_model=SelectionView,
    summary="Poll a selection",
    responses=responses(401, 403, 404, 422),
)
async def get_selection(
    selection_id: str,
    service: ServiceDep,
    caller: Reader,
    wait: Wait = 0,
    if_none_match: IfNoneMatch = None,
) -> Any:
    """Return one selection; with `wait`, hold the answer until something changes."""

    def look() -> tuple[int, bool]:
        with service.database.read() as session:
            return Selections(session, caller.tenant).revision(selection_id)

    if wait:
        known = await wait_for_news(look, if_none_match, wait)
        if known is not None:
            return not_modified(known)
    return await run_in_threadpool(_poll, service, caller, selection_id, if_none_match)


@router.post(
    "/v1/selections/{selection_id}/cancel",
    status_code=202,
    response_model=SelectionView,
    summary="Cancel a selection",
    responses=responses(401, 403, 404, 422),
)
def cancel_selection(selection_id: str, service: ServiceDep, caller: Writer) -> SelectionView:
    """End a selection; what was ranked so far stays readable. Cancelling twice is the same as once."""
    with service.database.write() as session:
        return read_view(session, Selections(session, caller.tenant).cancel(selection_id))


def _poll(service: Service, caller: Caller, selection_id: str, known: str | None) -> Response:
    with service.database.read() as session:
        selections = Selections(session, caller.tenant)
        revision, _ = selections.revision(selection_id)
        if is_known(revision, known):
            return not_modified(revision)
        body = service.recent_answers.find(selection_id, revision)
        if body is None:
            row = selections.get(selection_id)
            revision, body = row.revision, read_view(session, row).model_dump_json()
            service.recent_answers.remember(selection_id, revision, body)
    return answer(body, revision)
