"""LogME against the Gaussian density of the labels.

Legend: N images, D feature dimensions.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.stats import multivariate_normal

from app.scoring import compute


def log_density(features_ND, y_N, log_alpha, log_beta):
    """Return log N(y; 0, I / beta + F F^T / alpha) per image."""
    n = len(y_N)
    covariance_NN = np.eye(n) * np.exp(-log_beta) + features_ND @ features_ND.T * np.exp(-log_alpha)
    return multivariate_normal(np.zeros(n), covariance_NN).logpdf(y_N) / n


def by_density(features_ND, labels_N):
    """Return the score by searching alpha and beta from a grid of starts, with beta / alpha bounded as documented."""
    largest = np.linalg.norm(features_ND, 2) ** 2
    best = []
    for label in np.unique(labels_N):
        y_N = (labels_N == label).astype(float)
        starts = [(a, a - ratio - np.log(largest)) for a in (-4, 0, 4) for ratio in (-12, -6, -2, 2, 6)]

        def loss(point, y_N=y_N):
            log_alpha, log_beta = point
            if abs(log_alpha - log_beta - np.log(largest)) > 8 * np.log(10) or max(np.abs(point)) > 50:
                return np.inf
            return -log_density(features_ND, y_N, log_alpha, log_beta)

        start = min(starts, key=loss)
        found = minimize(loss, start, method="Nelder-Mead", options={"xatol": 1e-7, "fatol": 1e-13, "maxiter": 4000})
        best.append(-found.fun)
    return np.mean(best)


def noisy(seed, images, dimensions, classes, noise=2.0):
    random = np.random.default_rng(seed)
    labels_N = np.arange(images) % classes
    return random.normal(size=(images, dimensions)) * noise + np.eye(classes, dimensions)[labels_N] * 3, labels_N


def test_constant_features_are_told_and_have_no_error():
    result = compute("logme", np.full((9, 4), 0.3), np.arange(9) % 3)
    assert result.warnings == ("constant_features",)
    assert result.stderr is None


@given(seed=st.integers(0, 10**6), dimensions=st.integers(1, 6), classes=st.integers(2, 3))
@settings(deadline=None, max_examples=15)
def test_equals_the_best_density(seed, dimensions, classes):
    features_ND, labels_N = noisy(seed, 24, dimensions, classes)
    expected = by_density(features_ND, labels_N)
    assert compute("logme", features_ND, labels_N).value == pytest.approx(expected, rel=1e-8, abs=1e-9)


@pytest.mark.parametrize("dimensions", [30, 200])
def test_equals_the_best_density_with_fewer_images_than_dimensions(dimensions):
    random = np.random.default_rng(1)
    labels_N = np.arange(20) % 2
    # One strong direction with label noise on top: the best noise level is neither zero nor infinite.
    signal_N = np.where(labels_N == 1, 1.0, -1.0)
    signal_N[[0, 3, 7]] *= -1
    features_ND = random.normal(size=(20, dimensions)) * 0.2
    features_ND[:, 0] += 5 * signal_N
    expected = by_density(features_ND, labels_N)
    result = compute("logme", features_ND, labels_N)
    assert result.value == pytest.approx(expected, rel=1e-7)
    assert "exact_fit" not in result.warnings


@pytest.mark.parametrize("shape", [(30, 8), (12, 40)])
def test_no_density_is_higher(shape):
    features_ND, labels_N = noisy(5, *shape, 3)
    value = compute("logme", features_ND, labels_N).value
    largest = np.linalg.norm(features_ND, 2) ** 2
    for decades in np.linspace(-7.9, 7.9, 40):
        best = []
        for label in range(3):
            y_N = (labels_N == label).astype(float)
            densities = [
                log_density(features_ND, y_N, log_alpha, log_alpha - np.log(largest) - decades * np.log(10))
                for log_alpha in np.linspace(-10, 25, 60)
            ]
            best.append(max(densities))
        assert np.mean(best) <= value + 1e-7


def test_zero_columns_do_not_change_it():
    features_ND, labels_N = noisy(2, 40, 10, 4)
    padded_ND = np.hstack([features_ND, np.zeros((40, 500))])
    expected = compute("logme", features_ND, labels_N).value
    assert compute("logme", padded_ND, labels_N).value == pytest.approx(expected, rel=1e-9)


def test_noise_does_not_score_by_width():
    random = np.random.default_rng(0)
    labels_N = np.arange(200) % 10
    values = [compute("logme", random.normal(size=(200, width)), labels_N).value for width in (20, 200, 2000)]
    pure_noise = -0.5 * (np.log(2 * np.pi) + 1 + np.log(0.1))  # y ~ N(0, mean of y^2) per image
    assert values == pytest.approx([pure_noise] * 3, abs=0.03)


def test_exact_fit_is_finite_and_said():
    labels_N = np.repeat(np.arange(3), 10)
    result = compute("logme", np.eye(3)[labels_N], labels_N)
    assert result.value > 1
    assert result.warnings == ("exact_fit",)


def test_a_common_offset_helps_no_one():
    features_ND, labels_N = noisy(3, 60, 6, 3)
    assert compute("logme", features_ND, labels_N).value != pytest.approx(
        compute("logme", features_ND + 20, labels_N).value, rel=1e-3
    )


def weighted_evidence(features_ND, labels_N, weight_N):
    """Return the total log evidence of each class, where image i counts weight_i times, as integrals over weights."""
    totals = []
    scatter_DD = (features_ND.T * weight_N) @ features_ND
    values_D, vectors_DD = np.linalg.eigh(scatter_DD)
    for label in np.unique(labels_N):
        y_N = (labels_N == label).astype(float)
        projected_D = vectors_DD.T @ (features_ND.T @ (weight_N * y_N))

        def loss(point, y_N=y_N, projected_D=projected_D):
            alpha, beta = np.exp(point)
            mean_D = beta * projected_D / (alpha + beta * values_D)
            residual_N = y_N - features_ND @ vectors_DD @ mean_D
            return -0.5 * (
                len(values_D) * point[0]
                + weight_N.sum() * (point[1] - np.log(2 * np.pi))
                - np.log(alpha + beta * values_D).sum()
                - beta * (weight_N * residual_N**2).sum()
                - alpha * mean_D @ mean_D
            )

        start = min([(a, b) for a in (-2, 1, 4, 7) for b in (-1, 1, 3)], key=loss)
        found = minimize(
            loss, start, method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-14, "maxiter": 4000, "maxfev": 8000}
        )
        totals.append(-found.fun)
    return np.array(totals)


@pytest.mark.parametrize(("shape", "classes"), [((40, 5), 3), ((60, 6), 14)])
def test_influence_is_the_derivative_by_weight(shape, classes):
    random = np.random.default_rng(8)
    labels_N = np.arange(shape[0]) % classes
    features_ND = random.normal(size=shape) + random.normal(size=(classes, shape[1]))[labels_N] * 1.5
    result = compute("logme", features_ND, labels_N)
    assert weighted_evidence(features_ND, labels_N, np.ones(shape[0])).mean() / shape[0] == pytest.approx(
        result.value, rel=1e-8
    )
    for i in (0, 1, shape[0] - 1):
        step = np.zeros(shape[0])
        step[i] = 1e-3
        up, down = (
            (weighted_evidence(features_ND, labels_N, 1 + sign * step) / (shape[0] + sign * 1e-3)).mean()
            for sign in (1, -1)
        )
        assert result.influence_N[i] == pytest.approx((up - down) / 2e-3, rel=1e-3, abs=1e-7)


def test_influence_of_wide_and_tall_features_agree():
    random = np.random.default_rng(3)
    images, rank = 24, 5
    labels_N = np.arange(images) % 3
    low_ND = random.normal(size=(images, rank)) + np.eye(3, rank)[labels_N]
    rotation = np.linalg.qr(random.normal(size=(80, rank)))[0]
    tall, wide = compute("logme", low_ND, labels_N), compute("logme", low_ND @ rotation.T, labels_N)
    assert wide.value == pytest.approx(tall.value, rel=1e-9)
    assert wide.influence_N == pytest.approx(tall.influence_N, rel=1e-6, abs=1e-9)
