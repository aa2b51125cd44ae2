"""timm's own names and its repositories on the Hub: everything that they state, and the very same pixels."""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save
from timm.data import create_transform, resolve_data_config
from timm.models._hub import load_model_config_from_path

from app.domain.errors import ModelRejected
from app.domain.model_sources import TimmSource
from app.domain.model_spec import Head, ModelSpec, Pretraining
from tests.fixtures.hub import Hub
from tests.fixtures.weights import small_spec
from workers.zoo import known_photos
from workers.zoo.admission import admit
from workers.zoo.labels import EMBEDDING, timm_label_set
from workers.zoo.network import load_network
from workers.zoo.preprocessing import Preprocessor
from workers.zoo.pretraining_tags import pretraining_of
from workers.zoo.resolution import pin, resolve
from workers.zoo.sources import cached_weights
from workers.zoo.timm_hub import preprocessing_of, registered

NAME = "acme/tiny_resnet.v1"


def hub_files(architecture: str = "test_resnet", *, seed: int = 0, **config: Any) -> dict[str, bytes]:
    """Return the files of a repository as timm pushes it, with random weights."""
    torch.manual_seed(seed)
    network = timm.create_model(architecture, pretrained=False, num_classes=7, **config.get("model_args", {}))
    pretrained = {"input_size": [3, 64, 64], "crop_pct": 0.875, "interpolation": "bicubic", "mean": [0.5] * 3}
    pretrained |= {"std": [0.25] * 3, "num_classes": 7, "license": "mit", "tag": "a1_in12k_ft_in1k"}
    content = {"architecture": architecture, "num_classes": 7, "pretrained_cfg": pretrained} | config
    state = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    return {"model.safetensors": save(state), "config.json": json.dumps(content).encode()}


def hub_spec(name: str = NAME, **fields: Any) -> ModelSpec:
    return ModelSpec.from_dict({"name": "tiny", "source": {"type": "timm", "id": f"hf-hub:{name}"}, **fields})


def admitted(spec: ModelSpec, cache: Path) -> ModelSpec:
    pinned = pin(spec)
    return resolve(pinned, cached_weights(pinned.source, cache).stem)


def test_a_repository_of_timm_says_it_all(hub: Hub, tmp_path: Path) -> None:
    files = hub_files(model_args={"drop_rate": 0.1})
    commit = hub.push(NAME, files)
    spec = admitted(hub_spec(), tmp_path / "cache")
    sha256 = hashlib.sha256(files["model.safetensors"]).hexdigest()
    assert spec.source == TimmSource(id=f"hf-hub:{NAME}", revision=commit, sha256=sha256)
    assert (spec.architecture, spec.arguments) == ("timm:test_resnet", {"drop_rate": 0.1})
    assert (spec.license, spec.homepage) == ("MIT", f"https://huggingface.co/{NAME}")
    assert spec.head == Head(num_classes=7, label_set="other")
    assert spec.pretraining == Pretraining(datasets=("imagenet-12k", "imagenet-1k"))
    assert spec.preprocessing is not None
    assert (spec.preprocessing.resize, spec.preprocessing.crop) == (73, (64, 64))
    assert ModelSpec.from_dict(spec.as_dict()) == spec
    hub.requests.clear()
    network = load_network(spec, cached_weights(spec.source, tmp_path / "cache"))
    assert hub.requests == []
    batch_BCHW = known_photos.batch(network.preprocess)[:2]
    twin = timm.create_model("test_resnet", pretrained=False, num_classes=7).eval()
    torch.manual_seed(0)
    twin.load_state_dict(timm.create_model("test_resnet", pretrained=False, num_classes=7).state_dict())
    with torch.inference_mode():
        torch.testing.assert_close(network(batch_BCHW)[1], twin(batch_BCHW), atol=1e-5, rtol=0)


def test_what_the_admin_states_stays(hub: Hub, tmp_path: Path) -> None:
    hub.push(NAME, hub_files())
    steps = {"resize": None, "crop": [64, 64], "interpolation": "nearest", "mean": [0, 0, 0], "std": [1, 1, 1]}
    stated = {"license": "Apache-2.0", "preprocessing": steps, "homepage": "https://example.org"}
    stated |= {"pretraining": {"datasets": ["ours"]}, "head": {"num_classes": 7, "label_set": "ours"}}
    before = hub_spec(**stated)
    after = admitted(before, tmp_path / "cache")
    names = ("license", "preprocessing", "homepage", "pretraining", "head")
    assert [getattr(after, name) for name in names] == [getattr(before, name) for name in names]


def test_a_branch_or_tag_is_pinned_to_its_commit(hub: Hub, tmp_path: Path) -> None:
    first = hub.push(NAME, hub_files(), branch="v1")
    hub.push(NAME, hub_files(seed=1))
    spec = ModelSpec.from_dict({"name": "x", "source": {"type": "timm", "id": f"hf-hub:{NAME}@v1"}})
    assert spec.source == TimmSource(id=f"hf-hub:{NAME}", revision="v1")
    assert admitted(spec, tmp_path / "cache").source.revision == first  # type: ignore[union-attr]
    moved = pin(hub_spec()).source
    assert moved.revision != first  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("config", "code", "param"),
    [
        ({"architecture": "no_such_net"}, "invalid_hub_config", "source.id"),
        ({"architecture": None}, "invalid_hub_config", "source.id"),
        ({"model_args": [1]}, "invalid_hub_config", "source.id"),
        ({"model_args": {"checkpoint_path": "/etc/passwd"}}, "invalid_hub_config", "arguments.checkpoint_path"),
        ({"model_args": {"pretrained": True}}, "invalid_hub_config", "arguments.pretrained"),
        ({"pretrained_cfg": {"crop_mode": "border", "num_classes": 7}}, "incomplete_preprocessing", "preprocessing"),
        ({"pretrained_cfg": {"input_size": [1, 64, 64]}}, "incomplete_preprocessing", "preprocessing"),
        ({"pretrained_cfg": {"mean": "grey"}}, "incomplete_preprocessing", "preprocessing"),
        ({"pretrained_cfg": {"std": [0, 0, 0.1]}}, "invalid_hub_config", "preprocessing.std"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(
    hub: Hub, tmp_path: Path, config: dict[str, Any], code: str, param: str
) -> None:
    files = hub_files()
    content = json.loads(files["config.json"]) | config
    hub.push(NAME, files | {"config.json": json.dumps(content).encode()})
    with pytest.raises(ModelRejected) as caught:
        admitted(hub_spec(), tmp_path / "cache")
    assert (caught.value.code, caught.value.param) == (code, param)
    assert caught.value.hint


def test_timms_own_names_are_found_where_timm_says(hub: Hub, tmp_path: Path) -> None:
    torch.manual_seed(0)
    state = timm.create_model("test_resnet", pretrained=False).state_dict()
    commit = hub.push("timm/test_resnet.r160_in1k", {"model.safetensors": save(state)})
    spec = ModelSpec.from_dict({"name": "x", "source": {"type": "timm", "id": "test_resnet.r160_in1k"}})
    assert spec.architecture == "timm:test_resnet"
    spec = admitted(spec, tmp_path / "cache")
    assert spec.source.revision == commit  # type: ignore[union-attr]
    assert (spec.license, spec.homepage) == ("Apache-2.0", "https://huggingface.co/timm/test_resnet.r160_in1k")
    assert spec.head == Head(num_classes=1000, label_set="imagenet-1k")
    load_network(spec, cached_weights(spec.source, tmp_path / "cache"))


@pytest.mark.parametrize("name", ["resnet18.no_such_tag", "no_such_net.a1_in1k", "resnet18_no.a1_in1k"])
def test_a_name_that_timm_does_not_know_is_refused(name: str) -> None:
    with pytest.raises(ModelRejected) as caught:
        registered(TimmSource(id=name))
    assert (caught.value.code, caught.value.param) == ("unknown_weights_entry", "source.id")


def sample_of_every_transform() -> list[str]:
    """Return one registered name for each combination of sizes, crop, interpolation and normalisation."""
    seen: dict[tuple[Any, ...], str] = {}
    for name in timm.list_pretrained():
        one = timm.get_pretrained_cfg(name)
        sizes = one.input_size, one.test_input_size, one.fixed_input_size, one.crop_pct, one.test_crop_pct
        seen.setdefault((*sizes, one.crop_mode, one.interpolation, one.mean, one.std), name)
    return sorted(seen.values())


def test_preprocessing_is_timms_own_for_every_registered_name() -> None:
    photo = known_photos.load("coffee.jpg").resize((355, 263))  # odd margins, of which both kinds are rounded
    compared = 0
    for name in sample_of_every_transform():
        config = timm.get_pretrained_cfg(name).to_dict()
        if config["crop_mode"] == "border":
            with pytest.raises(ModelRejected, match="timm's transform"):
                preprocessing_of(config)
            continue
        steps = preprocessing_of(config)
        if max(steps.crop) > 400:
            continue  # the same steps, slower
        data = resolve_data_config({}, pretrained_cfg=config, use_test_size=not config["fixed_input_size"])
        expected_CHW = create_transform(**data)(photo)
        preprocess = Preprocessor(steps)
        found_CHW = preprocess(torch.from_numpy(preprocess.pixels(photo).copy())[None])[0]
        torch.testing.assert_close(
            found_CHW, expected_CHW, rtol=0, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}"
        )
        compared += 1
    assert compared > 100


def test_timms_own_loader_reads_the_same_configuration(hub: Hub, tmp_path: Path) -> None:
    files = hub_files(model_args={"drop_rate": 0.1})
    (tmp_path / "config.json").write_bytes(files["config.json"])
    hub.push(NAME, files)
    spec = admitted(hub_spec(), tmp_path / "cache")
    pretrained, architecture, arguments = load_model_config_from_path(tmp_path)
    assert spec.architecture == f"timm:{architecture}"
    assert spec.arguments == arguments
    assert preprocessing_of(pretrained) == spec.preprocessing


@pytest.mark.parametrize(
    ("tag", "datasets", "method"),
    [
        ("a1_in1k", ("imagenet-1k",), "supervised"),
        ("in12k_ft_in1k", ("imagenet-12k", "imagenet-1k"), "supervised"),
        ("augreg_in21k_ft_in1k", ("imagenet-21k", "imagenet-1k"), "supervised"),
        ("fcmae_ft_in22k_in1k_384", ("imagenet-22k", "imagenet-1k"), "masked-images, fine-tuned"),
        ("lvd142m", ("lvd-142m",), "dinov2"),
        ("dino", ("imagenet-1k",), "dino"),
        ("fcmae", ("imagenet-1k",), "masked-images"),
        ("laion2b_ft_in12k_in1k", ("laion-2b", "imagenet-12k", "imagenet-1k"), "image-text, fine-tuned"),
        ("openai", ("openai-wit-400m",), "image-text"),
        ("webli", ("webli",), "image-text"),
        ("untrained", (), "supervised"),
    ],
)
def test_a_tag_tells_data_and_method(tag: str, datasets: tuple[str, ...], method: str) -> None:
    assert pretraining_of(tag) == Pretraining(datasets=datasets, method=method)


def test_a_head_that_is_a_projection_is_named_so() -> None:
    source = TimmSource(id="vit_base_patch32_clip_224.laion2b")
    assert registered(source).num_classes == 512
    pinned = dataclasses.replace(source, revision="0" * 40)
    spec = ModelSpec.from_dict({"name": "x", "source": dataclasses.asdict(pinned)})
    assert resolve(spec, "0" * 64).head == Head(num_classes=512, label_set="embedding")


def test_no_projection_that_timm_lists_is_taken_for_a_classifier() -> None:
    found: dict[str, set[str]] = {}
    for name in timm.list_pretrained():
        config = timm.get_pretrained_cfg(name)
        if config.num_classes:
            label_set = timm_label_set(config.num_classes, *name.split("."))
            found.setdefault(label_set, set()).add(name)
    assert found["other"] == {"vit_base_patch16_224.bamboo"}
    assert len(found[EMBEDDING]) > 100
    for name in found[EMBEDDING]:
        assert "ft_in" not in name
        assert timm.get_pretrained_cfg(name).num_classes in {384, 512, 640, 768, 1024, 1152, 1280}


def test_an_image_text_network_that_learned_somebodys_labels_has_a_classifier() -> None:
    assert timm_label_set(512, "vit_base_patch16_clip_224", "openai") == EMBEDDING
    assert timm_label_set(7, "vit_base_patch16_clip_224", "openai") == "other"
    assert timm_label_set(1000, "vit_base_patch16_clip_224", "openai_ft_in1k") == "imagenet-1k"
    assert timm_label_set(512, "resnet18", "ours") == "other"


def test_stated_names_of_classes_make_a_classifier(hub: Hub, tmp_path: Path) -> None:
    config = {"architecture": "vit_base_patch32_clip_224", "num_classes": 512, "pretrained_cfg": {"tag": "openai"}}
    for stated, expected in (({}, EMBEDDING), ({"label_names": ["a", "b"]}, "other")):
        hub.push(NAME, {"config.json": json.dumps(config | stated).encode()}, card={"license": "mit"})
        spec = resolve(pin(hub_spec()), "0" * 64)
        assert spec.head == Head(num_classes=512, label_set=expected)


def test_a_projection_gives_no_logits_and_is_no_capability(tmp_path: Path) -> None:
    plain = small_spec(tmp_path, "test_vit", side=160)
    spec = dataclasses.replace(plain, head=Head(num_classes=10, label_set=EMBEDDING))
    admission = admit(spec, tmp_path / "cache")
    assert admission.facts["capabilities"] == {"features": True, "logits": False, "gradients": True}
    assert admission.facts["num_classes"] is None
    network = load_network(admission.spec, admission.weights)
    batch_BCHW = torch.randn(2, 3, 160, 160)
    features_BD, logits_BZ = network(batch_BCHW)
    assert logits_BZ is None
    torch.testing.assert_close(features_BD, load_network(plain, admission.weights)(batch_BCHW)[0])
