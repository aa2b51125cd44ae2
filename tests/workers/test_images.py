"""Reading images ends when the work is to end."""

from collections.abc import Iterator

import pytest
from PIL import Image

from app.domain.interruption import Interrupted
from workers.images import stopping


def test_all_images_come_while_nobody_stops() -> None:
    images = [Image.new("RGB", (2, 2)) for _ in range(3)]
    assert list(stopping(images, lambda: False)) == images


def test_no_image_is_read_after_the_stop() -> None:
    read: list[int] = []

    def reading() -> Iterator[Image.Image]:
        for number in range(5):
            read.append(number)
            yield Image.new("RGB", (2, 2))

    with pytest.raises(Interrupted):
        list(stopping(reading(), lambda: len(read) == 2))
    assert read == [0, 1]
