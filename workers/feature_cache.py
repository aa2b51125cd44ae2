"""What was computed of one model on one data set, kept in the object store so that no network runs twice.

A key names everything the content depends on: the data set's digest, the model's digest, the number of images, the
precision of the features, and the versions of extractor and scores. Old content is never overwritten with other
content; it is simply no longer asked for.
"""

import dataclasses
import io
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.forecasting.measured_network import MeasuredNetwork
from app.scoring.gradient_kernels import GradientKernels
from app.storage.objects import Objects
from workers.extract.features import EXTRACTOR_VERSION, Extraction
from workers.extract.precision import Precision, PrecisionCheck

SCORES_VERSION = 3
GRADIENTS_VERSION = 1


@dataclass(frozen=True)
class CacheKey:
    """One model on one data set, on at most ``max_images`` images.

    ``gradients`` says whose gradients are scored, by which parameters, and of how many images: ``random-all-200``.
    ``precision`` is that in which the network computes features; it appears in names where it is not float32.
    """

    dataset_digest: str
    model_digest: str
    max_images: int
    gradients: str
    precision: Precision = "float32"

    @property
    def alternatives(self) -> tuple["CacheKey", ...]:
        """This key and, after a reduced precision, that of float32: whoever can do with less can do with that."""
        full = dataclasses.replace(self, precision="float32")
        return (self,) if self == full else (self, full)

    @property
    def extraction(self) -> str:
        """The object with features and logits."""
        name = f"v{EXTRACTOR_VERSION}-{self.max_images}{self._precision}"
        return f"extractions/{self.dataset_digest}/{self.model_digest}/{name}.npz"

    @property
    def kernels(self) -> str:
        """The object with the kernels of gradients."""
        return self._of_gradients("gradients", self.gradients)

    def linearisation(self, of_images: int) -> str:
        """Return the object with what forecasts need, gradients of about so many of the images among it."""
        return self._of_gradients("linearisation", str(of_images))

    @property
    def scores(self) -> str:
        """The object with scores and held-out answers."""
        return f"{self._scored}.npz"

    @property
    def explanation(self) -> str:
        """The object that says why the scores are what they are, as JSON for the service."""
        return f"{self._scored}.json"

    @property
    def units(self) -> str:
        """The object that says which of the evaluated images are near-duplicates; the same for all models."""
        return f"scores/{self.dataset_digest}/units-v{SCORES_VERSION}-{self.max_images}.npz"

    def _of_gradients(self, kind: str, settings: str) -> str:
        name = f"{kind}-v{EXTRACTOR_VERSION}.{GRADIENTS_VERSION}-{settings}-of-{self.max_images}{self._precision}"
        return f"extractions/{self.dataset_digest}/{self.model_digest}/{name}.npz"

    @property
    def _scored(self) -> str:
        name = f"v{EXTRACTOR_VERSION}.{SCORES_VERSION}.{GRADIENTS_VERSION}-{self.gradients}-{self.max_images}"
        return f"scores/{self.dataset_digest}/{self.model_digest}/{name}{self._precision}"

    @property
    def _precision(self) -> str:
        return "" if self.precision == "float32" else f"-{self.precision}"


@dataclass(frozen=True)
class ScoredModel:
    """The scores of one model on one data set, and its probe's answer to each image (E evaluated images).

    ``units_E`` numbers the images; near-duplicates share a number. ``precision`` says in which the features are, as
    ``used``, and where another one was wanted, what came of its check.
    """

    scores: dict[str, dict[str, Any]]
    labels_E: NDArray[np.int64]
    correct_E: NDArray[np.bool_]
    held_out_E: NDArray[np.bool_]
    units_E: NDArray[np.int64]
    images: dict[str, Any]
    seconds: dict[str, float]
    precision: dict[str, Any]


def store_extraction(objects: Objects, key: CacheKey, extraction: Extraction) -> None:
    """Keep features and logits."""
    arrays = {"features_ND": extraction.features_ND}
    if extraction.logits_NZ is not None:
        arrays["logits_NZ"] = extraction.logits_NZ
    about = {
        "seconds": extraction.seconds,
        "batch_size": extraction.batch_size,
        "check": None if extraction.check is None else extraction.check.as_dict(),
    }
    assert extraction.precision == key.precision
    _store(objects, key.extraction, arrays, about)


def load_extraction(objects: Objects, key: CacheKey) -> Extraction | None:
    """Return features and logits that were kept, or None."""
    loaded = _load(objects, key.extraction)
    if loaded is None:
        return None
    arrays, about = loaded
    check = about.get("check")
    return Extraction(
        arrays["features_ND"],
        arrays.get("logits_NZ"),
        about["seconds"],
        about["batch_size"],
        key.precision,
        PrecisionCheck(**check) if check else None,
    )


def store_kernels(objects: Objects, name: str, kernels: GradientKernels) -> None:
    """Keep kernels of gradients."""
    _store(objects, name, dataclasses.asdict(kernels), {})


def load_kernels(objects: Objects, name: str) -> GradientKernels | None:
    """Return kernels that were kept, or None."""
    loaded = _load(objects, name)
    if loaded is None:
        return None
    kept = loaded[0]
    return GradientKernels(
        kept["centred_PNN"], kept["towards_mean_PN"], kept["mean_square_P"], drawn=bool(kept["drawn"])
    )


def store_measured(objects: Objects, name: str, measured: MeasuredNetwork) -> None:
    """Keep what forecasts need."""
    with objects.create(name) as file:
        measured.save(file)


def load_measured(objects: Objects, name: str) -> MeasuredNetwork | None:
    """Return what forecasts need and was kept, or None."""
    try:
        with objects.open(name) as file:
            return MeasuredNetwork.load(file.read())
    except FileNotFoundError:
        return None


def store_scores(objects: Objects, key: CacheKey, scored: ScoredModel) -> None:
    """Keep scores and held-out answers."""
    arrays = {
        "labels_E": scored.labels_E,
        "correct_E": scored.correct_E,
        "held_out_E": scored.held_out_E,
        "units_E": scored.units_E,
    }
    about = {
        "scores": scored.scores,
        "images": scored.images,
        "seconds": scored.seconds,
        "precision": scored.precision,
    }
    _store(objects, key.scores, arrays, about)


def load_scores(objects: Objects, key: CacheKey) -> ScoredModel | None:
    """Return scores that were kept, or None."""
    loaded = _load(objects, key.scores)
    if loaded is None:
        return None
    arrays, about = loaded
    return ScoredModel(
        scores=about["scores"],
        labels_E=arrays["labels_E"],
        correct_E=arrays["correct_E"],
        held_out_E=arrays["held_out_E"],
        units_E=arrays["units_E"],
        images=about["images"],
        seconds=about["seconds"],
        precision=about.get("precision", {"used": key.precision}),
    )


def store_units(objects: Objects, key: CacheKey, units_E: NDArray[np.int64]) -> None:
    """Keep which images are near-duplicates."""
    _store(objects, key.units, {"units_E": units_E}, {})


def load_units(objects: Objects, key: CacheKey) -> NDArray[np.int64] | None:
    """Return which images are near-duplicates, or None when it is not known."""
    loaded = _load(objects, key.units)
    return None if loaded is None else loaded[0]["units_E"]


def store_explanation(objects: Objects, key: CacheKey, explanation: dict[str, Any]) -> None:
    """Keep why the scores are what they are."""
    with objects.create(key.explanation) as file:
        file.write(json.dumps(explanation).encode())


def _store(objects: Objects, key: str, arrays: dict[str, NDArray[Any]], about: dict[str, Any]) -> None:
    with objects.create(key) as file:
        np.savez(file, about=np.frombuffer(json.dumps(about).encode(), np.uint8), **arrays)  # type: ignore[arg-type]


def _load(objects: Objects, key: str) -> tuple[dict[str, NDArray[Any]], dict[str, Any]] | None:
    try:
        with objects.open(key) as file:
            content = io.BytesIO(file.read())
    except FileNotFoundError:
        return None
    with np.load(content, allow_pickle=False) as archive:
        arrays = dict(archive)
    return arrays, json.loads(arrays.pop("about").tobytes())
