"""What the repository of data sets promises, on both databases."""

from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from functools import partial

import pytest
from sqlalchemy import func, select, update

from app.domain.errors import Conflict, ForetuneError, NotFound
from app.domain.states import DatasetState
from app.storage import leases
from app.storage.database import Database
from app.storage.leases import LeaseLost
from app.storage.repositories.datasets import Datasets, is_referenced, mark_stale_uploads
from app.storage.repositories.models import Models
from app.storage.repositories.selections import Selections
from app.storage.tables import Dataset, Selection, now
from tests.contract.racing import race
from tests.fixtures.rows import TENANT, add_dataset, add_model, add_ready_dataset, add_selection


def upload(database: Database, *, tenant: str = TENANT, content: str = "a", name: str = "shoes") -> tuple[str, bool]:
    with database.write() as session:
        dataset_id = Datasets(session, tenant).start(name).id
    with database.write() as session:
        row, is_new = Datasets(session, tenant).receive(dataset_id, name=name, sha256=content * 64, size=10)
        return row.id, is_new


def start(database: Database, *, tenant: str = TENANT) -> str:
    with database.write() as session:
        return Datasets(session, tenant).start("shoes").id


def states(database: Database) -> dict[str, str]:
    with database.read() as session:
        return dict(tuple(row) for row in session.execute(select(Dataset.id, Dataset.state)))


def delete(database: Database, dataset_id: str, *, tenant: str = TENANT) -> None:
    with database.write() as session:
        Datasets(session, tenant).delete(dataset_id)


class TestDatasets:
    def test_an_upload_is_listed_while_it_arrives_and_when_it_has(self, database: Database) -> None:
        dataset_id = start(database)
        with database.write() as session:
            datasets = Datasets(session, TENANT)
            before = datasets.revision(dataset_id)
            row, is_new = datasets.receive(dataset_id, name="boots", sha256="a" * 64, size=7)
            assert is_new
            assert (row.id, row.state, row.name, row.bytes) == (dataset_id, DatasetState.RECEIVED, "boots", 7)
            assert datasets.revision(dataset_id)[0] > before[0]
            assert [one.id for one in datasets.page(limit=5, cursor=None).rows] == [dataset_id]

    def test_nothing_of_another_tenant_can_be_seen_or_touched(self, database: Database) -> None:
        arriving, ready = start(database), add_ready_dataset(database)
        with database.write() as session:
            others = Datasets(session, "rival")
            for dataset_id in (arriving, ready):
                for touch in (
                    others.get,
                    others.revision,
                    others.delete,
                    partial(others.get, lock=True),
                    partial(others.receive, name="mine", sha256="b" * 64, size=1),
                ):
                    with pytest.raises(NotFound) as missing:
                        touch(dataset_id)
                    assert missing.value.code == "dataset_not_found"
                assert not others.abandon(dataset_id)
            assert others.page(limit=5, cursor=None).rows == []
        assert states(database) == {arriving: DatasetState.RECEIVING, ready: DatasetState.READY}

    def test_the_same_bytes_are_the_same_data_set(self, database: Database) -> None:
        first, is_new = upload(database)
        assert is_new
        assert upload(database, name="again") == (first, False)
        assert states(database) == {first: DatasetState.RECEIVED}

    def test_other_bytes_and_other_tenants_have_their_own(self, database: Database) -> None:
        ids = {
            upload(database)[0],
            upload(database, content="b")[0],
            upload(database, tenant="rival")[0],
        }
        assert len(ids) == 3

    @pytest.mark.parametrize("state", [DatasetState.PREPARING, DatasetState.READY, DatasetState.REJECTED])
    def test_they_are_the_same_in_every_state(self, database: Database, state: DatasetState) -> None:
        first, _ = upload(database)
        with database.write() as session:
            session.execute(update(Dataset).values(state=state))
        assert upload(database) == (first, False)
        assert states(database) == {first: state}

    def test_after_a_delete_the_same_bytes_are_a_new_data_set(self, database: Database) -> None:
        first, _ = upload(database)
        delete(database, first)
        second, is_new = upload(database)
        assert is_new
        assert second != first

    def test_of_the_same_bytes_eight_times_at_once_one_data_set_remains(self, database: Database) -> None:
        uploaded = race(*[partial(upload, database)] * 8)
        assert len({dataset_id for dataset_id, _ in uploaded}) == 1
        assert sum(is_new for _, is_new in uploaded) == 1
        assert states(database) == {uploaded[0][0]: DatasetState.RECEIVED}

    def test_uploads_and_deletes_of_the_same_bytes_at_once(self, database: Database) -> None:
        def upload_and_delete() -> None:
            dataset_id, _ = upload(database)
            with suppress(NotFound):  # another thread was given the same data set, and deleted it first
                delete(database, dataset_id)

        for _ in range(3):
            race(*[upload_and_delete] * 8)
        assert set(states(database).values()) == {DatasetState.DELETING}

    def test_an_abandoned_upload_leaves_no_row(self, database: Database) -> None:
        dataset_id = start(database)
        for _ in range(2):
            with database.write() as session:
                assert Datasets(session, TENANT).abandon(dataset_id), "its bytes are to be removed"
        assert states(database) == {}

    def test_a_complete_upload_cannot_be_abandoned(self, database: Database) -> None:
        dataset_id = add_dataset(database)
        with database.write() as session:
            assert not Datasets(session, TENANT).abandon(dataset_id), "its bytes are to be kept"
        assert states(database) == {dataset_id: DatasetState.RECEIVED}

    def test_an_upload_that_was_deleted_while_it_went_on_has_no_place(self, database: Database) -> None:
        dataset_id = start(database)
        delete(database, dataset_id)
        with pytest.raises(NotFound), database.write() as session:
            Datasets(session, TENANT).receive(dataset_id, name="shoes", sha256="a" * 64, size=10)
        with database.write() as session:
            assert Datasets(session, TENANT).abandon(dataset_id), "its bytes are to be removed"

    def test_a_deleted_data_set_is_gone_at_once(self, database: Database) -> None:
        dataset_id = add_ready_dataset(database)
        delete(database, dataset_id)
        with database.read() as session:
            datasets = Datasets(session, TENANT)
            assert datasets.page(limit=5, cursor=None).rows == []
            for look in (datasets.get, datasets.revision):
                with pytest.raises(NotFound):
                    look(dataset_id)
            assert not is_referenced(session, "a" * 8)
        with pytest.raises(NotFound):
            delete(database, dataset_id)

    def test_a_worker_loses_the_data_set_that_is_deleted(self, database: Database) -> None:
        dataset_id = add_dataset(database)
        with database.write() as session:
            lease = leases.claim(session, leases.DATASET, dataset_id, holder="host/0", seconds=60)
        assert lease is not None
        delete(database, dataset_id)
        with pytest.raises(LeaseLost), database.write() as session:
            leases.finish(session, lease, digest="a" * 8)
        assert states(database) == {dataset_id: DatasetState.DELETING}

    def test_a_data_set_with_an_open_selection_is_in_use(self, database: Database) -> None:
        selection_id, _ = add_selection(database, "one")
        with database.read() as session:
            dataset_id = session.get_one(Selection, selection_id).dataset_id
        with pytest.raises(Conflict) as refused:
            delete(database, dataset_id)
        assert refused.value.code == "dataset_in_use"
        assert selection_id in refused.value.message
        assert states(database) == {dataset_id: DatasetState.READY}
        with database.write() as session:
            Selections(session, TENANT).cancel(selection_id)
        delete(database, dataset_id)
        with database.read() as session:
            assert Selections(session, TENANT).get(selection_id).dataset_id == dataset_id, "it stays readable"

    def test_a_selection_and_a_delete_at_once_do_not_both_succeed(self, database: Database) -> None:
        add_model(database, "one")
        dataset_id = add_ready_dataset(database)

        def select_models() -> str:
            with database.write() as session:
                return Selections(session, TENANT).create(dataset_id, Models(session).active(), ["lfc"], None).state

        def attempt(action: Callable[[], object]) -> str | None:
            try:
                action()
            except ForetuneError as error:
                return error.code
            return None

        outcomes = race(
            *[partial(attempt, select_models)] * 3, *[partial(attempt, partial(delete, database, dataset_id))]
        )
        selected, deleted = outcomes[:3], outcomes[3]
        with database.read() as session:
            selections = session.scalar(select(func.count()).select_from(Selection))
        assert selections == selected.count(None)
        if deleted is None:
            assert set(selected) == {"dataset_not_found"}
        else:
            assert deleted == "dataset_in_use"
            assert None in selected

    def test_uploads_that_never_ended_are_marked_for_removal(self, database: Database) -> None:
        old, fresh, complete = start(database), start(database), add_dataset(database)
        with database.write() as session:
            long_ago = now() - timedelta(hours=2)
            session.execute(update(Dataset).where(Dataset.id.in_([old, complete])).values(created_at=long_ago))
            mark_stale_uploads(session, older_than_seconds=3600)
        assert states(database) == {
            old: DatasetState.DELETING,
            fresh: DatasetState.RECEIVING,
            complete: DatasetState.RECEIVED,
        }
