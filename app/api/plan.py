"""/v1/plan: how long a selection would take, before it is asked for."""

from collections.abc import Set
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from app.api.access import Reader, ServiceDep
from app.api.chosen_models import choose_models
from app.api.model_constraints import ConstraintsQuery, ZooName
from app.api.problems import responses
from app.config import Settings
from app.domain.errors import Conflict
from app.domain.planning import Past, Work, estimate, plan
from app.scoring.registry import DEFAULT_SCORES, find
from app.storage.repositories.measurements import devices_alive, past_evaluations, speed_of

router = APIRouter(tags=["selections"])


class PlannedModel(BaseModel):
    """What one model would take."""

    name: str
    seconds: float


class PlanView(BaseModel):
    """What a selection would take."""

    object: str = "plan"
    images: int = Field(description="That would be evaluated: a larger data set is sampled.")
    models: int
    workers: int
    device: str = Field(description="Of the workers.")
    seconds: float = Field(description="Until the last model is ranked, beginning with idle workers and no features.")
    interval: list[float] | None = Field(description="That holds the seconds of 80 % of selections.")
    first_seconds: float = Field(description="Until the first model is ranked.")
    worker_seconds: float = Field(description="Of all workers together.")
    evaluations: int = Field(description="How many past evaluations this rests on.")
    slowest: list[PlannedModel]
    unmeasured: list[str] = Field(
        description="Models of which no speed is known; planned as the slowest of the others."
    )


@router.get("/v1/plan", summary="Plan a selection", responses=responses(401, 403, 409, 422))
def plan_selection(
    service: ServiceDep,
    caller: Reader,
    constraints: ConstraintsQuery,
    images: Annotated[int, Query(ge=1, le=10**9, description="Of the data set.")],
    models: Annotated[
        int | None, Query(ge=1, le=10_000, description="How many, like those of the zoo; without it, the zoo's.")
    ] = None,
    workers: Annotated[
        int | None, Query(ge=1, le=100_000, description="Like those that are alive; without it, these.")
    ] = None,
    scores: Annotated[
        list[str] | None, Query(max_length=100, description="As of a selection: those of gradients take longest.")
    ] = None,
    forecast: Annotated[bool, Query(description="Whether fine-tuning is forecast, too.")] = False,
    zoo: Annotated[ZooName | None, Query(description="Only members of this part of the zoo.")] = None,
) -> PlanView:
    """Foretell how long a selection takes, from what admission measured and what past evaluations took."""
    settings = service.settings
    with service.database.read() as session:
        queue = choose_models(session, None, constraints, zoo)
        alive = devices_alive(session)
        device = next(iter(alive), _most_frequent([(model.facts or {}).get("measured_on") for model in queue]))
        pasts = past_evaluations(session, queue, device)
    speeds = {model.id: speed_of(model) for model in queue}
    known = {model_id: speed for model_id, speed in speeds.items() if speed is not None}
    if not known:
        raise Conflict(
            "nothing_measured",
            "No active model has a measured speed yet, so nothing can be planned.",
            param="models",
            hint="Register models and wait for their checks: see GET /v1/models.",
        )
    workers = workers or alive.get(device, 1)
    has_gradients = any(find(name).needs_gradients for name in scores or DEFAULT_SCORES)
    runs = {run for run, is_asked in (("gradients", has_gradients), ("forecast", forecast)) if is_asked}
    work = _work(settings, images, runs)
    slowest = max(known.values(), key=lambda speed: estimate(speed, work))
    number = models or len(queue)
    past = [
        Past(speed.name, estimate(speed, _work(settings, one.images, one.ran)), one.seconds)
        for one in pasts
        if (speed := known.get(one.model_id)) is not None
    ]
    found = plan([known.get(queue[n % len(queue)].id, slowest) for n in range(number)], work, workers, past)
    by_seconds = sorted(dict(found.by_model).items(), key=lambda item: -item[1])
    return PlanView(
        images=work.images,
        models=number,
        workers=workers,
        device=device,
        seconds=round(found.seconds, 1),
        interval=None if found.interval is None else [round(bound, 1) for bound in found.interval],
        first_seconds=round(found.first_seconds, 1),
        worker_seconds=round(found.worker_seconds, 1),
        evaluations=found.past,
        slowest=[PlannedModel(name=name, seconds=round(seconds, 2)) for name, seconds in by_seconds[:5]],
        unmeasured=[model.name for model in queue if model.id not in known],
    )


def _work(settings: Settings, images: int, runs: Set[str]) -> Work:
    """Return what is done with each model whose network runs for features and for ``runs``."""
    return Work(
        images=min(images, settings.max_images),
        gradient_images=settings.gradient_images if "gradients" in runs else 0,
        forecast_images=settings.forecast_images if "forecast" in runs else 0,
    )


def _most_frequent(names: list[str | None]) -> str:
    known = [name for name in names if name]
    return max(set(known), key=known.count) if known else "cpu"
