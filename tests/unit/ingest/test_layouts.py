"""Good archives in every layout: what the user reads back."""

import json

import pytest

from app.ingest.layout import detect_layout
from app.ingest.prepare import prepare
from tests.fixtures import archives, image_files

FLAT = {
    "layout": "class_folders",
    "root": "",
    "classes": {"bag": 6, "dress": 6},
    "splits": {"train": 12},
    "warnings": {},
}


@pytest.mark.parametrize(
    "packed",
    [
        archives.zip_of(archives.class_folders()),
        archives.zip_of(archives.class_folders(), deflate=False),
        archives.tar_of(archives.class_folders()),
        archives.tar_of(archives.class_folders(), gzipped=True),
    ],
    ids=["zip", "stored zip", "tar", "tar.gz"],
)
def test_class_folders_in_each_archive_format(prepare_bytes, read_back, packed):
    report = prepare_bytes(packed).report
    assert read_back(report) == FLAT
    assert report["files"] == {"total": 12, "used": 12, "ignored": 0, "corrupt": 0, "excluded": 0}
    assert report["outcomes"] == []
    assert report["classes"][1] == {"name": "dress", "count": 6, "example": "dress/0.png"}
    assert report["images"] == {
        "width": {"min": 28, "median": 28, "max": 28},
        "height": {"min": 28, "median": 28, "max": 28},
        "modes": {"L": 12},
        "resized": 0,
    }
    assert json.loads(json.dumps(report)) == report


def test_the_example_data_set(tmp_path):
    prepared = prepare(image_files.SAMPLE, tmp_path)
    assert image_files.SAMPLE.stat().st_size < 1_000_000
    assert [entry["count"] for entry in prepared.report["classes"]] == [40] * 10
    assert prepared.report["files"]["used"] == 400
    assert prepared.report["warnings"] == []
    assert prepared.report["outcomes"] == []


def test_wrapping_folders_are_stripped(prepare_bytes, read_back):
    report = prepare_bytes(archives.nested_root(3)).report
    assert read_back(report) == FLAT | {"root": "wrapper 0/wrapper 1/wrapper 2/"}
    assert [(entry["path"], entry["reason"]) for entry in report["outcomes"]] == [
        ("wrapper 0/wrapper 1/wrapper 2/README.txt", "not_an_image")
    ]


def test_a_mac_zip_has_no_class_of_shadows(prepare_bytes, read_back):
    report = prepare_bytes(archives.mac_zip()).report
    assert read_back(report) == FLAT | {"root": "défauts/"}
    assert report["files"] == {"total": 26, "used": 12, "ignored": 14, "corrupt": 0, "excluded": 0}
    assert {entry["reason"] for entry in report["outcomes"]} == {"os_metadata"}
    assert report["outcomes"] == sorted(report["outcomes"], key=lambda entry: entry["path"])


def test_backslashes_are_separators(prepare_bytes, read_back):
    report = prepare_bytes(archives.win_backslash()).report
    assert read_back(report) == FLAT | {"root": "photos/"}
    assert [entry["path"] for entry in report["outcomes"]] == ["photos/bag/Thumbs.db", "photos/desktop.ini"]


def test_names_in_an_undeclared_encoding_are_read_and_told(prepare_bytes, read_back):
    seen = read_back(prepare_bytes(archives.gbk_names()).report)
    assert seen["classes"] == {"░ⁿ": 6, "┴¼╥┬╚╣": 6}
    assert seen["warnings"] == {"name_encoding_guessed": 12}


def test_unicode_forms_of_one_name_are_one_class_and_told(prepare_bytes, read_back):
    seen = read_back(prepare_bytes(archives.nfd_names()).report)
    assert seen["classes"] == {"d\u00e9faut": 6, "intact": 6}
    assert seen["warnings"] == {"class_name_merged": 1}


def test_names_that_differ_by_case_or_spaces_stay_classes_and_are_told(prepare_bytes, read_back):
    report = prepare_bytes(archives.case_only_names()).report
    assert read_back(report)["classes"] == {"Bag": 5, "bag": 5, "bag ": 5, "dress": 6}
    assert [(entry["code"], entry["examples"]) for entry in report["warnings"]] == [
        ("class_name_collision", ["Bag", "bag", "bag "])
    ]


def test_split_folders(prepare_bytes, read_back):
    assert read_back(prepare_bytes(archives.split_folders()).report) == {
        "layout": "split_class_folders",
        "root": "data/",
        "classes": {"bag": 15, "dress": 15},
        "splits": {"train": 10, "validation": 10, "test": 10},
        "warnings": {},
    }


def test_splits_without_validation(prepare_bytes, read_back):
    seen = read_back(prepare_bytes(archives.split_folders(("train", "test"), root="")).report)
    assert seen["splits"] == {"train": 10, "test": 10}


def test_an_unlabelled_test_split_is_no_class(prepare_bytes, read_back):
    report = prepare_bytes(archives.unlabelled_test()).report
    assert read_back(report) == FLAT | {"layout": "split_class_folders"}
    assert [(entry["path"], entry["reason"]) for entry in report["outcomes"]] == [
        ("labels.csv", "not_an_image"),
        *((f"test/{number}.png", "no_class_folder") for number in range(4)),
    ]


def test_a_class_may_be_called_like_a_split(prepare_bytes, read_back):
    files = {path.replace("bag", "test"): data for path, data in archives.class_folders().items()}
    seen = read_back(prepare_bytes(archives.zip_of(files)).report)
    assert (seen["classes"], seen["warnings"]) == ({"dress": 6, "test": 6}, {"split_name_as_class": 1})


def test_images_below_a_class_folder_belong_to_it(prepare_bytes, read_back):
    seen = read_back(prepare_bytes(archives.nested_in_class()).report)
    assert (seen["classes"], seen["warnings"]) == ({"bag": 7, "dress": 6}, {"nested_in_class": 1})


def test_content_counts_and_not_the_extension(prepare_bytes, read_back):
    seen = read_back(prepare_bytes(archives.uppercase_and_wrong_extensions()).report)
    assert seen["classes"] == {"bag": 8, "dress": 7}


def test_a_class_missing_in_a_split_is_told(prepare_bytes):
    files = {f"train/{path}": data for path, data in archives.class_folders(per_class=5).items()}
    files |= {f"val/{path}": data for path, data in archives.class_folders(("bag",), 5, first=5).items()}
    (warning,) = prepare_bytes(archives.zip_of(files)).report["warnings"]
    assert (warning["code"], warning["examples"]) == ("class_missing_in_split", ["validation/dress"])


def test_small_classes_are_told(prepare_bytes, read_back):
    files = archives.class_folders() | archives.class_folders(("coat",), 1) | archives.class_folders(("shirt",), 4)
    seen = read_back(prepare_bytes(archives.zip_of(files)).report)
    assert seen["classes"] == {"bag": 6, "coat": 1, "dress": 6, "shirt": 4}
    assert seen["warnings"] == {"singleton_class": 1, "small_class": 1}


def test_a_later_entry_of_the_same_path_replaces_the_earlier(prepare_bytes):
    files = archives.class_folders()
    twice = archives.zip_of(
        {"bag/again.png": image_files.fashion("bag")[20]} | files | {"bag/agaim.png": files["bag/0.png"]}
    )
    report = prepare_bytes(twice.replace(b"bag/agaim.png", b"bag/again.png")).report
    assert [(entry["path"], entry["reason"]) for entry in report["outcomes"]] == [
        ("bag/again.png", "duplicate"),
        ("bag/again.png", "replaced_in_archive"),
    ]


@pytest.mark.parametrize(
    ("paths", "kind", "root"),
    [
        (["cats/1.jpg", "dogs/1.jpg"], "class_folders", ""),
        (["pets/cats/1.jpg"], "class_folders", "pets/"),
        (["pets/1.jpg", "pets/2.jpg"], "class_folders", ""),
        (["cover.jpg", "pets/cats/1.jpg", "pets/dogs/1.jpg"], "class_folders", "pets/"),
        (["pets/cats/1.jpg", "pets/dogs/1.jpg", "docs/readme.txt"], "class_folders", "pets/"),
        (["train/cats/1.jpg", "train/dogs/1.jpg"], "class_folders", "train/"),
        (["train/cats/1.jpg", "contrast/dogs/1.jpg"], "class_folders", ""),
        (["train/1.jpg", "test/1.jpg"], "class_folders", ""),
        (["a/train/cats/1.jpg", "a/val/cats/1.jpg"], "split_class_folders", "a/"),
    ],
)
def test_layout_of_paths(paths, kind, root):
    layout = detect_layout(paths)
    assert (layout.kind, layout.root) == (kind, root)
