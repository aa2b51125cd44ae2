"""What quotas promise, on both databases: they hold also when many ask at the same moment."""

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import update

from app.domain.errors import Forbidden
from app.domain.finetuning import Recipe
from app.domain.quotas import Quotas
from app.domain.states import DatasetState, FinetuneState
from app.storage.database import Database
from app.storage.repositories import worker_seconds
from app.storage.repositories.datasets import Datasets
from app.storage.repositories.finetunes import Finetunes
from app.storage.repositories.models import Models
from app.storage.repositories.selections import Selections
from app.storage.repositories.tenants import Tenants
from app.storage.repositories.usage import Allowance, used
from app.storage.tables import Dataset, Finetune, Selection, WorkerSeconds
from tests.fixtures.rows import TENANT, add_dataset, add_model, add_ready_dataset

AT_ONCE = 20


def add_tenant(database: Database, **quotas: Any) -> None:
    with database.write() as session:
        Tenants(session, actor="test").create(TENANT, Quotas(**quotas))


def upload(database: Database, content: str, size: int = 10) -> str:
    """Take an upload as the API does."""
    with database.write() as session:
        row = Datasets(session, TENANT).start("shoes")
    with database.write() as session:
        allowance = Allowance(session, TENANT, "bytes", "datasets")
        row, is_new = Datasets(session, TENANT).receive(row.id, name="shoes", sha256=content * 64, size=size)
        if is_new:
            allowance.demand(bytes=size, datasets=1)
        return row.id


def select(database: Database, dataset_id: str) -> str:
    """Ask for a selection as the API does."""
    with database.write() as session:
        Allowance(session, TENANT, "open_selections").demand(open_selections=1)
        return Selections(session, TENANT).create(dataset_id, Models(session).active(), ["lfc"], None).id


def at_once(act: Callable[[int], object]) -> tuple[int, set[str]]:
    """Do something many times at the same moment; return how often it was done, and why it was not."""
    barrier = threading.Barrier(AT_ONCE)
    done: list[object] = []
    refused: list[Exception] = []

    def run(number: int) -> None:
        barrier.wait()
        try:
            done.append(act(number))
        except Exception as error:  # noqa: BLE001  (all of them are looked at)
            refused.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(AT_ONCE)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) + len(refused) == AT_ONCE
    return len(done), {getattr(error, "code", repr(error)) for error in refused}


def amount(database: Database, name: str, tenant: str = TENANT) -> float:
    with database.read() as session:
        return used(session, tenant)[name]


class TestAllowance:
    def test_of_many_selections_at_once_as_many_are_made_as_are_allowed(self, database: Database) -> None:
        add_tenant(database, open_selections=7)
        add_model(database, "one")
        dataset_id = add_ready_dataset(database)
        assert at_once(lambda _: select(database, dataset_id)) == (7, {"quota_exceeded"})
        assert amount(database, "open_selections") == 7

    def test_of_many_uploads_at_once_as_many_are_taken_as_fit(self, database: Database) -> None:
        add_tenant(database, bytes=55)
        assert at_once(lambda number: upload(database, chr(ord("a") + number))) == (5, {"quota_exceeded"})
        assert amount(database, "bytes") == 50

    def test_a_quota_says_what_is_used_and_what_frees_it(self, database: Database) -> None:
        add_tenant(database, bytes=30, datasets=2)
        upload(database, "a", 20)
        with pytest.raises(Forbidden) as refused:
            upload(database, "b", 11)
        assert refused.value.code == "quota_exceeded"
        assert refused.value.param == "quotas.bytes"
        assert "may store 30 bytes" in refused.value.message
        assert "20 are used, and this needs 11 more" in refused.value.message
        assert "DELETE /v1/datasets" in str(refused.value.hint)
        upload(database, "c", 10)
        with pytest.raises(Forbidden, match="2 data sets"):
            upload(database, "d", 0)

    def test_the_same_bytes_again_take_no_more_room(self, database: Database) -> None:
        add_tenant(database, bytes=10, datasets=1)
        first = upload(database, "a")
        assert upload(database, "a") == first

    def test_what_is_deleted_or_rejected_frees_its_room(self, database: Database) -> None:
        add_tenant(database)
        _, rejected, deleted = (upload(database, content) for content in "abc")
        with database.write() as session:
            session.execute(update(Dataset).where(Dataset.id == rejected).values(state=DatasetState.REJECTED))
            Datasets(session, TENANT).delete(deleted)
            Datasets(session, TENANT).start("of which nobody knows whether it will ever end")
        assert (amount(database, "bytes"), amount(database, "datasets")) == (10, 2)

    def test_what_has_ended_is_not_open(self, database: Database) -> None:
        add_tenant(database, open_selections=1)
        add_model(database, "one")
        dataset_id = add_ready_dataset(database)
        selection_id = select(database, dataset_id)
        with pytest.raises(Forbidden):
            select(database, dataset_id)
        with database.write() as session:
            Selections(session, TENANT).cancel(selection_id)
        select(database, dataset_id)

    def test_a_proof_is_part_of_its_selection(self, database: Database) -> None:
        add_model(database, "one")
        dataset_id = add_ready_dataset(database)
        selection_id = select(database, dataset_id)
        with database.write() as session:
            finetunes = Finetunes(session, TENANT)
            finetunes.create(dataset_id, ["mdl_a"], Recipe().as_dict(), selection_id=selection_id)
            finetunes.create(dataset_id, ["mdl_a"], Recipe().as_dict())
            ended = finetunes.create(dataset_id, ["mdl_a"], Recipe().as_dict())
            session.execute(update(Finetune).where(Finetune.id == ended.id).values(state=FinetuneState.DONE))
        assert amount(database, "open_finetunes") == 1

    def test_another_tenants_do_not_count(self, database: Database) -> None:
        add_tenant(database, datasets=1)
        add_dataset(database, tenant="rival")
        upload(database, "b")
        assert amount(database, "datasets", "rival") == amount(database, "datasets") == 1

    def test_without_a_quota_there_is_no_limit(self, database: Database) -> None:
        for content in "abc":
            upload(database, content)
        add_tenant(database)
        upload(database, "d", 10**15)


class TestWorkerSeconds:
    def charge(self, database: Database, seconds: float) -> bool:
        with database.write() as session:
            return worker_seconds.charge(session, TENANT, seconds)

    def barred(self, database: Database, *, charged: bool = True) -> list[str]:
        with database.read() as session:
            return list(session.scalars(worker_seconds.barred(charged=charged)))

    def test_charges_add_up_also_at_once(self, database: Database) -> None:
        assert at_once(lambda _: self.charge(database, 0.5)) == (AT_ONCE, set())
        assert amount(database, "worker_seconds_per_day") == pytest.approx(0.5 * AT_ONCE)

    def test_a_tenant_waits_once_its_day_is_spent(self, database: Database) -> None:
        add_tenant(database, worker_seconds_per_day=10)
        assert not self.charge(database, 9)
        assert self.barred(database) == []
        assert self.charge(database, 2)
        assert self.barred(database) == [TENANT]
        assert self.barred(database, charged=False) == []

    def test_the_next_day_it_goes_on(self, database: Database) -> None:
        add_tenant(database, worker_seconds_per_day=10)
        self.charge(database, 11)
        with database.write() as session:
            yesterday = (datetime.now(UTC) - timedelta(days=1)).date().isoformat()
            session.execute(update(WorkerSeconds).values(day=yesterday))
        assert self.barred(database) == []
        assert amount(database, "worker_seconds_per_day") == 0

    def test_a_tenant_without_any_seconds_waits_from_the_start(self, database: Database) -> None:
        add_tenant(database, worker_seconds_per_day=0)
        assert self.barred(database) == [TENANT]

    def test_a_suspended_tenant_waits_with_everything(self, database: Database) -> None:
        add_tenant(database)
        with database.write() as session:
            Tenants(session, actor="test").change(TENANT, quotas={}, suspended=True)
        assert self.barred(database) == self.barred(database, charged=False) == [TENANT]

    def test_open_selections_say_why_they_wait_once_a_day(self, database: Database) -> None:
        add_tenant(database, worker_seconds_per_day=10)
        add_model(database, "one")
        dataset_id = add_ready_dataset(database)
        open_id, ended_id = select(database, dataset_id), select(database, dataset_id)
        with database.write() as session:
            Selections(session, TENANT).cancel(ended_id)
        for _ in range(2):
            with database.write() as session:
                worker_seconds.warn_of_spent_day(session, TENANT)
        with database.read() as session:
            row = session.get_one(Selection, open_id)
            assert [warning["code"] for warning in row.warnings] == ["worker_seconds_spent"]
            assert "10 worker seconds" in row.warnings[0]["detail"]
            assert row.revision == 2, "who polls hears of it"
            assert session.get_one(Selection, ended_id).warnings == []
