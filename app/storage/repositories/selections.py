"""Selections of one tenant, and the evaluations they consist of."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import CursorResult, bindparam, func, select, update
from sqlalchemy.orm import Session

from app.domain.errors import Conflict, NotFound
from app.domain.ids import new_id
from app.domain.states import (
    EVALUATION_TERMINAL,
    SELECTION_TERMINAL,
    DatasetState,
    EvaluationState,
    SelectionState,
)
from app.storage.repositories.datasets import Datasets
from app.storage.repositories.paging import Page, page
from app.storage.tables import Evaluation, Model, Selection, now

# Built once: it is the statement of every poll, and building it takes longer than running it.
_REVISION = select(Selection.revision, Selection.state).where(
    Selection.id == bindparam("id"), Selection.tenant == bindparam("tenant")
)


class Selections:
    """What one tenant has asked."""

    def __init__(self, session: Session, tenant: str) -> None:
        """See only rows of ``tenant``."""
        self._session = session
        self._tenant = tenant

    def create(self, dataset_id: str, models: Sequence[Model], scores: list[str], name: str | None) -> Selection:
        """Add a selection with one evaluation for each model.

        Raises:
            NotFound: ``dataset_not_found``.
            Conflict: ``dataset_not_ready`` or ``dataset_rejected``.
        """
        dataset = Datasets(self._session, self._tenant).get(dataset_id, lock=True)
        if dataset.state == DatasetState.REJECTED:
            raise Conflict(
                "dataset_rejected",
                f"Data set {dataset_id} was rejected: {(dataset.error or {}).get('message')}",
                param="dataset",
                hint="Mend the archive and upload it again.",
            )
        if dataset.state != DatasetState.READY:
            raise Conflict(
                "dataset_not_ready",
                f"Data set {dataset_id} is {dataset.state}.",
                param="dataset",
                hint=f"Wait for it: GET /v1/datasets/{dataset_id}?wait=30.",
            )
        selection = Selection(
            id=new_id("sel"),
            tenant=self._tenant,
            name=name or dataset.name,
            dataset_id=dataset_id,
            scores=scores,
            evaluations=len(models),
            revision=1,
            ranked=0,
        )
        self._session.add(selection)
        self._session.flush()
        self._session.add_all(
            Evaluation(id=new_id("ev"), selection_id=selection.id, model_id=model.id, failures={}, revision=1)
            for model in models
        )
        self._session.flush()
        return selection

    def get(self, selection_id: str) -> Selection:
        """Return one selection.

        Raises:
            NotFound: ``selection_not_found``, also when it is another tenant's.
        """
        query = select(Selection).where(Selection.id == selection_id, Selection.tenant == self._tenant)
        selection = self._session.scalar(query.execution_options(populate_existing=True))
        if selection is None:
            raise _not_found(selection_id)
        return selection

    def revision(self, selection_id: str) -> tuple[int, bool]:
        """Return the revision and whether it is the last one, for cheap polling."""
        row = self._session.execute(_REVISION, {"id": selection_id, "tenant": self._tenant}).one_or_none()
        if row is None:
            raise _not_found(selection_id)
        return row.revision, row.state in SELECTION_TERMINAL

    def page(self, *, limit: int, cursor: str | None) -> Page[Selection]:
        """List selections, newest first."""
        query = select(Selection).where(Selection.tenant == self._tenant)
        return page(self._session, query, Selection, limit=limit, cursor=cursor)

    def cancel(self, selection_id: str) -> Selection:
        """End a selection and its open evaluations; one that has ended already stays as it is."""
        selection = self.get(selection_id)
        # Evaluations before their selection, as workers do it: in the other order both could wait for each other.
        # An ended selection has no open ones.
        self._session.execute(
            update(Evaluation)
            .where(Evaluation.selection_id == selection_id, Evaluation.state.not_in(EVALUATION_TERMINAL))
            .values(
                state=EvaluationState.CANCELLED,
                lease_token=None,
                lease_holder=None,
                lease_expires_at=None,
                revision=Evaluation.revision + 1,
            )
            .execution_options(synchronize_session=False)
        )
        self._session.execute(
            update(Selection)
            .where(Selection.id == selection_id, Selection.state.not_in(SELECTION_TERMINAL))
            .values(state=SelectionState.CANCELLED, finished_at=now(), revision=Selection.revision + 1)
            .execution_options(synchronize_session=False)
        )
        self._session.refresh(selection)
        return selection


def evaluations_of(session: Session, selection_id: str) -> list[tuple[Evaluation, Model]]:
    """Return every evaluation of a selection with its model, by the model's name."""
    query = select(Evaluation, Model).join(Model, Model.id == Evaluation.model_id)
    rows = session.execute(query.where(Evaluation.selection_id == selection_id).order_by(Model.name)).all()
    return [(evaluation, model) for evaluation, model in rows]


@dataclass(frozen=True)
class EvaluationProgress:
    """Where one evaluation stands."""

    id: str
    state: str
    progress: dict[str, Any] | None
    model_id: str
    name: str


def progress_of(session: Session, selection_ids: Sequence[str]) -> dict[str, list[EvaluationProgress]]:
    """Return where the evaluations of some selections stand, without their results."""
    table = Evaluation
    query = select(table.selection_id, table.id, table.state, table.progress, Model.id.label("model_id"), Model.name)
    query = query.join(Model, Model.id == table.model_id).where(table.selection_id.in_(selection_ids))
    found: dict[str, list[EvaluationProgress]] = {selection_id: [] for selection_id in selection_ids}
    for row in session.execute(query.order_by(Model.name)):
        progress = EvaluationProgress(row.id, row.state, row.progress, row.model_id, row.name)
        found[row.selection_id].append(progress)
    return found


def begin(session: Session, selection_id: str) -> None:
    """Note that the first evaluation of a selection has begun, and that something has changed."""
    touch(session, selection_id)
    session.execute(
        update(Selection)
        .where(Selection.id == selection_id, Selection.state == SelectionState.QUEUED)
        .values(state=SelectionState.RUNNING, started_at=now())
        .execution_options(synchronize_session=False)
    )


def touch(session: Session, selection_id: str) -> None:
    """Raise the revision of a selection, so that its watchers look again."""
    session.execute(
        update(Selection)
        .where(Selection.id == selection_id, Selection.state.not_in(SELECTION_TERMINAL))
        .values(revision=Selection.revision + 1)
        .execution_options(synchronize_session=False)
    )


def settle(
    session: Session,
    selection_id: str,
    *,
    ranked: int,
    ranking: dict[str, Any],
    error: dict[str, str | None] | None = None,
) -> bool:
    """Store a ranking made from ``ranked`` ended evaluations; with the last one, the selection ends too.

    Ended evaluations only ever grow in number and never change, so a ranking of more of them is the later one, and
    two rankings of equally many are equal: comparing the counts is all that concurrent workers need.

    Args:
        session: a writing transaction.
        selection_id: the selection.
        ranked: how many ended evaluations the ranking was made from.
        ranking: the ranking, as JSON-ready data.
        error: why the selection fails, should these evaluations have been the last.

    Returns:
        Whether this ranking was news.
    """
    selection = session.scalars(select(Selection).where(Selection.id == selection_id)).one()
    values: dict[str, Any] = {"ranking": ranking, "ranked": ranked, "revision": Selection.revision + 1}
    if ranked == selection.evaluations:
        state = SelectionState.FAILED if error else SelectionState.DONE
        values |= {"state": state, "error": error, "finished_at": now()}
    stored = session.execute(
        update(Selection)
        .where(Selection.id == selection_id, Selection.ranked < ranked, Selection.state.not_in(SELECTION_TERMINAL))
        .values(values)
        .execution_options(synchronize_session=False)
    )
    assert isinstance(stored, CursorResult)
    return stored.rowcount == 1


def unsettled(session: Session) -> list[str]:
    """Return the ids of open selections with more ended evaluations than their ranking knows of."""
    ended = (
        select(func.count())
        .where(Evaluation.selection_id == Selection.id, Evaluation.state.in_(EVALUATION_TERMINAL))
        .scalar_subquery()
    )
    return list(
        session.scalars(
            select(Selection.id).where(Selection.state.not_in(SELECTION_TERMINAL), Selection.ranked < ended)
        )
    )


def _not_found(selection_id: str) -> NotFound:
    return NotFound(
        "selection_not_found",
        f"There is no selection {selection_id}.",
        param="selection",
        hint="List yours with GET /v1/selections.",
    )
