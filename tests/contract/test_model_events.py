"""Whatever is done to a model is a line of its audit log, written in the transaction that does it."""

from functools import partial
from typing import Any

import pytest
from sqlalchemy import select, update

from app.domain.errors import ModelRejected
from app.domain.states import ModelState
from app.storage import leases
from app.storage.database import Database
from app.storage.repositories.model_events import events_of
from app.storage.repositories.model_import import import_models
from app.storage.repositories.models import Models
from app.storage.tables import Model, ModelEvent
from tests.contract.racing import race
from tests.fixtures.rows import add_model, spec

CHECKS = [
    {"name": "weights", "outcome": "pass", "detail": "", "seconds": 1.5},
    {"name": "license", "outcome": "warn", "detail": "", "seconds": 0.25},
]


def lines(database: Database, model_id: str) -> list[ModelEvent]:
    with database.read() as session:
        return list(events_of(session, model_id, limit=50, cursor=None).rows)


def last(database: Database, model_id: str) -> tuple[str, str, str | None, dict[str, Any]]:
    line = lines(database, model_id)[0]
    return line.actor, line.action, line.reason, line.details


def count(database: Database) -> int:
    with database.read() as session:
        return len(session.scalars(select(ModelEvent.id)).all())


def claim(database: Database, model_id: str) -> leases.Lease:
    with database.write() as session:
        lease = leases.claim(session, leases.MODEL, model_id, holder="host/0", seconds=60)
    assert lease is not None
    return lease


def register(database: Database, name: str = "a", **more: Any) -> str:
    with database.write() as session:
        return Models(session, actor="ann").register(spec(name), **more)[0].id


class TestLines:
    def test_a_registration_is_one_and_its_repetition_none(self, database: Database) -> None:
        model_id = register(database)
        assert last(database, model_id) == ("ann", "registered", None, {})
        register(database)
        assert len(lines(database, model_id)) == 1

    def test_a_registration_that_is_undone_leaves_none(self, database: Database) -> None:
        with database.write() as session:
            Models(session).register(spec("a"))
            session.rollback()
        assert count(database) == 0

    def test_a_status_says_what_it_was_and_why_it_changed(self, database: Database) -> None:
        model_id = add_model(database, "a")
        with database.write() as session:
            Models(session, actor="ann").switch(model_id, ModelState.DEPRECATED, "too old")
            Models(session, actor="ann").switch(model_id, ModelState.DEPRECATED, "too old")
        change = {"was": "active", "now": "deprecated"}
        assert last(database, model_id) == ("ann", "status_changed", "too old", change)
        assert len(lines(database, model_id)) == 2

    def test_the_version_that_is_replaced_has_a_line_too(self, database: Database) -> None:
        first = add_model(database, "a")
        with database.write() as session:
            second = Models(session).register(spec("a", sha256="1" * 64))[0].id
            session.execute(update(Model).where(Model.id == second).values(state=ModelState.DISABLED))
            Models(session, actor="ann").switch(second, ModelState.ACTIVE, None)
        change = {"was": "active", "now": "disabled"}
        assert last(database, first) == ("ann", "status_changed", "superseded by version 2", change)
        assert last(database, second)[3] == {"was": "disabled", "now": "active"}

    def test_tags(self, database: Database) -> None:
        model_id = register(database)
        with database.write() as session:
            tagged = Models(session, actor="ann").tag(model_id, ["b", "c"])
            assert (tagged.tags, tagged.revision) == (["b", "c"], 2)
            assert Models(session).tag(model_id, ["b", "c"]).revision == 2
        assert last(database, model_id) == ("ann", "tags_changed", None, {"was": [], "now": ["b", "c"]})
        assert len(lines(database, model_id)) == 2

    def test_checks_that_pass(self, database: Database) -> None:
        model_id = register(database)
        lease = claim(database, model_id)
        with database.write() as session:
            leases.finish(session, lease, facts={}, checks=CHECKS)
        counts = {"pass": 1, "warn": 1, "fail": 0}
        ended = {"status": "active", "checks": counts, "seconds": 1.75}
        assert last(database, model_id) == ("worker host/0", "checks_ended", None, ended)

    def test_checks_that_fail(self, database: Database) -> None:
        model_id = register(database)
        lease = claim(database, model_id)
        error = ModelRejected("weights_hash_mismatch", "Another file.", param="source.sha256", hint="Look.")
        with database.write() as session:
            leases.fail(session, lease, error, checks=[CHECKS[0] | {"outcome": "fail"}])
        actor, action, _, details = last(database, model_id)
        assert (actor, action) == ("worker host/0", "checks_ended")
        assert details["status"] == "rejected"
        assert details["error"] == error.as_dict()

    def test_checks_that_are_tried_again_have_not_ended(self, database: Database) -> None:
        model_id = register(database)
        for attempt in range(4):
            claim(database, model_id)
            with database.write() as session:
                leases.free_of_holder(session, leases.MODEL, "host/0")
            assert len(lines(database, model_id)) == (1 if attempt < 3 else 2)
        actor, action, _, details = last(database, model_id)
        assert (actor, action, details["status"]) == ("worker host/0", "checks_ended", "quarantined")

    def test_a_lost_lease_writes_none(self, database: Database) -> None:
        model_id = register(database)
        lease = claim(database, model_id)
        with database.write() as session:
            session.execute(update(Model).where(Model.id == model_id).values(lease_token="another"))
        with pytest.raises(leases.LeaseLost), database.write() as session:
            leases.finish(session, lease, facts={}, checks=CHECKS)
        assert len(lines(database, model_id)) == 1

    def test_newest_first_and_in_pages(self, database: Database) -> None:
        model_id = register(database)
        other = register(database, "b")
        for number in range(5):
            with database.write() as session:
                Models(session).tag(model_id, [f"t{number}"])
        seen: list[str] = []
        cursor: str | None = None
        while True:
            with database.read() as session:
                page = events_of(session, model_id, limit=2, cursor=cursor)
            seen += [row.details.get("now", ["-"])[0] for row in page.rows]
            cursor = page.next_cursor
            if cursor is None:
                break
        assert seen == ["t4", "t3", "t2", "t1", "t0", "-"]
        assert len(lines(database, other)) == 1


class TestRegisteringMany:
    def test_what_becomes_of_each(self, database: Database) -> None:
        known = register(database, "known", tags=("old",))
        register(database, "changed", tags=("kept",))
        rows = [
            (spec("new"), ("b", "c")),
            (spec("known"), ("new",)),
            (spec("changed", sha256="1" * 64), None),
            (spec("plain"), None),
        ]
        with database.read() as session:
            tried = import_models(session, rows, actor="ann", dry_run=True)
        assert [(one.id, one.version, one.is_known, one.is_first) for one in tried] == [
            (None, 1, False, True),
            (known, 1, True, False),
            (None, 2, False, False),
            (None, 1, False, True),
        ]
        assert count(database) == 2
        with database.write() as session:
            done = import_models(session, rows, actor="ann")
        assert [(one.version, one.is_known, one.is_first) for one in done] == [
            (one.version, one.is_known, one.is_first) for one in tried
        ]
        ids = [one.id for one in done if one.id is not None]
        with database.read() as session:
            models = [Models(session).get(model_id) for model_id in ids]
        assert [model.tags for model in models] == [["b", "c"], ["new"], ["kept"], []]
        assert [model.name for model in models] == ["new", "known", "changed", "plain"]
        assert [last(database, model_id)[1] for model_id in ids] == ["imported", "tags_changed", "imported", "imported"]

    def test_nothing_is_nothing(self, database: Database) -> None:
        with database.write() as session:
            assert import_models(session, [], actor="ann") == []

    def test_the_same_at_once_in_opposite_orders(self, database: Database) -> None:
        names = [f"net-{number:03}" for number in range(300)]

        def register_all(order: list[str]) -> list[tuple[str | None, bool]]:
            with database.write() as session:
                found = import_models(session, [(spec(name), None) for name in order], actor="ann")
            return sorted((one.id, one.is_known) for one in found)

        outcomes = race(partial(register_all, names), partial(register_all, names[::-1]))
        assert len({tuple(model_id for model_id, _ in outcome) for outcome in outcomes}) == 1
        assert sum(not is_known for outcome in outcomes for _, is_known in outcome) == 300
        assert count(database) == 300
