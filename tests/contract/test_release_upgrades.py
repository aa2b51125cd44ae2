"""The databases of earlier releases are upgraded: they answer as before, and are worked on.

Their files lie in tests/data; ``make_release_database`` says how they come there.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
import yaml
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection

from app.config import write_private
from app.storage.database import Database
from app.storage.migrate import upgrade
from app.storage.tables import Base
from tests.contract.schema_compatibility import broken_by, schema_of
from tests.data.releases import Release, releases
from tests.fixtures.archives import class_folders, zip_of
from tests.fixtures.processes import running_service
from tests.fixtures.service import empty_zoo_settings, own_database, run_service
from tests.fixtures.story import finished, prepared, select, wait_for
from tests.fixtures.tiny_zoo import tiny_zoo

RELEASES = releases()
BEFORE = RELEASES[-1]
"""The release whose processes run beside those of this one while a service is upgraded."""
UNUSED: frozenset[str] = frozenset()
"""What ``BEFORE`` has in its schema and did not use any more: this release may drop it."""


def name(release: Release) -> str:
    return release.name


@pytest.fixture(params=["sqlite", "postgresql"])
def empty(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Yield the URL of a database without a table."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'restored.db'}"
        return
    with own_database(request.getfixturevalue("postgres_url"), "restored") as url:
        yield url


@pytest.mark.parametrize("release", RELEASES, ids=name)
def test_no_row_is_lost_and_the_schema_is_that_of_this_release(release: Release, empty: str) -> None:
    release.restore(empty)
    database = Database(empty)
    with database.engine.connect() as connection:
        before = {table: count(connection, table) for table in schema_of(connection)}
    upgrade(database)
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []
        after = {table: count(connection, table) for table in before if table in schema_of(connection)}
    database.close()
    assert after == {table: rows for table, rows in before.items() if table in after}
    assert sum(after.values()) > 30


@pytest.mark.parametrize("release", RELEASES, ids=name)
def test_it_answers_as_before(release: Release, empty: str, tmp_path: Path) -> None:
    release.restore(empty)
    assert_answers(release, empty, tmp_path)


def test_the_schema_has_what_the_release_before_uses(empty: str) -> None:
    BEFORE.restore(empty)
    database = Database(empty)
    with database.engine.connect() as connection:
        before = schema_of(connection)
    upgrade(database)
    with database.engine.connect() as connection:
        assert broken_by(before, schema_of(connection), unused=UNUSED) == []
    database.close()


def test_what_the_release_before_writes_after_the_upgrade_is_read(postgres_url: str, tmp_path: Path) -> None:
    """Every row that its processes wrote is written again, as they would, into the schema of this release."""
    with own_database(postgres_url, "beside") as url:
        database = Database(url)
        upgrade(database)
        database.close()
        with psycopg.connect(url) as connection:
            rows = BEFORE.rows()
            for table in Base.metadata.sorted_tables:  # what others refer to first
                for row in rows.pop(table.name, []):
                    connection.execute(row.encode())
            assert rows.keys() <= UNUSED
        assert_answers(BEFORE, url, tmp_path)


def test_new_work_is_done_on_it(tmp_path: Path) -> None:
    """As on a laptop: the home stays, another version of Foretune is started on it."""
    home = tmp_path / "home"
    home.mkdir()
    BEFORE.restore(f"sqlite:///{home / 'foretune.db'}")
    told = BEFORE.told
    write_private(home / "secret.key", told["secret"])
    write_private(home / "admin.key", told["key"])
    manifest = tiny_zoo(tmp_path)
    models = yaml.safe_load(manifest.read_text())["models"]
    manifest.write_text(yaml.safe_dump({"models": [one for one in models if one["name"] == "test_resnet"]}))
    settings = {"FORETUNE_ZOO_MANIFEST": str(manifest), "FORETUNE_THREADS": "1"}
    with running_service(home, **settings) as service, service.client() as client:
        wait_for(lambda: ("test_resnet", 2) in active(client), 300)
        dataset = prepared(client, zip_of(class_folders(("bag", "dress"), per_class=10)))["id"]
        (row,) = finished(client, select(client, dataset, models=["test_resnet"], scores=["knn"]))["data"]
        assert (row["name"], row["version"], row["rank"]) == ("test_resnet", 2, 1)
        for path in told["answers"]:
            if path.count("/") == 3 and path.startswith("/v1/datasets/"):
                assert client.delete(path).status_code == 204
        assert len(client.get("/v1/datasets").json()["data"]) == 1


def active(client: httpx.Client) -> set[tuple[str, int]]:
    """Return the names and versions of the models that can be ranked."""
    models = client.get("/v1/models").json()["data"]
    return {(one["name"], one["version"]) for one in models if one["status"] == "active"}


def assert_answers(release: Release, url: str, folder: Path) -> None:
    """Start this release on a database, and ask it what the earlier one was asked."""
    told = release.told
    settings = empty_zoo_settings(folder / "home", database_url=url, secret=told["secret"])
    with run_service(settings) as service:
        client = service.client(told["key"])
        for path, before in told["answers"].items():
            answer = client.get(path)
            assert answer.status_code == 200, answer.text
            assert lost(before, answer.json()) == [], path


def lost(before: Any, now: Any, path: str = "") -> list[str]:
    """Return where an answer no longer says what it said; it may say more."""
    if isinstance(before, dict) and isinstance(now, dict):
        gone = [f"{path}.{key} is gone" for key in before.keys() - now.keys()]
        kept = before.keys() & now.keys()
        return gone + [one for key in kept for one in lost(before[key], now[key], f"{path}.{key}")]
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        pairs = zip(before, now, strict=True)
        return [one for number, pair in enumerate(pairs) for one in lost(*pair, f"{path}[{number}]")]
    return [] if before == now else [f"{path} was {before!r} and is {now!r}"]


def count(connection: Connection, table: str) -> int:
    return int(connection.exec_driver_sql(f'SELECT count(*) FROM "{table}"').scalar_one())
