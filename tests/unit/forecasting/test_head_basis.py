"""The directions of the features in which a head pulls."""

import numpy as np

from app.forecasting.head_basis import head_basis_DQ
from app.forecasting.linearisation import linearise
from app.forecasting.training import Training
from tests.unit.forecasting.toy import Toy, train

TRAINING = Training(learning_rate=0.05, batch_size=6, steps=60, momentum=0.9)


def test_a_zero_heads_directions_hold_the_probes_head():
    toy = Toy.random(images=12, dimensions=40, classes=4)
    network = linearise(toy.features_ND, toy.labels_N)
    basis_DQ = head_basis_DQ(network, TRAINING)
    assert basis_DQ.shape == (40, 4)
    np.testing.assert_allclose(basis_DQ.T @ basis_DQ, np.eye(4), atol=1e-12)
    # The first gradient of a zero head is the class means' distance from the common mean.
    means_CD = np.stack([toy.features_ND[toy.labels_N == label].mean(axis=0) for label in range(4)])
    step_CD = means_CD - means_CD.mean(axis=0)
    left = step_CD - step_CD @ basis_DQ @ basis_DQ.T
    assert np.linalg.norm(left) < 0.35 * np.linalg.norm(step_CD)


def test_more_directions_leave_less_out_and_none_are_made_up():
    toy = Toy.random(images=12, dimensions=40, classes=4)
    network = linearise(toy.features_ND, toy.labels_N)
    many = head_basis_DQ(network, TRAINING, 100)
    assert 4 < many.shape[1] <= 9
    np.testing.assert_array_equal(head_basis_DQ(network, TRAINING, 2), many[:, :2])


def test_a_given_head_is_in_its_directions():
    toy = Toy.random(dimensions=30, classes=3, head=5.0)
    network = linearise(toy.features_ND, toy.labels_N, head_CD=toy.head_CD, bias_C=toy.bias_C)
    small = Training(learning_rate=1e-6, batch_size=6, steps=10)
    basis_DQ = head_basis_DQ(network, small)
    np.testing.assert_allclose(toy.head_CD @ basis_DQ @ basis_DQ.T, toy.head_CD, atol=1e-3)


def test_a_rate_at_which_the_probe_would_blow_up_still_gives_directions():
    toy = Toy.random()
    network = linearise(toy.features_ND, toy.labels_N)
    wild = Training(learning_rate=1e6, batch_size=6, steps=60)
    assert np.isfinite(head_basis_DQ(network, wild)).all()


def test_the_directions_carry_the_training_of_all():
    """With the backbone seen only in the head's directions, its training differs little from that in all of them."""
    rng = np.random.default_rng(0)
    toy = Toy.random(images=24, dimensions=12, classes=3, parameters=300)
    network = linearise(toy.features_ND, toy.labels_N)
    training = Training(learning_rate=0.02, batch_size=8, steps=100)
    batches = [rng.permutation(24)[:8] for _ in range(100)]
    drops = []
    for basis_DQ in (np.eye(12), head_basis_DQ(network, training), np.linalg.qr(rng.standard_normal((12, 3)))[0]):
        toy.basis_DQ = basis_DQ
        losses, _ = train(toy, training, batches, bilinear=True)
        drops.append(losses[0] - losses[-1])
    whole, chosen, random = drops
    assert abs(chosen - whole) < 0.03 * whole
    assert abs(random - whole) > 3 * abs(chosen - whole)
