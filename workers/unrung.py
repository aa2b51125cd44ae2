"""Work without a broker: while no doorbell can be rung, a worker looks for work by itself."""

import structlog
from sqlalchemy.exc import SQLAlchemyError

from app.storage import fair_order
from app.storage.leases import JOB_KINDS
from workers.jobs import answer
from workers.runtime import Runtime

log = structlog.get_logger()

_LOOK_EVERY_SECONDS = 0.5
_PAUSE_SECONDS = 0.1


def answer_unrung_until_stopped(runtime: Runtime) -> None:
    """Whenever the sweep could not ring, do what waits until nothing does; end when the process is to end."""
    while not runtime.stopping.is_set():
        if not runtime.unheard.wait(_LOOK_EVERY_SECONDS):
            continue
        runtime.unheard.clear()
        log.warning("worker.works_unrung")
        try:
            while not runtime.stopping.wait(_PAUSE_SECONDS) and _waits(runtime):
                answer()
        except SQLAlchemyError as error:
            log.warning("worker.look_failed", error=str(error))  # the sweep says it again
        except Exception:  # as of a task, which is one message's failure
            log.exception("worker.look_failed")


def _waits(runtime: Runtime) -> bool:
    with runtime.database.read() as session:
        return any(fair_order.waits(session, kind) for kind in JOB_KINDS)
