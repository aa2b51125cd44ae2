"""A repository's preprocessor_config.json as a ``Preprocessing``.

The library's own image processor fills in what the file leaves out, which differs from class to class. What counts is
its Pillow variant, in which checkpoints of this age were made; its torchvision variant resizes a little differently.
"""

from collections.abc import Mapping
from typing import Any

import transformers
from PIL import Image

from app.domain.errors import ModelRejected
from app.domain.model_spec import Interpolation, Preprocessing
from workers.zoo.library_errors import first_line

_PROCESSORS = ("Beit", "Bit", "CLIP", "ConvNext", "DeiT", "MobileNetV2", "Siglip", "ViT")
_DEFAULTS = {
    "beit": "Beit",
    "clip": "CLIP",
    "clip_vision_model": "CLIP",
    "convnext": "ConvNext",
    "convnextv2": "ConvNext",
    "deit": "DeiT",
    "dinov2": "Bit",
    "dinov2_with_registers": "Bit",
    "mobilenet_v2": "MobileNetV2",
    "regnet": "ConvNext",
    "resnet": "ConvNext",
    "siglip": "Siglip",
    "siglip_vision_model": "Siglip",
    "swin": "ViT",
    "swinv2": "ViT",
    "vit": "ViT",
}
_INTERPOLATIONS: dict[int, Interpolation] = {
    Image.Resampling.NEAREST: "nearest",
    Image.Resampling.LANCZOS: "lanczos",
    Image.Resampling.BILINEAR: "bilinear",
    Image.Resampling.BICUBIC: "bicubic",
}
_STRETCHED_FROM = 384
"""From this size on, ConvNext's processor stretches the image instead of cropping it."""


def preprocessing_of(content: Mapping[str, Any] | None, model_type: str) -> Preprocessing:
    """Return what the image processor of this file does to a photo.

    Args:
        content: of preprocessor_config.json; None where the repository has none.
        model_type: of the network, which decides for a file that names no class.

    Raises:
        ModelRejected: ``incomplete_preprocessing`` where it does something that we have no words for.
    """
    if content is None:
        raise _incomplete("the repository has no preprocessor_config.json")
    try:
        processor = processor_of(content, model_type)
        resize, crop = _geometry(processor)
        scale = float(processor.rescale_factor) if processor.do_rescale else 1.0
        return Preprocessing(
            resize=resize,
            crop=crop,
            interpolation=_INTERPOLATIONS[int(processor.resample)],
            mean=_channels(processor.image_mean) if processor.do_normalize else (0.0, 0.0, 0.0),
            std=_channels(processor.image_std) if processor.do_normalize else (1.0, 1.0, 1.0),
            crop_corner="floored",
            divide_by=round(1 / scale, 9),
        )
    except (ValueError, TypeError, KeyError, AttributeError, ZeroDivisionError) as error:
        raise _incomplete(f"preprocessor_config.json cannot be said in a specification: {first_line(error)}") from error


def processor_of(content: Mapping[str, Any], model_type: str) -> Any:
    """Return the library's image processor of such a file, in its Pillow variant."""
    named = str(content.get("image_processor_type") or content.get("feature_extractor_type") or "")
    for ending in ("Fast", "Pil"):
        named = named.removesuffix(ending)
    for ending in ("ImageProcessor", "FeatureExtractor"):
        named = named.removesuffix(ending)
    family = named or _DEFAULTS[model_type]
    if family not in _PROCESSORS:
        raise ValueError(f"its class {content.get('image_processor_type')} is none of those known here")
    options = {name: value for name, value in content.items() if not name.endswith("_type")}
    return getattr(transformers, f"{family}ImageProcessorPil")(**options)


def _geometry(processor: Any) -> tuple[int | tuple[int, int] | None, tuple[int, int]]:
    """Return ``resize`` and ``crop``."""
    size = processor.size
    resize: int | tuple[int, int]
    if not processor.do_resize or getattr(processor, "do_pad", None):
        raise ValueError("images are not resized, or padded")
    if type(processor).__name__.startswith("ConvNext"):
        side = int(size["shortest_edge"])
        return (None if side >= _STRETCHED_FROM else int(side / processor.crop_pct)), (side, side)
    crop = (processor.crop_size["height"], processor.crop_size["width"]) if processor.do_center_crop else None
    if size.get("shortest_edge") and not size.get("longest_edge") and crop is not None:
        resize, least = int(size["shortest_edge"]), (int(size["shortest_edge"]),) * 2
    elif size.get("height") and size.get("width"):
        least = int(size["height"]), int(size["width"])
        if crop is None or crop == least:
            return None, least
        resize = least
    else:
        raise ValueError(f"size {dict(size)} without a crop leaves images of different sizes")
    if crop[0] > least[0] or crop[1] > least[1]:
        raise ValueError(f"a crop of {crop} from {least} pixels pads the image")
    return resize, crop


def _channels(values: Any) -> tuple[float, float, float]:
    red, green, blue = [values] * 3 if isinstance(values, (int, float)) else values
    return float(red), float(green), float(blue)


def _incomplete(reason: str) -> ModelRejected:
    hint = "State the preprocessing in the specification."
    return ModelRejected("incomplete_preprocessing", reason, param="preprocessing", hint=hint)
