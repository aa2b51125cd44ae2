"""What a worker does with its job while a part of the service is out; whole outages are in tests/faults."""

import dataclasses
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from sqlalchemy import text

from app.config import Settings
from app.domain.errors import Unavailable
from app.domain.finetuning import Recipe
from app.domain.states import RETRY_BUDGET
from app.s3_access import S3Access
from app.storage import leases
from app.storage.database import Database
from app.storage.leases import FINETUNE, Lease
from app.storage.objects import Objects
from app.storage.repositories.finetunes import Finetunes
from app.storage.repositories.origins import Origin
from app.storage.tables import Finetune
from tests.fixtures.proxy import Proxy, proxy
from tests.fixtures.rows import TENANT, add_ready_dataset
from workers.attempt import Claimed, Work, carry_out
from workers.lease import HeldLease
from workers.runtime import Runtime

LEASE_SECONDS = 2.0
OUT = Unavailable("storage_unavailable", "The object store does not answer as it should.")


@pytest.fixture
def runtime(database: Database, objects: Objects, tmp_path: Path) -> Runtime:
    settings = Settings(home=tmp_path, lease_seconds=LEASE_SECONDS)
    return Runtime(settings, database, objects, "host/0", torch.device("cpu"), tmp_path)


def attempt(runtime: Runtime, work: Work) -> Finetune:
    """Carry out ``work`` as the work of a new fine-tune and return what became of it."""
    dataset_id = add_ready_dataset(runtime.database)
    with runtime.database.write() as session:
        finetune_id = Finetunes(session, TENANT).create(dataset_id, ["mdl_a"], Recipe().as_dict()).id
        lease = leases.claim(session, FINETUNE, finetune_id, holder=runtime.holder, seconds=LEASE_SECONDS)
    assert lease is not None
    carry_out(runtime, Claimed(lease, Origin(None, None, {})), work)
    return the_only(runtime)


def the_only(runtime: Runtime) -> Finetune:
    with runtime.database.read() as session:
        return session.query(Finetune).one()


def raising(error: Exception) -> Work:
    def work(_runtime: Runtime, _lease: Lease, _held: HeldLease) -> None:
        raise error

    return work


def executing(*statements: str) -> Work:
    def work(runtime: Runtime, _lease: Lease, _held: HeldLease) -> None:
        with runtime.database.write() as session:
            for statement in statements:
                session.execute(text(statement))

    return work


def test_a_store_that_answers_is_the_jobs_own_failure(runtime: Runtime) -> None:
    row = attempt(runtime, raising(OUT))
    assert (row.state, row.failures) == ("queued", {"storage_unavailable": 1})


def test_a_statement_that_is_wrong_ends_the_job(runtime: Runtime) -> None:
    row = attempt(runtime, executing("SELECT * FROM nowhere"))
    assert row.state == "failed"
    assert row.error is not None
    assert row.error["code"] == "internal_error"
    assert row.failures == {"internal_error": 1}


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
@pytest.mark.parametrize(
    ("statement", "failures"),
    [
        ("SELECT pg_terminate_backend(pg_backend_pid())", {}),
        ("DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = 'deadlock_detected'; END $$", {}),
        ("DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = 'out_of_memory'; END $$", {"database_unavailable": 1}),
        ("DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = 'disk_full'; END $$", {"storage_full": 1}),
    ],
)
def test_what_a_database_meets(runtime: Runtime, statement: str, failures: dict[str, int]) -> None:
    row = attempt(runtime, executing(statement))
    assert (row.state, row.failures, row.lease_holder) == ("queued", failures, None)
    assert set(failures) <= set(RETRY_BUDGET)


@pytest.fixture
def way(s3_url: str) -> Iterator[Proxy]:
    """Yield what stands before the S3 server."""
    with proxy(int(s3_url.rpartition(":")[2])) as running:
        yield running


@pytest.fixture
def remote(runtime: Runtime, way: Proxy) -> Runtime:
    access = S3Access(f"http://127.0.0.1:{way.port}", "key", "secret", timeout_seconds=0.5)
    objects = Objects("s3://outages", access)
    objects.prepare()
    return dataclasses.replace(runtime, objects=objects)


def test_a_store_that_is_out_is_waited_for(remote: Runtime, way: Proxy) -> None:
    way.trouble = "refuse"
    began_at, out_for = time.monotonic(), 2 * LEASE_SECONDS
    threading.Timer(out_for, setattr, (way, "trouble", "none")).start()
    row = attempt(remote, raising(OUT))
    assert out_for < time.monotonic() - began_at
    assert (row.state, row.failures, row.lease_holder) == ("queued", {}, None)
    assert row.spent_seconds < LEASE_SECONDS / 2, "waiting is charged to nobody"


def test_what_waits_for_a_silent_store_can_be_cancelled(remote: Runtime, way: Proxy) -> None:
    def cancel() -> None:
        with remote.database.write() as session:
            Finetunes(session, TENANT).cancel(the_only(remote).id)

    way.trouble = "silent"
    threading.Timer(2, cancel).start()
    began_at = time.monotonic()
    assert attempt(remote, raising(OUT)).state == "cancelled"
    assert time.monotonic() - began_at < 8
    way.trouble = "none"
