"""/v1/plan: how long a selection would take, before it is asked for."""

from collections.abc import Iterable, Set
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from app.api.access import Reader, ServiceDep
from app.api.chosen_models import choose_models
from app.api.envelopes import Notice
from app.api.model_constraints import ConstraintsQuery, ZooName
from app.api.problems import responses
from app.config import Settings
from app.domain.errors import Conflict
from app.domain.speeds import ModelSpeed, Past, Plan, Work, estimate
from app.scoring.registry import DEFAULT_SCORES, find
from app.storage.repositories.measurements import devices_alive, past_evaluations, speed_of

router = APIRouter(tags=["selections"])

_MOST_NAMED = 5


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
    warnings: list[Notice] = Field(
        description="`measured_elsewhere`: models planned by their speed on another kind of device; `no_worker_alive` "
        "on this one; `other_devices`: workers on these are not counted."
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
        int | None, Query(ge=1, le=100_000, description="Of one kind; without it, as many as are alive.")
    ] = None,
    device: Annotated[
        str | None,
        Query(max_length=200, description="Their kind, as `device` of a plan names it; without it, the most frequent."),
    ] = None,
    scores: Annotated[
        list[str] | None, Query(max_length=100, description="As of a selection: those of gradients take longest.")
    ] = None,
    forecast: Annotated[bool, Query(description="Whether fine-tuning is forecast, too.")] = False,
    zoo: Annotated[ZooName | None, Query(description="Only members of this part of the zoo.")] = None,
) -> PlanView:
    """Foretell how long a selection takes, from what admission measured and what past evaluations took."""
    from app.domain.planning import plan  # here, for it loads numpy

    settings = service.settings
    with service.database.read() as session:
        queue = choose_models(session, None, constraints, zoo)
        alive = devices_alive(session)
        speeds = {model.id: speed_of(model) for model in queue}
        measured_on = [speed.measured_on for speed in speeds.values() if speed]
        planned_on = device or next(iter(alive), _most_frequent(measured_on))
        pasts = past_evaluations(session, queue, planned_on)
    known = {model_id: speed for model_id, speed in speeds.items() if speed is not None}
    if not known:
        raise Conflict(
            "nothing_measured",
            "No active model has a measured speed yet, so nothing can be planned.",
            param="models",
            hint="Register models and wait for their checks: see GET /v1/models.",
        )
    has_gradients = any(find(name).needs_gradients for name in scores or DEFAULT_SCORES)
    runs = {run for run, is_asked in (("gradients", has_gradients), ("forecast", forecast)) if is_asked}
    work = _work(settings, images, runs)
    slowest = max(known.values(), key=lambda speed: estimate(speed, work))
    number = models or len(queue)
    past = [
        Past(speed, estimate(speed, _work(settings, one.images, one.ran)), one.seconds)
        for one in pasts
        if (speed := known.get(one.model_id)) is not None
    ]
    count = workers or alive.get(planned_on, 1)
    taken = [known.get(queue[n % len(queue)].id, slowest) for n in range(number)]
    found = plan(taken, work, count, planned_on, past)
    warnings = _warnings(
        planned_on, alive, found, known.values(), is_asked=device is not None, is_counted=workers is not None
    )
    by_seconds = sorted(dict(found.by_model).items(), key=lambda item: -item[1])
    return PlanView(
        images=work.images,
        models=number,
        workers=count,
        device=planned_on,
        seconds=round(found.seconds, 1),
        interval=None if found.interval is None else [round(bound, 1) for bound in found.interval],
        first_seconds=round(found.first_seconds, 1),
        worker_seconds=round(found.worker_seconds, 1),
        evaluations=found.past,
        slowest=[PlannedModel(name=name, seconds=round(seconds, 2)) for name, seconds in by_seconds[:5]],
        unmeasured=[model.name for model in queue if model.id not in known],
        warnings=[Notice(**warning) for warning in warnings],
    )


def _warnings(
    device: str, alive: dict[str, int], found: Plan, known: Iterable[ModelSpeed], *, is_asked: bool, is_counted: bool
) -> list[dict[str, str]]:
    """Return what the plan leaves out.

    Args:
        device: planned for.
        alive: workers by their kind of device.
        found: the plan.
        known: speeds of models, measured on whatever device.
        is_asked: whether ``device`` was asked for.
        is_counted: whether a number of workers was.
    """
    warnings = []
    if found.measured_elsewhere:
        names = ", ".join(found.measured_elsewhere[:_MOST_NAMED])
        more = len(found.measured_elsewhere) - _MOST_NAMED
        others = " or ".join(sorted({speed.measured_on for speed in known} - {device}))
        detail = (
            f"Planned by their speed on {others}, for nothing tells how fast {device} is with them: "
            f"{names}{f' and {more} more' if more > 0 else ''}."
        )
        warnings.append({"code": "measured_elsewhere", "detail": detail})
    if not is_counted and device not in alive:
        detail = f"No worker on {device} is alive: this is the plan of one."
        warnings.append({"code": "no_worker_alive", "detail": detail})
    others = ", ".join(f"{count} on {other}" for other, count in alive.items() if other != device)
    if others and not is_asked and not is_counted:
        warnings.append({"code": "other_devices", "detail": f"Not counted are the workers on other devices: {others}."})
    return warnings


def _work(settings: Settings, images: int, runs: Set[str]) -> Work:
    """Return what is done with each model whose network runs for features and for ``runs``."""
    return Work(
        images=min(images, settings.max_images),
        gradient_images=settings.gradient_images if "gradients" in runs else 0,
        forecast_images=settings.forecast_images if "forecast" in runs else 0,
    )


def _most_frequent(names: list[str]) -> str:
    return max(sorted(set(names)), key=names.count) if names else "cpu"
