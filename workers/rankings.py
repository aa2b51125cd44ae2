"""Rankings are assembled by a thread of their own, beside the work: no device waits for one."""

from collections.abc import Callable
from queue import Empty

import structlog
from sqlalchemy.exc import SQLAlchemyError

from app.domain.errors import Unavailable
from app.storage.repositories import due_rankings
from app.storage.repositories.origins import origin_of_selection
from workers.runtime import Runtime
from workers.settle import settle

log = structlog.get_logger()

_LOOK_EVERY_SECONDS = 0.5  # whether the process is to end


def rank_until_stopped(runtime: Runtime, ring: Callable[[], None]) -> None:
    """Rank what is put into ``runtime.to_rank`` until the process is to end.

    What a process leaves behind, or fails to rank, is found by a sweep.

    Args:
        runtime: of this process.
        ring: tells workers that there is something to do again.
    """
    while not runtime.stopping.is_set():
        for selection_id in _put_so_far(runtime):
            try:
                if rank_if_due(runtime, selection_id):
                    ring()
            except (SQLAlchemyError, Unavailable) as error:
                log.warning("ranking.failed", selection=selection_id, error=str(error))
            except Exception:
                log.exception("ranking.failed", selection=selection_id)


def rank_if_due(runtime: Runtime, selection_id: str) -> bool:
    """Assemble the ranking of what is known of a selection, unless another worker does, or just did.

    Returns:
        Whether there is something to do again: the next look of a race, or a proof.

    Raises:
        Unavailable: the object store with the scores is.
    """
    with runtime.database.read() as session:
        if not due_rankings.is_due(session, selection_id):
            return False
        origin = origin_of_selection(session, selection_id)
    with runtime.database.write() as session:
        if not due_rankings.take(session, selection_id):
            return False
    with (
        structlog.contextvars.bound_contextvars(**origin.logged),
        runtime.stage("settle", traceparent=origin.traceparent),
    ):
        return settle(runtime, selection_id)


def _put_so_far(runtime: Runtime) -> list[str]:
    """Return the selections that were put since the last time, each once; wait a moment if there are none."""
    found: dict[str, None] = {}
    try:
        found[runtime.to_rank.get(timeout=_LOOK_EVERY_SECONDS)] = None
        while True:
            found[runtime.to_rank.get_nowait()] = None
    except Empty:
        return list(found)
