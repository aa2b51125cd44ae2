"""``foretune models check``: the same checks as a service's, without one."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.cli.model_fields import StatedFields
from app.cli.model_specs import read_specs
from app.client import Failure
from app.manifest import read_row
from tests.cli.conftest import processes_of, run, start, wait_until
from tests.fixtures.tiny_zoo import tiny_zoo

NAMES = ["weights", "safe_container", "preprocessing", "license", "architecture", "tensors", "finite_weights"]


@pytest.fixture
def entries(tmp_path: Path) -> list[dict[str, Any]]:
    """Return the specifications of three tiny models."""
    models: list[dict[str, Any]] = yaml.safe_load(tiny_zoo(tmp_path).read_text())["models"]
    return models


def write(folder: Path, *models: dict[str, Any]) -> str:
    file = folder / "models.json"
    file.write_text(json.dumps(list(models)))
    return str(file)


def test_every_check_is_shown_and_a_refusal_says_how_to_mend_it(tmp_path: Path, entries: list[dict[str, Any]]) -> None:
    right, wrong = entries[0], entries[1] | {"architecture": "timm:test_convnext"}
    home = tmp_path / "home"
    done = run("models", "check", write(tmp_path, right, wrong), home=str(home), threads="1")
    assert done.code == 1
    assert done.err == ""
    first, second = done.out.split("test_efficientnet\n")
    assert first.startswith("test_resnet\n")
    assert [line.split(" s  ")[1].split(":")[0] for line in first.splitlines() if " s  " in line][:7] == NAMES
    assert "pass" in first
    assert "memory_and_throughput: cpu: " in first
    assert "Would be admitted: 18 checks, 4 with a warning." in first
    assert "Give known_photos" in first, "a warning, too, has a hint"
    assert "fail" in second
    assert "tensors: the weights do not fit the architecture" in second
    assert "Check the architecture, head.num_classes and state_format." in second
    assert "Would be refused (weights_mismatch); the checks after it were not run." in second
    assert len(list((home / "weights").glob("*.safetensors"))) == 2, "they are kept for the next time"
    assert not (home / "foretune.db").exists()


def test_a_program_gets_everything(tmp_path: Path, entries: list[dict[str, Any]]) -> None:
    unreachable = entries[1]["source"] | {"uri": "file:///nowhere.safetensors"}
    file = write(tmp_path, entries[0], entries[1] | {"source": unreachable})
    done = run("models", "check", file, "--json", home=str(tmp_path / "home"), threads="1")
    assert done.code == 1
    first, second = done.json
    assert (first["model"], first["error"], len(first["checks"])) == ("test_resnet", None, 18)
    assert first["facts"]["resolved"]["architecture"] == "timm:test_resnet"
    assert first["facts"]["capabilities"] == {"features": True, "logits": True, "gradients": True}
    assert second["facts"] is None
    assert second["error"]["code"] == second["checks"][-1]["code"] == "weights_unavailable"
    good = run(
        "models", "check", write(tmp_path, entries[0] | {"tags": ["mine"]}), home=str(tmp_path / "home"), threads="1"
    )
    assert good.code == 0


def test_an_impossible_specification_is_told_before_anything_is_fetched(
    tmp_path: Path, entries: list[dict[str, Any]]
) -> None:
    done = run("models", "check", write(tmp_path, entries[0], {"name": "x"}), home=str(tmp_path / "home"))
    assert done.code == 1
    assert done.out == ""
    assert "invalid_model_spec" in done.err
    assert not (tmp_path / "home" / "weights").exists()
    assert run("models", "check").code == 2


def test_checks_that_take_their_process_down_are_told(tmp_path: Path, entries: list[dict[str, Any]]) -> None:
    home = tmp_path / "home"
    process = start("models", "check", write(tmp_path, entries[0]), "--json", home=str(home))

    def checking() -> list[int]:
        return [pid for pid, command in processes_of(home).items() if "local_check" in command]

    wait_until(lambda: bool(checking()))
    os.kill(checking()[0], signal.SIGKILL)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    [report] = json.loads(out)
    assert report["error"]["code"] == "worker_lost"
    assert "-9" in report["error"]["message"]
    assert report["error"]["hint"]


def test_a_safetensors_file_is_read_where_it_is(tmp_path: Path, entries: list[dict[str, Any]]) -> None:
    steps = entries[0]["preprocessing"]
    stated = StatedFields("mine", "timm:test_resnet", "apache-2.0", 10, json.dumps(steps))
    [spec] = read_specs(str(tmp_path / "test_resnet.safetensors"), stated)
    assert spec["source"] == entries[0]["source"]
    assert (spec["name"], spec["head"], spec["preprocessing"]) == (
        "mine",
        {"num_classes": 10, "label_set": "mine"},
        steps,
    )
    read_row(spec)


@pytest.mark.parametrize(
    ("spec", "name", "source"),
    [
        ("torchvision:resnet50.IMAGENET1K_V2", "resnet50.imagenet1k_v2", {"type": "torchvision"}),
        ("timm:resnet18.a1_in1k", "resnet18.a1_in1k", {"type": "timm", "id": "resnet18.a1_in1k"}),
        ("hf-hub:timm/ViT_x.y@main", "vit_x.y", {"type": "timm", "id": "hf-hub:timm/ViT_x.y@main"}),
        ("timm:hf-hub:timm/a", "a", {"type": "timm", "id": "hf-hub:timm/a"}),
        ("transformers:facebook/dinov2-small", "dinov2-small", {"type": "transformers", "id": "facebook/dinov2-small"}),
    ],
)
def test_models_by_their_public_names(spec: str, name: str, source: dict[str, str]) -> None:
    [entry] = read_specs(spec)
    assert entry["name"] == name
    assert source.items() <= entry["source"].items()


def test_what_is_no_specification_is_told(tmp_path: Path) -> None:
    for text, code in ((": [", "invalid_manifest"), ("[]", "invalid_manifest"), ("- 3", "invalid_manifest")):
        file = tmp_path / "models.yaml"
        file.write_text(text)
        with pytest.raises(Failure) as caught:
            read_specs(str(file))
        assert caught.value.code == code
    with pytest.raises(Failure) as caught:
        read_specs(str(tmp_path / "nothing.yaml"))
    assert caught.value.code == "file_not_readable"
