"""Fixtures that every test may use. Nothing is imitated: databases, servers and processes are real."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from app.storage.database import Database
from app.storage.migrate import upgrade
from app.storage.objects import Objects
from tests.fixtures.servers import postgres, redis_server

pytest_plugins = ["tests.fixtures.service"]


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """Yield the URL of a PostgreSQL server with a migrated template database."""
    with postgres() as url:
        _execute(url, "CREATE DATABASE template_foretune")
        database = Database(f"{url}/template_foretune")
        upgrade(database)
        database.close()
        yield url


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """Yield the URL of a Redis server."""
    with redis_server() as url:
        yield url


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
    url = request.getfixturevalue("postgres_url")
    name = f"test_{abs(hash(request.node.nodeid)):x}"
    _execute(url, f"CREATE DATABASE {name} TEMPLATE template_foretune")
    database = Database(f"{url}/{name}")
    yield database
    database.close()
    _execute(url, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def objects(tmp_path: Path) -> Objects:
    """Return an empty object store in a folder."""
    return Objects((tmp_path / "objects").as_uri())


def _execute(url: str, statement: str) -> None:
    engine = create_engine(f"{url}/postgres".replace("postgresql://", "postgresql+psycopg://"))
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text(statement))
    engine.dispose()
