"""/v1/selections/{id}/events: server-sent events."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest

from tests.api.problem import assert_problem
from tests.api.worker import SelectionWork, add_zoo, make_ready
from tests.fixtures.service import RunningService


@pytest.fixture
def work(service: RunningService, user: httpx.Client, tenant: str) -> SelectionWork:
    add_zoo(service, "alpha", "beta")
    body = {"dataset": make_ready(service, tenant), "models": ["alpha", "beta"]}
    return SelectionWork(service, user.post("/v1/selections", json=body).json()["id"])


@contextmanager
def watch(user: httpx.Client, work: SelectionWork, last_id: str | None = None) -> Iterator[Iterator[dict[str, str]]]:
    headers = {} if last_id is None else {"Last-Event-ID": last_id}
    with user.stream("GET", f"/v1/selections/{work.selection_id}/events", headers=headers, timeout=20) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["cache-control"] == "no-store"
        yield read_events(answer.iter_lines())


def read_events(lines: Iterator[str]) -> Iterator[dict[str, str]]:
    event: dict[str, str] = {}
    for line in lines:
        if line and not line.startswith(":"):
            field, _, value = line.partition(": ")
            event[field] = value
        elif event:
            yield event
            event = {}


class TestEvents:
    def test_each_revision_is_sent_until_the_end(self, user: httpx.Client, work: SelectionWork) -> None:
        with watch(user, work) as events:
            first = next(events)
            assert (first["id"], first["event"], json.loads(first["data"])["status"]) == ("1", "revision", "queued")
            work.finish("alpha", {"lfc": 0.5})
            work.rank(1, "alpha")
            second = next(events)
            assert json.loads(second["data"])["status"] == "running"
            work.finish("beta", {"lfc": 0.5})
            work.rank(2, "beta", "alpha")
            rest = list(events)  # the stream ends by itself
        assert [event["event"] for event in rest][-1] == "end"
        assert json.loads(rest[-1]["data"])["verdict"] == "beta leads."
        ids = [int(event["id"]) for event in (first, second, *rest)]
        assert ids == sorted(set(ids))
        assert ids[-1] == user.get(f"/v1/selections/{work.selection_id}").json()["revision"]

    def test_it_resumes_after_what_was_seen(self, user: httpx.Client, work: SelectionWork) -> None:
        work.claim("alpha")
        revision = user.get(f"/v1/selections/{work.selection_id}").json()["revision"]
        with watch(user, work, str(revision - 1)) as events:
            assert int(next(events)["id"]) == revision
        timer = threading.Timer(0.4, work.claim, ["beta"])
        timer.start()
        with watch(user, work, str(revision)) as events:
            assert int(next(events)["id"]) > revision, "what was seen is not sent again"
        timer.join()

    def test_a_cancelled_selection_ends_the_stream(self, user: httpx.Client, work: SelectionWork) -> None:
        with watch(user, work) as events:
            next(events)
            user.post(f"/v1/selections/{work.selection_id}/cancel")
            [last] = list(events)
        assert (last["event"], json.loads(last["data"])["status"]) == ("end", "cancelled")

    @pytest.mark.parametrize("last_id", [None, "1", "999999999"])
    def test_of_an_ended_selection_only_the_end_is_sent(
        self, user: httpx.Client, work: SelectionWork, last_id: str | None
    ) -> None:
        user.post(f"/v1/selections/{work.selection_id}/cancel")
        with watch(user, work, last_id) as events:
            [only] = list(events)
        assert only["event"] == "end"

    @pytest.mark.parametrize("last_id", ["", "x", "-1", "1.5", "9" * 5000, "\u00b2".encode("latin-1")])
    def test_a_foreign_event_id_starts_from_the_beginning(
        self, user: httpx.Client, work: SelectionWork, last_id: str
    ) -> None:
        user.post(f"/v1/selections/{work.selection_id}/cancel")
        with watch(user, work, last_id) as events:
            assert next(events)["event"] == "end"

    def test_an_unknown_selection_is_a_problem_and_no_stream(self, user: httpx.Client) -> None:
        assert_problem(user.get("/v1/selections/sel_nothing/events"), 404, "selection_not_found")
