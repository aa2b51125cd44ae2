"""Image networks of transformers: the library's own logits and features, from files as it writes them.

B images, D features, Z source classes
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import transformers
from safetensors.torch import load, save
from torch import Tensor, nn

from app.domain.errors import BadRequest, ModelRejected
from app.domain.model_sources import TransformersSource
from app.domain.model_spec import Head, ModelSpec, Pretraining
from tests.fixtures.hub import Hub
from workers.zoo.architectures import skeleton, split
from workers.zoo.hub import PAGES
from workers.zoo.network import Network, load_network
from workers.zoo.resolution import pin, resolve
from workers.zoo.sources import cached_weights
from workers.zoo.transformers_network import KINDS

NAME = "acme/tiny"
PREPROCESSOR = {"image_processor_type": "ViTImageProcessor", "size": {"height": 32, "width": 32}}
VIT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
VIT |= {"image_size": 32, "patch_size": 8}
DINO = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "mlp_ratio": 2}
DINO |= {"image_size": 32, "patch_size": 8}
STAGES = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 2, 1]}
WINDOWS = {"image_size": 32, "patch_size": 2, "embed_dim": 12, "depths": [1, 1, 2], "num_heads": [1, 2, 3]}
SMALL: dict[str, dict[str, Any]] = {
    "beit": VIT | {"use_relative_position_bias": True},
    "convnext": STAGES,
    "convnextv2": STAGES,
    "deit": VIT,
    "dinov2": DINO,
    "dinov2_with_registers": DINO | {"use_swiglu_ffn": True},
    "mobilenet_v2": {"depth_multiplier": 0.35, "image_size": 32},
    "regnet": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "groups_width": 8},
    "resnet": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"},
    "swin": WINDOWS | {"window_size": 4},
    "swinv2": WINDOWS | {"window_size": 4},
    "vit": VIT,
}
TEXT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 9}


def made(class_name: str, config: Any, seed: int = 0) -> Any:
    """Return a network with random weights, none of which is as it is initialised."""
    torch.manual_seed(seed)
    network = getattr(transformers, class_name)._from_config(config).eval()
    for tensor in network.parameters():
        tensor.data.add_(torch.randn_like(tensor), alpha=0.1)
    return network


def tiny(model_type: str, *, classes: int | None) -> Any:
    """Return a small network of a type, with a classifier or as its backbone alone."""
    name = KINDS[model_type].network
    config = getattr(transformers, name).config_class(**SMALL[model_type], num_labels=classes or 2)
    return made(name if classes else name.replace("ForImageClassification", "Model"), config)


def push(hub: Hub, network: Any, folder: Path, card: dict[str, Any] | None = None) -> str:
    """Push a network as the library saves it: under the names that checkpoints on the Hub have."""
    network.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR))
    return hub.push_folder(NAME, folder, card=card or {"license": "apache-2.0"})


def hub_tensors(folder: Path) -> dict[str, Tensor]:
    return load((folder / "model.safetensors").read_bytes())


def admitted(cache: Path, **fields: Any) -> ModelSpec:
    data = {"name": "tiny", "source": {"type": "transformers", "id": NAME}, **fields}
    pinned = pin(ModelSpec.from_dict(data))
    return resolve(pinned, cached_weights(pinned.source, cache).stem)


def loaded(cache: Path) -> Network:
    spec = admitted(cache)
    return load_network(spec, cached_weights(spec.source, cache))


def photos_BCHW() -> Tensor:
    torch.manual_seed(7)
    return torch.randn(3, 3, 32, 32)


def input_of(layer: nn.Module, network: Any, batch_BCHW: Tensor) -> Tensor:
    """Return what a layer of the library's own network reads."""
    seen: list[Tensor] = []
    with layer.register_forward_pre_hook(lambda _, args: seen.append(args[0])), torch.inference_mode():
        network(pixel_values=batch_BCHW)
    return seen[0].flatten(1)


@pytest.mark.parametrize("model_type", sorted(SMALL))
def test_a_classifier_gives_the_librarys_logits_and_what_its_head_reads(
    hub: Hub, tmp_path: Path, model_type: str
) -> None:
    own = tiny(model_type, classes=7)
    push(hub, own, tmp_path / "repository")
    network = loaded(tmp_path / "cache")
    with torch.inference_mode():
        features_BD, logits_BZ = network(photos_BCHW())
        expected_BZ = own(pixel_values=photos_BCHW()).logits
    torch.testing.assert_close(logits_BZ, expected_BZ, atol=1e-5, rtol=0)
    torch.testing.assert_close(features_BD, input_of(own.classifier, own, photos_BCHW()), atol=1e-5, rtol=0)
    assert (network.num_classes, network.feature_dim) == (7, features_BD.shape[1])


@pytest.mark.parametrize("model_type", sorted(SMALL))
def test_a_backbone_gives_what_a_classifier_would_read(hub: Hub, tmp_path: Path, model_type: str) -> None:
    own = tiny(model_type, classes=None)
    push(hub, own, tmp_path / "repository")
    network = loaded(tmp_path / "cache")
    with torch.inference_mode():
        features_BD, logits_BZ = network(photos_BCHW())
        output = own(pixel_values=photos_BCHW())
    tokens_BTD = output.last_hidden_state
    if model_type in {"vit", "deit"}:
        expected_BD = tokens_BTD[:, 0]
    elif model_type.startswith("dinov2"):
        skipped = 1 + getattr(own.config, "num_register_tokens", 0)
        expected_BD = torch.cat([tokens_BTD[:, 0], tokens_BTD[:, skipped:].mean(1)], 1)
    else:
        expected_BD = output.pooler_output.flatten(1)
    torch.testing.assert_close(features_BD, expected_BD, atol=1e-5, rtol=0)
    assert logits_BZ is None


@pytest.mark.parametrize("model_type", sorted(SMALL))
def test_gradients_can_be_had_after_a_pass_without(hub: Hub, tmp_path: Path, model_type: str) -> None:
    push(hub, tiny(model_type, classes=7), tmp_path / "repository")
    network = loaded(tmp_path / "cache").requires_grad_()
    with torch.inference_mode():
        expected_BD = network(photos_BCHW())[0]
    features_BD = network(photos_BCHW())[0]
    features_BD.sum().backward()
    torch.testing.assert_close(features_BD, expected_BD, atol=1e-5, rtol=0)
    unused = {name for name, one in network.trunk.named_parameters() if one.grad is None}
    assert unused <= {"network.dinov2.embeddings.mask_token", "network.dinov2_with_registers.embeddings.mask_token"}


@pytest.mark.parametrize("model_type", sorted(SMALL))
def test_every_type_builds_without_memory(model_type: str) -> None:
    spec = ModelSpec.from_dict(
        {
            "name": "x",
            "source": {"type": "upload", "sha256": "0" * 64},
            "architecture": f"transformers:{model_type}",
            "arguments": SMALL[model_type],
            "head": {"num_classes": 7, "label_set": "x"},
        }
    )
    module = skeleton(spec)
    assert all(tensor.is_meta for tensor in module.parameters())
    trunk, head = split(module, spec)
    assert isinstance(head, nn.Linear)
    assert not any(parameter is head.weight for parameter in trunk.parameters())


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("family", ["CLIP", "Siglip"])
def test_the_image_tower_of_an_image_text_network(hub: Hub, tmp_path: Path, family: str, whole: bool) -> None:
    if whole:
        config = getattr(transformers, f"{family}Config")(vision_config=VIT, text_config=TEXT)
        own = made(f"{family}Model", config)
        tower = own.vision_model
    else:
        own = tower = made(f"{family}VisionModel", getattr(transformers, f"{family}VisionConfig")(**VIT))
    push(hub, own, tmp_path / "repository")
    spec = admitted(tmp_path / "cache")
    assert spec.architecture == f"transformers:{family.lower()}_vision_model"
    assert spec.arguments["patch_size"] == 8
    assert spec.pretraining == Pretraining(datasets=(), method="image-text")
    network = load_network(spec, cached_weights(spec.source, tmp_path / "cache"))
    with torch.inference_mode():
        features_BD, logits_BZ = network(photos_BCHW())
        expected_BD = tower(pixel_values=photos_BCHW()).pooler_output
    torch.testing.assert_close(features_BD, expected_BD, atol=1e-5, rtol=0)
    assert logits_BZ is None


@pytest.mark.parametrize("family", ["CLIP", "Siglip"])
def test_a_classifier_on_the_image_tower_of_an_image_text_network(hub: Hub, tmp_path: Path, family: str) -> None:
    config = getattr(transformers, f"{family}Config")(vision_config=VIT, text_config=TEXT, num_labels=7)
    own = made(f"{family}ForImageClassification", config)
    push(hub, own, tmp_path / "repository")
    spec = admitted(tmp_path / "cache")
    assert spec.architecture == f"transformers:{family.lower()}"
    assert {name: spec.arguments[name] for name in VIT} == VIT
    assert spec.head == Head(num_classes=7, label_set="other")
    assert spec.pretraining == Pretraining(datasets=(), method="image-text, fine-tuned")
    network = load_network(spec, cached_weights(spec.source, tmp_path / "cache"))
    with torch.inference_mode():
        features_BD, logits_BZ = network(photos_BCHW())
        expected_BZ = own(pixel_values=photos_BCHW()).logits
    torch.testing.assert_close(logits_BZ, expected_BZ, atol=1e-5, rtol=0)
    torch.testing.assert_close(features_BD, input_of(own.classifier, own, photos_BCHW()), atol=1e-5, rtol=0)
    for change in ({"attn_implementation": "some-org/kernel"}, {"text_config": {}}, {"auto_map": {}}):
        with pytest.raises((ModelRejected, BadRequest)):
            skeleton(ModelSpec.from_dict(spec.as_dict() | {"arguments": spec.arguments | change}))


def test_a_network_with_two_classifiers_is_refused_and_timms_own_named(hub: Hub, tmp_path: Path) -> None:
    own = made("DeiTForImageClassificationWithTeacher", transformers.DeiTConfig(**VIT, num_labels=7))
    push(hub, own, tmp_path / "repository")
    with pytest.raises(ModelRejected) as caught:
        admitted(tmp_path / "cache")
    assert caught.value.code == "unknown_architecture"
    assert "two classifiers" in caught.value.message
    assert "deit_tiny_distilled_patch16_224.fb_in1k" in str(caught.value.hint)
    assert "deit_tiny_distilled_patch16_224.fb_in1k" in timm.list_pretrained()


def test_a_repository_says_it_all(hub: Hub, tmp_path: Path) -> None:
    card = {"license": "other", "license_name": "our-licence", "datasets": ["imagenet-1k", "imagenet-21k"]}
    commit = push(hub, tiny("vit", classes=7), tmp_path / "repository", card)
    sha256 = hashlib.sha256((tmp_path / "repository" / "model.safetensors").read_bytes()).hexdigest()
    # Files carry the names of older versions of the library, not those of its networks today.
    assert "vit.encoder.layer.1.attention.attention.query.weight" in hub_tensors(tmp_path / "repository")
    spec = admitted(tmp_path / "cache")
    assert spec.source == TransformersSource(id=NAME, revision=commit, sha256=sha256)
    assert (spec.architecture, spec.license, spec.homepage) == ("transformers:vit", "our-licence", f"{PAGES}/{NAME}")
    assert {name: spec.arguments[name] for name in VIT} == VIT
    assert spec.head == Head(num_classes=7, label_set="other")
    assert spec.pretraining == Pretraining(datasets=("imagenet-1k", "imagenet-21k"))
    assert spec.preprocessing is not None
    assert (spec.preprocessing.resize, spec.preprocessing.crop) == (None, (32, 32))
    assert ModelSpec.from_dict(spec.as_dict()) == spec


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        (lambda state: {name: one for name, one in state.items() if name != "classifier.bias"}, "1 missing"),
        (lambda state: state | {"classifier.extra": torch.ones(1)}, "1 unexpected: classifier.extra"),
        (lambda state: state | {"classifier.weight": torch.ones(9, 32)}, "1 of another shape"),
    ],
)
def test_differences_are_told_by_name(hub: Hub, tmp_path: Path, change: Any, difference: str) -> None:
    push(hub, tiny("vit", classes=7), tmp_path / "repository")
    files = {path.name: path.read_bytes() for path in (tmp_path / "repository").iterdir()}
    hub.push(NAME, files | {"model.safetensors": save(change(load(files["model.safetensors"])))})
    with pytest.raises(ModelRejected) as caught:
        loaded(tmp_path / "cache")
    assert caught.value.code == "weights_mismatch"
    assert difference in caught.value.message


@pytest.mark.parametrize(
    ("file", "change", "code", "param"),
    [
        ("config.json", {"auto_map": {"AutoModel": "modeling.Tiny"}}, "remote_code", "source.id"),
        ("preprocessor_config.json", {"auto_map": {"AutoImageProcessor": "x.Y"}}, "remote_code", "source.id"),
        ("config.json", {"model_type": "llama"}, "unknown_architecture", "source.id"),
        ("config.json", {"model_type": None}, "unknown_architecture", "source.id"),
        ("config.json", {"architectures": ["ViTForMaskedImageModeling"]}, "unknown_architecture", "source.id"),
        ("config.json", {"architectures": []}, "unknown_architecture", "source.id"),
        ("config.json", {"hidden_size": "wide"}, "unknown_architecture", "arguments"),
        ("preprocessor_config.json", {"image_processor_type": "FuyuImageProcessor"}, "incomplete_preprocessing", None),
        ("preprocessor_config.json", {"do_resize": False}, "incomplete_preprocessing", None),
        ("preprocessor_config.json", {"resample": 5}, "incomplete_preprocessing", None),
        ("preprocessor_config.json", {"size": {"shortest_edge": 32}}, "incomplete_preprocessing", None),
    ],
)
def test_a_repository_that_cannot_be_used_is_refused(
    hub: Hub, tmp_path: Path, file: str, change: dict[str, Any], code: str, param: str | None
) -> None:
    push(hub, tiny("vit", classes=7), tmp_path / "repository")
    files = {path.name: path.read_bytes() for path in (tmp_path / "repository").iterdir()}
    hub.push(NAME, files | {file: json.dumps(json.loads(files[file]) | change).encode()})
    with pytest.raises(ModelRejected) as caught:
        loaded(tmp_path / "cache")
    assert (caught.value.code, caught.value.param) == (code, param or "preprocessing")
    assert caught.value.hint


def test_what_a_configuration_could_load_by_is_left_out(hub: Hub, tmp_path: Path) -> None:
    push(hub, tiny("vit", classes=7), tmp_path / "repository")
    files = {path.name: path.read_bytes() for path in (tmp_path / "repository").iterdir()}
    evil = {"attn_implementation": "some-org/kernel", "_attn_implementation": "x/y", "quantization_config": {"a": 1}}
    config = json.loads(files["config.json"]) | evil
    hub.push(NAME, files | {"config.json": json.dumps(config).encode()})
    network = loaded(tmp_path / "cache")
    assert network.trunk.network.config._attn_implementation == "sdpa"  # type: ignore[union-attr]
    assert not set(evil) & set(admitted(tmp_path / "cache").arguments)


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"architecture": "transformers:llama"}, "architecture"),
        ({"arguments": {"hiden_size": 3}}, "arguments.hiden_size"),
        ({"arguments": {"hidden_size": "wide"}}, "arguments"),
        ({"architecture": "transformers:clip_vision_model"}, "head"),
    ],
)
def test_an_architecture_that_cannot_be_built_is_refused(change: dict[str, Any], param: str) -> None:
    data = {"name": "x", "source": {"type": "upload", "sha256": "0" * 64}, "architecture": "transformers:vit"}
    spec = ModelSpec.from_dict(data | {"head": {"num_classes": 7, "label_set": "x"}} | change)
    with pytest.raises(ModelRejected) as caught:
        skeleton(spec)
    assert (caught.value.code, caught.value.param) == ("unknown_architecture", param)
    assert caught.value.hint
