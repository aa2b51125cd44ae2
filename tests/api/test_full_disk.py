"""A disk without room: told as that, by requests that would write, and by nothing else."""

import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save
from sqlalchemy import event, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import Pool

from app.storage.database import Database
from app.storage.full_disk import is_out_of_room
from tests.api.problem import assert_problem
from tests.fixtures.service import RunningService, empty_zoo_settings, own_database, run_service

LIMIT = 8 << 20
"""More than the database of an empty service has."""


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """Yield a service whose disk may be full without harm to other tests."""
    with run_service(empty_zoo_settings(tmp_path_factory.mktemp("home"))) as running:
        yield running


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Let the system refuse to write longer files, as it does on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def _no_more_pages(connection: Any, *_: object) -> None:
    connection.execute("PRAGMA max_page_count = 1")  # SQLite takes it for as many as there are


@contextmanager
def databases_of_no_more_pages() -> Iterator[None]:
    """Let SQLite meet the end of its disk in every database of this process."""
    event.listen(Pool, "checkout", _no_more_pages)
    try:
        yield
    finally:
        event.remove(Pool, "checkout", _no_more_pages)


@pytest.mark.parametrize("path", ["/v1/weights", "/v1/datasets"])
def test_an_upload_that_finds_no_room(alone: RunningService, path: str) -> None:
    admin, content = alone.client(alone.admin_key), save({"a": np.zeros(LIMIT + 1, np.uint8)})
    before = alone.objects.keys()
    with files_of_at_most(LIMIT):
        refused = admin.post(path, content=content)
    assert_problem(refused, 507, "storage_full")
    assert "Make room" in refused.json()["hint"]
    assert "Retry-After" not in refused.headers
    assert alone.objects.keys() == before
    assert not list((alone.settings.home / "objects" / "drafts").iterdir())
    assert admin.post(path, content=content).status_code in {201, 202}


def test_a_database_that_finds_no_room(alone: RunningService) -> None:
    admin = alone.client(alone.admin_key)
    assert admin.put("/v1/zoos/before", json={"models": []}).status_code == 201
    with databases_of_no_more_pages():
        tried = (admin.put(f"/v1/zoos/full-{number}", json={"models": []}) for number in range(200))
        refused = next(answer for answer in tried if answer.status_code != 201)
        assert_problem(refused, 507, "storage_full")
        assert "database" in refused.json()["hint"]
        assert admin.get("/v1/zoos").status_code == 200
    alone.close_clients()


def test_postgresql_says_by_its_code_that_its_disk_is_full(postgres_url: str) -> None:
    with own_database(postgres_url, "crowded") as url:
        database = Database(url)
        told = {}
        for condition in ("disk_full", "lock_not_available"):
            with pytest.raises(OperationalError) as caught, database.read() as session:
                session.execute(text(f"DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = '{condition}'; END $$"))
            told[condition] = is_out_of_room(caught.value)
        database.close()
    assert told == {"disk_full": True, "lock_not_available": False}


def test_a_database_that_cannot_be_opened_has_room(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    database = Database(f"sqlite:///{tmp_path / 'folder'}")
    with pytest.raises(OperationalError) as caught, database.read() as session:
        session.execute(text("SELECT 1"))
    assert not is_out_of_room(caught.value)
