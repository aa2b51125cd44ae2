"""A whole service with a tiny zoo: uploads, selections, caches, failures, deletion."""

import io
import itertools
import json
import math
import os
import signal
import zipfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from PIL import Image
from sqlalchemy import select as select_rows

from app.client import verify_webhook
from app.scoring.registry import DEFAULT_SCORES
from app.storage.database import Database
from app.storage.objects import Objects
from app.storage.repositories.selections import evaluations_of
from app.storage.tables import Dataset
from tests.fixtures import archives, monitoring
from tests.fixtures.collector import Collector, collector
from tests.fixtures.processes import RunningService, running_service
from tests.fixtures.receiver import running_receiver
from tests.fixtures.servers import free_port
from tests.fixtures.story import SAMPLE, finished, prepared, select, shuffled_labels, upload, wait_for, wait_for_zoo
from tests.fixtures.tiny_zoo import ARCHITECTURES, tiny_zoo


@pytest.fixture(scope="module")
def traces() -> Iterator[Collector]:
    with collector() as running:
        yield running


@pytest.fixture(scope="module")
def metrics_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, traces: Collector, metrics_port: int) -> Iterator[RunningService]:
    folder = tmp_path_factory.mktemp("service")
    environment = {
        "FORETUNE_ZOO_MANIFEST": str(tiny_zoo(folder)),
        "FORETUNE_MAX_IMAGES": "200",
        "FORETUNE_GRADIENT_IMAGES": "60",
        "FORETUNE_FORECAST_IMAGES": "40",
        "FORETUNE_THREADS": "1",
        "FORETUNE_WEBHOOK_PRIVATE_HOSTS": "127.0.0.1",
        "FORETUNE_METRICS_PORT": str(metrics_port),
        "FORETUNE_OTLP_ENDPOINT": traces.url,
        "OTEL_BSP_SCHEDULE_DELAY": "100",
    }
    with running_service(folder / "home", **environment) as running:
        yield running


@pytest.fixture(scope="module")
def client(service: RunningService) -> Iterator[httpx.Client]:
    with service.client() as client:
        wait_for_zoo(client)
        yield client


@pytest.fixture(scope="module")
def dataset(client: httpx.Client) -> str:
    return upload(client)


def keys(service: RunningService) -> list[str]:
    return Objects((service.home / "objects").as_uri()).keys()


def test_the_ranking_says_everything_it_should(client: httpx.Client, dataset: str) -> None:
    results = finished(client, select(client, dataset))
    assert results["final"] is True
    assert results["verdict"].endswith(".")
    assert results["evidence"]["images"] == {
        "evaluated": 200,
        "in_dataset": 400,
        "split": None,
        "near_duplicates": 0,
        "held_out": 200,
    }
    assert "bootstrap" in results["evidence"]["method"]
    assert [row["rank"] for row in results["data"]] == [1, 2, 3]
    accuracies = [row["score"] for row in results["data"]]
    assert accuracies == sorted(accuracies, reverse=True)
    for row in results["data"]:
        low, high = row["rank_interval"]
        assert low <= row["rank"] <= high
        assert row["precision"]["used"] == "float32"
        assert row["scores"]["linear_probe"]["value"] == row["score"] == row["probe_accuracy"]["mean"]
        assert set(row["scores"]) == set(DEFAULT_SCORES)
        assert all(score["error"] is None for score in row["scores"].values())
        assert row["scores"]["lfc_centered"]["null"]["origin"] == "closed form"
        assert row["scores"]["lfc_centered"]["value"] > 2 * row["scores"]["lfc_centered"]["null"]["mean"]
        assert row["scores"]["knn"]["null"]["origin"] == "5 permutations of the labels"
        assert row["probability_of_best"] <= row["probability_of_top_k"] <= 1
    assert 0.3 < accuracies[0] < 1  # even random convolutions tell shoes from trousers


def test_the_same_selection_again_runs_no_network_and_ranks_the_same(client: httpx.Client, dataset: str) -> None:
    first = finished(client, select(client, dataset))
    planned = client.get("/v1/plan", params={"images": 100}).json()
    again = finished(client, select(client, dataset))
    assert all(row["cached"] for row in again["data"])
    assert client.get("/v1/plan", params={"images": 100}).json() == planned, "what was kept tells no speed"
    assert (planned["evaluations"] >= len(first["data"]), planned["device"], planned["warnings"]) == (True, "cpu", [])
    unchanged = ("rank", "rank_interval", "tie_group", "name", "scores", "probe_accuracy", "probability_of_best")
    assert [[row[key] for key in unchanged] for row in again["data"]] == [
        [row[key] for key in unchanged] for row in first["data"]
    ]
    assert again["verdict"] == first["verdict"]


def test_a_selection_of_some_models_and_scores(client: httpx.Client, dataset: str) -> None:
    chosen = {"models": ["test_resnet"], "scores": ["logme", "etran"]}
    (row,) = finished(client, select(client, dataset, **chosen))["data"]
    assert (row["name"], set(row["scores"])) == ("test_resnet", {"logme", "etran"})
    assert row["scores"]["etran"]["value"] is None
    assert row["scores"]["etran"]["error"]["code"] == "zoo_required"


def test_copies_of_a_picture_make_nothing_surer(client: httpx.Client) -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(SAMPLE) as sample, zipfile.ZipFile(archive, "w") as target:
        names = {name.rpartition("/")[0]: name for name in sample.namelist() if name.endswith(".png")}
        for folder, name in list(names.items())[:3]:
            image = Image.open(io.BytesIO(sample.read(name)))
            for copy in range(20):
                brighter = io.BytesIO()
                image.point(lambda value, more=copy: min(255, value + more)).save(brighter, "PNG")
                target.writestr(f"{folder}/{copy}.png", brighter.getvalue())
    results = finished(client, select(client, prepared(client, archive.getvalue())["id"], scores=["logme", "knn"]))
    assert results["evidence"]["images"]["near_duplicates"] == 57
    for row in results["data"]:
        low, high = row["probe_accuracy"]["interval"]
        assert high - low > 0.4, "the interval is that of three pictures, not of sixty"
        assert row["scores"]["logme"]["stderr"] is None, "one picture a class says nothing of how much others vary"


def test_more_scores_are_computed_from_what_was_kept(client: httpx.Client, dataset: str) -> None:
    finished(client, select(client, dataset))
    asked = ["lfc", "silhouette", "etran", "parameters", "otce"]
    results = finished(client, select(client, dataset, scores=asked))
    for row in results["data"]:
        assert list(row["scores"]) == asked
        assert row["scores"]["parameters"]["value"] > 3
        assert row["scores"]["parameters"]["null"] is None
        assert row["scores"]["otce"]["value"] is None  # the models' cards say nothing of their source data
        assert row["scores"]["otce"]["error"]["code"] == "source_classes_required"
        assert -1 <= row["scores"]["silhouette"]["value"] <= 1
    # A score that compares candidates is scaled over them: the best of each part has that part's full weight.
    values = [row["scores"]["etran"]["value"] for row in results["data"]]
    assert 0 <= min(values) < max(values) <= 1
    again = finished(client, select(client, dataset, scores=asked))
    assert all(row["cached"] for row in again["data"])


def test_scores_of_gradients_of_every_architecture(client: httpx.Client, dataset: str) -> None:
    names = ["lgc", "lgc_offdiagonal", "lgc_centered", "gradient_gcv", "gradient_loo"]
    results = finished(client, select(client, dataset, scores=names))
    assert {row["name"] for row in results["data"]} == set(ARCHITECTURES)
    for row in results["data"]:
        found = row["scores"]
        assert [found[name]["error"] for name in names] == [None] * len(names)
        assert -1 < found["lgc_offdiagonal"]["value"] < 1
        assert found["lgc"]["value"] > found["lgc_offdiagonal"]["value"], "the diagonal counts as of the same class"
        assert found["lgc_centered"]["stderr"] > 0
        assert abs(found["lgc_offdiagonal"]["null"]["mean"]) < 0.05
    assert max(row["scores"]["gradient_loo"]["value"] for row in results["data"]) > 0.15, "of ten classes"
    again = finished(client, select(client, dataset, scores=names))
    assert all(row["cached"] for row in again["data"])
    assert [row["scores"] for row in again["data"]] == [row["scores"] for row in results["data"]]


def test_fine_tuning_is_forecast(client: httpx.Client, dataset: str) -> None:
    asked = {"value": 0.5, "recipe": {"epochs": 4, "learning_rates": [0.01, 0.001]}}
    hardware = {"name": "twice as fast", "speed": 2, "price_per_hour": 2.0}
    selection = select(client, dataset, scores=["knn"], target=asked, hardware=hardware)
    results = finished(client, selection)
    stored = client.get(f"/v1/selections/{selection}").json()["target"]
    assert stored["recipe"]["learning_rates"] == [0.01, 0.001]
    for row in results["data"]:
        assert row["forecast_error"] is None
        found = row["forecast"]
        assert found["training"]["images"] == 260, "of 40 a class, 8 are for the test and 6 for validation"
        assert found["training"]["steps"] == 4 * 9
        assert (found["measured_images"], found["simulated_images"]) == (40, 200)
        assert found["step_seconds"] > 0
        assert found["largest_learning_rate"] > 0
        if found["verdict"] == "reached":
            low, high = found["interval"]
            assert low <= found["steps"] <= high
            assert found["seconds"] == pytest.approx(found["steps"] * found["step_seconds"])
            assert found["cost"] == pytest.approx(found["seconds"] / 3600 * 2.0)
            usual = client.get(f"/v1/selections/{selection}/models/{row['name']}/forecast", params={"speed": 1}).json()
            assert usual["seconds"] == pytest.approx(2 * found["seconds"])
        path = f"/v1/selections/{selection}/models/{row['name']}/forecast"
        same = client.get(path).json()
        assert {name: same[name] for name in found} == found, "the same numbers on every surface"
        limit = found["largest_learning_rate"]
        assert client.get(path, params={"lr": 1.3 * limit}).json()["warnings"] != []
        probe = client.get(path, params={"method": "linear_probe", "lr": limit / 10}).json()
        assert probe["verdict"] in ("reached", "not_reached")
        assert probe["curve"]["loss"][0] == pytest.approx(math.log(10)), "a head of zeros"
        assert probe["curve"]["steps"][-1] == 4 * 9
        refused = client.get(path, params={"epochs": 1000, "batch": 1})
        assert (refused.status_code, refused.json()["code"]) == (422, "training_too_long")
    by_time = client.get(f"/v1/selections/{selection}/results", params={"sort": "seconds"}).json()["data"]
    seconds = [row["forecast"]["seconds"] or math.inf for row in by_time]
    assert seconds == sorted(seconds)
    soon = client.get(f"/v1/selections/{selection}/results", params={"max_seconds": 1e-6}).json()["data"]
    assert soon == []
    columns = client.get(f"/v1/selections/{selection}/results", params={"format": "csv"}).text.splitlines()[0]
    assert "forecast_seconds_high" in columns
    again = select(client, dataset, scores=["knn"], target={"value": 0.7})
    assert all(row["cached"] for row in finished(client, again)["data"])
    plain = select(client, dataset, scores=["knn"])
    finished(client, plain)
    refused = client.get(f"/v1/selections/{plain}/models/test_vit/forecast")
    assert (refused.status_code, refused.json()["code"]) == (409, "no_forecast")


def test_why_a_model_stands_where_it_stands(client: httpx.Client, dataset: str) -> None:
    selection = select(client, dataset)
    first, second, _ = finished(client, selection)["data"]
    why = client.get(f"/v1/selections/{selection}/models/{first['name']}/explain").json()
    assert (why["model"]["name"], why["against"]["name"]) == (first["name"], second["name"])
    assert sum(one["held_out"] for one in why["classes"]) == 200
    right = sum(one["accuracy"] * one["held_out"] for one in why["classes"])
    assert right / 200 == pytest.approx(first["score"])
    wrong = sum(pair["images"] for pair in why["confusions"])
    assert wrong == 200 - round(right)
    parts = sum(one["contribution"] for one in why["classes"])
    assert parts == pytest.approx(why["correlation"]["value"], abs=1e-6)
    assert parts == pytest.approx(first["scores"]["lfc_centered"]["value"], abs=1e-6)
    assert "ankle-boot" in {one["name"] for one in why["classes"]}
    assert first["name"] in why["summary"]


def test_data_sets_that_wait_for_a_model_share_one_load(
    client: httpx.Client, service: RunningService, dataset: str
) -> None:
    other = upload(client, shuffled_labels(2))
    selections = [select(client, one, scores=["gbc", "nleep"]) for one in (other, dataset)]  # the new one takes longer
    for selection in selections:
        finished(client, selection)
    database = Database(f"sqlite:///{service.home}/foretune.db")
    with database.read() as session:
        pairs = [pair for selection in selections for pair in evaluations_of(session, selection)]
        model_of = {evaluation.id: model.name for evaluation, model in pairs}
    database.close()
    claims = [json.loads(line) for line in service.log.read_text().splitlines() if "job.claimed" in line]
    order = [model_of[claim["job"]] for claim in claims if claim["job"] in model_of]
    assert sorted(order) == sorted(2 * ARCHITECTURES)
    changes = sum(one != before for before, one in itertools.pairwise(order))
    assert changes <= len(ARCHITECTURES), f"only the first model may be over before the second data set waits: {order}"


def test_shuffled_labels_have_no_signal(client: httpx.Client) -> None:
    results = finished(client, select(client, upload(client, shuffled_labels(3))))
    assert results["verdict"].startswith("No signal")
    assert results["evidence"]["signal"] is False


def test_one_failed_model_does_not_spoil_the_rest(client: httpx.Client, service: RunningService) -> None:
    zoo = {model["name"]: model for model in wait_for_zoo(client)}
    weights = service.home / "weights" / f"{zoo['test_vit']['facts']['weights_sha256']}.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[: len(content) // 2])
    try:
        results = finished(client, select(client, upload(client, shuffled_labels(4))))
    finally:
        weights.write_bytes(content)
    *ranked, failed = results["data"]
    assert [row["rank"] for row in ranked] == [1, 2]
    assert (failed["name"], failed["status"], failed["rank"]) == ("test_vit", "failed", None)
    assert failed["error"]["code"] == "unsafe_weights"
    assert failed["error"]["hint"]


def test_a_rejected_archive_leaves_no_object(client: httpx.Client, service: RunningService) -> None:
    before = keys(service)
    rejected = prepared(client, b"this is no archive")
    assert rejected["error"]["code"] == "unsupported_archive"
    assert rejected["error"]["hint"]
    assert keys(service) == before
    answer = client.post("/v1/selections", json={"dataset": rejected["id"]})
    assert (answer.status_code, answer.json()["code"]) == (409, "dataset_rejected")


def test_a_rejected_archive_tells_of_every_broken_file_until_it_is_deleted(
    client: httpx.Client, service: RunningService
) -> None:
    before = keys(service)
    rejected = prepared(client, archives.half_corrupt())
    assert rejected["error"]["code"] == "corrupt_fraction_exceeded"
    files = client.get(f"/v1/datasets/{rejected['id']}/files").json()["data"]
    assert {(file["path"], file["outcome"]) for file in files} == {(f"bag/{n}.jpg", "corrupt") for n in range(10, 14)}
    assert client.delete(f"/v1/datasets/{rejected['id']}").status_code == 204
    assert keys(service) == before


def test_deleting_a_data_set_leaves_nothing_of_it(client: httpx.Client, service: RunningService) -> None:
    """A whole life of it: ranked by scores of all kinds, forecast, proven by a fine-tune, and told by a webhook."""
    before = keys(service)
    with running_receiver() as receiver:
        hook = client.post("/v1/webhooks", json={"url": receiver.url}).json()
        dataset = upload(client, shuffled_labels(5))
        asked = {"models": ["test_resnet"], "scores": ["knn", "lgc_centered"], "target": {"recipe": {"epochs": 2}}}
        proof = {"k": 1, "recipe": {"epochs": 1, "learning_rates": [0.01], "batch_size": 32}}
        selection = select(client, dataset, **asked, verify=proof)
        finished(client, selection)
        wait_for(lambda: "selection.completed" in receiver.types, 20)
        client.delete(hook["links"]["self"]).raise_for_status()
    assert {"dataset.ready", "finetune.completed"} <= set(receiver.types)
    for message in receiver.messages:
        verify_webhook(message.headers, message.body, hook["secret"])
    revisions = [
        message.told["data"]["revision"] for message in receiver.messages if selection in message.body.decode()
    ]
    assert revisions == sorted(set(revisions))
    made = [key for key in keys(service) if key not in before]
    for kind in ("datasets/", "reports/", "scores/", "finetunes/", "/v", "/gradients-", "/linearisation-", ".json"):
        assert any(kind in key for key in made), kind
    assert client.delete(f"/v1/datasets/{dataset}").status_code == 204
    assert client.get(f"/v1/datasets/{dataset}").status_code == 404
    assert keys(service) == before
    assert client.get(f"/v1/selections/{selection}/results").json()["final"] is True


def test_a_worker_that_was_frozen_brings_nothing_of_a_deleted_data_set_back(
    client: httpx.Client, service: RunningService
) -> None:
    before = keys(service)
    dataset = upload(client, shuffled_labels(7))
    selection = select(client, dataset)

    def is_extracting() -> bool:
        state = client.get(f"/v1/selections/{selection}").json()
        assert state["status"] != "done", "the selection was too quick for this test"
        return any(current["stage"] == "extracting" for current in state["progress"]["current"])

    wait_for(is_extracting)
    (worker,) = service.worker_pids()
    os.kill(worker, signal.SIGSTOP)
    try:
        assert client.post(f"/v1/selections/{selection}/cancel").json()["status"] == "cancelled"
        assert client.delete(f"/v1/datasets/{dataset}").status_code == 204
        assert keys(service) == before
    finally:
        os.kill(worker, signal.SIGCONT)
    finished(client, select(client, upload(client), models=["test_resnet"], scores=["knn"]))  # it works on
    assert not [key for key in keys(service) if key.split("/")[1].partition(".")[0] not in digests(service)]


def digests(service: RunningService) -> set[str]:
    """Return by what the keys of objects of living data sets begin: their digests and ids."""
    database = Database(f"sqlite:///{service.home}/foretune.db")
    with database.read() as session:
        rows = session.execute(select_rows(Dataset.id, Dataset.digest).where(Dataset.state == "ready")).all()
    database.close()
    return {name for row in rows for name in row}


def test_a_cancelled_selection_stops_working(client: httpx.Client, service: RunningService) -> None:
    selection = select(client, upload(client, shuffled_labels(6)))
    assert client.post(f"/v1/selections/{selection}/cancel").json()["status"] == "cancelled"
    results = client.get(f"/v1/selections/{selection}/results").json()
    assert results["final"] is True
    assert {row["status"] for row in results["data"]} <= {"done", "cancelled"}
    dataset = client.get(f"/v1/selections/{selection}").json()["dataset"]
    wait_for(lambda: client.delete(f"/v1/datasets/{dataset}").status_code == 204)


def test_a_model_with_a_wrong_hash_is_rejected(client: httpx.Client, tmp_path: Path) -> None:
    spec = wait_for_zoo(client)[0]["spec"]
    other = spec | {"name": "tampered", "source": spec["source"] | {"sha256": "0" * 64}}
    model = client.post("/v1/models", json=other).json()["id"]
    state = client.get(f"/v1/models/{model}", params={"wait": 30}).json()
    assert (state["status"], state["error"]["code"]) == ("rejected", "weights_hash_mismatch")
    assert state["checks"][-1]["outcome"] == "fail"
    assert "tampered" not in [row["name"] for row in finished(client, select(client, upload(client)))["data"]]


@pytest.fixture(scope="module")
def asked(client: httpx.Client) -> dict[str, str]:
    """Return the ids of a selection, of what it is about, and of the request and the trace that asked for it."""
    trace_id = "5e1ec7ed" * 4
    headers = {"traceparent": f"00-{trace_id}-00f067aa0ba902b7-01", "X-Request-Id": "asked-by-a-test"}
    with httpx.Client(base_url=client.base_url, headers={**client.headers, **headers}, timeout=60) as asking:
        dataset = upload(asking, shuffled_labels(7))
        selection = select(asking, dataset, models=["test_resnet"], target={"value": 0.5})
    finished(client, selection)
    return {"selection": selection, "dataset": dataset, "trace": trace_id, "request": headers["X-Request-Id"]}


def test_every_log_line_of_the_work_names_the_request_that_asked_for_it(
    service: RunningService, asked: dict[str, str]
) -> None:
    lines = [json.loads(line) for line in service.log.read_text().splitlines() if line.startswith("{")]
    mine = [line for line in lines if line.get("request_id") == asked["request"]]
    events = [(line["event"], line.get("kind")) for line in mine]
    told = [("request", None), ("job.claimed", "dataset"), ("job.done", "dataset")]
    told += [("request", None), ("job.claimed", "evaluation"), ("job.done", "evaluation"), ("selection.ranked", None)]
    assert [event for event in events if event in told] == told
    assert [line["made"] for line in mine if line["event"] == "request"] == [
        f"/v1/datasets/{asked['dataset']}",
        f"/v1/selections/{asked['selection']}",
    ]
    about = [line for line in lines if asked["selection"] in (line.get("selection"), line.get("job"))]
    assert {(line["request_id"], line["dataset"]) for line in about} == {(asked["request"], asked["dataset"])}


def test_one_trace_leads_from_the_upload_to_the_ranking(traces: Collector, asked: dict[str, str]) -> None:
    wait_for(lambda: "settle" in [span.name for span in traces.of_trace(asked["trace"])])
    spans = {span.name: span for span in traces.of_trace(asked["trace"])}
    stages = {"load", "features", "scores", "linearise", "forecast"}
    requests = {"POST /v1/datasets", "POST /v1/selections"}
    assert requests | stages | {"dataset", "prepare", "evaluation", "settle"} == set(spans)
    parents = {name: span.parent_id for name, span in spans.items()}
    assert parents["dataset"] == spans["POST /v1/datasets"].span_id
    assert parents["prepare"] == spans["dataset"].span_id
    assert parents["evaluation"] == parents["settle"] == spans["POST /v1/selections"].span_id
    assert {parents[stage] for stage in stages} == {spans["evaluation"].span_id}
    assert {spans[name].service for name in requests} == {"foretune-api"}
    assert spans["evaluation"].service == "foretune-worker"
    assert spans["evaluation"].attributes["foretune.selection"] == asked["selection"]


def test_the_service_and_its_worker_tell_every_metric_that_is_watched(
    client: httpx.Client, metrics_port: int, asked: dict[str, str]
) -> None:
    worker = httpx.get(f"http://127.0.0.1:{metrics_port}/metrics").text
    client.get("/v1/selections/none")
    told = monitoring.series(client.get("/metrics").text + worker)
    for query in monitoring.queries():
        for name, labels in monitoring.selected(query):
            if name != "up":  # Prometheus' own
                assert labels <= told.get(name, set()) | {"job", "instance"}, query
    for ids in asked.values():
        assert ids not in worker
    counts = monitoring.values(worker)
    assert counts['foretune_cache_lookups_total{cache="features",result="miss"}'] > 0
    assert counts['foretune_jobs_ended_total{code="",kind="evaluation",outcome="done"}'] > 0
    assert counts['foretune_worker_seconds_total{device="cpu",kind="evaluation"}'] > 0
    assert counts['foretune_images_total{device="cpu"}'] >= 200
    stages = ("prepare", "check", "load", "decode", "features", "scores", "linearise", "forecast", "settle")
    for stage in stages:
        assert counts[f'foretune_stage_seconds_count{{device="cpu",stage="{stage}"}}'] > 0, stage
