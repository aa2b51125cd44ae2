"""/v1/models: the zoo. Everybody reads it; admins register models, switch and tag them."""

from collections.abc import Callable, Set
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body, Query, Response
from pydantic import BaseModel, Field

from app.api.access import Admin, Reader, ServiceDep
from app.api.envelopes import After, JsonObject, Limit, ListOf, StrictModel, Text
from app.api.model_constraints import ConstraintsQuery
from app.api.polling import WITH_ETAG, IfNoneMatch, Wait, answer_poll, known_already, point_to_job
from app.api.problems import JobError, responses
from app.api.recent_callers import Caller
from app.api.weights import refuse_missing_upload
from app.domain.errors import BadRequest
from app.domain.labels import read_tags
from app.domain.model_description import Capability
from app.domain.model_sources import for_every_reader
from app.domain.states import ModelState
from app.manifest import read_row
from app.storage.repositories.model_events import events_of
from app.storage.repositories.model_filters import describe
from app.storage.repositories.models import Models
from app.storage.repositories.zoos import Zoos
from app.storage.tables import Model, ModelEvent

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
    license: str = Field(description="This and what follows is what constraints and results go by.")
    pretraining: list[str] = Field(description="Data sets.")
    family: str | None
    parameters: int | None
    gflops: float | None = Field(description="10^9 floating-point operations an image.")
    memory_bytes: int | None = Field(description="Of the weights and a forward pass of 32 images.")
    capabilities: list[Capability]
    tags: list[str]
    reason: str | None = Field(description="Of the last change of its status.")
    error: JobError | None
    created_at: datetime
    updated_at: datetime
    links: dict[str, str]


class ModelPatch(StrictModel):
    """What may change about a model: its status, its tags or both. Each change is a line of its audit log."""

    status: Literal["active", "disabled", "deprecated", "pending", "rejected"] | None = Field(
        default=None,
        description="`disabled`: in no selection; `deprecated`: only in those that name it; `pending`: a model that "
        "was rejected or quarantined is checked again; `rejected`: one whose checks have not ended is withdrawn.",
    )
    tags: list[str] | None = Field(default=None, description="In place of those it has.")
    add_tags: list[str] | None = Field(default=None, description="Beside those it has, whatever they are.")
    remove_tags: list[str] | None = Field(default=None, description="Which it may have or not.")
    reason: Annotated[Text, Field(max_length=1000)] | None = Field(
        default=None, description="For the audit log; a model is deprecated only with one."
    )


class ModelEventView(BaseModel):
    """One line of a model's audit log."""

    id: str
    object: str = "model_event"
    at: datetime
    actor: str = Field(description="The key, by name and id, or the worker.")
    action: str
    reason: str | None
    details: dict[str, Any]


def event_view(row: ModelEvent) -> ModelEventView:
    """Return a line of the audit log as users see it."""
    return ModelEventView(
        id=row.id, at=row.created_at, actor=row.actor, action=row.action, reason=row.reason, details=row.details
    )


def view(row: Model) -> ModelView:
    """Return a row as admins see it."""
    known = describe(row)
    return ModelView(
        id=row.id,
        name=row.name,
        version=row.version,
        status=row.state,
        revision=row.revision,
        spec=row.spec,
        facts=row.facts,
        checks=row.checks or [],
        license=known.license,
        pretraining=list(known.pretrained_on),
        family=known.family,
        parameters=known.parameters,
        gflops=known.gflops,
        memory_bytes=None if known.memory_bytes is None else round(known.memory_bytes),
        capabilities=list(known.capabilities),
        tags=row.tags,
        reason=row.reason,
        error=JobError(**row.error) if row.error else None,
        created_at=row.created_at,
        updated_at=row.updated_at,
        links={"self": f"/v1/models/{row.id}", "events": f"/v1/models/{row.id}/events"},
    )


def reader_view(row: Model) -> ModelView:
    """Return a row as everybody sees it: without the queries of addresses, which may open what is behind them."""
    model = view(row)
    model.spec = for_every_reader(model.spec)
    if model.facts and isinstance(model.facts.get("resolved"), dict):
        model.facts = {**model.facts, "resolved": for_every_reader(model.facts["resolved"])}
    return model


def _view_for(caller: Caller) -> Callable[[Model], ModelView]:
    return view if "admin" in caller.scopes else reader_view


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
        also=known_already(ModelView, "This very version is registered already"),
    ),
)
def register_model(
    spec: Annotated[JsonObject, Body(examples=[_EXAMPLE])], response: Response, service: ServiceDep, caller: Admin
) -> ModelView:
    """Take a specification; a worker fetches the weights, verifies them and runs the admission checks.

    `tags` beside its fields are the model's, and no part of the specification.
    """
    model_spec, tags = read_row(spec)
    refuse_missing_upload(model_spec, service.objects)
    with service.database.write() as session:
        row, is_new = Models(session, actor=caller.actor).register(model_spec, tags=tags)
        model = view(row)
    if is_new:
        service.bell.ring("model", model.id)
    point_to_job(response, 202 if is_new else 200, model.links["self"])
    return model


@router.get("/v1/models", summary="List the zoo, newest first", responses=responses(401, 403, 422))
def list_models(
    service: ServiceDep,
    caller: Reader,
    constraints: ConstraintsQuery,
    status: Annotated[ModelState | None, Query(description="Only models in this state.")] = None,
    zoo: Annotated[str | None, Query(description="Only members of this named part of the zoo.")] = None,
    limit: Limit = 50,
    after: After = None,
) -> ListOf[ModelView]:
    """List model versions that satisfy all constraints; a selection takes the same."""
    with service.database.read() as session:
        if zoo is not None:
            Zoos(session).require(zoo)
        page = Models(session).page(limit=limit, cursor=after, state=status, constraints=constraints, zoo=zoo)
    return ListOf.of(page, _view_for(caller))


@router.get(
    "/v1/models/{model_id}",
    response_model=ModelView,
    summary="Read a model, its facts and its checks",
    responses=responses(401, 403, 404, 422, also=WITH_ETAG),
)
async def get_model(
    model_id: str,
    service: ServiceDep,
    caller: Reader,
    wait: Wait = 0,
    if_none_match: IfNoneMatch = None,
) -> Any:
    """Return one model version; `wait` holds the answer while it is being checked."""
    show = _view_for(caller)
    return await answer_poll(
        service,
        Models,
        model_id,
        lambda _, row: show(row),
        known=if_none_match,
        wait=wait,
        shown_as=show.__name__,
    )


@router.get(
    "/v1/models/{model_id}/events",
    summary="Read a model's audit log, newest first",
    responses=responses(401, 403, 404, 422),
)
def list_events(
    model_id: str, service: ServiceDep, caller: Reader, limit: Limit = 50, after: After = None
) -> ListOf[ModelEventView]:
    """Say who did what to a model, when and why: registration, checks, changes of status, tags and zoos."""
    with service.database.read() as session:
        Models(session).get(model_id)
        page = events_of(session, model_id, limit=limit, cursor=after)
    return ListOf.of(page, event_view)


@router.patch(
    "/v1/models/{model_id}",
    summary="Switch a model on or off, withdraw it, check it again, tag it",
    responses=responses(400, 401, 403, 404, 409, 413, 422),
)
def change_model(model_id: str, patch: ModelPatch, service: ServiceDep, caller: Admin) -> ModelView:
    """Change a model's status or tags; rankings made with it stay as they are."""
    tags = None if patch.tags is None else read_tags(patch.tags)
    add, remove = read_tags(patch.add_tags or [], "add_tags"), read_tags(patch.remove_tags or [], "remove_tags")
    _refuse_unclear(patch, set(add) & set(remove))
    with service.database.write() as session:
        models = Models(session, actor=caller.actor)
        row = models.get(model_id)
        was = row.state
        if patch.status is not None:
            row = models.switch(model_id, ModelState(patch.status), patch.reason)
        if tags is not None:
            row = models.tag(model_id, tags, patch.reason)
        if add or remove:
            row = models.change_tags(model_id, add=add, remove=remove, reason=patch.reason)
        model = view(row)
    if model.status == ModelState.PENDING != was:
        service.bell.ring("model", model_id)
    return model


def _refuse_unclear(patch: ModelPatch, both: Set[str]) -> None:
    """Refuse a change of nothing, and changes of tags that contradict each other: ``both`` are added and removed."""
    if all(wanted is None for wanted in (patch.status, patch.tags, patch.add_tags, patch.remove_tags)):
        raise BadRequest(
            "invalid_request", "Neither a status nor tags are given.", param="status", hint="Say what is to change."
        )
    changes = patch.add_tags is not None or patch.remove_tags is not None
    if patch.tags is not None and changes:
        hint = "Give tags to replace all of them, or add_tags and remove_tags to keep the others."
        raise BadRequest("invalid_tags", "tags: given together with a change of tags", param="tags", hint=hint)
    if both:
        told = f"remove_tags: {', '.join(sorted(both))} are in add_tags, too"
        raise BadRequest("invalid_tags", told, param="remove_tags", hint="Give each tag once.")
