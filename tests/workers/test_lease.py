"""Holding a fine-tune: how it is told to stop, and what it is charged."""

import dataclasses
import threading
import time
from pathlib import Path

import pytest
import torch
from sqlalchemy import text
from structlog.testing import capture_logs

from app.config import Settings
from app.domain.finetuning import Recipe
from app.domain.states import ModelState
from app.storage import leases
from app.storage.database import Database
from app.storage.leases import FINETUNE, MODEL, LeaseLost
from app.storage.objects import Objects
from app.storage.repositories.finetunes import Finetunes
from app.storage.repositories.models import Models
from app.storage.tables import Finetune
from tests.fixtures.rows import TENANT, add_model, add_ready_dataset
from workers.lease import HeldLease
from workers.runtime import Runtime

LEASE_SECONDS = 2.0


@pytest.fixture
def runtime(database: Database, objects: Objects, tmp_path: Path) -> Runtime:
    settings = Settings(home=tmp_path, lease_seconds=LEASE_SECONDS)
    return Runtime(settings, database, objects, "host/0", torch.device("cpu"), tmp_path)


def holding(runtime: Runtime) -> HeldLease:
    """Return the lease of a new fine-tune."""
    dataset_id = add_ready_dataset(runtime.database)
    with runtime.database.write() as session:
        finetune_id = Finetunes(session, TENANT).create(dataset_id, ["mdl_a"], Recipe().as_dict()).id
        lease = leases.claim(session, FINETUNE, finetune_id, holder=runtime.holder, seconds=LEASE_SECONDS)
    assert lease is not None
    return HeldLease(runtime, lease)


def the_only(runtime: Runtime) -> Finetune:
    with runtime.database.read() as session:
        return session.query(Finetune).one()


def cancel(runtime: Runtime) -> None:
    with runtime.database.write() as session:
        Finetunes(session, TENANT).cancel(the_only(runtime).id)


class TestHeldLease:
    def test_a_worker_that_is_to_end_stops(self, runtime: Runtime) -> None:
        with holding(runtime) as held:
            assert not held.should_stop()
            runtime.stopping.set()
            assert held.should_stop()

    def test_of_a_job_that_is_anothers_nothing_more_is_to_be_stored(self, runtime: Runtime) -> None:
        with holding(runtime) as held:
            cancel(runtime)
            assert held.lost.wait(5 * LEASE_SECONDS)
            runtime.stopping.set()
            with pytest.raises(LeaseLost):
                held.should_stop()

    def test_a_model_that_is_withdrawn_is_noticed_long_before_its_lease_runs_out(self, runtime: Runtime) -> None:
        runtime = dataclasses.replace(runtime, settings=Settings())
        assert runtime.settings.lease_seconds == 60
        model_id = add_model(runtime.database, "misspelt", state=ModelState.PENDING)
        with runtime.database.write() as session:
            lease = leases.claim(session, MODEL, model_id, holder=runtime.holder, seconds=60)
        assert lease is not None
        with HeldLease(runtime, lease) as held:
            with runtime.database.write() as session:
                Models(session).switch(model_id, ModelState.REJECTED, "misspelt")
            assert held.lost.wait(10)

    def test_time_is_charged_once_the_database_takes_it(self, runtime: Runtime) -> None:
        def rename(old: str, new: str) -> None:
            with runtime.database.write() as session:
                session.execute(text(f"ALTER TABLE finetunes RENAME COLUMN {old} TO {new}"))

        with capture_logs() as logs:
            started = time.monotonic()
            with holding(runtime):
                rename("spent_seconds", "elsewhere")
                try:
                    threading.Event().wait(0.7 * LEASE_SECONDS)
                finally:
                    rename("elsewhere", "spent_seconds")
                worked = time.monotonic() - started
        assert "lease.renew_failed" in [line["event"] for line in logs]
        assert the_only(runtime).spent_seconds == pytest.approx(worked, abs=0.3)
