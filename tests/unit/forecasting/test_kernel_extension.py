"""Kernels filled in for further images: against the plain conditional Gaussian, and against what was left out."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.forecasting import bilinear
from app.forecasting.feature_kernel import ClassKernel, TraceKernel
from app.forecasting.forecast import forecast
from app.forecasting.kernel_extension import _fitted, extended, similarity
from app.forecasting.linearisation import Linearisation, linearise
from app.forecasting.target import Target
from app.forecasting.training import Training

IMAGES, MEASURED, DIMENSIONS, DIRECTIONS = 60, 20, 12, 3


def drawn(seed: int, *, ridge: float = 0.5, parameters: int = 4000, scale: float = 20.0) -> Linearisation:
    """Return a network whose gradients come from the process itself, with all its images measured."""
    generator = np.random.default_rng(seed)
    labels_M = np.tile(np.arange(3), IMAGES // 3)
    features_MD = generator.standard_normal((IMAGES, DIMENSIONS)) + generator.standard_normal((3, DIMENSIONS))[labels_M]
    basis_DQ, _ = np.linalg.qr(generator.standard_normal((DIMENSIONS, DIRECTIONS)))
    own_MM = similarity(features_MD, MEASURED) + ridge * np.eye(IMAGES)
    mixing_QQ = np.eye(DIRECTIONS) + 0.3 * generator.standard_normal((DIRECTIONS, DIRECTIONS))
    noise = generator.standard_normal((IMAGES, DIRECTIONS, parameters)) * np.sqrt(scale / parameters)
    gradient_MQK = np.einsum("ij,ab,jbk->iak", np.linalg.cholesky(own_MM), mixing_QQ, noise)
    rows = gradient_MQK.reshape(IMAGES * DIRECTIONS, parameters)
    decay_MQ = np.einsum("mqk,k->mq", gradient_MQK, generator.standard_normal(parameters))
    return linearise(features_MD, labels_M, basis_DQ=basis_DQ, class_kernel_PP=rows @ rows.T, decay_NQ=decay_MQ)


def some(whole: Linearisation) -> Linearisation:
    """Return the network with the first images measured, and the features of all."""
    part = whole.subset(np.arange(MEASURED))
    return dataclasses.replace(
        part, further_MD=whole.features_ND[MEASURED:], further_labels_M=whole.labels_N[MEASURED:]
    )


def flat(network: Linearisation) -> np.ndarray:
    """Return all entries of a kernel, direction first."""
    directions, images = network.num_directions, network.num_images
    unit_PQN = np.eye(directions * images).reshape(-1, directions, images)
    return network.moved_QN(unit_PQN).reshape(directions * images, -1)


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 10**6), st.floats(0.05, 5))
def test_it_is_the_conditional_mean_of_the_kernel(seed, ridge):
    whole = drawn(seed, ridge=ridge, parameters=300)
    part = some(whole)
    found = extended(part)
    weight_MN, _, across_QQ = _fitted(part.kernel, whole.features_ND)
    # The fitted ridge, back from what the fit says of A: a trace that falls as the ridge grows.
    cosine_MM = similarity(whole.features_ND, MEASURED)
    blocks = part.kernel.values_QNQN.transpose(1, 3, 0, 2)

    def scale(tried):
        inverse_NN = np.linalg.inv(cosine_MM[:MEASURED, :MEASURED] + tried * np.eye(MEASURED))
        return np.einsum("ij,ijab->ab", inverse_NN, blocks) / MEASURED

    low, high = 1e-4, 1e3
    for _ in range(100):
        middle = np.sqrt(low * high)
        low, high = (middle, high) if np.trace(scale(middle)) > np.trace(across_QQ) else (low, middle)
    np.testing.assert_allclose(scale(low), across_QQ, rtol=1e-6)

    def likelihood(tried):
        covariance = np.kron(scale(tried), cosine_MM[:MEASURED, :MEASURED] + tried * np.eye(MEASURED))
        return -np.linalg.slogdet(covariance)[1]

    if 2e-3 < low < 50:
        assert likelihood(low) >= max(likelihood(low * 1.1), likelihood(low / 1.1))
    prior = np.kron(across_QQ, cosine_MM + low * np.eye(IMAGES))
    measured = np.tile(np.arange(IMAGES) < MEASURED, DIRECTIONS)
    towards = prior[:, measured] @ np.linalg.inv(prior[np.ix_(measured, measured)])
    expected = towards @ flat(part) @ towards.T + prior - towards @ prior[measured]
    np.testing.assert_allclose(flat(found), expected, atol=1e-6 * np.abs(expected).max())
    np.testing.assert_allclose(found.decay_QN, (towards @ part.decay_QN.ravel()).reshape(DIRECTIONS, -1), atol=1e-6)
    assert weight_MN.shape == (IMAGES, MEASURED)


def test_the_measured_part_stays_and_nothing_turns_indefinite():
    whole = drawn(1)
    part = some(whole)
    found = extended(part)
    assert (found.num_images, len(found.further_MD)) == (IMAGES, 0)
    np.testing.assert_array_equal(found.labels_N, whole.labels_N)
    kept = found.subset(np.arange(MEASURED))
    np.testing.assert_allclose(flat(kept), flat(part), atol=1e-10 * flat(part).max())
    np.testing.assert_allclose(kept.decay_QN, part.decay_QN, rtol=1e-10)
    eigenvalues = np.linalg.eigvalsh(flat(found))
    assert eigenvalues[0] > -1e-9 * eigenvalues[-1]
    assert np.trace(flat(found)) == pytest.approx(np.trace(flat(whole)), rel=0.1)


def test_trainings_of_all_images_take_as_long_as_with_all_kernels():
    training = Training(learning_rate=0.003, batch_size=20, steps=500, momentum=0.9)
    whole = drawn(0, ridge=2.0)
    everything, filled, few = (
        forecast(network, training, Target(value=0.05), extrapolation=extrapolation, seeds=1).steps
        for network, extrapolation in ((whole, "none"), (some(whole), "features"), (some(whole), "none"))
    )
    assert filled == pytest.approx(everything, rel=0.04)
    assert few < 0.8 * everything


def test_a_trace_kernel_is_filled_in_as_a_kernel_of_one_direction():
    part = some(drawn(2))
    one = part.kernel.values_QNQN[:1, :, :1]
    as_class = dataclasses.replace(part, kernel=ClassKernel(one), basis_DQ=part.basis_DQ[:, :1], decay_QN=None)
    as_trace = dataclasses.replace(part, kernel=TraceKernel(one[0, :, 0]), decay_QN=None)
    expected = np.kron(np.eye(DIRECTIONS), flat(extended(as_class)))
    np.testing.assert_allclose(flat(extended(as_trace)), expected, atol=1e-10 * expected.max())


def test_the_largest_kernel_bounds_it_and_classes_share_the_room():
    part = some(drawn(3))
    found = extended(part, largest=MEASURED + 9)
    assert (found.num_images, len(found.further_MD)) == (MEASURED + 9, IMAGES - MEASURED - 9)
    np.testing.assert_array_equal(np.bincount(found.labels_N[MEASURED:]), [3, 3, 3])
    every = np.vstack([found.features_ND, found.further_MD])
    assert {tuple(row) for row in every} == {tuple(row) for row in np.vstack([part.features_ND, part.further_MD])}
    assert extended(part, largest=MEASURED) is part
    assert extended(found) is found
    assert extended(part.without_backbone()).num_images == MEASURED


def test_precision_stays_and_simulations_run_on_it():
    part = some(drawn(4))
    single = dataclasses.replace(part, kernel=ClassKernel(part.kernel.values_QNQN.astype(np.float32)))
    found = extended(single)
    assert found.kernel.measured.values_QNQN.dtype == np.float32
    np.testing.assert_allclose(flat(found), flat(extended(part)), atol=1e-5 * flat(found).max())
    curve = bilinear.simulate(found, Training(learning_rate=0.01, batch_size=10, steps=30))
    assert curve.loss_ST[0, -1] < curve.initial_loss
