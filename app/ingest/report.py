"""What the user reads back: how the archive was understood, and every file that does not count, with the reason.

Outcomes of a file:

    ignored    not meant as an image   os_metadata, hidden_file, not_an_image, nested_archive_ignored, no_class_folder,
                                       replaced_in_archive
    corrupt    meant as one, broken    corrupt_image, corrupt_entry, empty_file, not_an_image
    excluded   an image, not used      image_tiny, image_too_large, extreme_aspect_ratio, unsupported_image_format,
                                       duplicate, label_conflict
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from app.ingest.layout import SPLIT_ORDER, Layout

_EXAMPLES = 5


@dataclass(frozen=True, slots=True, order=True)
class Outcome:
    """One file that does not count."""

    path: str
    outcome: str
    reason: str
    detail: str


@dataclass(slots=True)
class Row:
    """One image of the data set, its bytes in the spool."""

    path: str
    """In the archive."""
    name: str
    """Below the root of the class folders: the image's path in the data set."""
    split: str
    class_name: str
    offset: int
    length: int
    sha256: str
    """Of the stored bytes."""
    pixels_sha256: bytes
    width: int
    height: int
    mode: str
    resized: bool
    nested: bool
    """It lay deeper than directly in its class folder."""
    notes: tuple[str, ...]
    """Codes of what was done to its pixels."""

    @property
    def order(self) -> tuple[int, str, str, str]:
        """Sort key: by split, class and path, whatever the order in the archive."""
        return SPLIT_ORDER.index(self.split), self.class_name, self.name, self.sha256


@dataclass(slots=True)
class Warnings:
    """What the user should know, counted by code."""

    _details: dict[str, str] = field(default_factory=dict)
    _examples: dict[str, list[str]] = field(default_factory=dict)
    _counts: Counter[str] = field(default_factory=Counter)

    def add(self, code: str, detail: str, examples: Iterable[str]) -> None:
        """Count one occurrence for each example under ``code``; the first detail given for a code stays."""
        self._details.setdefault(code, detail)
        kept = self._examples.setdefault(code, [])
        for example in examples:
            self._counts[code] += 1
            if len(kept) < _EXAMPLES:
                kept.append(example)

    def as_list(self) -> list[dict[str, Any]]:
        """Return code, detail, count and the first examples of each warning, sorted by code."""
        return [
            {"code": code, "detail": detail, "count": self._counts[code], "examples": self._examples[code]}
            for code, detail in sorted(self._details.items())
        ]


def report(
    layout: Layout, rows: Sequence[Row], class_names: Sequence[str], outcomes: Sequence[Outcome], warnings: Warnings
) -> dict[str, Any]:
    """Return the JSON-ready report of a prepared data set; ``rows`` in their final order."""
    counts = Counter(row.class_name for row in rows)
    splits = Counter(row.split for row in rows)
    kinds = Counter(outcome.outcome for outcome in outcomes)
    examples: dict[str, str] = {}
    for row in rows:
        examples.setdefault(row.class_name, row.path)
    return {
        "layout": layout.kind,
        "root": layout.root,
        "label_source": "folder",
        "classes": [{"name": name, "count": counts[name], "example": examples[name]} for name in class_names],
        "splits": {split: splits[split] for split in SPLIT_ORDER if splits[split]},
        "files": {
            "total": len(rows) + len(outcomes),
            "used": len(rows),
            "ignored": kinds["ignored"],
            "corrupt": kinds["corrupt"],
            "excluded": kinds["excluded"],
        },
        "outcomes": outcomes_as_dicts(outcomes),
        "warnings": warnings.as_list(),
        "images": {
            "width": _spread([row.width for row in rows]),
            "height": _spread([row.height for row in rows]),
            "modes": dict(sorted(Counter(row.mode for row in rows).items())),
            "resized": sum(row.resized for row in rows),
        },
    }


def outcomes_as_dicts(outcomes: Iterable[Outcome]) -> list[dict[str, str]]:
    """Return the outcomes JSON-ready, by path."""
    return [asdict(outcome) for outcome in sorted(outcomes)]


def _spread(values: list[int]) -> dict[str, float]:
    return {"min": min(values), "median": median(values), "max": max(values)}
