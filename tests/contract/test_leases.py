"""What the lease mechanism promises, on both databases."""

import threading
import time

import pytest

from app.domain.errors import EvaluationFailed
from app.domain.states import RETRY_BUDGET, EvaluationState
from app.storage import doorbells, leases
from app.storage.database import Database
from app.storage.leases import EVALUATION, Lease, LeaseLost
from app.storage.tables import Evaluation
from tests.fixtures.rows import add_selection


def claim(database: Database, job_id: str, *, holder: str = "host/0", seconds: float = 60) -> Lease | None:
    with database.write() as session:
        return leases.claim(session, EVALUATION, job_id, holder=holder, seconds=seconds)


def must_claim(database: Database, job_id: str, *, holder: str = "host/0", seconds: float = 60) -> Lease:
    lease = claim(database, job_id, holder=holder, seconds=seconds)
    assert lease is not None
    return lease


def read(database: Database, job_id: str) -> Evaluation:
    with database.read() as session:
        return session.get_one(Evaluation, job_id)


def free_expired(database: Database) -> list[str]:
    with database.write() as session:
        return leases.free_expired(session, EVALUATION)


def finish(database: Database, lease: Lease, value: int) -> None:
    with database.write() as session:
        leases.finish(session, lease, result={"value": value})


@pytest.fixture
def job(database: Database) -> str:
    return add_selection(database, "one")[1][0]


class TestLeases:
    def test_of_many_claims_at_once_one_wins(self, database: Database, job: str) -> None:
        barrier = threading.Barrier(12)
        won: list[Lease | None] = []

        def compete(number: int) -> None:
            barrier.wait()
            won.append(claim(database, job, holder=f"host/{number}"))

        threads = [threading.Thread(target=compete, args=(number,)) for number in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 12
        assert sum(lease is not None for lease in won) == 1

    def test_a_held_job_cannot_be_claimed(self, database: Database, job: str) -> None:
        must_claim(database, job)
        assert claim(database, job) is None

    def test_finish_stores_the_result_and_frees_the_lease(self, database: Database, job: str) -> None:
        finish(database, must_claim(database, job), 1)
        row = read(database, job)
        assert (row.state, row.result, row.lease_token, row.lease_expires_at) == ("done", {"value": 1}, None, None)

    def test_a_job_is_finished_once(self, database: Database, job: str) -> None:
        lease = must_claim(database, job)
        finish(database, lease, 1)
        with pytest.raises(LeaseLost):
            finish(database, lease, 2)
        assert read(database, job).result == {"value": 1}

    def test_a_live_lease_is_not_freed(self, database: Database, job: str) -> None:
        must_claim(database, job, seconds=30)
        assert free_expired(database) == []
        assert read(database, job).state == EvaluationState.RUNNING

    def test_a_worker_that_slept_past_its_lease_changes_nothing(self, database: Database, job: str) -> None:
        slow = must_claim(database, job, seconds=0.05)
        time.sleep(0.1)
        assert free_expired(database) == [job]
        quick = must_claim(database, job)
        with pytest.raises(LeaseLost), database.write() as session:
            leases.renew(session, slow, seconds=60)
        with pytest.raises(LeaseLost):
            finish(database, slow, 1)
        with pytest.raises(LeaseLost), database.write() as session:
            leases.fail(session, slow, EvaluationFailed("broken", "It broke."))
        with database.write() as session:
            leases.give_back(session, slow)
        finish(database, quick, 2)
        assert read(database, job).result == {"value": 2}

    def test_renewing_keeps_a_lease_and_tells_the_progress(self, database: Database, job: str) -> None:
        lease = must_claim(database, job, seconds=0.3)
        before = read(database, job).revision
        for done in range(4):
            time.sleep(0.15)
            with database.write() as session:
                leases.renew(session, lease, seconds=0.3, progress={"stage": "x", "done": done, "total": 4})
            assert free_expired(database) == []
        row = read(database, job)
        assert row.progress == {"stage": "x", "done": 3, "total": 4}
        assert row.revision == before + 4

    def test_lost_workers_are_forgiven_until_the_budget_is_spent(self, database: Database, job: str) -> None:
        for lost in range(1, RETRY_BUDGET["worker_lost"] + 1):
            must_claim(database, job, seconds=-1)
            assert free_expired(database) == [job]
            assert read(database, job).state == EvaluationState.QUEUED
            assert read(database, job).failures == {"worker_lost": lost}
        must_claim(database, job, seconds=-1)
        free_expired(database)
        row = read(database, job)
        assert row.state == EvaluationState.FAILED
        assert row.error is not None
        assert row.error["code"] == "worker_lost"
        assert claim(database, job) is None

    def test_the_error_says_where_the_last_worker_was_lost(self, database: Database, job: str) -> None:
        for _ in range(RETRY_BUDGET["worker_lost"] + 1):
            lease = must_claim(database, job, seconds=-1)
            with database.write() as session:
                progress = {"stage": "extracting", "done": 1, "total": 4}
                leases.renew(session, lease, seconds=-1, progress=progress)
            free_expired(database)
        error = read(database, job).error
        assert error is not None
        assert error["message"].startswith("The worker that held this evaluation was lost while it was at extracting: ")

    def test_an_error_without_a_budget_is_final_at_once(self, database: Database, job: str) -> None:
        lease = must_claim(database, job)
        with database.write() as session:
            assert leases.fail(session, lease, EvaluationFailed("non_finite_features", "NaN.", hint="Look."))
        row = read(database, job)
        assert row.state == EvaluationState.FAILED
        assert row.error == {"code": "non_finite_features", "message": "NaN.", "param": None, "hint": "Look."}

    def test_an_error_with_a_budget_is_tried_again(self, database: Database, job: str) -> None:
        error = EvaluationFailed("out_of_memory", "Too large.")
        for _ in range(RETRY_BUDGET["out_of_memory"]):
            with database.write() as session:
                assert not leases.fail(session, lease=must_claim_in(session, job), error=error)
        with database.write() as session:
            assert leases.fail(session, lease=must_claim_in(session, job), error=error)

    def test_what_a_dead_process_held_is_free_at_once(self, database: Database) -> None:
        _, (first, second) = add_selection(database, "one", "two")
        must_claim(database, first, holder="host/0")
        must_claim(database, second, holder="host/1")
        with database.write() as session:
            assert leases.free_of_holder(session, EVALUATION, "host/0") == [first]
        assert read(database, first).state == EvaluationState.QUEUED
        assert read(database, second).state == EvaluationState.RUNNING

    def test_giving_back_costs_nothing_of_the_budget(self, database: Database, job: str) -> None:
        lease = must_claim(database, job)
        with database.write() as session:
            leases.give_back(session, lease)
        row = read(database, job)
        assert (row.state, row.failures) == (EvaluationState.QUEUED, {})

    def test_a_doorbell_is_rung_once_and_again_when_nobody_answers(self, database: Database) -> None:
        _, jobs = add_selection(database, "one", "two")

        def ring(again: float) -> list[str]:
            with database.write() as session:
                return doorbells.ring_due(session, EVALUATION, ring_again_seconds=again)

        assert sorted(ring(60)) == sorted(jobs)
        assert ring(60) == []
        time.sleep(0.05)
        assert sorted(ring(0.01)) == sorted(jobs)
        finish(database, must_claim(database, jobs[0]), 1)
        assert ring(-1) == [jobs[1]]

    def test_there_is_nothing_due_when_everything_is_held_or_rung(self, database: Database, job: str) -> None:
        def due() -> bool:
            with database.read() as session:
                return doorbells.has_due(session, EVALUATION, ring_again_seconds=60)

        assert due()
        with database.write() as session:
            doorbells.ring_due(session, EVALUATION, ring_again_seconds=60)
        assert not due()
        must_claim(database, job, seconds=-1)
        assert due()


def must_claim_in(session: object, job: str) -> Lease:
    lease = leases.claim(session, EVALUATION, job, holder="host/0", seconds=60)  # type: ignore[arg-type]
    assert lease is not None
    return lease
