"""How far the evaluations of a selection have come."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.storage.tables import Evaluation, Model


@dataclass(frozen=True)
class EvaluationProgress:
    """Where one evaluation stands."""

    id: str
    state: str
    look: int
    progress: dict[str, Any] | None
    model_id: str
    name: str


def progress_of(session: Session, selection_ids: Sequence[str]) -> dict[str, list[EvaluationProgress]]:
    """Return where the evaluations of some selections stand, without their results."""
    table = Evaluation
    columns = table.selection_id, table.id, table.state, table.look, table.progress
    query = select(*columns, Model.id.label("model_id"), Model.name)
    query = query.join(Model, Model.id == table.model_id).where(table.selection_id.in_(selection_ids))
    found: dict[str, list[EvaluationProgress]] = {selection_id: [] for selection_id in selection_ids}
    for row in session.execute(query.order_by(Model.name)):
        progress = EvaluationProgress(row.id, row.state, row.look, row.progress, row.model_id, row.name)
        found[row.selection_id].append(progress)
    return found
