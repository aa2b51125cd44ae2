"""What the repository of selections promises, on both databases."""

import random
from functools import partial

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import update

from app.domain.errors import Conflict, EvaluationFailed, NotFound
from app.domain.states import DatasetState, EvaluationState, SelectionState
from app.storage import leases
from app.storage.database import Database
from app.storage.leases import Lease, LeaseLost
from app.storage.repositories.evaluation_progress import progress_of
from app.storage.repositories.selections import (
    Selections,
    begin,
    evaluations_of,
    settle,
    touch,
)
from app.storage.tables import Dataset
from tests.contract.racing import race
from tests.contract.selection_steps import NAMES, cancel, claim, create, end, rank, read, states, waiting
from tests.fixtures.rows import TENANT, add_model, add_ready_dataset, add_selection


class TestCreating:
    def test_a_selection_has_one_evaluation_for_each_model(self, database: Database) -> None:
        for name in ("b", "a"):
            add_model(database, name)
        selection_id = create(database, add_ready_dataset(database), name="mine")
        row = read(database, selection_id)
        assert (row.state, row.name, row.evaluations, row.ranked) == (SelectionState.QUEUED, "mine", 2, 0)
        assert row.scores == ["lfc", "logme"]
        with database.read() as session:
            assert [model.name for _, model in evaluations_of(session, selection_id)] == ["a", "b"]
            progress = progress_of(session, [selection_id])[selection_id]
            assert [(one.name, one.state, one.progress) for one in progress] == [
                ("a", "queued", None),
                ("b", "queued", None),
            ]

    def test_without_a_name_it_is_called_like_its_data_set(self, database: Database) -> None:
        add_model(database, "one")
        assert read(database, create(database, add_ready_dataset(database))).name == "shoes"

    @pytest.mark.parametrize(
        "state", [state for state in DatasetState if state not in (DatasetState.READY, DatasetState.REJECTED)]
    )
    def test_a_data_set_that_is_not_ready_is_refused(self, database: Database, state: DatasetState) -> None:
        dataset_id = add_ready_dataset(database)
        with database.write() as session:
            session.execute(update(Dataset).values(state=state))
        gone = state in (DatasetState.DELETING, DatasetState.DELETED)
        with pytest.raises(NotFound if gone else Conflict) as refused:
            create(database, dataset_id)
        assert refused.value.code == ("dataset_not_found" if gone else "dataset_not_ready")
        assert refused.value.param == "dataset"

    def test_a_rejected_data_set_is_refused_with_its_reason(self, database: Database) -> None:
        dataset_id = add_ready_dataset(database)
        error = {"code": "too_few_classes", "message": "There is one class.", "param": None, "hint": None}
        with database.write() as session:
            session.execute(update(Dataset).values(state=DatasetState.REJECTED, error=error))
        with pytest.raises(Conflict) as refused:
            create(database, dataset_id)
        assert refused.value.code == "dataset_rejected"
        assert "There is one class." in refused.value.message

    def test_nothing_of_another_tenant_can_be_seen_or_touched(self, database: Database) -> None:
        selection_id, _ = add_selection(database, "one")
        dataset_id = read(database, selection_id).dataset_id
        with database.write() as session:
            others = Selections(session, "rival")
            for touch_it in (others.get, others.revision, others.cancel):
                with pytest.raises(NotFound) as missing:
                    touch_it(selection_id)
                assert missing.value.code == "selection_not_found"
            assert others.page(limit=5, cursor=None).rows == []
        with pytest.raises(NotFound) as missing:
            create(database, dataset_id, tenant="rival")
        assert missing.value.code == "dataset_not_found"
        assert read(database, selection_id).state == SelectionState.QUEUED

    def test_selections_are_listed_newest_first(self, database: Database) -> None:
        first, _ = add_selection(database, "one")
        second = create(database, read(database, first).dataset_id)
        with database.read() as session:
            assert [row.id for row in Selections(session, TENANT).page(limit=5, cursor=None).rows] == [second, first]


class TestCancelling:
    def test_open_evaluations_end_and_ended_ones_stay(self, database: Database) -> None:
        selection_id, jobs = add_selection(database, *NAMES)
        end(database, jobs[0])
        held = claim(database, jobs[1])
        rank(database, selection_id, 1)
        row = cancel(database, selection_id)
        assert row.state == SelectionState.CANCELLED
        assert row.finished_at is not None
        assert row.ranking == {"of": 1}, "what was ranked stays"
        assert sorted(states(database, selection_id)) == ["cancelled", "cancelled", "cancelled", "done"]
        with pytest.raises(LeaseLost), database.write() as session:
            leases.finish(session, held, result={})
        assert waiting(database) == []

    def test_cancelling_twice_is_the_same_as_once(self, database: Database) -> None:
        selection_id, _ = add_selection(database, "one")
        once = cancel(database, selection_id)
        twice = cancel(database, selection_id)
        assert (twice.revision, twice.finished_at) == (once.revision, once.finished_at)

    def test_an_ended_selection_stays_as_it_is(self, database: Database) -> None:
        selection_id, jobs = add_selection(database, "one")
        end(database, jobs[0])
        rank(database, selection_id, 1)
        assert cancel(database, selection_id).state == SelectionState.DONE
        assert states(database, selection_id) == ["done"]

    def test_a_ranking_that_comes_too_late_changes_nothing(self, database: Database) -> None:
        selection_id, jobs = add_selection(database, "one")
        end(database, jobs[0])
        cancelled = cancel(database, selection_id)
        assert not rank(database, selection_id, 1)
        with database.write() as session:
            touch(session, selection_id)
            begin(session, selection_id)
        row = read(database, selection_id)
        assert (row.state, row.ranking, row.revision) == (SelectionState.CANCELLED, None, cancelled.revision)

    def test_cancelling_while_workers_report(self, database: Database) -> None:
        """A worker writes an evaluation and then its selection; a cancel writes both too, and neither waits forever."""
        for _ in range(3):
            selection_id, jobs = add_selection(database, *NAMES)
            held = [claim(database, job) for job in jobs]

            def report(lease: Lease, selection_id: str = selection_id) -> str:
                for done in range(20):
                    try:
                        with database.write() as session:
                            progress = {"stage": "x", "done": done, "total": 20}
                            leases.renew(session, lease, seconds=60, progress=progress)
                            touch(session, selection_id)
                    except LeaseLost:
                        return "lost"
                return "reported"

            def stop(selection_id: str = selection_id) -> str:
                return cancel(database, selection_id).state

            outcomes = race(*[partial(report, lease) for lease in held], stop)
            assert outcomes[-1] == SelectionState.CANCELLED
            assert set(states(database, selection_id)) == {"cancelled"}
            with database.write() as session:
                session.execute(update(Dataset).values(state=DatasetState.DELETED))  # the next round uploads it anew


class TestSettling:
    def test_the_last_evaluation_ends_the_selection(self, database: Database) -> None:
        selection_id, _ = add_selection(database, "one", "two")
        assert rank(database, selection_id, 1)
        row = read(database, selection_id)
        assert (row.state, row.ranking, row.ranked, row.finished_at) == ("queued", {"of": 1}, 1, None)
        assert rank(database, selection_id, 2)
        row = read(database, selection_id)
        assert (row.state, row.ranking, row.ranked) == (SelectionState.DONE, {"of": 2}, 2)
        assert row.finished_at is not None

    def test_it_fails_with_the_error_of_its_last_evaluation_only(self, database: Database) -> None:
        selection_id, _ = add_selection(database, "one", "two")
        error = EvaluationFailed("all_models_failed", "None could be evaluated.").as_dict()
        rank(database, selection_id, 1, error)
        assert read(database, selection_id).error is None
        rank(database, selection_id, 2, error)
        row = read(database, selection_id)
        assert (row.state, row.error) == (SelectionState.FAILED, error)

    @settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(order=st.lists(st.integers(0, 4), min_size=1, max_size=8))
    def test_a_ranking_of_fewer_never_replaces_one_of_more(self, database: Database, order: list[int]) -> None:
        dataset_id = add_ready_dataset(database)
        for name in NAMES:
            add_model(database, name)
        selection_id = create(database, dataset_id)
        best, revision = 0, read(database, selection_id).revision
        for ranked in order:
            is_news = rank(database, selection_id, ranked)
            row = read(database, selection_id)
            assert is_news == (ranked > best)
            best = max(best, ranked)
            assert row.ranked == best
            assert row.ranking == ({"of": best} if best else None)
            assert row.revision == revision + is_news
            revision = row.revision
            assert row.state == (SelectionState.DONE if best == 4 else SelectionState.QUEUED)

    def test_workers_that_settle_at_once_leave_the_fullest_ranking(self, database: Database) -> None:
        selection_id, _ = add_selection(database, *NAMES)
        shuffled = [1, 2, 3, 4] * 3
        random.Random(0).shuffle(shuffled)
        news = race(*[partial(rank, database, selection_id, ranked) for ranked in shuffled])
        row = read(database, selection_id)
        assert (row.state, row.ranked, row.ranking) == (SelectionState.DONE, 4, {"of": 4})
        assert 1 <= sum(news) <= 4
        assert row.revision == 1 + sum(news)

    def test_the_revision_only_grows_under_everything_at_once(self, database: Database) -> None:
        selection_id, _ = add_selection(database, *NAMES)

        def change(number: int) -> list[int]:
            seen = []
            for step in range(12):
                with database.write() as session:
                    if step % 3 == 0:
                        begin(session, selection_id)
                    elif step % 3 == 1:
                        touch(session, selection_id)
                    else:
                        settle(session, selection_id, ranked=number, ranking={"of": number}, ended=False)
                seen.append(read(database, selection_id).revision)
            return seen

        for seen in race(*[partial(change, number) for number in (0, 1, 2, 3)]):
            assert seen == sorted(seen)
        row = read(database, selection_id)
        assert row.state == SelectionState.RUNNING
        assert row.ranking == {"of": 3}
        assert row.revision >= 1 + 4 * 8, "no change was lost"

    def test_it_begins_once(self, database: Database) -> None:
        selection_id, _ = add_selection(database, "one")
        with database.write() as session:
            begin(session, selection_id)
        begun = read(database, selection_id)
        assert (begun.state, begun.started_at is None) == (SelectionState.RUNNING, False)
        with database.write() as session:
            begin(session, selection_id)
        assert read(database, selection_id).started_at == begun.started_at

    def test_what_a_lost_worker_left_unranked_is_found(self, database: Database) -> None:
        selection_id, jobs = add_selection(database, "one", "two")
        assert waiting(database) == []
        end(database, jobs[0])
        assert waiting(database) == [selection_id]
        rank(database, selection_id, 1)
        assert waiting(database) == []
        lease = claim(database, jobs[1])
        assert waiting(database) == []
        with database.write() as session:
            leases.fail(session, lease, EvaluationFailed("broken", "It broke."))
        assert waiting(database) == [selection_id]
        rank(database, selection_id, 2)
        assert waiting(database) == []
        assert states(database, selection_id) == [EvaluationState.DONE, EvaluationState.FAILED]
