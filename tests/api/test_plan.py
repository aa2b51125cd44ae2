"""GET /v1/plan of a service of its own, whose zoo and past are known, on both databases."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import insert, select, update

from app.domain.speeds import ModelSpeed, Work, estimate
from app.domain.states import EvaluationState, ModelState
from app.storage.repositories.workers import announce
from app.storage.tables import Evaluation, Model, Selection
from tests.api.problem import assert_problem
from tests.fixtures.rows import add_model, add_selection
from tests.fixtures.service import RunningService, empty_zoo_settings, own_database, run_service

FACTS = {"measured_on": "cpu", "load_seconds": 1.0, "parameters": 10, "resolved": {}}
FAST, SLOW = ModelSpeed("fast", 1.0, 100.0, "cpu"), ModelSpeed("slow", 1.0, 10.0, "cpu")
WORK = Work(images=300, gradient_images=0)


@pytest.fixture(params=["sqlite", "postgresql"])
def running(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RunningService]:
    if request.param == "sqlite":
        with run_service(empty_zoo_settings(tmp_path)) as service:
            yield service
        return
    with (
        own_database(request.getfixturevalue("postgres_url"), "plan") as url,
        run_service(empty_zoo_settings(tmp_path, database_url=url)) as service,
    ):
        yield service


@pytest.fixture
def reader(running: RunningService) -> httpx.Client:
    return running.client(running.key("read", tenant="acme"))


def add(running: RunningService, *speeds: ModelSpeed, **facts: Any) -> None:
    for speed in speeds:
        model_id = add_model(running.database, speed.name)
        measured = {"images_per_second": {"1": speed.images_per_second / 2, "32": speed.images_per_second, "64": None}}
        with running.database.write() as session:
            session.execute(update(Model).where(Model.id == model_id).values(facts=FACTS | measured | facts))


def evaluated(running: RunningService, ran_on: str | None = "cpu") -> None:
    """Note that the fast model was evaluated, alone on 100 images and with gradients, in twice the estimate."""
    _, evaluation_ids = add_selection(running.database, FAST.name)
    add(running, FAST)
    with running.database.write() as session:
        for evaluation_id in evaluation_ids:
            seconds = 2 * estimate(FAST, Work(100, 200))
            found = {"ran": ["features", "gradients"], "images": 100, "seconds": {"total": seconds}}
            values = {"state": EvaluationState.DONE, "result": found, "ran_on": ran_on}
            session.execute(update(Evaluation).where(Evaluation.id == evaluation_id).values(values))


def plan(client: httpx.Client, **params: Any) -> dict[str, Any]:
    answer = client.get("/v1/plan", params={"images": 300} | params)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_the_zoo_of_today_on_the_workers_of_today(running: RunningService, reader: httpx.Client) -> None:
    add(running, FAST, SLOW)
    add_model(running.database, "unchecked", state=ModelState.PENDING)
    fast, slow = estimate(FAST, WORK), estimate(SLOW, WORK)
    found = plan(reader)
    assert (found["models"], found["workers"], found["device"], found["evaluations"]) == (2, 1, "cpu", 0)
    assert (found["seconds"], found["interval"]) == (round(fast + slow, 1), None)
    assert found["first_seconds"] == round(fast, 1)
    assert [one["name"] for one in found["slowest"]] == ["slow", "fast"]
    with running.database.write() as session:
        for slot in range(3):
            announce(session, f"host/{slot}", "cpu")
    assert (plan(reader)["workers"], plan(reader)["seconds"]) == (3, round(slow, 1))


def test_what_is_asked_for(running: RunningService, reader: httpx.Client) -> None:
    add(running, FAST, SLOW)
    fast, slow = estimate(FAST, WORK), estimate(SLOW, WORK)
    many = plan(reader, models=500, workers=4)
    assert many["worker_seconds"] == pytest.approx(250 * (fast + slow), rel=1e-3)
    assert many["worker_seconds"] / 4 <= many["seconds"] + 0.1 <= many["worker_seconds"] / 4 + slow + 0.2
    assert plan(reader, forecast=True)["seconds"] > plan(reader)["seconds"]
    with_gradients = plan(reader, scores=["knn", "lgc"])
    assert with_gradients["worker_seconds"] == round(sum(estimate(one, Work(300, 200)) for one in (FAST, SLOW)), 1)
    assert_problem(reader.get("/v1/plan", params={"images": 1, "scores": "nobodys"}), 422, "unknown_score")
    sampled = plan(reader, images=10**8)
    assert sampled["images"] == running.settings.max_images
    for wrong in ({"images": 0}, {"images": 1, "models": 0}, {"images": 1, "workers": -1}, {}):
        assert_problem(reader.get("/v1/plan", params=wrong), 422, "invalid_request")


def test_only_what_a_selection_would_take_is_planned(running: RunningService, reader: httpx.Client) -> None:
    add(running, FAST, SLOW)
    with running.database.write() as session:
        session.execute(update(Model).where(Model.name == "slow").values(tags=["edge"]))
    found = plan(reader, tags="edge")
    assert [one["name"] for one in found["slowest"]] == ["slow"]
    none = reader.get("/v1/plan", params={"images": 9, "max_parameters": 9})
    assert_problem(none, 409, "no_model_satisfies_constraints", param="constraints.max_parameters")
    assert_problem(reader.get("/v1/plan", params={"images": 9, "zoo": "nobodys"}), 422, "unknown_zoo", param="zoo")


def test_past_evaluations_correct_it(running: RunningService, reader: httpx.Client) -> None:
    add(running, FAST, SLOW)
    before = plan(reader)
    evaluated(running)
    after = plan(reader)
    assert after["evaluations"] == 1
    assert after["seconds"] == pytest.approx(2 * before["seconds"], rel=0.01)
    assert after["interval"] is None, "of one evaluation nobody knows how it varies"


@pytest.mark.parametrize("ran_on", ["NVIDIA", None])
def test_other_devices_and_what_was_kept_do_not(
    running: RunningService, reader: httpx.Client, ran_on: str | None
) -> None:
    add(running, FAST, SLOW)
    evaluated(running, ran_on)
    assert plan(reader)["evaluations"] == 0


def test_however_many_were_answered_from_what_was_kept(running: RunningService, reader: httpx.Client) -> None:
    evaluated(running)
    with running.database.write() as session:
        first = session.scalars(select(Evaluation)).one()
        row = {
            "tenant": first.tenant,
            "model_id": first.model_id,
            "state": EvaluationState.DONE,
            "result": first.result,
        }
        kept = [row | {"id": f"ev_{number}", "selection_id": f"sel_{number}"} for number in range(1100)]
        asked = session.get_one(Selection, first.selection_id)
        selection = {"dataset_id": asked.dataset_id, "tenant": asked.tenant, "name": "", "scores": [], "evaluations": 1}
        session.execute(insert(Selection), [selection | {"id": one["selection_id"]} for one in kept])
        session.execute(insert(Evaluation), kept)
    assert plan(reader)["evaluations"] == 1


def test_models_without_gradients_are_not_charged_for_them(running: RunningService, reader: httpx.Client) -> None:
    add(running, FAST)
    charged = plan(reader, scores="lgc", forecast=True)["worker_seconds"]
    assert charged == round(estimate(FAST, Work(300, 200, 100)), 1)
    add(running, FAST, capabilities={"features": True, "gradients": False})
    assert plan(reader, scores="lgc", forecast=True)["worker_seconds"] == plan(reader)["worker_seconds"] < charged


class TestDevices:
    def test_of_several_that_are_alive_the_most_frequent(self, running: RunningService, reader: httpx.Client) -> None:
        add(running, FAST, SLOW)
        with running.database.write() as session:
            for name, device in (("a", "Tesla"), ("b", "Tesla"), ("c", "cpu")):
                announce(session, name, device)
        found = plan(reader)
        assert (found["device"], found["workers"]) == ("Tesla", 2)
        elsewhere, others = found["warnings"]
        assert elsewhere["code"] == "measured_elsewhere"
        assert "cpu" in elsewhere["detail"]
        assert "fast, slow" in elsewhere["detail"]
        assert (others["code"], "1 on cpu" in others["detail"]) == ("other_devices", True)

    def test_what_ran_there_scales_what_was_measured_elsewhere(
        self, running: RunningService, reader: httpx.Client
    ) -> None:
        add(running, FAST, SLOW)
        evaluated(running, "Tesla")
        found = plan(reader, device="Tesla", workers=2)
        assert (found["device"], found["evaluations"], found["warnings"]) == ("Tesla", 1, [])
        assert found["seconds"] == pytest.approx(2 * estimate(SLOW, WORK), abs=0.1)
        on_cpu = plan(reader, device="cpu")
        assert on_cpu["worker_seconds"] == round(estimate(FAST, WORK) + estimate(SLOW, WORK), 1)

    def test_none_is_alive(self, running: RunningService, reader: httpx.Client) -> None:
        add(running, FAST)
        found = plan(reader)
        assert ([one["code"] for one in found["warnings"]], found["workers"]) == (["no_worker_alive"], 1)
        assert plan(reader, workers=4)["warnings"] == []


def test_a_model_without_a_speed_is_planned_as_the_slowest(running: RunningService, reader: httpx.Client) -> None:
    assert_problem(reader.get("/v1/plan", params={"images": 9}), 409, "no_active_models", param="models")
    add_model(running.database, "blank")
    assert_problem(reader.get("/v1/plan", params={"images": 9}), 409, "nothing_measured", param="models")
    add(running, FAST, SLOW)
    found = plan(reader)
    assert (found["unmeasured"], found["models"]) == (["blank"], 3)
    assert found["seconds"] == round(estimate(FAST, WORK) + 2 * estimate(SLOW, WORK), 1)
