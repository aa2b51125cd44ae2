"""Reduced precision: what it is checked for, that it never mixes, and that float32 stays so. Real autocast, on a CPU.

N images, D features
"""

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from app.domain.model_spec import Preprocessing
from tests.fixtures.subjects import IMAGES, make_subject
from tests.fixtures.weights import HALF
from tests.workers.extract.test_features import pictures
from workers.evaluate import _kept as kept_scores
from workers.extract.features import extract
from workers.extract.precision import forward, wanted_precision
from workers.extract.precision_check import check_precision, relative_error, same_neighbours
from workers.extract.reuse import features_of
from workers.feature_cache import CacheKey, ScoredModel, load_extraction, store_scores
from workers.subject import Subject
from workers.zoo.network import Network
from workers.zoo.preprocessing import Preprocessor

CPU = torch.device("cpu")


class Scaled(nn.Module):
    """A convolution whose outputs are as large as wanted, or as far away from their differences."""

    def __init__(self, scale: float = 1.0, offset: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.convolution = nn.Conv2d(3, 8, 4)
        self.scale, self.offset = scale, offset

    def forward(self, batch_BCHW: torch.Tensor) -> torch.Tensor:
        return (self.convolution(batch_BCHW) * self.scale + self.offset).mean((2, 3))


class OneTypeOnly(Scaled):
    """Collects its features in a tensor of its own, as some networks do, which takes float32 alone."""

    def forward(self, batch_BCHW: torch.Tensor) -> torch.Tensor:
        collected_BD = torch.zeros(len(batch_BCHW), 8)
        return collected_BD.index_add(0, torch.arange(len(batch_BCHW)), super().forward(batch_BCHW))


def network_of(trunk: nn.Module, head: nn.Module | None = None) -> Network:
    steps = Preprocessing(resize=8, crop=(8, 8), interpolation="bilinear", mean=HALF, std=HALF)
    return Network(trunk, head, Preprocessor(steps))


@pytest.mark.parametrize(("precision", "digits"), [("bfloat16", 8), ("float16", 11)])
def test_a_sound_network_passes_and_says_by_how_much_it_errs(precision: str, digits: int) -> None:
    check = check_precision(network_of(Scaled()), pictures(16), precision)
    assert (check.wanted, check.used, check.reason, check.images) == (precision, precision, None, 16)
    assert check.relative_error is not None
    assert 2.0 ** -(digits + 6) < check.relative_error < 2.0 ** -(digits - 5)
    assert check.same_neighbours == 1


@pytest.mark.parametrize(
    ("trunk", "precision", "why"),
    [
        (Scaled(1e6), "float16", "NaN or infinity"),
        (Scaled(1, 1e4), "bfloat16", "of how much the images differ"),
        (OneTypeOnly(), "bfloat16", "does not compute in bfloat16"),
    ],
)
def test_a_network_that_fails_runs_in_float32_and_says_why(trunk: nn.Module, precision: str, why: str) -> None:
    check = check_precision(network_of(trunk), pictures(16), precision)
    assert check.used == "float32"
    assert check.reason is not None
    assert why in check.reason


def test_errors_are_measured_by_how_images_differ() -> None:
    rng = np.random.default_rng(0)
    features_ND = rng.normal(size=(10, 5)).astype(np.float32)
    noise_ND = 0.01 * rng.normal(size=(10, 5)).astype(np.float32)
    near = relative_error(features_ND, features_ND + noise_ND)
    assert near == pytest.approx(0.01, rel=0.5)
    far = features_ND.astype(np.float64) + 1000
    assert relative_error(far, far + noise_ND) == pytest.approx(near, rel=1e-3), "what all share does not count"
    assert relative_error(features_ND[:1], features_ND[:1]) == 0


def test_a_neighbour_as_near_as_the_nearest_is_the_same() -> None:
    line = np.array([[0.0], [1.0], [-1.01], [5.0]], np.float32)
    swapped = np.array([[0.0], [1.0], [-0.99], [5.0]], np.float32)
    assert same_neighbours(line, swapped) == 1
    moved = np.array([[0.0], [4.5], [-1.01], [5.0]], np.float32)
    assert same_neighbours(line, moved) == 0.75
    assert same_neighbours(line[:1], line[:1]) == 1


def test_only_the_trunk_computes_in_the_reduced_precision() -> None:
    network = network_of(Scaled(), nn.Linear(8, 3))
    batch_BCHW = torch.randn(4, 3, 8, 8)
    with torch.inference_mode():
        features_BD, logits_BZ = forward(network, batch_BCHW, "bfloat16")
        assert (features_BD.dtype, logits_BZ.dtype) == (torch.float32, torch.float32)
        assert not torch.equal(features_BD, network.trunk(batch_BCHW))
        assert torch.equal(logits_BZ, network.head(features_BD))
        assert torch.equal(forward(network, batch_BCHW, "float32")[0], network.trunk(batch_BCHW))


def test_a_cpu_computes_in_float32_unless_told_otherwise() -> None:
    assert wanted_precision("auto", CPU) == "float32"
    assert wanted_precision("bfloat16", CPU) == "bfloat16"


PINNED = """
import torch
from workers.runtime import runtime
parts = runtime()
backends = torch.backends
print(parts.precision, parts.decode_threads, backends.cudnn.benchmark, backends.cudnn.allow_tf32)
print(backends.cuda.matmul.allow_tf32, backends.cuda.matmul.fp32_precision, backends.mkldnn.matmul.fp32_precision)
print(backends.cuda.matmul.allow_fp16_reduced_precision_reduction, torch.get_float32_matmul_precision())
"""


def test_float32_is_float32_in_every_worker(tmp_path: Path) -> None:
    """cuDNN's convolutions would round to TF32 unless told otherwise."""
    variables = {"FORETUNE_HOME": str(tmp_path), "PATH": "", "FORETUNE_DECODE_THREADS": "3"}
    done = subprocess.run([sys.executable, "-c", PINNED], env=variables, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["float32", "3", *["False"] * 3, "ieee", "ieee", "False", "highest"]


def with_precision(subject: Subject, precision: str, max_images: int = 1000) -> Subject:
    key = dataclasses.replace(subject.key, precision=precision, max_images=max_images)
    return Subject(subject.runtime, subject.spec, key, subject.held)


def test_features_of_two_precisions_are_kept_apart(tmp_path: Path) -> None:
    with make_subject(tmp_path) as subject:
        reduced = with_precision(subject, "float16")
        found = features_of(reduced, ())
        assert (found.precision, reduced.key.precision) == ("float16", "float16")
        assert found.check is not None
        assert found.check.used == "float16"
        again = features_of(with_precision(subject, "float16"), ())
        assert again.check == found.check
        np.testing.assert_array_equal(again.features_ND, found.features_ND)

        full = features_of(subject, ())
        assert subject.ran == {"features"}, "reduced ones do not do where float32 is wanted"
        assert (full.precision, full.check) == ("float32", None)
        error = np.abs(full.features_ND - found.features_ND).max() / np.abs(full.features_ND).max()
        assert 1e-5 < error < 0.1

        subject.runtime.objects.delete(reduced.key.extraction)
        other = with_precision(subject, "float16")
        assert features_of(other, ()).precision == "float32", "float32 does where less is wanted"
        assert (other.ran, other.key.precision) == (set(), "float32")


def test_a_race_goes_on_in_the_precision_that_it_began_with(tmp_path: Path) -> None:
    with make_subject(tmp_path) as subject:
        first = with_precision(subject, "float16", 30)
        features_of(first, ())
        later = with_precision(subject, "float16")
        both = features_of(later, (first.key,))
        assert len(both.features_ND) == IMAGES
        assert both.check is not None
        assert both.check.images == 16
        assert load_extraction(subject.runtime.objects, first.key) is None, "it is part of the larger one"
        alone = extract(subject.network, subject.decoded(range(IMAGES)), batch_size=16, precision="float16")
        np.testing.assert_allclose(both.features_ND, alone.features_ND, rtol=0.05, atol=0.02)
        full_ND = extract(subject.network, subject.decoded(range(IMAGES)), batch_size=16).features_ND
        errors_N = np.abs(both.features_ND - full_ND).max(axis=1)
        assert (errors_N > 0).all(), "every image's features are of the reduced precision"


def overflowing(subject: Subject) -> None:
    """Make the last image's features overflow in float16 and nobody else's: its sum is blown up."""
    network = subject.network
    last = torch.tensor(network.preprocess.pixels(next(subject.decoded([IMAGES - 1]))))[None]
    mark = float(network.preprocess(last).sum())

    def blow_up(module: nn.Module, inputs: tuple[torch.Tensor, ...], features_BD: torch.Tensor) -> torch.Tensor:
        is_last_B = (inputs[0].float().sum((1, 2, 3)) - mark).abs() < 1e-2
        return torch.where(is_last_B[:, None], features_BD * features_BD.new_tensor(6e4) * 100, features_BD)

    network.trunk.register_forward_hook(blow_up)


def test_an_overflow_that_the_check_did_not_see_begins_anew_in_float32(tmp_path: Path) -> None:
    with make_subject(tmp_path) as subject:
        reduced = with_precision(subject, "float16", 30)
        earlier = features_of(reduced, ())
        assert earlier.precision == "float16"
        overflowing(subject)
        later = with_precision(subject, "float16")
        found = features_of(later, (reduced.key,))
        assert (found.precision, later.key.precision) == ("float32", "float32")
        assert found.check is not None
        assert found.check.reason is not None
        assert "NaN or infinity" in found.check.reason
        kept = load_extraction(subject.runtime.objects, dataclasses.replace(later.key, precision="float32"))
        assert kept is not None
        assert kept.check == found.check


def test_scores_say_of_which_precision_they_are(tmp_path: Path) -> None:
    with make_subject(tmp_path) as subject:
        wanted = dataclasses.replace(subject.key, precision="bfloat16")
        assert kept_scores(subject.runtime, wanted) == (wanted, None)
        none = np.zeros(0, np.int64)
        scored = ScoredModel({}, none, none > 0, none > 0, none, {}, {}, {"used": "float32", "wanted": "bfloat16"})
        store_scores(subject.runtime.objects, subject.key, scored)
        key, found = kept_scores(subject.runtime, wanted)
        assert key == subject.key
        assert found is not None
        assert found.precision == scored.precision


def test_names_of_what_was_kept_before_there_were_precisions_stay() -> None:
    key = CacheKey("data", "model", 100, "random-all-20")
    assert key.extraction == "extractions/data/model/v1-100.npz"
    reduced = dataclasses.replace(key, precision="float16")
    names = [(one.extraction, one.kernels, one.scores, one.explanation, one.linearisation(5)) for one in (key, reduced)]
    assert not set(names[0]) & set(names[1])
    assert key.units == reduced.units
