"""/v1/models: the zoo. Everybody reads it; admins register, enable and disable."""

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body, Query, Response
from pydantic import BaseModel, Field

from app.api.access import Admin, Reader, ServiceDep
from app.api.envelopes import After, JsonObject, Limit, ListOf, StrictModel, Text
from app.api.model_import import refuse_unusual_name
from app.api.polling import IfNoneMatch, Wait, answer_poll, point_to_job
from app.api.problems import JobError, responses
from app.domain.model_spec import ModelSpec
from app.domain.states import ModelState
from app.storage.repositories.models import Models
from app.storage.tables import Model

router = APIRouter(tags=["models"])


class ModelView(BaseModel):
    """A model version as users see it."""

    id: str
    object: str = "model"
    name: str
    version: int
    status: str
    revision: int
    spec: dict[str, Any]
    facts: dict[str, Any] | None
    checks: list[dict[str, Any]]
    reason: str | None
    error: JobError | None
    created_at: datetime
    updated_at: datetime
    links: dict[str, str]


class ModelPatch(StrictModel):
    """What may change about a model."""

    status: Literal["active", "disabled"]
    reason: Annotated[Text, Field(max_length=1000)] | None = None


def view(row: Model) -> ModelView:
    """Return a row as users see it."""
    return ModelView(
        id=row.id,
        name=row.name,
        version=row.version,
        status=row.state,
        revision=row.revision,
        spec=row.spec,
        facts=row.facts,
        checks=row.checks or [],
        reason=row.reason,
        error=JobError(**row.error) if row.error else None,
        created_at=row.created_at,
        updated_at=row.updated_at,
        links={"self": f"/v1/models/{row.id}"},
    )


_EXAMPLE = {
    "name": "resnet50.imagenet1k_v2",
    "source": {"type": "torchvision", "entry": "resnet50.IMAGENET1K_V2"},
    "architecture": "torchvision:resnet50",
    "license": "bsd-3-clause",
}


@router.post(
    "/v1/models",
    status_code=202,
    response_model=ModelView,
    summary="Register a model, or a new version of one",
    responses=responses(
        400,
        401,
        403,
        413,
        422,
        also={200: {"model": ModelView, "description": "This very version is registered already"}},
    ),
)
def register_model(
    spec: Annotated[JsonObject, Body(examples=[_EXAMPLE])], response: Response, service: ServiceDep, caller: Admin
) -> ModelView:
    """Take a specification; a worker fetches the weights, verifies them and runs the admission checks."""
    model_spec = ModelSpec.from_dict(spec)
    refuse_unusual_name(model_spec)
    with service.database.write() as session:
        row, is_new = Models(session).register(model_spec)
        model = view(row)
    if is_new:
        service.bell.ring("model", model.id)
    point_to_job(response, 202 if is_new else 200, model.links["self"])
    return model


@router.get("/v1/models", summary="List the zoo, newest first", responses=responses(401, 403, 422))
def list_models(
    service: ServiceDep,
    caller: Reader,
    status: Annotated[ModelState | None, Query(description="Only models in this state.")] = None,
    limit: Limit = 50,
    after: After = None,
) -> ListOf[ModelView]:
    """List model versions."""
    with service.database.read() as session:
        page = Models(session).page(limit=limit, cursor=after, state=status)
    return ListOf.of(page, view)


@router.get(
    "/v1/models/{model_id}",
    response_model=ModelView,
    summary="Read a model, its facts and its checks",
    responses=responses(401, 403, 404, 422),
)
async def get_model(
    model_id: str,
    service: ServiceDep,
    caller: Reader,
    wait: Wait = 0,
    if_none_match: IfNoneMatch = None,
) -> Any:
    """Return one model version; `wait` holds the answer while it is being checked."""
    return await answer_poll(service, Models, model_id, lambda _, row: view(row), known=if_none_match, wait=wait)


@router.patch(
    "/v1/models/{model_id}",
    summary="Enable or disable a model",
    responses=responses(400, 401, 403, 404, 409, 413, 422),
)
def change_model(model_id: str, patch: ModelPatch, service: ServiceDep, caller: Admin) -> ModelView:
    """Switch a model off or on again; rankings made with it stay as they are."""
    with service.database.write() as session:
        return view(Models(session).switch(model_id, ModelState(patch.status), patch.reason))
