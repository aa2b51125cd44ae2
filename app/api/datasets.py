"""/v1/datasets: upload a labelled image data set, read back what was understood, delete it."""

import json
import re
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.concurrency import contextmanager_in_threadpool
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool

from app.api.access import Reader, Service, ServiceDep, Writer
from app.api.envelopes import MAX_NAME_LENGTH, After, Limit, ListOf, Progress
from app.api.idempotency import Answer, IdempotencyKeyHeader, answer_once
from app.api.polling import WITH_ETAG, IfNoneMatch, Wait, answer_poll, known_already, point_to_job
from app.api.problems import JobError, responses
from app.api.recent_callers import Caller
from app.api.upload import Received, receive
from app.domain.errors import BadRequest, Conflict
from app.domain.retention import LONGEST_DAYS, expiry
from app.domain.states import DatasetState
from app.storage.purge import purge_deleted
from app.storage.repositories import audit
from app.storage.repositories.datasets import Datasets
from app.storage.repositories.paging import Page
from app.storage.repositories.tenants import limits_of
from app.storage.repositories.usage import Allowance
from app.storage.tables import Dataset

router = APIRouter(tags=["datasets"])


class DatasetView(BaseModel):
    """A data set as users see it."""

    id: str
    object: str = "dataset"
    name: str
    status: str
    revision: int
    progress: Progress | None
    created_at: datetime
    updated_at: datetime
    bytes: int
    expires_at: datetime | None = Field(description="When it is deleted, if nothing on it is open by then.")
    sha256: str | None
    digest: str | None
    detected: dict[str, Any] | None
    error: JobError | None
    links: dict[str, str]


class FileOutcome(BaseModel):
    """What became of one file that is not part of the data set."""

    path: str
    outcome: str
    reason: str
    detail: str | None = None


def view(row: Dataset) -> DatasetView:
    """Return a row as users see it."""
    return DatasetView(
        id=row.id,
        name=row.name,
        status=row.state,
        revision=row.revision,
        progress=Progress(**row.progress) if row.progress else None,
        created_at=row.created_at,
        updated_at=row.updated_at,
        bytes=row.bytes,
        expires_at=row.expires_at,
        sha256=row.sha256,
        digest=row.digest,
        detected=row.report,
        error=JobError(**row.error) if row.error else None,
        links={"self": f"/v1/datasets/{row.id}", "files": f"/v1/datasets/{row.id}/files"},
    )


_UPLOAD_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {
                        "file": {"type": "string", "format": "binary"},
                        "name": {"type": "string", "maxLength": MAX_NAME_LENGTH},
                    },
                    "additionalProperties": False,
                }
            },
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        },
    }
}


@router.post(
    "/v1/datasets",
    status_code=202,
    response_model=DatasetView,
    summary="Upload a zip, tar or tar.gz of class folders",
    openapi_extra=_UPLOAD_BODY,
    responses=responses(
        *(400, 401, 403, 413, 422),
        also=known_already(DatasetView, "These bytes were uploaded before"),
    ),
)
async def upload_dataset(
    request: Request,
    response: Response,
    service: ServiceDep,
    caller: Writer,
    name: Annotated[
        str | None, Query(min_length=1, max_length=MAX_NAME_LENGTH, description="A name for people.")
    ] = None,
    retention_days: Annotated[
        float | None,
        Query(
            gt=0,
            le=LONGEST_DAYS,
            allow_inf_nan=False,
            description="Delete it so many days after now; without it, as the service is set up to.",
        ),
    ] = None,
    idempotency_key: IdempotencyKeyHeader = None,
) -> Any:
    """Stream an archive in; a worker unpacks and checks it. The same bytes again give the same data set."""
    dataset_id, max_bytes = await run_in_threadpool(_start, service, caller, name)
    try:
        async with contextmanager_in_threadpool(service.objects.create(f"uploads/{dataset_id}")) as file:
            received = await receive(request, file, max_bytes=max_bytes, writers=service.upload_writers)
        asked = name, retention_days
        answer = await run_in_threadpool(_complete, service, caller, dataset_id, received, asked, idempotency_key)
    except BaseException:
        await run_in_threadpool(_abandon, service, caller, dataset_id)
        raise
    point_to_job(response, answer.status, answer.path)
    return answer.body


def _start(service: Service, caller: Caller, name: str | None) -> tuple[str, int]:
    """Return the id of an upload that begins, and how many bytes it may have: no more than fit into an empty tenant."""
    with service.database.write() as session:
        quota = limits_of(session, caller.tenant).bytes
        max_bytes = (
            service.settings.max_upload_bytes if quota is None else min(quota, service.settings.max_upload_bytes)
        )
        return Datasets(session, caller.tenant).start(name or "dataset").id, max_bytes


def _complete(
    service: Service,
    caller: Caller,
    dataset_id: str,
    received: Received,
    asked: tuple[str | None, float | None],
    idempotency_key: str | None,
) -> Answer:
    name, retention_days = asked[0] or received.name or "dataset", asked[1]
    expires_at = expiry(retention_days or service.settings.retention_days)
    with service.database.write() as session:
        datasets = Datasets(session, caller.tenant)

        def take() -> tuple[int, DatasetView]:
            allowance = Allowance(session, caller.tenant, "bytes", "datasets")
            row, is_new = datasets.receive(
                dataset_id, name=name, sha256=received.sha256, size=received.size, expires_at=expires_at
            )
            if is_new:  # the same bytes again take no more room
                allowance.demand(bytes=received.size, datasets=1)
            return 202 if is_new else 200, view(row)

        request = "datasets", name, received.sha256, f"{retention_days}"
        answer = answer_once(session, caller.tenant, idempotency_key, request, take)
        if not answer.is_new:
            datasets.abandon(dataset_id)
    if answer.body["id"] == dataset_id:
        service.bell.ring("dataset", dataset_id)
    else:
        service.objects.delete(f"uploads/{dataset_id}")
    return answer


def _abandon(service: Service, caller: Caller, dataset_id: str) -> None:
    with service.database.write() as session:
        is_unwanted = Datasets(session, caller.tenant).abandon(dataset_id)
    if is_unwanted:
        service.objects.delete(f"uploads/{dataset_id}")


@router.get("/v1/datasets", summary="List data sets, newest first", responses=responses(401, 403, 422))
def list_datasets(service: ServiceDep, caller: Reader, limit: Limit = 50, after: After = None) -> ListOf[DatasetView]:
    """List the tenant's data sets."""
    with service.database.read() as session:
        page = Datasets(session, caller.tenant).page(limit=limit, cursor=after)
    return ListOf.of(page, view)


@router.get(
    "/v1/datasets/{dataset_id}",
    response_model=DatasetView,
    summary="Read what was understood of a data set",
    responses=responses(401, 403, 404, 410, 422, also=WITH_ETAG),
)
async def get_dataset(
    dataset_id: str,
    service: ServiceDep,
    caller: Reader,
    wait: Wait = 0,
    if_none_match: IfNoneMatch = None,
) -> Any:
    """Return one data set; `wait` holds the answer while it is being prepared."""
    return await answer_poll(
        service,
        lambda session: Datasets(session, caller.tenant),
        dataset_id,
        lambda _, row: view(row),
        known=if_none_match,
        wait=wait,
    )


@router.get(
    "/v1/datasets/{dataset_id}/files",
    summary="List every file that was ignored, corrupt or left out, with the reason",
    responses=responses(401, 403, 404, 409, 410, 422),
)
def list_files(
    dataset_id: str, service: ServiceDep, caller: Reader, limit: Limit = 200, after: After = None
) -> ListOf[FileOutcome]:
    """List the files that did not become part of the data set."""
    row = _get(service, caller, dataset_id)
    if row.state not in (DatasetState.READY, DatasetState.REJECTED):
        raise Conflict(
            "dataset_not_ready",
            f"Data set {dataset_id} is {row.state}.",
            param="dataset",
            hint=f"Wait for it: GET /v1/datasets/{dataset_id}?wait=30.",
        )
    try:
        with service.objects.open(f"reports/{dataset_id}.json") as file:
            outcomes = json.load(file)
    except FileNotFoundError:
        outcomes = []  # rejected before any file was looked at
    start = _position(after)
    end = start + limit
    page = Page(outcomes[start:end], str(end) if end < len(outcomes) else None)
    return ListOf.of(page, lambda outcome: FileOutcome(**outcome))


@router.delete(
    "/v1/datasets/{dataset_id}",
    status_code=204,
    summary="Delete a data set and everything computed from it",
    responses=responses(401, 403, 404, 409, 410, 422),
)
def delete_dataset(dataset_id: str, service: ServiceDep, caller: Writer) -> None:
    """Delete a data set, its images, features and scores. Rankings made from it stay readable."""
    with service.database.write() as session:
        datasets = Datasets(session, caller.tenant)
        row = datasets.get(dataset_id)
        datasets.delete(dataset_id)
        audit.record(
            session,
            actor=caller.actor,
            tenant=caller.tenant,
            action="dataset_deleted",
            target=dataset_id,
            details={"name": row.name, "bytes": row.bytes},
        )
    purge_deleted(service.database, service.objects)


def _position(cursor: str | None) -> int:
    if not cursor:
        return 0
    if re.fullmatch("[0-9]{1,9}", cursor) is None:
        raise BadRequest(
            "invalid_cursor",
            "The cursor is not one that this list returned.",
            param="after",
            hint="Leave `after` out to start from the first entry.",
        )
    return int(cursor)


def _get(service: Service, caller: Caller, dataset_id: str) -> Dataset:
    with service.database.read() as session:
        return Datasets(session, caller.tenant).get(dataset_id)
