"""Near-duplicates among real photographs and real small images."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from workers.near_duplicates import near_duplicate_units

ROOT = Path(__file__).parents[2]
PHOTOS = sorted((ROOT / "zoo" / "photos").glob("*.jpg"))


def photo(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")


def recompressed(image: Image.Image) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=35)
    with Image.open(file) as copy:
        return copy.convert("RGB")


def test_copies_of_a_photo_share_a_unit_and_other_photos_do_not() -> None:
    images = []
    for path in PHOTOS:
        image = photo(path)
        images += [
            image,
            recompressed(image),
            image.resize((image.width // 2, image.height // 2)),
            image.point(lambda value: min(255, int(value * 1.15))),
        ]
    units = near_duplicate_units(images).reshape(len(PHOTOS), 4)
    assert (units == units[:, :1]).all()
    assert len(np.unique(units)) == len(PHOTOS) > 5


def test_small_images_of_one_class_are_not_taken_for_copies() -> None:
    with zipfile.ZipFile(ROOT / "examples" / "fashion-mnist-sample.zip") as archive:
        names = [name for name in archive.namelist() if name.endswith(".png")]
        images = [Image.open(io.BytesIO(archive.read(name))) for name in names]
    assert len(np.unique(near_duplicate_units(images))) == len(images) == 400


@pytest.mark.parametrize("count", [1, 5])
def test_images_without_contrast_are_not_compared(count: int) -> None:
    images = [Image.new("RGB", (20, 20), (90 + number, 90, 90)) for number in range(count)]
    assert near_duplicate_units(images).tolist() == list(range(count))
