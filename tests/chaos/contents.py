"""What is uploaded: a few data sets of real images, and one archive that cannot become a data set."""

import io
import random
import zipfile

from tests.fixtures import image_files
from tests.fixtures.archives import class_folders, zip_of

CONTENTS = 8
BAD = CONTENTS
"""The content of which no data set can be made: it has one class."""

_CLASSES = ("ankle-boot", "bag", "coat", "dress", "pullover", "sandal", "shirt", "sneaker", "t-shirt", "trouser")


def archive(content: int, salt: str) -> bytes:
    """Return a zip of some images that depend on ``content`` alone; ``salt`` makes the bytes of the zip others.

    The canonical images of such archives, and all that is computed from them, are shared.
    """
    if content == BAD:
        return _salted(zip_of(class_folders(("bag",))), salt)
    chosen = random.Random(content)
    files = {}
    for name in chosen.sample(_CLASSES, 3):
        for number, image in enumerate(chosen.sample(image_files.fashion(name), 12)):
            files[f"{name}/{number}.png"] = image
    return _salted(zip_of(files), salt)


def _salted(packed: bytes, salt: str) -> bytes:
    buffer = io.BytesIO(packed)
    with zipfile.ZipFile(buffer, "a") as target:
        target.comment = salt.encode()
    return buffer.getvalue()
