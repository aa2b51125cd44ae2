"""The simulations against the same training in the space of the parameters, and against torch."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from app.forecasting import bilinear, diffusion, frozen_kernel, gradient_flow
from app.forecasting.batch_order import batches_SB
from app.forecasting.frozen_kernel import FrozenKernel
from app.forecasting.linearisation import linearise
from app.forecasting.training import Training
from tests.unit.forecasting.toy import Toy, train

trainings = st.builds(
    lambda loss, momentum, nesterov, decay, batch, milestones, rate: Training(
        learning_rate=rate,
        batch_size=batch,
        steps=25,
        momentum=momentum,
        nesterov=nesterov,
        weight_decay=decay,
        milestones=milestones,
        gamma=0.3,
        loss=loss,
    ),
    st.sampled_from(["cross_entropy", "squared"]),
    st.sampled_from([0.0, 0.5, 0.9]),
    st.booleans(),
    st.sampled_from([0.0, 1e-2]),
    st.sampled_from([1, 4, 7, 18, 40]),
    st.sampled_from([(), (10,), (5, 5, 20)]),
    st.sampled_from([0.003, 0.02]),
)


@settings(deadline=None, max_examples=40)
@given(training=trainings, seed=st.integers(0, 10**6), head=st.sampled_from([0.0, 0.5]))
def test_the_bilinear_simulation_is_sgd_on_the_bilinear_model(training, seed, head):
    toy = Toy.random(seed, head=head)
    seeds = [seed, seed + 1]
    curve = bilinear.simulate(toy.linearise(), training, seeds=seeds)
    batches = list(batches_SB(18, training.batch_size, training.steps, seeds))
    for row in range(2):
        losses, accuracies = train(toy, training, [batch[row] for batch in batches], bilinear=True)
        np.testing.assert_allclose(curve.loss_ST[row], losses, rtol=1e-9)
        if head:
            np.testing.assert_allclose(curve.accuracy_ST[row], accuracies)


@settings(deadline=None, max_examples=40)
@given(training=trainings, seed=st.integers(0, 10**6), head=st.sampled_from([0.0, 0.5]))
def test_training_under_the_frozen_kernel_is_sgd_on_the_linearised_network(training, seed, head):
    toy = Toy.random(seed, head=head)
    seeds = [seed, seed + 1]
    curve = frozen_kernel.simulate(toy.linearise(), training, seeds=seeds)
    batches = list(batches_SB(18, training.batch_size, training.steps, seeds))
    for row in range(2):
        losses, _ = train(toy, training, [batch[row] for batch in batches], bilinear=False)
        np.testing.assert_allclose(curve.loss_ST[row], losses, rtol=1e-9)


def test_the_backbone_moves_the_curve():
    """The equalities above would hold for a backbone that plays no part; it does."""
    toy = Toy.random(head=0.5)
    toy.jacobian_NDK *= 3
    training = Training(learning_rate=0.02, batch_size=6, steps=100)
    network = toy.linearise()
    probe = bilinear.simulate(network.without_backbone(), training).loss_ST[0]
    assert bilinear.simulate(network, training).loss_ST[0, -1] < 0.9 * probe[-1]
    assert frozen_kernel.simulate(network, training).loss_ST[0, -1] < 0.9 * probe[-1]


def test_a_trace_kernel_stands_for_the_same_kernel_in_every_direction():
    toy = Toy.random(directions=3)
    gradients_NK = toy.along_NQK[:, 0]
    kernel_NN = gradients_NK @ gradients_NK.T
    training = Training(learning_rate=0.02, batch_size=5, steps=30, momentum=0.9, weight_decay=1e-3)
    for simulate in (bilinear.simulate, frozen_kernel.simulate):
        for head in (np.zeros((3, 7)), np.random.default_rng(1).standard_normal((3, 7))):
            trace = toy.linearise(class_kernel_PP=None, trace_kernel_NN=kernel_NN, head_CD=head)
            full = toy.linearise(class_kernel_PP=np.kron(kernel_NN, np.eye(3)), head_CD=head)
            expected = simulate(full, training, seeds=[3]).loss_ST
            np.testing.assert_allclose(simulate(trace, training, seeds=[3]).loss_ST, expected, rtol=1e-9)


def test_probes_of_unit_expected_length_give_the_kernel_of_a_direction():
    rng = np.random.default_rng(0)
    jacobian_NDK = Toy.random().jacobian_NDK
    probes = rng.standard_normal((4000, 7)) / np.sqrt(7)
    gradients = np.einsum("pd,ndk->pnk", probes, jacobian_NDK)
    kernel_NN = np.einsum("pnk,pmk->nm", gradients, gradients) / len(probes)
    direction = np.einsum("ndk,mdk->nm", jacobian_NDK, jacobian_NDK) / 7
    np.testing.assert_allclose(np.diag(kernel_NN), np.diag(direction), rtol=0.08)


def test_a_single_precision_kernel_changes_next_to_nothing():
    toy = Toy.random()
    training = Training(learning_rate=0.02, batch_size=5, steps=50, momentum=0.9)
    network = toy.linearise(class_kernel_PP=toy.class_kernel_PP().astype(np.float32))
    assert network.kernel.values_QNQN.dtype == np.float32
    expected = bilinear.simulate(toy.linearise(), training).loss_ST
    np.testing.assert_allclose(bilinear.simulate(network, training).loss_ST, expected, rtol=1e-5)


def test_few_images_of_many_features_are_simulated_in_their_span():
    toy = Toy.random(images=9, dimensions=60, directions=3, head=0.3)
    training = Training(learning_rate=0.01, batch_size=4, steps=20, momentum=0.9, weight_decay=1e-2)
    batches = list(batches_SB(9, 4, 20, [5]))
    curve = bilinear.simulate(toy.linearise(), training, seeds=[5], batches=batches)
    losses, _ = train(toy, training, [batch[0] for batch in batches], bilinear=True)
    np.testing.assert_allclose(curve.loss_ST[0], losses, rtol=1e-9)


@pytest.mark.parametrize("loss", ["cross_entropy", "squared"])
@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.9, False), (0.9, True)])
def test_a_linear_probe_is_torch_training_a_linear_layer(loss, momentum, nesterov):
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    features_ND, labels_N = np.abs(rng.standard_normal((40, 100))).astype(np.float32), np.arange(40) % 4
    training = Training(
        learning_rate=0.02,
        batch_size=16,
        steps=60,
        momentum=momentum,
        nesterov=nesterov,
        weight_decay=5e-3,
        milestones=(30, 50),
        loss=loss,
    )
    batches = list(batches_SB(40, 16, 60, [1]))
    curve = bilinear.simulate(linearise(features_ND, labels_N), training, seeds=[1], batches=batches)

    layer = torch.nn.Linear(100, 4)
    torch.nn.init.zeros_(layer.weight)
    torch.nn.init.zeros_(layer.bias)
    optimiser = torch.optim.SGD(layer.parameters(), 0.02, momentum, weight_decay=5e-3, nesterov=nesterov)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimiser, [30, 50])
    inputs, targets = torch.from_numpy(features_ND), torch.from_numpy(labels_N)

    def mean_loss(outputs, labels):
        if loss == "squared":
            return 0.5 * (outputs - torch.nn.functional.one_hot(labels, 4)).square().sum(1).mean()
        return torch.nn.functional.cross_entropy(outputs, labels)

    expected = []
    for batch in [*batches, None]:
        expected.append(mean_loss(layer(inputs), targets).item())
        if batch is not None:
            optimiser.zero_grad()
            mean_loss(layer(inputs[batch[0]]), targets[batch[0]]).backward()
            optimiser.step()
            schedule.step()
    np.testing.assert_allclose(curve.loss_ST[0], expected, rtol=1e-5)
    assert curve.accuracy_ST[0, 0] == 0.25
    np.testing.assert_allclose(
        curve.accuracy_ST[0, -1], (layer(inputs).argmax(1) == targets).double().mean().item(), atol=0.026
    )


@pytest.mark.parametrize("head", [0.0, 0.5])
@pytest.mark.parametrize("loss", ["cross_entropy", "squared"])
def test_the_flow_is_the_limit_of_small_steps(loss, head):
    toy = Toy.random(head=head)
    flow = Training(learning_rate=0.08, batch_size=18, steps=15, weight_decay=0.02, milestones=(8,), loss=loss)
    fine = dataclasses.replace(flow, learning_rate=0.08 / 100, steps=15 * 100, milestones=(8 * 100,))
    expected = frozen_kernel.simulate(toy.linearise(), fine).loss_ST[0, ::100]
    found = gradient_flow.solve(toy.linearise(), flow).loss_ST[0]
    assert found[-1] < 0.96 * found[0]
    np.testing.assert_allclose(found, expected, rtol=8e-3)
    momentum = dataclasses.replace(flow, learning_rate=0.008, momentum=0.9)
    np.testing.assert_allclose(gradient_flow.solve(toy.linearise(), momentum).loss_ST[0], found, rtol=1e-5)


def test_a_flow_without_decay_leaves_what_no_feature_reaches():
    features_ND = np.zeros((4, 2))
    features_ND[:2] = [[1, 0], [0, 1]]
    training = Training(learning_rate=0.1, batch_size=4, steps=1000, loss="squared")
    network = linearise(features_ND, [0, 1, 0, 1])
    assert gradient_flow.solve(network, training).loss_ST[0, -1] == pytest.approx(
        frozen_kernel.simulate(network, training).loss_ST[0, -1], rel=1e-3
    )


def test_a_frozen_kernel_too_large_for_its_modes_is_refused(monkeypatch):
    monkeypatch.setattr(frozen_kernel, "LARGEST_SPECTRUM", 50)
    with pytest.raises(Exception, match="54 rows, over 50") as refusal:
        FrozenKernel(Toy.random(head=0.5).linearise()).modes()
    assert refusal.value.code == "forecast_too_large"
    FrozenKernel(Toy.random(head=0.0).linearise()).modes()


@pytest.mark.parametrize("head", [0.0, 0.5])
def test_the_operator_is_the_jacobians_gram_matrix(head):
    toy = Toy.random(head=head)
    kernel = FrozenKernel(toy.linearise())
    head_NM = toy.features_ND @ toy.features_ND.T + 1
    backbone = np.einsum("cd,dq,nqk->cnk", toy.head_CD, toy.basis_DQ, toy.along_NQK).reshape(54, -1)
    gram_PP = np.kron(np.eye(3), head_NM) + backbone @ backbone.T
    found = kernel.times(np.eye(54).reshape(54, 3, 18)).reshape(54, 54)
    np.testing.assert_allclose(found, gram_PP, atol=1e-9)
    assert kernel.largest_eigenvalue() == pytest.approx(np.linalg.eigvalsh(gram_PP)[-1])
    modes = kernel.modes()
    np.testing.assert_allclose(np.sort(modes.values_CN.ravel()), np.linalg.eigvalsh(gram_PP), atol=1e-8)
    values_CN = np.random.default_rng(0).standard_normal((3, 18))
    np.testing.assert_allclose(modes.outputs(modes.project(values_CN)), values_CN, atol=1e-9)


def test_the_diffusions_mean_is_near_that_of_sgd_with_independent_batches():
    toy = Toy.random(head=0.5)
    training = Training(learning_rate=0.12, batch_size=2, steps=60, loss="squared")
    network, rng = toy.linearise(), np.random.default_rng(0)
    batches = [np.stack([rng.permutation(18)[:2] for _ in range(200)]) for _ in range(60)]
    sgd = frozen_kernel.simulate(network, training, seeds=range(200), batches=batches).loss_ST[:, -1].mean()
    noisy = diffusion.simulate(network, training, seeds=range(200)).loss_ST[:, -1].mean()
    full = dataclasses.replace(training, batch_size=18)
    still = diffusion.simulate(network, full).loss_ST[0, -1]
    assert noisy == pytest.approx(sgd, rel=0.1)
    assert abs(still - sgd) > 3 * abs(noisy - sgd)
    assert still == pytest.approx(frozen_kernel.simulate(network, full).loss_ST[0, -1])


def test_the_diffusions_noise_has_the_exact_covariance():
    toy = Toy.random(head=0.5, images=6)
    network = toy.linearise()
    kernel = FrozenKernel(network)
    residual_CN = kernel.outputs_CN - kernel.target_CN
    parts = np.stack([kernel.times(np.where(np.arange(6) == image, residual_CN, 0.0)).ravel() for image in range(6)])
    expected_PP = np.cov(parts.T, bias=True) * 0.01**2 / 2
    training = Training(learning_rate=0.01, batch_size=2, steps=1, loss="squared")
    curve = diffusion.simulate(network, training, seeds=range(20000))
    # One step changes the loss by r . df to first order, whose variance the covariance gives.
    variance = residual_CN.ravel() @ expected_PP @ residual_CN.ravel() / 36
    assert curve.loss_ST[:, 1].var() == pytest.approx(variance, rel=0.1)
