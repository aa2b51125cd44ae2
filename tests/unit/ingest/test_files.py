"""Files that do not count: a line in the report each, with outcome and reason."""

import pytest

from app.ingest.limits import Limits
from tests.fixtures import archives, image_files


def outcomes(report):
    return {entry["path"]: (entry["outcome"], entry["reason"]) for entry in report["outcomes"]}


def test_every_bad_file_has_its_line(prepare_bytes):
    report = prepare_bytes(archives.with_bad_files()).report
    assert outcomes(report) == {
        "bag/text.jpg": ("corrupt", "not_an_image"),
        "bag/truncated.jpg": ("corrupt", "corrupt_image"),
        "bag/empty.png": ("corrupt", "empty_file"),
        "bag/tiny.png": ("excluded", "image_tiny"),
        "bag/huge.png": ("excluded", "image_too_large"),
        "bag/strip.png": ("excluded", "extreme_aspect_ratio"),
        "bag/phone.heic": ("excluded", "unsupported_image_format"),
        "bag/drawing.svg": ("excluded", "unsupported_image_format"),
        "bag/notes.txt": ("ignored", "not_an_image"),
        "bag/more.zip": ("ignored", "nested_archive_ignored"),
        "bag/.hidden/9.png": ("ignored", "hidden_file"),
        "dress/@eaDir/0.png": ("ignored", "os_metadata"),
        "loose.png": ("ignored", "no_class_folder"),
    }
    assert report["files"] == {"total": 37, "used": 24, "ignored": 5, "corrupt": 3, "excluded": 5}
    details = {entry["path"]: entry["detail"] for entry in report["outcomes"]}
    assert details["bag/huge.png"] == "16000 x 10000 pixels; the limit is 100 megapixels"


def test_the_huge_png_is_small_and_valid():
    assert len(image_files.huge_png()) < 21_000


def test_a_damaged_entry_of_a_zip_spoils_only_itself(prepare_bytes):
    report = prepare_bytes(archives.damaged_entry()).report
    assert outcomes(report) == {"bag/0.png": ("corrupt", "corrupt_entry")}
    assert report["files"]["used"] == 11


def test_an_entry_that_lies_about_its_size_is_read_no_further(prepare_bytes):
    report = prepare_bytes(archives.lying_bomb()).report
    assert outcomes(report) == {"bag/lie.bmp": ("corrupt", "corrupt_entry")}


def test_duplicates_count_once_and_the_copy_in_train_wins(prepare_bytes):
    report = prepare_bytes(archives.duplicates()).report
    assert report["outcomes"] == [
        {
            "path": path,
            "outcome": "excluded",
            "reason": "duplicate",
            "detail": "the same picture as train/bag/0.png",
        }
        for path in ("test/bag/leaked.bmp", "train/bag/again.png")
    ]
    assert [(entry["code"], entry["count"]) for entry in report["warnings"]] == [("split_leak", 1)]


def test_a_picture_in_two_classes_counts_in_neither(prepare_bytes):
    report = prepare_bytes(archives.few_conflicts()).report
    assert outcomes(report) == {
        "ankle-boot/00000.png": ("excluded", "label_conflict"),
        "bag/00000.png": ("excluded", "label_conflict"),
    }
    assert report["files"]["used"] == 399


def test_a_class_folder_without_a_usable_image_is_told(prepare_bytes):
    files = archives.class_folders() | {"coat/1.jpg": image_files.truncated_jpeg()}
    (warning,) = prepare_bytes(archives.zip_of(files)).report["warnings"]
    assert (warning["code"], warning["examples"]) == ("empty_class", ["coat"])


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        (Limits(max_pixels=28 * 28 - 1), "image_too_large"),
        (Limits(min_side=29), "image_tiny"),
    ],
)
def test_limits_hold_at_their_edge(rejection, prepare_bytes, limits, reason):
    packed = archives.zip_of(archives.class_folders())
    assert f"12 {reason}" in rejection(packed, limits=limits).message
    assert prepare_bytes(packed, limits=Limits(max_pixels=28 * 28, min_side=28)).report["files"]["used"] == 12


def test_grey_beside_coloured_classes_is_told(prepare_bytes):
    files = archives.class_folders(("bag",))
    files |= {f"dress/{n}.png": image_files.encoded(image_files.colour(n), "PNG") for n in range(6)}
    (warning,) = prepare_bytes(archives.zip_of(files)).report["warnings"]
    assert (warning["code"], warning["examples"]) == ("channel_correlates_with_label", ["bag"])
