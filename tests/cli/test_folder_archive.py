import os
import zipfile
from pathlib import Path

import pytest

from app.cli.folder_archive import packed_folder
from app.client import Failure


def silent(_done: int, _total: int) -> None:
    pass


def folder(root: Path) -> Path:
    for path, text in {
        "cats/1.jpg": "one",
        "dogs/deep/2.jpg": "two",
        ".git/objects/aa": "no",
        "cats/.DS_Store": "no",
    }.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return root


def test_files_are_stored_under_their_path_and_hidden_ones_left_out(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    packing = packed_folder(folder(tmp_path), lambda *progress: seen.append(progress))
    with packing as file, zipfile.ZipFile(file) as archive:
        assert archive.testzip() is None
        assert {entry.filename: entry.compress_type for entry in archive.infolist()} == {
            "cats/1.jpg": zipfile.ZIP_STORED,
            "dogs/deep/2.jpg": zipfile.ZIP_STORED,
        }
        assert archive.read("dogs/deep/2.jpg") == b"two"
    assert seen[-1] == (6, 6)


def test_the_same_files_give_the_same_bytes(tmp_path: Path) -> None:
    first, second = folder(tmp_path / "first"), folder(tmp_path / "second")
    os.utime(second / "cats" / "1.jpg", (1, 1))
    (second / "cats" / "1.jpg").chmod(0o600)
    with packed_folder(first, silent) as one, packed_folder(second, silent) as other:
        one.seek(0)
        other.seek(0)
        assert one.read() == other.read()


def test_links_are_followed_and_circles_end(tmp_path: Path) -> None:
    root = folder(tmp_path / "photos")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "3.jpg").write_text("three")
    (root / "birds").symlink_to(elsewhere)
    (root / "cats" / "up").symlink_to(root)
    with packed_folder(root, silent) as file, zipfile.ZipFile(file) as archive:
        assert sorted(archive.namelist()) == ["birds/3.jpg", "cats/1.jpg", "dogs/deep/2.jpg"]


def test_a_name_that_is_not_text_is_written_out(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.jpg")).write_text("x")
    with packed_folder(tmp_path, silent) as file, zipfile.ZipFile(file) as archive:
        assert archive.namelist() == ["caf\\xe9.jpg"]


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "class").mkdir()
    with pytest.raises(Failure) as error, packed_folder(tmp_path, silent):
        pass
    assert error.value.code == "empty_folder"
