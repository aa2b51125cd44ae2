"""Networks: one pass gives the features and, through the head, the architecture's own logits.

B images, D features, Z source classes
"""

import dataclasses
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torchvision.models import get_model

from app.domain.errors import ModelRejected
from app.domain.model_spec import Head, ModelSpec
from tests.fixtures.weights import file_source, small_spec
from workers.zoo.network import load_network
from workers.zoo.sources import cached_weights


def torchvision_spec(folder: Path, name: str, classes: int) -> tuple[ModelSpec, torch.nn.Module]:
    options = {"init_weights": False} if name in {"googlenet", "inception_v3"} else {}
    torch.manual_seed(0)
    module = get_model(name, weights=None, num_classes=classes, **options).eval()
    save_file(module.state_dict(), folder / f"{name}.safetensors")
    spec = dataclasses.replace(
        small_spec(folder),
        architecture=f"torchvision:{name}",
        source=file_source(folder / f"{name}.safetensors"),
        head=Head(num_classes=classes, label_set="random"),
    )
    return spec, module


# resnetblur18 keeps its blur filters out of its state; test_vit pools by a token.
@pytest.mark.parametrize(
    ("name", "side"), [("test_resnet", 64), ("test_vit", 160), ("test_efficientnet", 64), ("resnetblur18", 64)]
)
def test_timm_features_feed_the_classifier(tmp_path: Path, name: str, side: int) -> None:
    spec = small_spec(tmp_path, name, side=side, classes=7)
    weights = cached_weights(spec.source, tmp_path / "cache")
    network = load_network(spec, weights)
    torch.manual_seed(0)
    module = timm.create_model(name, num_classes=7).eval()
    batch_BCHW = torch.randn(2, 3, side, side)
    with torch.inference_mode():
        features_BD, logits_BZ = network(batch_BCHW)
        expected_BD = module.forward_head(module.forward_features(batch_BCHW), pre_logits=True)
        torch.testing.assert_close(features_BD, expected_BD, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(logits_BZ, module(batch_BCHW), rtol=1e-4, atol=1e-5)
    assert not network.training
    assert network.feature_dim == features_BD.shape[1]
    assert network.num_classes == 7
    assert network.num_parameters == sum(p.numel() for p in module.parameters())
    assert not any(p.requires_grad for p in network.parameters())


@pytest.mark.parametrize(("name", "dim"), [("mobilenet_v3_small", 1024), ("regnet_y_400mf", 440), ("googlenet", 1024)])
def test_torchvision_features_feed_the_classifier(tmp_path: Path, name: str, dim: int) -> None:
    spec, module = torchvision_spec(tmp_path, name, 5)
    network = load_network(spec, cached_weights(spec.source, tmp_path / "cache"))
    batch_BCHW = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        features_BD, logits_BZ = network(batch_BCHW)
        torch.testing.assert_close(logits_BZ, module(batch_BCHW), rtol=1e-4, atol=1e-5)
    assert features_BD.shape == (2, dim)
    assert (network.feature_dim, network.num_classes) == (dim, 5)


@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_a_network_without_head_ends_at_its_features(tmp_path: Path, library: str) -> None:
    if library == "timm":
        spec = small_spec(tmp_path, classes=None)
    else:
        spec, module = torchvision_spec(tmp_path, "mobilenet_v3_small", 5)
        state = {name: tensor for name, tensor in module.state_dict().items() if not name.startswith("classifier.3")}
        save_file(state, tmp_path / "headless.safetensors")
        spec = dataclasses.replace(spec, source=file_source(tmp_path / "headless.safetensors"), head=None)
    network = load_network(spec, cached_weights(spec.source, tmp_path / "cache"))
    features_BD, logits_BZ = network(torch.randn(2, 3, 64, 64))
    assert logits_BZ is None
    assert features_BD.ndim == 2
    assert network.num_classes is None


@pytest.mark.parametrize(
    "architecture",
    ["timm:no_such_net", "torchvision:fcn_resnet50", "torchvision:squeezenet1_1", "torchvision:get_model"],
)
def test_an_unknown_architecture_is_refused(tmp_path: Path, architecture: str) -> None:
    spec = small_spec(tmp_path)
    weights = cached_weights(spec.source, tmp_path / "cache")
    with pytest.raises(ModelRejected) as caught:
        load_network(dataclasses.replace(spec, architecture=architecture), weights)
    expected = "weights_mismatch" if "squeezenet" in architecture else "unknown_architecture"
    assert caught.value.code == expected


def test_a_network_without_a_final_linear_layer_is_refused(tmp_path: Path) -> None:
    spec, _ = torchvision_spec(tmp_path, "squeezenet1_1", 5)
    with pytest.raises(ModelRejected) as caught:
        load_network(spec, cached_weights(spec.source, tmp_path / "cache"))
    assert caught.value.code == "unknown_architecture"


def test_a_network_whose_output_is_more_than_a_classifier_is_refused(tmp_path: Path) -> None:
    spec = small_spec(tmp_path, "volo_d1_224", side=224)
    with pytest.raises(ModelRejected, match="second classifier") as caught:
        load_network(spec, cached_weights(spec.source, tmp_path / "cache"))
    assert (caught.value.code, caught.value.param) == ("unknown_architecture", "architecture")


def test_preprocessing_must_be_stated(tmp_path: Path) -> None:
    spec = small_spec(tmp_path)
    weights = cached_weights(spec.source, tmp_path / "cache")
    with pytest.raises(ModelRejected) as caught:
        load_network(dataclasses.replace(spec, preprocessing=None), weights)
    assert caught.value.code == "incomplete_preprocessing"


def test_what_one_pass_looked_up_is_no_constant_to_the_next(tmp_path: Path) -> None:
    """LeViT keeps its position biases after a pass in eval mode, where they would never learn again."""
    spec = small_spec(tmp_path, "levit_128s", side=224)
    network = load_network(spec, cached_weights(spec.source, tmp_path / "cache"))
    batch_BCHW = torch.randn(1, 3, 224, 224)
    with torch.inference_mode():
        before_BD = network(batch_BCHW)[0]
    biases = [part for name, part in network.trunk.named_parameters() if name.endswith("attention_biases")]
    for _ in range(2):  # a graph that was kept could not be passed through again
        with torch.enable_grad():
            features_BD = network.requires_grad_()(batch_BCHW)[0]
            gradients = torch.autograd.grad(features_BD.square().sum(), biases)
        assert any(gradient.any() for gradient in gradients)
    assert len(biases) > 5
    torch.testing.assert_close(features_BD.detach(), before_BD, rtol=1e-4, atol=1e-5)
