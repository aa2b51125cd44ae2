"""Models with the same weights under other names, on both databases."""

import pytest
from sqlalchemy import update

from app.domain.states import ModelState
from app.storage.database import Database
from app.storage.repositories.model_twins import find_twin
from app.storage.tables import Model
from tests.fixtures.rows import add_model


def known(database: Database, name: str, *, file: str, tensors: str, state: ModelState = ModelState.ACTIVE) -> str:
    model_id = add_model(database, name, state=state)
    facts = {"weights_sha256": file * 64, "tensors_sha256": tensors * 64}
    with database.write() as session:
        session.execute(update(Model).where(Model.id == model_id).values(facts=facts))
    return model_id


def twin(database: Database, model_id: str, *, file: str, tensors: str) -> str | None:
    with database.read() as session:
        return find_twin(session, session.get_one(Model, model_id), file * 64, tensors * 64)


@pytest.fixture
def new(database: Database) -> str:
    """Return a model that is being checked: nothing is known of it yet."""
    model_id = add_model(database, "new", state=ModelState.CHECKING)
    with database.write() as session:
        session.execute(update(Model).where(Model.id == model_id).values(facts=None))
    return model_id


def test_either_the_file_or_the_tensors_make_a_twin(database: Database, new: str) -> None:
    known(database, "same-file", file="a", tensors="1")
    known(database, "same-tensors", file="b", tensors="2", state=ModelState.DISABLED)
    assert twin(database, new, file="a", tensors="9") == "same-file (version 1)"
    assert twin(database, new, file="f", tensors="2") == "same-tensors (version 1)"
    assert twin(database, new, file="f", tensors="9") is None
    assert twin(database, new, file="1", tensors="a") is None


def test_the_first_one_registered_is_named(database: Database, new: str) -> None:
    for name in ("first", "second"):
        known(database, name, file="a", tensors="1")
    assert twin(database, new, file="a", tensors="1") == "first (version 1)"


def test_a_model_is_not_its_own_twin(database: Database) -> None:
    model_id = known(database, "one", file="a", tensors="1")
    assert twin(database, model_id, file="a", tensors="1") is None
