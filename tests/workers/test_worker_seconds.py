"""What holding a job charges to the tenant's day, and what becomes of the job when that is spent."""

import time
from pathlib import Path

import pytest
import torch

from app.config import Settings
from app.domain.finetuning import Recipe
from app.domain.quotas import Quotas
from app.domain.states import FinetuneState
from app.storage import fair_order, leases
from app.storage.database import Database
from app.storage.leases import EVALUATION, FINETUNE
from app.storage.objects import Objects
from app.storage.repositories.finetunes import Finetunes
from app.storage.repositories.tenants import Tenants
from app.storage.repositories.usage import used
from app.storage.tables import Finetune, Selection
from tests.fixtures.rows import TENANT, add_ready_dataset, add_selection
from tests.fixtures.story import wait_for
from workers.lease import HeldLease
from workers.runtime import Runtime

LEASE_SECONDS = 1.0


@pytest.fixture
def runtime(database: Database, objects: Objects, tmp_path: Path) -> Runtime:
    settings = Settings(home=tmp_path, lease_seconds=LEASE_SECONDS)
    return Runtime(settings, database, objects, "host/0", torch.device("cpu"), tmp_path)


def allow(runtime: Runtime, seconds: float) -> None:
    with runtime.database.write() as session:
        Tenants(session, actor="test").create(TENANT, Quotas(worker_seconds_per_day=seconds))


def spent(runtime: Runtime) -> float:
    with runtime.database.read() as session:
        return used(session, TENANT)["worker_seconds_per_day"]


def test_an_evaluation_is_charged_to_the_day_and_finished_when_it_is_spent(runtime: Runtime) -> None:
    allow(runtime, 0.3)
    selection_id, (evaluation_id,) = add_selection(runtime.database, "one")
    with runtime.database.write() as session:
        lease = leases.claim(session, EVALUATION, evaluation_id, holder=runtime.holder, seconds=LEASE_SECONDS)
    assert lease is not None
    began_at = time.monotonic()
    with HeldLease(runtime, lease) as held:
        assert held.day_spent.wait(5)
        assert not held.should_stop()
    assert spent(runtime) == pytest.approx(time.monotonic() - began_at, abs=0.3)
    with runtime.database.read() as session:
        warnings = session.get_one(Selection, selection_id).warnings
    assert [warning["code"] for warning in warnings] == ["worker_seconds_spent"]


def test_a_fine_tune_is_put_down_and_taken_up_when_there_is_time_again(runtime: Runtime) -> None:
    allow(runtime, 0.3)
    dataset_id = add_ready_dataset(runtime.database)
    with runtime.database.write() as session:
        finetune_id = Finetunes(session, TENANT).create(dataset_id, ["mdl_a"], Recipe().as_dict()).id
        lease = leases.claim(session, FINETUNE, finetune_id, holder=runtime.holder, seconds=LEASE_SECONDS)
    assert lease is not None
    with HeldLease(runtime, lease) as held:
        assert held.day_spent.wait(5)
        assert held.should_stop()
        held.put_down()
    with runtime.database.write() as session:
        row = session.get_one(Finetune, finetune_id)
        assert (row.state, [warning["code"] for warning in row.warnings]) == (
            FinetuneState.QUEUED,
            ["worker_seconds_spent"],
        )
        assert fair_order.take_turn(session, FINETUNE) is None
        Tenants(session, actor="test").change(TENANT, quotas={"worker_seconds_per_day": None}, suspended=None)
        assert fair_order.take_turn(session, FINETUNE) == finetune_id


def test_time_alone_is_no_news_of_a_selection(runtime: Runtime) -> None:
    selection_id, (evaluation_id,) = add_selection(runtime.database, "one")
    with runtime.database.write() as session:
        lease = leases.claim(session, EVALUATION, evaluation_id, holder=runtime.holder, seconds=LEASE_SECONDS)
    assert lease is not None

    def charged_since(before: Selection) -> Selection:
        def look() -> Selection | None:
            with runtime.database.read() as session:
                row = session.get_one(Selection, selection_id)
            return row if row.spent_seconds > before.spent_seconds else None

        found: Selection = wait_for(look)
        return found

    with runtime.database.read() as session:
        row = session.get_one(Selection, selection_id)
    with HeldLease(runtime, lease) as held:
        held.report("features", 1, 2)
        told = charged_since(row)
        assert told.revision == row.revision + 1
        later = charged_since(charged_since(told))
        assert (later.revision, later.updated_at) == (told.revision, told.updated_at)
        with held.ending() as session:
            leases.finish(session, lease, result={})
        ended = charged_since(later)
        assert ended.revision == later.revision + 1
    with runtime.database.read() as session:
        left = session.get_one(Selection, selection_id)
    assert (left.spent_seconds, left.revision) == (ended.spent_seconds, ended.revision), "it is charged once"
