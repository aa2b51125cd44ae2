"""The largest learning rate against training on both sides of it."""

import dataclasses
import math

import numpy as np
import pytest

from app.forecasting.linearisation import linearise
from app.forecasting.losses import residuals_and_losses
from app.forecasting.stability import largest_step, learning_rate_limit
from app.forecasting.training import Training
from tests.unit.forecasting.toy import Toy, train

SETTINGS = [(0.0, False), (0.5, False), (0.9, False), (0.5, True), (0.9, True), (0.99, True)]


@pytest.mark.parametrize(("momentum", "nesterov"), SETTINGS)
@pytest.mark.parametrize("decay", [0.0, 0.05])
def test_a_full_batch_of_the_squared_loss_diverges_above_the_limit_and_not_below(momentum, nesterov, decay):
    toy = Toy.random(head=0.7)
    training = Training(
        learning_rate=1.0,
        batch_size=18,
        steps=1000 if momentum < 0.95 else 3000,
        momentum=momentum,
        nesterov=nesterov,
        weight_decay=decay,
        loss="squared",
    )
    limit = learning_rate_limit(toy.linearise(), training)
    assert limit.certain == limit.initial

    def losses(share):
        rate = share * limit.certain
        batches = [np.arange(18)] * training.steps
        with np.errstate(over="ignore", invalid="ignore"):
            return train(toy, dataclasses.replace(training, learning_rate=rate), batches, bilinear=False)[0]

    below, above = losses(0.9), losses(1.1)
    assert below[-1] < 1.01 * below[0]
    assert not above[-1] < 1e6 * above[0]


@pytest.mark.parametrize(("momentum", "nesterov"), SETTINGS)
def test_the_limit_is_where_a_root_leaves_the_unit_circle(momentum, nesterov):
    def spectral_radius(step):
        if nesterov:
            matrix = [[1 - step * (1 + momentum), -(momentum**2)], [step, momentum]]
        else:
            matrix = [[1 - step, -momentum], [step, momentum]]
        return abs(np.linalg.eigvals(matrix)).max()

    limit = largest_step(momentum, nesterov=nesterov)
    assert spectral_radius(0.999 * limit) < 1 < spectral_radius(1.001 * limit)


def test_a_small_batch_lowers_the_limit_and_never_raises_it():
    network = Toy.random(head=0.7).linearise()
    limits = [
        learning_rate_limit(network, Training(learning_rate=1.0, batch_size=size, steps=1)).certain
        for size in (1, 3, 9, 18)
    ]
    assert limits == sorted(limits)
    assert limits[0] < 0.9 * limits[-1]
    one = [np.linalg.norm(row) ** 2 + 1 for row in network.features_ND]
    frozen = network.without_backbone()
    single = learning_rate_limit(frozen, Training(learning_rate=1.0, batch_size=1, steps=1)).certain
    assert min(4 / size for size in one) <= single * 1.0001 <= max(4 / size for size in one)


def test_cross_entropy_is_bounded_by_its_curvature_at_the_start_and_anywhere():
    network = Toy.random(classes=5).linearise()
    training = Training(learning_rate=1.0, batch_size=18, steps=1)
    limit = learning_rate_limit(network, training)
    squared = learning_rate_limit(network, dataclasses.replace(training, loss="squared"))
    assert limit.certain == pytest.approx(2 * squared.certain)
    assert limit.initial == pytest.approx(5 * squared.certain)

    def hessian(outputs):
        step = 1e-6
        columns = [
            residuals_and_losses("cross_entropy", (outputs + step * unit)[:, None], np.eye(5)[:, :1])[0][:, 0]
            - residuals_and_losses("cross_entropy", (outputs - step * unit)[:, None], np.eye(5)[:, :1])[0][:, 0]
            for unit in np.eye(5)
        ]
        return np.linalg.eigvalsh(np.array(columns) / (2 * step))[-1]

    assert hessian(np.zeros(5)) == pytest.approx(1 / 5, rel=1e-4)
    assert hessian(np.array([9.0, 9.0, -30, -30, -30])) == pytest.approx(1 / 2, rel=1e-4)
    outputs = 3 * np.random.default_rng(0).standard_normal((200, 5))
    assert max(hessian(row) for row in outputs) <= 0.5 + 1e-6


def test_nothing_to_overshoot_has_no_limit():
    network = linearise(np.zeros((4, 2)), [0, 1, 0, 1])
    limit = learning_rate_limit(network, Training(learning_rate=1.0, batch_size=4, steps=1))
    assert math.isfinite(limit.certain)  # the bias
