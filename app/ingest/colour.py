"""Pixels of any mode as 8-bit grey or RGB, without the losses of a plain ``convert("RGB")``."""

import io

import numpy as np
from PIL import Image, ImageCms

DEEP_GREY_MODES = ("I", "I;16", "I;16L", "I;16B", "I;16N")
_PERCENTILES = (0.5, 99.5)


def to_rgb(image: Image.Image) -> tuple[Image.Image, list[str]]:
    """Return a loaded image of any mode but deep grey as mode L or RGB, and the codes of what was done to it.

    Raises:
        ValueError: the mode has no way to RGB, or no pixel of a float image is finite.
    """
    if image.mode == "F":
        return _from_float(image), ["float_rescaled"]
    if image.mode == "CMYK":
        return _from_cmyk(image), ["cmyk_converted"]
    if image.has_transparency_data:
        return _on_white(image)
    if image.mode in ("L", "RGB"):
        return image, []
    return image.convert("L" if image.mode == "1" else "RGB"), []


def grey_peak(image: Image.Image) -> int:
    """Return the largest value in a deep grey image."""
    return int(np.asarray(image).max())


def grey_bits(peak: int) -> int:
    """Return the bit depth that a largest value speaks of: even, at least 8.

    12-bit cameras and scanners store their values unscaled in 16-bit files, which then look black.
    """
    bits = max(peak, 0).bit_length()
    return max(8, bits + bits % 2)


def from_deep_grey(image: Image.Image, bits: int) -> Image.Image:
    """Return a 16- or 32-bit grey image of the given bit depth as mode L, scaled; ``convert`` would clip it at 255."""
    values_HW = np.asarray(image).clip(0) >> (bits - 8)
    return Image.fromarray(values_HW.clip(0, 255).astype(np.uint8))


def _from_float(image: Image.Image) -> Image.Image:
    """Scale from [0, 1] where the values lie in it, else from the 0.5th to the 99.5th percentile."""
    values_HW = np.asarray(image)
    finite = values_HW[np.isfinite(values_HW)]
    if not finite.size:
        raise ValueError("no pixel has a finite value")
    low, high = 0.0, 1.0
    if finite.min() < 0 or finite.max() > 1:
        low, high = (float(value) for value in np.percentile(finite, _PERCENTILES))
    scaled_HW = (np.nan_to_num(values_HW, nan=low, posinf=high, neginf=low) - low) * (255 / max(high - low, 1e-12))
    return Image.fromarray(scaled_HW.clip(0, 255).round().astype(np.uint8))


def _from_cmyk(image: Image.Image) -> Image.Image:
    profile = image.info.get("icc_profile")
    if profile:
        try:
            inks = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            converted = ImageCms.profileToProfile(image, inks, ImageCms.createProfile("sRGB"), outputMode="RGB")
        except (ImageCms.PyCMSError, OSError, ValueError):
            converted = None  # a broken profile: the plain formula is the best that is left
        if converted is not None:
            return converted
    return image.convert("RGB")


def _on_white(image: Image.Image) -> tuple[Image.Image, list[str]]:
    rgba = image.convert("RGBA")
    alpha = rgba.getchannel("A")
    lowest, _ = alpha.getextrema()
    if lowest == 255:
        return rgba.convert("RGB"), []
    white = Image.new("RGB", rgba.size, (255, 255, 255))
    white.paste(rgba, mask=alpha)
    return white, ["alpha_composited"]
