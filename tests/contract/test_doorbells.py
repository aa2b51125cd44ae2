"""How many workers are to be woken, on both databases."""

from app.storage import doorbells, leases
from app.storage.database import Database
from app.storage.leases import EVALUATION, Lease
from app.storage.repositories.workers import announce, retire
from tests.fixtures.rows import add_selection


def wanted(database: Database) -> int:
    with database.read() as session:
        return doorbells.wanted(session)


def claim(database: Database, job_id: str, holder: str, *, seconds: float = 60) -> Lease | None:
    with database.write() as session:
        return leases.claim(session, EVALUATION, job_id, holder=holder, seconds=seconds)


def test_nobody_is_woken_while_all_work(database: Database) -> None:
    ids = add_selection(database, "one", "two", "three")[1]
    with database.write() as session:
        announce(session, "host/0", "cpu")
        announce(session, "host/1", "cpu")
    idle = wanted(database)
    assert idle >= 2
    held = claim(database, ids[0], "host/0")
    assert wanted(database) == idle
    assert claim(database, ids[1], "host/1") is not None
    assert wanted(database) == 0
    assert held is not None
    with database.write() as session:
        leases.finish(session, held)
    assert wanted(database) == idle


def test_what_a_lost_worker_held_keeps_nobody_asleep(database: Database) -> None:
    ids = add_selection(database, "one", "two")[1]
    with database.write() as session:
        announce(session, "host/0", "cpu")
    claim(database, ids[0], "host/9", seconds=-1)
    assert wanted(database) > 0, "its lease has run out"


def test_a_database_that_knows_no_worker_yet(database: Database) -> None:
    ids = add_selection(database, "one", "two")[1]
    with database.write() as session:
        announce(session, "host/0", "cpu")
    claim(database, ids[0], "host/0")
    with database.write() as session:
        retire(session, "host/0")
    assert wanted(database) > 0
