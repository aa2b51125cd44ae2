"""A deleted data set leaves no object, and takes nothing along that is still needed."""

import pytest
from sqlalchemy import update

from app.domain.finetuning import Recipe
from app.domain.states import FinetuneState
from app.storage.database import Database
from app.storage.objects import Objects
from app.storage.purge import purge_deleted
from app.storage.repositories.datasets import Datasets, mark_stale_uploads
from app.storage.repositories.finetunes import Finetunes
from app.storage.tables import Dataset, Finetune
from tests.contract.racing import race
from tests.fixtures.rows import TENANT, add_ready_dataset

SHARED = "c"
CONTENT_KEYS = [
    f"datasets/{SHARED * 8}.parquet",
    f"extractions/{SHARED * 8}/model-a/v1.npz",
    f"extractions/{SHARED * 8}/model-b/v1.npz",
    f"scores/{SHARED * 8}/model-a/v1.npz",
]


def fill(objects: Objects, *keys: str) -> None:
    for key in keys:
        with objects.create(key) as file:
            file.write(b"bytes")


def own_keys(dataset_id: str) -> list[str]:
    return [f"reports/{dataset_id}.json", f"uploads/{dataset_id}"]


def add(database: Database, objects: Objects, *, tenant: str = TENANT) -> str:
    dataset_id = add_ready_dataset(database, tenant=tenant, content=SHARED)
    fill(objects, *own_keys(dataset_id), *CONTENT_KEYS)
    return dataset_id


def delete(database: Database, dataset_id: str, *, tenant: str = TENANT) -> None:
    with database.write() as session:
        Datasets(session, tenant).delete(dataset_id)


class TestPurge:
    def test_a_deleted_data_set_leaves_no_object(self, database: Database, objects: Objects) -> None:
        dataset_id = add(database, objects)
        assert purge_deleted(database, objects) == 0
        assert len(objects.keys()) == 6
        delete(database, dataset_id)
        assert purge_deleted(database, objects) == 1
        assert objects.keys() == []
        with database.read() as session:
            assert session.get_one(Dataset, dataset_id).state == "deleted"
        assert purge_deleted(database, objects) == 0

    def test_content_that_two_tenants_share_goes_with_the_last_of_them(
        self, database: Database, objects: Objects
    ) -> None:
        mine, theirs = add(database, objects), add(database, objects, tenant="rival")
        delete(database, mine)
        purge_deleted(database, objects)
        assert objects.keys() == sorted([*CONTENT_KEYS, *own_keys(theirs)])
        delete(database, theirs, tenant="rival")
        purge_deleted(database, objects)
        assert objects.keys() == []

    def test_both_deleted_before_the_first_purge(self, database: Database, objects: Objects) -> None:
        delete(database, add(database, objects))
        delete(database, add(database, objects, tenant="rival"), tenant="rival")
        assert purge_deleted(database, objects) == 2
        assert objects.keys() == []

    def test_other_content_stays(self, database: Database, objects: Objects) -> None:
        fill(objects, "datasets/other.parquet", f"extractions/{SHARED * 9}/model-a/v1.npz")
        delete(database, add(database, objects))
        purge_deleted(database, objects)
        assert objects.keys() == ["datasets/other.parquet", f"extractions/{SHARED * 9}/model-a/v1.npz"]

    def test_a_purge_that_broke_off_is_completed_by_the_next(self, database: Database, objects: Objects) -> None:
        dataset_id = add(database, objects)
        delete(database, dataset_id)
        objects.delete(f"uploads/{dataset_id}")
        objects.delete(f"extractions/{SHARED * 8}/model-a")
        assert purge_deleted(database, objects) == 1
        assert objects.keys() == []

    def test_many_purges_at_once(self, database: Database, objects: Objects) -> None:
        for _ in range(3):
            dataset_id = add(database, objects)
            fill(objects, *(f"extractions/{SHARED * 8}/model-{n}/v1.npz" for n in range(40)))
            delete(database, dataset_id)
            race(*[lambda: purge_deleted(database, objects)] * 6)
            assert objects.keys() == []

    @pytest.mark.parametrize("arrived", [True, False])
    def test_an_upload_that_never_ended_is_removed(self, database: Database, objects: Objects, arrived: bool) -> None:
        with database.write() as session:
            dataset_id = Datasets(session, TENANT).start("shoes").id
        if arrived:
            fill(objects, f"uploads/{dataset_id}")
        with database.write() as session:
            mark_stale_uploads(session, older_than_seconds=-1)
        assert purge_deleted(database, objects) == 1
        assert objects.keys() == []

    def test_weights_tuned_on_it_go_although_another_data_set_has_the_same_content(
        self, database: Database, objects: Objects
    ) -> None:
        mine, theirs = add(database, objects), add(database, objects, tenant="rival")
        with database.write() as session:
            ids = [
                Finetunes(session, tenant).create(dataset_id, ["mdl_a"], Recipe().as_dict()).id
                for tenant, dataset_id in ((TENANT, mine), ("rival", theirs))
            ]
            session.execute(update(Finetune).values(state=FinetuneState.DONE))
        keys = [f"finetunes/{SHARED * 8}/{finetune_id}/mdl_a.zip" for finetune_id in ids]
        fill(objects, *keys)
        delete(database, mine)
        purge_deleted(database, objects)
        assert objects.keys("finetunes") == keys[1:]
        delete(database, theirs, tenant="rival")
        purge_deleted(database, objects)
        assert objects.keys() == []
