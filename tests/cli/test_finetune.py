"""Fine-tunes from the client and the command line; what a worker would do is written into the database."""

import io
import json
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from sqlalchemy import select, update

from app.cli.finetune_report import finetune_report
from app.client import ApiError, Failure, Finetune, Foretune, JobFailed, ServiceUnreachable, WaitTimedOut
from app.domain.errors import EvaluationFailed
from app.storage import tables
from app.storage.objects import Objects
from tests.cli.broken_line import broken_line
from tests.cli.conftest import Served, start, wait_until
from tests.fixtures.recorded import FinetuneWork, tuned
from tests.fixtures.rows import add_model, add_ready_dataset

DATASET = "tuned-photos"


@pytest.fixture(scope="module")
def dataset(served: Served) -> str:
    """Add a data set and two models."""
    dataset_id = add_ready_dataset(served.database, tenant="default", content="t")
    with served.database.write() as session:
        session.execute(update(tables.Dataset).where(tables.Dataset.id == dataset_id).values(name=DATASET))
    for name in ("narrow", "wide"):
        add_model(served.database, name)
    return dataset_id


def work_on(served: Served, finetune_id: str) -> FinetuneWork:
    return FinetuneWork(served.database, Objects((served.home / "objects").as_uri()), finetune_id)


def ids(served: Served) -> set[str]:
    with served.database.read() as session:
        return set(session.scalars(select(tables.Finetune.id)))


@contextmanager
def worker(served: Served, work: Callable[[FinetuneWork], None]) -> Iterator[None]:
    """Do the work of the fine-tune that the block starts."""
    before = ids(served)

    def run() -> None:
        wait_until(lambda: ids(served) != before)
        work(work_on(served, (ids(served) - before).pop()))

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        thread.join()


def train(work: FinetuneWork) -> None:
    lease = work.claim()
    work.progress(lease, "narrow: training", 45, 90)
    threading.Event().wait(0.4)  # longer than the service takes to notice a change
    work.finish(lease, narrow=0.7, wide=0.85)


class TestClient:
    def test_a_fine_tune_from_asking_to_the_weights(
        self, served: Served, client: Foretune, dataset: str, tmp_path: Path
    ) -> None:
        recipe = {"learning_rates": [0.1], "epochs": 2}
        asked = client.finetunes.create(dataset, ["narrow", "wide"], recipe=recipe, budget_seconds=60, name="mine")
        assert (asked.name, asked.status, asked.dataset, asked.models) == ("mine", "queued", dataset, ())
        assert (asked.recipe["epochs"], asked.recipe["learning_rates"]) == (2, [0.1])
        assert asked.budget is not None
        assert asked.budget.worker_seconds == 60
        with pytest.raises(WaitTimedOut):
            client.finetunes.wait(asked.id, timeout=0.2)
        thread = threading.Thread(target=train, args=[work_on(served, asked.id)])
        thread.start()
        seen: list[str] = []
        ended = client.finetunes.wait(asked.id, on_change=lambda one: seen.append(one.status))
        thread.join()
        assert (seen[-1], "running" in seen, ended.has_ended) == ("done", True, True)
        assert [(model.name, model.test_accuracy) for model in ended.models] == [("narrow", 0.7), ("wide", 0.85)]
        assert ended.models[0].trials[0].validation_accuracy == 0.7
        assert ended.models[0].curve[0].train_loss == 1.1
        assert client.finetunes.get(ended.id) == ended
        assert ended.id in [one.id for one in client.finetunes.list()]

        best = client.finetunes.download(ended.id, tmp_path / "best.zip")
        assert best.read_bytes() == b"weights of wide" * 100_000
        client.finetunes.download(ended.id, best, model="narrow")
        assert best.read_bytes() == b"weights of narrow" * 100_000
        with pytest.raises(ApiError) as missing:
            client.finetunes.download(ended.id, tmp_path / "other.zip", model="a & b")
        assert (missing.value.code, "a & b" in missing.value.message) == ("weights_not_found", True)
        assert [path.name for path in tmp_path.iterdir()] == ["best.zip"], "nothing of the failed download is left"

    def test_a_download_that_breaks_off_leaves_the_file_as_it_was(
        self, served: Served, client: Foretune, dataset: str, tmp_path: Path
    ) -> None:
        work = work_on(served, client.finetunes.create(dataset, ["wide"]).id)
        work.finish(work.claim(), wide=0.85)
        target = tmp_path / "tuned.zip"
        target.write_text("of yesterday")
        with broken_line(served.url) as line, Foretune(line.url, served.key) as far:
            line.cut_answer_after = 200_000
            with pytest.raises(ServiceUnreachable):
                far.finetunes.download(work.finetune_id, target)
        assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("tuned.zip", "of yesterday")]

    def test_cancelled_and_failed(self, served: Served, client: Foretune, dataset: str) -> None:
        asked = client.finetunes.create(dataset, ["narrow"])
        assert client.finetunes.cancel(asked.id).status == "cancelled"
        assert client.finetunes.wait(asked.id).status == "cancelled"
        failed = work_on(served, client.finetunes.create(dataset, ["narrow"]).id)
        failed.fail(failed.claim(), EvaluationFailed("nothing_to_test", "No image is left.", hint="Add images."))
        with pytest.raises(JobFailed) as error:
            client.finetunes.wait(failed.finetune_id)
        assert (error.value.code, error.value.hint) == ("nothing_to_test", "Add images.")

    @pytest.mark.parametrize(
        ("asked", "param"),
        [
            ({"budget_seconds": float("nan")}, "budget_seconds"),
            ({"recipe": {"learning_rates": [float("inf")]}}, "learning_rates"),
        ],
    )
    def test_what_is_no_number(self, client: Foretune, dataset: str, asked: dict[str, Any], param: str) -> None:
        with pytest.raises(Failure) as error:
            client.finetunes.create(dataset, ["narrow"], **asked)
        assert (error.value.code, error.value.param) == ("invalid_number", param)


class TestCommands:
    def test_start_shows_progress_then_the_models_and_downloads(
        self, served: Served, dataset: str, tmp_path: Path
    ) -> None:
        models = ["--model", "narrow", "--model", "wide"]
        recipe = ["--lr", "0.1", "--lr", "0.01", "--batch", "8", "--epochs", "2", "--max-steps", "9", "--seed", "3"]
        more = ["--loss", "squared", "--budget", "600", "--output", str(tmp_path / "all")]
        with worker(served, train):
            done = served.run("finetune", "start", DATASET, *models, *recipe, *more)
        assert done.code == 0, done.err
        lines = [" ".join(line.split()) for line in done.out.splitlines()]
        places = [next(n for n, line in enumerate(lines) if line.startswith(name)) for name in ("wide", "narrow")]
        assert places == sorted(places), "the best comes first"
        assert lines[places[0]] == "wide trained 85.0% (75.0-95.0) 0.01 90 2.17 min"
        assert "48 images trained, 12 chose the learning rate, 20 tested." in done.out
        assert "fine-tuning: 0 models ended; narrow: training" in done.err
        finetune = lines[0].split()[1]
        written = {path.name: path.read_bytes().split(b"weights of ")[1] for path in (tmp_path / "all").iterdir()}
        assert written == {f"narrow-{finetune}.zip": b"narrow", f"wide-{finetune}.zip": b"wide"}
        shown = served.run("finetune", "show", finetune, "--json").json
        assert shown["recipe"]["learning_rates"] == [0.1, 0.01]
        fields = ("batch_size", "epochs", "max_steps", "seed", "loss")
        assert [shown["recipe"][field] for field in fields] == [8, 2, 9, 3, "squared"]
        assert shown["budget"] == {"worker_seconds": 600}
        listed = served.run("finetune", "list")
        assert any(finetune in line and "narrow, wide" in line and "85.0%" in line for line in listed.out.splitlines())
        watched = served.run("finetune", "watch", finetune, "--json")
        assert [json.loads(line)["status"] for line in watched.out.splitlines()] == ["done"]
        assert " ".join(served.run("finetune", "watch", finetune).out.split()) == " ".join(done.out.split())
        target = tmp_path / "wide.zip"
        told = served.run("finetune", "weights", finetune, "--model", "wide", "-o", str(target), "--json")
        assert told.json == {"finetune": finetune, "path": str(target)}
        assert target.read_bytes().startswith(b"weights of wide")

    def test_the_best_weights_go_to_one_file(self, served: Served, dataset: str, tmp_path: Path) -> None:
        target = tmp_path / "best.zip"
        with worker(served, train):
            arguments = ("--model", "narrow", "--model", "wide", "-o", str(target), "--json")
            done = served.run("finetune", "start", DATASET, *arguments)
        assert (done.json["status"], len(done.json["models"])) == ("done", 2)
        assert target.read_bytes().startswith(b"weights of wide")
        nowhere = served.run("finetune", "weights", done.json["id"], "-o", str(tmp_path / "no" / "file.zip"))
        assert (nowhere.code, "(file_not_accessible)" in nowhere.err) == (1, True)

    def test_a_place_that_cannot_be_written_is_told_before_anything_is_asked_for(
        self, served: Served, dataset: str, tmp_path: Path
    ) -> None:
        (tmp_path / "file").write_text("of yesterday")
        (tmp_path / "folder.zip").mkdir()
        before = ids(served)
        for place in ("no/best.zip", "folder.zip", "file/best.zip", "file", "file/all", f"{'x' * 240}.zip"):
            refused = served.run("finetune", "start", DATASET, "--model", "narrow", "-o", str(tmp_path / place))
            assert (refused.code, refused.out) == (1, ""), place
            assert "(file_not_accessible)" in refused.err
            assert str(tmp_path / place) in refused.err
        assert served.run("finetune", "weights", "ft_nothing", "-o", str(tmp_path / "no" / "a.zip")).code == 1
        assert ids(served) == before
        assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.zip"], "nothing is left behind"
        # Places that can be written are asked for a model that nobody has.
        for place in ("best.zip", "file.of.zip", "new", "new/deep"):
            told = served.run("finetune", "start", DATASET, "--model", "nobody", "-o", str(tmp_path / place))
            assert "(unknown_model)" in told.err, place

    def test_weights_that_went_with_their_data_set_are_not_offered(self, served: Served, client: Foretune) -> None:
        gone = add_ready_dataset(served.database, tenant="default", content="g")
        add_model(served.database, "narrow")
        work = work_on(served, client.finetunes.create(gone, ["narrow"]).id)
        work.finish(work.claim(), narrow=0.7)
        offered = f"\n  foretune finetune weights {work.finetune_id}\n"
        assert offered in served.run("finetune", "show", work.finetune_id).out
        client.datasets.delete(gone)
        shown = served.run("finetune", "show", work.finetune_id)
        assert ("70.0%" in shown.out, offered in shown.out) == (True, False)
        assert "(weights_gone)" in served.run("finetune", "weights", work.finetune_id).err

    def test_no_wait_then_cancel(self, served: Served, dataset: str) -> None:
        done = served.run("finetune", "start", DATASET, "--model", "narrow", "--no-wait")
        assert done.code == 0, done.err
        assert f"foretune finetune watch {done.out.strip()}" in done.err
        cancelled = served.run("finetune", "cancel", done.out.strip())
        assert cancelled.out.split()[-1] == "cancelled."
        assert served.run("finetune", "watch", done.out.strip()).code == 0

    def test_who_names_a_deprecated_model_is_told(self, served: Served, client: Foretune, dataset: str) -> None:
        model_id = add_model(served.database, "outworn")
        client.models.deprecate(model_id, "take wide")
        told = "outworn version 1 is deprecated: take wide (model_deprecated)"
        asked = served.run("finetune", "start", DATASET, "--model", "outworn", "--no-wait")
        assert told in asked.err
        finetune = asked.out.strip()
        assert told in served.run("finetune", "show", finetune).out
        [warning] = client.finetunes.get(finetune).warnings
        assert (warning.code, warning.model) == ("model_deprecated", model_id)
        client.finetunes.cancel(finetune)
        client.models.disable(model_id)

    def test_a_failed_one_is_an_error(self, served: Served, dataset: str) -> None:
        def fail(work: FinetuneWork) -> None:
            work.fail(work.claim(), EvaluationFailed("nothing_to_test", "No image is left.", hint="Add images."))

        with worker(served, fail):
            done = served.run("finetune", "start", DATASET, "--model", "narrow")
        assert (done.code, done.out) == (1, "")
        assert "(nothing_to_test)" in done.err
        assert "Hint: Add images." in done.err

    @pytest.mark.parametrize(
        ("arguments", "code", "told"),
        [
            ((), 2, "--model"),
            (("--model", "narrow", "--no-wait", "-o", "x.zip"), 2, "--no-wait"),
            (("--model", "nobody"), 1, "(unknown_model)"),
            (("--model", "narrow", "--lr", "nan"), 1, "(invalid_number)"),
            (("--model", "narrow", "--budget", "inf"), 1, "(invalid_number)"),
            (("--model", "narrow", "--lr", "0.1", "--lr", "0.1"), 1, "(invalid_recipe)"),
            (("--model", "narrow", "--epochs", "0"), 1, "(invalid_request)"),
        ],
    )
    def test_what_is_refused(
        self, served: Served, dataset: str, arguments: tuple[str, ...], code: int, told: str
    ) -> None:
        refused = served.run("finetune", "start", DATASET, *arguments)
        assert (refused.code, refused.out) == (code, "")
        assert told in refused.err

    def test_ctrl_c_leaves_it_running(self, served: Served, client: Foretune, dataset: str) -> None:
        finetune = client.finetunes.create(dataset, ["narrow"]).id
        watching = start("finetune", "watch", finetune, home=str(served.home), url=served.url)
        assert watching.stderr is not None
        assert "Waiting for a worker" in watching.stderr.readline()
        assert "queued" in watching.stderr.readline()
        watching.send_signal(signal.SIGINT)
        out, err = watching.communicate(timeout=20)
        assert (watching.returncode, out) == (130, "")
        assert f"The fine-tune goes on: foretune finetune watch {finetune}." in err
        assert "Abort" not in err
        assert client.finetunes.cancel(finetune).status == "cancelled"


def page(*models: dict[str, Any], **more: Any) -> str:
    values = {
        "id": "ft_1",
        "name": "evil\x1b[2J",
        "status": "done",
        "revision": 3,
        "created_at": "2026-01-01T00:00:00Z",
        "dataset": "ds_1",
        "progress": None,
        "recipe": {},
        "device": None,
        "images": None,
        "models": [{**model, "weights": None} for model in models],
    }
    console = Console(width=100, file=io.StringIO(), markup=False, highlight=False)
    console.print(finetune_report(Finetune.model_validate(values | more)))
    return console.file.getvalue()


def test_the_report_of_what_failed_diverged_or_never_began() -> None:
    given_up = tuned("mdl_2", "weak", 0.4, verdict="given_up", interval=None)
    text = page(tuned("mdl_1", "[red]huge\x1b", None), given_up)
    assert "evil\N{REPLACEMENT CHARACTER}[2J  ft_1  done" in text
    assert "\x1b" not in text
    assert "weak" in text.splitlines()[3], "one with an accuracy comes before one without"
    assert ["weak", "given", "up", "40.0%", "0.01", "90", "2.17", "min"] in [line.split() for line in text.splitlines()]
    assert (
        "[red]huge\N{REPLACEMENT CHARACTER} failed: One image does not fit. (out_of_memory)\n  Take a smaller" in text
    )
    assert "Warnings: class_not_tested." in text
    assert "foretune finetune weights" not in text
    error = {"code": "nothing_to_test", "message": "No image is left.", "hint": "Add images."}
    assert page(status="failed", error=error).splitlines()[1:] == [
        "No image is left. (nothing_to_test)",
        "  Add images.",
    ]
    assert page(status="queued").splitlines() == ["evil\N{REPLACEMENT CHARACTER}[2J  ft_1  queued"]
