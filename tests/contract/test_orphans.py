"""What killed processes leave in the object store goes after a while, and nothing else does."""

import os
import time
import uuid
from pathlib import Path

import pytest
from sqlalchemy import update

from app.domain.states import DatasetState
from app.s3_access import S3Access
from app.storage.database import Database
from app.storage.objects import Objects
from app.storage.orphans import delete_orphans
from app.storage.purge import hold_content, purge_deleted
from app.storage.repositories.datasets import Datasets
from app.storage.tables import Dataset
from tests.contract.racing import race
from tests.contract.test_purge import CONTENT_KEYS, SHARED, add, delete, fill, own_keys
from tests.fixtures.rows import TENANT, add_dataset, add_ready_dataset

DAY = 24 * 3600.0
OF_NOBODY = [
    "datasets/unknown.parquet",
    "extractions/unknown/model-a/v1.npz",
    "scores/unknown/model-a/v1.npz",
    "scores/unknown/units.npz",
    "finetunes/unknown/ft_1/mdl_a.zip",
    "finetunes/unknown/ft_1/mdl_b.checkpoint",
    "uploads/ds_unknown",
    "reports/ds_unknown.json",
    "checks/0123",
]


def age(tmp_path: Path, *keys: str, seconds: float = 2 * DAY) -> None:
    for key in keys:
        moment = time.time() - seconds
        os.utime(tmp_path / "objects" / key, (moment, moment))


def test_what_no_row_knows_of_goes(database: Database, objects: Objects, tmp_path: Path) -> None:
    kept = add(database, objects)
    fill(objects, *OF_NOBODY, "weights/unknown.safetensors")
    age(tmp_path, *objects.keys())
    assert delete_orphans(database, objects, older_than_seconds=DAY) == 5
    # The archive of a data set that is ready has been an orphan, too.
    of_dataset = {*CONTENT_KEYS, f"reports/{kept}.json"}
    assert set(objects.keys()) == {*of_dataset, "weights/unknown.safetensors"}
    assert delete_orphans(database, objects, older_than_seconds=DAY) == 0


def test_what_was_written_lately_stays(database: Database, objects: Objects, tmp_path: Path) -> None:
    fill(objects, *OF_NOBODY)
    age(tmp_path, *OF_NOBODY, seconds=DAY / 2)
    assert delete_orphans(database, objects, older_than_seconds=DAY) == 0
    age(tmp_path, *OF_NOBODY[:2])
    assert delete_orphans(database, objects, older_than_seconds=DAY) == 0, "one of its objects is new"
    assert objects.keys() == sorted(OF_NOBODY)
    assert delete_orphans(database, objects, older_than_seconds=0) == 4


@pytest.mark.parametrize(
    ("state", "keeps_upload", "keeps_report"),
    [
        (DatasetState.RECEIVING, True, True),
        (DatasetState.RECEIVED, True, True),
        (DatasetState.PREPARING, True, True),
        (DatasetState.READY, False, True),
        (DatasetState.REJECTED, False, True),
        (DatasetState.DELETING, True, True),
        (DatasetState.DELETED, False, False),
    ],
)
def test_what_a_data_set_needs(
    database: Database,
    objects: Objects,
    state: DatasetState,
    keeps_upload: bool,
    keeps_report: bool,
) -> None:
    dataset_id = add_dataset(database)
    fill(objects, *own_keys(dataset_id))
    with database.write() as session:
        session.execute(update(Dataset).where(Dataset.id == dataset_id).values(state=state))
    delete_orphans(database, objects, older_than_seconds=0)
    expected = [f"uploads/{dataset_id}"] * keeps_upload + [f"reports/{dataset_id}.json"] * keeps_report
    assert objects.keys() == sorted(expected)


def test_what_a_straggler_stored_after_the_deletion_goes(database: Database, objects: Objects) -> None:
    dataset_id = add(database, objects)
    delete(database, dataset_id)
    purge_deleted(database, objects)
    assert objects.keys() == []
    fill(objects, f"extractions/{SHARED * 8}/model-a/v2.npz", f"scores/{SHARED * 8}/model-a/v2.npz")
    assert delete_orphans(database, objects, older_than_seconds=0) == 1
    assert objects.keys() == []


def test_content_that_becomes_a_data_set_meanwhile_stays(database: Database, objects: Objects) -> None:
    """A worker stores the images first and the row's digest then."""
    key = f"datasets/{SHARED * 8}.parquet"

    def store() -> None:
        fill(objects, key)
        with database.write() as session:
            hold_content(session, SHARED * 8)
            if not objects.exists(key):
                fill(objects, key)
            ready = {"state": DatasetState.READY, "digest": SHARED * 8}
            session.execute(update(Dataset).where(Dataset.id == dataset_id).values(ready))

    for _ in range(5):
        dataset_id = add_dataset(database)
        race(store, *[lambda: delete_orphans(database, objects, older_than_seconds=0)] * 2)
        assert objects.exists(key)
        with database.write() as session:
            Datasets(session, TENANT).delete(dataset_id)


def test_another_store_that_is_empty(database: Database, objects: Objects) -> None:
    add_ready_dataset(database)
    assert delete_orphans(database, objects, older_than_seconds=0) == 0


def test_a_bucket_is_tidied_as_a_folder_is(database: Database, s3_url: str) -> None:
    bucket = Objects(f"s3://orphans-{uuid.uuid4().hex}", S3Access(s3_url, "key", "secret", 10))
    bucket.prepare()
    kept = add(database, bucket)
    fill(bucket, *OF_NOBODY)
    assert delete_orphans(database, bucket, older_than_seconds=DAY) == 0, "what is young may be of a newer database"
    time.sleep(1.1)  # S3 tells when something was written by the second
    assert delete_orphans(database, bucket, older_than_seconds=0) == 5
    assert set(bucket.keys()) == {*CONTENT_KEYS, f"reports/{kept}.json"}
    with database.write() as session:
        Datasets(session, TENANT).delete(kept)
    purge_deleted(database, bucket)
    assert bucket.keys() == []
