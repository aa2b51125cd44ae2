"""Make fashion-mnist-sample.zip: the first images of each class of Fashion-MNIST's test set, as PNG class folders.

    apt-get install dataset-fashion-mnist
    python examples/make_fashion_mnist_sample.py

Needs Pillow. The same input and Pillow give the same bytes on every run.
"""

import argparse
import gzip
import io
import zipfile
from pathlib import Path

from PIL import Image

CLASSES = (
    *("t-shirt", "trouser", "pullover", "dress", "coat"),
    *("sandal", "shirt", "sneaker", "bag", "ankle-boot"),
)
SIDE = 28
IMAGES_HEADER_BYTES = 16
LABELS_HEADER_BYTES = 8
TIMESTAMP = (2017, 8, 25, 0, 0, 0)


def sample(folder: Path, per_class: int) -> dict[str, bytes]:
    """Return path and PNG file of the first ``per_class`` test images of each class."""
    images = gzip.decompress((folder / "t10k-images-idx3-ubyte.gz").read_bytes())[IMAGES_HEADER_BYTES:]
    labels = gzip.decompress((folder / "t10k-labels-idx1-ubyte.gz").read_bytes())[LABELS_HEADER_BYTES:]
    taken = [0] * len(CLASSES)
    files = {}
    for index, label in enumerate(labels):
        if taken[label] == per_class:
            continue
        taken[label] += 1
        pixels = images[index * SIDE * SIDE : (index + 1) * SIDE * SIDE]
        buffer = io.BytesIO()
        Image.frombytes("L", (SIDE, SIDE), pixels).save(buffer, "PNG", compress_level=9)
        files[f"{CLASSES[label]}/{index:05d}.png"] = buffer.getvalue()
    return dict(sorted(files.items()))


def main() -> None:
    """Write the zip."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, default=Path("/usr/share/datasets/fashion-mnist"))
    parser.add_argument("--per-class", type=int, default=40)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("fashion-mnist-sample.zip"))
    arguments = parser.parse_args()
    with zipfile.ZipFile(arguments.output, "w") as archive:
        for path, data in sample(arguments.source, arguments.per_class).items():
            entry = zipfile.ZipInfo(f"fashion-mnist-sample/{path}", TIMESTAMP)
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, data)  # stored: a PNG does not shrink further


if __name__ == "__main__":
    main()
