"""What workers measured: of models at their admission, and of evaluations that ended."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.domain.planning import ModelSpeed
from app.domain.states import EvaluationState
from app.storage.database import database_now
from app.storage.repositories.workers import ALIVE_SECONDS
from app.storage.tables import Evaluation, Model, Worker

_MOST = 1000


@dataclass(frozen=True)
class PastEvaluation:
    """An evaluation that ran its network: of so many images, and for what beside features."""

    model_id: str
    images: int
    ran: frozenset[str]
    seconds: float


def speed_of(model: Model) -> ModelSpeed | None:
    """Return what admission measured of a model; None where it measured nothing."""
    facts = model.facts or {}
    rates = (facts.get("images_per_second") or {}).values()
    fastest = max((rate for rate in rates if rate), default=0.0)
    return ModelSpeed(model.name, float(facts.get("load_seconds") or 0.0), float(fastest)) if fastest else None


def past_evaluations(session: Session, models: Sequence[Model], device: str) -> list[PastEvaluation]:
    """Return the latest evaluations of these models on a kind of device that looked at their images once."""
    query = select(Evaluation.model_id, Evaluation.result).where(
        Evaluation.model_id.in_([model.id for model in models]),
        Evaluation.state == EvaluationState.DONE,
        Evaluation.look == 0,
    )
    found = []
    for row in session.execute(query.order_by(Evaluation.updated_at.desc()).limit(_MOST)):
        result = row.result or {}
        ran = frozenset(result.get("ran", ()))
        if result.get("device") == device and "features" in ran:
            found.append(PastEvaluation(row.model_id, result["images"], ran, result["seconds"]["total"]))
    return found


def devices_alive(session: Session) -> dict[str, int]:
    """Count the workers that are alive by their kind of device, the most frequent first."""
    recently = Worker.seen_at > database_now() - ALIVE_SECONDS
    query = select(Worker.device, func.count().label("workers")).where(recently).group_by(Worker.device)
    return {row.device: row.workers for row in session.execute(query.order_by(func.count().desc(), Worker.device))}
