"""Properties over archives that nobody wrote by hand: no unsafe path comes through, and no damage crashes anything."""

import random
import struct
import tempfile
import zlib
from pathlib import Path, PurePosixPath, PureWindowsPath

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from app.domain.errors import DatasetRejected
from app.ingest.archive_format import open_archive
from app.ingest.limits import DEFAULT_LIMITS
from app.ingest.member_path import decoded_name, safe_path
from app.ingest.prepare import prepare
from tests.fixtures import archives

NAMES = st.lists(
    st.sampled_from(
        ["..", ".", "/", "\\", "a", "bag", "C:", " ", "\u212a:", "\u0301", "e", "\0", "..\u0301", "~", "*"]
    ),
    max_size=8,
).map("".join)


def assert_safe(path: str) -> None:
    assert not PurePosixPath(path).is_absolute()
    assert not PureWindowsPath(path).is_absolute()
    assert not PureWindowsPath(path).drive
    assert not {"..", ".", ""} & set(path.split("/"))
    assert "\0" not in path
    assert "\\" not in path
    path.encode()


@given(NAMES | st.text(max_size=30))
@example("bag/../..")
@example("./C:/evil")
@settings(deadline=None, max_examples=400)
def test_no_unsafe_path_is_accepted(name):
    try:
        name.encode()
        path, _ = safe_path(name)
    except (DatasetRejected, UnicodeEncodeError):
        return
    if path:
        assert_safe(path)
        assert safe_path(path) == (path, path)


@given(st.lists(NAMES.filter(bool), min_size=1, max_size=3, unique=True), st.sampled_from(["zip", "tar", "raw"]))
@settings(deadline=None, max_examples=120)
def test_no_archive_lists_an_unsafe_path(names, kind):
    files = dict.fromkeys(names, b"x")
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder, "upload")
        archive.write_bytes(archives.tar_of(files) if kind == "tar" else archives.zip_of(files, deflate=kind == "zip"))
        try:
            opened = open_archive(archive, DEFAULT_LIMITS)
        except DatasetRejected:
            return
    for member in opened.members:
        assert_safe(member.path)


@given(st.binary(max_size=40), st.binary(max_size=40))
@settings(deadline=None, max_examples=200)
def test_any_bytes_are_some_name(raw, extra):
    name, _ = decoded_name(raw, extra)
    assert name.encode() or not raw


def test_the_unicode_path_field_counts_only_with_its_checksum():
    raw, name = "défaut".encode("cp850"), "défaut"
    body = struct.pack("<BI", 1, zlib.crc32(raw)) + name.encode()
    extra = struct.pack("<HH", 0x7075, len(body)) + body
    other = struct.pack("<HH", 0x5455, 5) + bytes(5)
    assert decoded_name(raw, other + extra) == (name, False)
    assert decoded_name(b"renamed", extra) == ("renamed", False)


GOOD = {
    "zip": archives.zip_of(archives.class_folders(per_class=3)),
    "tar": archives.tar_of({f"{'é' * 70}/{path}": data for path, data in archives.class_folders(per_class=3).items()}),
    "tar.gz": archives.tar_of(archives.class_folders(per_class=3), gzipped=True),
    "modes": archives.mixed_modes(),
}


@pytest.mark.parametrize("packed", GOOD.values(), ids=GOOD)
@given(data=st.data())
@settings(deadline=None, max_examples=60)
def test_damage_ends_in_a_verdict(packed, data):
    cut = data.draw(st.integers(0, len(packed)), "cut") if data.draw(st.booleans(), "truncate") else len(packed)
    damaged = bytearray(packed[:cut])
    dice = random.Random(data.draw(st.integers(0, 2**32), "seed"))
    for _ in range(data.draw(st.integers(0, 10), "flips") if damaged else 0):
        # Half of the damage near the end, where a zip has its directory.
        place = dice.randrange(len(damaged)) if dice.random() < 0.5 else -1 - dice.randrange(min(len(damaged), 600))
        damaged[place] ^= 1 << dice.randrange(8)
    with tempfile.TemporaryDirectory() as folder:
        archive, workspace = Path(folder, "upload"), Path(folder, "workspace")
        archive.write_bytes(damaged)
        workspace.mkdir()
        try:
            prepared = prepare(archive, workspace)
        except DatasetRejected:
            assert not any(workspace.iterdir())
            return
        counts = prepared.report["files"]
        assert counts["total"] == sum(count for kind, count in counts.items() if kind != "total")
        assert [path.name for path in workspace.iterdir()] == ["dataset.parquet"]


@given(cut=st.integers(0, len(GOOD["zip"]) - 1))
@settings(deadline=None, max_examples=60)
def test_a_truncated_zip_is_never_a_data_set(cut):
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder, "upload")
        archive.write_bytes(GOOD["zip"][:cut])
        with pytest.raises(DatasetRejected):
            prepare(archive, Path(folder))
