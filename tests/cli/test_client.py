import io
import os
import threading
import time
import tracemalloc
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import httpx
import pytest
from sqlalchemy import update

from app.client import ApiError, Failure, Foretune, JobFailed, ServiceUnreachable, WaitTimedOut
from app.client.address import find_service
from app.client.connection import segment
from app.domain.states import DatasetState
from app.storage.repositories.datasets import Datasets
from app.storage.repositories.selections import touch
from app.storage.tables import Dataset
from tests.cli.broken_line import broken_line
from tests.cli.conftest import Served
from tests.fixtures.rows import add_model, add_ready_dataset
from tests.fixtures.servers import free_port

MIB = 1 << 20


def content(size: int) -> bytes:
    return os.urandom(size)


def test_upload_of_a_path_is_named_by_the_file_and_tells_its_progress(client: Foretune, tmp_path: Path) -> None:
    path = tmp_path / "photos.zip"
    path.write_bytes(content(300_000))
    seen: list[tuple[int, int]] = []
    dataset = client.datasets.upload(path, on_progress=lambda *progress: seen.append(progress))
    assert (dataset.name, dataset.status, dataset.bytes) == ("photos.zip", "received", 300_000)
    assert seen == sorted(seen)
    assert seen[-1] == (300_000, 300_000)
    assert client.datasets.get(dataset.id).id == dataset.id


def test_upload_of_the_same_bytes_gives_the_same_data_set(client: Foretune) -> None:
    data = content(1000)
    first = client.datasets.upload(io.BytesIO(data), "one")
    again = client.datasets.upload(io.BytesIO(data), "two")
    assert (again.id, again.name) == (first.id, "one")


def test_upload_reads_a_file_from_its_beginning_and_leaves_it_open(client: Foretune, tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(content(5000))
    with path.open("rb") as file:
        file.seek(4000)
        assert client.datasets.upload(file, "whole").bytes == 5000
        assert not file.closed


def test_upload_takes_constant_memory(client: Foretune, tmp_path: Path) -> None:
    path = tmp_path / "large.zip"
    with path.open("wb") as file:
        file.truncate(64 * MIB)
    tracemalloc.start()
    try:
        client.datasets.upload(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 * MIB


def test_upload_of_what_is_not_there_or_cannot_be_read_twice(client: Foretune, tmp_path: Path) -> None:
    with pytest.raises(Failure) as missing:
        client.datasets.upload(tmp_path / "missing.zip")
    assert (missing.value.code, missing.value.param) == ("file_not_readable", str(tmp_path / "missing.zip"))
    read_end, write_end = os.pipe()
    os.close(write_end)
    with os.fdopen(read_end, "rb") as pipe, pytest.raises(Failure, match="cannot be read twice"):
        client.datasets.upload(pipe, "pipe")


def test_an_upload_that_breaks_off_is_sent_again_and_taken_once(served: Served, client: Foretune) -> None:
    data = content(2 * MIB)
    before = {dataset.id for dataset in client.datasets.list()}
    with broken_line(served.url) as line, Foretune(line.url, served.key) as far:
        line.cut_after = MIB
        dataset = far.datasets.upload(io.BytesIO(data), "broken")
        attempts = [bytes(sent) for sent in line.sent if b"Idempotency-Key" in sent]
    assert len(attempts) == 2
    keys = {attempt.split(b"Idempotency-Key: ")[1].split(b"\r\n")[0] for attempt in attempts}
    assert len(keys) == 1
    assert dataset.bytes == len(data)
    deadline = time.monotonic() + 10
    while (new := {one.id for one in client.datasets.list()} - before) != {dataset.id}:
        assert time.monotonic() < deadline, new
        time.sleep(0.05)


def test_lists_go_through_all_pages(served: Served, client: Foretune) -> None:
    with served.database.write() as session:
        made = [Datasets(session, "default").start(f"page-{n}").id for n in range(205)]
    listed = [dataset.id for dataset in client.datasets.list() if dataset.name.startswith("page-")]
    assert sorted(listed) == sorted(made)


def test_a_problem_becomes_an_error_that_says_what_to_do(client: Foretune) -> None:
    with pytest.raises(ApiError) as error:
        client.datasets.get("ds_unknown")
    assert (error.value.status, error.value.code, error.value.param) == (404, "dataset_not_found", "dataset")
    assert error.value.hint == "List yours with GET /v1/datasets."
    assert str(error.value).splitlines() == [
        "There is no data set ds_unknown.",
        "  code: dataset_not_found",
        "  param: dataset",
        "  hint: List yours with GET /v1/datasets.",
    ]


def test_a_wrong_key_and_a_missing_one(served: Served, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with Foretune(served.url, "ft_wrong_key") as foretune, pytest.raises(ApiError) as wrong:
        list(foretune.models.list())
    assert (wrong.value.status, wrong.value.code) == (401, "invalid_key")
    monkeypatch.delenv("FORETUNE_KEY", raising=False)
    monkeypatch.setenv("FORETUNE_HOME", str(tmp_path))
    with Foretune(served.url) as foretune:
        assert foretune.health().checks["database"] == "ok"
        with pytest.raises(Failure) as missing:
            list(foretune.models.list())
    assert missing.value.code == "no_api_key"


def test_the_local_admin_key_stays_on_this_machine(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FORETUNE_URL", "FORETUNE_KEY", "FORETUNE_HOST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("FORETUNE_HOME", str(served.home))
    monkeypatch.setenv("FORETUNE_PORT", "8123")
    local = find_service()
    assert (local.url, local.key) == ("http://127.0.0.1:8123", served.key)
    assert served.key not in repr(local)
    assert find_service("http://localhost:9000/").key == served.key
    assert find_service("https://foretune.example.org").key is None
    monkeypatch.setenv("FORETUNE_URL", "https://foretune.example.org")
    assert find_service().key is None
    assert find_service(key="given").key == "given"


@pytest.mark.parametrize(
    ("variables", "code"),
    [({"FORETUNE_URL": "127.0.0.1:8000"}, "invalid_url"), ({"FORETUNE_PORT": "http"}, "invalid_setting")],
)
def test_wrong_settings_are_named(variables: dict[str, str], code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FORETUNE_URL", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(Failure) as error:
        find_service()
    assert error.value.code == code
    assert next(iter(variables.values())) in error.value.message


def test_a_service_that_does_not_run_is_told_soon() -> None:
    started = time.monotonic()
    with Foretune(f"http://127.0.0.1:{free_port()}", "any") as foretune, pytest.raises(ServiceUnreachable) as error:
        foretune.datasets.get("ds_1")
    assert time.monotonic() - started < 5
    assert "foretune serve" in str(error.value)


class _Busy(BaseHTTPRequestHandler):
    """Answers 503 once, then like a service; /other answers like another program."""

    asked: list[float]

    def do_GET(self) -> None:
        if self.path == "/v1/datasets/other":
            self._answer(200, "text/html", b"<html>")
        elif not self.asked:
            self.asked.append(time.monotonic())
            problem = b'{"code": "database_unavailable", "detail": "The database does not answer."}'
            self._answer(503, "application/problem+json", problem)
        else:
            self.asked.append(time.monotonic())
            self._answer(200, "application/json", b'{"data": [], "has_more": false, "next_cursor": null}')

    def do_POST(self) -> None:
        self.do_GET()

    def _answer(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Retry-After", "1")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def busy() -> tuple[str, list[float]]:
    asked: list[float] = []
    server = HTTPServer(("127.0.0.1", 0), type("Busy", (_Busy,), {"asked": asked}))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    thread.join()
    server.server_close()


def test_503_is_asked_again_after_the_time_that_the_service_named(busy: tuple[str, list[float]]) -> None:
    url, asked = busy
    with Foretune(url, "any") as foretune:
        assert list(foretune.datasets.list()) == []
    assert len(asked) == 2
    assert 1 <= asked[1] - asked[0] < 3


def test_a_request_that_must_not_happen_twice_is_not_repeated(busy: tuple[str, list[float]]) -> None:
    url, asked = busy
    with Foretune(url, "any") as foretune, pytest.raises(ApiError) as error:
        foretune.keys.create("ci")
    assert (error.value.status, len(asked)) == (503, 1)


def test_another_program_at_the_url_is_told(busy: tuple[str, list[float]]) -> None:
    with Foretune(busy[0], "any") as foretune, pytest.raises(ApiError) as error:
        foretune.datasets.get("other")
    assert error.value.code == "unexpected_answer"
    assert "FORETUNE_URL" in str(error.value.hint)


def test_wait_returns_what_became_ready_and_saw_every_change(served: Served, client: Foretune) -> None:
    dataset = client.datasets.upload(io.BytesIO(content(100)), "waiting")

    def prepare() -> None:
        for state in (DatasetState.PREPARING, DatasetState.READY):
            time.sleep(0.3)
            with served.database.write() as session:
                values = {"state": state, "revision": Dataset.revision + 1}
                session.execute(update(Dataset).where(Dataset.id == dataset.id).values(values))

    thread = threading.Thread(target=prepare)
    thread.start()
    seen: list[str] = []
    assert client.datasets.wait(dataset.id, on_change=lambda one: seen.append(one.status)).status == "ready"
    thread.join()
    assert seen == ["received", "preparing", "ready"]


def test_wait_raises_the_error_of_a_rejected_data_set(served: Served, client: Foretune) -> None:
    dataset = client.datasets.upload(io.BytesIO(content(100)), "broken")
    error = {"code": "archive_truncated", "message": "It ends early.", "param": None, "hint": "Send it again."}
    with served.database.write() as session:
        rejected = {"state": DatasetState.REJECTED, "error": error}
        session.execute(update(Dataset).where(Dataset.id == dataset.id).values(rejected))
    with pytest.raises(JobFailed) as failed:
        client.datasets.wait(dataset.id)
    assert (failed.value.code, failed.value.hint) == ("archive_truncated", "Send it again.")


def test_wait_gives_up_in_time(client: Foretune) -> None:
    dataset = client.datasets.upload(io.BytesIO(content(100)), "slow")
    started = time.monotonic()
    with pytest.raises(WaitTimedOut, match=r"still received after 0\.5 seconds"):
        client.datasets.wait(dataset.id, timeout=0.5)
    assert time.monotonic() - started < 3


def test_watch_resumes_after_a_cut_line_without_a_repetition(served: Served, client: Foretune) -> None:
    dataset_id = add_ready_dataset(served.database, tenant="default", content="b")
    add_model(served.database, "watched-\u2028-model")
    selection = client.selections.create(dataset_id, models=["watched-\u2028-model"], name="line\u2028separator")
    with broken_line(served.url) as line, Foretune(line.url, served.key) as far:
        revisions: list[int] = []
        for seen in far.selections.watch(selection.id):
            revisions.append(seen.revision)
            assert seen.name == "line\u2028separator"
            if len(revisions) == 1:
                line.cut()
            if len(revisions) == 3:
                client.selections.cancel(selection.id)
            else:
                with served.database.write() as session:
                    touch(session, selection.id)
        resumed = [bytes(sent) for sent in line.sent if b"/events" in sent]
    assert seen.status == "cancelled"
    assert revisions == sorted(set(revisions))
    assert len(revisions) == 4
    assert len(resumed) == 2
    assert b"Last-Event-ID: %d\r\n" % revisions[0] in resumed[1]


def test_watch_of_an_unknown_selection(client: Foretune) -> None:
    with pytest.raises(ApiError) as error:
        list(client.selections.watch("sel_unknown"))
    assert error.value.code == "selection_not_found"


def test_results_before_anything_is_ranked(served: Served, client: Foretune) -> None:
    dataset_id = add_ready_dataset(served.database, tenant="default", content="c")
    add_model(served.database, "waiting")
    selection = client.selections.create(dataset_id, models=["waiting"])
    results = client.selections.results(selection.id)
    assert (results.final, results.verdict, results.data[0].name, results.data[0].rank) == (
        False,
        None,
        "waiting",
        None,
    )
    assert client.selections.results_csv(selection.id).startswith("rank,")
    assert client.selections.cancel(selection.id).status == "cancelled"
    assert client.selections.wait(selection.id).has_ended
    assert selection.id in [one.id for one in client.selections.list()]


@pytest.mark.parametrize("wrong", ["../keys/key_1", "..", ".", "a/b", "a?b=c", "a#b", "ä b"])
def test_an_id_that_is_none_never_leads_to_another_route(wrong: str) -> None:
    url = httpx.URL(f"http://127.0.0.1/v1/datasets/{segment(wrong)}")
    assert url.raw_path.startswith(b"/v1/datasets/")
    assert url.raw_path.count(b"/") == 3
    assert not url.query
    assert not url.fragment
