"""Admission: what is refused, by which check, and what is remembered of the checks before it.

B images, D features
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from app.domain.errors import ModelRejected
from app.domain.model_spec import Head, KnownPhoto, KnownSimilarity, ModelSpec, Preprocessing
from tests.fixtures.weights import HALF, file_source, packaged, small_spec
from workers.zoo import soundness
from workers.zoo.admission import AdmissionRefused, Check, admit
from workers.zoo.network import Network
from workers.zoo.preprocessing import Preprocessor

Change = Callable[[ModelSpec], ModelSpec]


def replaced(**fields: object) -> Change:
    return lambda spec: dataclasses.replace(spec, **fields)  # type: ignore[arg-type]


def resized(side: int) -> Change:
    steps = Preprocessing(resize=side, crop=(side, side), interpolation="bilinear", mean=HALF, std=HALF)
    return replaced(preprocessing=steps)


def broken(name: str, value: float) -> Change:
    """Change one tensor in the file."""

    def change(spec: ModelSpec) -> ModelSpec:
        path = Path(spec.source.uri.removeprefix("file://"))  # type: ignore[union-attr]
        state = load_file(path)
        state[name][:] = value
        save_file(state, path)
        return dataclasses.replace(spec, source=file_source(path))

    return change


def test_a_small_model_passes_with_warnings_for_what_it_does_not_state(tmp_path: Path) -> None:
    spec = dataclasses.replace(small_spec(tmp_path), homepage=None)
    admission = admit(spec, tmp_path / "cache")
    outcomes = {check["name"]: check["outcome"] for check in admission.checks}
    assert [name for name, outcome in outcomes.items() if outcome == "warn"] == [
        "known_photos",
        "known_similarity",
        "license",
    ]
    assert admission.spec == spec
    assert admission.weights.is_file()
    assert all(check["seconds"] >= 0 and check["detail"] for check in admission.checks)
    assert set(admission.facts) == {
        "feature_dim",
        "num_classes",
        "parameters",
        "weights_sha256",
        "weights_bytes",
        "gflops",
    }


@pytest.mark.parametrize(
    ("change", "code", "check"),
    [
        (lambda spec: replaced(source=dataclasses.replace(spec.source, sha256="0" * 64))(spec), None, "weights"),
        (replaced(preprocessing=None), "incomplete_preprocessing", "preprocessing"),
        (replaced(architecture="timm:no_such_net"), "unknown_architecture", "architecture"),
        (replaced(architecture="timm:test_convnext"), "weights_mismatch", "tensors"),
        (replaced(head=Head(num_classes=11, label_set="x")), "weights_mismatch", "tensors"),
        (broken("conv1.0.weight", float("nan")), "non_finite_weights", "finite_weights"),
        (broken("bn1.running_var", -1.0), "non_finite_features", "forward"),
        (replaced(known_photos=(KnownPhoto(photo="moon.jpg", classes=(1,)),)), "unknown_photo", "known_photos"),
        (replaced(license=" "), "license_missing", "license"),
        (replaced(license="unknown"), "license_missing", "license"),
    ],
)
def test_the_first_failed_check_refuses_the_model(tmp_path: Path, change: Change, code: str | None, check: str) -> None:
    seen: list[Check] = []
    with pytest.raises(AdmissionRefused) as caught:
        admit(change(small_spec(tmp_path)), tmp_path / "cache", on_check=seen.append)
    refused = caught.value
    assert isinstance(refused, ModelRejected)
    assert refused.code == (code or "weights_hash_mismatch")
    assert refused.hint
    assert refused.checks == seen
    assert [one["outcome"] for one in seen[:-1]].count("fail") == 0
    assert (seen[-1]["name"], seen[-1]["outcome"], seen[-1]["detail"]) == (check, "fail", refused.message)


def test_an_input_size_the_architecture_cannot_take_is_refused(tmp_path: Path) -> None:
    spec = resized(96)(small_spec(tmp_path, "vit_tiny_patch16_224", side=224))
    with pytest.raises(AdmissionRefused) as caught:
        admit(spec, tmp_path / "cache")
    assert (caught.value.code, caught.value.param) == ("forward_failed", "preprocessing.crop")


def test_a_photo_named_wrongly_refuses_the_model(tmp_path: Path, weights_cache: Path) -> None:
    spec = packaged("mobilenetv2-dogs")
    wrong = dataclasses.replace(spec, known_photos=(KnownPhoto(photo="dog.jpg", classes=(13,)),))
    with pytest.raises(AdmissionRefused) as caught:
        admit(wrong, weights_cache)
    assert caught.value.code == "known_photo_mismatch"
    assert "dog.jpg: class 9 at 1.00" in caught.value.message


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("mobilenetv2-imagenet", {"mean": HALF, "std": HALF}),
        ("mobilenetv2-deepsort", {"channels": "BGR"}),
        ("mobilenetv2-dogs", {"divide_by": 1.0}),
    ],
)
def test_wrong_preprocessing_is_noticed(name: str, change: dict[str, object], weights_cache: Path) -> None:
    spec = packaged(name)
    assert spec.preprocessing is not None
    steps = dataclasses.replace(spec.preprocessing, **change)  # type: ignore[arg-type]
    with pytest.raises(AdmissionRefused) as caught:
        admit(dataclasses.replace(spec, preprocessing=steps, known_photos=()), weights_cache)
    assert caught.value.code == "known_similarity_mismatch"


def test_similarities_of_other_photos_are_a_mismatch(tmp_path: Path) -> None:
    known = KnownSimilarity(photos=("cat.jpg", "cow.jpg", "dog.jpg"), similarities=(1.0, 1.0, 1.0))
    spec = dataclasses.replace(small_spec(tmp_path), known_similarity=known)
    with pytest.raises(AdmissionRefused, match="tolerance"):
        admit(spec, tmp_path / "cache")


class RandomTrunk(nn.Module):
    """Draws anew in every pass, as dropout outside of eval mode does."""

    def forward(self, batch_BCHW: Tensor) -> Tensor:
        return F.dropout(batch_BCHW.flatten(1)[:, :64], 0.5, training=True)


class BatchTrunk(nn.Module):
    """Normalises over the batch, as BatchNorm outside of eval mode does."""

    def forward(self, batch_BCHW: Tensor) -> Tensor:
        features_BD = batch_BCHW.flatten(1)[:, :64]
        return features_BD - features_BD.mean(0)


def test_networks_that_depend_on_chance_or_on_their_neighbours_are_refused() -> None:
    steps = Preprocessing(resize=8, crop=(8, 8), interpolation="bilinear", mean=HALF, std=HALF)
    batch_BCHW = torch.randn(6, 3, 8, 8)
    random = Network(RandomTrunk(), None, Preprocessor(steps))
    with pytest.raises(ModelRejected) as caught:
        soundness.check_deterministic(random, batch_BCHW)
    assert caught.value.code == "not_deterministic"
    batchwise = Network(BatchTrunk(), None, Preprocessor(steps))
    with pytest.raises(ModelRejected) as caught:
        soundness.check_batch_invariant(batchwise, batch_BCHW)
    assert caught.value.code == "not_batch_invariant"
    soundness.check_deterministic(batchwise, batch_BCHW)


def test_features_that_are_not_pooled_are_refused() -> None:
    steps = Preprocessing(resize=8, crop=(8, 8), interpolation="bilinear", mean=HALF, std=HALF)
    network = Network(nn.Identity(), None, Preprocessor(steps))
    with pytest.raises(ModelRejected) as caught:
        soundness.check_forward(network, nn.Identity(), torch.randn(2, 3, 8, 8))
    assert caught.value.code == "features_not_pooled"


def test_a_head_that_is_not_the_last_step_is_refused() -> None:
    steps = Preprocessing(resize=8, crop=(8, 8), interpolation="bilinear", mean=HALF, std=HALF)
    trunk, head = nn.Flatten(), nn.Linear(192, 5)
    network = Network(trunk, head, Preprocessor(steps))
    batch_BCHW = torch.randn(2, 3, 8, 8)
    soundness.check_forward(network, nn.Sequential(trunk, head), batch_BCHW)
    with pytest.raises(ModelRejected) as caught:
        soundness.check_forward(network, nn.Sequential(trunk, head, nn.Softmax(-1)), batch_BCHW)
    assert caught.value.code == "features_not_pooled"
