"""Deleting what has expired: data sets with all that was computed from them, selections, fine-tunes with their weights.

Nothing is deleted that has not ended, nor a data set while something on it has not. Of each a row stays, by which users
are told that there was such a thing and that it expired; nothing of its content does.
"""

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from app.domain.errors import Conflict, Gone, NotFound
from app.domain.states import FINETUNE_TERMINAL, SELECTION_TERMINAL, DatasetState
from app.storage.database import Database
from app.storage.objects import Objects
from app.storage.purge import delete_weights
from app.storage.repositories.datasets import Datasets
from app.storage.tables import Dataset, Evaluation, Finetune, Selection, now

_TOGETHER = 100


def delete_expired(database: Database, objects: Objects) -> dict[str, int]:
    """Delete what has expired and is not in use, and return how much of each kind that was.

    The objects of data sets are left to ``app.storage.purge``. A sweep that breaks off is completed by the next one.
    """
    return {
        "datasets": _delete_datasets(database),
        "selections": _delete_selections(database),
        "finetunes": _delete_finetunes(database, objects),
    }


def _delete_datasets(database: Database) -> int:
    ended = [Dataset.expires_at <= now(), Dataset.state.in_((DatasetState.READY, DatasetState.REJECTED))]
    with database.read() as session:
        rows = session.execute(select(Dataset.id, Dataset.tenant).where(*ended).limit(_TOGETHER)).all()
    deleted = 0
    for dataset_id, tenant in rows:
        try:
            with database.write() as session:
                datasets = Datasets(session, tenant)
                expires_at = datasets.get(dataset_id, lock=True).expires_at
                if expires_at is None or expires_at > now():
                    continue  # the same bytes were uploaded again meanwhile
                datasets.delete(dataset_id, expired=True)
        except (Conflict, NotFound, Gone):
            continue  # in use: its turn comes; or another worker was quicker
        deleted += 1
    return deleted


def _delete_selections(database: Database) -> int:
    ended = [
        Selection.expires_at <= now(),
        Selection.deleted_at.is_(None),
        Selection.state.in_(SELECTION_TERMINAL),
    ]
    with database.read() as session:
        ids = list(session.scalars(select(Selection.id).where(*ended).limit(_TOGETHER)))
    for selection_id in ids:
        with database.write() as session:
            _empty_selection(session, selection_id)
    return len(ids)


def _empty_selection(session: Session, selection_id: str) -> None:
    session.execute(
        update(Selection)
        .where(Selection.id == selection_id)
        .values(
            name="",
            ranking=None,
            error=None,
            warnings=[],
            watch=False,
            deleted_at=now(),
            revision=Selection.revision + 1,
        )
        .execution_options(synchronize_session=False)
    )
    session.execute(delete(Evaluation).where(Evaluation.selection_id == selection_id))


def _delete_finetunes(database: Database, objects: Objects) -> int:
    ended = [Finetune.expires_at <= now(), Finetune.state.in_(FINETUNE_TERMINAL)]
    # First hidden, so that nobody is told of weights that are going; then emptied, once the weights have gone.
    with database.write() as session:
        session.execute(
            update(Finetune)
            .where(*ended, Finetune.deleted_at.is_(None))
            .values(deleted_at=now(), revision=Finetune.revision + 1)
            .execution_options(synchronize_session=False)
        )
    hidden = [Finetune.deleted_at.is_not(None), Finetune.name != ""]
    with database.read() as session:
        query = select(Finetune.id, Dataset.digest).join(Dataset, Dataset.id == Finetune.dataset_id).where(*hidden)
        rows = session.execute(query.limit(_TOGETHER)).all()
    for finetune_id, digest in rows:
        delete_weights(objects, digest, finetune_id)
        with database.write() as session:
            session.execute(
                update(Finetune)
                .where(Finetune.id == finetune_id)
                .values(name="", result=None, error=None)
                .execution_options(synchronize_session=False)
            )
    return len(rows)
