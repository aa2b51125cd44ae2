"""What the repository of zoos promises, on both databases."""

from functools import partial

import pytest

from app.domain.errors import BadRequest, ForetuneError, NotFound
from app.domain.states import ModelState
from app.storage.database import Database
from app.storage.repositories.model_events import events_of
from app.storage.repositories.models import Models
from app.storage.repositories.zoos import Zoos
from tests.contract.racing import race
from tests.fixtures.rows import add_model


def put(database: Database, name: str, *models: str, description: str = "") -> bool:
    with database.write() as session:
        return Zoos(session, actor="ann").put(name, description, models)[1]


def members(database: Database, name: str) -> list[str]:
    with database.read() as session:
        zoos = Zoos(session)
        zoo = zoos.get(name)
        assert zoos.names(name) == set(zoos.members([zoo])[zoo.id])
        return zoos.members([zoo])[zoo.id]


def lines(database: Database, model_id: str) -> list[tuple[str, str, str]]:
    with database.read() as session:
        rows = events_of(session, model_id, limit=50, cursor=None).rows
        return [(row.actor, row.action, row.details.get("zoo", "")) for row in rows][::-1]


class TestZoos:
    def test_made_changed_and_made_the_same_again(self, database: Database) -> None:
        for name in "abc":
            add_model(database, name)
        assert put(database, "edge", "b", "a", "a", description="small ones")
        assert members(database, "edge") == ["a", "b"]
        with database.read() as session:
            before = Zoos(session).get("edge")
        assert not put(database, "edge", "a", "b", description="small ones")
        with database.read() as session:
            assert Zoos(session).get("edge").updated_at == before.updated_at, "a repetition changes nothing"
        assert not put(database, "edge", "b", "c", description="others")
        with database.read() as session:
            after = Zoos(session).get("edge")
        assert (members(database, "edge"), after.description, after.id) == (["b", "c"], "others", before.id)
        assert after.updated_at > before.updated_at

    def test_every_unknown_name_is_told(self, database: Database) -> None:
        model_id = add_model(database, "a")
        with pytest.raises(BadRequest) as refused:
            put(database, "edge", "a", "x", "y", model_id)
        assert (refused.value.code, refused.value.param) == ("unknown_model", "models")
        assert f"{model_id!r}, 'x', 'y'" in refused.value.message
        with pytest.raises(NotFound):
            members(database, "edge")

    def test_a_new_version_takes_the_place_of_the_old_one(self, database: Database) -> None:
        first = add_model(database, "a")
        put(database, "edge", "a")
        with database.write() as session:
            Models(session).switch(first, ModelState.DISABLED, None)
        with database.read() as session:
            assert Models(session).active(zoo="edge") == []
        with database.write() as session:
            Models(session).switch(first, ModelState.ACTIVE, None)
        with database.read() as session:
            assert [model.id for model in Models(session).active(zoo="edge")] == [first]

    def test_a_removed_one_is_gone_and_its_models_stay(self, database: Database) -> None:
        model_id = add_model(database, "a")
        put(database, "edge", "a")
        put(database, "other", "a")
        with database.write() as session:
            Zoos(session).delete("edge")
        for look in (Zoos.get, Zoos.delete):
            with database.write() as session, pytest.raises(NotFound) as missing:
                look(Zoos(session), "edge")
            assert missing.value.code == "zoo_not_found"
        assert members(database, "other") == ["a"]
        with database.read() as session:
            assert Models(session).get(model_id).state == ModelState.ACTIVE
            with pytest.raises(BadRequest) as unknown:
                Zoos(session).require("edge")
        assert (unknown.value.code, unknown.value.param) == ("unknown_zoo", "zoo")

    def test_who_joins_and_leaves_has_it_in_its_log(self, database: Database) -> None:
        a, b = add_model(database, "a"), add_model(database, "b")
        put(database, "edge", "a")
        put(database, "edge", "a", "b")
        put(database, "edge", "b")
        with database.write() as session:
            Zoos(session, actor="bob").delete("edge")
        assert lines(database, a)[1:] == [("ann", "joined_zoo", "edge"), ("ann", "left_zoo", "edge")]
        assert lines(database, b)[1:] == [("ann", "joined_zoo", "edge"), ("bob", "left_zoo", "edge")]

    def test_made_at_once_it_is_one(self, database: Database) -> None:
        for name in "abcd":
            add_model(database, name)
        made = race(*[partial(put, database, "edge", name) for name in "abcd"])
        assert sum(made) == 1
        assert len(members(database, "edge")) == 1

    def test_removed_while_it_is_changed(self, database: Database) -> None:
        add_model(database, "a")
        add_model(database, "b")

        def remove() -> str:
            try:
                with database.write() as session:
                    Zoos(session).delete("edge")
                return "removed"
            except ForetuneError as error:
                return error.code

        for _ in range(5):
            put(database, "edge", "a")
            assert race(partial(put, database, "edge", "a", "b"), remove)[1] == "removed"
            with database.read() as session:
                assert Zoos(session).names("edge") in (frozenset(), frozenset("ab"))
