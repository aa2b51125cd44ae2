"""Bring a database to the schema of this release.

A database that a later release has migrated is left as it is: every migration keeps what the release before it uses, so
that processes of both can run side by side while a service is upgraded (docs/operations.md).
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from sqlalchemy.exc import OperationalError

from app.domain.errors import Unavailable
from app.storage.database import Database

log = structlog.get_logger()

MIGRATIONS = Path(__file__).parents[2] / "migrations"
_LOCK = 7_304_115_002  # any number, the same for every process that prepares a database
_TURN_SECONDS = 3600.0
_ATTEMPTS = 20
_PAUSE_SECONDS = 3.0
_LOCK_NOT_AVAILABLE = "55P03"


def alembic_config(folder: Path = MIGRATIONS) -> Config:
    """Return Alembic's configuration; it needs no ini file."""
    config = Config()
    config.set_main_option("script_location", str(folder))
    return config


def upgrade(
    database: Database,
    *,
    lock_seconds: float = 5,
    statement_seconds: float = 900,
    folder: Path = MIGRATIONS,
) -> None:
    """Apply every missing migration in one transaction; processes that start together take turns.

    Args:
        database: the database, which may be empty.
        lock_seconds: how long to wait for a table that is in use. All who come later wait behind a migration that
            waits, so it gives up soon and tries again.
        statement_seconds: how long one statement may take on PostgreSQL.
        folder: where the migrations lie.

    Raises:
        Unavailable: ``migration_blocked``, when a table was in use every time.
    """
    config = alembic_config(folder)
    if not _is_behind(database, config):
        return
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            with _connected(database) as connection:
                _limit(connection, lock_seconds=lock_seconds, statement_seconds=statement_seconds)
                config.attributes["connection"] = connection
                command.upgrade(config, "head")
            return
        except OperationalError as error:
            if getattr(error.orig, "sqlstate", None) != _LOCK_NOT_AVAILABLE:
                raise
            log.warning("migration.blocked", attempt=attempt, error=str(error.orig))
            time.sleep(_PAUSE_SECONDS if attempt < _ATTEMPTS else 0)
    raise Unavailable(
        "migration_blocked",
        f"The database was not migrated: a table was in use for {lock_seconds:g} s, {_ATTEMPTS} times.",
        hint="End long transactions (pg_stat_activity shows them), or start it again when there is less to do.",
    )


def in_turn(connection: Connection) -> None:
    """Keep other processes that prepare the same database waiting until this writing transaction ends.

    On SQLite a writing transaction is alone in any case.
    """
    if connection.dialect.name == "postgresql":
        _set(connection, "lock_timeout", _TURN_SECONDS)
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})


def _is_behind(database: Database, config: Config) -> bool:
    """Tell whether the database lacks a migration of this release."""
    script = ScriptDirectory.from_config(config)
    with database.engine.connect() as connection:
        found = MigrationContext.configure(connection).get_current_revision()
    known = {revision.revision for revision in script.walk_revisions()}
    if found is not None and found not in known:
        log.warning("migration.of_a_later_release", revision=found)
        return False
    return found != script.get_current_head()


@contextmanager
def _connected(database: Database) -> Iterator[Connection]:
    """Yield a connection in a transaction of its own, alone among those that migrate.

    On SQLite a table is changed by a copy that takes its place, during which no foreign key may be enforced; they are
    checked before the end instead.
    """
    with database.writing_engine.connect() as connection:
        if database.is_sqlite:
            connection.connection.dbapi_connection.execute("PRAGMA foreign_keys = OFF")  # type: ignore[union-attr]
        try:
            with connection.begin():
                in_turn(connection)
                yield connection
                if database.is_sqlite:
                    _check_foreign_keys(connection)
        finally:
            if database.is_sqlite:
                connection.connection.dbapi_connection.execute("PRAGMA foreign_keys = ON")  # type: ignore[union-attr]


def _check_foreign_keys(connection: Connection) -> None:
    broken = connection.exec_driver_sql("PRAGMA foreign_key_check").all()
    if broken:
        tables = sorted({str(row[0]) for row in broken})
        raise RuntimeError(f"the migration leaves {len(broken)} rows without what they refer to, in {tables}")


def _limit(connection: Connection, *, lock_seconds: float, statement_seconds: float) -> None:
    if connection.dialect.name == "postgresql":
        _set(connection, "lock_timeout", lock_seconds)
        _set(connection, "statement_timeout", statement_seconds)


def _set(connection: Connection, name: str, seconds: float) -> None:
    connection.execute(
        text("SELECT set_config(:name, :value, true)"), {"name": name, "value": f"{seconds * 1000:.0f}ms"}
    )
