"""/v1/finetunes: really fine-tune models on a data set, and take the tuned weights home."""

from datetime import datetime
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Query, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field
from sqlalchemy.orm import Session

from app.api.access import Reader, ServiceDep, Writer
from app.api.envelopes import After, Limit, ListOf, Name, Notice, Progress, RetentionDays, StrictModel, Text
from app.api.idempotency import IdempotencyKeyHeader, answer_once
from app.api.polling import ASKED_FOR, WITH_ETAG, IfNoneMatch, Wait, answer_poll, point_to_job
from app.api.problems import JobError, responses
from app.api.recipes import RecipeRequest
from app.domain.errors import Conflict, NotFound
from app.domain.finetuning import Recipe
from app.domain.retention import expiry
from app.storage.repositories.datasets import deleted_among
from app.storage.repositories.finetunes import Finetunes
from app.storage.repositories.models import Models, deprecations
from app.storage.repositories.usage import Allowance
from app.storage.tables import Finetune

router = APIRouter(tags=["finetunes"])

_MOST_MODELS = 10
_CHUNK_BYTES = 1 << 20


class FinetuneBudget(StrictModel):
    """How much may be spent; of several models, those that fall behind are given up for it."""

    worker_seconds: float = Field(ge=1, le=1e9, description="Seconds that a worker holds the fine-tune.")


class FinetuneRequest(StrictModel):
    """Which models to fine-tune on which data set."""

    dataset: Text = Field(description="Id of a data set that is ready.")
    models: Annotated[list[Text], Field(min_length=1, max_length=_MOST_MODELS)] = Field(
        description="Ids or names of active models, or deprecated ones, the most promising first."
    )
    recipe: RecipeRequest | None = Field(default=None, description="What is left out is as in arXiv:2102.00084.")
    budget: FinetuneBudget | None = Field(default=None, description="Without it, every model is trained to the end.")
    retention_days: RetentionDays | None = None
    name: Name | None = None


class Trial(BaseModel):
    """How training with one learning rate went."""

    learning_rate: float
    verdict: str
    steps: int
    validation_loss: float | None
    validation_accuracy: float | None


class CurvePoint(BaseModel):
    """Loss and accuracy after some steps."""

    step: int
    train_loss: float
    train_accuracy: float
    validation_loss: float
    validation_accuracy: float


class TunedModel(BaseModel):
    """What became of one model."""

    model: str
    name: str
    verdict: str = Field(
        description="`trained`; `stuck`: its loss did not fall; `diverged`; `given_up`: others were better on "
        "validation images; `failed`: see `error`."
    )
    learning_rate: float | None = Field(description="The best on the validation images.")
    test_accuracy: float | None = Field(description="Of images that neither training nor that choice has seen.")
    interval: tuple[float, float] | None
    interval_level: float | None
    steps: int
    full_steps: int = Field(description="Of the whole recipe.")
    step_seconds: float | None
    seconds: float
    trials: list[Trial]
    curve: list[CurvePoint]
    warnings: list[str]
    weights: str | None = Field(
        description="Where the tuned weights are, with a model card and a script; null once the data set was deleted."
    )
    error: JobError | None


class FinetuneView(BaseModel):
    """A fine-tune as users see it."""

    id: str
    object: str = "finetune"
    name: str
    dataset: str
    selection: str | None = Field(description="The selection whose ranking it proves.")
    status: str
    revision: int
    progress: Progress | None
    recipe: dict[str, Any]
    budget: FinetuneBudget | None
    worker_seconds: float
    device: str | None
    images: dict[str, int] | None = Field(description="How many train, choose the learning rate, and test.")
    asked: list[str] = Field(description="Ids of the models to train.")
    models: list[TunedModel] = Field(description="Those that have ended, the best first.")
    warnings: list[Notice] = Field(description="Such as `model_deprecated`.")
    created_at: datetime
    updated_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    expires_at: datetime | None = Field(description="When it is deleted, and its weights, if it has ended by then.")
    error: JobError | None
    links: dict[str, str]


def view(row: Finetune, *, has_weights: bool = True) -> FinetuneView:
    """Return a row as users see it; without weights if they went with their data set."""
    path, result = f"/v1/finetunes/{row.id}", row.result or {}
    return FinetuneView(
        id=row.id,
        name=row.name,
        dataset=row.dataset_id,
        selection=row.selection_id,
        status=row.state,
        revision=row.revision,
        progress=Progress(**row.progress) if row.progress else None,
        recipe=row.recipe,
        budget=FinetuneBudget(worker_seconds=row.budget_seconds) if row.budget_seconds else None,
        worker_seconds=round(row.spent_seconds, 3),
        device=result.get("device"),
        images=result.get("images"),
        asked=row.model_ids,
        models=[_tuned(path, found, has_weights=has_weights) for found in result.get("models", [])],
        warnings=[Notice(**warning) for warning in row.warnings],
        created_at=row.created_at,
        updated_at=row.updated_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
        expires_at=row.expires_at,
        error=JobError(**row.error) if row.error else None,
        links={"self": path, "cancel": f"{path}/cancel", "dataset": f"/v1/datasets/{row.dataset_id}"},
    )


def _tuned(path: str, found: dict[str, Any], *, has_weights: bool) -> TunedModel:
    weights = f"{path}/weights?model={found['model']}" if found["object"] and has_weights else None
    return TunedModel(**{**found, "weights": weights})


def read_view(session: Session, row: Finetune) -> FinetuneView:
    """Return a row as users see it, looking whether its data set is still there."""
    return view(row, has_weights=not deleted_among(session, [row.dataset_id]))


@router.post(
    "/v1/finetunes",
    status_code=202,
    response_model=FinetuneView,
    summary="Fine-tune models on a data set",
    responses=responses(400, 401, 403, 404, 409, 410, 413, 422, also=ASKED_FOR),
)
def create_finetune(
    request: FinetuneRequest,
    response: Response,
    service: ServiceDep,
    caller: Writer,
    idempotency_key: IdempotencyKeyHeader = None,
) -> Any:
    """Queue a fine-tune: the learning rate is chosen on validation images, the accuracy measured on test images."""
    recipe = request.recipe.read("recipe") if request.recipe else Recipe()
    with service.database.write() as session:

        def create() -> tuple[int, FinetuneView]:
            allowance = Allowance(session, caller.tenant, "open_finetunes", "worker_seconds_per_day")
            allowance.demand(open_finetunes=1, worker_seconds_per_day=1)
            models = Models(session).choose(request.models)
            row = Finetunes(session, caller.tenant).create(
                request.dataset,
                [model.id for model in models],
                recipe.as_dict(),
                request.name,
                budget_seconds=request.budget.worker_seconds if request.budget else None,
                expires_at=expiry(request.retention_days or service.settings.retention_days),
                warnings=deprecations(models),
            )
            return 202, view(row)

        asked = "finetunes", request.model_dump_json(exclude_unset=True)
        answer = answer_once(session, caller.tenant, idempotency_key, asked, create)
    if answer.is_new:
        service.bell.ring("finetune", answer.body["id"])
    point_to_job(response, answer.status, answer.path, retry_after=5)
    return answer.body


@router.get("/v1/finetunes", summary="List fine-tunes, newest first", responses=responses(401, 403, 422))
def list_finetunes(service: ServiceDep, caller: Reader, limit: Limit = 50, after: After = None) -> ListOf[FinetuneView]:
    """List the tenant's fine-tunes."""
    with service.database.read() as session:
        page = Finetunes(session, caller.tenant).page(limit=limit, cursor=after)
        deleted = deleted_among(session, [row.dataset_id for row in page.rows])
    return ListOf.of(page, lambda row: view(row, has_weights=row.dataset_id not in deleted))


@router.get(
    "/v1/finetunes/{finetune_id}",
    response_model=FinetuneView,
    summary="Poll a fine-tune",
    responses=responses(401, 403, 404, 410, 422, also=WITH_ETAG),
)
async def get_finetune(
    finetune_id: str,
    service: ServiceDep,
    caller: Reader,
    wait: Wait = 0,
    if_none_match: IfNoneMatch = None,
) -> Any:
    """Return one fine-tune; with `wait`, hold the answer until something changes."""
    return await answer_poll(
        service,
        lambda session: Finetunes(session, caller.tenant),
        finetune_id,
        read_view,
        known=if_none_match,
        wait=wait,
    )


@router.post(
    "/v1/finetunes/{finetune_id}/cancel",
    status_code=202,
    response_model=FinetuneView,
    summary="Cancel a fine-tune",
    responses=responses(401, 403, 404, 410, 422),
)
def cancel_finetune(finetune_id: str, service: ServiceDep, caller: Writer) -> FinetuneView:
    """End a fine-tune; models that were trained by then stay readable. Cancelling twice is the same as once."""
    with service.database.write() as session:
        return read_view(session, Finetunes(session, caller.tenant).cancel(finetune_id))


@router.get(
    "/v1/finetunes/{finetune_id}/weights",
    response_class=StreamingResponse,
    summary="Download tuned weights, their model card and a script",
    responses=responses(
        401, 403, 404, 409, 410, 422, also={200: {"content": {"application/zip": {"schema": {"type": "string"}}}}}
    ),
)
def get_weights(
    finetune_id: str,
    service: ServiceDep,
    caller: Reader,
    model: Annotated[str | None, Query(description="Id or name; by default the best on the test images.")] = None,
) -> StreamingResponse:
    """Return a zip of `weights.safetensors`, `README.md` and `finetune.py`, which needs no Foretune to run."""
    with service.database.read() as session:
        row = Finetunes(session, caller.tenant).get(finetune_id)
        is_gone = bool(deleted_among(session, [row.dataset_id]))
    found = _with_weights(row, model)
    if is_gone:  # its objects may be another data set's of the same content, too, and then are still there
        raise _weights_gone(finetune_id)
    try:
        file = service.objects.open(found["object"])
    except FileNotFoundError:
        raise _weights_gone(finetune_id) from None

    def chunks() -> Any:
        with file:
            while chunk := file.read(_CHUNK_BYTES):
                yield chunk

    name = quote(f"{found['name']}-{finetune_id}.zip", safe="")
    headers = {"Content-Disposition": f"attachment; filename=\"{finetune_id}.zip\"; filename*=UTF-8''{name}"}
    return StreamingResponse(chunks(), media_type="application/zip", headers=headers)


def _with_weights(row: Finetune, wanted: str | None) -> dict[str, Any]:
    trained = [found for found in (row.result or {}).get("models", []) if found["object"]]
    if wanted is not None:
        trained = [found for found in trained if wanted in (found["model"], found["name"])]
    if not trained:
        raise NotFound(
            "weights_not_found",
            f"Fine-tune {row.id} has no weights of {wanted or 'any model'}; it is {row.state}.",
            param="model",
            hint=f"See GET /v1/finetunes/{row.id}: models that were trained to the end have weights.",
        )
    best: dict[str, Any] = max(trained, key=lambda found: found["test_accuracy"] or 0.0)
    return best


def _weights_gone(finetune_id: str) -> Conflict:
    return Conflict(
        "weights_gone",
        f"The weights of fine-tune {finetune_id} have been deleted with its data set.",
        param="finetune",
        hint="Upload the data set again and fine-tune once more.",
    )
