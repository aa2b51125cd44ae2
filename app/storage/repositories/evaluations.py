"""Evaluations as workers see them: which is next of a model, and what one is about."""

from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session, defer

from app.storage.leases import EVALUATION, is_open
from app.storage.repositories.worker_seconds import barred
from app.storage.tables import Dataset, Evaluation, Model, Selection


@dataclass(frozen=True)
class Asked:
    """All that an evaluation is about."""

    evaluation: Evaluation
    selection: Selection
    dataset: Dataset
    model: Model


def asked(session: Session, evaluation_id: str) -> Asked:
    """Return an evaluation with its selection, its data set and its model, without what may be megabytes of JSON.

    Raises:
        NoResultFound: it was deleted with its data set.
    """
    query = select(Evaluation, Selection, Dataset, Model).join(Selection, Selection.id == Evaluation.selection_id)
    query = query.join(Dataset, Dataset.id == Selection.dataset_id).join(Model, Model.id == Evaluation.model_id)
    unread = (Selection.ranking, Dataset.report, Model.checks)
    query = query.options(*(defer(column, raiseload=True) for column in unread))
    return Asked(*session.execute(query.where(Evaluation.id == evaluation_id)).one())


def next_of_model(session: Session, model_id: str) -> str | None:
    """Return the evaluation that has waited longest among those of a model, whatever their data sets are.

    Those of tenants who have to wait are left out.
    """
    waiting = [
        Evaluation.model_id == model_id,
        is_open(EVALUATION),
        Evaluation.tenant.not_in(barred(charged=True)),
    ]
    query = select(Evaluation.id).where(*waiting)
    return session.scalar(query.order_by(Evaluation.created_at, Evaluation.id).limit(1))
