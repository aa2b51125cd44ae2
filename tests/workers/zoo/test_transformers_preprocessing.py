"""Preprocessing of transformers' checkpoints: the very pixels of the library's own image processors."""

from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from torch import Tensor

from app.domain.errors import ModelRejected
from app.domain.model_spec import Preprocessing
from workers.zoo import known_photos
from workers.zoo.preprocessing import Preprocessor
from workers.zoo.transformers_preprocessing import preprocessing_of, processor_of

IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
FILES: dict[str, tuple[str, dict[str, Any]]] = {
    # as they lie in well-known repositories, the older ones with sizes as numbers and without a class
    "google/vit": (
        "vit",
        {
            "do_normalize": True,
            "do_resize": True,
            "image_mean": [0.5] * 3,
            "image_std": [0.5] * 3,
            "resample": 2,
            "size": 224,
        },
    ),
    "facebook/dinov2": (
        "dinov2",
        {
            "crop_size": {"height": 224, "width": 224},
            "do_center_crop": True,
            "do_convert_rgb": True,
            "do_normalize": True,
            "do_rescale": True,
            "do_resize": True,
            "image_processor_type": "BitImageProcessor",
            "resample": 3,
            "rescale_factor": 0.00392156862745098,
            "size": {"shortest_edge": 256},
        }
        | IMAGENET,
    ),
    "facebook/convnext": (
        "convnext",
        {
            "crop_pct": 0.875,
            "do_normalize": True,
            "do_resize": True,
            "feature_extractor_type": "ConvNextFeatureExtractor",
            "resample": 3,
            "size": 224,
        }
        | IMAGENET,
    ),
    "facebook/convnextv2-384": (
        "convnextv2",
        {
            "image_processor_type": "ConvNextImageProcessor",
            "crop_pct": 1.0,
            "resample": 3,
            "size": {"shortest_edge": 384},
        }
        | IMAGENET,
    ),
    "microsoft/swin": (
        "swin",
        {
            "do_normalize": True,
            "do_resize": True,
            "feature_extractor_type": "ViTFeatureExtractor",
            "resample": 3,
            "size": 224,
        }
        | IMAGENET,
    ),
    "microsoft/resnet": (
        "resnet",
        {
            "crop_pct": 0.875,
            "do_normalize": True,
            "do_resize": True,
            "feature_extractor_type": "ConvNextFeatureExtractor",
            "resample": 3,
            "size": 224,
        }
        | IMAGENET,
    ),
    "openai/clip": (
        "clip_vision_model",
        {
            "crop_size": 224,
            "do_center_crop": True,
            "do_normalize": True,
            "do_resize": True,
            "feature_extractor_type": "CLIPFeatureExtractor",
            "image_mean": [0.48145466, 0.4578275, 0.40821073],
            "image_std": [0.26862954, 0.26130258, 0.27577711],
            "resample": 3,
            "size": 224,
        },
    ),
    "google/siglip": (
        "siglip_vision_model",
        {
            "do_normalize": True,
            "do_rescale": True,
            "do_resize": True,
            "image_mean": [0.5] * 3,
            "image_processor_type": "SiglipImageProcessor",
            "image_std": [0.5] * 3,
            "resample": 3,
            "rescale_factor": 0.00392156862745098,
            "size": {"height": 224, "width": 224},
        },
    ),
    "facebook/deit": (
        "deit",
        {
            "crop_size": 224,
            "do_center_crop": True,
            "do_normalize": True,
            "do_resize": True,
            "feature_extractor_type": "DeiTFeatureExtractor",
            "resample": 3,
            "size": 256,
        }
        | IMAGENET,
    ),
    "microsoft/beit": (
        "beit",
        {
            "crop_size": 224,
            "do_center_crop": False,
            "do_normalize": True,
            "do_resize": True,
            "feature_extractor_type": "BeitFeatureExtractor",
            "image_mean": [0.5] * 3,
            "image_std": [0.5] * 3,
            "resample": 2,
            "size": 224,
        },
    ),
    "google/mobilenet_v2": (
        "mobilenet_v2",
        {
            "crop_size": {"height": 224, "width": 224},
            "do_center_crop": True,
            "image_processor_type": "MobileNetV2ImageProcessor",
            "resample": 2,
            "size": {"shortest_edge": 256},
        }
        | {"image_mean": [0.5] * 3, "image_std": [0.5] * 3},
    ),
    "nearest, not normalised": ("vit", {"resample": 0, "do_normalize": False, "size": {"height": 64, "width": 48}}),
    "lanczos, not rescaled": (
        "vit",
        {"resample": 1, "do_rescale": False, "image_mean": [99.0] * 3, "image_std": [3.0] * 3, "size": 64},
    ),
}
SIDES = [(355, 262), (262, 355), (229, 231), (500, 333), (224, 224), (100, 90)]


def prepared(steps: Preprocessing, image: Image.Image) -> Tensor:
    preprocess = Preprocessor(steps)
    batch_BCHW: Tensor = preprocess(torch.from_numpy(np.stack([preprocess.pixels(image)])))
    return batch_BCHW[0]


@pytest.mark.parametrize("name", sorted(FILES))
def test_agrees_with_the_librarys_image_processor(name: str) -> None:
    model_type, content = FILES[name]
    steps = preprocessing_of(content, model_type)
    processor = processor_of(content, model_type)
    for size in SIDES:
        photo = known_photos.load("coffee.jpg").resize(size)
        expected_CHW = torch.as_tensor(np.asarray(processor(photo)["pixel_values"][0]))
        # Without normalisation values reach 255, whose neighbours in float32 are 1.5e-5 apart.
        scale = max(1.0, float(expected_CHW.abs().max()) / 4)
        torch.testing.assert_close(prepared(steps, photo), expected_CHW.float(), rtol=0, atol=1e-6 * scale)


def test_a_file_without_a_class_means_the_networks_own() -> None:
    assert preprocessing_of({"size": {"shortest_edge": 224}}, "clip_vision_model").crop_corner == "floored"
    assert type(processor_of({}, "siglip_vision_model")) is transformers.SiglipImageProcessorPil
    assert type(processor_of({"image_processor_type": "ViTImageProcessorFast"}, "clip_vision_model")) is (
        transformers.ViTImageProcessorPil
    )


@pytest.mark.parametrize(
    "content",
    [
        None,
        {"size": {"shortest_edge": 224, "longest_edge": 300}},
        {"size": {"shortest_edge": 200}, "crop_size": {"height": 224, "width": 224}, "do_center_crop": True},
        {"size": {"shortest_edge": 224}, "do_center_crop": False},
        {"image_mean": [0.5, 0.5]},
        {"image_std": "wide"},
        {"rescale_factor": 0},
        {"resample": 4},
        {"do_pad": True},
        {"image_processor_type": "LayoutLMv3ImageProcessor"},
    ],
)
def test_what_has_no_words_is_refused(content: dict[str, Any] | None) -> None:
    with pytest.raises(ModelRejected) as caught:
        preprocessing_of(content, "clip_vision_model")
    assert (caught.value.code, caught.value.param) == ("incomplete_preprocessing", "preprocessing")
    assert caught.value.hint
