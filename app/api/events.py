"""/v1/selections/{id}/events: server-sent events, one for each revision, resumable by Last-Event-ID."""

import re
import time
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Header, Request
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool

from app.api.access import Reader, Service, ServiceDep
from app.api.problems import responses
from app.api.recent_callers import Caller
from app.api.selections import SelectionView, read_view
from app.domain.states import SELECTION_TERMINAL
from app.storage.repositories.selections import Selections

router = APIRouter(tags=["selections"])

_LISTENING_SECONDS = 1.0
"""How long nothing may happen before it is looked whether anybody still listens."""
_KEEP_ALIVE_SECONDS = 15.0
_EVENT_SCHEMA = {
    "type": "object",
    "required": ["id", "event", "data"],
    "properties": {
        "id": {"type": "string", "pattern": "^[0-9]+$", "description": "The revision."},
        "event": {"type": "string", "enum": ["revision", "end"]},
        "data": {
            "type": "string",
            "contentMediaType": "application/json",
            "contentSchema": {"$ref": "#/components/schemas/SelectionView"},
        },
    },
}


@router.get(
    "/v1/selections/{selection_id}/events",
    summary="Watch a selection",
    response_class=StreamingResponse,
    responses=responses(
        401, 403, 404, 410, 422, also={200: {"content": {"text/event-stream": {"itemSchema": _EVENT_SCHEMA}}}}
    ),
)
async def watch_selection(
    selection_id: str,
    request: Request,
    service: ServiceDep,
    caller: Reader,
    last_event_id: Annotated[str | None, Header(description="The last `id:` that you have seen.")] = None,
) -> StreamingResponse:
    """Send the selection whenever its revision has grown: `event: revision`, at last `event: end`."""
    first = await run_in_threadpool(_read, service, caller, selection_id)  # a foreign id is a 404, not a stream
    known = int(last_event_id or 0) if re.fullmatch("[0-9]{0,9}", last_event_id or "") else 0
    events = _events(request, service, caller, first, known)
    return StreamingResponse(events, media_type="text/event-stream", headers={"Cache-Control": "no-store"})


async def _events(
    request: Request, service: Service, caller: Caller, selection: SelectionView, known: int
) -> AsyncIterator[str]:
    sent_at, mark = time.monotonic(), None
    while True:
        ended = selection.status in SELECTION_TERMINAL
        if selection.revision > known or ended:
            known, sent_at = selection.revision, time.monotonic()
            yield f"id: {known}\nevent: {'end' if ended else 'revision'}\ndata: {selection.model_dump_json()}\n\n"
        if ended:
            return
        while True:
            seen, mark = mark, await service.changes.after(mark, selection.id, _LISTENING_SECONDS)
            if await request.is_disconnected():
                return
            if mark != seen and await run_in_threadpool(_revision, service, caller, selection.id) > known:
                break
            if time.monotonic() - sent_at > _KEEP_ALIVE_SECONDS:
                sent_at = time.monotonic()
                yield ": still here\n\n"
        selection = await run_in_threadpool(_read, service, caller, selection.id)


def _read(service: Service, caller: Caller, selection_id: str) -> SelectionView:
    with service.database.read() as session:
        return read_view(session, Selections(session, caller.tenant).get(selection_id))


def _revision(service: Service, caller: Caller, selection_id: str) -> int:
    with service.database.read() as session:
        return Selections(session, caller.tenant).revision(selection_id)[0]
