"""/v1/selections: asking, polling, results while it runs, cancelling."""

import csv
import io
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import func, select

from app.domain.states import DatasetState, ModelState
from app.scoring.registry import DEFAULT_SCORES
from app.storage.tables import Evaluation, Selection
from tests.api.problem import assert_problem
from tests.api.worker import SelectionWork, add_zoo, make_ready, set_dataset
from tests.contract.racing import race
from tests.fixtures.rows import add_model
from tests.fixtures.service import RunningService, empty_zoo_settings, run_service

ZOO = ["alpha", "beta", "gamma"]


@pytest.fixture
def dataset(service: RunningService, tenant: str) -> str:
    add_zoo(service, *ZOO)
    return make_ready(service, tenant)


def ask(user: httpx.Client, dataset: str, **more: Any) -> httpx.Response:
    return user.post("/v1/selections", json={"dataset": dataset, "models": ZOO, **more})


def work_on(service: RunningService, user: httpx.Client, dataset: str, **more: Any) -> SelectionWork:
    return SelectionWork(service, ask(user, dataset, **more).json()["id"])


def count(service: RunningService, tenant: str) -> tuple[int, int]:
    with service.database.read() as session:
        selections = select(Selection.id).where(Selection.tenant == tenant)
        evaluations = select(func.count()).where(Evaluation.selection_id.in_(selections))
        return len(session.scalars(selections).all()), session.scalar(evaluations) or 0


class TestAsking:
    def test_one_evaluation_for_each_model(
        self, service: RunningService, user: httpx.Client, tenant: str, dataset: str
    ) -> None:
        answer = ask(user, dataset, name="mine", scores=["lfc", "logme", "lfc"])
        assert answer.status_code == 202
        body = answer.json()
        assert answer.headers["Location"] == f"/v1/selections/{body['id']}" == body["links"]["self"]
        assert int(answer.headers["Retry-After"]) >= 1
        assert (body["status"], body["name"], body["dataset"]) == ("queued", "mine", dataset)
        assert body["scores"] == ["lfc", "logme"]
        assert body["progress"]["models"]["total"] == body["progress"]["models"]["queued"] == 3
        assert body["progress"]["fraction"] == 0
        assert count(service, tenant) == (1, 3)
        assert user.get(answer.headers["Location"]).json() == body
        assert [row["id"] for row in user.get("/v1/selections").json()["data"]] == [body["id"]]

    def test_without_models_it_is_the_whole_zoo(self, user: httpx.Client, dataset: str) -> None:
        body = user.post("/v1/selections", json={"dataset": dataset}).json()
        active = user.get("/v1/models", params={"status": "active", "limit": 200}).json()["data"]
        assert body["progress"]["models"]["total"] == len(active) >= 3
        assert body["scores"] == list(DEFAULT_SCORES)

    @pytest.mark.parametrize(
        ("change", "status", "code", "param"),
        [
            ({"modles": ["alpha"]}, 422, "unknown_field", "modles"),
            ({"models": ["alpha", "nothing"]}, 422, "unknown_model", "models.1"),
            ({"models": []}, 422, "invalid_request", "models"),
            ({"models": "alpha"}, 422, "invalid_request", "models"),
            ({"models": [1]}, 422, "invalid_request", "models.0"),
            ({"models": ["a\x00"]}, 422, "invalid_request", "models.0"),
            ({"models": ["alpha"] * 1001}, 422, "invalid_request", "models"),
            ({"scores": ["nothing"]}, 422, "unknown_score", "scores"),
            ({"scores": []}, 422, "invalid_request", "scores"),
            ({"dataset": None}, 422, "invalid_request", "dataset"),
            ({"dataset": 7}, 422, "invalid_request", "dataset"),
            ({"dataset": "ds_\x00"}, 422, "invalid_request", "dataset"),
            ({"dataset": "ds_nothing"}, 404, "dataset_not_found", "dataset"),
            ({"name": ""}, 422, "invalid_request", "name"),
            ({"name": "x" * 201}, 422, "invalid_request", "name"),
            ({"name": "a\x00b"}, 422, "invalid_request", "name"),
            ({"name": {"nested": True}}, 422, "invalid_request", "name"),
        ],
    )
    def test_what_it_refuses(
        self,
        service: RunningService,
        user: httpx.Client,
        tenant: str,
        dataset: str,
        change: dict[str, Any],
        status: int,
        code: str,
        param: str,
    ) -> None:
        assert_problem(ask(user, **{"dataset": dataset} | change), status, code, param=param)
        assert count(service, tenant) == (0, 0)

    def test_a_typo_is_named_rather_than_the_field_it_left_out(self, user: httpx.Client) -> None:
        answer = user.post("/v1/selections", json={"datset": "ds_1"})
        assert_problem(answer, 422, "unknown_field", param="datset")
        assert_problem(user.post("/v1/selections", json={}), 422, "invalid_request", param="dataset")

    @pytest.mark.parametrize(
        ("state", "code"),
        [
            (DatasetState.RECEIVED, "dataset_not_ready"),
            (DatasetState.PREPARING, "dataset_not_ready"),
            (DatasetState.REJECTED, "dataset_rejected"),
        ],
    )
    def test_a_data_set_it_cannot_use(
        self, service: RunningService, user: httpx.Client, dataset: str, state: DatasetState, code: str
    ) -> None:
        set_dataset(service, dataset, state=state)
        assert_problem(ask(user, dataset), 409, code, param="dataset")

    def test_a_model_that_is_not_active(self, service: RunningService, user: httpx.Client, dataset: str) -> None:
        add_model(service.database, "asleep", state=ModelState.DISABLED)
        assert_problem(ask(user, dataset, models=["alpha", "asleep"]), 409, "model_not_active", param="models.1")

    def test_a_zoo_without_models(self, tmp_path: Path) -> None:
        with run_service(empty_zoo_settings(tmp_path)) as service:
            admin = service.client(service.admin_key)
            body = {"dataset": make_ready(service, "default")}
            assert_problem(admin.post("/v1/selections", json=body), 409, "no_active_models", param="models")
            add_model(service.database, "young", state=ModelState.PENDING)
            problem = assert_problem(admin.post("/v1/selections", json=body), 409, "no_active_models")
            assert "1 are waiting" in str(problem["detail"])


class TestIdempotency:
    def test_a_replay_gets_the_first_answer(
        self, service: RunningService, user: httpx.Client, tenant: str, dataset: str
    ) -> None:
        user.headers["Idempotency-Key"] = "ask-1"
        first = ask(user, dataset)
        SelectionWork(service, first.json()["id"]).finish("alpha", {"lfc": 0.5})
        again = ask(user, dataset)
        assert (again.status_code, again.json()) == (202, first.json())
        assert again.headers["Location"] == first.headers["Location"]
        assert count(service, tenant) == (1, 3)

    def test_another_request_with_the_key_is_refused(
        self, service: RunningService, user: httpx.Client, tenant: str, dataset: str
    ) -> None:
        user.headers["Idempotency-Key"] = "ask-2"
        ask(user, dataset)
        assert_problem(ask(user, dataset, name="other"), 422, "idempotency_key_reused", param="Idempotency-Key")
        upload = user.post("/v1/datasets", content=b"not a selection")
        assert_problem(upload, 422, "idempotency_key_reused")
        assert count(service, tenant) == (1, 3)

    def test_a_refused_request_frees_its_key(self, user: httpx.Client, dataset: str) -> None:
        user.headers["Idempotency-Key"] = "ask-3"
        assert_problem(ask(user, dataset, models=["nothing"]), 422, "unknown_model")
        assert ask(user, dataset).status_code == 202

    def test_many_at_once_are_one(self, service: RunningService, user: httpx.Client, tenant: str, dataset: str) -> None:
        user.headers["Idempotency-Key"] = "ask-4"
        answers = race(*[lambda: ask(user, dataset)] * 6)
        assert {answer.status_code for answer in answers} == {202}
        assert len({answer.text for answer in answers}) == 1
        assert count(service, tenant) == (1, 3)

    def test_tenants_do_not_share_keys(self, service: RunningService, user: httpx.Client, dataset: str) -> None:
        user.headers["Idempotency-Key"] = "ask-5"
        ask(user, dataset)
        rival = service.client(service.key("write", tenant="rival"))
        rival.headers["Idempotency-Key"] = "ask-5"
        assert_problem(ask(rival, dataset), 404, "dataset_not_found")


class TestPolling:
    def test_progress_of_what_runs_and_what_has_ended(
        self, service: RunningService, user: httpx.Client, dataset: str
    ) -> None:
        work = work_on(service, user, dataset)
        work.finish("alpha", {"lfc": 0.5})
        work.claim("beta", {"stage": "extracting", "done": 30, "total": 60})
        body = user.get(f"/v1/selections/{work.selection_id}").json()
        assert body["status"] == "running"
        assert body["started_at"] is not None
        models = body["progress"]["models"]
        assert (models["total"], models["done"], models["running"], models["queued"]) == (3, 1, 1, 1)
        assert body["progress"]["fraction"] == pytest.approx(0.5)
        [current] = body["progress"]["current"]
        assert (current["name"], current["stage"], current["done"], current["total"]) == ("beta", "extracting", 30, 60)

    def test_the_same_state_is_not_sent_twice(self, service: RunningService, user: httpx.Client, dataset: str) -> None:
        work = work_on(service, user, dataset)
        path = f"/v1/selections/{work.selection_id}"
        tag = user.get(path).headers["ETag"]
        unchanged = user.get(path, headers={"If-None-Match": tag})
        assert (unchanged.status_code, unchanged.content, unchanged.headers["ETag"]) == (304, b"", tag)
        work.claim("alpha")
        assert user.get(path, headers={"If-None-Match": tag}).status_code == 200

    def test_an_answer_is_held_until_something_changes(
        self, service: RunningService, user: httpx.Client, dataset: str
    ) -> None:
        work = work_on(service, user, dataset)
        path = f"/v1/selections/{work.selection_id}"
        tag = user.get(path).headers["ETag"]
        threading.Timer(0.4, work.claim, ["alpha"]).start()
        started = time.monotonic()
        answer = user.get(path, params={"wait": 20}, headers={"If-None-Match": tag})
        assert (answer.status_code, answer.json()["status"]) == (200, "running")
        assert 0.3 < time.monotonic() - started < 10
        started = time.monotonic()
        tag = answer.headers["ETag"]
        assert user.get(path, params={"wait": 0.5}, headers={"If-None-Match": tag}).status_code == 304
        assert 0.5 <= time.monotonic() - started < 10

    def test_without_a_known_state_until_the_end(
        self, service: RunningService, user: httpx.Client, dataset: str
    ) -> None:
        work = work_on(service, user, dataset, models=["alpha"])

        def finish() -> None:
            work.finish("alpha", {"lfc": 0.5})
            time.sleep(0.3)
            work.rank(1, "alpha")

        threading.Timer(0.1, finish).start()
        body = user.get(f"/v1/selections/{work.selection_id}", params={"wait": 20}).json()
        assert (body["status"], body["verdict"]) == ("done", "alpha leads.")
        assert body["progress"]["fraction"] == 1

    def test_pages(self, user: httpx.Client, dataset: str) -> None:
        ids = [ask(user, dataset).json()["id"] for _ in range(3)][::-1]
        first = user.get("/v1/selections", params={"limit": 2}).json()
        rest = user.get("/v1/selections", params={"limit": 2, "after": first["next_cursor"]}).json()
        assert [row["id"] for row in first["data"] + rest["data"]] == ids
        assert (first["has_more"], rest["has_more"], rest["next_cursor"]) == (True, False, None)


class TestResults:
    @pytest.fixture
    def running(self, service: RunningService, user: httpx.Client, dataset: str) -> SelectionWork:
        """A selection of which one model is ranked, one has failed, and one is still waiting."""
        work = work_on(service, user, dataset, models=["gamma", "beta", "alpha"], scores=["logme", "lfc"])
        work.finish("beta", {"lfc": 0.5, "logme": 1.25, "knn": 0.7})
        work.fail("alpha")
        work.rank(2, "beta")
        return work

    def test_they_are_readable_while_it_runs(self, user: httpx.Client, running: SelectionWork) -> None:
        body = user.get(f"/v1/selections/{running.selection_id}/results").json()
        assert (body["final"], body["status"], body["verdict"]) == (False, "running", "beta leads.")
        assert body["revision"] == user.get(f"/v1/selections/{running.selection_id}").json()["revision"]
        assert body["ranked_by"] == "linear_probe"
        assert body["has_more"] is False
        ranked, failed, waiting = body["data"]
        assert (ranked["name"], ranked["rank"], ranked["rank_interval"], ranked["tie_group"]) == ("beta", 1, [1, 1], 1)
        assert ranked["scores"] == {
            "lfc": {"value": 0.5, "stderr": 0.01, "null": None, "warnings": [], "error": None},
            "logme": {"value": 1.25, "stderr": 0.01, "null": None, "warnings": [], "error": None},
        }
        assert ranked["score"] == pytest.approx(0.9)
        assert (failed["name"], failed["status"], failed["rank"], failed["scores"]) == ("alpha", "failed", None, {})
        assert failed["error"] == {
            "code": "non_finite_features",
            "message": "The features are NaN.",
            "param": None,
            "hint": "Check the weights.",
        }
        assert (waiting["name"], waiting["status"], waiting["error"]) == ("gamma", "queued", None)

    def test_they_become_final_once(self, user: httpx.Client, running: SelectionWork) -> None:
        path = f"/v1/selections/{running.selection_id}/results"
        before = user.get(path)
        running.finish("gamma", {"lfc": 0.6})
        running.rank(3, "gamma", "beta")
        after = user.get(path, headers={"If-None-Match": before.headers["ETag"]})
        assert after.status_code == 200
        assert after.json()["final"]
        assert after.json()["revision"] > before.json()["revision"]
        assert [row["name"] for row in after.json()["data"]] == ["gamma", "beta", "alpha"]
        tag = {"If-None-Match": after.headers["ETag"]}
        assert user.get(path, headers=tag).status_code == 304

    def test_as_csv(self, user: httpx.Client, running: SelectionWork) -> None:
        path = f"/v1/selections/{running.selection_id}/results"
        answer = user.get(path, params={"format": "csv"})
        assert answer.headers["content-type"].startswith("text/csv")
        assert user.get(path, headers={"Accept": "text/csv"}).text == answer.text
        ranked, failed, waiting = csv.DictReader(io.StringIO(answer.text))
        assert (ranked["rank"], ranked["rank_low"], ranked["rank_high"], ranked["name"]) == ("1", "1", "1", "beta")
        assert (ranked["logme"], ranked["lfc"], ranked["lfc_stderr"]) == ("1.25", "0.5", "0.01")
        assert "knn" not in ranked
        assert (failed["name"], failed["rank"], failed["error"]) == ("alpha", "", "non_finite_features")
        assert (waiting["name"], waiting["status"], waiting["lfc"]) == ("gamma", "queued", "")

    def test_before_anything_has_ended(self, user: httpx.Client, dataset: str) -> None:
        body = user.get(ask(user, dataset).json()["links"]["results"]).json()
        assert (body["verdict"], body["evidence"], body["final"]) == (None, {}, False)
        assert [row["name"] for row in body["data"]] == ["alpha", "beta", "gamma"]

    def test_an_unknown_format(self, user: httpx.Client, running: SelectionWork) -> None:
        answer = user.get(f"/v1/selections/{running.selection_id}/results", params={"format": "xml"})
        assert_problem(answer, 422, "invalid_request", param="format")


class TestCancelling:
    def test_twice_is_the_same_as_once(self, service: RunningService, user: httpx.Client, dataset: str) -> None:
        work = work_on(service, user, dataset)
        work.finish("alpha", {"lfc": 0.5})
        work.claim("beta")
        once = user.post(f"/v1/selections/{work.selection_id}/cancel")
        assert once.status_code == 202
        assert once.json()["status"] == "cancelled"
        assert once.json()["progress"]["models"]["cancelled"] == 2
        twice = user.post(f"/v1/selections/{work.selection_id}/cancel")
        assert (twice.status_code, twice.json()) == (202, once.json())
        results = user.get(f"/v1/selections/{work.selection_id}/results").json()
        assert (results["final"], results["status"]) == (True, "cancelled")

    def test_what_is_done_stays_done(self, service: RunningService, user: httpx.Client, dataset: str) -> None:
        work = work_on(service, user, dataset, models=["alpha"])
        work.finish("alpha", {"lfc": 0.5})
        work.rank(1, "alpha")
        assert user.post(f"/v1/selections/{work.selection_id}/cancel").json()["status"] == "done"
