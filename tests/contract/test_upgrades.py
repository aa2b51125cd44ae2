"""A database is brought to the schema of a release by one process at a time, without blocking anybody long."""

import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic.migration import MigrationContext
from sqlalchemy import inspect, text
from sqlalchemy.exc import DBAPIError, OperationalError

from app.domain.errors import Unavailable
from app.storage import migrate
from app.storage.database import Database
from app.storage.migrate import MIGRATIONS, upgrade
from app.storage.tables import Base
from tests.contract.racing import race
from tests.contract.schema_compatibility import Column, broken_by, schema_of
from tests.fixtures.service import own_database

NEXT = """
import sqlalchemy as sa
from alembic import op

revision, down_revision, branch_labels, depends_on = "9999", "{head}", None, None


def upgrade() -> None:
    {change}


def downgrade() -> None:
    raise NotImplementedError
"""


@pytest.fixture(params=["sqlite", "postgresql"])
def empty(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Yield the URL of a database without a table."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'empty.db'}"
        return
    with own_database(request.getfixturevalue("postgres_url"), "upgraded") as url:
        yield url


def next_release(folder: Path, change: str) -> Path:
    """Return the migrations of a release after this one, which changes something more."""
    shutil.copytree(MIGRATIONS, folder / "migrations", ignore=shutil.ignore_patterns("__pycache__"))
    head = max(path.name.partition("_")[0] for path in MIGRATIONS.glob("versions/[0-9]*.py"))
    (folder / "migrations" / "versions" / "9999_next.py").write_text(NEXT.format(head=head, change=change))
    return folder / "migrations"


def tables(url: str) -> set[str]:
    database = Database(url)
    with database.engine.connect() as connection:
        found = set(inspect(connection).get_table_names())
    database.close()
    return found


def test_processes_that_start_together_take_turns(empty: str) -> None:
    databases = [Database(empty) for _ in range(4)]
    race(*[lambda database=database: upgrade(database) for database in databases])
    for database in databases:
        database.close()
    assert tables(empty) == {*Base.metadata.tables, "alembic_version"}


def test_the_release_before_leaves_a_later_schema_alone(empty: str, tmp_path: Path) -> None:
    later = next_release(tmp_path, 'op.add_column("datasets", sa.Column("colour", sa.String()))')
    database = Database(empty)
    upgrade(database, folder=later)
    upgrade(database)
    with database.engine.connect() as connection:
        assert MigrationContext.configure(connection).get_current_revision() == "9999"
        assert "colour" in schema_of(connection)["datasets"]
    database.close()


def test_a_migration_that_fails_changes_nothing(empty: str, tmp_path: Path) -> None:
    change = 'op.add_column("datasets", sa.Column("colour", sa.String())); op.execute("SELECT * FROM nowhere")'
    database = Database(empty)
    upgrade(database)
    with pytest.raises(DBAPIError):
        upgrade(database, folder=next_release(tmp_path, change))
    with database.engine.connect() as connection:
        assert "colour" not in schema_of(connection)["datasets"]
    database.close()


class TestOnPostgresql:
    @pytest.fixture
    def database(self, postgres_url: str) -> Iterator[Database]:
        with own_database(postgres_url, "blocked") as url:
            database = Database(url)
            upgrade(database)
            yield database
            database.close()

    @pytest.fixture
    def later(self, tmp_path: Path) -> Path:
        return next_release(tmp_path, 'op.add_column("datasets", sa.Column("colour", sa.String()))')

    def test_it_gives_up_when_a_table_stays_in_use(
        self, database: Database, later: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(migrate, "_ATTEMPTS", 2)
        monkeypatch.setattr(migrate, "_PAUSE_SECONDS", 0.1)
        with database.engine.connect() as user:
            user.execute(text("SELECT count(*) FROM datasets"))
            started = time.monotonic()
            with pytest.raises(Unavailable) as told:
                upgrade(database, lock_seconds=0.2, folder=later)
            assert told.value.code == "migration_blocked"
            assert time.monotonic() - started < 10
        upgrade(database, folder=later)

    def test_it_tries_until_the_table_is_free(
        self, database: Database, later: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(migrate, "_PAUSE_SECONDS", 0.2)
        with database.engine.connect() as user:
            user.execute(text("SELECT count(*) FROM datasets"))
            threading.Timer(1, user.connection.rollback).start()
            upgrade(database, lock_seconds=0.2, folder=later)

    def test_a_statement_that_takes_too_long_is_ended(self, database: Database, tmp_path: Path) -> None:
        slow = next_release(tmp_path, 'op.execute("SELECT pg_sleep(60)")')
        with pytest.raises(OperationalError, match="statement timeout"):
            upgrade(database, statement_seconds=0.2, folder=slow)


class TestSqliteCopies:
    @pytest.mark.parametrize(
        ("change", "outcome"),
        [
            ("with op.batch_alter_table('parents') as table: table.add_column(sa.Column('age', sa.Integer()))", None),
            ("op.execute('DELETE FROM parents')", RuntimeError),
        ],
    )
    def test_children_outlive_a_copied_parent_and_no_other(
        self, tmp_path: Path, change: str, outcome: type[Exception] | None
    ) -> None:
        database = Database(f"sqlite:///{tmp_path / 'family.db'}")
        upgrade(database)
        with database.writing_engine.begin() as connection:
            connection.exec_driver_sql("CREATE TABLE parents (id INTEGER PRIMARY KEY)")
            cascade = "REFERENCES parents (id) ON DELETE CASCADE"
            connection.exec_driver_sql(f"CREATE TABLE children (parent INTEGER {cascade})")
            connection.exec_driver_sql("INSERT INTO parents VALUES (1)")
            connection.exec_driver_sql("INSERT INTO children VALUES (1)")
        later = next_release(tmp_path, change)
        if outcome is None:
            upgrade(database, folder=later)
        else:
            with pytest.raises(outcome):
                upgrade(database, folder=later)
        with database.engine.connect() as connection:
            assert connection.exec_driver_sql("SELECT count(*) FROM children").scalar() == 1
            assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
        database.close()


class TestCompatibility:
    BEFORE = {"jobs": {"id": Column(False, False), "note": Column(True, False)}}  # noqa: RUF012

    @pytest.mark.parametrize(
        ("after", "broken"),
        [
            ({}, ["jobs is gone"]),
            ({"jobs": {"id": Column(False, False)}}, ["jobs.note is gone"]),
            ({"jobs": BEFORE["jobs"] | {"note": Column(False, True)}}, ["jobs.note may no longer be null"]),
            ({"jobs": BEFORE["jobs"] | {"new": Column(False, False)}}, ["jobs.new is new and has to be given"]),
            ({"jobs": BEFORE["jobs"] | {"new": Column(False, True)}, "more": {}}, []),
            ({"jobs": BEFORE["jobs"] | {"new": Column(True, False)}}, []),
        ],
    )
    def test_what_the_release_before_cannot_work_with(
        self, after: dict[str, dict[str, Column]], broken: list[str]
    ) -> None:
        assert broken_by(self.BEFORE, after) == broken

    def test_what_it_did_not_use_may_go(self) -> None:
        after = {"jobs": {"id": Column(False, False)}}
        assert broken_by(self.BEFORE, after, unused=frozenset({"jobs.note"})) == []
