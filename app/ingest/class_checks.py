"""Whether the classes can carry a comparison of models, and what about them the user should know."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from unicodedata import normalize

from app.domain.errors import DatasetRejected
from app.ingest.archive import Member
from app.ingest.layout import SPLITS, Layout
from app.ingest.limits import Limits
from app.ingest.report import Outcome, Row, Warnings

SMALL_CLASS = 5
MANY_CLASSES = 1000
IMBALANCE = 100
_GREY_MODES = ("1", "L", "I", "F", "I;16", "I;16B", "I;16L", "I;16N")
_HINT = (
    "Put the images of each class into one folder named after the class, at least two of them: cats/1.jpg, dogs/1.jpg."
)


def check_corrupt_share(images: int, outcomes: Sequence[Outcome], limits: Limits) -> None:
    """Refuse an archive of which too much is broken; ``images`` is the number of files that decoded.

    Raises:
        DatasetRejected: ``corrupt_fraction_exceeded``.
    """
    corrupt = sorted(outcome for outcome in outcomes if outcome.outcome == "corrupt")
    total = images + len(corrupt)
    if len(corrupt) > limits.max_corrupt_share * total:
        first = corrupt[0]
        others = ", ".join(outcome.path for outcome in corrupt[1:10])
        raise DatasetRejected(
            "corrupt_fraction_exceeded",
            f"{len(corrupt)} of {total} image files cannot be read, and {limits.max_corrupt_share:.0%} may be broken. "
            f"The first: {first.path} ({first.reason}: {first.detail})"
            f"{f'; others: {others}' if others else ''}{' ...' if len(corrupt) > 10 else ''}.",
            param=first.path,
            hint="Check whether the files were copied completely, and upload them again.",
        )


def check_class_count(rows: Sequence[Row], outcomes: Sequence[Outcome]) -> list[str]:
    """Return the class names, sorted: a label is a place in this list.

    Raises:
        DatasetRejected: ``no_classes``, ``too_few_classes``.
    """
    names = sorted({row.class_name for row in rows})
    if not names:
        reasons = Counter(outcome.reason for outcome in outcomes)
        found = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common(4))
        raise DatasetRejected(
            "no_classes", f"No usable image lies in a class folder. The files of the archive: {found}.", hint=_HINT
        )
    if len(names) == 1:
        raise DatasetRejected(
            "too_few_classes",
            f"All {len(rows)} usable images are in one class, {names[0]!r}.",
            param=names[0],
            hint=_HINT,
        )
    trained_on = {row.class_name for row in rows if row.split == "train"}
    if len(trained_on) == 1:
        raise DatasetRejected(
            "too_few_classes",
            f"All usable images of the train split are in one class, {next(iter(trained_on))!r}; models are compared "
            "on that split.",
            param=next(iter(trained_on)),
            hint="Put images of at least two classes into the train folder.",
        )
    return names


def warn_about_names(members: Iterable[Member], layout: Layout, class_names: Sequence[str], warnings: Warnings) -> None:
    """Warn of class names that are easily taken for one another.

    Names that are the same text in two Unicode forms (composed and decomposed) look the same everywhere and become one
    class, which is said. Names that differ by case or outer spaces stay two classes, which is said too.
    """
    depth = layout.root.count("/") + (layout.kind == "split_class_folders")
    spellings: dict[str, set[str]] = defaultdict(set)
    for member in members:
        place = layout.place(member.path)
        if place is not None:
            spellings[place.class_name].add(member.spelling.split("/")[depth])
    for name in class_names:
        if len(spellings[name]) > 1:
            warnings.add(
                "class_name_merged",
                "Folders whose names are the same text in different Unicode forms became one class.",
                [name],
            )
    alike: dict[str, list[str]] = defaultdict(list)
    for name in class_names:
        alike[normalize("NFC", name.casefold()).strip()].append(name)
    for names in alike.values():
        if len(names) > 1:
            warnings.add(
                "class_name_collision",
                "Names that differ only by case or outer spaces stay separate classes: rename or merge the folders.",
                names,
            )
    if layout.kind == "class_folders":
        like_splits = [name for name in class_names if name.casefold() in SPLITS]
        if like_splits:
            warnings.add("split_name_as_class", "Folders named like splits were read as classes.", like_splits)


def warn_about_sizes(rows: Sequence[Row], class_names: Sequence[str], warnings: Warnings) -> None:
    """Warn of classes too small, too uneven, too many, or missing in a split."""
    counts = Counter(row.class_name for row in rows)
    single = [name for name in class_names if counts[name] == 1]
    if single:
        detail = "Classes of one image: used for scores over all images, left out of held-out estimates."
        warnings.add("singleton_class", detail, single)
    small = [name for name in class_names if 1 < counts[name] < SMALL_CLASS]
    if small:
        warnings.add("small_class", f"Classes of fewer than {SMALL_CLASS} images make every estimate uncertain.", small)
    largest, smallest = max(counts.values()), min(counts.values())
    if largest > IMBALANCE * smallest:
        names = [name for name in class_names if counts[name] * IMBALANCE < largest]
        detail = f"Classes with less than 1/{IMBALANCE} of the largest class's {largest} images."
        warnings.add("class_imbalance", detail, names)
    if len(class_names) > MANY_CLASSES:
        warnings.add("many_classes", f"More than {MANY_CLASSES} classes: scores take long and mean less.", class_names)
    present = {(row.split, row.class_name) for row in rows}
    missing = [
        f"{split}/{name}"
        for split in sorted({row.split for row in rows})
        for name in class_names
        if (split, name) not in present
    ]
    if missing:
        warnings.add("class_missing_in_split", "Classes without an image in one of the splits.", missing)


def warn_about_channels(rows: Sequence[Row], warnings: Warnings) -> None:
    """Warn when some classes are grey and others coloured: a model can then tell them apart by that alone."""
    counts = Counter(row.class_name for row in rows)
    greys = Counter(row.class_name for row in rows if row.mode in _GREY_MODES)
    grey = sorted(name for name, count in counts.items() if greys[name] >= 0.9 * count)
    coloured = [name for name, count in counts.items() if greys[name] <= 0.1 * count]
    if grey and coloured:
        detail = (
            "Classes almost all grey, beside others almost all coloured: the number of channels gives the label away."
        )
        warnings.add("channel_correlates_with_label", detail, grey)


def warn_about_empty(
    class_names: Sequence[str], layout: Layout, outcomes: Iterable[Outcome], warnings: Warnings
) -> None:
    """Warn of class folders of which no image counts."""
    places = (layout.place(outcome.path) for outcome in outcomes if outcome.outcome != "ignored")
    empty = sorted({place.class_name for place in places if place} - set(class_names))
    if empty:
        warnings.add("empty_class", "Class folders without a usable image are no classes.", empty)
