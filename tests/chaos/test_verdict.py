"""What a chaos run looks for is found where it is planted, and nothing where all is well."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import delete, update

from app.config import Settings
from app.storage.database import Database
from app.storage.objects import Objects
from app.storage.tables import Dataset, Evaluation, Selection
from tests.chaos.users import Asked, Memory, Ranking
from tests.chaos.verdict import Verdict, examine
from tests.fixtures.rows import add_selection
from tests.fixtures.stack import Stack, StackProcess

REFERENCE: dict[int, Ranking] = {0: {"one": {"rank": 1, "status": "done", "linear_probe": (0.5, 0.1)}}}


@dataclass
class World:
    """A stack at rest on which one selection of one model was ranked, and what its user was told."""

    stack: Stack
    memory: Memory
    database: Database
    objects: Objects
    dataset: str
    evaluation: str

    def broken(self) -> set[str]:
        verdict = Verdict()
        examine(self.stack, self.memory, REFERENCE, verdict, patience_seconds=0.1)
        return {one.kind for one in verdict.broken}

    def put(self, key: str) -> None:
        with self.objects.create(key) as file:
            file.write(b".")

    def log(self, **line: str) -> None:
        with self.stack.workers[0].log.open("a") as log:
            log.write(json.dumps(line) + "\n")

    def change(self, table: type[Dataset | Evaluation | Selection], **values: object) -> None:
        with self.database.write() as session:
            session.execute(update(table).values(values))


@pytest.fixture
def world(tmp_path: Path, sqlite_template: bytes) -> Iterator[World]:
    settings = Settings(home=tmp_path)
    (tmp_path / "foretune.db").write_bytes(sqlite_template)
    log = tmp_path / "worker.log"
    log.touch()
    worker = StackProcess("worker-0", [], {}, log)
    servers = dict.fromkeys(("postgres", "redis", "s3"))  # a service at rest needs a database and a store alone
    stack = Stack(**servers, proxies={}, settings=settings, workers=[worker])  # type: ignore[arg-type]
    database = Database(settings.database_url)
    selection, (evaluation,) = add_selection(database, "one")
    with database.read() as session:
        dataset = session.get_one(Selection, selection).dataset_id
        digest = session.get_one(Dataset, dataset).digest
    memory = Memory(
        datasets={dataset: 0}, selections={selection: Asked(dataset, 0)}, rankings={selection: REFERENCE[0]}
    )
    world = World(stack, memory, database, stack.objects, dataset, evaluation)
    world.change(Evaluation, state="done", result={"cache_keys": []})
    world.change(Selection, state="done")
    world.put(f"datasets/{digest}.parquet")
    world.put(f"reports/{dataset}.json")
    world.log(event="job.done", kind="evaluation", job=evaluation)
    yield world
    database.close()


def test_nothing_is_found_where_all_is_well(world: World) -> None:
    assert world.broken() == set()


def lose_an_upload(world: World) -> None:
    world.memory.datasets["ds_never_stored"] = 0


def lose_the_images(world: World) -> None:
    world.objects.delete("datasets")


def lose_a_selection(world: World) -> None:
    with world.database.write() as session:
        session.execute(delete(Evaluation))
        session.execute(delete(Selection))


def lose_an_evaluation(world: World) -> None:
    world.change(Selection, evaluations=2)


def reject_what_is_good(world: World) -> None:
    world.change(Dataset, state="rejected", error={"code": "internal_error"})


def take_an_upload_twice(world: World) -> None:
    world.memory.datasets.clear()


def start_a_selection_twice(world: World) -> None:
    world.memory.rankings.clear()
    world.memory.selections.clear()


def evaluate_twice(world: World) -> None:
    world.log(event="job.done", kind="evaluation", job=world.evaluation)


def keep_what_was_deleted(world: World) -> None:
    world.memory.deleted.add(world.dataset)


def leave_an_object(world: World) -> None:
    world.put("extractions/0000/model/1.npz")


def forget_an_evaluation(world: World) -> None:
    world.change(Evaluation, state="running")


def rank_otherwise(world: World) -> None:
    world.memory.rankings = {
        id_: {"one": {"rank": 1, "status": "done", "linear_probe": (0.6, 0.1)}} for id_ in world.memory.rankings
    }


def fail_by_an_outage(world: World) -> None:
    world.change(Evaluation, state="failed", failures={"storage_unavailable": 4}, error={"code": "storage_unavailable"})


@pytest.mark.parametrize(
    ("plant", "kind"),
    [
        (lose_an_upload, "lost"),
        (lose_the_images, "lost"),
        (lose_a_selection, "lost"),
        (lose_an_evaluation, "lost"),
        (reject_what_is_good, "lost"),
        (take_an_upload_twice, "doubled"),
        (start_a_selection_twice, "doubled"),
        (evaluate_twice, "doubled"),
        (keep_what_was_deleted, "doubled"),
        (leave_an_object, "orphaned"),
        (forget_an_evaluation, "stuck"),
        (rank_otherwise, "different"),
        (fail_by_an_outage, "failed"),
    ],
)
def test_what_is_planted_is_found(world: World, plant: Callable[[World], None], kind: str) -> None:
    plant(world)
    assert kind in world.broken()


def test_a_job_whose_workers_were_killed_too_often_is_counted_apart(world: World) -> None:
    world.change(Evaluation, state="failed", failures={"worker_lost": 4}, error={"code": "worker_lost"})
    verdict = Verdict()
    examine(world.stack, world.memory, REFERENCE, verdict)
    assert (verdict.broken, verdict.given_up) == ([], 1)
