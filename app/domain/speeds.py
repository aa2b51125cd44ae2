"""What is known of a model's speed, what is to be done, and what is planned from both: plain data, without numpy."""

from dataclasses import dataclass

_GRADIENT_PASSES = 7.0  # four probes, each a backward pass, and the pass forward that they share
_FORECAST_PASSES = 20.0  # as many directions as there are, and whole training steps for their time
_IMAGE_SECONDS = 0.004  # reading, decoding and scoring
_EVALUATION_SECONDS = 0.8


@dataclass(frozen=True)
class ModelSpeed:
    """What admission measured of a model.

    Attributes:
        name: of the model.
        load_seconds: to load it.
        images_per_second: forward through it.
        measured_on: the kind of device.
        has_gradients: whether it is ever passed backward.
    """

    name: str
    load_seconds: float
    images_per_second: float
    measured_on: str
    has_gradients: bool = True


@dataclass(frozen=True)
class Work:
    """What is done with each model.

    Attributes:
        images: evaluated.
        gradient_images: of them, those whose gradients are scored.
        forecast_images: of them, those whose gradients forecasts are made from; 0 without a target.
    """

    images: int
    gradient_images: int
    forecast_images: int = 0


@dataclass(frozen=True)
class Past:
    """An evaluation that was: what of, what it should have taken by ``estimate``, and what it took."""

    model: ModelSpeed
    estimated: float
    measured: float


@dataclass(frozen=True)
class Plan:
    """What a selection will take.

    Attributes:
        seconds: until the last model is ranked.
        interval: of these seconds, for 80 % of selections; None where past evaluations are too few to tell.
        first_seconds: until the first model is.
        worker_seconds: of all workers together.
        by_model: seconds of each model, in the order in which they are taken.
        past: how many evaluations the plan rests on.
        measured_elsewhere: names of models whose seconds are those of another kind of device, for neither they nor
            others measured there were evaluated on this one.
    """

    seconds: float
    interval: tuple[float, float] | None
    first_seconds: float
    worker_seconds: float
    by_model: tuple[tuple[str, float], ...]
    past: int
    measured_elsewhere: tuple[str, ...]


def estimate(model: ModelSpeed, work: Work) -> float:
    """Return the seconds of an evaluation on the machine that measured the speed, if nothing more is known of it."""
    passes = float(work.images)
    if model.has_gradients:
        passes += _GRADIENT_PASSES * min(work.gradient_images, work.images)
        passes += _FORECAST_PASSES * min(work.forecast_images, work.images)
    return _EVALUATION_SECONDS + model.load_seconds + passes / model.images_per_second + work.images * _IMAGE_SECONDS
