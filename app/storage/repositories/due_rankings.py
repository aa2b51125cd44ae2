"""Which selections are to be ranked anew, and by whom.

A ranking of many models takes seconds. Were it assembled after every evaluation, the time would grow with the square of
their number; so between two of one selection there is a pause, unless nothing of the selection is left to be worked on.
"""

from typing import Any

from sqlalchemy import case, exists, func, or_, select, update
from sqlalchemy.orm import Session

from app.domain.states import EVALUATION_TERMINAL, FINETUNE_TERMINAL, SELECTION_TERMINAL, EvaluationState
from app.storage.database import database_now
from app.storage.tables import Evaluation, Finetune, Selection

_SHORTEST_PAUSE_SECONDS = 1.0
_PAUSE_SECONDS_A_MODEL = 0.05
"""A ranking of 400 models takes about a second of processor time, and may so take a twentieth of one worker's."""

_IS_OPEN = Selection.state.not_in(SELECTION_TERMINAL)
_KNOWN = (
    select(func.coalesce(func.sum(Evaluation.look + case((Evaluation.state.in_(EVALUATION_TERMINAL), 1), else_=0)), 0))
    .where(Evaluation.selection_id == Selection.id)
    .scalar_subquery()
)
_PROVEN = (
    select(func.count())
    .where(Finetune.selection_id == Selection.id, Finetune.state.in_(FINETUNE_TERMINAL))
    .scalar_subquery()
)
_IS_WORKED_ON = exists().where(
    Evaluation.selection_id == Selection.id,
    Evaluation.state.in_((EvaluationState.QUEUED, EvaluationState.RUNNING)),
)
_PAUSE_OF_ALL = Selection.evaluations * _PAUSE_SECONDS_A_MODEL
_PAUSE = case((_PAUSE_OF_ALL > _SHORTEST_PAUSE_SECONDS, _PAUSE_OF_ALL), else_=_SHORTEST_PAUSE_SECONDS)
_HAS_PAUSED = func.coalesce(Selection.settled_at, 0.0) < database_now() - _PAUSE


def unsettled(session: Session) -> list[str]:
    """Return the ids of open selections of which more is known than their ranking knows, if their pause is over."""
    query = select(Selection.id).where(_IS_OPEN, _HAS_PAUSED, Selection.ranked < _KNOWN + _PROVEN)
    return list(session.scalars(query.order_by(Selection.created_at, Selection.id)))


def is_due(session: Session, selection_id: str) -> bool:
    """Tell, without writing, whether a selection may be ranked anew: its pause is over, or nothing of it is left to do.

    What is left to do is evaluations, in a race those of this look.
    """
    return session.scalar(select(Selection.id).where(*_due(selection_id))) is not None


def take(session: Session, selection_id: str) -> bool:
    """Note that the caller assembles a ranking now, and with that begin its pause; False if it is not due any more.

    Of several workers one gets it. If that one is lost, the sweep finds the selection after the pause.
    """
    taken = session.execute(
        update(Selection)
        .where(*_due(selection_id))
        .values(settled_at=database_now(), updated_at=Selection.updated_at)
        .returning(Selection.id)
        .execution_options(synchronize_session=False)
    )
    return taken.one_or_none() is not None


def _due(selection_id: str) -> list[Any]:
    return [Selection.id == selection_id, _IS_OPEN, or_(_HAS_PAUSED, ~_IS_WORKED_ON)]
