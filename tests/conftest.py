"""Fixtures that every test may use. Nothing is imitated: databases, servers and processes are real."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from app.storage.database import Database
from app.storage.migrate import upgrade
from app.storage.objects import Objects
from app.storage.tables import Base
from tests.fixtures.servers import postgres, redis_server, s3_server

pytest_plugins = ["tests.fixtures.service", "tests.fixtures.stack"]


@pytest.fixture(scope="session", autouse=True)
def _sigint_reaches_children() -> None:
    """A shell starts background jobs with SIGINT ignored, and what the tests start would inherit that."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """Yield the URL of a PostgreSQL server."""
    with postgres() as server:
        yield server.url


@pytest.fixture(scope="session")
def postgres_database_url(postgres_url: str) -> str:
    """Return the URL of a migrated database, which whoever uses it empties again."""
    url = f"{postgres_url}/foretune"
    _execute(f"{postgres_url}/postgres", "CREATE DATABASE foretune")
    database = Database(url)
    upgrade(database)
    database.close()
    return url


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """Yield the URL of a Redis server."""
    with redis_server() as server:
        yield server.url


@pytest.fixture(scope="session")
def s3_url() -> Iterator[str]:
    """Yield the URL of an S3 server."""
    with s3_server() as server:
        yield server.url


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Return the bytes of a migrated SQLite file."""
    path = tmp_path_factory.mktemp("sqlite") / "template.db"
    database = Database(f"sqlite:///{path}")
    upgrade(database)
    database.close()
    return path.read_bytes()


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """Yield an empty, migrated database of either kind."""
    if request.param == "sqlite":
        path = tmp_path / "foretune.db"
        path.write_bytes(request.getfixturevalue("sqlite_template"))
        database = Database(f"sqlite:///{path}")
        yield database
        database.close()
        return
    url = request.getfixturevalue("postgres_database_url")
    database = Database(url)
    yield database
    database.close()
    # Emptying one database takes a hundredth of the time that making a new one does.
    _execute(
        url,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid != pg_backend_pid()",
        f"TRUNCATE {', '.join(Base.metadata.tables)}",
    )


@pytest.fixture
def objects(tmp_path: Path) -> Objects:
    """Return an empty object store in a folder."""
    return Objects((tmp_path / "objects").as_uri())


def _execute(url: str, *statements: str) -> None:
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for statement in statements:
            connection.execute(text(statement))
    engine.dispose()
