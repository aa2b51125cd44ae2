"""A pretrained network that is really fine-tuned, and its forecast from features and gradients at the start.

Legend: N images, D feature dimensions, Q directions, C classes.
"""

import copy

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.func import functional_call, jacrev, vmap

from app.forecasting import bilinear
from app.forecasting.batch_order import batches_SB
from app.forecasting.curve import Curve
from app.forecasting.forecast import forecast
from app.forecasting.head_basis import head_basis_DQ
from app.forecasting.linearisation import linearise
from app.forecasting.target import Target, time_to_target
from app.forecasting.training import Training

CLASSES = 5


@pytest.fixture(scope="module")
def pretrained():
    """Return a network that has learnt digits 0 to 4, and 100 images of the digits 5 to 9 with labels from 0."""
    torch.set_num_threads(1)
    images, digits = load_digits(return_X_y=True)
    images = torch.from_numpy((images / 16).astype(np.float32))
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        trunk = nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 64), nn.ReLU())
        network = nn.Sequential(trunk, nn.Linear(64, 5))
    source = torch.from_numpy(np.flatnonzero(digits < 5))
    optimiser = torch.optim.SGD(network.parameters(), 0.05, 0.9)
    for _ in range(150):
        rows = source[torch.randint(len(source), (64,), generator=generator)]
        optimiser.zero_grad()
        nn.functional.cross_entropy(network(images[rows]), torch.from_numpy(digits)[rows]).backward()
        optimiser.step()
    rng = np.random.default_rng(1)
    target = np.concatenate([rng.permutation(np.flatnonzero(digits == digit))[:20] for digit in range(5, 10)])
    return trunk, images[target], digits[target] - 5


def measured(trunk, images, labels_N, training):
    """Return the linearisation: features, and the gradients of their directions by automatic differentiation."""
    with torch.no_grad():
        features_ND = trunk(images).numpy()
    basis_DQ = head_basis_DQ(linearise(features_ND, labels_N), training)
    directions = torch.from_numpy(basis_DQ.astype(np.float32))
    weights = {name: weight.detach() for name, weight in trunk.named_parameters()}

    def along(weights, image):
        return functional_call(trunk, weights, (image,)) @ directions

    parts = vmap(jacrev(along), (None, 0))(weights, images)
    rows = torch.cat([parts[name].flatten(2) for name in weights], dim=2)
    decay_NQ = (rows @ torch.cat([weights[name].flatten() for name in weights])).numpy()
    flat = rows.flatten(0, 1)
    return linearise(
        features_ND, labels_N, basis_DQ=basis_DQ, class_kernel_PP=(flat @ flat.T).numpy(), decay_NQ=decay_NQ
    )


def fine_tuned(trunk, images, labels_N, training, seeds):
    """Return the curve of real fine-tunings with a head that starts at zero."""
    labels, one_hot = torch.from_numpy(labels_N), torch.eye(CLASSES)[labels_N]

    def loss_of(network, rows):
        outputs = network(images[rows])
        if training.loss == "squared":
            return 0.5 * (outputs - one_hot[rows]).square().sum(1).mean()
        return nn.functional.cross_entropy(outputs, labels[rows])

    curves = []
    for seed in seeds:
        network = nn.Sequential(copy.deepcopy(trunk), nn.Linear(64, CLASSES))
        nn.init.zeros_(network[1].weight)
        nn.init.zeros_(network[1].bias)
        optimiser = torch.optim.SGD(
            network.parameters(), training.learning_rate, training.momentum, weight_decay=training.weight_decay
        )
        losses = []
        for batch in batches_SB(len(images), training.batch_size, training.steps, [seed]):
            with torch.no_grad():
                losses.append(loss_of(network, slice(None)).item())
            optimiser.zero_grad()
            loss_of(network, torch.from_numpy(batch[0])).backward()
            optimiser.step()
        curves.append(losses)
    return Curve(np.array(curves), np.zeros((len(curves), training.steps)))


@pytest.mark.parametrize(
    ("loss", "rate", "momentum", "levels"),
    [
        ("cross_entropy", 0.02, 0.0, (0.7, 0.5)),
        ("cross_entropy", 0.002, 0.9, (0.7, 0.5)),
        ("squared", 0.02, 0.0, (0.6, 0.5)),
    ],
)
def test_the_forecast_is_within_a_quarter_of_the_real_time(pretrained, loss, rate, momentum, levels):
    training = Training(learning_rate=rate, batch_size=20, steps=260, momentum=momentum, weight_decay=5e-4, loss=loss)
    network = measured(*pretrained, training)
    # Other seeds than the forecast's: the order of the images is not known beforehand.
    real = fine_tuned(*pretrained, training, seeds=(100, 101))
    for level in levels:
        target = Target("fraction_of_initial", level)
        found = forecast(network, training, target, seeds=3)
        expected = time_to_target(real, target).steps
        assert expected >= 15
        assert found.verdict == "reached"
        assert 1 / 1.25 <= found.steps / expected <= 1.25
    probe = forecast(network, training, target, seeds=3, method="linear_probe")
    assert probe.steps is None or probe.steps > 1.2 * expected


def test_a_small_rate_makes_the_forecast_of_the_same_batches_exact(pretrained):
    """While weights hardly move the network is its linearisation: what is left is what the directions leave out."""
    training = Training(learning_rate=2e-3, batch_size=20, steps=40, weight_decay=5e-4)
    network = measured(*pretrained, training)
    real = fine_tuned(*pretrained, training, seeds=(7,))
    simulated = bilinear.simulate(network, training, seeds=(7,))
    drop = real.loss_ST[0, 0] - real.loss_ST[0]
    np.testing.assert_allclose(simulated.loss_ST[0, 0] - simulated.loss_ST[0, 10:40], drop[10:], rtol=0.02)
