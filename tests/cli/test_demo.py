"""``foretune demo``, the whole way, on a zoo of very small networks."""

import json
import signal
from pathlib import Path

from tests.cli.conftest import ROOT, processes_of, run, start, wait_until
from tests.fixtures.tiny_zoo import tiny_zoo

SAMPLE = ROOT / "examples" / "fashion-mnist-sample.zip"


def test_the_demo_ranks_prints_writes_and_stops(tmp_path: Path) -> None:
    manifest = tiny_zoo(tmp_path)
    home, out = tmp_path / "home", tmp_path / "out"
    # A setting of another service must not lead the demo astray.
    variables = {
        "zoo_manifest": str(manifest),
        "url": "http://127.0.0.1:1",
        "key": "other",
        "port": "1",
        "threads": "1",
    }
    demo = start("demo", "--data", str(SAMPLE), "--home", str(home), "--out", str(out), **variables)
    wait_until(lambda: len(processes_of(home)) >= 3)  # service, supervisor, worker
    told, progress = demo.communicate(timeout=200)
    assert demo.returncode == 0, progress + (home / "service.log").read_text()
    assert processes_of(home) == {}
    results = json.loads((out / "results.json").read_text())
    assert (results["final"], [row["rank"] for row in results["data"]]) == (True, [1, 2, 3])
    assert results["verdict"] in " ".join(told.split())
    for name in ("test_resnet", "test_efficientnet", "test_vit", "ankle-boot 40", "400 of 400 files"):
        assert name in told
    assert (out / "results.csv").read_text().count("\n") == 4
    assert f"FORETUNE_HOME={home}" in progress
    assert "3 of 3 models" in progress


def test_a_wrong_path_is_told_before_anything_starts(tmp_path: Path) -> None:
    done = run("demo", "--data", str(tmp_path / "missing.zip"), "--home", str(tmp_path / "home"))
    assert (done.code, "(file_not_readable)" in done.err) == (1, True)
    assert not (tmp_path / "home").exists()


def test_a_place_for_results_that_cannot_be_written_is_told_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "out" / "results.csv").mkdir(parents=True)
    done = run("demo", "--data", str(SAMPLE), "--home", str(tmp_path / "home"), "--out", str(tmp_path / "out"))
    assert (done.code, "(file_not_accessible)" in done.err) == (1, True)
    assert not (tmp_path / "home").exists()


def test_an_interrupted_demo_leaves_nothing_behind(tmp_path: Path) -> None:
    home = tmp_path / "home"
    demo = start("demo", "--data", str(SAMPLE), "--home", str(home), zoo_manifest=str(tiny_zoo(tmp_path)))
    wait_until(lambda: len(processes_of(home)) >= 2)
    demo.send_signal(signal.SIGINT)
    demo.communicate(timeout=45)
    assert demo.returncode == 130
    wait_until(lambda: not processes_of(home), seconds=15)
