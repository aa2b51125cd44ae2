"""The forecast of one fine-tuning: curve, steps to a target, interval, seconds, cost.

Legend: S seeds, T steps and the start, L levels.

A training is simulated for a few orders of the images. Where a calibration is given, or the data set has more images
than were measured and ``extrapolation`` asks for it, time is stretched level by level: the step at which the loss has
fallen to the fraction eps of its start moves from t to t * stretch(eps) / c(eps). Steps are then read off that curve,
so whatever a target is defined by, curve and steps agree.

Few images are easy to fit, and a simulation of them is over too soon. Where the features of further images are known,
their gradients are filled in and all are simulated: of 22 trainings of packaged networks on 200 to 240 images, 100 of
them measured, the median error of uncalibrated steps fell from 39 % to 12 % by it. Richardson extrapolation from parts
of the measured images needs no further features, and did much less there.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from app.domain.errors import BadRequest
from app.forecasting import bilinear, diffusion, frozen_kernel, gradient_flow, nested_subsets
from app.forecasting.calibration import DEFAULT_FACTOR, Calibration
from app.forecasting.curve import Curve, smoothed
from app.forecasting.kernel_extension import extended
from app.forecasting.level_times import LEVELS_L
from app.forecasting.linearisation import Linearisation
from app.forecasting.result import FEATURES_LEAP, Forecast, ForecastCurve, Method
from app.forecasting.stability import LearningRateLimit, learning_rate_limit
from app.forecasting.target import BAND, Target, TimeToTarget, time_to_target
from app.forecasting.training import Training

_Array = NDArray[np.float64]
Extrapolation = Literal["none", "features", "nested_subsets"]

_SIMULATIONS: dict[Method, Callable[[Linearisation, Training, Sequence[int]], Curve]] = {
    "bilinear": lambda network, training, seeds: bilinear.simulate(network, training, seeds=seeds),
    "linear_probe": lambda network, training, seeds: bilinear.simulate(
        network.without_backbone(), training, seeds=seeds
    ),
    "frozen_kernel": lambda network, training, seeds: frozen_kernel.simulate(network, training, seeds=seeds),
    "gradient_flow": lambda network, training, _seeds: gradient_flow.solve(network, training),
    "diffusion": lambda network, training, seeds: diffusion.simulate(network, training, seeds=seeds),
}
LONG_LEAP, LARGEST_LEAP = 0.3, 1.0
"""Of the features' spread, in one step: beyond the first the linear model is doubtful, beyond the second void."""

_LONGEST = 4.0  # times the asked steps: how far a calibration can make the simulation run
_NEGLIGIBLE_DECAY = 0.01
_FALLING = 0.02  # of the whole drop, in the last tenth of the steps


def forecast(
    linearisation: Linearisation,
    training: Training,
    target: Target,
    calibration: Calibration | None = None,
    *,
    step_seconds: float | None = None,
    price_per_hour: float | None = None,
    seeds: int = 5,
    method: Method = "bilinear",
    num_images: int | None = None,
    extrapolation: Extrapolation = "features",
    limit: LearningRateLimit | None = None,
) -> Forecast:
    """Forecast how a training goes and when it reaches its target.

    Args:
        linearisation: the network on the measured images.
        training: its hyperparameters.
        target: what counts as trained.
        calibration: from trainings of other families, with the same loss, and as many measured images.
        step_seconds: of one step on the machine in question.
        price_per_hour: of that machine.
        seeds: orders of the images.
        method: see the modules of these names; ``linear_probe``: a frozen backbone.
        num_images: of the data set; None: those measured.
        extrapolation: from the measured images to more: ``features``, to those further images whose features the
            linearisation holds; ``nested_subsets``, to ``num_images``.
        limit: of the learning rate, where the caller has found it.

    Raises:
        BadRequest: ``invalid_forecast``: an argument is out of range.
        EvaluationFailed: of the method.
    """
    _check(linearisation, method, extrapolation, seeds, num_images)
    if extrapolation == "features":
        linearisation = extended(linearisation)
    limit = limit or learning_rate_limit(linearisation, training)
    warnings = _warnings(linearisation, training, method, num_images)
    if training.learning_rate > limit.initial:
        return _unstable(limit.certain, method, target, (*warnings, "learning_rate_over_limit"))
    if training.learning_rate > limit.certain:
        warnings.append("learning_rate_may_be_unstable")

    corrected = Calibration.fit([], loss=training.loss) if calibration is None else calibration
    longer = float(np.clip(np.exp(corrected.log_ratio_K.max(initial=0.0)), 1.0, _LONGEST))
    horizon = dataclasses.replace(training, steps=math.ceil(training.steps * longer))
    simulate = _SIMULATIONS[method]
    orders = range(seeds)
    simulated = simulate(linearisation, horizon, orders)
    if simulated.diverged:
        return _unstable(limit.certain, method, target, (*warnings, "simulation_diverged"))
    if simulated.spiked:
        warnings.append("loss_spike")
    if simulated.leap > LARGEST_LEAP:
        return _unstable(limit.certain, method, target, (*warnings, FEATURES_LEAP))
    if simulated.leap > LONG_LEAP:
        warnings.append(FEATURES_LEAP)
        corrected = Calibration.fit([], loss=training.loss)  # it knows trainings alone for which the linear model holds
    stretch_L = np.ones_like(LEVELS_L)
    if extrapolation == "nested_subsets" and num_images is not None and num_images > linearisation.num_images:
        stretch_L = nested_subsets.stretch_L(
            linearisation, simulated, lambda part: simulate(part, horizon, orders), num_images=num_images
        )
    curve = _calibrated(simulated, training.steps, corrected, stretch_L)
    time = time_to_target(curve, target)
    if target.kind == "fraction_of_drop" and _still_falling(curve):
        warnings.append("loss_still_falling_at_last_step")
    interval, confidence, doubts = _interval(curve, time, corrected)
    hourly = None if step_seconds is None or price_per_hour is None else step_seconds * price_per_hour / 3600
    return Forecast(
        verdict="not_reached" if time.steps is None else "reached",
        steps=time.steps,
        interval=interval,
        confidence=confidence,
        seconds=_times(time.steps, step_seconds),
        seconds_interval=_both_times(interval, step_seconds),
        cost=_times(time.steps, hourly),
        cost_interval=_both_times(interval, hourly),
        level=time.level,
        best=time.best,
        largest_learning_rate=limit.certain,
        curve=_summary(curve),
        method=method,
        definition=target.definition,
        warnings=(*warnings, *doubts),
    )


def _check(linearisation: Linearisation, method: str, extrapolation: str, seeds: int, num_images: int | None) -> None:
    fewer = num_images is not None and num_images < linearisation.num_images
    for wrong, param, hint in (
        (method not in _SIMULATIONS, "method", "Use one of " + ", ".join(_SIMULATIONS)),
        (
            extrapolation not in get_args(Extrapolation),
            "extrapolation",
            "Use one of " + ", ".join(get_args(Extrapolation)),
        ),
        (seeds < 1, "seeds", "Simulate at least one order of the images."),
        (fewer, "num_images", f"At least the {linearisation.num_images} measured images are trained on."),
    ):
        if wrong:
            raise BadRequest("invalid_forecast", f"{param} cannot be used", param=param, hint=hint)


def _warnings(linearisation: Linearisation, training: Training, method: Method, num_images: int | None) -> list[str]:
    moving = linearisation.num_directions > 0 and method != "linear_probe"
    frozen = method in ("frozen_kernel", "gradient_flow", "diffusion")
    more = (num_images or 0) > linearisation.num_images
    found = {
        "zero_head_leaves_head_kernel_only": frozen and moving and linearisation.zero_head,
        "backbone_decay_not_measured": moving
        and training.weight_decay > 0
        and linearisation.decay_QN is None
        and _decays(training),
        "batch_holds_all_measured_images": more and training.batch_size >= linearisation.num_images,
    }
    return [*linearisation.warnings, *(code for code, holds in found.items() if holds)]


def _decays(training: Training) -> bool:
    """Tell whether weight decay shrinks a weight by more than a hundredth on the way."""
    return training.weight_decay * sum(training.effective_rates) > _NEGLIGIBLE_DECAY


def _calibrated(curve: Curve, steps: int, calibration: Calibration, stretch_L: _Array) -> Curve:
    """Return the curve at steps 0 to ``steps`` of stretched time."""
    rising_L, grid_T = LEVELS_L[::-1], np.arange(steps + 1, dtype=np.float64)
    simulated_T = np.arange(curve.steps + 1, dtype=np.float64)
    loss_ST, accuracy_ST = [], []
    for loss_T, smooth_T, accuracy_T in zip(curve.loss_ST, smoothed(curve.loss_ST), curve.accuracy_ST, strict=True):
        eps_T = np.minimum.accumulate(smooth_T) / smooth_T[0]
        longer_T = np.interp(eps_T, rising_L, stretch_L[::-1]) / calibration.ratio(eps_T)
        time_T = np.maximum.accumulate(simulated_T * longer_T)
        loss_ST.append(np.interp(grid_T, time_T, loss_T))
        accuracy_ST.append(np.interp(grid_T, time_T, accuracy_T))
    return Curve(np.stack(loss_ST), np.stack(accuracy_ST))


def _interval(
    curve: Curve, time: TimeToTarget, calibration: Calibration
) -> tuple[tuple[float, float] | None, float | None, list[str]]:
    """Return the interval around the steps, its confidence, and warnings."""
    doubts = [] if calibration.known else ["not_calibrated"]
    if time.steps is None or time.low is None:
        return None, None, doubts
    place = min(round(time.steps), curve.steps)
    eps = float(np.median(smoothed(curve.loss_ST), axis=0)[place]) / curve.initial_loss
    factor = calibration.factor(eps)
    if factor is None:
        doubts.append("interval_not_calibrated")
    if calibration.known and not calibration.covers(eps):
        doubts.append("beyond_calibrated_levels")
    width = DEFAULT_FACTOR if factor is None else factor
    high = time.steps * width if time.high is None else max(time.high, time.steps * width)
    return (min(time.low, time.steps / width), high), None if factor is None else calibration.confidence, doubts


def _still_falling(curve: Curve) -> bool:
    loss_T = np.median(smoothed(curve.loss_ST), axis=0)
    return bool(loss_T[-1 - max(1, curve.steps // 10)] - loss_T[-1] > _FALLING * (loss_T[0] - loss_T[-1]))


def _summary(curve: Curve) -> ForecastCurve:
    outside = (1 - BAND) / 2
    return ForecastCurve(
        steps_T=np.arange(curve.steps + 1),
        loss_T=np.median(curve.loss_ST, axis=0),
        low_T=np.quantile(curve.loss_ST, outside, axis=0),
        high_T=np.quantile(curve.loss_ST, 1 - outside, axis=0),
        accuracy_T=np.median(curve.accuracy_ST, axis=0),
    )


def _unstable(limit: float, method: Method, target: Target, warnings: tuple[str, ...]) -> Forecast:
    return Forecast(
        verdict="unstable",
        steps=None,
        interval=None,
        confidence=None,
        seconds=None,
        seconds_interval=None,
        cost=None,
        cost_interval=None,
        level=None,
        best=None,
        largest_learning_rate=limit,
        curve=None,
        method=method,
        definition=target.definition,
        warnings=warnings,
    )


def _times(steps: float | None, unit: float | None) -> float | None:
    return None if steps is None or unit is None else steps * unit


def _both_times(interval: tuple[float, float] | None, unit: float | None) -> tuple[float, float] | None:
    return None if interval is None or unit is None else (interval[0] * unit, interval[1] * unit)
