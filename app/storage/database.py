"""One door to SQLite and PostgreSQL: ``read()`` and ``write()`` transactions, and the database's own clock."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, Float, create_engine, event, make_url
from sqlalchemy.engine import Connection
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import Session
from sqlalchemy.sql.functions import GenericFunction
from sqlalchemy.types import TypeEngine


class database_now(GenericFunction[float]):  # noqa: N801  (an SQL function is written in lower case)
    """Seconds since 1970 by the database's clock, which all workers of one database share."""

    type: TypeEngine[float] = Float()
    inherit_cache = True


@compiles(database_now, "sqlite")
def _sqlite_now(*_: Any, **__: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(database_now, "postgresql")
def _postgresql_now(*_: Any, **__: Any) -> str:
    return "extract(epoch from clock_timestamp())::double precision"


_POSTGRESQL = {
    "connect_timeout": 5,
    # A server that vanished without a word is noticed after half a minute, not after the two hours of the system.
    "keepalives_idle": 15,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}


class Database:
    """The connections of one process to one database."""

    def __init__(self, url: str) -> None:
        """Open lazily: no connection is made before the first transaction."""
        self.url = make_url(url)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        if self.is_sqlite:
            if self.url.database:
                Path(self.url.database).parent.mkdir(parents=True, exist_ok=True)
            self.engine = create_engine(self.url, pool_size=20, max_overflow=40)
            event.listen(self.engine, "connect", _configure_sqlite)
            event.listen(self.engine, "begin", _begin_sqlite)
        else:
            url_with_driver = self.url.set(drivername="postgresql+psycopg")
            self.engine = create_engine(
                url_with_driver, pool_size=10, max_overflow=20, pool_pre_ping=True, connect_args=_POSTGRESQL
            )
        self.writing_engine: Engine = self.engine.execution_options(foretune_write=True)

    @contextmanager
    def read(self) -> Iterator[Session]:
        """Open a transaction that changes nothing; on SQLite it never waits for a writer."""
        with Session(self.engine, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """Open a transaction that is committed when the block ends and rolled back when it raises."""
        with Session(self.writing_engine, expire_on_commit=False) as session, session.begin():
            yield session

    def close(self) -> None:
        """Close every pooled connection."""
        self.engine.dispose()


def _configure_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # sqlite3 must not begin transactions by itself: _begin_sqlite does
    for pragma in ("journal_mode = WAL", "synchronous = NORMAL", "foreign_keys = ON", "busy_timeout = 15000"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    # A deferred transaction that turns into a writer fails at once when another writer committed in between;
    # BEGIN IMMEDIATE takes its turn instead.
    writes = connection.get_execution_options().get("foretune_write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
