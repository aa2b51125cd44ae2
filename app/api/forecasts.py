"""/v1/selections/{id}/models/{model}/forecast: how long fine-tuning takes, and what if it were done otherwise."""

from dataclasses import replace
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from app.api.access import Reader, Service, ServiceDep
from app.api.problems import JobError, responses
from app.api.recipes import HardwareRequest
from app.domain.errors import BadRequest, Conflict, EvaluationFailed, NotFound
from app.domain.states import EVALUATION_TERMINAL
from app.storage.repositories.selections import Selections, evaluations_of
from app.storage.tables import Evaluation, Model

router = APIRouter(tags=["selections"])


class Target(BaseModel):
    """What counts as trained."""

    kind: str
    value: float


class ForecastTraining(BaseModel):
    """The training that a forecast is of."""

    learning_rate: float = Field(description="The largest of the recipe's with which the linear model holds.")
    batch_size: int
    steps: int
    epochs: int
    images: int = Field(description="That are trained on.")
    momentum: float
    nesterov: bool
    weight_decay: float
    milestones: list[int]
    gamma: float
    loss: str


class ForecastTime(BaseModel):
    """When fine-tuning is expected to reach its target."""

    verdict: Literal["reached", "not_reached", "unstable"] = Field(
        description="`unstable`: the learning rate is too large for this model, and no number is given."
    )
    steps: float | None
    interval: tuple[float, float] | None
    confidence: float | None = Field(
        description="Share of trainings that the interval shall hold; null where it rests on no measurement."
    )
    seconds: float | None
    seconds_interval: tuple[float, float] | None
    cost: float | None
    cost_interval: tuple[float, float] | None
    largest_learning_rate: float | None
    level: float | None = Field(description="The loss or accuracy to reach.")
    best: float | None = Field(description="The lowest loss, or highest accuracy, within the steps.")
    definition: str
    target: Target
    training: ForecastTraining
    step_seconds: float | None
    device: str = Field(description="That a step was timed on.")
    hardware: HardwareRequest = Field(description="Whose seconds these are.")
    measured_images: int = Field(description="Whose gradients were measured.")
    simulated_images: int = Field(description="Those, and others whose gradients follow from their features.")
    method: str
    warnings: list[str]


class ForecastCurve(BaseModel):
    """Training loss and accuracy after each step: the median, and where nine of ten runs are above or below."""

    steps: list[int]
    loss: list[float]
    low: list[float]
    high: list[float]
    accuracy: list[float]


class Forecast(ForecastTime):
    """A forecast of one model's fine-tuning."""

    selection: str
    model: str
    name: str
    curve: ForecastCurve | None


_PARAMETERS = {"recipe.max_steps": "max_steps", "learning_rates": "lr", "batch_size": "batch"}
"""What the fields of a recipe are called in the query."""

Method = Literal["bilinear", "linear_probe", "frozen_kernel", "gradient_flow", "diffusion"]


@router.get(
    "/v1/selections/{selection_id}/models/{model}/forecast",
    summary="Forecast a model's fine-tuning; parameters ask what if",
    responses=responses(401, 403, 404, 409, 410, 422),
)
def get_forecast(
    selection_id: str,
    model: str,
    service: ServiceDep,
    caller: Reader,
    lr: Annotated[float | None, Query(gt=0, le=1000, allow_inf_nan=False, description="Learning rate.")] = None,
    batch: Annotated[int | None, Query(ge=1, le=4096, description="Batch size.")] = None,
    epochs: Annotated[int | None, Query(ge=1, le=1000)] = None,
    max_steps: Annotated[int | None, Query(ge=1, le=1_000_000, description="Where the epochs would need more.")] = None,
    momentum: Annotated[float | None, Query(ge=0, lt=1, allow_inf_nan=False)] = None,
    weight_decay: Annotated[float | None, Query(ge=0, le=1, allow_inf_nan=False)] = None,
    schedule: Annotated[Literal["milestones", "constant"] | None, Query()] = None,
    loss: Annotated[Literal["cross_entropy", "squared"] | None, Query()] = None,
    target: Annotated[
        float | None,
        Query(
            gt=0,
            le=1000,
            allow_inf_nan=False,
            description="The level, in the unit of the selection's target or of `kind`.",
        ),
    ] = None,
    kind: Annotated[Literal["fraction_of_initial", "fraction_of_drop", "loss", "accuracy"] | None, Query()] = None,
    speed: Annotated[
        float | None, Query(gt=0, le=1e6, allow_inf_nan=False, description="Of the machine, over the worker's.")
    ] = None,
    price_per_hour: Annotated[float | None, Query(ge=0, le=1e6, allow_inf_nan=False)] = None,
    method: Annotated[Method | None, Query()] = None,
) -> Forecast:
    """Answer from what the worker stored: no network runs. Without parameters it is what the results say."""
    from threadpoolctl import threadpool_limits

    from app.forecasting.question import Question, answer  # here, for it loads numpy and scipy

    with service.database.read() as session:
        selection = Selections(session, caller.tenant).get(selection_id)
        asked = selection.target
        evaluation, row = _find(evaluations_of(session, selection_id), model, selection_id)
    if asked is None:
        raise Conflict(
            "no_forecast",
            f"Selection {selection_id} was not asked to forecast fine-tuning.",
            param="selection",
            hint='Ask for a new selection with "target": {}; what is known of the models is not computed again.',
        )
    question = Question.from_dict(asked)
    changes = {
        "learning_rates": None if lr is None else (lr,),
        "batch_size": batch,
        "epochs": epochs,
        "max_steps": max_steps,
        "momentum": momentum,
        "weight_decay": weight_decay,
        "schedule": schedule,
        "loss": loss,
    }
    given: dict[str, Any] = {name: value for name, value in changes.items() if value is not None}
    machine = {"speed": speed, "price_per_hour": price_per_hour}
    on: dict[str, Any] = {name: value for name, value in machine.items() if value is not None}
    if target is None and kind not in (None, question.target.kind):
        raise BadRequest(
            "invalid_target",
            f"{question.target.value:g} is a level of {question.target.kind}, not of {kind}.",
            param="target",
            hint=f"Say which {kind} counts as trained: target=...",
        )
    level = _level(kind or question.target.kind, question.target.value if target is None else target)
    question = replace(
        question,
        target=level,
        recipe=replace(question.recipe, **given),
        hardware=replace(question.hardware, **on),
        method=method or question.method,
    )
    measured = _measured(service, evaluation, row, selection_id)
    try:
        # As the worker does it: with another number of threads the last digits would differ from those in the results.
        with threadpool_limits(1, user_api="blas"):
            found = answer(measured, question)
    except EvaluationFailed as error:
        raise Conflict(error.code, error.message, param=error.param, hint=error.hint) from error
    except BadRequest as error:
        param = _PARAMETERS.get(error.param or "", error.param)
        raise BadRequest(error.code, error.message, param=param, hint=error.hint) from error
    return Forecast(selection=selection_id, model=row.id, name=row.name, **found)


def _level(kind: Any, value: float) -> Any:
    from app.forecasting.target import Target as Level

    try:
        return Level(kind=kind, value=value)
    except BadRequest as error:
        raise BadRequest(error.code, error.message, param="target", hint=error.hint) from error


def as_time(found: dict[str, Any] | None) -> tuple[ForecastTime | None, JobError | None]:
    """Return what results say of a stored forecast: its numbers, or why there are none."""
    if found is None:
        return None, None
    if found["error"] is not None:
        return None, JobError(**found["error"])
    return ForecastTime(**found), None


def _find(evaluations: list[tuple[Evaluation, Model]], wanted: str, selection_id: str) -> tuple[Evaluation, Model]:
    for evaluation, model in evaluations:
        if wanted in (model.id, model.name):
            return evaluation, model
    raise NotFound(
        "model_not_found",
        f"Selection {selection_id} has no model {wanted}.",
        param="model",
        hint="Its models: " + ", ".join(model.name for _, model in evaluations) + ".",
    )


def _measured(service: Service, evaluation: Evaluation, model: Model, selection_id: str) -> Any:
    from app.forecasting.measured_network import MeasuredNetwork

    found = (evaluation.result or {}).get("forecast")
    if found is None:
        is_over = evaluation.state in EVALUATION_TERMINAL
        raise Conflict(
            "forecast_not_ready",
            f"{model.name} has not been measured{'' if is_over else ' yet'}; its evaluation is {evaluation.state}.",
            param="model",
            hint="Ask for a new selection with this model, without race and budget."
            if is_over
            else f"Wait for the selection: GET /v1/selections/{selection_id}?wait=30.",
        )
    if found["object"] is None:
        error = found["error"]
        raise Conflict(error["code"], error["message"], param=error["param"], hint=error["hint"])
    try:
        with service.objects.open(found["object"]) as file:
            return MeasuredNetwork.load(file.read())
    except FileNotFoundError:
        raise Conflict(
            "forecast_gone",
            f"What the forecasts of selection {selection_id} are made from has been deleted with its data set.",
            param="selection",
            hint="Upload the data set again and ask for a new selection.",
        ) from None
