"""One image file, fully decoded and checked, in the form in which it is stored."""

import io
import struct
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from hashlib import sha256

from PIL import Image, ImageOps, UnidentifiedImageError

from app.ingest.colour import DEEP_GREY_MODES, from_deep_grey, grey_peak, to_rgb
from app.ingest.limits import Limits

_BYTE_FOR_BYTE = ("JPEG", "PNG", "WEBP")
_ANIMATED = ("GIF", "PNG", "WEBP", "TIFF", "AVIF")
_PILLOW_FORMATS = {"JPEG": ("JPEG", "MPO")}
_ORIENTATION = 0x0112
_TIFF_BITS_PER_SAMPLE = 258
# What Pillow's parsers are seen to raise on broken files; a MemoryError is not among them.
_DECODER_ERRORS = (
    *(OSError, SyntaxError, ValueError, TypeError, LookupError, AttributeError, EOFError, ArithmeticError),
    *(RuntimeError, struct.error, zlib.error),
)
# Threads decode side by side, but only one of them an image of which two might not fit into memory.
_LARGE_PIXELS = 16_000_000
_large_image = threading.Lock()


@dataclass(frozen=True, slots=True)
class CanonicalImage:
    """An image that counts."""

    data: bytes
    """The image file as stored: the original's bytes where nothing had to be done, else a PNG."""
    pixels_sha256: bytes
    """Of size and RGB values as stored: equal for equal pictures in different files."""
    width: int
    """Pixels after orientation, before resizing."""
    height: int
    mode: str
    """Pillow's mode of the original."""
    notes: tuple[str, ...]
    """Warning codes."""
    resized: bool


@dataclass(frozen=True, slots=True)
class DeepGrey:
    """A 16- or 32-bit grey image, whose scale only the whole data set can tell."""

    peak: int


class ImageRefused(Exception):
    """The file does not count as an image."""

    def __init__(self, outcome: str, reason: str, detail: str) -> None:
        """Give the file's outcome in the report: ``corrupt`` or ``excluded``, a stable reason, and the facts."""
        super().__init__(detail)
        self.outcome = outcome
        self.reason = reason
        self.detail = detail


def canonical_image(
    data: bytes, file_format: str, limits: Limits, *, bits: int | None = None
) -> CanonicalImage | DeepGrey:
    """Decode an image file fully and return its stored form.

    Args:
        data: the file.
        file_format: Pillow's name of the format, as :func:`app.ingest.image_format.sniff` tells it.
        limits: the bounds on pixels and sides.
        bits: the bit depth of deep grey images; without it, such an image comes back as :class:`DeepGrey`.

    Raises:
        ImageRefused: ``corrupt_image``, ``image_too_large``, ``image_tiny``, ``extreme_aspect_ratio``,
            ``unsupported_image_format``.
    """
    formats = _PILLOW_FORMATS.get(file_format, (file_format,))
    with _decoding(file_format, limits):
        image = Image.open(io.BytesIO(data), formats=formats)
    with image:
        _check_size(image.size, limits)
        with _large_image if image.width * image.height > _LARGE_PIXELS else nullcontext():
            mode = image.mode
            animated = file_format in _ANIMATED and bool(getattr(image, "is_animated", False))
            with _decoding(file_format, limits):
                image.load()
            if image.mode in DEEP_GREY_MODES and bits is None:
                return DeepGrey(grey_peak(image))
            notes = ["animated_first_frame"] if animated else []
            if _is_deep(image, data, file_format):
                notes.append("high_bit_depth")
            return _canonical(image, data, file_format, mode, notes, limits, bits)


@contextmanager
def _decoding(file_format: str, limits: Limits) -> Iterator[None]:
    """Turn what Pillow raises on a broken file into the file's verdict."""
    try:
        yield
    except Image.DecompressionBombError as error:
        raise ImageRefused("excluded", "image_too_large", _too_large(limits)) from error
    except UnidentifiedImageError as error:
        raise ImageRefused("corrupt", "corrupt_image", f"not a readable {file_format} file") from error
    except _DECODER_ERRORS as error:
        raise ImageRefused("corrupt", "corrupt_image", str(error) or type(error).__name__) from error


def _check_size(size: tuple[int, int], limits: Limits) -> None:
    width, height = size
    shown = f"{width} x {height} pixels"
    if width * height > limits.max_pixels:
        raise ImageRefused("excluded", "image_too_large", f"{shown}; {_too_large(limits)}")
    if min(size) < limits.min_side:
        raise ImageRefused("excluded", "image_tiny", f"{shown}; the shorter side must have {limits.min_side}")
    if max(size) > limits.max_aspect_ratio * min(size):
        detail = f"{shown}; one side may be {limits.max_aspect_ratio:g} times the other"
        raise ImageRefused("excluded", "extreme_aspect_ratio", detail)


def _too_large(limits: Limits) -> str:
    return f"the limit is {limits.max_pixels / 1e6:g} megapixels"


def _canonical(
    original: Image.Image, data: bytes, file_format: str, mode: str, notes: list[str], limits: Limits, bits: int | None
) -> CanonicalImage:
    upright = _upright(original)
    if upright.mode in DEEP_GREY_MODES:
        assert bits is not None, "deep grey without a bit depth was handed back before"
        image, conversions = from_deep_grey(upright, bits), list[str]()
    else:
        try:
            image, conversions = to_rgb(upright)
        except ValueError as error:
            raise ImageRefused("excluded", "unsupported_image_format", f"mode {mode}: {error}") from error
    stored = _resized(image, limits.stored_side)
    untouched = stored is original and file_format in _BYTE_FOR_BYTE and not notes
    return CanonicalImage(
        data=data if untouched else _as_png(stored),
        pixels_sha256=_pixels_sha256(stored),
        width=image.width,
        height=image.height,
        mode=mode,
        notes=(*notes, *conversions),
        resized=stored.size != image.size,
    )


def _is_deep(image: Image.Image, data: bytes, file_format: str) -> bool:
    """Tell whether the file has more than 8 bits a channel; Pillow drops the lower ones of colour images itself."""
    if image.mode in DEEP_GREY_MODES:
        return True
    if file_format == "PNG":
        return data[24] == 16  # bit depth in the header chunk, which is always first
    if file_format == "TIFF" and image.mode != "F":
        samples = getattr(image, "tag_v2", {}).get(_TIFF_BITS_PER_SAMPLE, (8,))
        return any(int(bits) > 8 for bits in (samples if isinstance(samples, tuple) else (samples,)))
    return False


def _upright(image: Image.Image) -> Image.Image:
    """Return the image as its EXIF orientation wants it seen; the same object where that is how it is."""
    try:
        turned = image.getexif().get(_ORIENTATION, 1) not in (0, 1)
        return ImageOps.exif_transpose(image) if turned else image
    except _DECODER_ERRORS:
        return image  # a broken EXIF block says nothing about the picture


def _resized(image: Image.Image, side: int) -> Image.Image:
    shorter = min(image.size)
    if shorter <= side:
        return image
    width, height = (max(side, round(length * side / shorter)) for length in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC)


def _as_png(image: Image.Image) -> bytes:
    bare = image.copy()
    bare.info = {}  # no profile, comment or EXIF of the original belongs to the converted pixels
    buffer = io.BytesIO()
    bare.save(
        buffer, "PNG", compress_level=3
    )  # the default, 6, takes two to three times as long for 4 to 11 % of the size
    return buffer.getvalue()


def _pixels_sha256(image: Image.Image) -> bytes:
    digest = sha256(struct.pack("<II", *image.size))
    digest.update(image.convert("RGB").tobytes())
    return digest.digest()
