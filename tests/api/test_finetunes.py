"""/v1/finetunes: asking, polling, cancelling, and the weights in the end. No worker runs: its rows are written here."""

import threading
import time
from typing import Any

import httpx
import pytest
from sqlalchemy import func, select

from app.domain.errors import EvaluationFailed
from app.domain.finetuning import Recipe
from app.domain.states import DatasetState, ModelState
from app.storage.tables import Finetune
from tests.api.problem import assert_problem
from tests.api.test_documentation import PATHS
from tests.api.worker import add_zoo, make_ready, set_dataset
from tests.fixtures.recorded import FinetuneWork
from tests.fixtures.rows import add_model
from tests.fixtures.service import RunningService

ZOO = ["alpha", "beta"]


@pytest.fixture
def dataset(service: RunningService, tenant: str) -> str:
    add_zoo(service, *ZOO)
    return make_ready(service, tenant)


def ask(user: httpx.Client, dataset: str, **more: Any) -> httpx.Response:
    return user.post("/v1/finetunes", json={"dataset": dataset, "models": ZOO, **more})


def work_on(service: RunningService, user: httpx.Client, dataset: str, **more: Any) -> FinetuneWork:
    return FinetuneWork(service.database, service.objects, ask(user, dataset, **more).json()["id"])


@pytest.fixture
def finished(service: RunningService, user: httpx.Client, dataset: str) -> FinetuneWork:
    work = work_on(service, user, dataset)
    work.finish(work.claim(), alpha=0.7, beta=0.8)
    return work


def count(service: RunningService, tenant: str) -> int:
    with service.database.read() as session:
        return session.scalar(select(func.count()).where(Finetune.tenant == tenant)) or 0


def assert_documented(answer: httpx.Response, path: str) -> None:
    """Assert that the interface's description names this status of a path."""
    assert str(answer.status_code) in PATHS[path][answer.request.method.lower()]["responses"]


class TestAsking:
    def test_one_job_for_all_models(
        self, service: RunningService, user: httpx.Client, tenant: str, dataset: str
    ) -> None:
        recipe = {"epochs": 2, "learning_rates": [0.1]}
        answer = ask(user, dataset, name="mine", recipe=recipe, budget={"worker_seconds": 60})
        assert answer.status_code == 202
        body = answer.json()
        assert answer.headers["Location"] == f"/v1/finetunes/{body['id']}" == body["links"]["self"]
        assert int(answer.headers["Retry-After"]) >= 1
        assert (body["status"], body["name"], body["dataset"]) == ("queued", "mine", dataset)
        assert body["recipe"] == Recipe(epochs=2, learning_rates=(0.1,)).as_dict()
        assert body["budget"] == {"worker_seconds": 60}
        assert (body["models"], body["progress"], body["error"], body["device"]) == ([], None, None, None)
        assert user.get(answer.headers["Location"]).json() == body
        assert [row["id"] for row in user.get("/v1/finetunes").json()["data"]] == [body["id"]]
        assert count(service, tenant) == 1

    def test_what_is_left_out(self, user: httpx.Client, dataset: str) -> None:
        body = ask(user, dataset).json()
        assert body["recipe"] == Recipe().as_dict()
        assert (body["budget"], body["selection"]) == (None, None)
        assert body["name"] == user.get(f"/v1/datasets/{dataset}").json()["name"]

    @pytest.mark.parametrize(
        ("change", "status", "code", "param"),
        [
            ({"modles": ["alpha"]}, 422, "unknown_field", "modles"),
            ({"models": ["alpha", "nothing"]}, 422, "unknown_model", "models.1"),
            ({"models": []}, 422, "invalid_request", "models"),
            ({"models": None}, 422, "invalid_request", "models"),
            ({"models": ["alpha"] * 11}, 422, "invalid_request", "models"),
            ({"dataset": "ds_nothing"}, 404, "dataset_not_found", "dataset"),
            ({"name": ""}, 422, "invalid_request", "name"),
            ({"budget": {"worker_seconds": 0}}, 422, "invalid_request", "budget.worker_seconds"),
            ({"recipe": {"optimizer": "adam"}}, 422, "unknown_field", "recipe.optimizer"),
            ({"recipe": {"epochs": 0}}, 422, "invalid_request", "recipe.epochs"),
            ({"recipe": {"momentum": 1}}, 422, "invalid_request", "recipe.momentum"),
            ({"recipe": {"loss": "hinge"}}, 422, "invalid_request", "recipe.loss"),
            ({"recipe": {"learning_rates": []}}, 422, "invalid_request", "recipe.learning_rates"),
            ({"recipe": {"learning_rates": [0.1, 0.1]}}, 422, "invalid_recipe", "recipe.learning_rates"),
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
        answer = ask(user, **{"dataset": dataset} | change)
        assert_problem(answer, status, code, param=param)
        assert_documented(answer, "/v1/finetunes")
        assert count(service, tenant) == 0

    def test_what_is_not_ready(self, service: RunningService, user: httpx.Client, dataset: str) -> None:
        add_model(service.database, "asleep", state=ModelState.DISABLED)
        assert_problem(ask(user, dataset, models=["asleep"]), 409, "model_not_active", param="models.0")
        set_dataset(service, dataset, state=DatasetState.PREPARING)
        answer = ask(user, dataset)
        assert_problem(answer, 409, "dataset_not_ready", param="dataset")
        assert_documented(answer, "/v1/finetunes")

    def test_who_names_a_deprecated_model_is_told(
        self, service: RunningService, user: httpx.Client, admin: httpx.Client, dataset: str
    ) -> None:
        name = f"old-{dataset}"
        path = f"/v1/models/{add_model(service.database, name)}"
        admin.patch(path, json={"status": "deprecated", "reason": "take alpha"}).raise_for_status()
        body = ask(user, dataset, models=["alpha", name]).json()
        [warning] = body["warnings"]
        assert (warning["code"], warning["model"]) == ("model_deprecated", path.rsplit("/", 1)[1])
        assert warning["detail"] == f"{name} version 1 is deprecated: take alpha"
        admin.patch(path, json={"status": "active"}).raise_for_status()
        assert user.get(body["links"]["self"]).json()["warnings"] == [warning], "what was told stays told"
        assert ask(user, dataset, models=["alpha", name]).json()["warnings"] == []
        selection = user.post("/v1/selections", json={"dataset": dataset, "models": ["alpha", name]}).json()
        assert selection["warnings"] == []

    def test_a_replay_gets_the_first_answer(
        self, service: RunningService, user: httpx.Client, tenant: str, dataset: str
    ) -> None:
        user.headers["Idempotency-Key"] = "tune-1"
        first = ask(user, dataset)
        FinetuneWork(service.database, service.objects, first.json()["id"]).claim()
        again = ask(user, dataset)
        assert (again.status_code, again.json()) == (202, first.json())
        assert_problem(ask(user, dataset, name="other"), 422, "idempotency_key_reused", param="Idempotency-Key")
        assert count(service, tenant) == 1

    def test_a_key_that_may_only_read(self, service: RunningService, tenant: str, finished: FinetuneWork) -> None:
        reader = service.client(service.key("read", tenant=tenant))
        path = f"/v1/finetunes/{finished.finetune_id}"
        assert reader.get(path).status_code == reader.get(f"{path}/weights").status_code == 200
        assert_problem(reader.post(f"{path}/cancel"), 403, "missing_scope")
        assert_problem(reader.post("/v1/finetunes", json={"dataset": "ds_1", "models": ZOO}), 403, "missing_scope")


class TestPolling:
    def test_progress_and_the_known_state(self, service: RunningService, user: httpx.Client, dataset: str) -> None:
        work = work_on(service, user, dataset)
        path = f"/v1/finetunes/{work.finetune_id}"
        tag = {"If-None-Match": user.get(path).headers["ETag"]}
        unchanged = user.get(path, headers=tag)
        assert (unchanged.status_code, unchanged.content) == (304, b"")
        lease = work.claim()
        work.progress(lease, "alpha: training", 30, 90)
        answer = user.get(path, headers=tag)
        assert (answer.status_code, answer.json()["status"]) == (200, "running")
        assert answer.json()["progress"] == {"stage": "alpha: training", "done": 30, "total": 90}

    def test_an_answer_is_held_until_it_has_ended(
        self, service: RunningService, user: httpx.Client, dataset: str
    ) -> None:
        work = work_on(service, user, dataset)
        path, lease = f"/v1/finetunes/{work.finetune_id}", work.claim()
        tag = user.get(path).headers["ETag"]
        started = time.monotonic()
        held = user.get(path, params={"wait": 0.3}, headers={"If-None-Match": tag})
        assert held.status_code == 304
        assert time.monotonic() - started >= 0.3
        threading.Timer(0.3, work.finish, [lease], {"alpha": 0.7, "beta": 0.8}).start()
        assert user.get(path, params={"wait": 20}).json()["status"] == "done"
        assert time.monotonic() - started < 10

    def test_pages(self, user: httpx.Client, dataset: str) -> None:
        ids = [ask(user, dataset).json()["id"] for _ in range(3)][::-1]
        first = user.get("/v1/finetunes", params={"limit": 2}).json()
        rest = user.get("/v1/finetunes", params={"limit": 2, "after": first["next_cursor"]}).json()
        assert [row["id"] for row in first["data"] + rest["data"]] == ids
        assert (first["has_more"], rest["has_more"], rest["next_cursor"]) == (True, False, None)

    def test_models_that_were_trained_and_one_that_failed(
        self, service: RunningService, user: httpx.Client, dataset: str
    ) -> None:
        work = work_on(service, user, dataset)
        work.finish(work.claim(), alpha=0.75, beta=None)
        body = user.get(f"/v1/finetunes/{work.finetune_id}").json()
        assert (body["status"], body["device"], body["worker_seconds"]) == ("done", "cpu", 260.25)
        assert body["images"] == {"train": 48, "validation": 12, "test": 20}
        alpha, beta = body["models"]
        assert (alpha["name"], alpha["verdict"], alpha["test_accuracy"], alpha["interval_level"]) == (
            "alpha",
            "trained",
            0.75,
            0.9,
        )
        assert alpha["trials"][0]["validation_accuracy"] == 0.7
        assert alpha["curve"][0]["train_loss"] == 1.1
        assert alpha["warnings"] == ["class_not_tested"]
        assert user.get(alpha["weights"]).content.startswith(b"weights of alpha")
        assert (beta["verdict"], beta["weights"], beta["error"]["code"]) == ("failed", None, "out_of_memory")

    def test_one_of_which_nothing_could_be_trained(
        self, service: RunningService, user: httpx.Client, dataset: str
    ) -> None:
        work = work_on(service, user, dataset)
        error = EvaluationFailed("nothing_to_test", "No image is left.", param="dataset", hint="Add images.")
        work.fail(work.claim(), error)
        body = user.get(f"/v1/finetunes/{work.finetune_id}").json()
        assert (body["status"], body["error"]) == ("failed", error.as_dict())


class TestCancelling:
    def test_twice_is_the_same_as_once(self, service: RunningService, user: httpx.Client, dataset: str) -> None:
        work = work_on(service, user, dataset)
        work.claim()
        path = f"/v1/finetunes/{work.finetune_id}"
        answer = user.post(f"{path}/cancel")
        assert (answer.status_code, answer.json()["status"]) == (202, "cancelled")
        assert answer.json()["finished_at"] is not None
        assert user.post(f"{path}/cancel").json() == answer.json() == user.get(path).json()

    def test_what_has_ended_stays_as_it_is(self, user: httpx.Client, finished: FinetuneWork) -> None:
        path = f"/v1/finetunes/{finished.finetune_id}"
        before = user.get(path)
        assert user.post(f"{path}/cancel").json() == before.json()
        assert user.get(path, headers={"If-None-Match": before.headers["ETag"]}).status_code == 304

    def test_a_data_set_cannot_be_deleted_meanwhile(
        self, service: RunningService, user: httpx.Client, dataset: str
    ) -> None:
        work = work_on(service, user, dataset)
        assert_problem(user.delete(f"/v1/datasets/{dataset}"), 409, "dataset_in_use")
        user.post(f"/v1/finetunes/{work.finetune_id}/cancel")
        assert user.delete(f"/v1/datasets/{dataset}").status_code == 204


class TestWeights:
    def test_of_the_best_by_name_and_by_id(self, user: httpx.Client, finished: FinetuneWork) -> None:
        path = f"/v1/finetunes/{finished.finetune_id}/weights"
        best = user.get(path)
        assert best.headers["Content-Type"] == "application/zip"
        plain, encoded = best.headers["Content-Disposition"].split("; ")[1:]
        assert plain == f'filename="{finished.finetune_id}.zip"'
        assert encoded == f"filename*=UTF-8''beta-{finished.finetune_id}.zip"
        assert best.content == b"weights of beta" * 100_000
        by_name = user.get(path, params={"model": "alpha"})
        assert by_name.content == b"weights of alpha" * 100_000
        linked = user.get(f"/v1/finetunes/{finished.finetune_id}").json()["models"][0]["weights"]
        assert user.get(linked).content == by_name.content

    def test_that_are_not_there(
        self, service: RunningService, user: httpx.Client, dataset: str, finished: FinetuneWork
    ) -> None:
        path = f"/v1/finetunes/{finished.finetune_id}/weights"
        assert_problem(user.get(path, params={"model": "gamma"}), 404, "weights_not_found", param="model")
        waiting = work_on(service, user, dataset)
        problem = assert_problem(user.get(f"/v1/finetunes/{waiting.finetune_id}/weights"), 404, "weights_not_found")
        assert "queued" in str(problem["detail"])

    def test_that_went_with_their_data_set(self, service: RunningService, user: httpx.Client, dataset: str) -> None:
        work = work_on(service, user, dataset)
        work.finish(work.claim(), alpha=0.7, beta=0.8)
        service.objects.delete(f"finetunes/digest/{work.finetune_id}")
        answer = user.get(f"/v1/finetunes/{work.finetune_id}/weights")
        assert_problem(answer, 409, "weights_gone", param="finetune")
        assert_documented(answer, "/v1/finetunes/{finetune_id}/weights")

    def test_that_went_are_not_linked_any_more(
        self, service: RunningService, user: httpx.Client, tenant: str, dataset: str, finished: FinetuneWork
    ) -> None:
        kept = work_on(service, user, make_ready(service, tenant, "b"))
        kept.finish(kept.claim(), alpha=0.7, beta=0.8)
        path = f"/v1/finetunes/{finished.finetune_id}"
        tag = {"If-None-Match": user.get(path).headers["ETag"]}
        assert user.delete(f"/v1/datasets/{dataset}").status_code == 204
        answer = user.get(path, headers=tag)
        assert answer.status_code == 200, "it is news"
        assert [model["weights"] for model in answer.json()["models"]] == [None, None]
        assert [model["test_accuracy"] for model in answer.json()["models"]] == [0.7, 0.8], "what is known stays"
        assert user.get(path, headers={"If-None-Match": answer.headers["ETag"]}).status_code == 304
        assert user.post(f"{path}/cancel").json() == answer.json()
        linked = {row["id"]: row["models"][0]["weights"] for row in user.get("/v1/finetunes").json()["data"]}
        assert linked[finished.finetune_id] is None
        assert user.get(linked[kept.finetune_id]).status_code == 200
        # Its objects are still there, as those of another data set with the same content would be.
        assert_problem(user.get(f"{path}/weights"), 409, "weights_gone", param="finetune")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/finetunes/{finetune_id}"),
        ("GET", "/v1/finetunes/{finetune_id}/weights"),
        ("POST", "/v1/finetunes/{finetune_id}/cancel"),
    ],
)
def test_another_tenant_sees_nothing(
    service: RunningService, user: httpx.Client, finished: FinetuneWork, method: str, path: str
) -> None:
    rival = service.client(service.key("read", "write", tenant="rival"))
    foreign = rival.request(method, path.format(finetune_id=finished.finetune_id))
    assert_problem(foreign, 404, "finetune_not_found", param="finetune")
    assert_documented(foreign, path)
    unknown = user.request(method, path.format(finetune_id="ft_nothing"))
    assert_problem(unknown, 404, "finetune_not_found")
    assert rival.get("/v1/finetunes").json()["data"] == []
    assert user.get(f"/v1/finetunes/{finished.finetune_id}").json()["status"] == "done"
