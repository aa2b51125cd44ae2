"""``foretune models add``: a safetensors file in one step, and what is told of what is no specification."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.numpy import save_file

from app.storage.objects import Objects, uploaded_weights
from tests.cli.conftest import Served, unbroken

STATED = ("--architecture", "timm:resnet18", "--license", "apache-2.0", "--preprocessing", "imagenet")


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """Return a small safetensors file, of other bytes for each test."""
    path = tmp_path / "our-shoes.safetensors"
    save_file({"a": np.frombuffer(str(tmp_path).encode(), dtype=np.uint8)}, path)
    return path


def stored(served: Served, sha256: str) -> bool:
    return Objects((served.home / "objects").as_uri()).exists(uploaded_weights(sha256))


def names(served: Served) -> set[str]:
    return {model["name"] for model in served.run("models", "list", "--json").json}


def test_weights_are_sent_and_registered_in_one_step(served: Served, weights: Path) -> None:
    done = served.run("models", "add", str(weights), *STATED, "--classes", "12", "--no-wait", "--json")
    assert done.code == 0, done.err
    [model] = done.json
    sha256 = hashlib.sha256(weights.read_bytes()).hexdigest()
    assert (model["name"], model["status"], model["license"]) == ("our-shoes", "pending", "apache-2.0")
    assert model["spec"]["source"] == {"type": "upload", "sha256": sha256}
    assert model["spec"]["architecture"] == "timm:resnet18"
    assert model["spec"]["head"] == {"num_classes": 12, "label_set": "our-shoes"}
    assert model["spec"]["preprocessing"]["mean"] == [0.485, 0.456, 0.406]
    assert stored(served, sha256)
    again = served.run("models", "add", str(weights), *STATED, "--classes", "12", "--no-wait", "--json")
    assert [one["id"] for one in again.json] == [model["id"]]
    steps = {"resize": 64, "crop": [48, 64], "interpolation": "bicubic", "mean": [0.5] * 3, "std": [0.5] * 3}
    mapping = yaml.safe_dump(steps, default_flow_style=True)
    options = (*STATED[:-1], mapping, "--name", "theirs", "--no-wait", "--json")
    [other] = served.run("models", "add", str(weights), *options).json
    assert (other["name"], other["version"], other["spec"]["head"]) == ("theirs", 1, None)
    assert steps.items() <= other["spec"]["preprocessing"].items()


@pytest.mark.parametrize("left_out", ["--architecture", "--license", "--preprocessing"])
def test_what_a_file_does_not_say_is_asked_for(served: Served, weights: Path, left_out: str) -> None:
    place = STATED.index(left_out)
    asked = served.run("models", "add", str(weights), *STATED[:place], *STATED[place + 2 :])
    assert asked.code == 2
    assert f"as in: {left_out}" in unbroken(asked.err)
    assert not stored(served, hashlib.sha256(weights.read_bytes()).hexdigest())


@pytest.mark.parametrize(
    ("options", "code", "told"),
    [
        ((*STATED[:1], "keras:x", *STATED[2:]), 1, "invalid_model_spec"),
        ((*STATED, "--classes", "0"), 1, "head.num_classes"),
        ((*STATED[:-1], "imagnet"), 2, "neither imagenet nor a mapping"),
        ((*STATED[:-1], "{resize: 64}"), 1, "preprocessing.crop"),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_sent(
    served: Served, weights: Path, options: tuple[str, ...], code: int, told: str
) -> None:
    refused = served.run("models", "add", str(weights), *options)
    assert (refused.code, told in unbroken(refused.err)) == (code, True), refused.err
    assert not stored(served, hashlib.sha256(weights.read_bytes()).hexdigest())


def test_a_file_that_is_no_safetensors_file_registers_nothing(served: Served, tmp_path: Path) -> None:
    false = tmp_path / "no-tensors.safetensors"
    false.write_bytes(b"\x80\x04K\x01.")
    refused = served.run("models", "add", str(false), *STATED, "--no-wait")
    assert (refused.code, "(unsafe_weights)" in refused.err) == (1, True)
    assert "no-tensors" not in names(served)


def test_one_model_of_another_source_may_be_renamed(served: Served, tmp_path: Path) -> None:
    named = "torchvision:resnet18.IMAGENET1K_V1"
    [model] = served.run("models", "add", named, "--name", "my-resnet", "--no-wait", "--json").json
    assert (model["name"], model["spec"]["architecture"]) == ("my-resnet", "torchvision:resnet18")
    served.run("models", "withdraw", "my-resnet")
    two = tmp_path / "two.yaml"
    two.write_text("[{name: a}, {name: b}]")
    refused = served.run("models", "add", str(two), "--name", "both")
    assert (refused.code, "has 2 models" in unbroken(refused.err)) == (2, True)


@pytest.mark.parametrize(
    ("spec", "code", "hint"),
    [
        ("facebook/dinov2-small", "file_not_readable", "transformers:facebook/dinov2-small"),
        ("timm/resnet18.a1_in1k", "file_not_readable", "hf-hub:timm/resnet18.a1_in1k"),
        ("resnet50.IMAGENET1K_V2", "file_not_readable", "torchvision:resnet50.IMAGENET1K_V2"),
        ("resnet18.a1_in1k", "file_not_readable", "timm:resnet18.a1_in1k"),
        ("resnet18", "file_not_readable", "timm:resnet18.TAG"),
        ("nothing.yaml", "file_not_readable", "Write one specification"),
        ("nothing.safetensors", "file_not_readable", "Name a safetensors file"),
        ("pytorch_model.bin", "unsafe_weights", "save_file"),
        ("checkpoint.pth", "unsafe_weights", "save_file"),
    ],
)
def test_what_was_probably_meant_is_told(served: Served, spec: str, code: str, hint: str) -> None:
    refused = served.run("models", "add", spec)
    assert refused.code == 1
    assert f"({code})" in refused.err
    assert hint in refused.err


def test_of_a_folder_its_weights_are_named(served: Served, weights: Path) -> None:
    refused = served.run("models", "add", str(weights.parent))
    assert (refused.code, str(weights) in refused.err) == (1, True)
