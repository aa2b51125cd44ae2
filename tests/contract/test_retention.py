"""What has expired goes, and what is in use stays; users are told which of both has happened."""

from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import func, select, update

from app.domain.errors import ForetuneError, Gone
from app.domain.finetuning import Recipe
from app.domain.states import FinetuneState
from app.storage.database import Database
from app.storage.leftovers import Leftovers
from app.storage.objects import Objects
from app.storage.purge import purge_deleted
from app.storage.repositories.datasets import Datasets
from app.storage.repositories.finetunes import Finetunes
from app.storage.repositories.models import Models
from app.storage.repositories.selections import Selections
from app.storage.repositories.watching import follow
from app.storage.retention import delete_expired
from app.storage.tables import Dataset, Evaluation, Finetune, Selection, now
from tests.contract.racing import race
from tests.contract.test_outbox import settle
from tests.contract.test_purge import CONTENT_KEYS, SHARED, add, fill, own_keys
from tests.fixtures.rows import TENANT, add_model, add_ready_dataset, add_selection

PAST = timedelta(seconds=-1)


def expire(database: Database, table: type[Dataset] | type[Selection] | type[Finetune], row_id: str) -> None:
    with database.write() as session:
        session.execute(update(table).where(table.id == row_id).values(expires_at=now() + PAST))


def add_finetune(database: Database, dataset_id: str, **values: Any) -> str:
    with database.write() as session:
        row = Finetunes(session, TENANT).create(dataset_id, ["mdl_a"], Recipe().as_dict())
        session.flush()
        session.execute(update(Finetune).where(Finetune.id == row.id).values(**values))
        return row.id


class TestDatasets:
    def test_nothing_is_deleted_before_its_time(self, database: Database, objects: Objects) -> None:
        dataset_id = add(database, objects)
        with database.write() as session:
            session.execute(update(Dataset).values(expires_at=now() + timedelta(minutes=1)))
        assert delete_expired(database, objects) == {"datasets": 0, "selections": 0, "finetunes": 0}
        with database.read() as session:
            assert Datasets(session, TENANT).get(dataset_id).state == "ready"

    def test_one_that_has_expired_leaves_no_object_and_says_so(self, database: Database, objects: Objects) -> None:
        dataset_id, deleted_id = add(database, objects), add_ready_dataset(database, content="d")
        expire(database, Dataset, dataset_id)
        expire(database, Dataset, deleted_id)
        with database.write() as session:
            Datasets(session, TENANT).delete(deleted_id)
        assert delete_expired(database, objects)["datasets"] == 1
        purge_deleted(database, objects)
        assert objects.keys() == []
        with database.read() as session:
            datasets = Datasets(session, TENANT)
            for look in (datasets.get, datasets.revision, datasets.get_ready):
                assert code(lambda look=look: look(dataset_id)) == "dataset_expired"
            assert code(lambda: datasets.get(deleted_id)) == "dataset_not_found", "its owner has deleted it"
            assert code(lambda: Datasets(session, "rival").get(dataset_id)) == "dataset_not_found"
            assert datasets.page(limit=10, cursor=None).rows == []

    def test_while_something_works_on_it_it_stays(self, database: Database, objects: Objects) -> None:
        selection_id, _ = add_selection(database, "alpha")
        with database.read() as session:
            dataset_id = session.get_one(Selection, selection_id).dataset_id
        finetune_id = add_finetune(database, dataset_id)
        expire(database, Dataset, dataset_id)
        assert delete_expired(database, objects)["datasets"] == 0
        settle(database, selection_id, 1, ended=True)
        assert delete_expired(database, objects)["datasets"] == 0
        with database.write() as session:
            Finetunes(session, TENANT).cancel(finetune_id)
        assert delete_expired(database, objects)["datasets"] == 1

    def test_the_same_bytes_again_are_kept_for_the_longer_time(self, database: Database, objects: Objects) -> None:
        dataset_id = add_ready_dataset(database, content="e")
        soon, late = now() + timedelta(days=1), now() + timedelta(days=2)

        def upload(expires_at: datetime | None) -> datetime | None:
            with database.write() as session:
                datasets = Datasets(session, TENANT)
                started = datasets.start("shoes").id
                row, is_new = datasets.receive(started, name="shoes", sha256="e" * 64, size=1, expires_at=expires_at)
                assert (row.id, is_new) == (dataset_id, False)
                return row.expires_at

        assert upload(soon) is None, "for ever is longer"
        with database.write() as session:
            session.execute(update(Dataset).values(expires_at=soon))
        assert upload(late) == late
        assert upload(soon) == late
        assert upload(None) is None

    def test_many_sweeps_at_once(self, database: Database, objects: Objects) -> None:
        for content in "fghi":
            expire(database, Dataset, add_ready_dataset(database, content=content))
        deleted = race(*[lambda: delete_expired(database, objects)["datasets"]] * 4)
        assert sum(deleted) == 4


class TestSelections:
    def test_one_that_has_expired_is_emptied(self, database: Database, objects: Objects) -> None:
        selection_id, _ = add_selection(database, "alpha")
        expire(database, Selection, selection_id)
        assert delete_expired(database, objects)["selections"] == 0, "it has not ended"
        settle(database, selection_id, 1, ended=True)
        assert delete_expired(database, objects)["selections"] == 1
        assert delete_expired(database, objects)["selections"] == 0
        with database.read() as session:
            selections = Selections(session, TENANT)
            for look in (selections.get, selections.revision, selections.cancel):
                assert code(lambda look=look: look(selection_id)) == "selection_expired"
            assert code(lambda: Selections(session, "rival").get(selection_id)) == "selection_not_found"
            assert selections.page(limit=10, cursor=None).rows == []
            row = session.get_one(Selection, selection_id)
            assert (row.name, row.ranking, row.error, row.watch) == ("", None, None, False)
            assert session.scalar(select(func.count()).select_from(Evaluation)) == 0

    def test_its_data_set_can_go_before_it(self, database: Database, objects: Objects) -> None:
        selection_id, _ = add_selection(database, "alpha")
        settle(database, selection_id, 1, ended=True)
        with database.read() as session:
            expire(database, Dataset, session.get_one(Selection, selection_id).dataset_id)
        assert delete_expired(database, objects)["datasets"] == 1
        with database.read() as session:
            assert Selections(session, TENANT).get(selection_id).ranking is not None


class TestFinetunes:
    def test_one_that_has_expired_takes_its_weights_along(self, database: Database, objects: Objects) -> None:
        dataset_id = add(database, objects)
        mine, other = (add_finetune(database, dataset_id, state=FinetuneState.DONE) for _ in range(2))
        keys = {one: f"finetunes/{SHARED * 8}/{one}/mdl_a.zip" for one in (mine, other)}
        fill(objects, *keys.values())
        with database.write() as session:
            for one, key in keys.items():
                result = {"models": [{"model": "mdl_a", "object": key}]}
                session.execute(update(Finetune).where(Finetune.id == one).values(result=result))
        leftovers = Leftovers(database, objects)
        assert leftovers.delete() == 0
        expire(database, Finetune, mine)
        assert delete_expired(database, objects)["finetunes"] == 1
        assert delete_expired(database, objects)["finetunes"] == 0
        assert leftovers.delete() == 0
        assert objects.keys() == sorted([keys[other], *CONTENT_KEYS, *own_keys(dataset_id)])
        with database.read() as session:
            finetunes = Finetunes(session, TENANT)
            for look in (finetunes.get, finetunes.revision, finetunes.cancel):
                assert code(lambda look=look: look(mine)) == "finetune_expired"
            assert [row.id for row in finetunes.page(limit=10, cursor=None).rows] == [other]
            assert session.get_one(Finetune, mine).result is None

    def test_one_that_has_not_ended_stays(self, database: Database, objects: Objects) -> None:
        finetune_id = add_finetune(database, add_ready_dataset(database))
        expire(database, Finetune, finetune_id)
        assert delete_expired(database, objects)["finetunes"] == 0
        with database.read() as session:
            assert Finetunes(session, TENANT).get(finetune_id).state == "queued"

    def test_a_sweep_that_broke_off_is_completed(self, database: Database, objects: Objects) -> None:
        dataset_id = add(database, objects)
        finetune_id = add_finetune(database, dataset_id, state=FinetuneState.DONE, expires_at=now(), deleted_at=now())
        fill(objects, f"finetunes/{SHARED * 8}/{finetune_id}/mdl_a.zip")
        assert delete_expired(database, objects)["finetunes"] == 1
        assert objects.keys("finetunes") == []


def code(look: Any) -> str:
    with pytest.raises(ForetuneError) as refused:
        look()
    assert isinstance(refused.value, Gone) == refused.value.code.endswith("_expired")
    return refused.value.code


def test_what_follows_a_selection_is_kept_as_long(database: Database) -> None:
    dataset_id = add_ready_dataset(database)
    add_model(database, "alpha")
    with database.write() as session:
        expires_at = now() + timedelta(days=10)
        models = Models(session).choose(["alpha"])
        selections = Selections(session, TENANT)
        first = selections.create(dataset_id, models, ["lfc"], None, watch=True, expires_at=expires_at).id
    settle(database, first, 1, ended=True)
    add_model(database, "beta")
    with database.write() as session:
        successor = follow(session, first)
        assert successor is not None
        assert successor.expires_at is not None
        assert timedelta(0) <= successor.expires_at - expires_at < timedelta(minutes=1)
