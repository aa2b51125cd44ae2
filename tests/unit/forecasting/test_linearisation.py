"""What is measured of a network is checked before anything is built on it."""

import numpy as np
import pytest

from app.domain.errors import EvaluationFailed
from app.forecasting.linearisation import linearise
from tests.unit.forecasting.toy import Toy

TOY = Toy.random()
EYE = np.eye(18)
UNEVEN = np.diag([1.0, -0.5] + [0.1] * 16)


def with_nan(array):
    array = array.copy()
    array.flat[3] = np.nan
    return array


@pytest.mark.parametrize(
    ("code", "param", "changes"),
    [
        ("forecast_not_finite", "class_kernel_PP", {"class_kernel_PP": with_nan(TOY.class_kernel_PP())}),
        ("forecast_not_finite", "class_kernel_PP", {"class_kernel_PP": np.full((36, 36), np.inf)}),
        ("forecast_not_finite", "decay_NQ", {"decay_NQ": np.full((18, 2), np.nan)}),
        ("forecast_not_finite", "head_CD", {"head_CD": np.full((3, 7), np.inf)}),
        ("forecast_shape", "class_kernel_PP", {"class_kernel_PP": np.eye(35)}),
        ("forecast_shape", "class_kernel_PP", {"class_kernel_PP": np.eye(40)}),
        ("forecast_shape", "class_kernel_PP", {"class_kernel_PP": np.ones((36, 34))}),
        ("forecast_shape", "trace_kernel_NN", {"class_kernel_PP": None, "trace_kernel_NN": np.eye(19)}),
        ("forecast_shape", "kernel", {"trace_kernel_NN": EYE}),
        ("forecast_shape", "kernel", {"class_kernel_PP": None}),
        ("forecast_shape", "kernel", {"basis_DQ": None}),
        ("forecast_shape", "basis_DQ", {"basis_DQ": np.eye(6)[:, :2]}),
        ("forecast_shape", "decay_NQ", {"decay_NQ": np.zeros((17, 2))}),
        ("forecast_shape", "head_CD", {"head_CD": np.zeros((2, 7))}),
        ("forecast_shape", "bias_C", {"bias_C": np.zeros(2)}),
        ("forecast_basis", "basis_DQ", {"basis_DQ": 1.1 * TOY.basis_DQ}),
        ("forecast_labels", "labels_M", {"num_classes": 2}),
        ("forecast_few_images", "labels_M", {"num_classes": 19, "head_CD": None, "bias_C": None}),
        ("forecast_asymmetric", "trace_kernel_NN", {"class_kernel_PP": None, "trace_kernel_NN": np.triu(EYE + 1)}),
        ("forecast_indefinite", "trace_kernel_NN", {"class_kernel_PP": None, "trace_kernel_NN": UNEVEN}),
    ],
)
def test_unusable_arrays_are_refused(code, param, changes):
    with pytest.raises(EvaluationFailed) as refusal:
        TOY.linearise(**changes)
    assert (refusal.value.code, refusal.value.param) == (code, param)
    assert refusal.value.hint


@pytest.mark.parametrize(
    ("code", "features_ND", "labels_N"),
    [
        ("forecast_not_finite", [[np.nan, 1.0], [0.0, 1.0]], [0, 1]),
        ("forecast_shape", [1.0, 2.0], [0, 1]),
        ("forecast_shape", np.zeros((2, 0)), [0, 1]),
        ("forecast_shape", np.eye(2), [0, 1, 1]),
        ("forecast_labels", np.eye(2), [0.0, 1.0]),
        ("forecast_labels", np.eye(2), [-1, 1]),
        ("forecast_one_class", np.eye(2), [0, 0]),
        ("forecast_one_class", np.eye(2), [1, 1]),
        ("forecast_one_class", np.zeros((0, 2)), np.zeros(0, dtype=int)),
    ],
)
def test_unusable_features_and_labels_are_refused(code, features_ND, labels_N):
    with pytest.raises(EvaluationFailed) as refusal:
        linearise(features_ND, labels_N)
    assert refusal.value.code == code


def test_slightly_negative_eigenvalues_are_clipped_and_told():
    kernel_NN = EYE.copy()
    kernel_NN[5, 5] = -0.3
    network = TOY.linearise(class_kernel_PP=None, trace_kernel_NN=kernel_NN)
    assert network.warnings == ("negative_eigenvalues_clipped",)
    expected_NN = EYE.copy()
    expected_NN[5, 5] = 0
    np.testing.assert_allclose(network.kernel.values_NN, expected_NN, atol=1e-12)


def test_rounding_of_single_precision_is_no_negative_eigenvalue():
    rng = np.random.default_rng(0)
    rows = (5 + rng.standard_normal((60, 9))).astype(np.float32)
    network = linearise(
        rng.standard_normal((60, 4)), np.arange(60) % 2, basis_DQ=np.eye(4)[:, :1], class_kernel_PP=rows @ rows.T
    )
    assert network.warnings == ()
    np.testing.assert_array_equal(network.kernel.values_QNQN[0, :, 0], (rows @ rows.T + (rows @ rows.T).T) / 2)


def test_a_kernel_of_zeros_is_a_frozen_backbone():
    assert TOY.linearise(class_kernel_PP=np.zeros((36, 36))).warnings == ()


def test_further_images_are_kept_apart():
    network = TOY.linearise(class_kernel_PP=TOY.class_kernel_PP()[:24, :24], decay_NQ=np.zeros((12, 2)))
    assert (network.num_images, len(network.further_MD), len(network.further_labels_M)) == (12, 6, 6)
    np.testing.assert_array_equal(network.features_ND, TOY.features_ND[:12])


def test_a_subset_is_the_network_on_those_images():
    images = np.array([1, 2, 5, 9, 12])
    part = Toy(
        TOY.features_ND[images],
        TOY.labels_N[images],
        TOY.jacobian_NDK[images],
        TOY.theta_K,
        TOY.basis_DQ,
        TOY.head_CD,
        TOY.bias_C,
    ).linearise()
    found = TOY.linearise().subset(images)
    np.testing.assert_allclose(found.kernel.values_QNQN, part.kernel.values_QNQN)
    np.testing.assert_allclose(found.decay_QN, part.decay_QN)
    np.testing.assert_array_equal(found.features_ND, part.features_ND)
    np.testing.assert_array_equal(found.labels_N, part.labels_N)
    trace = TOY.linearise(class_kernel_PP=None, trace_kernel_NN=np.diag(np.arange(1.0, 19.0))).subset(images)
    np.testing.assert_array_equal(np.diag(trace.kernel.values_NN), images + 1.0)
