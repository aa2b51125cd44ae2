"""What was understood of a data set, for people."""

from collections.abc import Iterable, Iterator

from rich.columns import Columns
from rich.console import Group, RenderableType
from rich.text import Text

from app.cli.tables import facts
from app.cli.terminal import printable
from app.client.resources import Dataset, Detected, FileOutcome

_LAYOUTS = {"class_folders": "class folders", "split_class_folders": "split folders of class folders"}
_OUTCOMES = ("corrupt", "excluded", "ignored")  # what a user would rather know comes first
_FILES_SHOWN = 5
_CLASSES_SHOWN = 60


def dataset_report(dataset: Dataset, left_out: Iterable[FileOutcome] = ()) -> RenderableType:
    """Return a data set as it was understood, with the first few of the files that were left out."""
    title = Text.assemble((printable(dataset.name), "bold"), f"  {dataset.id}  {dataset.status}")
    if dataset.error is not None:
        told = [("error", f"{dataset.error.message} ({dataset.error.code})"), ("hint", dataset.error.hint)]
        return Group(title, facts(told))
    if dataset.detected is None:
        return title
    expiry = [] if dataset.expires_at is None else [("expires", dataset.expires_at)]
    return Group(title, facts([*_understood(dataset.id, dataset.detected, left_out), *expiry]))


def _understood(
    dataset_id: str, detected: Detected, left_out: Iterable[FileOutcome]
) -> Iterator[tuple[str, RenderableType]]:
    yield "layout", _layout(detected)
    yield "images", _images(detected)
    if len(detected.splits) > 1:
        yield "splits", ", ".join(f"{name} {count:,}" for name, count in detected.splits.items())
    yield f"{len(detected.classes):,} classes", _classes(detected)
    for warning in detected.warnings:
        examples = ", ".join(warning.examples[:3]) + (", ..." if warning.count > 3 else "")
        told = f" ({warning.count}): {warning.detail} {examples}"
        yield "warning", Text.assemble((warning.code, "yellow"), printable(told))
    ordered = sorted(left_out, key=lambda outcome: (_rank(outcome.outcome), outcome.path))
    for outcome in ordered[:_FILES_SHOWN]:
        detail = f": {outcome.detail}" if outcome.detail else ""
        yield "left out", f"{outcome.path}  {outcome.outcome}, {outcome.reason}{detail}"
    hidden = detected.files.total - detected.files.used - min(len(ordered), _FILES_SHOWN)
    if hidden > 0:
        yield "", f"{hidden:,} files more: foretune dataset files {dataset_id}"


def _layout(detected: Detected) -> str:
    layout = _LAYOUTS.get(detected.layout, detected.layout)
    return f"{layout} below {detected.root}" if detected.root else layout


def _images(detected: Detected) -> str:
    files, images = detected.files, detected.images
    left_out = [f"{getattr(files, kind):,} {kind}" for kind in _OUTCOMES if getattr(files, kind)]
    counts = f"{files.used:,} of {files.total:,} files" + (f" ({', '.join(left_out)})" if left_out else "")
    width, height = images["width"], images["height"]
    sizes = f"{_span(width['min'], width['max'])} x {_span(height['min'], height['max'])} pixels"
    return f"{counts}, {sizes}" + (f", {images['resized']:,} scaled down" if images["resized"] else "")


def _span(low: float, high: float) -> str:
    return f"{low:g}" if low == high else f"{low:g}-{high:g}"


def _classes(detected: Detected) -> RenderableType:
    shown = [Text(f"{printable(one.name)} {one.count:,}") for one in detected.classes[:_CLASSES_SHOWN]]
    hidden = len(detected.classes) - len(shown)
    if hidden:
        shown.append(Text(f"and {hidden:,} more"))
    return Columns(shown, padding=(0, 3), column_first=True)


def _rank(outcome: str) -> int:
    return _OUTCOMES.index(outcome) if outcome in _OUTCOMES else len(_OUTCOMES)
