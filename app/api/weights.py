"""/v1/weights: upload a safetensors file, to register a model with it."""

import uuid
from typing import IO

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import contextmanager_in_threadpool
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool

from app.api.access import Admin, ServiceDep
from app.api.problems import responses
from app.api.upload import receive
from app.domain.errors import BadRequest
from app.domain.model_spec import ModelSpec, UploadSource
from app.domain.safetensors_header import SafetensorsHeader
from app.storage.objects import Objects, uploaded_weights

router = APIRouter(tags=["models"])

_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {"file": {"type": "string", "format": "binary"}},
                    "additionalProperties": False,
                }
            },
        },
    }
}


class WeightsView(BaseModel):
    """Uploaded weights: name `sha256` in the source of a model, `{"type": "upload", "sha256": "..."}`."""

    object: str = "weights"
    sha256: str
    bytes: int
    tensors: int = Field(description="How many the file holds.")
    links: dict[str, str]


def refuse_missing_upload(spec: ModelSpec, objects: Objects) -> None:
    """Refuse a specification whose source is an upload that is not there.

    Raises:
        BadRequest: ``unknown_weights``.
    """
    source = spec.source
    if isinstance(source, UploadSource) and not objects.exists(uploaded_weights(source.sha256)):
        raise BadRequest(
            "unknown_weights",
            f"source.sha256: no weights with SHA-256 {source.sha256} were uploaded",
            param="source.sha256",
            hint="Upload the safetensors file: POST /v1/weights, or `foretune models upload FILE`.",
        )


class _Checked:
    """Writes a file whose header is looked at on the way."""

    def __init__(self, file: IO[bytes], header: SafetensorsHeader) -> None:
        self._file = file
        self._header = header

    def write(self, data: bytearray, /) -> None:
        self._header.feed(data)
        self._file.write(data)


@router.post(
    "/v1/weights",
    status_code=201,
    response_model=WeightsView,
    summary="Upload a safetensors file",
    openapi_extra=_BODY,
    responses=responses(
        *(400, 401, 403, 413, 422),
        also={200: {"model": WeightsView, "description": "These bytes were uploaded before"}},
    ),
)
async def upload_weights(request: Request, response: Response, service: ServiceDep, caller: Admin) -> WeightsView:
    """Stream the raw body, or the field `file` of a form, in. What no model names a day later is deleted."""
    header, draft = SafetensorsHeader(), f"weights/incoming/{uuid.uuid4().hex}"
    objects = service.objects
    async with contextmanager_in_threadpool(objects.create(draft)) as file:
        checked, most = _Checked(file, header), service.settings.max_upload_bytes
        received = await receive(request, checked, max_bytes=most, writers=service.upload_writers)
        tensors = await run_in_threadpool(header.check, received.size)
    key = uploaded_weights(received.sha256)
    is_known = await run_in_threadpool(objects.exists, key)
    # Also where it is known: it becomes a day younger, so that nobody deletes what this answer promises.
    await run_in_threadpool(objects.move, draft, key)
    response.status_code = 200 if is_known else 201
    return WeightsView(sha256=received.sha256, bytes=received.size, tensors=tensors, links={"models": "/v1/models"})
