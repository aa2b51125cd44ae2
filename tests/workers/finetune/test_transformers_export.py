"""Tuned networks of transformers, and ones built with arguments, work without this product."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision.models
import transformers
from safetensors.torch import load_file, save_file

from app.domain.model_spec import ModelSpec
from tests.fixtures.weights import file_source
from tests.workers.finetune.test_export import (
    export_of,
    loaded_script,
    logits_of,
    logits_of_script,
    random_values,
    somehow_tuned,
    unpacked,
)
from workers.zoo.network import load_network
from workers.zoo.sources import cached_weights

VIT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
VIT |= {"image_size": 48, "patch_size": 8}
STAGES = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}


def network_of(which: str) -> tuple[torch.nn.Module, dict[str, Any]]:
    """Return a network of some library and what a specification says of it."""
    torch.manual_seed(0)
    if which == "timm":
        arguments: dict[str, Any] = {"img_size": 48}
        network = timm.create_model("test_vit", pretrained=False, num_classes=5, **arguments)
        return network, {"architecture": "timm:test_vit", "arguments": arguments}
    if which == "torchvision":
        arguments = {"width_mult": 0.35}
        network = torchvision.models.get_model("mobilenet_v2", weights=None, num_classes=5, **arguments)
        return network, {"architecture": "torchvision:mobilenet_v2", "arguments": arguments}
    arguments = STAGES if which == "resnet" else VIT
    if which == "clip_vision_model":
        tower = transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**arguments))
        return tower, {"architecture": f"transformers:{which}", "arguments": arguments, "head": None}
    name = {"vit": "ViT", "dinov2": "Dinov2", "resnet": "ResNet"}[which]
    arguments = {key: value for key, value in arguments.items() if which != "dinov2" or key != "intermediate_size"}
    config = getattr(transformers, f"{name}Config")(**arguments, num_labels=5)
    network = getattr(transformers, f"{name}ForImageClassification")(config)
    return network, {"architecture": f"transformers:{which}", "arguments": arguments}


@pytest.mark.parametrize("which", ["timm", "torchvision", "vit", "dinov2", "resnet", "clip_vision_model"])
@pytest.mark.parametrize("resize", [57, [52, 61], None])
def test_exported_weights_give_the_same_logits(tmp_path: Path, which: str, resize: Any) -> None:
    network, said = network_of(which)
    state = {
        name: random_values(value.shape) if value.is_floating_point() else value.contiguous()
        for name, value in network.state_dict().items()
    }
    save_file(state, tmp_path / "own.safetensors")
    steps = {"resize": resize, "crop": [48, 48], "interpolation": "lanczos", "mean": [0.5] * 3, "std": [0.25] * 3}
    source = {"type": "safetensors", **asdict(file_source(tmp_path / "own.safetensors"))}
    said = {"name": which, "source": source, "license": "MIT", "head": {"num_classes": 5, "label_set": "x"}} | said
    spec = ModelSpec.from_dict(said | {"preprocessing": steps | {"crop_corner": "floored"}})
    loaded = load_network(spec, cached_weights(spec.source, tmp_path / "cache"))
    tuned = somehow_tuned(loaded)
    assert tuned.weights is not None
    script = loaded_script(unpacked(export_of(spec, tuned), tmp_path, base=loaded))
    expected = logits_of(loaded, tuned.weights)
    found = logits_of_script(script, load_file(tmp_path / "weights.safetensors"), tmp_path)
    assert float((found - expected).abs().max()) < 1e-4 * float(expected.abs().max())
    assert float(expected.std(dim=0).max()) > 0
    start = logits_of_script(script, script.started(tmp_path / "base.safetensors", 3).state_dict(), tmp_path)
    assert torch.equal(start, torch.zeros_like(start))
