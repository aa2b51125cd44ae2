"""What the repository of selections promises of races and of budgets of worker time, on both databases."""

from functools import partial

import pytest

from app.domain.states import EvaluationState, SelectionState
from app.storage import doorbells, leases
from app.storage.database import Database
from app.storage.leases import EVALUATION
from app.storage.repositories.evaluation_progress import progress_of
from app.storage.repositories.models import Models
from app.storage.repositories.selections import (
    NextLook,
    Selections,
    charge,
    is_spent,
    settle,
    stop_for_budget,
)
from tests.contract.racing import race
from tests.contract.selection_steps import NAMES, cancel, claim, rank, read, states, waiting
from tests.fixtures.rows import TENANT, add_model, add_ready_dataset


class TestRacing:
    """A race and a budget of worker time."""

    def start(self, database: Database, **more: object) -> tuple[str, list[str]]:
        dataset_id = add_ready_dataset(database, splits={"train": 250, "test": 50})
        for name in NAMES:
            add_model(database, name)
        with database.write() as session:
            models = Models(session).active()
            selections = Selections(session, TENANT)
            selection_id = selections.create(dataset_id, models, ["lfc"], None, max_images=200, **more).id
            return selection_id, [one.id for one in progress_of(session, [selection_id])[selection_id]]

    def look(self, database: Database, evaluation_id: str) -> None:
        lease = claim(database, evaluation_id)
        with database.write() as session:
            leases.finish(session, lease, state=EvaluationState.WAITING, look=1, result={})

    def settle(self, database: Database, selection_id: str, ranked: int, *eliminated: str) -> bool:
        with database.write() as session:
            out = NextLook(frozenset(eliminated))
            return settle(session, selection_id, ranked=ranked, ranking={"of": ranked}, ended=False, next_look=out)

    def test_without_race_and_budget_all_images_are_seen_at_once(self, database: Database) -> None:
        selection_id, _ = self.start(database)
        assert read(database, selection_id).looks is None

    @pytest.mark.parametrize("more", [{"race": {"keep": 1, "error_probability": 0.1}}, {"budget_seconds": 9.0}])
    def test_looks_grow_to_the_images_of_the_split_that_is_seen(
        self, database: Database, more: dict[str, object]
    ) -> None:
        selection_id, _ = self.start(database, **more)
        row = read(database, selection_id)
        assert row.looks == [128, 200]

    def test_models_that_wait_go_on_or_are_out(self, database: Database) -> None:
        selection_id, evaluations = self.start(database, race={"keep": 1, "error_probability": 0.1})
        for number, evaluation_id in enumerate(evaluations, start=1):
            self.look(database, evaluation_id)
            assert waiting(database) == [selection_id], "a look is news"
            if number < len(evaluations):
                assert rank(database, selection_id, number)
        assert self.settle(database, selection_id, 5, evaluations[0])
        assert states(database, selection_id).count(EvaluationState.ELIMINATED) == 1
        assert states(database, selection_id).count(EvaluationState.QUEUED) == 3
        assert waiting(database) == [], "the ranking knows of those who are out"
        assert read(database, selection_id).state == SelectionState.QUEUED
        with database.write() as session:
            assert sorted(doorbells.ring_due(session, EVALUATION, ring_again_seconds=60)) == sorted(evaluations[1:])

    def test_workers_that_begin_the_next_look_at_once_begin_it_once(self, database: Database) -> None:
        selection_id, evaluations = self.start(database, race={"keep": 1, "error_probability": 0.1})
        for evaluation_id in evaluations:
            self.look(database, evaluation_id)
        news = race(*[partial(self.settle, database, selection_id, 5, evaluations[0]) for _ in range(6)])
        assert sum(news) == 1
        assert states(database, selection_id).count(EvaluationState.QUEUED) == 3

    def test_a_cancelled_race_stays_cancelled(self, database: Database) -> None:
        selection_id, evaluations = self.start(database, race={"keep": 1, "error_probability": 0.1})
        for evaluation_id in evaluations:
            self.look(database, evaluation_id)
        race(
            partial(cancel, database, selection_id),
            partial(self.settle, database, selection_id, 5, evaluations[0]),
            partial(cancel, database, selection_id),
        )
        assert read(database, selection_id).state == SelectionState.CANCELLED
        assert set(states(database, selection_id)) <= {EvaluationState.CANCELLED, EvaluationState.ELIMINATED}
        assert not self.settle(database, selection_id, 6)
        assert EvaluationState.QUEUED not in states(database, selection_id)

    def test_spent_time_adds_up_to_the_budget(self, database: Database) -> None:
        selection_id, evaluations = self.start(database, budget_seconds=5.0)
        lease = claim(database, evaluations[0])

        def spend(seconds: float) -> None:
            with database.write() as session:
                charge(session, selection_id, seconds, is_news=True)

        race(*[partial(spend, 0.5) for _ in range(8)])
        with database.read() as session:
            assert is_spent(session, selection_id) is False
        spend(1.0)
        with database.write() as session:
            assert is_spent(session, selection_id) is True
            stop_for_budget(session, selection_id)
        assert read(database, selection_id).spent_seconds == pytest.approx(5.0)
        assert states(database, selection_id).count(EvaluationState.OVER_BUDGET) == 3
        with database.write() as session:  # the one that runs is ended by its worker
            leases.finish(session, lease, state=EvaluationState.OVER_BUDGET)
        assert set(states(database, selection_id)) == {EvaluationState.OVER_BUDGET}
        assert waiting(database) == [selection_id]

    def test_without_a_budget_nothing_is_ever_spent(self, database: Database) -> None:
        selection_id, _ = self.start(database)
        with database.write() as session:
            assert charge(session, selection_id, 1e9, is_news=True) is None
            assert is_spent(session, selection_id) is None
