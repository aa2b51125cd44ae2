"""Scores of gradients: those of features, of the mean kernel of the probes.

Legend: P probes, N images, S numbers of a gradient.
"""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.domain.errors import EvaluationFailed
from app.domain.resampling import stratified_stderr
from app.scoring import Panel, compute, measure
from app.scoring.gradient_kernels import GradientKernels
from app.scoring.gradients.coordinates import coordinates, kernels_of
from app.scoring.gradients.panels import gradient_panel, panels_without_a_probe

OF_FEATURES = {
    "lgc": "lfc",
    "lgc_offdiagonal": "lfc_offdiagonal",
    "lgc_centered": "lfc_centered",
    "gradient_alignment_speed": "alignment_speed",
    "gradient_ridge_generalization": "ridge_generalization",
    "gradient_gcv": "ridge_gcv",
    "gradient_loo": "ridge_loo",
}
settings.register_profile("gradients", deadline=None, max_examples=25)
settings.load_profile("gradients")


def gradients(probes=3, images=24, numbers=40, common=1.0, seed=0, classes=4):
    random = np.random.default_rng(seed)
    labels_N = random.permutation(np.arange(images) % classes)
    towards_PCS = random.normal(size=(probes, classes, numbers))
    noise_PNS = random.normal(size=(probes, images, numbers))
    shared_PS = common * random.normal(size=(probes, numbers))
    return noise_PNS + towards_PCS[:, labels_N] + shared_PS[:, None], labels_N


def scored(name, gradients_PNS, labels_N):
    return compute(name, np.zeros((len(labels_N), 1)), labels_N, gradients=gradients_PNS)


def pearson(kernel_NN, labels_N, kept_NN):
    same_NN = (labels_N[:, None] == labels_N).astype(float)
    return np.corrcoef(kernel_NN[kept_NN], same_NN[kept_NN])[0, 1]


@given(
    probes=st.integers(1, 4),
    images=st.integers(6, 30),
    numbers=st.integers(1, 60),
    common=st.sampled_from([0.0, 1.0, 30.0]),
    seed=st.integers(0, 1000),
)
def test_coordinates_have_the_mean_kernel(probes, images, numbers, common, seed):
    gradients_PNS, _ = gradients(probes, images, numbers, common, seed)
    kernel_NN = np.einsum("pns,pms->nm", gradients_PNS, gradients_PNS) / probes
    rows_NK = coordinates(kernels_of(gradients_PNS), np.arange(probes))
    assert rows_NK @ rows_NK.T == pytest.approx(kernel_NN, rel=1e-9, abs=1e-10 * np.abs(kernel_NN).max())


def test_label_gradient_correlation_is_a_pearson_correlation_of_all_pairs():
    """Eq. 8, written out."""
    gradients_PNS, labels_N = gradients()
    kernel_NN = np.mean([g_NS @ g_NS.T for g_NS in gradients_PNS], axis=0)
    everything_NN, others_NN = np.ones(kernel_NN.shape, bool), ~np.eye(len(labels_N), dtype=bool)
    assert scored("lgc", gradients_PNS, labels_N).value == pytest.approx(
        pearson(kernel_NN, labels_N, everything_NN), rel=1e-9
    )
    assert scored("lgc_offdiagonal", gradients_PNS, labels_N).value == pytest.approx(
        pearson(kernel_NN, labels_N, others_NN), rel=1e-9
    )
    centring_NN = np.eye(len(labels_N)) - 1 / len(labels_N)
    same_NN = (labels_N[:, None] == labels_N).astype(float)
    a_NN, b_NN = centring_NN @ kernel_NN @ centring_NN, centring_NN @ same_NN @ centring_NN
    expected = (a_NN * b_NN).sum() / np.linalg.norm(a_NN) / np.linalg.norm(b_NN)
    assert scored("lgc_centered", gradients_PNS, labels_N).value == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("name", OF_FEATURES)
def test_one_probe_is_a_matrix_of_features(name):
    gradients_PNS, labels_N = gradients(probes=1)
    expected = compute(OF_FEATURES[name], gradients_PNS[0], labels_N)
    actual = scored(name, gradients_PNS, labels_N)
    assert actual.value == pytest.approx(expected.value, rel=1e-8)
    assert (actual.stderr or 0) == pytest.approx(expected.stderr or 0, rel=1e-6)
    assert (actual.null_value is None) == (expected.null_value is None)
    if expected.null_value is not None:
        assert actual.null_value == pytest.approx(expected.null_value, rel=1e-8, abs=1e-12)


@pytest.mark.parametrize("name", OF_FEATURES)
def test_probes_side_by_side_are_a_matrix_of_features(name):
    gradients_PNS, labels_N = gradients()
    beside_NS = np.concatenate(list(gradients_PNS), axis=1) / math.sqrt(len(gradients_PNS))
    assert scored(name, gradients_PNS, labels_N).value == pytest.approx(
        compute(OF_FEATURES[name], beside_NS, labels_N).value, rel=1e-8
    )


def test_what_images_share_may_be_a_million_times_what_tells_them_apart():
    gradients_PNS, labels_N = gradients(common=0.0)
    shared_PS = np.random.default_rng(9).normal(size=(3, 40))
    alone = scored("lgc_centered", gradients_PNS, labels_N).value
    beside_PNS = gradients_PNS + 1e6 * shared_PS[:, None]
    assert scored("lgc_centered", beside_PNS, labels_N).value == pytest.approx(alone, rel=1e-7)


def test_the_error_is_that_of_images_and_that_of_probes():
    gradients_PNS, labels_N = gradients(probes=4)
    result = scored("lgc_centered", gradients_PNS, labels_N)
    without_P = [scored("lgc_centered", np.delete(gradients_PNS, probe, axis=0), labels_N).value for probe in range(4)]
    of_probes = math.sqrt(3 / 4 * np.square(np.array(without_P) - np.mean(without_P)).sum())
    of_images = stratified_stderr(result.influence_N, labels_N)
    assert of_probes > 0.01 * of_images
    assert result.stderr == pytest.approx(math.hypot(of_images, of_probes), rel=1e-9)


def test_the_error_of_probes_is_what_other_probes_would_differ_by():
    """The jackknife's mean square over many draws of four probes, against the variance of their scores."""
    random = np.random.default_rng(1)
    base_NS, labels_N = gradients(probes=1, images=40, numbers=60, seed=3)[0][0], gradients(images=40, seed=3)[1]
    maps_PSS = random.normal(size=(400, 60, 60)) / math.sqrt(60)
    values, squares = [], []
    for start in range(0, 400, 4):
        drawn_PNS = base_NS @ maps_PSS[start : start + 4]
        result = scored("lgc_centered", drawn_PNS, labels_N)
        values.append(result.value)
        squares.append(result.stderr**2 - stratified_stderr(result.influence_N, labels_N) ** 2)
    assert np.mean(squares) == pytest.approx(np.var(values, ddof=1), rel=0.35)


def test_probes_that_are_no_draw_have_no_error_of_their_own():
    gradients_PNS, labels_N = gradients()
    kernels = kernels_of(gradients_PNS)
    drawn, fixed = (
        Panel(np.zeros((24, 1)), labels_N, gradients=dataclasses.replace(kernels, drawn=is_drawn))
        for is_drawn in (True, False)
    )
    assert (len(panels_without_a_probe(drawn)), panels_without_a_probe(fixed)) == (3, [])
    assert measure("lgc", fixed).value == measure("lgc", drawn).value
    assert 0 < measure("lgc", fixed).stderr < measure("lgc", drawn).stderr


def test_shuffled_labels_share_the_decompositions_without_a_probe():
    gradients_PNS, labels_N = gradients()
    panel = Panel(np.zeros((24, 1)), labels_N, gradients=gradients_PNS)
    shuffled = panel.with_labels(labels_N[::-1])
    pairs = zip(panels_without_a_probe(shuffled), panels_without_a_probe(panel), strict=True)
    assert [one.spectrum[1] is other.spectrum[1] for one, other in pairs] == [True] * 3


def test_shuffled_labels_share_the_decomposition():
    gradients_PNS, labels_N = gradients()
    panel = Panel(np.zeros((24, 1)), labels_N, gradients=gradients_PNS)
    measure("gradient_gcv", panel)
    other_N = labels_N[::-1]
    shuffled = panel.with_labels(other_N)
    assert measure("gradient_gcv", shuffled).value == scored("gradient_gcv", gradients_PNS, other_N).value
    assert gradient_panel(shuffled).spectrum[1] is gradient_panel(panel).spectrum[1]


@given(images=st.integers(8, 30), dimensions=st.integers(1, 40), seed=st.integers(0, 1000))
def test_alignment_speed_from_the_paper(images, dimensions, seed):
    random = np.random.default_rng(seed)
    labels_N = np.arange(images) % 3
    x_ND = random.normal(size=(images, dimensions)) + 2
    y_NC = np.eye(3)[labels_N]
    y_NC, centred_ND = y_NC - y_NC.mean(axis=0), x_ND - x_ND.mean(axis=0)
    kernel_NN = centred_ND @ centred_ND.T
    expected = np.trace(y_NC.T @ kernel_NN @ y_NC) / (images * np.square(y_NC).sum())
    result = compute("alignment_speed", x_ND, labels_N)
    assert result.value == pytest.approx(math.log10(expected), abs=1e-8)
    without = compute("alignment_speed", np.delete(x_ND, 0, axis=0), np.delete(labels_N, 0)).value
    all_without = [
        compute("alignment_speed", np.delete(x_ND, i, axis=0), np.delete(labels_N, i)).value for i in range(images)
    ]
    assert result.influence_N[0] == pytest.approx((images - 1) / images * (np.mean(all_without) - without), abs=1e-7)


def test_the_speed_is_that_of_gradient_descent():
    """One step of gradient descent on a linear classifier lowers the squared loss by 2 lr times the value."""
    random = np.random.default_rng(0)
    labels_N = np.arange(60) % 3
    x_ND = random.normal(size=(60, 12)) + np.eye(3)[labels_N] @ random.normal(size=(3, 12))
    x_ND -= x_ND.mean(axis=0)
    y_NC = np.eye(3)[labels_N] - 1 / 3
    rate = 1e-7
    weights_DC = rate * x_ND.T @ y_NC / 60
    before, after = np.square(y_NC).sum(), np.square(y_NC - x_ND @ weights_DC).sum()
    assert 1 - after / before == pytest.approx(
        2 * rate * 10 ** compute("alignment_speed", x_ND, labels_N).value, rel=1e-5
    )


def test_ridge_generalization_from_the_paper():
    random = np.random.default_rng(0)
    labels_N = np.arange(20) % 3
    for dimensions in (5, 40):
        x_ND = random.normal(size=(20, dimensions))
        x_ND -= x_ND.mean(axis=0)
        kernel_NN = x_ND @ x_ND.T
        kernel_NN /= np.trace(kernel_NN) / 19
        y_NC = np.eye(3)[labels_N] - np.eye(3)[labels_N].mean(axis=0)
        expected = -np.trace(y_NC.T @ np.linalg.inv(kernel_NN + 1e-3 * np.eye(20)) @ y_NC) / 20
        assert compute("ridge_generalization", x_ND, labels_N).value == pytest.approx(expected, rel=1e-8)


def test_gradients_that_are_all_the_same():
    labels_N = np.arange(12) % 3
    for same in (0.0, 2.5):
        for name in OF_FEATURES:
            result = scored(name, np.full((2, 12, 5), same), labels_N)
            assert "constant_features" in result.warnings


@pytest.mark.parametrize(
    ("given_", "code"),
    [
        (np.ones((2, 11, 4)), "invalid_gradients"),
        (np.ones(12), "invalid_gradients"),
        (np.ones((0, 12, 4)), "invalid_gradients"),
        ([["a", "b"]], "invalid_gradients"),
        ([[1.0], [1.0, 2.0]], "invalid_gradients"),
        (np.where(np.arange(48) == 7, np.nan, 1.0).reshape(12, 4), "non_finite_gradients"),
        (np.full((12, 4), 1e200), "non_finite_gradients"),
        (GradientKernels(np.ones((2, 12, 11)), np.ones((2, 12)), np.ones(2)), "invalid_gradients"),
    ],
)
def test_refused_gradients(given_, code):
    with pytest.raises(EvaluationFailed) as caught:
        scored("lgc", given_, np.arange(12) % 3)
    assert caught.value.code == code
    assert caught.value.param == "gradients"


def test_a_kernel_that_no_gradients_have_is_refused():
    kernel_NN = np.diag([1.0] * 11 + [-1.0])
    kernels = GradientKernels(kernel_NN[None], np.zeros((1, 12)), np.zeros(1))
    with pytest.raises(EvaluationFailed, match="negative eigenvalue"):
        scored("lgc", kernels, np.arange(12) % 3)


def test_gradients_are_required():
    with pytest.raises(EvaluationFailed) as caught:
        compute("lgc", np.eye(6), [0, 0, 0, 1, 1, 1])
    assert caught.value.code == "gradients_required"
