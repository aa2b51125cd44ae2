"""Of ended fine-tunes stays what their results name, of uploaded weights what models name; nothing else is touched."""

import os
import time
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, select, update

from app.domain.finetuning import Recipe
from app.domain.model_spec import ModelSpec
from app.domain.states import FinetuneState
from app.storage.database import Database
from app.storage.leftovers import Leftovers
from app.storage.objects import Objects, uploaded_weights
from app.storage.repositories.finetunes import Finetunes
from app.storage.repositories.models import Models
from app.storage.tables import AuditEvent, Finetune
from tests.contract.racing import race
from tests.contract.test_purge import fill
from tests.fixtures.rows import TENANT, add_ready_dataset, spec

DIGEST = "a" * 8


def key(finetune_id: str, name: str) -> str:
    return f"finetunes/{DIGEST}/{finetune_id}/{name}"


def create(database: Database, dataset_id: str) -> str:
    with database.write() as session:
        return Finetunes(session, TENANT).create(dataset_id, ["mdl_a"], Recipe().as_dict()).id


def become(database: Database, finetune_id: str, state: FinetuneState, *kept: str | None) -> None:
    entries = [{"model": f"mdl_{number}", "object": name} for number, name in enumerate(kept)]
    with database.write() as session:
        values: dict[str, Any] = {"state": state, "result": {"models": entries} if entries else None}
        session.execute(update(Finetune).where(Finetune.id == finetune_id).values(values))


class TestLeftovers:
    @pytest.mark.parametrize("state", [FinetuneState.DONE, FinetuneState.FAILED, FinetuneState.CANCELLED])
    def test_what_the_result_names_stays(self, database: Database, objects: Objects, state: FinetuneState) -> None:
        finetune_id = create(database, add_ready_dataset(database))
        named = key(finetune_id, "mdl_0.zip")
        others = [key(finetune_id, name) for name in ("mdl_0.checkpoint", "mdl_1.checkpoint", "mdl_1.zip")]
        fill(objects, named, *others)
        become(database, finetune_id, state, named, None)
        assert Leftovers(database, objects).delete() == 3
        assert objects.keys() == [named]

    def test_one_without_a_result_leaves_nothing(self, database: Database, objects: Objects) -> None:
        finetune_id = create(database, add_ready_dataset(database))
        fill(objects, key(finetune_id, "mdl_0.checkpoint"))
        become(database, finetune_id, FinetuneState.CANCELLED)
        assert Leftovers(database, objects).delete() == 1
        assert objects.keys() == []

    @pytest.mark.parametrize("state", [FinetuneState.QUEUED, FinetuneState.RUNNING])
    def test_nothing_is_deleted_of_one_that_has_not_ended(
        self, database: Database, objects: Objects, state: FinetuneState
    ) -> None:
        finetune_id = create(database, add_ready_dataset(database))
        leftovers = Leftovers(database, objects)
        keys = [key(finetune_id, "mdl_0.checkpoint"), key(finetune_id, "mdl_0.zip")]
        fill(objects, *keys)
        become(database, finetune_id, state, None)
        assert leftovers.delete() == 0
        assert objects.keys() == keys
        become(database, finetune_id, FinetuneState.DONE, keys[1])
        assert leftovers.delete() == 1
        assert objects.keys() == keys[1:]

    def test_other_objects_stay(self, database: Database, objects: Objects) -> None:
        keys = ["datasets/a.parquet", key("ft_of_another_database", "mdl_0.zip"), "finetunes/notes.txt"]
        fill(objects, *keys)
        assert Leftovers(database, objects).delete() == 0
        assert objects.keys() == sorted(keys)

    def test_what_is_stored_after_the_end_is_deleted_too(self, database: Database, objects: Objects) -> None:
        """As by a worker that does not know yet that its job was cancelled."""
        finetune_id, leftovers = create(database, add_ready_dataset(database)), Leftovers(database, objects)
        named, late = key(finetune_id, "mdl_0.zip"), key(finetune_id, "mdl_1.zip")
        fill(objects, named)
        become(database, finetune_id, FinetuneState.CANCELLED, named)
        assert leftovers.delete() == 0
        fill(objects, late)
        assert leftovers.delete() == 1
        assert objects.keys() == [named]

    def test_the_database_is_asked_once_about_what_stays(self, database: Database, objects: Objects) -> None:
        dataset_id, leftovers = add_ready_dataset(database), Leftovers(database, objects)
        ids = [create(database, dataset_id) for _ in range(120)]
        for finetune_id in ids:
            fill(objects, key(finetune_id, "mdl_0.zip"))
            become(database, finetune_id, FinetuneState.DONE, key(finetune_id, "mdl_0.zip"))
        asked: list[str] = []
        event.listen(database.engine, "before_cursor_execute", lambda *arguments: asked.append(arguments[2]))
        assert leftovers.delete() == 0
        first = list(asked)
        assert first
        assert leftovers.delete() == 0
        assert asked == first
        assert len(objects.keys()) == 120

    def test_many_at_once(self, database: Database, objects: Objects) -> None:
        dataset_id = add_ready_dataset(database)
        for _ in range(10):
            finetune_id = create(database, dataset_id)
            fill(objects, *(key(finetune_id, f"mdl_{number}.checkpoint") for number in range(5)))
            become(database, finetune_id, FinetuneState.FAILED)
        race(*[lambda: Leftovers(database, objects).delete()] * 4)
        assert objects.keys() == []


class TestUploadedWeights:
    def test_after_a_day_only_those_stay_that_a_model_names(
        self, database: Database, objects: Objects, tmp_path: Path
    ) -> None:
        named, unnamed, young = (uploaded_weights(digit * 64) for digit in "123")
        torn = "weights/incoming/0123"
        fill(objects, named, unnamed, young, torn, "datasets/a.parquet")
        for one in (named, unnamed, torn):
            make_older(tmp_path / "objects" / one, hours=25)
        make_older(tmp_path / "objects" / young, hours=23)
        with database.write() as session:
            source = {"type": "upload", "sha256": "1" * 64}
            Models(session).register(ModelSpec.from_dict(spec("mine").as_dict() | {"source": source}))
        leftovers = Leftovers(database, objects)
        assert leftovers.delete() == 2
        assert objects.keys() == sorted(["datasets/a.parquet", named, young])
        with database.read() as session:
            (line,) = session.scalars(select(AuditEvent))
        assert (line.actor, line.tenant, line.action, line.target) == ("service", "-", "weights_deleted", "2" * 64)
        asked: list[str] = []
        event.listen(database.engine, "before_cursor_execute", lambda *arguments: asked.append(arguments[2]))
        assert leftovers.delete() == 0
        assert asked == [], "what a model names, it names for ever"

    def test_what_comes_again_stays_another_day(self, database: Database, objects: Objects, tmp_path: Path) -> None:
        key = uploaded_weights("1" * 64)
        fill(objects, key)
        make_older(tmp_path / "objects" / key, hours=25)
        fill(objects, "weights/incoming/0123")
        objects.move("weights/incoming/0123", key)
        assert Leftovers(database, objects).delete() == 0
        assert objects.keys() == [key]


def make_older(path: Path, *, hours: float) -> None:
    moment = time.time() - 3600 * hours
    os.utime(path, (moment, moment))
