"""Ridge regression against refits without each image, and influences against repeated images.

Legend: N images, D feature dimensions, C classes.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.scoring import Panel, compute, measure
from app.scoring.features.ridge import RELATIVE_PENALTIES


def noisy(seed, images, dimensions, classes, signal=0.5):
    random = np.random.default_rng(seed)
    labels_N = random.permutation(np.arange(images) % classes)
    return random.normal(size=(images, dimensions)) + random.normal(size=(classes, dimensions))[
        labels_N
    ] * signal + 3, labels_N


def weighted_ratio(features_ND, labels_N, penalty, weight_N):
    """Return GCV over the GCV of the class shares, with weights in place of ones."""
    n = weight_N.sum()
    centre = np.average(features_ND, axis=0, weights=weight_N)
    shares = np.average(np.eye(labels_N.max() + 1)[labels_N], axis=0, weights=weight_N)
    x_ND, y_NC = features_ND - centre, np.eye(labels_N.max() + 1)[labels_N] - shares
    scatter_DD = (x_ND.T * weight_N) @ x_ND
    penalised_DD = scatter_DD + penalty * np.eye(x_ND.shape[1])
    fit_NC = x_ND @ np.linalg.solve(penalised_DD, (x_ND.T * weight_N) @ y_NC)
    freedom = n - 1 - np.trace(np.linalg.solve(penalised_DD, scatter_DD))
    rss = (weight_N[:, None] * (y_NC - fit_NC) ** 2).sum()
    return rss / (weight_N[:, None] * y_NC**2).sum() * ((n - 1) / freedom) ** 2


def best(features_ND, labels_N):
    x_ND = features_ND - features_ND.mean(axis=0)
    largest = np.linalg.norm(x_ND, 2) ** 2
    y_NC = np.eye(labels_N.max() + 1)[labels_N]
    y_NC = y_NC - y_NC.mean(axis=0)
    n, (axes_NN, lengths, _) = len(labels_N), np.linalg.svd(x_ND)
    values_N = np.zeros(n)
    values_N[: len(lengths)] = lengths**2
    energy_N = ((axes_NN.T @ y_NC) ** 2).sum(axis=1)
    ratios = []
    for relative in RELATIVE_PENALTIES:
        left_N = relative * largest / (values_N + relative * largest)
        ratios.append((left_N**2 * energy_N).sum() / (y_NC**2).sum() * ((n - 1) / (left_N.sum() - 1)) ** 2)
    return RELATIVE_PENALTIES[int(np.argmin(ratios))] * largest, min(ratios)


@given(
    seed=st.integers(0, 10**6),
    images=st.integers(8, 30),
    dimensions=st.sampled_from([1, 2, 3, 6, 20]),
    classes=st.integers(2, 4),
)
@settings(deadline=None, max_examples=40)
def test_gcv_equals_the_singular_values(seed, images, dimensions, classes):
    features_ND, labels_N = noisy(seed, images, dimensions, classes)
    _, ratio = best(features_ND, labels_N)
    assert compute("ridge_gcv", features_ND, labels_N).value == pytest.approx(1 - ratio, rel=1e-7, abs=1e-8)


@pytest.mark.parametrize("shape", [(40, 6), (24, 23), (24, 24), (20, 60)])
def test_loo_equals_refits(shape):
    features_ND, labels_N = noisy(1, *shape, 3, signal=0.2)
    penalty, _ = best(features_ND, labels_N)
    result = compute("ridge_loo", features_ND, labels_N)
    for i in range(len(labels_N)):
        others = np.arange(len(labels_N)) != i
        x_ND, y_NC = features_ND[others], np.eye(3)[labels_N[others]]
        centre, shares = x_ND.mean(axis=0), y_NC.mean(axis=0)
        x_ND = x_ND - centre
        weights = np.linalg.solve(x_ND.T @ x_ND + penalty * np.eye(x_ND.shape[1]), x_ND.T @ (y_NC - shares))
        assert result.predicted_N[i] == np.argmax((features_ND[i] - centre) @ weights + shares)
    assert 0 < result.value < 1
    assert result.value == np.mean(result.predicted_N == labels_N)


@pytest.mark.parametrize("shape", [(40, 6), (20, 60)])
def test_gcv_influence_is_the_derivative_by_weight(shape):
    features_ND, labels_N = noisy(2, *shape, 3)
    penalty, _ = best(features_ND, labels_N)
    influence_N = compute("ridge_gcv", features_ND, labels_N).influence_N
    for i in range(0, len(labels_N), 5):
        step = np.zeros(len(labels_N))
        step[i] = 1e-4
        up, down = (weighted_ratio(features_ND, labels_N, penalty, 1 + sign * step) for sign in (1, -1))
        assert influence_N[i] == pytest.approx(-(up - down) / 2e-4, rel=1e-4, abs=1e-8)


def test_noise_is_worth_nothing_and_separated_classes_everything():
    random = np.random.default_rng(0)
    labels_N = np.arange(200) % 4
    noise = compute("ridge_gcv", random.normal(size=(200, 400)), labels_N).value
    assert -0.02 < noise < 0.1
    perfect = np.eye(4)[labels_N] + random.normal(size=(200, 4)) * 1e-3
    assert compute("ridge_gcv", perfect, labels_N).value == pytest.approx(1.0, abs=1e-4)
    assert compute("ridge_loo", perfect, labels_N).value == 1.0


def test_an_exact_fit_is_finite():
    labels_N = np.repeat(np.arange(3), 5)
    assert compute("ridge_gcv", np.eye(3)[labels_N], labels_N).value == pytest.approx(1.0, abs=1e-9)


def test_shuffled_labels_share_the_panel():
    features_ND, labels_N = noisy(3, 30, 8, 3)
    panel = Panel(features_ND, labels_N)
    other = np.roll(labels_N, 1)
    measure("ridge_gcv", panel)
    assert measure("ridge_gcv", panel.with_labels(other)).value == compute("ridge_gcv", features_ND, other).value
