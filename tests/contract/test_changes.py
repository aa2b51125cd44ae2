"""Waiting for jobs to change: everyone hears of a change of their job, and one look serves all."""

import asyncio
import time

import pytest
from sqlalchemy import Engine, event, update
from sqlalchemy.exc import OperationalError

from app.api.changes import Changes
from app.storage.database import Database
from app.storage.repositories.finetunes import Finetunes
from app.storage.repositories.revisions import read_marks
from app.storage.repositories.selections import touch
from app.storage.tables import Dataset, Finetune, Model, Selection
from tests.fixtures.rows import TENANT, add_dataset, add_model, add_ready_dataset, add_selection

SECONDS = 10.0


def marks(database: Database, *job_ids: str) -> list[tuple[object, ...] | None]:
    with database.read() as session:
        found = read_marks(session, job_ids)
    return [found.get(job_id) for job_id in job_ids]


def test_each_kind_of_job_has_a_mark_that_changes_with_its_revision(database: Database) -> None:
    model, dataset = add_model(database, "alpha"), add_ready_dataset(database)
    selection, _ = add_selection(database, "alpha")
    with database.write() as session:
        finetune = Finetunes(session, TENANT).create(dataset, [model], {}, None).id
    ids = {Model: model, Dataset: dataset, Selection: selection, Finetune: finetune}
    for table, job_id in ids.items():
        before = marks(database, *ids.values())
        with database.write() as session:
            session.execute(update(table).where(table.id == job_id).values(revision=table.revision + 1))
        after = marks(database, *ids.values())
        changed = [one for one, was, now in zip(ids.values(), before, after, strict=True) if was != now]
        assert changed == [job_id]


def test_news_of_a_proof_is_news_of_its_selection(database: Database) -> None:
    model, dataset = add_model(database, "alpha"), add_ready_dataset(database)
    selection, _ = add_selection(database, "alpha")
    with database.write() as session:
        proof = Finetunes(session, TENANT).create(dataset, [model], {}, None)
        proof.selection_id = selection
        proof_id = proof.id
    before = marks(database, selection)
    with database.write() as session:
        session.execute(update(Finetune).where(Finetune.id == proof_id).values(revision=Finetune.revision + 1))
    assert marks(database, selection) != before


def test_what_is_gone_has_no_mark(database: Database) -> None:
    assert marks(database, "sel_x", "ds_x", "nothing") == [None, None, None]


def test_many_who_wait_are_served_by_one_look(database: Database) -> None:
    """Three hundred hold half a second: ten looks a second for each would be 1,500 statements."""
    ids = [add_dataset(database, content=f"{number:02x}"[-1]) for number in range(2)]
    statements: list[str] = []

    async def hold() -> list[object]:
        changes = Changes(database)
        first = await asyncio.gather(*(changes.after(None, job_id, SECONDS) for job_id in ids * 150))
        return await asyncio.gather(
            *(changes.after(mark, job_id, 0.5) for mark, job_id in zip(first, ids * 150, strict=True))
        )

    def note(*arguments: object) -> None:
        statements.append(str(arguments[2]))

    event.listen(Engine, "before_cursor_execute", note)
    try:
        assert None not in asyncio.run(hold())
    finally:
        event.remove(Engine, "before_cursor_execute", note)
    assert 2 <= len([one for one in statements if "FROM datasets" in one]) <= 10


def test_a_change_ends_the_wait_of_those_who_wait_for_it_alone(database: Database) -> None:
    selections = [add_selection(database, name)[0] for name in ("alpha", "beta")]

    async def hold() -> tuple[float, bool]:
        changes = Changes(database)
        first = [await changes.after(None, job_id, SECONDS) for job_id in selections]
        changed = asyncio.create_task(changes.after(first[0], selections[0], SECONDS))
        unchanged = asyncio.create_task(changes.after(first[1], selections[1], SECONDS))
        await asyncio.sleep(0.3)
        assert not changed.done()
        started = time.monotonic()
        await asyncio.to_thread(change)
        assert await changed != first[0]
        took, others_wait = time.monotonic() - started, not unchanged.done()
        unchanged.cancel()
        return took, others_wait

    def change() -> None:
        with database.write() as session:
            touch(session, selections[0])

    took, others_wait = asyncio.run(hold())
    assert took < SECONDS / 2
    assert others_wait


def test_who_waits_is_told_when_the_database_is_away(database: Database) -> None:
    selection, _ = add_selection(database, "alpha")

    async def hold() -> None:
        changes = Changes(database)
        mark = await changes.after(None, selection, SECONDS)
        waiting = asyncio.create_task(changes.after(mark, selection, SECONDS))
        event.listen(database.engine, "before_cursor_execute", _refuse)
        try:
            with pytest.raises(OperationalError):
                await waiting
        finally:
            event.remove(database.engine, "before_cursor_execute", _refuse)
        assert await changes.after(None, selection, SECONDS) == mark

    asyncio.run(hold())


def _refuse(*_: object) -> None:
    raise OperationalError("SELECT", {}, Exception("the server closed the connection"))
