"""The digest is the identity of the content: of nothing less, and of nothing else."""

import random

from app.ingest.shard import iter_image_files, read_labels
from tests.fixtures import archives, image_files


def test_the_packing_does_not_matter(prepare_bytes):
    files = archives.class_folders() | {"bag/large.jpg": image_files.encoded(image_files.colour(1, (900, 700)), "JPEG")}
    shuffled = dict(random.Random(0).sample(sorted(files.items()), len(files)))
    wrapped = {f"photos/{path}": data for path, data in files.items()}
    prepared = [
        prepare_bytes(packed)
        for packed in (
            archives.zip_of(files),
            archives.zip_of(shuffled, deflate=False),
            archives.tar_of(files),
            archives.tar_of(shuffled, gzipped=True),
            archives.zip_of(wrapped),
        )
    ]
    assert len({one.digest for one in prepared}) == 1
    assert prepared[0].report == prepared[1].report == prepared[2].report == prepared[3].report


def test_the_same_archive_gives_the_same_file(prepare_bytes):
    packed = archives.mixed_modes()
    first = prepare_bytes(packed)
    before = first.shard.read_bytes()
    again = prepare_bytes(packed)
    assert (again.digest, again.shard.read_bytes(), again.report) == (first.digest, before, first.report)


def test_every_part_of_the_content_matters(prepare_bytes):
    files = archives.class_folders(per_class=8)
    bags = image_files.fashion("bag")
    variants = [
        files,
        {**files, "bag/0.png": bags[30]},
        {path.replace("dress", "gown"): data for path, data in files.items()},
        {path.replace("bag/0", "bag/zero"): data for path, data in files.items()},
        {path: data for path, data in files.items() if path != "bag/7.png"},
        {("train/" if "/1." in path else "test/") + path: data for path, data in files.items()},
    ]
    assert len({prepare_bytes(archives.zip_of(variant)).digest for variant in variants}) == len(variants)


def test_the_digest_is_pinned(prepare_bytes):
    """Stored data sets and caches carry it: a change of the digest is a change of every data set's identity."""
    digest = prepare_bytes(archives.zip_of(archives.class_folders(per_class=2))).digest
    assert digest == "66c8f26af2ee13b7aee9c3f8314b4de4bc91575aaf1ed6aeb97a983ff157f79c"


def test_rows_are_sorted_by_split_class_and_path(prepare_bytes):
    files = archives.class_folders(("dress", "bag"), 12)
    prepared = prepare_bytes(archives.tar_of(dict(reversed(files.items()))))
    paths = [f"{name}/{number}.png" for name in ("bag", "dress") for number in sorted(map(str, range(12)))]
    assert list(iter_image_files(prepared.shard)) == [files[path] for path in paths]
    assert read_labels(prepared.shard)[0].tolist() == [0] * 12 + [1] * 12
