"""From few images to many: the spectral rule and nested subsets."""

import numpy as np
import pytest
import scipy.fft

from app.domain.errors import EvaluationFailed
from app.forecasting import bilinear, gradient_flow
from app.forecasting.curve import Curve
from app.forecasting.level_times import level_times_L
from app.forecasting.linearisation import linearise
from app.forecasting.nested_subsets import halves, richardson, stretch_L
from app.forecasting.spectral_rule import loss_curve_T
from app.forecasting.training import Training
from tests.unit.forecasting.toy import Toy

SQUARED = Training(learning_rate=0.2, batch_size=10_000, steps=300, loss="squared")


def power_law(images, exponent=1.6):
    """Return a frozen backbone whose kernel over N has the eigenvalues 3 k^-exponent, and cosines as eigenvectors.

    The cosines and the labels are functions on a line of which more images are a denser sample, so the answer for any
    number of images is known: the flow under the same eigenvalues, more of them.
    """
    vectors_NK = scipy.fft.idct(np.eye(images), axis=0, norm="ortho")
    values_K = 3 * np.arange(1.0, images + 1) ** -exponent
    values_K[0] -= 1  # the head's bias adds 1 to the eigenvalue of the constant vector, the first cosine
    place_N = (np.arange(images) + 0.5) / images
    return linearise(vectors_NK * np.sqrt(images * values_K), (place_N > 0.37).astype(int))


@pytest.mark.parametrize(("measured", "images"), [(200, 200), (150, 600), (120, 300)])
def test_the_rule_extends_a_power_law_whose_answer_is_known(measured, images):
    expected = gradient_flow.solve(power_law(images), SQUARED).loss_ST[0]
    found = loss_curve_T(power_law(measured), SQUARED, num_images=images, alpha=0.0)
    assert found[0] == pytest.approx(expected[0], rel=0.01)
    np.testing.assert_allclose(found[5:], expected[5:], rtol=0.1)
    levels_L = np.array([0.4, 0.2, 0.1])
    np.testing.assert_allclose(level_times_L(found, levels_L), level_times_L(expected, levels_L), rtol=0.15)


def test_energies_of_all_modes_sum_to_the_known_distance():
    small = power_law(150)
    for images in (150, 151, 400, 5000):
        assert loss_curve_T(small, SQUARED, num_images=images)[0] == pytest.approx(0.5)


def test_a_larger_alpha_steepens_the_spectrum_and_slows_the_late_training():
    small = power_law(150)
    ends = [loss_curve_T(small, SQUARED, num_images=600, alpha=alpha)[-1] for alpha in (0.0, 0.1, 0.2)]
    assert ends == sorted(ends)
    assert ends[0] < ends[2]


def test_the_rule_refuses_cross_entropy_and_a_kernel_without_spectrum():
    with pytest.raises(EvaluationFailed) as refusal:
        loss_curve_T(power_law(20), Training(learning_rate=0.1, batch_size=4, steps=5), num_images=40)
    assert refusal.value.code == "forecast_loss"
    with pytest.raises(EvaluationFailed) as refusal:
        loss_curve_T(linearise(np.zeros((6, 2)), np.arange(6) % 2), SQUARED, num_images=40)
    assert refusal.value.code == "forecast_spectrum"


def test_richardson_is_exact_for_a_first_order_bias():
    def time(images):
        return np.array([50.0, 80.0]) - np.array([300.0, 900.0]) / images

    for images in (100, 250, 10**9):
        found = richardson(time(100), time(50), simulated=100, num_images=images)
        np.testing.assert_allclose(found, time(images))


def test_halves_are_disjoint_and_balanced():
    labels_N = np.array([0, 0, 0, 0, 1, 1, 2, 2, 2, 2, 2, 2])
    first, second = halves(labels_N)
    np.testing.assert_array_equal(np.sort(np.concatenate([first, second])), np.arange(12))
    np.testing.assert_array_equal(np.bincount(labels_N[first]), [2, 1, 3])


def test_the_stretch_is_the_extrapolated_over_the_simulated_time():
    toy = Toy.random(images=40, dimensions=20)
    network = toy.linearise()

    def falling(time):
        return Curve(np.exp(-np.arange(900) / time)[None], np.zeros((1, 900)))

    found = stretch_L(network, falling(40.0), lambda part: falling(30.0 * part.num_images / 20), num_images=80)
    np.testing.assert_allclose(found, 45 / 40, rtol=0.02)
    sooner = stretch_L(network, falling(40.0), lambda part: falling(60.0), num_images=80)
    np.testing.assert_array_equal(sooner, 1)
    never = stretch_L(network, falling(1e9), lambda part: falling(30.0), num_images=80)
    np.testing.assert_array_equal(never, 1)


def test_simulated_subsets_stretch_the_time_of_a_network():
    toy = Toy.random(images=40, dimensions=60, classes=2)
    training = Training(learning_rate=0.01, batch_size=8, steps=200)
    network = toy.linearise()

    def simulate(part):
        return bilinear.simulate(part, training, seeds=[0, 1])

    found = stretch_L(network, simulate(network), simulate, num_images=400)
    assert 1.05 < found[20] <= 3


def test_level_times_are_linear_between_steps():
    loss_T = np.array([2.0, 1.0, 1.2, 0.5, 0.5])
    np.testing.assert_allclose(level_times_L(loss_T, np.array([0.75, 0.5, 0.375, 0.25, 0.1])), [0.5, 1, 2.5, 3, np.inf])
