"""The zoo manifest and the packaged zoo it lists."""

import json
from pathlib import Path

import pytest

from app.domain.errors import BadRequest
from app.domain.model_spec import ModelSpec, PackageSource
from app.manifest import PACKAGED, PHOTOS, parse_manifest, read_manifest


def test_packaged_zoo_is_complete() -> None:
    specs = read_manifest()
    assert [spec.name for spec in specs] == [
        "efficientnet-lite0",
        "efficientnet-lite1",
        "efficientnet-lite2",
        "mobilenetv2-imagenet",
        "mobilenetv2-deepsort",
        "mobilenetv2-dogs",
        "vgg16-hed-edges",
    ]
    assert len({spec.digest for spec in specs}) == len(specs)
    for spec in specs:
        assert isinstance(spec.source, PackageSource)
        assert spec.license
        assert spec.preprocessing is not None
        assert spec.pretraining is not None
        assert spec.known_similarity is not None
        assert bool(spec.known_photos) == (spec.head is not None)
        used = {known.photo for known in spec.known_photos} | set(spec.known_similarity.photos)
        assert used <= {path.name for path in PHOTOS.glob("*.jpg")}


def test_photos_are_small_and_credited() -> None:
    readme = (PHOTOS / "README.md").read_text()
    for path in PHOTOS.glob("*.jpg"):
        assert path.stat().st_size <= 60_000
        assert f"`{path.name}`" in readme


def test_label_set_of_the_dogs_has_a_name_for_each_class() -> None:
    names = (PACKAGED.parent / "labels" / "dogs-19.txt").read_text().splitlines()
    assert len(names) == 19
    assert names[9] == "German shepherd"


@pytest.mark.parametrize(
    ("text", "code", "param"),
    [
        ("models: [", "invalid_manifest", None),
        ("- name: a", "invalid_manifest", None),
        ("models: {}", "invalid_manifest", None),
        ("models: []\nzoo: 1", "invalid_manifest", None),
        ("{}", "invalid_manifest", None),
        ("", "invalid_manifest", None),
        ("models: [1]", "invalid_model_spec", "models[0]"),
        ("models: [{name: a, architecture: 'timm:vit'}]", "invalid_model_spec", "models[0].source"),
    ],
)
def test_a_wrong_manifest_is_refused(tmp_path: Path, text: str, code: str, param: str | None) -> None:
    path = tmp_path / "zoo.yaml"
    path.write_text(text)
    with pytest.raises(BadRequest) as caught:
        read_manifest(path)
    assert (caught.value.code, caught.value.param) == (code, param)
    assert caught.value.hint


def test_what_rows_share_may_stand_once(tmp_path: Path) -> None:
    first = "{name: a, license: mit, source: &source {type: torchvision, entry: resnet18.IMAGENET1K_V1}}"
    second = "{name: b, source: *source}"
    third = "{<<: {license: bsd-3-clause, source: *source}, name: c}"
    path = tmp_path / "zoo.yaml"
    path.write_text(f"models: [{first}, {second}, {third}]")
    specs = read_manifest(path)
    assert [(spec.name, spec.license) for spec in specs] == [("a", "mit"), ("b", ""), ("c", "bsd-3-clause")]
    assert [spec.source for spec in specs] == [specs[0].source] * 3


LAUGHS = "models:\n- &a0 [ha, ha]\n" + "".join(f"- &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 8))
CHAIN = "models:\n- &a0 [ha]\n" + "".join(f"- &a{n} [[[*a{n - 1}]]]\n" for n in range(1, 300))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (LAUGHS, "more than 500000 things"),
        (CHAIN, "nested too deeply"),
        ("[" * 100_000, "nested too deeply"),
        ("models: &a [*a]", r"refers to \*a, which does not stand before"),
        ("models: [*b]", r"refers to \*b"),
        ("models:\n- {name: a\n- {name: b}", "line 3"),
    ],
)
def test_bombs_are_refused_before_they_are_read(text: str, says: str) -> None:
    with pytest.raises(BadRequest, match=says) as caught:
        parse_manifest(text)
    assert caught.value.code == "invalid_manifest"


@pytest.mark.parametrize("number", ["1" + 400 * "0", "0x" + 5000 * "f", str(2**63)])
def test_a_number_without_end_spoils_its_row_alone(number: str) -> None:
    source = "{type: torchvision, entry: resnet18.IMAGENET1K_V1}"
    steps = "{resize: 8, crop: [8, 8], interpolation: bilinear, mean: [0, 0, 0], std: [1, 1, 1], divide_by: NUMBER}"
    rows = f"{{name: a, source: {source}, preprocessing: {steps}}}, {{name: b, source: {source}, notes: NUMBER}}"
    wrong, other, right = parse_manifest(f"models: [{rows}, {{name: c, source: {source}}}]".replace("NUMBER", number))
    assert wrong.error is not None
    assert (wrong.error.code, wrong.error.param) == ("invalid_model_spec", "preprocessing.divide_by")
    assert other.error is not None
    assert (right.error, right.spec is not None) == (None, True)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("models: []\nversion: 1", "has 'version' beside 'models'"),
        ("modles: []", "has 'modles', and not 'models'"),
        ("models: {}", "something else than a list"),
        ("models:\n- name: a\n  license: mit\n  name: b", "line 4: 'name' stands in line 2 already"),
        ("models: [{source: {type: timm, 'type': upload}}]", "line 1: 'type' stands in line 1"),
        ('{"models": [], "models": []}', "'models' stands in line 1"),
    ],
)
def test_what_is_wrong_with_the_whole_is_named(text: str, says: str) -> None:
    with pytest.raises(BadRequest, match=says) as caught:
        parse_manifest(text)
    assert caught.value.code == "invalid_manifest"


def test_keys_that_differ_may_look_alike() -> None:
    (row,) = parse_manifest("models: [{name: a, 1: x, '1': y}]")
    assert row.error is not None
    assert row.error.code == "invalid_model_spec"


def test_a_name_given_twice_is_refused(tmp_path: Path) -> None:
    entry = "{name: a, source: {type: torchvision, entry: resnet18.IMAGENET1K_V1}}"
    path = tmp_path / "zoo.yaml"
    path.write_text(f"models: [{entry}]")
    assert [spec.architecture for spec in read_manifest(path)] == ["torchvision:resnet18"]
    path.write_text(f"models: [{entry}, {entry}]")
    with pytest.raises(BadRequest, match="'a' twice"):
        read_manifest(path)


def test_specifications_survive_a_round_trip() -> None:
    for spec in read_manifest():
        assert ModelSpec.from_dict(spec.as_dict()) == spec


def test_tags_are_no_part_of_the_specification() -> None:
    row = {"source": {"type": "torchvision", "entry": "resnet18.IMAGENET1K_V1"}}
    rows = [row | {"name": "a", "tags": ["b", "a", "b"]}, row | {"name": "b"}, row | {"name": "c", "tags": "x"}]
    tagged, plain, wrong = parse_manifest(json.dumps({"models": rows}))
    assert (tagged.tags, plain.tags) == (("a", "b"), None)
    assert tagged.spec is not None
    assert "tags" not in tagged.spec.as_dict()
    assert wrong.error is not None
    assert (wrong.error.code, wrong.error.param) == ("invalid_tags", "tags")
