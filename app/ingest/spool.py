"""Stored images on disk, in the order in which they were checked, until the order of the data set is known."""

from pathlib import Path
from types import TracebackType
from typing import Self


class Spool:
    """A file of images, appended to and read back by place; what it takes in memory does not grow."""

    def __init__(self, path: Path) -> None:
        """Create the file at ``path``."""
        self._file = path.open("w+b")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()

    def append(self, data: bytes) -> int:
        """Write ``data`` at the end and return its offset."""
        offset = self._file.seek(0, 2)
        self._file.write(data)
        return offset

    def read(self, offset: int, length: int) -> bytes:
        """Return ``length`` bytes from ``offset``."""
        self._file.seek(offset)
        return self._file.read(length)
