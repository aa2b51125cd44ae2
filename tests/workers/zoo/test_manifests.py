"""The manifests in zoo/: what the installed libraries state today, and nothing that they do not know."""

import pytest
import timm

from app.domain.model_spec import ModelSpec, TimmSource
from app.manifest import read_manifest
from workers.zoo.architectures import skeleton, split
from workers.zoo.manifests import FOLDER, TIMM, manifests
from workers.zoo.resolution import resolve
from workers.zoo.timm_hub import registered

HASH = "0" * 64


@pytest.mark.parametrize("name", ["torchvision.yaml", "timm.yaml"])
def test_a_manifest_is_what_the_libraries_state(name: str) -> None:
    assert (FOLDER / name).read_text(encoding="utf-8") == manifests()[name]


@pytest.mark.parametrize(("name", "least"), [("torchvision.yaml", 100), ("timm.yaml", 60)])
def test_every_row_is_complete_at_admission(name: str, least: int) -> None:
    specs = read_manifest(FOLDER / name)
    assert len(specs) >= least
    for spec in specs:
        resolved = resolve(spec, HASH)
        assert resolved.preprocessing is not None, spec.name
        assert resolved.architecture, spec.name
        assert resolved.license not in {"", "unknown"}, spec.name
        assert resolved.homepage or name == "torchvision.yaml", spec.name
        assert resolved.pretraining is not None, spec.name
        assert resolved.pretraining.datasets, spec.name


def test_timms_rows_are_many_kinds_of_networks() -> None:
    known = set(timm.list_pretrained())
    assert len(set(TIMM)) == len(TIMM)
    assert set(TIMM) <= known
    configs = [registered(TimmSource(id=name)) for name in TIMM]
    assert all(config.hf_hub_id and config.hf_hub_filename is None for config in configs)
    assert len({timm.model_entrypoint(name.partition(".")[0]).__module__ for name in TIMM}) >= 30
    pretrained = {resolve(spec, HASH).pretraining for spec in read_manifest(FOLDER / "timm.yaml")}
    assert len(pretrained) >= 15


def test_every_kind_of_network_of_timm_has_a_classifier_on_features() -> None:
    kinds: dict[str, ModelSpec] = {}
    for spec in read_manifest(FOLDER / "timm.yaml"):
        resolved = resolve(spec, HASH)
        kinds.setdefault(timm.model_entrypoint(resolved.architecture.partition(":")[2]).__module__, resolved)
    assert len(kinds) >= 30
    for resolved in kinds.values():
        _, head = split(skeleton(resolved), resolved)
        assert (head is None) == (resolved.head is None), resolved.name
