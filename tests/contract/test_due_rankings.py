"""When a selection is ranked anew, and by whom, on both databases."""

from functools import partial

import pytest
from sqlalchemy import update

from app.storage import leases
from app.storage.database import Database, database_now
from app.storage.leases import EVALUATION
from app.storage.repositories import due_rankings
from app.storage.repositories.workers import ALIVE_SECONDS, announce, is_first
from app.storage.tables import Selection, Worker
from tests.contract.racing import race
from tests.contract.selection_steps import claim, end, read, waiting
from tests.fixtures.rows import add_selection


def take(database: Database, selection_id: str) -> bool:
    with database.write() as session:
        return due_rankings.take(session, selection_id)


def is_due(database: Database, selection_id: str) -> bool:
    with database.read() as session:
        return due_rankings.is_due(session, selection_id)


def let_time_pass(database: Database, selection_id: str, seconds: float) -> None:
    with database.write() as session:
        earlier = {"settled_at": Selection.settled_at - seconds, "updated_at": Selection.updated_at}
        session.execute(update(Selection).where(Selection.id == selection_id).values(earlier))


def test_the_first_news_is_ranked_at_once_and_more_after_a_pause(database: Database) -> None:
    selection_id, evaluations = add_selection(database, "a", "b", "c")
    assert waiting(database) == []
    end(database, evaluations[0])
    assert waiting(database) == [selection_id]
    assert take(database, selection_id)
    end(database, evaluations[1])
    assert (is_due(database, selection_id), take(database, selection_id), waiting(database)) == (False, False, [])
    let_time_pass(database, selection_id, 1.1)
    assert (is_due(database, selection_id), waiting(database)) == (True, [selection_id])
    assert take(database, selection_id)


def test_the_pause_grows_with_the_number_of_models(database: Database) -> None:
    selection_id, evaluations = add_selection(database, "a", "b")
    with database.write() as session:
        session.execute(update(Selection).where(Selection.id == selection_id).values(evaluations=400))
    end(database, evaluations[0])
    assert take(database, selection_id)
    let_time_pass(database, selection_id, 19)
    assert not is_due(database, selection_id)
    let_time_pass(database, selection_id, 1.1)
    assert is_due(database, selection_id)


def test_with_nothing_left_to_do_there_is_no_pause(database: Database) -> None:
    selection_id, evaluations = add_selection(database, "a", "b")
    end(database, evaluations[0])
    assert take(database, selection_id)
    lease = claim(database, evaluations[1])
    assert not is_due(database, selection_id)
    with database.write() as session:
        leases.finish(session, lease, result={})
    assert is_due(database, selection_id)
    assert take(database, selection_id)


def test_of_several_workers_one_ranks(database: Database) -> None:
    selection_id, evaluations = add_selection(database, "a", "b")
    end(database, evaluations[0])
    assert sorted(race(*[partial(take, database, selection_id)] * 6)) == [False] * 5 + [True]


def test_to_rank_is_no_news_by_itself(database: Database) -> None:
    selection_id, evaluations = add_selection(database, "a", "b")
    end(database, evaluations[0])
    before = read(database, selection_id)
    assert take(database, selection_id)
    after = read(database, selection_id)
    assert (after.revision, after.updated_at) == (before.revision, before.updated_at)


def test_what_has_ended_or_is_not_there_is_never_due(database: Database) -> None:
    selection_id, _ = add_selection(database, "a")
    with database.write() as session:
        session.execute(update(Selection).where(Selection.id == selection_id).values(state="cancelled"))
    for one in (selection_id, "sel_nothing"):
        assert (is_due(database, one), take(database, one)) == (False, False)


def test_one_worker_is_the_first(database: Database) -> None:
    with database.write() as session:
        for name in ("host/1", "host/0", "other/0"):
            announce(session, name, "cpu")
        assert [is_first(session, name) for name in ("host/0", "host/1", "other/0")] == [True, False, False]
        long_ago = {"seen_at": database_now() - ALIVE_SECONDS - 1}
        session.execute(update(Worker).where(Worker.name == "host/0").values(long_ago))
        assert [is_first(session, name) for name in ("host/0", "host/1", "nobody/0")] == [False, True, False]


@pytest.mark.parametrize("becomes", ["cancelled", "deleted", "expired"])
def test_a_job_that_users_ended_is_told_from_one_that_was_lost(database: Database, becomes: str) -> None:
    _, evaluations = add_selection(database, "a")
    lease = claim(database, evaluations[0])
    with database.write() as session:
        row = session.get_one(EVALUATION.table, evaluations[0])
        if becomes == "deleted":
            session.delete(row)
        elif becomes == "cancelled":
            row.state, row.lease_token = "cancelled", None
        else:
            row.lease_expires_at = 0.0
    with database.write() as session:
        leases.free_expired(session, EVALUATION)
        assert leases.is_called_off(session, lease) == (becomes != "expired")
