"""/v1/zoos: named parts of the zoo. Everybody reads them; admins make and change them."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Path, Response
from pydantic import BaseModel, Field
from sqlalchemy.orm import Session

from app.api.access import Admin, Reader, ServiceDep
from app.api.envelopes import After, Limit, ListOf, StrictModel, Text
from app.api.problems import responses
from app.domain.errors import BadRequest
from app.domain.labels import LABEL, LABEL_HINT, is_label
from app.storage.repositories.zoos import Zoos
from app.storage.tables import Zoo

router = APIRouter(tags=["zoos"])

NewName = Annotated[
    str, Path(description="Letters a-z, digits, `.`, `_` and `-`.", json_schema_extra={"pattern": f"^{LABEL}$"})
]


class ZooRequest(StrictModel):
    """What a zoo is to be."""

    description: Annotated[Text, Field(max_length=1000)] = Field(default="", description="For people.")
    models: Annotated[list[Text], Field(max_length=5000)] = Field(
        description="Names of models, not ids: a new version of a model takes the place of the old one."
    )


class ZooView(BaseModel):
    """A zoo as users see it."""

    name: str
    object: str = "zoo"
    description: str
    models: list[str]
    created_at: datetime
    updated_at: datetime
    links: dict[str, str]


def _viewer(session: Session, rows: Sequence[Zoo]) -> Callable[[Zoo], ZooView]:
    members = Zoos(session).members(rows)

    def view(row: Zoo) -> ZooView:
        return ZooView(
            name=row.name,
            description=row.description,
            models=members[row.id],
            created_at=row.created_at,
            updated_at=row.updated_at,
            links={"self": f"/v1/zoos/{row.name}", "models": f"/v1/models?zoo={row.name}"},
        )

    return view


@router.get("/v1/zoos", summary="List the named parts of the zoo, newest first", responses=responses(401, 403, 422))
def list_zoos(service: ServiceDep, caller: Reader, limit: Limit = 50, after: After = None) -> ListOf[ZooView]:
    """List zoos with the names of their models."""
    with service.database.read() as session:
        page = Zoos(session).page(limit=limit, cursor=after)
        return ListOf.of(page, _viewer(session, page.rows))


@router.get("/v1/zoos/{name}", summary="Read a zoo", responses=responses(401, 403, 404, 422))
def get_zoo(name: str, service: ServiceDep, caller: Reader) -> ZooView:
    """Return one zoo with the names of its models."""
    with service.database.read() as session:
        zoo = Zoos(session).get(name)
        return _viewer(session, [zoo])(zoo)


@router.put(
    "/v1/zoos/{name}",
    summary="Make a zoo, or change it",
    responses=responses(
        *(400, 401, 403, 404, 413, 422), also={201: {"model": ZooView, "description": "It was not there before"}}
    ),
)
def put_zoo(name: NewName, request: ZooRequest, response: Response, service: ServiceDep, caller: Admin) -> ZooView:
    """Give a zoo this description and these members, whatever it had before."""
    if not is_label(name):
        raise BadRequest("invalid_request", f"{name[:60]!r} is no name of a zoo.", param="name", hint=LABEL_HINT)
    with service.database.write() as session:
        zoo, is_new = Zoos(session, actor=caller.actor).put(name, request.description, request.models)
        answer = _viewer(session, [zoo])(zoo)
    if is_new:
        response.status_code = 201
        response.headers["Location"] = answer.links["self"]
    return answer


@router.delete("/v1/zoos/{name}", status_code=204, summary="Remove a zoo", responses=responses(401, 403, 404, 422))
def delete_zoo(name: str, service: ServiceDep, caller: Admin) -> None:
    """Remove a zoo; its models stay, and so do selections that were asked of it."""
    with service.database.write() as session:
        Zoos(session, actor=caller.actor).delete(name)
