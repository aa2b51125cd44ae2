"""Objects of data sets that no row of the database knows of any more.

A process that is killed between a change in the database and one in the object store leaves such objects, and so does
a worker that stores something of a data set which was deleted meanwhile. Only what was written some time ago is
deleted: a database that was brought back from a backup knows nothing of what came after it.
"""

from collections.abc import Collection, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import PurePosixPath

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.domain.states import DATASET_GONE, DatasetState
from app.storage.database import Database
from app.storage.objects import Objects
from app.storage.purge import delete_unreferenced
from app.storage.tables import Dataset

_OF_CONTENT = ("datasets", "extractions", "scores", "finetunes")
_TOGETHER = 500
_NEEDS_UPLOAD = frozenset(
    {DatasetState.RECEIVING, DatasetState.RECEIVED, DatasetState.PREPARING, DatasetState.DELETING}
)


def delete_orphans(database: Database, objects: Objects, *, older_than_seconds: float) -> int:
    """Delete what no row needs and was last written so long ago; return how many data sets and files that were of."""
    before = datetime.now(UTC) - timedelta(seconds=older_than_seconds)
    of_content = {PurePosixPath(name).stem for folder in _OF_CONTENT for name in objects.names(folder)}
    deleted = 0
    for digests in _parts(sorted(of_content)):
        with database.read() as session:
            orphaned = set(digests) - _known_digests(session, digests)
        for digest in sorted(orphaned):
            keys = [key for folder in _OF_CONTENT for key in objects.keys(_place(folder, digest))]
            if _are_older(objects, keys, before):
                delete_unreferenced(database, objects, digest)
                deleted += 1
    deleted += _delete_files(database, objects, "uploads", _NEEDS_UPLOAD, before)
    deleted += _delete_files(database, objects, "reports", frozenset(DatasetState) - {DatasetState.DELETED}, before)
    return deleted + _delete_checks(objects, before)


def _delete_files(
    database: Database, objects: Objects, folder: str, needed_in: Collection[str], before: datetime
) -> int:
    """Delete the files of a folder, each named by a data set's id, whose data set is not in one of these states."""
    by_id = {PurePosixPath(name).stem: name for name in objects.names(folder)}
    deleted = 0
    for ids in _parts(sorted(by_id)):
        with database.read() as session:
            needed = set(session.scalars(select(Dataset.id).where(Dataset.id.in_(ids), Dataset.state.in_(needed_in))))
        for dataset_id in sorted(set(ids) - needed):
            key = f"{folder}/{by_id[dataset_id]}"
            if _are_older(objects, [key], before):
                objects.delete(key)
                deleted += 1
    return deleted


def _delete_checks(objects: Objects, before: datetime) -> int:
    """Delete the bytes by which a process that was killed then has found out whether the store works."""
    keys = [f"checks/{name}" for name in objects.names("checks")]
    old = [key for key in keys if _are_older(objects, [key], before)]
    for key in old:
        objects.delete(key)
    return len(old)


def _place(folder: str, digest: str) -> str:
    return f"datasets/{digest}.parquet" if folder == "datasets" else f"{folder}/{digest}"


def _known_digests(session: Session, digests: Sequence[str]) -> set[str]:
    query = select(Dataset.digest).where(Dataset.digest.in_(digests), Dataset.state.not_in(DATASET_GONE))
    return {digest for digest in session.scalars(query) if digest is not None}


def _are_older(objects: Objects, keys: Sequence[str], before: datetime) -> bool:
    """Tell whether all of some objects were written before a moment; those that are gone were."""
    for key in keys:
        try:
            if objects.written_at(key) >= before:
                return False
        except FileNotFoundError:
            continue
    return True


def _parts(names: Sequence[str]) -> Iterator[list[str]]:
    remaining = iter(names)
    while part := list(islice(remaining, _TOGETHER)):
        yield part
