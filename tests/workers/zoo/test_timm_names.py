"""Checkpoints as their authors publish them: timm renames them, and nothing but names may be wrong."""

import dataclasses
import re
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from app.domain.errors import ModelRejected
from app.domain.model_spec import Head, ModelSpec
from tests.fixtures.weights import file_source, small_spec
from workers.zoo.architectures import build_with
from workers.zoo.containers import Tensors, read
from workers.zoo.model_facts import tensors_sha256
from workers.zoo.network import load_network
from workers.zoo.sources import cached_weights

Names = tuple[tuple[str, str], ...]

CONVNEXT: Names = (
    (r"^head\.norm\.", "norm."),
    (r"^head\.fc\.", "head."),
    (r"^stem\.", "downsample_layers.0."),
    (r"^stages\.(\d)\.downsample\.", r"downsample_layers.\1."),
    (r"\.blocks\.", "."),
    (r"conv_dw", "dwconv"),
    (r"mlp\.fc", "pwconv"),
)
"""From timm's names to those of the authors of ConvNeXt."""


def published(state: Tensors, names: Names) -> Tensors:
    found = {}
    for name, tensor in state.items():
        for ours, theirs in names:
            name = re.sub(ours, theirs, name)
        found[name] = tensor
    return found


def convnext(folder: Path) -> tuple[ModelSpec, Tensors]:
    """Return a ConvNeXt whose file has the authors' names, and its weights under timm's."""
    spec = small_spec(folder, "convnext_atto")
    path = Path(spec.source.uri.removeprefix("file://"))  # type: ignore[union-attr]
    own = load_file(path)
    theirs = published(own, CONVNEXT)
    assert not set(theirs) & set(own)
    save_file(theirs, path)
    return dataclasses.replace(spec, source=file_source(path)), own


def test_authors_names_become_timms(tmp_path: Path) -> None:
    spec, own = convnext(tmp_path)
    path = Path(spec.source.uri.removeprefix("file://"))  # type: ignore[union-attr]
    torch.testing.assert_close(dict(build_with(spec, read(path)).state_dict()), own)


def test_they_are_the_same_weights_and_compute_the_same(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    own = small_spec(tmp_path / "own", "convnext_atto")
    theirs, _ = convnext(tmp_path)
    networks = [load_network(spec, cached_weights(spec.source, tmp_path / "cache")) for spec in (own, theirs)]
    assert len({tensors_sha256(network) for network in networks}) == 1
    batch_BCHW = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(networks[0](batch_BCHW), networks[1](batch_BCHW))


@pytest.mark.parametrize("change", ["missing", "unexpected", "classes"])
def test_what_renaming_does_not_mend_is_told_by_the_names_in_the_file(tmp_path: Path, change: str) -> None:
    spec, _ = convnext(tmp_path)
    path = Path(spec.source.uri.removeprefix("file://"))  # type: ignore[union-attr]
    tensors = read(path)
    if change == "missing":
        del tensors["stages.0.0.dwconv.weight"]
    elif change == "unexpected":
        tensors["stages.0.7.dwconv.weight"] = torch.zeros(3)
    else:
        spec = dataclasses.replace(spec, head=Head(num_classes=11, label_set="x"))
    with pytest.raises(ModelRejected) as caught:
        build_with(spec, tensors)
    assert caught.value.code == "weights_mismatch"
    assert "downsample_layers.0.0.bias" in caught.value.message


def test_positions_of_another_size_are_not_made_up(tmp_path: Path) -> None:
    """timm's function for transformers renames, and would resize the table of positions."""
    state = timm.create_model("vit_tiny_patch16_224", depth=1, img_size=64, num_classes=10).state_dict()
    spec = dataclasses.replace(
        small_spec(tmp_path), architecture="timm:vit_tiny_patch16_224", arguments={"depth": 1, "img_size": 96}
    )
    with pytest.raises(ModelRejected, match="pos_embed"):
        build_with(spec, state)
    fitting = dataclasses.replace(spec, arguments={"depth": 1, "img_size": 64})
    torch.testing.assert_close(dict(build_with(fitting, state).state_dict()), state)
