"""The canonical data set: one Parquet file in the image layout of Hugging Face's ``datasets``.

Columns: ``image`` struct<bytes, path>, ``label`` int64, ``split`` string; the class names lie in the schema's metadata
under ``huggingface``, so that ``load_dataset("parquet", data_files=...)`` gives Image and ClassLabel features.

Arrays: ``N`` images; ``labels_N`` int64, a label being a place in the sorted class names.
"""

import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

_GROUP_ROWS = 100
_GROUP_BYTES = 16 * 2**20
_STORED_FORMATS = ("PNG", "JPEG", "WEBP")


def write_shard(path: Path, rows: Iterable[tuple[bytes, str, int, str]], class_names: list[str]) -> None:
    """Write rows of (image file, path, label, split) to ``path`` in their order, a row group of them in memory."""
    schema = _schema(class_names)
    # The images are compressed already; a dictionary or statistics over them would only cost time.
    with pq.ParquetWriter(
        path, schema, compression="none", use_dictionary=["split"], write_statistics=["label", "split"]
    ) as writer:
        group: list[dict[str, Any]] = []
        group_bytes = 0
        for data, name, label, split in rows:
            group.append({"image": {"bytes": data, "path": name}, "label": label, "split": split})
            group_bytes += len(data)
            if len(group) >= _GROUP_ROWS or group_bytes >= _GROUP_BYTES:
                writer.write_batch(pa.RecordBatch.from_pylist(group, schema), row_group_size=len(group))
                group, group_bytes = [], 0
        if group:
            writer.write_batch(pa.RecordBatch.from_pylist(group, schema), row_group_size=len(group))


def read_labels(path: Path) -> tuple[NDArray[np.int64], list[str], list[str]]:
    """Return ``labels_N``, the class names by label, and the split of each image."""
    table = pq.read_table(path, columns=["label", "split"])
    features = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
    return table["label"].to_numpy().astype(np.int64), features["label"]["names"], table["split"].to_pylist()


def read_paths(path: Path) -> list[str]:
    """Return the path of each image inside the uploaded archive."""
    with pq.ParquetFile(path) as file:
        images = file.read(columns=["image.path"])["image"].combine_chunks()
    paths: list[str] = images.field("path").to_pylist()
    return paths


def iter_image_files(path: Path, indices: Iterable[int] | None = None) -> Iterator[bytes]:
    """Yield the stored image files of the rows ``indices``, strictly ascending; of all rows without them.

    One row group is in memory at a time; row groups without a wanted row are not read.

    Raises:
        ValueError: the indices do not ascend.
        IndexError: an index is not in the file.
    """
    with pq.ParquetFile(path) as file:
        wanted = range(file.metadata.num_rows) if indices is None else indices
        group, start, stop, previous = -1, 0, 0, -1
        files: Any = None
        for index in wanted:
            if index <= previous:
                raise ValueError(f"row {index} after row {previous}: rows are read in ascending order")
            previous = index
            while index >= stop:
                group += 1
                if group == file.num_row_groups:
                    raise IndexError(f"row {index} of {stop}")
                start, stop = stop, stop + file.metadata.row_group(group).num_rows
                files = None
            if files is None:
                files = file.read_row_group(group, columns=["image.bytes"])["image"].chunk(0).field("bytes")
            yield files[index - start].as_py()


def iter_images(path: Path, indices: Iterable[int] | None = None) -> Iterator[Image.Image]:
    """Yield the images of the rows ``indices`` as RGB; see :func:`iter_image_files`."""
    return (decode_image(data) for data in iter_image_files(path, indices))


def decode_image(data: bytes) -> Image.Image:
    """Return the RGB image of a file from :func:`iter_image_files`."""
    with Image.open(io.BytesIO(data), formats=_STORED_FORMATS) as image:
        return image.convert("RGB")


def _schema(class_names: list[str]) -> pa.Schema:
    features = {
        "image": {"_type": "Image"},
        "label": {"names": class_names, "_type": "ClassLabel"},
        "split": {"dtype": "string", "_type": "Value"},
    }
    return pa.schema(
        [
            ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
            ("label", pa.int64()),
            ("split", pa.string()),
        ],
        metadata={"huggingface": json.dumps({"info": {"features": features}}, ensure_ascii=False)},
    )
