"""Archives that are refused: a stable code, a parameter, a hint, and nothing left behind."""

import gzip
import io
import random
import tarfile
import zipfile

import pytest

from app.domain.interruption import Interrupted
from app.ingest.limits import MIB, Limits
from tests.fixtures import archives, image_files


@pytest.mark.parametrize(
    ("build", "code", "param"),
    [
        (archives.half_corrupt, "corrupt_fraction_exceeded", "bag/10.jpg"),
        (archives.many_conflicts, "label_conflict", "bag/0.png"),
        (archives.one_class, "too_few_classes", "bag"),
        (archives.no_class, "no_classes", None),
        (archives.bomb, "archive_bomb", None),
        (archives.tar_header_bomb, "archive_bomb", None),
        (archives.slip, "archive_unsafe", "../../etc/cron.d/evil.png"),
        (archives.symlink, "archive_unsafe", "bag/link.png"),
        (archives.encrypted, "archive_encrypted", "bag/0.png"),
        (archives.truncated_zip, "archive_truncated", None),
        (archives.empty, "archive_empty", None),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_refused(rejection, build, code, param):
    error = rejection(build())
    assert (error.code, error.param) == (code, param)


def test_a_rejection_lists_the_broken_files(rejection):
    outcomes = rejection(archives.half_corrupt()).outcomes
    assert {outcome["reason"] for outcome in outcomes} == {"not_an_image"}
    assert [outcome["path"] for outcome in outcomes] == sorted(outcome["path"] for outcome in outcomes)
    assert rejection(archives.truncated_zip()).outcomes == ()


@pytest.mark.parametrize(
    "name",
    [
        "../evil.png",
        "bag/../../evil.png",
        "bag/..",
        "/etc/evil.png",
        "C:/evil.png",
        "c:evil.png",
        "\u212a:evil.png",  # the Kelvin sign becomes a K in NFC
        "..\\evil.png",
        "\\\\server\\share\\evil.png",
        "bag/" + "a" * 5000,
    ],
)
@pytest.mark.parametrize("pack", [archives.zip_of, archives.tar_of])
def test_unsafe_names(rejection, pack, name):
    error = rejection(pack({**archives.class_folders(), name: image_files.fashion("bag")[9]}))
    assert error.code == "archive_unsafe"


def test_a_name_with_a_nul(rejection):
    error = rejection(archives.zip_of({**archives.class_folders(), "bag/evil\0.png": image_files.fashion("bag")[9]}))
    assert (error.code, error.param) == ("archive_unsafe", "bag/evil\\0.png")


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, b"Z"]
)
def test_special_entries_of_a_tar(rejection, kind):
    error = rejection(archives.tar_with_entry(kind, "bag/0.png"))
    assert (error.code, error.param) == ("archive_unsafe", "bag/special.png")


@pytest.mark.parametrize(
    ("packed", "what"),
    [
        (b"7z\xbc\xaf\x27\x1c" + bytes(100), "a 7z archive"),
        (b"Rar!\x1a\x07\x01\x00" + bytes(100), "a RAR archive"),
        (b"BZh91AY&SY" + bytes(100), "a bzip2 file"),
        (gzip.compress(b"a log file\n" * 100, mtime=0), "a gzip file that holds no tar archive"),
        (gzip.compress(b"", mtime=0), "a gzip file that holds no tar archive"),
        (image_files.encoded(image_files.colour(), "JPEG"), "a single JPEG image"),
        (b"hello", "of an unknown kind"),
    ],
    ids=["7z", "rar", "bzip2", "gzip", "empty-gzip", "jpeg", "text"],
)
def test_unsupported_kinds_are_named(rejection, packed, what):
    error = rejection(packed)
    assert error.code == "unsupported_archive"
    assert what in error.message


def test_other_zip_methods_than_deflate(rejection):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("bag/0.png", image_files.fashion("bag")[0])
    error = rejection(buffer.getvalue())
    assert (error.code, error.param) == ("unsupported_archive", "bag/0.png")


@pytest.mark.parametrize(
    "packed", [b"", archives.tar_of({}), archives.tar_of({}, gzipped=True), archives.zip_of({"a/": b""})]
)
def test_empty_archives(rejection, packed):
    assert rejection(packed).code == "archive_empty"


@pytest.mark.parametrize("gzipped", [False, True])
@pytest.mark.parametrize("share", [0.05, 0.3, 0.7, 0.99])
def test_truncated_tars(rejection, gzipped, share):
    packed = archives.tar_of(archives.class_folders(), gzipped=gzipped)
    length = len(packed) if gzipped else packed.rindex(b"IEND")  # zeros at the end of a tar may be missing
    assert rejection(packed[: int(length * share)]).code == "archive_truncated"


def test_a_tar_cut_between_two_files(rejection):
    packed = archives.tar_of(archives.class_folders())
    second = packed.index(b"bag/1.png")
    assert rejection(packed[:second]).code == "archive_truncated"


def test_a_tar_with_a_broken_header(rejection):
    packed = bytearray(archives.tar_of(archives.class_folders()))
    packed[packed.index(b"bag/3.png")] ^= 1
    assert rejection(bytes(packed)).code == "archive_corrupt"


def test_a_gzip_with_broken_data(rejection):
    packed = bytearray(archives.tar_of(archives.class_folders(per_class=30), gzipped=True))
    packed[-6] ^= 1  # in the checksum at its very end
    assert rejection(bytes(packed)).code == "archive_corrupt"


@pytest.mark.parametrize("pack", [archives.zip_of, archives.tar_of, lambda files: archives.tar_of(files, gzipped=True)])
@pytest.mark.parametrize(
    "limits",
    [
        Limits(max_entries=11),
        Limits(max_total_bytes=4000),
        Limits(max_entry_bytes=100),
        Limits(max_ratio=0.5, ratio_from_bytes=0),
    ],
    ids=["entries", "total", "entry", "ratio"],
)
def test_each_cap_ends_the_archive(rejection, pack, limits):
    assert rejection(pack(archives.class_folders()), limits=limits).code == "archive_bomb"


def test_a_gzipped_tar_bomb(rejection):
    packed = archives.tar_of({**archives.class_folders(), "bag/zeros.bmp": bytes(96 * MIB)}, gzipped=True)
    assert len(packed) < MIB
    assert rejection(packed).code == "archive_bomb"


def test_overlapping_entries(rejection):
    noise = random.Random(0).randbytes(4000)
    one = archives.zip_of({"bag/a.png": noise}, deflate=False)
    start = one.index(b"PK\x01\x02")
    record, end = one[start : one.index(b"PK\x05\x06")], bytearray(one[one.index(b"PK\x05\x06") :])
    end[8:12] = (40).to_bytes(2, "little") * 2
    end[12:16] = (40 * len(record)).to_bytes(4, "little")
    assert rejection(one[:start] + record * 40 + bytes(end)).code == "archive_bomb"


def test_no_classes_says_what_was_found(rejection):
    files = {f"bag/{n}.heic": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" for n in range(3)}
    assert "3 unsupported_image_format" in rejection(archives.zip_of(files)).message


@pytest.mark.parametrize("after", [0, 5])
def test_the_caller_can_stop_it(prepare_bytes, after):
    done = []
    with pytest.raises(Interrupted):
        prepare_bytes(
            archives.zip_of(archives.class_folders(per_class=20)),
            on_progress=lambda count, total: done.append((count, total)),
            should_stop=lambda: len(done) >= after,
        )
    assert len(done) < 40


def test_progress_counts_every_file_once(prepare_bytes):
    seen = []
    prepare_bytes(archives.with_bad_files(), on_progress=lambda done, total: seen.append((done, total)))
    assert seen == [(number, 35) for number in range(1, 36)]
