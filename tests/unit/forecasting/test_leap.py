"""How far a step moves the features: against the features themselves, and what a forecast makes of it."""

import dataclasses

import numpy as np
import pytest

from app.forecasting import bilinear
from app.forecasting.batch_order import batches_SB
from app.forecasting.bilinear import Trajectory
from app.forecasting.forecast import LARGEST_LEAP, LONG_LEAP, forecast
from app.forecasting.target import Target
from app.forecasting.training import Training
from tests.unit.forecasting.toy import Toy

TRAINING = Training(learning_rate=0.01, batch_size=6, steps=25, momentum=0.9, nesterov=True)


def movable(scale: float) -> Toy:
    """Return a network whose features move so many times as far as those of another."""
    toy = Toy.random(images=18, dimensions=9)
    return dataclasses.replace(toy, jacobian_NDK=toy.jacobian_NDK * scale)


def test_a_leap_is_the_longest_way_of_the_features_in_one_step_over_their_spread():
    toy = movable(2.0)
    network = toy.linearise()
    spread = np.sqrt(((toy.features_ND - toy.features_ND.mean(axis=0)) ** 2).sum(axis=1).mean())
    ways = []
    for seed in (0, 1, 2):
        trajectory = Trajectory(network, TRAINING, seeds=1)
        for number, batch_SB in enumerate(batches_SB(18, 6, 25, [seed])):
            before_ND = toy.features_ND + trajectory._moved_SQN[0].T @ toy.basis_DQ.T
            trajectory.step(number, batch_SB)
            after_ND = toy.features_ND + trajectory._moved_SQN[0].T @ toy.basis_DQ.T
            ways.append(np.sqrt(((after_ND - before_ND) ** 2).sum(axis=1).mean()) / spread)
    assert bilinear.simulate(network, TRAINING, seeds=[0, 1, 2]).leap == pytest.approx(max(ways), rel=1e-9)


def test_a_frozen_backbone_does_not_leap():
    assert bilinear.simulate(movable(2.0).linearise().without_backbone(), TRAINING).leap == 0


def test_equal_features_have_no_spread_to_leap_over():
    toy = movable(2.0)
    features_ND = np.repeat(toy.features_ND[:1], 18, axis=0)
    network = dataclasses.replace(toy, features_ND=features_ND).linearise()
    assert bilinear.simulate(network, TRAINING).leap == 0


def test_a_forecast_doubts_long_steps_and_gives_no_number_for_the_longest():
    told = []
    training = dataclasses.replace(TRAINING, learning_rate=0.002, batch_size=18, steps=60)
    for scale in np.geomspace(50, 1000, 40):
        network = movable(float(scale)).linearise()
        found = forecast(network, training, Target(value=0.5), seeds=1)
        simulated = bilinear.simulate(network, training)
        if found.verdict == "unstable" and "features_leap" not in found.warnings:
            break  # beyond the learning rate's limit
        if simulated.leap > LARGEST_LEAP:
            assert (found.verdict, found.steps, found.curve) == ("unstable", None, None)
        else:
            assert found.verdict != "unstable"
            assert ("features_leap" in found.warnings) == (simulated.leap > LONG_LEAP)
        told.append(0 if simulated.leap <= LONG_LEAP else 1 if simulated.leap <= LARGEST_LEAP else 2)
    assert set(told) == {0, 1, 2}
    assert told == sorted(told)
