"""Selections that watch the zoo: a model that joined it since is ranked too, by a selection that follows this one.

An ended selection stays as it is, and its ranking reproducible. Its successor takes over what is known of the models
that are still there; only new ones are evaluated.
"""

from datetime import timedelta
from typing import Any

from sqlalchemy import exists, select, update
from sqlalchemy.orm import Session, aliased

from app.domain.ids import new_id
from app.domain.model_constraints import ModelConstraints
from app.domain.states import DatasetState, EvaluationState, ModelState, SelectionState
from app.storage.repositories.model_filters import in_zoo, satisfy
from app.storage.tables import Dataset, Evaluation, Model, Selection, now

_CHECKING = (ModelState.PENDING, ModelState.CHECKING)


def overdue(session: Session, *, patience_seconds: float) -> list[str]:
    """Return the ended selections that watch the zoo and lack one of its models, oldest first.

    While models are being checked, those that have passed wait for them, so that one import is followed by one
    selection; but no longer than ``patience_seconds``.
    """
    watching = list(session.scalars(_watching().order_by(Selection.created_at, Selection.id)))
    if not watching:
        return []
    are_checked = not session.scalar(select(exists().where(Model.state.in_(_CHECKING))))
    waited_enough = now() - timedelta(seconds=patience_seconds)
    found = []
    for selection in watching:
        new = _new_models(session, selection)
        if new and (are_checked or min(model.updated_at for model in new) < waited_enough):
            found.append(selection.id)
    return found


def follow(session: Session, selection_id: str) -> Selection | None:
    """Add the selection that follows one; None where nothing is new, or another worker did it.

    Args:
        session: a writing transaction.
        selection_id: an ended selection that watches the zoo.
    """
    # Two workers take turns: the second one's next statement sees what the first has added.
    session.execute(select(Selection.id).where(Selection.id == selection_id).with_for_update())
    selection = session.scalar(_watching().where(Selection.id == selection_id))
    new = _new_models(session, selection) if selection is not None else []
    if selection is None or not new:
        return None
    query = select(Evaluation).join(Model, Model.id == Evaluation.model_id).where(*_belongs(selection))
    kept = list(session.scalars(query.where(Evaluation.selection_id == selection_id)))
    successor = Selection(
        id=new_id("sel"),
        tenant=selection.tenant,
        name=selection.name,
        dataset_id=selection.dataset_id,
        scores=selection.scores,
        target=selection.target,
        constraints=selection.constraints,
        zoo=selection.zoo,
        watch=True,
        warnings=[],
        previous_id=selection_id,
        spent_seconds=0.0,
        evaluations=len(kept) + len(new),
        revision=1,
        ranked=0,
    )
    session.add(successor)
    session.flush()
    session.add_all(_evaluation(successor, one.model_id, _known(one)) for one in kept)
    session.add_all(_evaluation(successor, model.id, {}) for model in new)
    # Its users see a link to the successor: that is news.
    session.execute(
        update(Selection)
        .where(Selection.id == selection_id)
        .values(revision=Selection.revision + 1)
        .execution_options(synchronize_session=False)
    )
    session.flush()
    return successor


def _watching() -> Any:
    """Return the query of ended selections that watch the zoo and that no other follows."""
    successor = aliased(Selection)
    return (
        select(Selection)
        .join(Dataset, Dataset.id == Selection.dataset_id)
        .where(
            Selection.watch,
            Selection.state == SelectionState.DONE,
            Dataset.state == DatasetState.READY,
            ~exists().where(successor.previous_id == Selection.id),
        )
    )


def _belongs(selection: Selection) -> list[Any]:
    """Return the conditions of the models that a selection would have if it were asked for now."""
    conditions = [Model.state == ModelState.ACTIVE, *satisfy(ModelConstraints.from_dict(selection.constraints))]
    return conditions if selection.zoo is None else [*conditions, in_zoo(selection.zoo)]


def _new_models(session: Session, selection: Selection) -> list[Model]:
    known = select(Evaluation.model_id).where(Evaluation.selection_id == selection.id)
    query = select(Model).where(*_belongs(selection), Model.id.not_in(known))
    return list(session.scalars(query.order_by(Model.name)))


def _known(evaluation: Evaluation) -> dict[str, Any]:
    return {
        "state": evaluation.state,
        "result": evaluation.result,
        "error": evaluation.error,
        "progress": evaluation.progress,
        "look": evaluation.look,
    }


def _evaluation(selection: Selection, model_id: str, known: dict[str, Any]) -> Evaluation:
    blank = {"state": EvaluationState.QUEUED, "failures": {}, "revision": 1}
    return Evaluation(id=new_id("ev"), selection_id=selection.id, model_id=model_id, **(blank | known))
