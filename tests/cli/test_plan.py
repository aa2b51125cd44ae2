"""``foretune plan``."""

from collections.abc import Iterator

import pytest
from sqlalchemy import update

from app.domain.states import ModelState
from app.storage.tables import Model
from tests.cli.conftest import Served
from tests.fixtures.rows import add_model

SPEED = {"measured_on": "cpu", "load_seconds": 1.0, "images_per_second": {"32": 10.0}, "resolved": {}}


@pytest.fixture
def swift(served: Served) -> Iterator[str]:
    """Name an active model whose speed is known, as long as the test lasts: the database is shared."""
    model_id = add_model(served.database, "swift")
    with served.database.write() as session:
        session.execute(update(Model).where(Model.id == model_id).values(facts=SPEED))
    yield "swift"
    with served.database.write() as session:
        session.execute(update(Model).where(Model.id == model_id).values(state=ModelState.DISABLED))


def test_a_plan_is_told(served: Served, swift: str) -> None:
    done = served.run("plan", "--images", "300", "--models", "500", "--workers", "4")
    assert done.code == 0, done.err
    assert "500 models on 300 images" in done.out
    assert "the speeds of admission alone" in done.out
    assert "4 (cpu)" in done.out
    assert swift in done.out
    told = served.run("plan", "--images", "300", "--models", "500", "--workers", "4", "--json").json
    assert (told["models"], told["workers"], told["interval"]) == (500, 4, None)
    assert told["warnings"] == []
    with_forecast = served.run("plan", "--images", "300", "--models", "500", "--workers", "4", "--forecast", "--json")
    assert with_forecast.json["seconds"] > told["seconds"]


def test_a_plan_for_workers_that_are_elsewhere(served: Served, swift: str) -> None:
    on_gpus = ("plan", "--images", "300", "--device", "NVIDIA H100 80GB HBM3")
    done = served.run(*on_gpus, "--workers", "4")
    assert done.code == 0, done.err
    assert "4 (NVIDIA H100 80GB HBM3)" in done.out
    assert "(measured_elsewhere)" in done.out, swift
    codes = [warning["code"] for warning in served.run(*on_gpus, "--json").json["warnings"]]
    assert codes == ["measured_elsewhere", "no_worker_alive"]


def test_only_models_that_satisfy_constraints_are_planned(served: Served, swift: str) -> None:
    none = served.run("plan", "--images", "300", "--family", "nobodys")
    assert none.code == 1
    assert "(no_model_satisfies_constraints)" in none.err, swift


def test_what_cannot_be_planned_is_refused(served: Served, swift: str) -> None:
    wrong = served.run("plan", "--images", "0")
    assert (wrong.code, "images" in wrong.err) == (1, True), swift
    assert served.run("plan").code == 2
