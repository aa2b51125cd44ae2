"""Removing every object of a deleted data set, also when the process that began it has died."""

from sqlalchemy import select, update

from app.domain.states import DatasetState
from app.storage.database import Database
from app.storage.objects import Objects
from app.storage.repositories.datasets import is_referenced
from app.storage.tables import Dataset


def purge_deleted(database: Database, objects: Objects) -> int:
    """Remove the objects of every data set that is being deleted, and return how many data sets that were.

    What is made from the canonical content is shared by all data sets with that content and goes with the last one.
    """
    with database.read() as session:
        rows = session.execute(select(Dataset.id, Dataset.digest).where(Dataset.state == DatasetState.DELETING)).all()
    for dataset_id, digest in rows:
        objects.delete(f"uploads/{dataset_id}")
        objects.delete(f"reports/{dataset_id}.json")
        if digest:
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
    with database.write() as session:  # a writing transaction: on SQLite nobody can add a reference meanwhile
        if is_referenced(session, digest):
            return
        objects.delete(f"datasets/{digest}.parquet")
        objects.delete(f"extractions/{digest}")
        objects.delete(f"scores/{digest}")
