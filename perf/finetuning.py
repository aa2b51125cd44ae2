"""Real fine-tuning of the packaged zoo at 64 x 64 pixels: the loss of all training images, step by step.

What a forecast of the training time is compared with. One JSON file a case in .cache/ground-truth; a case that has its
file is skipped, so the run can be stopped and started again. Everything a file does not hold follows from it:
``build(case)`` gives the same network, pixels and labels, and ``epoch_batches`` the images of every step. Batch
statistics are frozen, the learning rate is constant, one thread.

    OMP_NUM_THREADS=1 python -m perf.finetuning

Data sets as in perf/racing.py.
"""

import argparse
import hashlib
import io
import json
import time
import zipfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from app.domain.finetuning import Recipe
from app.domain.model_spec import ModelSpec
from app.manifest import PACKAGED, read_manifest
from perf import racing
from perf.pretraining import ARCHITECTURES, pretrained
from workers.finetune.evaluation import evaluate
from workers.finetune.pixels import PixelStore
from workers.finetune.training import Training
from workers.finetune.tuned_network import TunedNetwork
from workers.zoo.network import load_network
from workers.zoo.sources import cached_weights

CACHE = Path(".cache/ground-truth")
SAMPLE = Path("examples/fashion-mnist-sample.zip")
SIDE = 64
MOST_STEPS = 400
MOST_SECONDS = 240.0  # of processor time
ENOUGH = 0.04  # of the first loss
SPACING = 1.08
STUCK_STEPS, STUCK = 60, 0.9
"""A run that has not come below this part of its first loss after so many steps is ended."""


@dataclass(frozen=True)
class Case:
    """One training run; ``data_set`` is a key of ``DATA_SETS``."""

    model: str
    data_set: str
    learning_rate: float
    batch_size: int
    momentum: float
    loss: str = "cross_entropy"
    seed: int = 0

    @property
    def recipe(self) -> Recipe:
        return Recipe(
            learning_rates=(self.learning_rate,),
            momentum=self.momentum,
            weight_decay=1e-4,
            batch_size=self.batch_size,
            epochs=MOST_STEPS,
            max_steps=MOST_STEPS,
            schedule="constant",
            loss=self.loss,  # type: ignore[arg-type]
            seed=self.seed,
        )

    @property
    def file(self) -> Path:
        setting = f"{self.loss}-lr{self.learning_rate}-b{self.batch_size}-m{self.momentum}-s{self.seed}"
        return CACHE / f"{self.model}--{self.data_set}--{setting}.json"


def fashion(per_class: int) -> racing.Images:
    """The first of every class of the example's Fashion-MNIST sample."""
    images, classes = [], []
    with zipfile.ZipFile(SAMPLE) as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".png"))
        for class_name in sorted({Path(name).parent.name for name in names}):
            for name in [name for name in names if Path(name).parent.name == class_name][:per_class]:
                images.append(Image.open(io.BytesIO(archive.read(name))).convert("RGB"))
                classes.append(class_name)
    return images, classes


def upper_digits(per_class: int) -> racing.Images:
    """Handwritten digits from five to nine."""
    images, classes = racing.digits(per_class)
    kept = [place for place, name in enumerate(classes) if name >= "5"]
    return [images[place] for place in kept], [classes[place] for place in kept]


def first_letters(per_class: int) -> racing.Images:
    """Ten small letters in several fonts."""
    images, classes = racing.letters(per_class)
    chosen = sorted(set(classes))[:10]
    kept = [place for place, name in enumerate(classes) if name in chosen]
    return [images[place] for place in kept], [classes[place] for place in kept]


DATA_SETS = {
    "fashion-10x20": (fashion, 20),
    "digits-5x40": (upper_digits, 40),
    "emoji-8x30": (racing.emoji, 30),
    "letters-10x20": (first_letters, 20),
}
CHEAPEST_FIRST = (
    *("mobilenetv2-dogs", "mobilenetv2-deepsort", "mobilenetv2-imagenet"),
    *("efficientnet-lite0", "efficientnet-lite1", "efficientnet-lite2"),
)
SETTINGS = ((0.001, 32, 0.9), (0.0003, 32, 0.9), (0.003, 16, 0.0))
"""Learning rate, batch size and momentum with which most of these networks learn; see ``STEEP``."""
VGG_SETTINGS = ((1e-5, 16, 0.9),)
STEEP = ((0.01, 32, 0.9), (0.003, 32, 0.9), (0.01, 16, 0.0))
"""With frozen batch statistics most of them fall to a constant answer within ten steps: what a forecast must tell."""


def cases() -> Iterator[Case]:
    """Yield the main grid first, then squared loss, second seeds, steep rates, a fourth data set, the heavy network."""
    main = list(DATA_SETS)[:3]
    for setting in SETTINGS:
        for data_set in main:
            for model in CHEAPEST_FIRST:
                yield Case(model, data_set, *setting)
    for data_set in main[:2]:
        for model in ("mobilenetv2-dogs", "mobilenetv2-imagenet", "efficientnet-lite0"):
            yield Case(model, data_set, *SETTINGS[0], loss="squared")
    for data_set in main:
        for model in ("mobilenetv2-imagenet", "efficientnet-lite0"):
            yield Case(model, data_set, *SETTINGS[0], seed=1)
    for setting in STEEP:
        for data_set in main:
            for model in CHEAPEST_FIRST:
                yield Case(model, data_set, *setting)
    for model in CHEAPEST_FIRST:
        yield Case(model, list(DATA_SETS)[3], *SETTINGS[0])
    for data_set in main:
        for setting in VGG_SETTINGS:
            yield Case("vgg16-hed-edges", data_set, *setting)


@dataclass(frozen=True, eq=False)
class Built:
    """The network before its first step, and all training images."""

    spec: ModelSpec
    network: TunedNetwork
    store: PixelStore
    labels_N: NDArray[np.int64]
    class_names: list[str]

    @property
    def images_N(self) -> NDArray[np.intp]:
        return np.arange(len(self.labels_N))

    def pixels_sha256(self) -> str:
        [pixels_NHWC] = self.store.batches([self.images_N])
        return hashlib.sha256(pixels_NHWC.numpy().tobytes()).hexdigest()


def specification(model: str) -> ModelSpec:
    """Return a packaged model, or one of ``perf.pretraining``, at the resolution of these trainings."""
    if model in ARCHITECTURES:
        return pretrained(model)
    [spec] = [spec for spec in read_manifest(PACKAGED) if spec.name == model]
    assert spec.preprocessing is not None
    return replace(spec, preprocessing=replace(spec.preprocessing, resize=None, crop=(SIDE, SIDE)))


def build(case: Case, weights: Path = Path(".cache/weights")) -> Built:
    """Return what a case trains and on what; the same on every call."""
    spec = specification(case.model)
    network = load_network(spec, cached_weights(spec.source, weights))
    make, per_class = DATA_SETS[case.data_set]
    images, classes = make(per_class)
    class_names, labels_N = np.unique(classes, return_inverse=True)
    store = PixelStore(network.preprocess, lambda rows: (images[row] for row in rows), np.arange(len(images)))
    tuned = TunedNetwork.of(network, len(class_names))
    return Built(spec, tuned, store, labels_N.astype(np.int64), [str(name) for name in class_names])


def record(case: Case) -> dict[str, Any]:
    """Train a case, evaluating all training images after more and more steps."""
    built = build(case)
    training = Training(built.network, built.store, built.images_N, built.labels_N, case.recipe, case.learning_rate)
    started = time.process_time()
    steps, losses, accuracies, step_seconds = [], [], [], []
    stopped = ""
    for until in evaluated_steps():
        before = training.step
        stepping = time.process_time()
        training.run(until)
        if training.step > before:
            step_seconds.append((time.process_time() - stepping) / (training.step - before))
        if training.verdict == "diverged":
            stopped = "diverged"
            break
        found = evaluate(built.network, built.store, built.images_N, built.labels_N, case.recipe.loss)
        steps.append(training.step)
        losses.append(found.loss)
        accuracies.append(found.accuracy)
        if stopped := reason_to_stop(losses, training.step, time.process_time() - started):
            break
    return {
        "case": asdict(case),
        "recipe": case.recipe.as_dict(),
        "spec": built.spec.as_dict(),
        "classes": built.class_names,
        "labels": built.labels_N.tolist(),
        "pixels_sha256": built.pixels_sha256(),
        "steps": steps,
        "losses": losses,
        "accuracies": accuracies,
        "batch_losses": training.curves.batch_losses,
        "stopped": stopped,
        "processor_seconds_per_step": float(np.median(step_seconds)),
        "processor_seconds_per_step_quartiles": np.quantile(step_seconds, [0.25, 0.75]).tolist(),
        "processor_seconds": time.process_time() - started,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def reason_to_stop(losses: list[float], step: int, seconds: float) -> str:
    """Return why a run ends here, or nothing. Seconds are processor time: others share the machine."""
    if not np.isfinite(losses[-1]):
        return "diverged"
    if losses[-1] < ENOUGH * losses[0]:
        return "learned"
    if step >= STUCK_STEPS and min(losses) > STUCK * losses[0]:
        return "stuck"
    if step >= STUCK_STEPS and min(losses[len(losses) // 2 :]) > STUCK * losses[0]:
        return "fell back"
    if step >= MOST_STEPS:
        return "most steps"
    return "most seconds" if seconds > MOST_SECONDS else ""


def evaluated_steps() -> Iterator[int]:
    """Yield 0, 1, 2, ... and, where that is more than one step, 8 % more each time."""
    step = 0
    while step < MOST_STEPS:
        yield step
        step = max(step + 1, round(step * SPACING))
    yield MOST_STEPS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="cases whose file name contains this")
    options = parser.parse_args()
    torch.set_num_threads(1)
    CACHE.mkdir(parents=True, exist_ok=True)
    todo = [case for case in cases() if options.only in case.file.name and not case.file.is_file()]
    for number, case in enumerate(todo, 1):
        found = record(case)
        partial = case.file.with_suffix(".partial")
        partial.write_text(json.dumps(found))
        partial.replace(case.file)
        losses, per_step = found["losses"], found["processor_seconds_per_step"]
        print(
            f"{number}/{len(todo)} {case.file.stem}: {found['stopped']}, loss {losses[0]:.3f} -> {losses[-1]:.3f} in "
            f"{found['steps'][-1]} steps, {per_step:.3f} s a step, {found['processor_seconds']:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
