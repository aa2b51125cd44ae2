"""What workers measured: of models at their admission, and of evaluations that ended."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.domain.speeds import ModelSpeed
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
    if not fastest:
        return None
    return ModelSpeed(
        model.name,
        float(facts.get("load_seconds") or 0.0),
        float(fastest),
        measured_on=facts["measured_on"],
        has_gradients=(facts.get("capabilities") or {}).get("gradients") is not False,
    )


def past_evaluations(session: Session, models: Sequence[Model], device: str) -> list[PastEvaluation]:
    """Return the latest evaluations of these models for which a device of this kind ran their networks."""
    query = select(
        Evaluation.model_id,
        Evaluation.result["images"].as_integer().label("images"),
        Evaluation.result["ran"].as_json().label("ran"),
        Evaluation.result[("seconds", "total")].as_float().label("seconds"),
    ).where(
        Evaluation.ran_on == device,
        Evaluation.state == EvaluationState.DONE,
        Evaluation.model_id.in_([model.id for model in models]),
    )
    rows = session.execute(query.order_by(Evaluation.created_at.desc(), Evaluation.id.desc()).limit(_MOST))
    return [PastEvaluation(row.model_id, row.images, frozenset(row.ran), row.seconds) for row in rows]


def devices_alive(session: Session) -> dict[str, int]:
    """Count the workers that are alive by their kind of device, the most frequent first."""
    recently = Worker.seen_at > database_now() - ALIVE_SECONDS
    query = select(Worker.device, func.count().label("workers")).where(recently).group_by(Worker.device)
    return {row.device: row.workers for row in session.execute(query.order_by(func.count().desc(), Worker.device))}
