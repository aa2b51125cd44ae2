"""/v1/datasets: reading, polling, listing, the file report, deleting."""

import json
import threading
import time

import httpx
import pytest

from app.domain.errors import EvaluationFailed
from app.domain.states import DatasetState
from tests.api.problem import assert_problem
from tests.api.worker import add_zoo, dataset_state, make_ready, reject, set_dataset
from tests.fixtures.service import RunningService

OUTCOMES = [{"path": f"a/{n:02}.txt", "outcome": "ignored", "reason": "not_an_image", "detail": None} for n in range(7)]


def upload(user: httpx.Client, content: bytes = b"archive") -> str:
    return str(user.post("/v1/datasets", content=content).json()["id"])


class TestReading:
    def test_progress_and_what_was_understood(self, service: RunningService, user: httpx.Client) -> None:
        dataset_id = upload(user)
        progress = {"stage": "checking files", "done": 3, "total": 9}
        set_dataset(service, dataset_id, state=DatasetState.PREPARING, progress=progress)
        body = user.get(f"/v1/datasets/{dataset_id}").json()
        assert (body["status"], body["progress"], body["detected"]) == ("preparing", progress, None)
        report = {"layout": "class folders", "classes": [{"name": "boot", "images": 4}]}
        set_dataset(service, dataset_id, state=DatasetState.READY, progress=None, report=report, digest="d" * 64)
        body = user.get(f"/v1/datasets/{dataset_id}").json()
        assert (body["status"], body["detected"], body["digest"]) == ("ready", report, "d" * 64)

    def test_why_it_was_rejected(self, service: RunningService, user: httpx.Client) -> None:
        dataset_id = upload(user)
        reject(service, dataset_id, EvaluationFailed("too_few_classes", "There is one class.", hint="Add another."))
        body = user.get(f"/v1/datasets/{dataset_id}").json()
        assert body["status"] == "rejected"
        assert body["error"] == {
            "code": "too_few_classes",
            "message": "There is one class.",
            "param": None,
            "hint": "Add another.",
        }

    def test_the_same_state_is_not_sent_twice(self, service: RunningService, user: httpx.Client) -> None:
        path = f"/v1/datasets/{upload(user)}"
        tag = user.get(path).headers["ETag"]
        unchanged = user.get(path, headers={"If-None-Match": tag})
        assert (unchanged.status_code, unchanged.content, unchanged.headers["ETag"]) == (304, b"", tag)
        for known in (f'"other", {tag}', f"W/{tag}", "*"):
            assert user.get(path, headers={"If-None-Match": known}).status_code == 304
        set_dataset(service, path.rsplit("/", 1)[1], state=DatasetState.PREPARING)
        changed = user.get(path, headers={"If-None-Match": tag})
        assert changed.status_code == 200
        assert changed.headers["ETag"] != tag


class TestWaiting:
    def test_an_answer_is_held_until_preparation_has_ended(self, service: RunningService, user: httpx.Client) -> None:
        dataset_id = upload(user)
        later(0.4, lambda: set_dataset(service, dataset_id, state=DatasetState.READY))
        started = time.monotonic()
        answer = user.get(f"/v1/datasets/{dataset_id}", params={"wait": 20})
        assert answer.json()["status"] == "ready"
        assert 0.3 < time.monotonic() - started < 10

    def test_with_a_known_state_until_it_changes(self, service: RunningService, user: httpx.Client) -> None:
        dataset_id = upload(user)
        tag = user.get(f"/v1/datasets/{dataset_id}").headers["ETag"]
        later(0.4, lambda: set_dataset(service, dataset_id, state=DatasetState.PREPARING))
        started = time.monotonic()
        answer = user.get(f"/v1/datasets/{dataset_id}", params={"wait": 20}, headers={"If-None-Match": tag})
        assert (answer.status_code, answer.json()["status"]) == (200, "preparing")
        assert 0.3 < time.monotonic() - started < 10

    def test_no_longer_than_asked_for(self, user: httpx.Client) -> None:
        dataset_id = upload(user)
        started = time.monotonic()
        answer = user.get(f"/v1/datasets/{dataset_id}", params={"wait": 0.5})
        assert answer.json()["status"] == "received"
        tag = answer.headers["ETag"]
        answer = user.get(f"/v1/datasets/{dataset_id}", params={"wait": 0.5}, headers={"If-None-Match": tag})
        assert answer.status_code == 304
        assert 1 <= time.monotonic() - started < 10

    def test_what_has_ended_is_not_waited_for(self, service: RunningService, user: httpx.Client, tenant: str) -> None:
        path = f"/v1/datasets/{make_ready(service, tenant)}"
        started = time.monotonic()
        tag = user.get(path, params={"wait": 30}).headers["ETag"]
        assert user.get(path, params={"wait": 30}, headers={"If-None-Match": tag}).status_code == 304
        assert time.monotonic() - started < 10

    @pytest.mark.parametrize("wait", ["-1", "31", "soon", "nan", "inf", ""])
    def test_an_impossible_time(self, user: httpx.Client, wait: str) -> None:
        answer = user.get(f"/v1/datasets/{upload(user)}", params={"wait": wait})
        assert_problem(answer, 422, "invalid_request", param="wait")


class TestListing:
    def test_pages(self, user: httpx.Client) -> None:
        ids = [upload(user, bytes([number])) for number in range(5)][::-1]
        seen, after = [], {}
        for size in (2, 2, 1):
            page = user.get("/v1/datasets", params={"limit": 2, **after}).json()
            assert len(page["data"]) == size
            assert page["has_more"] == (page["next_cursor"] is not None)
            seen += [row["id"] for row in page["data"]]
            after = {"after": page["next_cursor"]}
            upload(user, b"added meanwhile" + bytes([size, len(seen)]))
        assert seen == ids
        assert after == {"after": None}

    @pytest.mark.parametrize("limit", ["0", "-1", "201", "1e3", "9" * 5000, "two"])
    def test_an_impossible_limit(self, user: httpx.Client, limit: str) -> None:
        assert_problem(user.get("/v1/datasets", params={"limit": limit}), 422, "invalid_request", param="limit")


class TestFiles:
    @pytest.fixture
    def reported(self, service: RunningService, user: httpx.Client) -> str:
        dataset_id = upload(user)
        set_dataset(service, dataset_id, state=DatasetState.READY, digest=dataset_id)
        with service.objects.create(f"reports/{dataset_id}.json") as file:
            file.write(json.dumps(OUTCOMES).encode())
        return dataset_id

    def test_every_file_with_its_reason(self, user: httpx.Client, reported: str) -> None:
        body = user.get(f"/v1/datasets/{reported}/files").json()
        assert body == {"data": OUTCOMES, "has_more": False, "next_cursor": None}

    def test_pages(self, user: httpx.Client, reported: str) -> None:
        seen, after = [], {}
        for size in (3, 3, 1):
            page = user.get(f"/v1/datasets/{reported}/files", params={"limit": 3, **after}).json()
            assert len(page["data"]) == size
            seen += page["data"]
            after = {"after": page["next_cursor"]}
        assert seen == OUTCOMES
        assert after == {"after": None}

    @pytest.mark.parametrize("cursor", ["x", "-1", "²", "1.5", "٣", "9" * 5000])
    def test_an_impossible_cursor(self, user: httpx.Client, reported: str, cursor: str) -> None:
        answer = user.get(f"/v1/datasets/{reported}/files", params={"after": cursor})
        assert_problem(answer, 422, "invalid_cursor", param="after")

    def test_a_rejected_archive_has_none(self, service: RunningService, user: httpx.Client) -> None:
        dataset_id = upload(user)
        assert_problem(user.get(f"/v1/datasets/{dataset_id}/files"), 409, "dataset_not_ready")
        reject(service, dataset_id, EvaluationFailed("unsupported_archive", "No archive."))
        assert user.get(f"/v1/datasets/{dataset_id}/files").json()["data"] == []


class TestDeleting:
    def test_no_object_is_left(self, service: RunningService, user: httpx.Client) -> None:
        before = service.objects.keys()
        dataset_id = upload(user)
        for key in (f"reports/{dataset_id}.json", f"datasets/{dataset_id}.parquet", f"scores/{dataset_id}/m/v1"):
            with service.objects.create(key) as file:
                file.write(b"[]")
        set_dataset(service, dataset_id, state=DatasetState.READY, digest=dataset_id)
        answer = user.delete(f"/v1/datasets/{dataset_id}")
        assert (answer.status_code, answer.content) == (204, b"")
        assert service.objects.keys() == before
        assert dataset_state(service, dataset_id) == DatasetState.DELETED
        for gone in (user.get(f"/v1/datasets/{dataset_id}"), user.delete(f"/v1/datasets/{dataset_id}")):
            assert_problem(gone, 404, "dataset_not_found")
        assert user.get("/v1/datasets").json()["data"] == []

    def test_not_while_a_selection_is_open(self, service: RunningService, user: httpx.Client, tenant: str) -> None:
        add_zoo(service, "one")
        dataset_id = make_ready(service, tenant)
        selection = user.post("/v1/selections", json={"dataset": dataset_id, "models": ["one"]}).json()
        assert_problem(user.delete(f"/v1/datasets/{dataset_id}"), 409, "dataset_in_use")
        user.post(selection["links"]["cancel"])
        assert user.delete(f"/v1/datasets/{dataset_id}").status_code == 204
        assert user.get(selection["links"]["results"]).status_code == 200


def later(seconds: float, action: object) -> None:
    threading.Timer(seconds, action).start()  # type: ignore[arg-type]
