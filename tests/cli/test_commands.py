import json
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import update

from app.client import Foretune
from app.domain.states import DatasetState, ModelState
from app.storage.repositories.selections import settle
from app.storage.tables import Dataset, Evaluation
from tests.cli.conftest import ROOT, Served, environment, run
from tests.fixtures.rows import add_model, add_ready_dataset
from tests.fixtures.servers import free_port

REPORT = {
    "layout": "split_class_folders",
    "root": "photos/",
    "label_source": "folder",
    "classes": [
        {"name": "dent", "count": 30, "example": "a"},
        {"name": "[red]scratch\x1b[2J", "count": 4, "example": "b"},
    ],
    "splits": {"train": 30, "test": 4},
    "files": {"total": 41, "used": 34, "ignored": 5, "corrupt": 1, "excluded": 1},
    "warnings": [{"code": "small_class", "detail": "Uncertain.", "count": 1, "examples": ["scratch"]}],
    "images": {
        "width": {"min": 640, "median": 700, "max": 4032},
        "height": {"min": 480, "median": 480, "max": 480},
        "modes": {"RGB": 34},
        "resized": 12,
    },
}
OUTCOMES = [
    *({"path": f"photos/.h{n}", "outcome": "ignored", "reason": "hidden_file", "detail": ""} for n in range(5)),
    {"path": "photos/x.jpg", "outcome": "excluded", "reason": "duplicate", "detail": "the same picture as y.jpg"},
    {"path": "photos/z.jpg", "outcome": "corrupt", "reason": "corrupt_image", "detail": "image file is truncated"},
]


def ready_dataset(served: Served, content: str, name: str) -> str:
    dataset_id = add_ready_dataset(served.database, tenant="default", content=content)
    with served.database.write() as session:
        session.execute(update(Dataset).where(Dataset.id == dataset_id).values(report=REPORT, name=name))
    reports = served.home / "objects" / "reports"
    reports.mkdir(parents=True, exist_ok=True)
    (reports / f"{dataset_id}.json").write_text(json.dumps(OUTCOMES))
    return dataset_id


def test_help_does_not_load_what_it_does_not_need() -> None:
    code = (
        "import sys; sys.argv = ['foretune', '--help']\n"
        "from app.cli import main\n"
        "try: main()\n"
        "finally: print('LOADED', *({'httpx', 'pydantic', 'sqlalchemy', 'fastapi', 'numpy'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment(), check=True)
    assert done.stdout.rstrip().endswith("LOADED")
    for name in (
        "serve",
        "worker",
        "migrate",
        "dataset",
        "select",
        "watch",
        "results",
        "cancel",
        "forecast",
        "finetune",
        "models",
        "key",
        "demo",
    ):
        assert f" {name} " in done.stdout


def test_wrong_usage_exits_with_2(served: Served) -> None:
    assert run("select").code == 2
    done = served.run("results", "sel_1", "--json", "--csv")
    assert (done.code, done.out) == (2, "")
    assert "exclude each other" in done.err


def test_status(served: Served) -> None:
    done = served.run("status", "--json")
    assert (done.code, done.json["status"], done.json["checks"]["database"]) == (0, "degraded", "ok")
    absent = run("status", url=f"http://127.0.0.1:{free_port()}")
    assert (absent.code, absent.out) == (1, "")
    assert "foretune serve" in absent.err


def test_errors_go_to_standard_error_with_code_and_hint(served: Served, tmp_path: Path) -> None:
    done = served.run("dataset", "add", str(tmp_path / "missing.zip"))
    assert (done.code, done.out) == (1, "")
    assert "(file_not_readable)" in done.err
    assert "Hint: Name a zip" in done.err
    told = served.run("dataset", "show", "ds_unknown", "--json")
    assert (told.code, told.out) == (1, "")
    assert json.loads(told.err)["error"]["code"] == "dataset_not_found"


def test_a_data_set_is_shown_as_it_was_understood(served: Served) -> None:
    dataset_id = ready_dataset(served, "d", "defects")
    done = served.run("dataset", "show", "defects")
    assert done.code == 0, done.err
    for told in (
        f"defects {dataset_id} ready",
        "split folders of class folders below photos/",
        "34 of 41 files (1 corrupt, 1 excluded, 5 ignored), 640-4032 x 480 pixels, 12 scaled down",
        "train 30, test 4",
        "2 classes",
        "[red]scratch\N{REPLACEMENT CHARACTER}[2J 4",
        "small_class (1): Uncertain. scratch",
        f"2 files more: foretune dataset files {dataset_id}",
    ):
        assert told in " ".join(done.out.split())
    left_out = [line.split()[2] for line in done.out.splitlines() if line.startswith("  left out")]
    assert left_out == ["photos/z.jpg", "photos/x.jpg", "photos/.h0", "photos/.h1", "photos/.h2"]
    listed = served.run("dataset", "list")
    assert any(dataset_id in line and " ready " in line and " 34 " in line for line in listed.out.splitlines())
    files = served.run("dataset", "files", dataset_id, "--json")
    assert len(files.json) == 7
    deleted = served.run("dataset", "delete", "defects", "--json")
    assert deleted.json == {"id": dataset_id, "deleted": True}
    assert served.run("dataset", "show", dataset_id).code == 1


def test_a_ranking_is_printed_written_and_followed(served: Served, client: Foretune, tmp_path: Path) -> None:
    dataset_id = ready_dataset(served, "e", "ranked")
    model_id = add_model(served.database, "only-model")
    done = served.run("select", "ranked", "--model", "only-model", "--score", "knn", "--no-wait")
    assert done.code == 0, done.err
    selection_id = done.out.strip()
    selection = client.selections.get(selection_id)
    assert (selection.dataset, selection.scores) == (dataset_id, ("knn",))
    place = {
        "rank": 1,
        "rank_interval": [1, 1],
        "tie_group": 1,
        "accuracy": 0.875,
        "probability_of_best": 1.0,
        "probe_accuracy": {"mean": 0.875, "interval": [0.8, 0.95], "level": 0.9, "origin": "probe"},
    }
    with served.database.write() as session:
        result = {"scores": {"knn": {"value": 0.75, "stderr": 0.1, "warnings": []}}}
        ended = update(Evaluation).where(Evaluation.selection_id == selection_id)
        session.execute(ended.values(state="done", result=result))
        ranking = {"verdict": "Only one model was evaluated.", "models": {model_id: place}, "evidence": {"level": 0.9}}
        assert settle(session, selection_id, ranked=1, ranking=ranking, ended=True)
    watched = served.run("watch", selection_id)
    assert watched.code == 0, watched.err
    assert "Only one model was evaluated." in watched.out
    assert "87.5% (80.0-95.0)" in watched.out
    assert "evaluating: 1 of 1 models" in watched.err
    assert [json.loads(line)["status"] for line in served.run("watch", selection_id, "--json").out.splitlines()] == [
        "done"
    ]
    csv = served.run("results", selection_id, "--csv")
    assert csv.out.splitlines()[1].startswith("1,1,1,1,only-model")
    target = tmp_path / "ranking.json"
    assert served.run("results", selection_id, "-o", str(target)).code == 0
    assert json.loads(target.read_text())["data"][0]["name"] == "only-model"
    assert served.run("results", selection_id, "-o", str(tmp_path / "ranking.txt")).code == 2
    assert served.run("results", selection_id, "-o", str(tmp_path / "no" / "folder.csv")).code == 1


def test_select_tells_when_nothing_can_be_ranked(served: Served) -> None:
    with served.database.write() as session:
        session.execute(update(Dataset).where(Dataset.name == "nobody").values(state=DatasetState.DELETED))
    ready_dataset(served, "f", "nobody")
    done = served.run("select", "nobody", "--model", "nothing")
    assert (done.code, done.out) == (1, "")
    assert "(unknown_model)" in done.err


def test_models_are_listed_switched_and_added(served: Served, tmp_path: Path) -> None:
    add_model(served.database, "switched", state=ModelState.ACTIVE)
    assert served.run("models", "disable", "switched", "--reason", "licence").out.split()[-1] == "disabled."
    shown = served.run("models", "show", "switched", "--json").json
    assert (shown["status"], shown["reason"]) == ("disabled", "licence")
    assert served.run("models", "enable", "switched", "--json").json["status"] == "active"
    listed = served.run("models", "list", "--status", "active")
    assert any("switched" in line for line in listed.out.splitlines())

    added = served.run("models", "add", "torchvision:resnet18.IMAGENET1K_V1", "--no-wait", "--json")
    assert added.code == 0, added.err
    assert [(one["name"], one["status"]) for one in added.json] == [("resnet18.imagenet1k_v1", "pending")]
    spec = tmp_path / "wrong.yaml"
    spec.write_text(
        "models:\n  - {name: mine, source: {type: torchvision, entry: resnet18.IMAGENET1K_V1}, licence: MIT}\n"
    )
    wrong = served.run("models", "add", str(spec), "--json")
    assert (wrong.code, json.loads(wrong.err)["error"]["code"]) == (1, "invalid_model_spec")
    assert json.loads(wrong.err)["error"]["param"] == "licence"
    spec.write_text("just a text")
    assert "(invalid_manifest)" in served.run("models", "add", str(spec)).err


def test_a_key_is_made_used_and_revoked(served: Served) -> None:
    made = served.run("key", "create", "ci", "--scope", "read", "--tenant", "acme")
    assert made.code == 0, made.err
    key = made.out.strip()
    assert key.startswith("ft_")
    assert "\n" not in key
    with Foretune(served.url, key) as foretune:
        assert list(foretune.datasets.list()) == []
    (found,) = (one for one in served.run("key", "list", "--json").json if one["name"] == "ci")
    assert (found["tenant"], found["scopes"]) == ("acme", ["read"])
    assert served.run("key", "revoke", found["id"]).code == 0
    refused = run("dataset", "list", url=served.url, key=key)
    assert (refused.code, "(invalid_key)" in refused.err) == (1, True)


def test_migrate_makes_a_database(tmp_path: Path) -> None:
    done = run("migrate", "--json", home=str(tmp_path / "new"))
    assert done.code == 0, done.err
    assert (tmp_path / "new" / "foretune.db").is_file()
    assert done.json == {"database": f"sqlite:///{tmp_path / 'new' / 'foretune.db'}"}


def test_version() -> None:
    assert run("--version").out.startswith("foretune 0.")


@pytest.mark.parametrize(
    ("options", "code", "told"),
    [
        (("--budget", "nan"), 1, "budget_seconds is nan"),
        (("--budget", "inf"), 1, "budget_seconds is inf"),
        (("--race", "--error", "nan"), 1, "error_probability is nan"),
        (("--keep", "1"), 2, "add --race"),
        (("--race", "--keep", "0"), 1, "greater than or equal to 1"),
        (("--budget", "-1"), 1, "greater than or equal to 1"),
    ],
)
def test_odd_rules_of_a_race_are_refused_in_words(
    served: Served, options: tuple[str, ...], code: int, told: str
) -> None:
    ready_dataset(served, "f", "raced")
    add_model(served.database, "racer")
    refused = served.run("select", "raced", "--model", "racer", *options)
    assert refused.code == code
    assert told in " ".join(refused.err.split())
    assert "Traceback" not in refused.err
