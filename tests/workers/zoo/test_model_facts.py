"""What a model is called by: its family, its depth, and the digest of its weights."""

import dataclasses
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torchvision.models import resnet18

from tests.fixtures.rows import spec
from tests.fixtures.weights import file_source, small_spec
from workers.zoo.admission import admit
from workers.zoo.model_facts import family, tensors_sha256


@pytest.mark.parametrize(
    ("architecture", "expected"),
    [
        ("timm:resnet18", "resnet"),
        ("timm:test_vit", "vision_transformer"),
        ("timm:tf_efficientnet_lite0", "efficientnet"),
        ("torchvision:resnet18", "resnet"),
        ("transformers:ViT", "vit"),
    ],
)
def test_the_family_is_the_library_s_own_word(architecture: str, expected: str) -> None:
    library, _, name = architecture.partition(":")
    module = timm.create_model(name) if library == "timm" else resnet18()
    assert family(module, dataclasses.replace(spec("one"), architecture=architecture)) == expected


def test_the_digest_is_that_of_the_tensors_alone() -> None:
    torch.manual_seed(0)
    module = resnet18()
    digest = tensors_sha256(module)
    assert digest == tensors_sha256(module)
    module.get_buffer("bn1.num_batches_tracked").fill_(7)
    assert tensors_sha256(module) == digest, "a step counter changes nothing"
    with torch.no_grad():
        module.fc.bias[3] += 1e-7
    assert tensors_sha256(module) != digest


def test_the_same_weights_in_another_file_are_the_same(tmp_path: Path) -> None:
    first = small_spec(tmp_path)
    state = load_file(Path(first.source.uri.removeprefix("file://")))  # type: ignore[union-attr]
    reordered = tmp_path / "reordered.safetensors"
    save_file(dict(reversed(state.items())), reordered, metadata={"note": "the same"})
    second = dataclasses.replace(first, source=file_source(reordered))
    facts, others = (admit(one, tmp_path / "cache").facts for one in (first, second))
    assert facts["weights_sha256"] != others["weights_sha256"]
    assert facts["tensors_sha256"] == others["tensors_sha256"]
