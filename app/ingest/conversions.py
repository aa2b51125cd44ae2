"""What was done to images on the way into the data set, told once for each kind."""

from collections.abc import Iterable

from app.ingest.report import Row, Warnings

_DETAILS = {
    "high_bit_depth": "More than 8 bits a channel: scaled to 8 by the bit depth that the data set uses.",
    "float_rescaled": "Floating-point pixels: scaled from 0..1, or from the 0.5th to the 99.5th percentile.",
    "alpha_composited": "Transparent pixels: laid on white.",
    "cmyk_converted": "CMYK: converted to RGB, by the embedded profile where there is one.",
    "animated_first_frame": "Several frames or pages: only the first counts.",
}
_NESTED = "Deeper than their class folder: counted to the first folder below the root or split."


def warn_about_conversions(rows: Iterable[Row], warnings: Warnings) -> None:
    """Warn of pixels that were changed, and of labels that were read from a folder further up."""
    for row in rows:
        for note in row.notes:
            warnings.add(note, _DETAILS[note], [row.path])
        if row.nested:
            warnings.add("nested_in_class", _NESTED, [row.path])
