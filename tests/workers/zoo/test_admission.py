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
from workers.zoo.admission import CHECKS, AdmissionRefused, Check, admit
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


def test_a_small_model_passes_with_warnings_for_what_is_doubtful(tmp_path: Path) -> None:
    spec = dataclasses.replace(small_spec(tmp_path), homepage=None)
    started: list[str] = []
    admission = admit(spec, tmp_path / "cache", on_start=started.append)
    assert tuple(started) == tuple(check["name"] for check in admission.checks) == CHECKS
    warnings = {check["name"]: check["code"] for check in admission.checks if check["outcome"] == "warn"}
    assert warnings == {
        "license": "license_unproven",
        "trained_weights": "near_initialisation",
        "known_photos": "known_photos_missing",
        "known_similarity": "known_similarity_missing",
    }
    assert all(bool(check["hint"]) == (check["outcome"] != "pass") for check in admission.checks)
    assert all(check["seconds"] >= 0 and check["detail"] for check in admission.checks)
    assert admission.spec == spec
    assert admission.weights.is_file()


def test_the_facts_of_a_model(tmp_path: Path) -> None:
    spec = small_spec(tmp_path)
    facts = admit(spec, tmp_path / "cache").facts
    assert {name: facts[name] for name in ("feature_dim", "num_classes", "parameters", "depth", "family")} == {
        "feature_dim": 96,
        "num_classes": 10,
        "parameters": 373_658,
        "depth": 16,
        "family": "resnet",
    }
    assert facts["capabilities"] == {"features": True, "logits": True, "gradients": True}
    assert facts["weights_sha256"] == spec.source.sha256  # type: ignore[union-attr]
    assert len(facts["tensors_sha256"]) == 64
    assert facts["measured_on"] == "cpu"
    assert facts["load_seconds"] > 0
    assert 0.01 < facts["gflops"] < 0.1
    assert set(facts["peak_bytes"]) == set(facts["images_per_second"]) == {"1", "8", "32"}
    assert facts["peak_bytes"]["32"] == 32 * facts["peak_bytes"]["1"]


def test_another_model_with_the_same_weights_is_named(tmp_path: Path) -> None:
    asked: list[tuple[str, str]] = []

    def twins(weights_sha256: str, tensors_sha256: str) -> str:
        asked.append((weights_sha256, tensors_sha256))
        return "elder (version 2)"

    admission = admit(small_spec(tmp_path), tmp_path / "cache", twins=twins)
    [check] = [check for check in admission.checks if check["name"] == "duplicate_weights"]
    assert (check["outcome"], check["code"]) == ("warn", "duplicate_weights")
    assert "elder (version 2)" in check["detail"]
    assert check["hint"]
    assert asked == [(admission.facts["weights_sha256"], admission.facts["tensors_sha256"])]


@pytest.mark.parametrize(
    ("change", "code", "check"),
    [
        (lambda spec: replaced(source=dataclasses.replace(spec.source, sha256="0" * 64))(spec), None, "weights"),
        (replaced(preprocessing=None), "incomplete_preprocessing", "preprocessing"),
        (replaced(license=" "), "license_missing", "license"),
        (replaced(license="unknown"), "license_missing", "license"),
        (replaced(architecture="timm:no_such_net"), "unknown_architecture", "architecture"),
        (replaced(architecture="timm:test_convnext"), "weights_mismatch", "tensors"),
        (replaced(head=Head(num_classes=11, label_set="x")), "weights_mismatch", "tensors"),
        (broken("conv1.0.weight", float("nan")), "non_finite_weights", "finite_weights"),
        (broken("bn1.running_var", -1.0), "invalid_batch_norm", "trained_weights"),
        (broken("bn1.weight", 1e38), "non_finite_features", "forward"),
        (broken("bn1.weight", 0.0), "constant_features", "forward"),
        (replaced(known_photos=(KnownPhoto(photo="moon.jpg", classes=(1,)),)), "unknown_photo", "known_photos"),
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
    last = seen[-1]
    assert (last["name"], last["outcome"], last["detail"]) == (check, "fail", refused.message)
    assert (last["code"], last["hint"]) == (refused.code, refused.hint)
    assert tuple(one["name"] for one in seen) == CHECKS[: CHECKS.index(check) + 1], "those after it are not run"


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


def network(trunk: nn.Module, head: nn.Module | None = None) -> Network:
    steps = Preprocessing(resize=8, crop=(8, 8), interpolation="bilinear", mean=HALF, std=HALF)
    return Network(trunk, head, Preprocessor(steps))


def test_networks_that_depend_on_chance_or_on_their_neighbours_are_refused() -> None:
    batch_BCHW = torch.randn(6, 3, 8, 8)
    with pytest.raises(ModelRejected) as caught:
        soundness.check_deterministic(network(RandomTrunk()), batch_BCHW)
    assert caught.value.code == "not_deterministic"
    assert caught.value.hint
    batchwise = network(BatchTrunk())
    with pytest.raises(ModelRejected) as caught:
        soundness.check_batch_invariant(batchwise, batch_BCHW)
    assert caught.value.code == "not_batch_invariant"
    assert caught.value.hint
    soundness.check_deterministic(batchwise, batch_BCHW)


def test_features_that_are_not_pooled_are_refused() -> None:
    with pytest.raises(ModelRejected) as caught:
        soundness.check_forward(network(nn.Identity()), nn.Identity(), torch.randn(2, 3, 8, 8))
    assert caught.value.code == "features_not_pooled"


def test_a_head_that_is_not_the_last_step_is_refused() -> None:
    trunk, head = nn.Flatten(), nn.Linear(192, 5)
    batch_BCHW = torch.randn(2, 3, 8, 8)
    soundness.check_forward(network(trunk, head), nn.Sequential(trunk, head), batch_BCHW)
    with pytest.raises(ModelRejected) as caught:
        soundness.check_forward(network(trunk, head), nn.Sequential(trunk, head, nn.Softmax(-1)), batch_BCHW)
    assert caught.value.code == "features_not_pooled"
