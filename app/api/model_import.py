"""/v1/models/import: hundreds of models at once, with a verdict for every row."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, Field
from pydantic_core import PydanticCustomError
from starlette.concurrency import run_in_threadpool

from app.api.access import Admin, Service, ServiceDep
from app.api.envelopes import MAX_NAME_LENGTH, storable
from app.api.problems import JobError, responses
from app.api.recent_callers import Caller
from app.api.weights import refuse_missing_upload
from app.domain.errors import BadRequest
from app.domain.model_spec import ModelSpec
from app.manifest import Entry, parse_manifest
from app.storage.objects import Objects
from app.storage.repositories.model_import import Registration, import_models

router = APIRouter(tags=["models"])

_MOST_ROWS = 2000


class ImportedRow(BaseModel):
    """What became of one row of a manifest."""

    row: int = Field(description="Counted from 0.")
    name: str | None
    verdict: Literal["new", "new_version", "known", "invalid"] = Field(
        description="`new`: a worker checks it next; `new_version` of a name that is registered otherwise; `known`: "
        "this very version is registered; `invalid`: see `error`."
    )
    model: str | None = Field(description="Its id; null for an invalid row, and for a new one of a dry run.")
    version: int | None
    error: JobError | None


class ImportView(BaseModel):
    """What became of a manifest."""

    object: str = "import"
    dry_run: bool
    counts: dict[str, int] = Field(description="How many rows have which verdict.")
    rows: list[ImportedRow]


_MANIFEST = """models:
  - name: resnet50.imagenet1k_v2
    source: {type: torchvision, entry: resnet50.IMAGENET1K_V2}
    license: bsd-3-clause
"""

_BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/yaml": {"schema": {"type": "string"}, "example": _MANIFEST}},
    }
}


@router.post(
    "/v1/models/import",
    summary="Register the models of a YAML manifest",
    openapi_extra=_BODY,
    responses=responses(400, 401, 403, 413, 422),
)
async def import_manifest(
    request: Request,
    service: ServiceDep,
    caller: Admin,
    dry_run: Annotated[bool, Query(description="Only say what would become of every row.")] = False,
) -> ImportView:
    """Register every right row, whatever is wrong with others; the same manifest again registers nothing."""
    body = await request.body()
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadRequest("invalid_manifest", "The body is not UTF-8.", hint="Send the manifest as YAML.") from error
    entries = await run_in_threadpool(parse_manifest, text)
    if len(entries) > _MOST_ROWS:
        raise BadRequest(
            "invalid_manifest",
            f"The manifest has {len(entries)} rows; one request takes {_MOST_ROWS}.",
            param="models",
            hint="Split it: rows that are known already are told apart and cost nothing.",
        )
    return await run_in_threadpool(_import, service, caller, entries, dry_run=dry_run)


def _import(service: Service, caller: Caller, entries: list[Entry], *, dry_run: bool) -> ImportView:
    errors = [entry.error or _refusal(entry.spec, service.objects) for entry in entries]
    right = [
        (entry.spec, entry.tags)
        for entry, error in zip(entries, errors, strict=True)
        if entry.spec is not None and error is None
    ]
    database = service.database
    with database.read() if dry_run else database.write() as session:
        registered = import_models(session, right, actor=caller.actor, dry_run=dry_run)
    rows, found = [], iter(registered)
    for number, (entry, error) in enumerate(zip(entries, errors, strict=True)):
        rows.append(_wrong(number, entry, error) if error is not None else _right(number, entry, next(found)))
    for row in rows:
        if row.verdict in ("new", "new_version") and row.model and not service.bell.ring("model", row.model):
            break  # the broker is down; the workers' sweep finds the rest
    verdicts = [row.verdict for row in rows]
    return ImportView(dry_run=dry_run, counts={one: verdicts.count(one) for one in sorted(set(verdicts))}, rows=rows)


def _wrong(number: int, entry: Entry, error: BadRequest) -> ImportedRow:
    problem = JobError(**error.as_dict())
    return ImportedRow(row=number, name=_shown(entry.name), verdict="invalid", model=None, version=None, error=problem)


def _right(number: int, entry: Entry, registration: Registration) -> ImportedRow:
    return ImportedRow(
        row=number,
        name=entry.name,
        verdict="known" if registration.is_known else "new" if registration.is_first else "new_version",
        model=registration.id,
        version=registration.version,
        error=None,
    )


def _refusal(spec: ModelSpec | None, objects: Objects) -> BadRequest | None:
    assert spec is not None
    try:
        storable(spec.as_dict())
        refuse_missing_upload(spec, objects)
    except BadRequest as error:
        return error
    except PydanticCustomError as error:
        return BadRequest("invalid_model_spec", error.message(), hint="Write it without such characters or numbers.")
    return None


def _shown(name: str | None) -> str | None:
    return None if name is None else name.encode("utf-8", "replace").decode()[:MAX_NAME_LENGTH]
