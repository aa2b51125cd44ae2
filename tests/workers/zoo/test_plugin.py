"""Plug-ins: a real installed distribution brings a file, which is trusted no more than any other."""

import hashlib
import importlib
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from app.domain.errors import ModelRejected
from app.domain.model_sources import PluginSource
from app.domain.model_spec import Head, ModelSpec
from tests.fixtures.weights import small_spec
from tests.fixtures.wheels import write_wheel
from workers.zoo.network import load_network
from workers.zoo.resolution import pin, resolve
from workers.zoo.sources import cached_weights

CODE = '''
"""A registry of models in a folder."""

import shutil
from pathlib import Path


class Shelf:
    def fetch(self, options, directory):
        if options["name"] == "nowhere":
            return directory / "nowhere"
        shutil.copy(Path(options["folder"]) / options["name"], directory / "model")
        return directory / "model"

    def describe(self, options):
        if options.get("broken"):
            return {"preprocessing": 7}
        return {"architecture": "timm:test_resnet", "license": "MIT", "notes": "not its to say", "name": "nor this"}


'''
ENTRIES = "[foretune.sources]\nshelf = shelf_source:Shelf\nfailing = shelf_source:no_such\n"


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Install a distribution with a plug-in on the path; yield the folder that it reads."""
    members = {"shelf_source.py": CODE.encode(), "shelf_source-1.0.dist-info/entry_points.txt": ENTRIES.encode()}
    wheel = write_wheel(tmp_path / "wheels", "shelf-source", "1.0", members)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    importlib.invalidate_caches()
    folder = tmp_path / "shelf"
    folder.mkdir()
    yield folder
    sys.modules.pop("shelf_source", None)


def source(folder: Path, name: str = "tiny", **options: Any) -> PluginSource:
    return PluginSource(plugin="shelf", options={"folder": str(folder), "name": name, **options})


def rejection(one: PluginSource, cache: Path) -> ModelRejected:
    with pytest.raises(ModelRejected) as caught:
        cached_weights(one, cache)
    assert caught.value.hint
    assert not list(cache.glob("*"))
    return caught.value


def test_a_plugin_brings_weights_and_says_what_they_are(shelf: Path, tmp_path: Path) -> None:
    small = small_spec(shelf)
    (shelf / "test_resnet-10-0.safetensors").rename(shelf / "tiny")
    spec = ModelSpec.from_dict(
        {
            "name": "mine",
            "source": {"type": "plugin", "plugin": "shelf", "options": {"folder": str(shelf), "name": "tiny"}},
            "preprocessing": small.as_dict()["preprocessing"],
            "head": {"num_classes": 10, "label_set": "random"},
        }
    )
    weights = cached_weights(pin(spec).source, tmp_path / "cache")
    resolved = resolve(spec, weights.stem)
    assert (resolved.name, resolved.architecture, resolved.license) == ("mine", "timm:test_resnet", "MIT")
    assert resolved.notes == ""
    assert resolved.head == Head(num_classes=10, label_set="random")
    assert resolved.source == PluginSource(plugin="shelf", options=source(shelf).options, sha256=weights.stem)
    load_network(resolved, weights)
    (shelf / "tiny").unlink()
    assert cached_weights(resolved.source, tmp_path / "cache") == weights


def test_what_a_plugin_brings_is_verified_and_never_run(shelf: Path, tmp_path: Path) -> None:
    torch.save({"a": torch.ones(1)}, shelf / "tiny")
    assert rejection(source(shelf), tmp_path / "cache").code == "unsafe_weights"
    save_file({"a": torch.ones(1)}, shelf / "tiny")
    wrong = PluginSource(plugin="shelf", options=source(shelf).options, sha256="0" * 64)
    assert rejection(wrong, tmp_path / "cache").code == "weights_hash_mismatch"
    right = hashlib.sha256((shelf / "tiny").read_bytes()).hexdigest()
    assert cached_weights(source(shelf), tmp_path / "cache").stem == right


@pytest.mark.parametrize(("name", "said"), [("nowhere", "which is no file"), ("missing", "FileNotFoundError")])
def test_a_plugin_that_fails_is_told_with_its_reason(shelf: Path, tmp_path: Path, name: str, said: str) -> None:
    failed = rejection(source(shelf, name), tmp_path / "cache")
    assert (failed.code, failed.param) == ("plugin_failed", "source.plugin")
    assert said in failed.message


@pytest.mark.parametrize(("name", "code"), [("failing", "plugin_failed"), ("unheard-of", "unknown_plugin")])
def test_a_plugin_that_is_not_there_is_named(shelf: Path, tmp_path: Path, name: str, code: str) -> None:
    failed = rejection(PluginSource(plugin=name), tmp_path / "cache")
    assert (failed.code, failed.param) == (code, "source.plugin")
    assert "shelf" in str(failed.hint) or code == "plugin_failed"


def test_a_description_is_held_to_the_rules(shelf: Path) -> None:
    spec = ModelSpec(name="mine", source=source(shelf, broken=True))
    with pytest.raises(ModelRejected) as caught:
        resolve(spec, "0" * 64)
    assert (caught.value.code, caught.value.param) == ("plugin_failed", "preprocessing")
