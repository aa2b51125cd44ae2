"""The Parquet file: readable by Hugging Face's datasets, and row by row by the workers."""

import io

import datasets
import numpy as np
import pytest
from PIL import Image

from app.ingest.shard import iter_image_files, iter_images, read_labels, write_shard
from tests.fixtures import archives, image_files


@pytest.fixture
def shard(tmp_path):
    """250 rows in three row groups, the label being the row's number modulo 3."""
    path = tmp_path / "shard.parquet"
    files = list(image_files.fashion_files().values())[:250]
    write_shard(path, ((data, f"{n}.png", n % 3, "train") for n, data in enumerate(files)), ["a", "b", "c"])
    return path, files


def test_hugging_face_opens_it(prepare_bytes, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    prepared = prepare_bytes(archives.split_folders())
    loaded = datasets.load_dataset(
        "parquet", data_files=str(prepared.shard), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert isinstance(loaded.features["image"], datasets.Image)
    assert loaded.features["label"] == datasets.ClassLabel(names=["bag", "dress"])
    assert loaded["split"] == ["train"] * 10 + ["validation"] * 10 + ["test"] * 10
    assert loaded["label"] == ([0] * 5 + [1] * 5) * 3
    with Image.open(io.BytesIO(image_files.fashion("bag")[0])) as expected:
        assert np.array_equal(np.asarray(loaded[0]["image"]), np.asarray(expected))


def test_labels_names_and_splits(prepare_bytes):
    labels_N, names, splits = read_labels(prepare_bytes(archives.split_folders()).shard)
    assert labels_N.dtype == np.int64
    assert labels_N.tolist() == ([0] * 5 + [1] * 5) * 3
    assert names == ["bag", "dress"]
    assert splits == ["train"] * 10 + ["validation"] * 10 + ["test"] * 10


def test_rows_come_in_order_and_unchanged(shard):
    path, files = shard
    assert list(iter_image_files(path)) == files
    assert list(iter_image_files(path, np.array([0, 99, 100, 249]))) == [files[n] for n in (0, 99, 100, 249)]


def test_images_are_rgb(shard):
    path, _ = shard
    images = list(iter_images(path, [3, 120]))
    assert [image.mode for image in images] == ["RGB", "RGB"]
    assert np.array_equal(np.asarray(images[0])[..., 0], np.asarray(image_files.grey(3)))


@pytest.mark.parametrize(
    ("indices", "error"), [([5, 4], ValueError), ([5, 5], ValueError), ([-1], ValueError), ([250], IndexError)]
)
def test_wrong_indices(shard, indices, error):
    with pytest.raises(error):
        list(iter_image_files(shard[0], indices))
