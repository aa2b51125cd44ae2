"""What is asked to be deleted by itself says when: data sets, selections, fine-tunes."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import select, update

from app.domain.states import DatasetState
from app.storage.tables import Dataset
from tests.cli.conftest import Served, wait_until
from tests.cli.test_commands import REPORT, ready_dataset
from tests.fixtures.archives import class_folders, zip_of
from tests.fixtures.rows import add_model


def days_left(expires_at: str) -> float:
    return (datetime.fromisoformat(expires_at) - datetime.now(UTC)) / timedelta(days=1)


@contextmanager
def preparing(served: Served, name: str) -> Iterator[None]:
    """Understand what is uploaded under a name, as a worker would."""
    received = [Dataset.state == DatasetState.RECEIVED, Dataset.name == name]

    def arrived() -> str | None:
        with served.database.read() as session:
            return session.scalar(select(Dataset.id).where(*received))

    def prepare() -> None:
        wait_until(lambda: arrived() is not None)
        ready = {"state": DatasetState.READY, "report": REPORT, "digest": "r" * 8, "revision": Dataset.revision + 1}
        with served.database.write() as session:
            session.execute(update(Dataset).where(*received).values(ready))

    working = threading.Thread(target=prepare)
    working.start()
    try:
        yield
    finally:
        working.join()


def test_an_upload_is_kept_as_long_as_asked(served: Served, tmp_path: Path) -> None:
    archive = tmp_path / "fleeting-photos.zip"
    archive.write_bytes(zip_of(class_folders(first=30)))
    with preparing(served, archive.name):
        done = served.run("dataset", "add", str(archive), "--expires-in-days", "30", "--json")
    assert done.code == 0, done.err
    assert days_left(done.json["expires_at"]) == pytest.approx(30, abs=0.1)
    shown = served.run("dataset", "show", done.json["id"]).out
    local = datetime.fromisoformat(done.json["expires_at"]).astimezone()
    assert f"expires {local:%Y-%m-%d %H:%M}" in " ".join(shown.split())


def test_selections_and_fine_tunes_are_kept_as_long_as_asked(served: Served) -> None:
    dataset_id = ready_dataset(served, "x", "fleeting")
    add_model(served.database, "fleeting-model")
    assert "expires" not in served.run("dataset", "show", dataset_id).out
    asked = (dataset_id, "--model", "fleeting-model", "--no-wait", "--json")
    for command in (("select",), ("finetune", "start")):
        made = served.run(*command, *asked, "--expires-in-days", "2")
        assert made.code == 0, made.err
        assert days_left(made.json["expires_at"]) == pytest.approx(2, abs=0.1)
        assert served.run(*command, *asked).json["expires_at"] is None
    finetunes = served.run("finetune", "list", "--json").json
    newest = max(finetunes, key=lambda one: one["expires_at"] or "")
    assert "expires" in served.run("finetune", "show", newest["id"]).out


@pytest.mark.parametrize("days", ["0", "-1", "40000", "nan"])
def test_odd_times_are_refused_in_words(served: Served, days: str) -> None:
    ready_dataset(served, "y", "refused-times")
    refused = served.run("select", "refused-times", "--no-wait", "--json", f"--expires-in-days={days}")
    assert (refused.code, refused.out) == (1, "")
    assert json.loads(refused.err)["error"]["param"] == "retention_days"
