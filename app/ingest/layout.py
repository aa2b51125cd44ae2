"""How class folders lie in an archive, read from the list of paths alone."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

# The names of Hugging Face's splits.
SPLITS = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}
SPLIT_ORDER = ("train", "validation", "test")

# Only a first guess at what is an image, to see the folders that matter; what counts is a file's content.
IMAGE_SUFFIXES = {
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".gif", ".bmp", ".dib", ".tif", ".tiff", ".webp", ".avif"),
    *(".heic", ".heif", ".jp2", ".jxl", ".svg", ".dcm", ".dng", ".nef", ".cr2", ".cr3", ".arw", ".pgm", ".ppm"),
}


@dataclass(frozen=True, slots=True)
class Place:
    """Where one image belongs."""

    split: str
    class_name: str
    nested: bool
    """It lies deeper than directly in its class folder."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The reading of an archive: its root, and whether splits or classes come first below it."""

    kind: Literal["class_folders", "split_class_folders"]
    root: str
    """Folders that wrap everything, ending in ``/``; empty without any."""

    def relative(self, path: str) -> str | None:
        """Return the path below the root, or None for a path outside it."""
        return path[len(self.root) :] if path.startswith(self.root) else None

    def place(self, path: str) -> Place | None:
        """Return split and class of the image at ``path``; None where it lies in no class folder."""
        below = self.relative(path)
        if below is None:
            return None
        parts = below.split("/")
        split = "train"
        if self.kind == "split_class_folders":
            split = SPLITS.get(parts.pop(0).casefold(), "")
        if not split or len(parts) < 2:
            return None
        return Place(split, parts[0], nested=len(parts) > 2)


def detect_layout(paths: Iterable[str]) -> Layout:
    """Read the layout from the members' paths.

    A folder that alone holds all others is a wrapper and is stripped, repeatedly. Folders are splits when *every* one
    on their level has a split's name, there are at least two, and class folders lie below: a class may be called
    "test", and the images of an unlabelled test split lie loose in it.
    """
    everything = [path.split("/") for path in paths]
    images = [parts for parts in everything if PurePosixPath(parts[-1]).suffix.casefold() in IMAGE_SUFFIXES]
    level = images or everything
    root = ""
    while True:
        folders = {parts[0] for parts in level if len(parts) > 1}
        deeper = {parts[0] for parts in level if len(parts) > 2}
        if len(folders) > 1 and deeper and all(folder.casefold() in SPLITS for folder in folders):
            return Layout("split_class_folders", root)
        if len(folders) != 1 or not deeper:
            return Layout("class_folders", root)
        wrapper = folders.pop()
        root += f"{wrapper}/"
        level = [parts[1:] for parts in level if parts[0] == wrapper and len(parts) > 1]
