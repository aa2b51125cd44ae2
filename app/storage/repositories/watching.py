"""Selections that watch the zoo: a model that joined it since is ranked too, by a selection that follows this one.

An ended selection stays as it is, and its ranking reproducible. Its successor has all models that it would have if it
were asked for now; what was kept of those evaluated before is taken without running a network.
"""

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import exists, select, update
from sqlalchemy.orm import Session, aliased

from app.domain.errors import Conflict, Gone, NotFound
from app.domain.model_constraints import ModelConstraints
from app.domain.states import DatasetState, ModelState, SelectionState
from app.storage.repositories.model_filters import in_zoo, satisfy
from app.storage.repositories.selections import Selections
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
    if selection is None or not _new_models(session, selection):
        return None
    models = list(session.scalars(select(Model).where(*_belongs(selection)).order_by(Model.name)))
    try:
        successor = Selections(session, selection.tenant).create(
            selection.dataset_id,
            models,
            selection.scores,
            selection.name,
            target=selection.target,
            constraints=selection.constraints,
            zoo=selection.zoo,
            watch=True,
            previous_id=selection_id,
            expires_at=_expiry(selection),
        )
    except (NotFound, Conflict, Gone):
        return None  # the data set was deleted at this moment
    # Its users see a link to the successor: that is news.
    session.execute(
        update(Selection)
        .where(Selection.id == selection_id)
        .values(revision=Selection.revision + 1)
        .execution_options(synchronize_session=False)
    )
    return successor


def _expiry(selection: Selection) -> datetime | None:
    """Return when a successor expires: it is kept as long as the selection before."""
    return None if selection.expires_at is None else now() + (selection.expires_at - selection.created_at)


def _watching() -> Any:
    """Return the query of ended selections that watch the zoo and that no other follows."""
    successor = aliased(Selection)
    return (
        select(Selection)
        .join(Dataset, Dataset.id == Selection.dataset_id)
        .where(
            Selection.watch,
            Selection.state.in_((SelectionState.DONE, SelectionState.FAILED)),
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
