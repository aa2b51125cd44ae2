"""The curvature of the bilinear model on its way, against the matrix that it is."""

import dataclasses

import numpy as np
import pytest

from app.forecasting.batch_order import batches_SB, weights_SN
from app.forecasting.bilinear import Trajectory
from app.forecasting.forecast import forecast
from app.forecasting.losses import bend
from app.forecasting.sharpness import _largest_eigenvalue, passes_stable_limit
from app.forecasting.target import Target
from app.forecasting.training import Training
from tests.unit.forecasting.toy import Toy


@pytest.mark.parametrize("loss", ["cross_entropy", "squared"])
def test_the_kernel_on_the_way_is_the_jacobians_gram_matrix(loss):
    toy = Toy.random(head=0.3)
    toy.jacobian_NDK *= 3
    training = Training(learning_rate=0.03, batch_size=6, steps=20, loss=loss)
    trajectory = Trajectory(toy.linearise(), training, seeds=1)
    for number, batch_SB in enumerate(batches_SB(18, 6, 20, [0])):
        trajectory.step(number, trajectory.look()[0] * weights_SN(batch_SB, 18)[:, None])
    head_CD = trajectory.coordinates.weight_CD(trajectory.head_SCR[0])
    moved_QN = trajectory._moved_SQN[0]
    assert np.abs(moved_QN).max() > 0.1
    features_ND = toy.features_ND + moved_QN.T @ toy.basis_DQ.T
    backbone = np.einsum("cd,dq,nqk->cnk", head_CD, toy.basis_DQ, toy.along_NQK).reshape(54, -1)
    gram_PP = np.kron(np.eye(3), features_ND @ features_ND.T + 1) + backbone @ backbone.T
    found_PP = np.stack([trajectory.kernel_times(unit.reshape(3, 18)).ravel() for unit in np.eye(54)])
    np.testing.assert_allclose(found_PP, gram_PP, atol=1e-9)

    residual_CN = trajectory.look()[0][0]
    hessian_PP = np.stack(
        [bend(loss, residual_CN, trajectory.target_CN, unit.reshape(3, 18)).ravel() for unit in np.eye(54)]
    )
    np.testing.assert_allclose(hessian_PP, hessian_PP.T, atol=1e-12)
    if loss == "cross_entropy":
        share_C = (residual_CN + trajectory.target_CN)[:, 4]
        np.testing.assert_allclose(hessian_PP[4::18, 4::18], np.diag(share_C) - np.outer(share_C, share_C))
    expected = np.abs(np.linalg.eigvals(gram_PP @ hessian_PP)).max() / 18
    assert _largest_eigenvalue(trajectory, residual_CN, loss) == pytest.approx(expected, rel=0.05)


def test_a_head_that_grows_past_the_limit_is_told_and_a_small_rate_is_not():
    toy = Toy.random(images=30, dimensions=60)
    toy.jacobian_NDK *= 60
    network = toy.linearise()
    training = Training(learning_rate=0.045, batch_size=30, steps=150, loss="squared")
    assert passes_stable_limit(network, training)
    assert "curvature_over_limit" in forecast(network, training, Target()).warnings
    calm = dataclasses.replace(training, learning_rate=1e-4)
    assert not passes_stable_limit(network, calm)
    assert "curvature_over_limit" not in forecast(network, calm, Target()).warnings
    assert not passes_stable_limit(network.without_backbone(), training)
