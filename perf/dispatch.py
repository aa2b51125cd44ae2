"""How much of the workers' time goes to work: evaluations whose model is a fixed sleep, on 1, 2 and 4 real workers.

PostgreSQL, Redis, the API and the workers are real processes. A model's measuring is a sleep (``sleeping_model``);
whatever else a worker does for an evaluation, it does. Ideal is the sum of the sleeps over the workers.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
import yaml
from sqlalchemy import func, select

from app.domain.model_spec import ModelSpec, SafetensorsSource
from app.domain.states import DatasetState, ModelState
from app.storage.database import Database
from app.storage.repositories.datasets import Datasets
from app.storage.repositories.models import Models
from app.storage.tables import Evaluation, Selection
from perf import sleeping_model
from tests.fixtures.stack import ROOT, Stack, running_stack

TENANT = "default"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--evaluations", type=int, default=400)
    parser.add_argument("--selections", type=int, nargs="+", default=[1, 100], help="that the evaluations belong to")
    parser.add_argument("--sleep", type=float, default=0.1)
    parser.add_argument("--alone", type=int, default=200, help="evaluations that find every worker idle")
    parser.add_argument("--s3", action="store_true", help="objects in the S3 server instead of a folder")
    options = parser.parse_args()
    print("| workers | selections | evaluations | ideal s | last one ended s | over ideal | all ranked s |")
    print("|--:|--:|--:|--:|--:|--:|--:|")
    idle = []
    for workers in options.workers:
        with tempfile.TemporaryDirectory() as folder, sleeping_stack(Path(folder), workers, options) as stack:
            for selections in options.selections:
                flood(stack, workers, selections, options)
            idle.append((workers, alone(stack, options.alone)))
    print("\n| workers, idle | jobs | open to claimed, p50 ms | p99 ms | most ms |\n|--:|--:|--:|--:|--:|")
    for workers, seconds in idle:
        print(f"| {workers} | {len(seconds)} | {in_ms(seconds)} |")


@contextmanager
def sleeping_stack(folder, workers, options):  # type: ignore[no-untyped-def]
    """Yield a stack with models that sleep."""
    manifest = folder / "zoo.yaml"
    manifest.write_text(yaml.safe_dump({"models": []}))
    environment = {
        "FORETUNE_ZOO_MANIFEST": str(manifest),
        "FORETUNE_THREADS": "1",
        "FORETUNE_REQUESTS_PER_MINUTE": "0",
        "FORETUNE_PERF_SLEEP_SECONDS": str(options.sleep),
        "PYTHONPATH": f"{sleeping_model.__path__[0]}:{ROOT}",
    }
    if not options.s3:
        environment["FORETUNE_OBJECTS_URL"] = f"file://{folder}/objects"
    with running_stack(folder / "stack", apis=1, workers=workers, environment=environment) as stack:
        add_models(stack, options.evaluations)
        yield stack


def flood(stack: Stack, workers: int, selections: int, options: argparse.Namespace) -> None:
    """Let the workers do all evaluations at once, and print a row."""
    models = options.evaluations // selections
    datasets = [add_dataset(stack) for _ in range(selections)]
    names = [f"sleeper-{number}" for number in range(models)]
    with stack.clients()[0] as client:
        ids = [ask(client, dataset, names) for dataset in datasets]
        began_at, ended_at, ranked_at = finish(stack, ids)
    ideal = models * selections * options.sleep / workers
    took, ranked = ended_at - began_at, ranked_at - began_at
    row = [
        workers,
        selections,
        models * selections,
        f"{ideal:.1f}",
        f"{took:.1f}",
        f"{took / ideal:.3f}",
        f"{ranked:.1f}",
    ]
    print("| " + " | ".join(map(str, row)) + " |", flush=True)


def alone(stack: Stack, number: int) -> list[float]:
    """Let one evaluation after the other find every worker idle; return the seconds from open to claimed, sorted."""
    ids = []
    with stack.clients()[0] as client:
        for one in range(number):
            ids.append(ask(client, add_dataset(stack), ["sleeper-0"]))
            finish(stack, ids[-1:])
            time.sleep(0.05 + 0.1 * (one % 10) / 10)
    database = Database(stack.settings.database_url)
    with database.read() as session:
        columns = func.extract("epoch", Evaluation.created_at), Evaluation.lease_taken_at
        rows = session.execute(select(*columns).where(Evaluation.selection_id.in_(ids))).all()
    database.close()
    return sorted(float(taken_at) - float(created_at) for created_at, taken_at in rows)


def finish(stack: Stack, selection_ids: Sequence[str]) -> tuple[float, float, float]:
    """Wait until selections are done; return when the first was asked for, the last evaluation ended, all ranked."""
    database = Database(stack.settings.database_url)
    mine = Selection.id.in_(selection_ids)
    try:
        while True:
            with database.read() as session:
                states = set(session.scalars(select(Selection.state).where(mine).distinct()))
                if states == {"done"}:
                    times = select(func.min(Selection.created_at), func.max(Selection.finished_at)).where(mine)
                    began_at, ranked_at = session.execute(times).one()
                    of_mine = Evaluation.selection_id.in_(selection_ids)
                    assert set(session.scalars(select(Evaluation.state).where(of_mine).distinct())) == {"done"}
                    ended_at = session.scalars(select(func.max(Evaluation.updated_at)).where(of_mine)).one()
                    return began_at.timestamp(), ended_at.timestamp(), ranked_at.timestamp()
            assert states <= {"queued", "running", "done"}, states
            time.sleep(0.02 if len(selection_ids) == 1 else 0.2)
    finally:
        database.close()


def ask(client: httpx.Client, dataset: str, names: Sequence[str]) -> str:
    answer = client.post("/v1/selections", json={"dataset": dataset, "models": names})
    answer.raise_for_status()
    return str(answer.json()["id"])


def add_models(stack: Stack, number: int) -> None:
    """Add models that passed all checks, as far as anybody can see."""
    database = Database(stack.settings.database_url)
    with database.write() as session:
        for one in range(number):
            source = SafetensorsSource(uri=f"file:///nowhere/{one}", sha256=f"{one:064x}")
            spec = ModelSpec(name=f"sleeper-{one}", source=source, architecture="torchvision:resnet18", license="mit")
            row = Models(session).register(spec)[0]
            row.state, row.facts = ModelState.ACTIVE, {"parameters": 1000 + one, "resolved": spec.as_dict()}
    database.close()


def add_dataset(stack: Stack) -> str:
    """Add a data set that is ready, as far as anybody can see."""
    database = Database(stack.settings.database_url)
    with database.write() as session:
        datasets = Datasets(session, TENANT)
        content = os.urandom(32).hex()
        row = datasets.receive(datasets.start("perf").id, name="perf", sha256=content, size=10)[0]
        row.state, row.digest = DatasetState.READY, content
    database.close()
    return row.id


def in_ms(seconds: Sequence[float]) -> str:
    p99 = seconds[min(len(seconds) - 1, int(len(seconds) * 0.99))]
    return " | ".join(f"{1000 * value:.1f}" for value in (statistics.median(seconds), p99, seconds[-1]))


if __name__ == "__main__":
    main()
