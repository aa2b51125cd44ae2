"""Which errors of a database pass by themselves, by what real servers answer."""

import threading
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from app.storage.database import Database
from app.storage.outage import database_unavailable, is_away, is_in_trouble
from tests.fixtures.servers import free_port

AWAY, TROUBLE, WRONG = (True, False), (False, True), (False, False)


def judged(error: SQLAlchemyError) -> tuple[bool, bool]:
    return is_away(error), is_in_trouble(error)


def failure(database: Database, *statements: str) -> SQLAlchemyError:
    """Return what the last of some statements in a transaction raises."""
    with pytest.raises(SQLAlchemyError) as caught:
        carry_out(database, *statements)
    database.close()
    return caught.value


def carry_out(database: Database, *statements: str) -> None:
    with database.read() as session:
        for statement in statements:
            session.execute(text(statement))


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("admin_shutdown", AWAY),
        ("crash_shutdown", AWAY),
        ("cannot_connect_now", AWAY),
        ("connection_failure", AWAY),
        ("deadlock_detected", AWAY),
        ("serialization_failure", AWAY),
        ("lock_not_available", AWAY),
        ("idle_in_transaction_session_timeout", AWAY),
        ("read_only_sql_transaction", AWAY),
        ("too_many_connections", TROUBLE),
        ("out_of_memory", TROUBLE),
        ("disk_full", TROUBLE),
        ("io_error", TROUBLE),
        ("query_canceled", WRONG),
        ("program_limit_exceeded", WRONG),
        ("unique_violation", WRONG),
        ("undefined_table", WRONG),
        ("numeric_value_out_of_range", WRONG),
        ("in_failed_sql_transaction", WRONG),
    ],
)
def test_what_postgresql_says(postgres_url: str, condition: str, expected: tuple[bool, bool]) -> None:
    raised = f"DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = '{condition}'; END $$"
    error = failure(Database(f"{postgres_url}/postgres"), raised)
    assert judged(error) == expected
    if expected is TROUBLE:
        code = "storage_full" if condition == "disk_full" else "database_unavailable"
        assert database_unavailable(error).code == code


def test_a_connection_that_is_cut(postgres_url: str) -> None:
    database = Database(f"{postgres_url}/postgres")
    assert judged(failure(database, "SELECT pg_terminate_backend(pg_backend_pid())")) == AWAY


def test_a_server_that_is_not_there() -> None:
    assert judged(failure(Database(f"postgresql://foretune@127.0.0.1:{free_port()}/foretune"), "SELECT 1")) == AWAY


def test_sqlite(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'foretune.db'}"
    database, other = Database(url), Database(url)
    begun, ended = threading.Event(), threading.Event()

    def keep_others_out() -> None:
        with other.write() as session:
            session.execute(text("CREATE TABLE one (id INTEGER UNIQUE)"))
            begun.set()
            ended.wait(10)

    writer = threading.Thread(target=keep_others_out)
    writer.start()
    begun.wait(10)
    error = failure(database, "PRAGMA busy_timeout = 1", "CREATE TABLE two (id INTEGER)")
    ended.set()
    writer.join()
    other.close()
    assert judged(error) == AWAY
    assert judged(failure(database, "SELECT * FROM three")) == WRONG
    assert judged(failure(database, "INSERT INTO one VALUES (1)", "INSERT INTO one VALUES (1)")) == WRONG
    assert judged(failure(Database(f"sqlite:///{tmp_path}"), "SELECT 1")) == TROUBLE
