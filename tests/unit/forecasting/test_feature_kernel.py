"""Kernels as operators: against the matrix that each stands for."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from app.forecasting import bilinear
from app.forecasting.feature_kernel import ClassKernel, ExtendedKernel, FeatureKernel, TraceKernel
from app.forecasting.training import Training
from tests.unit.forecasting.toy import Toy


def gram(random: np.random.Generator, size: int) -> np.ndarray:
    rows = random.standard_normal((size, size + 2))
    return rows @ rows.T


def drawn(kind: str, images: int, directions: int, seed: int) -> tuple[FeatureKernel, np.ndarray]:
    """Return a kernel and all of its entries, direction first."""
    random = np.random.default_rng(seed)
    if kind == "trace":
        kernel_NN = gram(random, images)
        return TraceKernel(kernel_NN), np.kron(np.eye(directions), kernel_NN)
    if kind == "class":
        dense = gram(random, images * directions)
        return ClassKernel(dense.reshape(directions, images, directions, images)), dense
    measured = max(1, images // 2)
    inner, inner_dense = drawn("class", measured, directions, seed + 1)
    weight_MN, rest_MM, across_QQ = (
        random.standard_normal((images, measured)),
        gram(random, images),
        gram(random, directions),
    )
    towards = np.kron(np.eye(directions), weight_MN)
    dense = towards @ inner_dense @ towards.T + np.kron(across_QQ, rest_MM)
    return ExtendedKernel(inner, weight_MN, rest_MM, across_QQ), dense


@settings(deadline=None, max_examples=60)
@given(
    kind=st.sampled_from(["trace", "class", "extended"]),
    images=st.integers(2, 12),
    directions=st.integers(1, 4),
    seeds=st.integers(1, 3),
    seed=st.integers(0, 10**6),
)
def test_a_kernel_times_a_force(kind, images, directions, seeds, seed):
    kernel, dense = drawn(kind, images, directions, seed)
    random = np.random.default_rng(seed)
    assert kernel.num_images == images
    force_SQN = random.standard_normal((seeds, directions, images))
    expected = (force_SQN.reshape(seeds, -1) @ dense).reshape(force_SQN.shape)
    np.testing.assert_allclose(kernel.times(force_SQN), expected, atol=1e-9 * np.abs(dense).max())

    batch = random.integers(1, images + 1)
    images_SB = np.stack([random.permutation(images)[:batch] for _ in range(seeds)])
    few_SQN = np.zeros_like(force_SQN)
    for number, images_B in enumerate(images_SB):
        few_SQN[number][:, images_B] = force_SQN[number][:, images_B]
    force_SQB = np.take_along_axis(force_SQN, images_SB[:, None], axis=2)
    np.testing.assert_allclose(
        kernel.times_batch(force_SQB, images_SB), kernel.times(few_SQN), atol=1e-9 * np.abs(dense).max()
    )

    part = random.permutation(images)[:batch]
    places = (np.arange(directions)[:, None] * images + part).ravel()
    force_QK = random.standard_normal((directions, batch))
    expected = (force_QK.ravel() @ dense[np.ix_(places, places)]).reshape(force_QK.shape)
    np.testing.assert_allclose(kernel.subset(part).times(force_QK), expected, atol=1e-9 * np.abs(dense).max())


def test_a_long_training_is_recorded_at_some_steps_and_interpolated_between(monkeypatch):
    network = Toy.random().linearise()
    training = Training(learning_rate=0.003, batch_size=5, steps=430, momentum=0.9)
    found = bilinear.simulate(network, training, seeds=[0, 1])
    monkeypatch.setattr(bilinear, "RECORDED", 10**9)
    every = bilinear.simulate(network, training, seeds=[0, 1])
    assert found.loss_ST.shape == every.loss_ST.shape == (2, 431)
    recorded = np.append(np.arange(0, 430, 2), 430)
    np.testing.assert_array_equal(found.loss_ST[:, recorded], every.loss_ST[:, recorded])
    np.testing.assert_array_equal(found.accuracy_ST[:, recorded], every.accuracy_ST[:, recorded])
    between = np.arange(1, 430, 2)
    middle_ST = (every.loss_ST[:, between - 1] + every.loss_ST[:, between + 1]) / 2
    np.testing.assert_allclose(found.loss_ST[:, between], middle_ST, rtol=1e-12)
    assert found.leap == every.leap
