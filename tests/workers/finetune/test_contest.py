"""Whole fine-tunes in this process: what fails, what is in memory, what a budget ends, what is left behind."""

import gc
import io
import time
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from sqlalchemy import update

from app.config import Settings
from app.domain.errors import EvaluationFailed, ForetuneError
from app.domain.finetuning import Recipe
from app.domain.interruption import Interrupted
from app.domain.states import ModelState
from app.ingest.shard import read_labels, write_shard
from app.manifest import read_manifest
from app.storage import leases
from app.storage.database import Database
from app.storage.leases import FINETUNE, Lease
from app.storage.leftovers import Leftovers
from app.storage.objects import Objects
from app.storage.repositories.finetunes import Finetunes
from app.storage.repositories.models import Models
from app.storage.tables import Finetune, Model
from tests.fixtures.rows import TENANT, add_ready_dataset
from tests.fixtures.tiny_zoo import tiny_zoo
from tests.workers.finetune.conftest import pictures
from workers.finetune import contestant
from workers.finetune.contest import Contest
from workers.finetune.contestant import Contestant
from workers.finetune.data import Data, SharedPixels
from workers.finetune.split import split_images
from workers.finetune.step_time import StepTime, measure_step
from workers.lease import HeldLease
from workers.runtime import Runtime
from workers.tune import _begin, finetune
from workers.zoo.network import Network

RECIPE = Recipe(learning_rates=(0.02, 0.001), batch_size=16, epochs=2)
FOR_NO_MEMORY = cast("list[str]", range(10**13))
"""Class names: so many that no memory holds a classifier of them."""


class Service:
    """A worker's runtime with a data set of 45 images and two models."""

    def __init__(self, folder: Path, database: bytes) -> None:
        home = folder / "home"
        (home / "work").mkdir(parents=True)
        (home / "foretune.db").write_bytes(database)
        settings = Settings(home=home, checkpoint_seconds=0.01)
        self.runtime = Runtime(
            settings,
            Database(settings.database_url),
            Objects(settings.objects_url),
            "host/0",
            torch.device("cpu"),
            home / "work",
        )
        self.zoo = {spec.name: spec for spec in read_manifest(tiny_zoo(folder, resize=32))[:2]}
        self.weights = {name: folder / f"{name}.safetensors" for name in self.zoo}
        self.dataset = add_ready_dataset(self.runtime.database)
        images, labels_N = pictures(45)
        files = [io.BytesIO() for _ in images]
        for image, file in zip(images, files, strict=True):
            image.save(file, "PNG")
        self.shard = folder / "shard.parquet"
        rows = [(file.getvalue(), f"{row}.png", int(labels_N[row]), "train") for row, file in enumerate(files)]
        write_shard(self.shard, rows, ["a", "b", "c"])
        self.runtime.objects.put(f"datasets/{'a' * 8}.parquet", self.shard)
        self.models = {name: self._add_model(name) for name in self.zoo}

    def _add_model(self, name: str) -> str:
        spec = self.zoo[name]
        with self.runtime.database.write() as session:
            model_id = Models(session).register(spec)[0].id
            active = {"state": ModelState.ACTIVE, "facts": {"resolved": spec.as_dict()}}
            session.execute(update(Model).where(Model.id == model_id).values(active))
        return model_id

    def ask(self, *names: str, recipe: Recipe = RECIPE, budget: float | None = None) -> str:
        with self.runtime.database.write() as session:
            model_ids = [self.models[name] for name in names or self.models]
            finetunes = Finetunes(session, TENANT)
            return finetunes.create(self.dataset, model_ids, recipe.as_dict(), budget_seconds=budget).id

    def claim(self, finetune_id: str) -> Lease:
        with self.runtime.database.write() as session:
            lease = leases.claim(session, FINETUNE, finetune_id, holder="host/0", seconds=60)
        assert lease is not None
        return lease

    def train(self, finetune_id: str) -> dict[str, dict[str, Any]]:
        """Train to the end and return what became of each model, by name."""
        lease = self.claim(finetune_id)
        with HeldLease(self.runtime, lease) as held:
            finetune(self.runtime, lease, held)
        return self.entries(finetune_id)

    def train_a_little(self, finetune_id: str) -> None:
        """Train until a checkpoint is stored, as a worker that is then told to end."""
        lease = self.claim(finetune_id)
        with _Watching(self.runtime, lease) as held, pytest.raises(Interrupted):
            finetune(self.runtime, lease, held)
        with self.runtime.database.write() as session:
            leases.give_back(session, lease)
        self.runtime.stopping.clear()

    def row(self, finetune_id: str) -> Finetune:
        with self.runtime.database.read() as session:
            return session.get_one(Finetune, finetune_id)

    def entries(self, finetune_id: str) -> dict[str, dict[str, Any]]:
        result = self.row(finetune_id).result
        assert result is not None
        return {entry["name"]: entry for entry in result["models"]}

    def data(self, class_names: list[str] | None = None) -> Data:
        labels_N, known, _ = read_labels(self.shard)
        return Data("shoes", self.shard, labels_N, class_names or known, split_images(labels_N))


class _Watching(HeldLease):
    """Tells the worker to end when a training has begun."""

    def report(self, stage: str, done: int, total: int) -> None:
        super().report(stage, done, total)
        if stage.endswith("training") and done > 2:
            self._runtime.stopping.set()


class _Counting(HeldLease):
    """Counts the networks in memory whenever one is about to be loaded."""

    def __init__(self, runtime: Runtime, lease: Lease) -> None:
        super().__init__(runtime, lease)
        self.networks: list[int] = []

    def report(self, stage: str, done: int, total: int) -> None:
        super().report(stage, done, total)
        if stage.endswith("loading"):
            self.networks.append(networks())


def networks() -> int:
    gc.collect()
    return sum(issubclass(type(found), Network) for found in gc.get_objects())


@pytest.fixture
def service(tmp_path: Path, sqlite_template: bytes) -> Iterator[Service]:
    found = Service(tmp_path, sqlite_template)
    yield found
    found.runtime.database.close()


@pytest.mark.parametrize("budget", [None, 600.0])
def test_a_model_that_cannot_be_loaded_spoils_no_other(service: Service, budget: float | None) -> None:
    service.weights["test_resnet"].unlink()
    found = service.train(service.ask(budget=budget))
    failed, trained = found["test_resnet"], found["test_efficientnet"]
    assert (failed["verdict"], failed["error"]["code"]) == ("failed", "weights_unavailable")
    assert failed["error"]["hint"]
    assert trained["test_accuracy"] is not None
    assert trained["error"] is None


def test_out_of_memory_is_told_wherever_it_happens(service: Service) -> None:
    data, runtime = service.data(FOR_NO_MEMORY), service.runtime
    pixels = SharedPixels(runtime, data, lambda: False)
    spec = service.zoo["test_resnet"]
    contestant = Contestant(runtime, data, pixels, spec, "state", lambda stage, done, total: None, lambda: False)
    with pytest.raises(EvaluationFailed) as timed:
        contestant.entrant("one", RECIPE)
    with pytest.raises(EvaluationFailed) as trained:
        contestant.train(RECIPE, trial_steps=2, until=2, test=False)
    assert (timed.value.code, trained.value.code) == ("out_of_memory", "out_of_memory")
    assert trained.value.hint


def test_what_ran_out_of_memory_is_tried_again(service: Service) -> None:
    job = service.ask()
    lease = service.claim(job)
    with HeldLease(service.runtime, lease) as held:
        task, data = _begin(service.runtime, lease), service.data(FOR_NO_MEMORY)
        contest = Contest(service.runtime, lease, held, task, data, time.monotonic())
        with pytest.raises(ForetuneError) as refused:
            contest.run()
    assert refused.value.code == "out_of_memory"
    assert {entry["error"]["code"] for entry in service.entries(job).values()} == {"out_of_memory"}
    with service.runtime.database.write() as session:
        assert not leases.fail(session, lease, refused.value), "its retry budget is not spent"
    found = service.train(job)
    assert all(entry["test_accuracy"] is not None for entry in found.values())


def test_one_network_at_a_time_is_in_memory(service: Service) -> None:
    service.runtime.loaded.forget()
    before = networks()
    lease = service.claim(service.ask(budget=600))
    with _Counting(service.runtime, lease) as held:
        finetune(service.runtime, lease, held)
    assert held.networks == [before] * 4, "each is loaded to be timed and to be trained, when no other is there"


def test_models_that_take_the_same_pixels_share_them(service: Service, zoo: dict[str, tuple[Any, Network]]) -> None:
    pixels = SharedPixels(service.runtime, service.data(), lambda: False)
    first = pixels.of(zoo["test_resnet"][1].preprocess)
    assert pixels.of(zoo["test_efficientnet"][1].preprocess) is first
    assert pixels.seconds > 0
    other = pixels.of(zoo["test_vit"][1].preprocess)
    assert other is not first
    with pytest.raises(Interrupted):
        SharedPixels(service.runtime, service.data(), lambda: True).of(zoo["test_resnet"][1].preprocess)


def test_a_spent_budget_ends_a_contest_with_a_test_of_the_best(service: Service) -> None:
    recipe = Recipe(learning_rates=(0.01,), batch_size=16, epochs=200)
    with pytest.raises(EvaluationFailed) as refused:
        service.train(service.ask(recipe=recipe, budget=0.1))
    least = float(refused.value.message.split("at least ")[1].split(" s")[0])
    job = service.ask(recipe=recipe, budget=1.5 * least)
    service.train_a_little(job)
    first, *later = (service.row(job).result or {})["plan"]["rungs"]
    assert later, "the plan has more than one rung"
    with service.runtime.database.write() as session:
        session.execute(update(Finetune).where(Finetune.id == job).values(spent_seconds=2 * least))
    tested, given_up = service.train(job).values()
    assert (tested["verdict"], given_up["verdict"]) == ("trained", "given_up")
    assert tested["steps"] == given_up["steps"] == first["steps"]
    assert tested["interval"][0] <= tested["test_accuracy"] <= tested["interval"][1]
    with zipfile.ZipFile(service.runtime.objects.open(tested["object"])) as archive:
        card = archive.read("README.md").decode()
    assert f"of {later[-1]['steps']} steps {first['steps']} were taken, when the budget was spent" in card


def test_the_seed_of_a_recipe_does_not_choose_the_test_images(service: Service) -> None:
    """All training images are one batch, whose order has no meaning: with the same split, nothing else differs."""
    curves = []
    for seed in (0, 1):
        recipe = Recipe(learning_rates=(0.01,), batch_size=64, epochs=2, seed=seed)
        found = service.train(service.ask("test_resnet", recipe=recipe))["test_resnet"]
        curves.append([found["test_accuracy"], *(point["validation_loss"] for point in found["curve"])])
    assert curves[0] == curves[1]


def test_a_fine_tune_that_is_cancelled_while_it_waits_leaves_nothing(service: Service) -> None:
    job = service.ask("test_resnet", recipe=Recipe(learning_rates=(0.01,), batch_size=16, epochs=200))
    service.train_a_little(job)
    objects = service.runtime.objects
    assert objects.keys("finetunes") == [f"finetunes/{'a' * 8}/{job}/{service.models['test_resnet']}.checkpoint"]
    with service.runtime.database.write() as session:
        Finetunes(session, TENANT).cancel(job)
    assert Leftovers(service.runtime.database, objects).delete() == 1
    assert objects.keys("finetunes") == []


def test_decoding_stops_when_told(service: Service) -> None:
    lease = service.claim(service.ask())
    service.runtime.stopping.set()
    with _Counting(service.runtime, lease) as held, pytest.raises(Interrupted, match="reading images"):
        finetune(service.runtime, lease, held)
    assert held.networks == [], "it stopped while looking for near-duplicates, before any model was loaded"


def test_a_step_is_timed_with_no_more_images_than_are_trained_on(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed: list[int] = []

    def watched(network: Network, classes: int, recipe: Recipe, **options: Any) -> StepTime:
        timed.append(recipe.batch_size)
        return measure_step(network, classes, recipe, **options)

    monkeypatch.setattr(contestant, "measure_step", watched)
    entries = service.train(service.ask("test_resnet", recipe=replace(RECIPE, batch_size=4096)))
    images = service.data().counts["train"]
    assert timed == [images]
    assert entries["test_resnet"]["verdict"] == "trained"
