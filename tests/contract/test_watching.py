"""What selections that watch the zoo promise, on both databases."""

from functools import partial
from typing import Any

import pytest
from sqlalchemy import update

from app.domain.errors import Conflict
from app.domain.model_constraints import ModelConstraints
from app.domain.states import EvaluationState, ModelState, SelectionState
from app.storage.database import Database
from app.storage.repositories.datasets import Datasets
from app.storage.repositories.selections import evaluations_of
from app.storage.repositories.watching import follow, overdue
from app.storage.tables import Evaluation, Model, Selection
from tests.contract.racing import race
from tests.contract.selection_steps import cancel, rank, read
from tests.fixtures.rows import TENANT, add_model, add_selection


def ended(database: Database, *names: str, **more: Any) -> str:
    """Add a selection that watches the zoo, and end it."""
    selection_id, evaluation_ids = add_selection(database, *names)
    with database.write() as session:
        for number, evaluation_id in enumerate(evaluation_ids):
            result = {"number": number}
            values = {"state": EvaluationState.DONE, "result": result, "progress": {"stage": "done"}}
            session.execute(update(Evaluation).where(Evaluation.id == evaluation_id).values(values))
        session.execute(update(Selection).where(Selection.id == selection_id).values(watch=True, **more))
    assert rank(database, selection_id, len(names))
    return selection_id


def look(database: Database, patience_seconds: float = 600) -> list[str]:
    with database.read() as session:
        return overdue(session, patience_seconds=patience_seconds)


def successor_of(database: Database, selection_id: str) -> Selection:
    with database.write() as session:
        successor = follow(session, selection_id)
        assert successor is not None
        session.expunge(successor)
    return successor


def members(database: Database, selection_id: str) -> dict[str, int]:
    """Return the models of a selection by name, with their versions; all of their evaluations are open."""
    with database.read() as session:
        pairs = evaluations_of(session, selection_id)
        assert {evaluation.state for evaluation, _ in pairs} == {EvaluationState.QUEUED}
        return {model.name: model.version for _, model in pairs}


def set_model(database: Database, model_id: str, **values: Any) -> None:
    with database.write() as session:
        session.execute(update(Model).where(Model.id == model_id).values(**values))


def test_a_selection_with_the_new_model_follows(database: Database) -> None:
    first = ended(database, "a", "b", target={"kind": "loss"}, verify={"k": 1})
    assert look(database) == []
    add_model(database, "c")
    assert look(database) == [first]
    before = read(database, first)
    successor = successor_of(database, first)
    assert members(database, successor.id) == {"a": 1, "b": 1, "c": 1}
    assert (successor.previous_id, successor.watch, successor.evaluations, successor.ranked) == (first, True, 3, 0)
    assert (successor.target, successor.verify, successor.scores) == ({"kind": "loss"}, None, before.scores)
    assert (successor.dataset_id, successor.tenant, successor.name) == (before.dataset_id, TENANT, before.name)
    after = read(database, first)
    assert (after.revision, after.state, after.ranking) == (before.revision + 1, SelectionState.DONE, before.ranking)
    assert look(database) == [], "neither the first, which is followed, nor the second, which has not ended"


def test_a_model_that_left_the_zoo_is_left_out_and_a_new_version_takes_its_place(database: Database) -> None:
    first = ended(database, "a", "b", "c")
    with database.read() as session:
        ids = {model.name: model.id for _, model in evaluations_of(session, first)}
    set_model(database, ids["a"], state=ModelState.DISABLED)
    assert look(database) == [], "fewer models are no reason to rank again"
    set_model(database, ids["b"], state=ModelState.DISABLED)
    newer = add_model(database, "b2")
    set_model(database, newer, name="b", version=2)
    assert look(database) == [first]
    successor = successor_of(database, first)
    assert members(database, successor.id) == {"b": 2, "c": 1}


def test_constraints_still_hold(database: Database) -> None:
    small = ModelConstraints(max_parameters=50).as_dict()
    first = ended(database, "a", constraints=small)
    large = add_model(database, "large")
    set_model(database, large, facts={"parameters": 51, "resolved": {}})
    assert look(database) == []
    set_model(database, large, facts={"parameters": 50, "resolved": {}})
    assert look(database) == [first]


@pytest.mark.parametrize("values", [{"watch": False}, {"state": SelectionState.CANCELLED}, {"zoo": "of another name"}])
def test_what_does_not_watch_is_not_followed(database: Database, values: dict[str, Any]) -> None:
    first = ended(database, "a")
    with database.write() as session:
        session.execute(update(Selection).where(Selection.id == first).values(**values))
    add_model(database, "b")
    assert look(database) == []
    with database.write() as session:
        assert follow(session, first) is None


def test_what_could_not_rank_anything_is_followed_too(database: Database) -> None:
    first = ended(database, "a")
    with database.write() as session:
        session.execute(update(Selection).where(Selection.id == first).values(state=SelectionState.FAILED))
    add_model(database, "b")
    assert look(database) == [first]
    assert members(database, successor_of(database, first).id) == {"a": 1, "b": 1}


def test_cancelling_the_first_ends_the_watch_of_those_that_follow(database: Database) -> None:
    first = ended(database, "a")
    add_model(database, "b")
    second = successor_of(database, first)
    cancel(database, first)
    assert read(database, second.id).watch is False
    assert read(database, second.id).state == SelectionState.QUEUED, "what is under way is ranked"


def test_a_data_set_that_is_deleted_at_the_moment_is_not_followed(database: Database) -> None:
    first = ended(database, "a")
    add_model(database, "b")
    dataset_id = read(database, first).dataset_id

    def add() -> str:
        with database.write() as session:
            return "followed" if follow(session, first) is not None else "let be"

    def delete() -> str:
        try:
            with database.write() as session:
                Datasets(session, TENANT).delete(dataset_id)
        except Conflict as refused:
            return refused.code
        return "deleted"

    assert race(add, delete) in (["followed", "dataset_in_use"], ["let be", "deleted"]), "whichever came first"


def test_cancelling_ends_the_watch_of_a_selection_that_has_ended(database: Database) -> None:
    first = ended(database, "a")
    add_model(database, "b")
    before = read(database, first)
    after = cancel(database, first)
    assert (after.state, after.watch, after.revision) == (SelectionState.DONE, False, before.revision + 1)
    assert look(database) == []
    assert cancel(database, first).revision == after.revision


def test_a_deleted_data_set_is_not_looked_at_again(database: Database) -> None:
    first = ended(database, "a")
    add_model(database, "b")
    assert look(database) == [first]
    with database.write() as session:
        Datasets(session, TENANT).delete(read(database, first).dataset_id)
    assert look(database) == []


def test_those_of_one_import_wait_for_each_other_but_not_for_ever(database: Database) -> None:
    first = ended(database, "a")
    add_model(database, "b")
    checking = add_model(database, "c", state=ModelState.CHECKING)
    assert look(database) == []
    assert look(database, patience_seconds=0) == [first]
    set_model(database, checking, state=ModelState.ACTIVE)
    assert look(database) == [first]
    assert len(members(database, successor_of(database, first).id)) == 3


def test_two_workers_add_one_successor(database: Database) -> None:
    first = ended(database, "a")
    add_model(database, "b")

    def add() -> bool:
        with database.write() as session:
            return follow(session, first) is not None

    assert sorted(race(*[partial(add)] * 4)) == [False, False, False, True]
