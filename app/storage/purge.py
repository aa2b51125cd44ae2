"""Removing every object of a deleted data set, also when the process that began it has died."""

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from app.domain.states import DatasetState
from app.storage.database import Database
from app.storage.objects import Objects
from app.storage.repositories.datasets import is_referenced
from app.storage.tables import Dataset, Finetune


def purge_deleted(database: Database, objects: Objects) -> int:
    """Remove the objects of every data set that is being deleted, and return how many data sets that were.

    What is made from the canonical content is shared by all data sets with that content and goes with the last one;
    tuned weights are of one data set alone.
    """
    with database.read() as session:
        rows = session.execute(select(Dataset.id, Dataset.digest).where(Dataset.state == DatasetState.DELETING)).all()
    for dataset_id, digest in rows:
        objects.delete(f"uploads/{dataset_id}")
        objects.delete(f"reports/{dataset_id}.json")
        if digest:
            with database.read() as session:
                finetune_ids = list(session.scalars(select(Finetune.id).where(Finetune.dataset_id == dataset_id)))
            for finetune_id in finetune_ids:
                delete_weights(objects, digest, finetune_id)
            delete_unreferenced(database, objects, digest)
        with database.write() as session:
            session.execute(
                update(Dataset)
                .where(Dataset.id == dataset_id, Dataset.state == DatasetState.DELETING)
                .values(state=DatasetState.DELETED, report=None)
            )
    return len(rows)


def delete_unreferenced(database: Database, objects: Objects, digest: str) -> None:
    """Delete the canonical images of a digest and all that was computed from them, unless a live data set has them."""
    with database.write() as session:
        hold_content(session, digest)
        if is_referenced(session, digest):
            return
        objects.delete(f"datasets/{digest}.parquet")
        objects.delete(f"extractions/{digest}")
        objects.delete(f"scores/{digest}")
        objects.delete(f"finetunes/{digest}")


def delete_weights(objects: Objects, digest: str | None, finetune_id: str) -> None:
    """Delete the tuned weights and checkpoints of a fine-tune on the data set with this digest."""
    objects.delete(f"finetunes/{digest}/{finetune_id}")


def hold_content(session: Session, digest: str) -> None:
    """Keep others from deleting, or relying on, the content of a digest until this writing transaction ends.

    On SQLite a writing transaction is alone in any case, once it has begun.
    """
    session.connection()  # without a statement, none has begun yet
    if session.get_bind().dialect.name == "postgresql":
        session.execute(select(func.pg_advisory_xact_lock(func.hashtext(digest))))
