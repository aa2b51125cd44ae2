"""Random histories of leases on both databases, held against a model in memory of what has to hold.

Three workers claim, renew, end and lose two jobs of a kind while users cancel and delete. Time passes by moving what
the database's clock is compared with. Whoever ever held a job keeps its lease and may use it at any later moment, as a
worker does that was frozen.

``HISTORIES=2000 pytest --timeout=0`` tries more of them, and makes a history that fails as short as it can be, which
takes minutes.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from sqlalchemy import delete, select, update

from app.domain.errors import EvaluationFailed
from app.domain.states import RETRY_BUDGET, DatasetState, EvaluationState, FinetuneState, ModelState
from app.domain.webhooks import Event
from app.storage import leases
from app.storage.database import Database
from app.storage.leases import DATASET, EVALUATION, FINETUNE, JOB_KINDS, MODEL, JobKind, Lease, LeaseLost
from app.storage.repositories import selections
from app.storage.repositories.datasets import Datasets
from app.storage.repositories.finetunes import Finetunes
from app.storage.repositories.models import Models
from app.storage.repositories.selections import NextLook, Selections
from app.storage.repositories.webhooks import Webhooks
from app.storage.tables import Base, ModelEvent
from app.storage.webhook_tables import WebhookDelivery
from tests.fixtures.rows import TENANT, add_dataset, add_model, add_ready_dataset, add_selection

EXAMPLES = {"sqlite": 15, "postgresql": 5}
STEPS = 25
HOLDERS = ("host/0", "host/1", "host/2")
CODES = (*sorted(RETRY_BUDGET), "internal_error")
PROGRESS = {"stage": "extracting", "done": 1, "total": 4}
AN_HOUR = 3600.0
ENDS = (Event.DATASET_READY, Event.DATASET_REJECTED, Event.FINETUNE_COMPLETED)
STOPPED = {
    DATASET: DatasetState.DELETING,
    MODEL: ModelState.REJECTED,
    EVALUATION: EvaluationState.CANCELLED,
    FINETUNE: FinetuneState.CANCELLED,
}


class ConnectionCut(Exception):
    """Ends a transaction before it is committed."""


@dataclass
class Job:
    """What a row has to look like; ``ends`` counts the ends that others are told of."""

    kind: JobKind
    id: str
    state: str
    lease: Lease | None = None
    holder: str | None = None
    is_late: bool = False
    failures: Counter[str] = field(default_factory=Counter)
    ends: int = 0
    seen: tuple[int, Any] = (0, None)

    def is_open(self) -> bool:
        return self.state == self.kind.states.open

    def is_held(self) -> bool:
        return self.state == self.kind.states.held

    def has_ended(self) -> bool:
        return not self.is_open() and not self.is_held() and self.state != EvaluationState.WAITING

    def take(self, lease: Lease, holder: str) -> None:
        self.state, self.lease, self.holder, self.is_late = self.kind.states.held, lease, holder, False

    def leave(self, state: str, *, is_end: bool = False) -> None:
        self.state, self.lease, self.holder = state, None, None
        self.ends += is_end

    def count(self, code: str) -> bool:
        """Count a failure; return whether it was the last one."""
        self.failures[code] += 1
        is_last = self.failures[code] > RETRY_BUDGET.get(code, 0)
        states = self.kind.states
        lost = states.lost if code == "worker_lost" and states.lost else states.failed
        self.leave(lost if is_last else states.open, is_end=is_last)
        return is_last


class Histories(RuleBasedStateMachine):
    """Everything that may happen to two jobs of a kind, in any order."""

    database: Database
    kind: JobKind

    def __init__(self) -> None:
        super().__init__()
        self.jobs = [Job(self.kind, one, self.kind.states.open) for one in self._add_jobs()]
        self.leases: list[Lease] = []
        self.looks = 0

    def _add_jobs(self) -> list[str]:
        with self.database.write() as session:
            for table in reversed(Base.metadata.sorted_tables):
                session.execute(delete(table))
            Webhooks(session, TENANT, b"secret").create(name="ends", url="https://example.com", events=ENDS)
        if self.kind is DATASET:
            return [add_dataset(self.database, content=content) for content in "ab"]
        if self.kind is MODEL:
            return [add_model(self.database, name, state=ModelState.PENDING) for name in ("one", "two")]
        if self.kind is EVALUATION:
            self.selection, evaluations = add_selection(self.database, "one", "two")
            return evaluations
        dataset = add_ready_dataset(self.database)
        with self.database.write() as session:
            return [Finetunes(session, TENANT).create(dataset, ["one"], {}).id for _ in range(2)]

    # What workers do

    @rule(number=st.integers(0, 1), holder=st.sampled_from(HOLDERS))
    def claim(self, number: int, holder: str) -> None:
        job = self.jobs[number]
        with self.database.write() as session:
            lease = leases.claim(session, self.kind, job.id, holder=holder, seconds=AN_HOUR)
        assert (lease is not None) == job.is_open()
        if lease is not None:
            self.leases.append(lease)
            job.take(lease, holder)

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), progress=st.sampled_from([None, PROGRESS]))
    def renew(self, data: st.DataObject, progress: dict[str, Any] | None) -> None:
        lease = self._a_lease(data)
        job = self._holds(lease)
        with self._only_for(job) as session:
            leases.renew(session, lease, seconds=AN_HOUR, progress=progress)
        if job:
            job.is_late = False

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def note(self, data: st.DataObject) -> None:
        lease = self._a_lease(data)
        with self._only_for(self._holds(lease)) as session:
            leases.note(session, lease, progress=PROGRESS)

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), is_look=st.booleans())
    def finish(self, data: st.DataObject, is_look: bool) -> None:
        lease = self._a_lease(data)
        job = self._holds(lease)
        waits = is_look and self.kind is EVALUATION
        state = EvaluationState.WAITING if waits else self.kind.states.done
        with self._only_for(job) as session:
            leases.finish(session, lease, state=state)
        if job:
            job.leave(state, is_end=not waits)

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), code=st.sampled_from(CODES))
    def fail(self, data: st.DataObject, code: str) -> None:
        lease = self._a_lease(data)
        job = self._holds(lease)
        ended = None
        with self._only_for(job) as session:
            ended = leases.fail(session, lease, EvaluationFailed(code, "It broke."))
        assert ended == (job.count(code) if job else None)

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        lease = self._a_lease(data)
        job = self._holds(lease)
        with self.database.write() as session:
            assert leases.give_back(session, lease) == (job is not None)
        if job:
            job.leave(self.kind.states.open)

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), code=st.sampled_from([None, *CODES]))
    def lose_the_connection_at_the_end(self, data: st.DataObject, code: str | None) -> None:
        lease = self._a_lease(data)
        with suppress(ConnectionCut, LeaseLost), self.database.write() as session:
            if code is None:
                leases.finish(session, lease)
            else:
                leases.fail(session, lease, EvaluationFailed(code, "It broke."))
            raise ConnectionCut

    @precondition(lambda self: any(job.state == EvaluationState.WAITING for job in self.jobs))
    @rule()
    def begin_the_next_look(self) -> None:
        if any(job.is_open() or job.is_held() for job in self.jobs):
            return
        self.looks += 1
        look = NextLook(frozenset())
        with self.database.write() as session:
            selections.settle(session, self.selection, ranked=self.looks, ranking={}, ended=False, next_look=look)
        for job in self.jobs:
            if job.state == EvaluationState.WAITING:
                job.leave(EvaluationState.QUEUED)

    # What the clock, the sweep, and the successor of a dead process do

    @rule(number=st.integers(0, 1))
    def let_the_lease_run_out(self, number: int) -> None:
        job, table = self.jobs[number], self.kind.table
        with self.database.write() as session:
            moved = update(table).where(table.id == job.id)
            session.execute(moved.values(lease_expires_at=table.lease_expires_at - 2 * AN_HOUR))
        job.is_late = True

    @rule()
    def free_expired(self) -> None:
        with self.database.write() as session:
            freed = leases.free_expired(session, self.kind)
        self._were_lost(freed, lambda job: job.is_late)

    @rule(holder=st.sampled_from(HOLDERS))
    def free_of_holder(self, holder: str) -> None:
        with self.database.write() as session:
            freed = leases.free_of_holder(session, self.kind, holder)
        self._were_lost(freed, lambda job: job.holder == holder)

    @rule(number=st.integers(0, 1), times=st.integers(2, max(RETRY_BUDGET.values()) + 1))
    def lose_one_worker_after_the_other(self, number: int, times: int) -> None:
        for _ in range(times):
            self.claim(number, HOLDERS[0])
            self.free_of_holder(HOLDERS[0])

    # What users do

    @rule(number=st.integers(0, 1))
    def stop(self, number: int) -> None:
        """Delete a data set, withdraw a model, cancel a selection or a fine-tune."""
        stopped = self.jobs if self.kind is EVALUATION else self.jobs[number : number + 1]
        if self.kind in (DATASET, MODEL) and stopped[0].state not in (self.kind.states.open, self.kind.states.held):
            return
        with self.database.write() as session:
            if self.kind is DATASET:
                Datasets(session, TENANT).delete(stopped[0].id)
            elif self.kind is MODEL:
                Models(session).switch(stopped[0].id, ModelState.REJECTED, "not wanted")
            elif self.kind is EVALUATION:
                Selections(session, TENANT).cancel(self.selection)
            else:
                Finetunes(session, TENANT).cancel(stopped[0].id)
        for job in stopped:
            if not job.has_ended():
                job.leave(STOPPED[self.kind], is_end=self.kind is FINETUNE)

    @precondition(lambda self: self.kind is MODEL)
    @rule(number=st.integers(0, 1))
    def check_again(self, number: int) -> None:
        job = self.jobs[number]
        if job.state in (ModelState.REJECTED, ModelState.QUARANTINED):
            with self.database.write() as session:
                Models(session).switch(job.id, ModelState.PENDING, None)
            job.leave(ModelState.PENDING)
            job.failures.clear()

    # What has to hold

    @invariant()
    def rows_are_as_they_have_to_be(self) -> None:
        with self.database.read() as session:
            rows: dict[str, Any] = {job.id: session.get_one(self.kind.table, job.id) for job in self.jobs}
            told = Counter(session.scalars(select(WebhookDelivery.subject)))
            told += Counter(session.scalars(select(ModelEvent.model_id).where(ModelEvent.action == "checks_ended")))
        for job in self.jobs:
            row = rows[job.id]
            assert row.state == job.state
            assert row.lease_token == (job.lease.token if job.lease else None), "only the last claim may end a job"
            assert Counter(row.failures) == job.failures
            assert all(count <= RETRY_BUDGET.get(code, 0) + 1 for code, count in row.failures.items())
            if job.is_held():
                assert row.lease_holder == job.holder
                assert (row.lease_expires_at < row.lease_taken_at) == job.is_late, "it is found when its worker is lost"
            if job.is_open():
                assert (row.lease_holder, row.lease_expires_at, row.rung_at) == (None, None, None), "a bell will ring"
            if self.kind.on_end:
                assert told[job.id] == job.ends, "each end is told of once"
            self._has_grown(job, row)

    def teardown(self) -> None:
        """Whatever has happened: once the lost ones are freed, workers that do not break end everything."""
        for number, _ in enumerate(self.jobs):
            self.let_the_lease_run_out(number)
        self.free_expired()
        for job in self.jobs:
            self._do(job)
        if any(job.state == EvaluationState.WAITING for job in self.jobs):
            self.begin_the_next_look()
            for job in self.jobs:
                self._do(job)
        self.rows_are_as_they_have_to_be()
        assert all(job.has_ended() for job in self.jobs), "none is stuck"

    def _do(self, job: Job) -> None:
        self.claim(self.jobs.index(job), HOLDERS[0])
        if job.lease:
            with self.database.write() as session:
                leases.finish(session, job.lease)
            job.leave(self.kind.states.done, is_end=True)

    def _has_grown(self, job: Job, row: Any) -> None:
        revision, before = job.seen
        content = row.state, dict(row.failures), row.progress, row.error
        assert row.revision > revision if content != before else row.revision >= revision
        job.seen = row.revision, content

    def _a_lease(self, data: st.DataObject) -> Lease:
        """Return one of all leases that there ever were; those that hold something are half of the choice."""
        valid = [lease for lease in self.leases if self._holds(lease)]
        return data.draw(st.one_of(*(st.sampled_from(some) for some in (valid, self.leases) if some)))

    def _holds(self, lease: Lease) -> Job | None:
        """Return the job that a lease is good for, if it still is."""
        return next((job for job in self.jobs if job.lease == lease), None)

    @contextmanager
    def _only_for(self, job: Job | None) -> Iterator[Any]:
        """Yield a transaction that has to raise LeaseLost where there is no job that the lease is good for."""
        if job:
            with self.database.write() as session:
                yield session
        else:
            with pytest.raises(LeaseLost), self.database.write() as session:
                yield session

    def _were_lost(self, freed: list[str], which: Callable[[Job], bool]) -> None:
        lost = [job for job in self.jobs if job.is_held() and which(job)]
        assert sorted(freed) == sorted(job.id for job in lost)
        for job in lost:
            job.count("worker_lost")


@pytest.mark.parametrize("kind", JOB_KINDS, ids=lambda kind: kind.name)
def test_histories(database: Database, kind: JobKind) -> None:
    class OfKind(Histories):
        pass

    OfKind.database, OfKind.kind = database, kind
    asked_for = os.environ.get("HISTORIES")
    run_state_machine_as_test(
        OfKind,
        settings=settings(
            max_examples=int(asked_for or EXAMPLES[database.url.get_backend_name()]),
            stateful_step_count=STEPS,
            phases=tuple(Phase) if asked_for else (Phase.explicit, Phase.reuse, Phase.generate),
            deadline=None,
            print_blob=False,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        ),
    )
