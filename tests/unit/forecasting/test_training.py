"""Hyperparameters, their refusals, torch's rule, and the order of the images."""

import math

import numpy as np
import pytest
import torch

from app.domain.errors import BadRequest
from app.domain.finetuning import Recipe
from app.forecasting.batch_order import batches_SB, weights_SN
from app.forecasting.sgd import Sgd
from app.forecasting.training import Training


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("learning_rate", 0.0),
        ("learning_rate", math.nan),
        ("batch_size", 0),
        ("batch_size", 2.5),
        ("steps", 0),
        ("momentum", 1.0),
        ("momentum", -0.1),
        ("weight_decay", -1e-4),
        ("weight_decay", math.inf),
        ("milestones", (20, 10)),
        ("milestones", (-1,)),
        ("gamma", 0.0),
        ("loss", "hinge"),
    ],
)
def test_what_cannot_be_simulated_is_refused(field, value):
    with pytest.raises(BadRequest, match=field) as refusal:
        Training(**{"learning_rate": 0.1, "batch_size": 4, "steps": 10, field: value})
    assert (refusal.value.code, refusal.value.param) == ("invalid_training", field)
    assert refusal.value.hint


@pytest.mark.parametrize("images", [37, 64, 100])
@pytest.mark.parametrize("schedule", ["milestones", "constant"])
def test_a_recipe_keeps_its_rates(images, schedule):
    recipe = Recipe(epochs=7, batch_size=16, schedule=schedule)
    training = Training.from_recipe(recipe, learning_rate=0.02, images=images)
    steps = recipe.steps(images)
    assert training.steps == steps
    expected = [recipe.rate_at(step, steps, 0.02) for step in range(steps)]
    np.testing.assert_allclose([training.rate_at(step) for step in range(steps)], expected)
    assert (training.momentum, training.nesterov, training.weight_decay) == (0.9, True, 1e-4)


@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.9, False), (0.9, True)])
def test_the_rule_is_torchs(momentum, nesterov):
    training = Training(
        learning_rate=0.3, batch_size=1, steps=20, momentum=momentum, nesterov=nesterov, milestones=(3, 3, 9), gamma=0.5
    )
    rng = np.random.default_rng(0)
    weights = rng.standard_normal(5)
    parameter = torch.nn.Parameter(torch.from_numpy(weights.copy()))
    optimiser = torch.optim.SGD([parameter], 0.3, momentum, nesterov=nesterov)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimiser, [3, 3, 9], gamma=0.5)
    sgd = Sgd(training, [weights])
    for number in range(20):
        gradient = rng.standard_normal(5)
        sgd.step(number, [gradient])
        parameter.grad = torch.from_numpy(gradient)
        optimiser.step()
        schedule.step()
        np.testing.assert_allclose(weights, parameter.detach().numpy(), rtol=1e-12)


def test_every_epoch_sees_every_image_once_in_an_order_of_its_own():
    batches = list(batches_SB(10, 4, 7, [0, 1]))
    assert [batch.shape for batch in batches] == [(2, 4), (2, 4), (2, 2)] * 2 + [(2, 4)]
    epochs = [np.concatenate(batches[start : start + 3], axis=1) for start in (0, 3)]
    for epoch in epochs:
        np.testing.assert_array_equal(np.sort(epoch, axis=1), [range(10)] * 2)
    assert not np.array_equal(epochs[0], epochs[1])
    assert not np.array_equal(epochs[0][0], epochs[0][1])
    again = list(batches_SB(10, 4, 7, [0, 1]))
    assert all(np.array_equal(*pair) for pair in zip(batches, again, strict=True))


def test_a_batch_larger_than_the_images_has_them_all():
    assert [batch.shape for batch in batches_SB(3, 8, 2, [0])] == [(1, 3), (1, 3)]


def test_the_mean_of_a_batch_is_over_its_own_size():
    np.testing.assert_array_equal(weights_SN(np.array([[0, 2], [1, 2]]), 4), [[0.5, 0, 0.5, 0], [0, 0.5, 0.5, 0]])
