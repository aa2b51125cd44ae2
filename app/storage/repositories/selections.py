"""Selections of one tenant, and the evaluations they consist of."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import CursorResult, bindparam, select, update
from sqlalchemy.orm import Session

from app.domain.errors import Gone, NotFound
from app.domain.ids import new_id
from app.domain.states import (
    EVALUATION_TERMINAL,
    SELECTION_TERMINAL,
    EvaluationState,
    SelectionState,
)
from app.storage.repositories.datasets import Datasets, look_sizes
from app.storage.repositories.finetunes import cancel_proof, hold_proof
from app.storage.repositories.models import deprecations
from app.storage.repositories.outbox import tell_selection
from app.storage.repositories.paging import Page, page
from app.storage.tables import Evaluation, Finetune, Model, Selection, now

_PROOF = select(Finetune.revision).where(Finetune.selection_id == Selection.id).correlate(Selection)
# Built once: it is the statement of every poll, and building it takes longer than running it.
_REVISION = select(
    Selection.revision, Selection.state, Selection.deleted_at, _PROOF.scalar_subquery().label("proof")
).where(Selection.id == bindparam("id"), Selection.tenant == bindparam("tenant"))


def seen_revision(revision: int, state: str, proof: int | None) -> int:
    """Return the revision of a selection that its users see: what its proof does is news of the selection, too.

    The sum only grows, and grows with every change of either. With the end of the selection that of the proof becomes
    part of the selection's own: nothing changes any more, also when a lost worker still charges the proof.

    Args:
        revision: of the selection's row.
        state: of the selection.
        proof: revision of the fine-tune that proves it, if one was begun.
    """
    return revision if state in SELECTION_TERMINAL else revision + (proof or 0)


class Selections:
    """What one tenant has asked."""

    def __init__(self, session: Session, tenant: str) -> None:
        """See only rows of ``tenant``."""
        self._session = session
        self._tenant = tenant

    def create(
        self,
        dataset_id: str,
        models: Sequence[Model],
        scores: list[str],
        name: str | None,
        *,
        race: dict[str, Any] | None = None,
        budget_seconds: float | None = None,
        target: dict[str, Any] | None = None,
        verify: dict[str, Any] | None = None,
        constraints: dict[str, Any] | None = None,
        zoo: str | None = None,
        watch: bool = False,
        previous_id: str | None = None,
        max_images: int = 0,
        expires_at: datetime | None = None,
    ) -> Selection:
        """Add a selection with one evaluation for each model.

        Args:
            dataset_id: a data set that is ready.
            models: to be compared.
            scores: to be computed.
            name: for people; by default the data set's.
            race: ``keep`` and ``error_probability``; without it, no model is dropped.
            budget_seconds: of worker time. With a race or a budget models are seen on growing subsets, one after the
                other, so that there is always a ranking of all of them.
            target: the fine-tuning to be forecast, as ``app.forecasting.question.Question.as_dict`` gives it.
            verify: ``k``, ``budget_seconds`` and ``recipe`` of the fine-tune that proves the ranking.
            constraints: that the models satisfy, as ``ModelConstraints.as_dict`` gives them.
            zoo: whose members the models are.
            watch: whether models that join the zoo later are to be ranked, too.
            previous_id: the selection that this one goes on from.
            max_images: of the last subset.
            expires_at: when it is deleted, if it has ended by then.

        Raises:
            NotFound: ``dataset_not_found``.
            Conflict: ``dataset_not_ready`` or ``dataset_rejected``.
        """
        dataset = Datasets(self._session, self._tenant).get_ready(dataset_id)
        selection = Selection(
            id=new_id("sel"),
            tenant=self._tenant,
            name=name or dataset.name,
            dataset_id=dataset_id,
            scores=scores,
            race=race,
            looks=look_sizes(dataset, max_images) if race or budget_seconds else None,
            budget_seconds=budget_seconds,
            spent_seconds=0.0,
            target=target,
            verify=verify,
            constraints=constraints,
            zoo=zoo,
            watch=watch,
            previous_id=previous_id,
            expires_at=expires_at,
            warnings=deprecations(models),
            evaluations=len(models),
            revision=1,
            ranked=0,
        )
        self._session.add(selection)
        self._session.flush()
        self._session.add_all(
            Evaluation(
                id=new_id("ev"),
                tenant=self._tenant,
                selection_id=selection.id,
                model_id=model.id,
                failures={},
                revision=1,
            )
            for model in models
        )
        self._session.flush()
        return selection

    def get(self, selection_id: str) -> Selection:
        """Return one selection.

        Raises:
            NotFound: ``selection_not_found``, also when it is another tenant's.
            Gone: ``selection_expired``.
        """
        query = select(Selection).where(Selection.id == selection_id, Selection.tenant == self._tenant)
        selection = self._session.scalar(query.execution_options(populate_existing=True))
        if selection is None:
            raise _not_found(selection_id)
        if selection.deleted_at is not None:
            raise _expired(selection_id)
        return selection

    def revision(self, selection_id: str) -> tuple[int, bool]:
        """Return the revision and whether it is the last one, for cheap polling."""
        row = self._session.execute(_REVISION, {"id": selection_id, "tenant": self._tenant}).one_or_none()
        if row is None:
            raise _not_found(selection_id)
        if row.deleted_at is not None:
            raise _expired(selection_id)
        return seen_revision(row.revision, row.state, row.proof), row.state in SELECTION_TERMINAL

    def page(self, *, limit: int, cursor: str | None) -> Page[Selection]:
        """List selections, newest first."""
        query = select(Selection).where(Selection.tenant == self._tenant, Selection.deleted_at.is_(None))
        return page(self._session, query, Selection, limit=limit, cursor=cursor)

    def cancel(self, selection_id: str) -> Selection:
        """End a selection, its open evaluations and its watch; the ranking of one that has ended stays as it is."""
        selection = self.get(selection_id)
        # An ended selection has no open ones.
        _lock_evaluations(self._session, selection_id)
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
        cancel_proof(self._session, selection_id)
        seen = Selection.revision + hold_proof(self._session, selection_id)
        cancelled = self._session.execute(
            update(Selection)
            .where(Selection.id == selection_id, Selection.state.not_in(SELECTION_TERMINAL))
            .values(state=SelectionState.CANCELLED, finished_at=now(), revision=seen + 1)
            .returning(Selection.id)
            .execution_options(synchronize_session=False)
        )
        if cancelled.all():
            tell_selection(self._session, selection_id)
        self._session.execute(
            update(Selection)
            .where(Selection.id.in_(self._followers(selection_id)), Selection.watch)
            .values(watch=False, revision=Selection.revision + 1)
            .execution_options(synchronize_session=False)
        )
        self._session.refresh(selection)
        return selection

    def _followers(self, selection_id: str) -> list[str]:
        """Return a selection and those that go on from it, one after the other."""
        found = [selection_id]
        while following := next_selections(self._session, found[-1:]):
            found += following.values()
        return found


def next_selections(session: Session, selection_ids: Sequence[str]) -> dict[str, str]:
    """Return, for those selections that another one goes on from, its id."""
    columns = Selection.previous_id, Selection.id
    return {
        previous: selection_id
        for previous, selection_id in session.execute(select(*columns).where(Selection.previous_id.in_(selection_ids)))
        if previous is not None
    }


@dataclass(frozen=True)
class NextLook:
    """What becomes of the models of a race that wait: these evaluations are out, the others go on."""

    eliminated: frozenset[str]


def evaluations_of(session: Session, selection_id: str) -> list[tuple[Evaluation, Model]]:
    """Return every evaluation of a selection with its model, by the model's name."""
    query = select(Evaluation, Model).join(Model, Model.id == Evaluation.model_id)
    rows = session.execute(query.where(Evaluation.selection_id == selection_id).order_by(Model.name)).all()
    return [(evaluation, model) for evaluation, model in rows]


def begin(session: Session, selection_id: str) -> None:
    """Note that an evaluation of a selection has begun, maybe its first one, and that something has changed."""
    if touch(session, selection_id) != SelectionState.QUEUED:
        return
    session.execute(  # nobody else does: the row is this transaction's by now
        update(Selection)
        .where(Selection.id == selection_id)
        .values(state=SelectionState.RUNNING, started_at=now())
        .execution_options(synchronize_session=False)
    )
    tell_selection(session, selection_id)


def touch(session: Session, selection_id: str) -> str | None:
    """Raise the revision of a selection, so that its watchers look again; return its state, None if it has ended."""
    return session.scalar(
        update(Selection)
        .where(Selection.id == selection_id, Selection.state.not_in(SELECTION_TERMINAL))
        .values(revision=Selection.revision + 1)
        .returning(Selection.state)
        .execution_options(synchronize_session=False)
    )


def charge(session: Session, selection_id: str, seconds: float, *, is_news: bool) -> bool | None:
    """Add worker time to what a selection has cost, as long as it has not ended.

    Args:
        session: a writing transaction.
        selection_id: the selection.
        seconds: of one worker.
        is_news: whether something else has changed that its users see. Time alone is no reason to look again: it passes
            for as long as a worker works.

    Returns:
        Whether the budget is spent; None where there is none, or the selection has ended.
    """
    values: dict[str, Any] = {"spent_seconds": Selection.spent_seconds + seconds}
    values |= {"revision": Selection.revision + 1} if is_news else {"updated_at": Selection.updated_at}
    row = session.execute(
        update(Selection)
        .where(Selection.id == selection_id, Selection.state.not_in(SELECTION_TERMINAL))
        .values(values)
        .returning(Selection.budget_seconds, Selection.spent_seconds)
        .execution_options(synchronize_session=False)
    ).one_or_none()
    return None if row is None or row.budget_seconds is None else row.spent_seconds >= row.budget_seconds


def is_spent(session: Session, selection_id: str) -> bool | None:
    """Tell whether a selection's budget of worker time is spent; None when it has none."""
    row = session.execute(
        select(Selection.budget_seconds, Selection.spent_seconds).where(Selection.id == selection_id)
    ).one()
    return None if row.budget_seconds is None else row.spent_seconds >= row.budget_seconds


def stop_for_budget(session: Session, selection_id: str) -> None:
    """End the evaluations that nobody works on; workers end those they hold."""
    _lock_evaluations(session, selection_id)
    idle = (EvaluationState.QUEUED, EvaluationState.WAITING)
    session.execute(
        update(Evaluation)
        .where(Evaluation.selection_id == selection_id, Evaluation.state.in_(idle))
        .values(state=EvaluationState.OVER_BUDGET, revision=Evaluation.revision + 1)
        .execution_options(synchronize_session=False)
    )


def settle(
    session: Session,
    selection_id: str,
    *,
    ranked: int,
    ranking: dict[str, Any],
    ended: bool,
    error: dict[str, str | None] | None = None,
    next_look: NextLook | None = None,
) -> bool:
    """Store a ranking of what is known; it may end the selection, or begin the next look of a race.

    Looks and ends of evaluations only ever grow in number and never change, so a ranking of more of them is the later
    one, and two rankings of equally many are equal: comparing the counts is all that concurrent workers need.

    Args:
        session: a writing transaction.
        selection_id: the selection.
        ranked: how many looks and ends of evaluations the ranking knows of, those of ``next_look`` included.
        ranking: the ranking, as JSON-ready data.
        ended: whether every evaluation has ended.
        error: why the selection fails, if it has ended.
        next_look: what becomes of the models that wait.

    Returns:
        Whether this ranking was news.
    """
    if next_look is not None:
        _lock_evaluations(session, selection_id)
    values: dict[str, Any] = {"ranking": ranking, "ranked": ranked, "revision": Selection.revision + 1}
    if ended:
        state = SelectionState.FAILED if error else SelectionState.DONE
        seen = Selection.revision + hold_proof(session, selection_id)
        values |= {"state": state, "error": error, "finished_at": now(), "revision": seen + 1}
    stored = session.execute(
        update(Selection)
        .where(Selection.id == selection_id, Selection.ranked < ranked, Selection.state.not_in(SELECTION_TERMINAL))
        .values(values)
        .execution_options(synchronize_session=False)
    )
    assert isinstance(stored, CursorResult)
    is_news = stored.rowcount == 1
    if is_news and next_look is not None:
        _begin_look(session, selection_id, next_look)
    if is_news:
        tell_selection(session, selection_id)
    return is_news


def _lock_evaluations(session: Session, selection_id: str) -> None:
    """Take the evaluations before their selection, and in one order, as everybody does who changes both.

    In another order two transactions could wait for each other.
    """
    query = select(Evaluation.id).where(Evaluation.selection_id == selection_id)
    session.execute(query.order_by(Evaluation.id).with_for_update()).all()


def _begin_look(session: Session, selection_id: str, next_look: NextLook) -> None:
    waiting = [Evaluation.selection_id == selection_id, Evaluation.state == EvaluationState.WAITING]
    for chosen, state in (
        (Evaluation.id.in_(next_look.eliminated), EvaluationState.ELIMINATED),
        (Evaluation.id.not_in(next_look.eliminated), EvaluationState.QUEUED),
    ):
        session.execute(
            update(Evaluation)
            .where(*waiting, chosen)
            .values(state=state, rung_at=None, revision=Evaluation.revision + 1)
            .execution_options(synchronize_session=False)
        )


def _expired(selection_id: str) -> Gone:
    return Gone(
        "selection_expired",
        f"Selection {selection_id} was deleted when it expired.",
        param="selection",
        hint="Ask for a new one: POST /v1/selections.",
    )


def _not_found(selection_id: str) -> NotFound:
    return NotFound(
        "selection_not_found",
        f"There is no selection {selection_id}.",
        param="selection",
        hint="List yours with GET /v1/selections.",
    )
