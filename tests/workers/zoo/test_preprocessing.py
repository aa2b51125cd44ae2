"""Preprocessing agrees with torchvision's and timm's own transforms."""

from functools import cache

import numpy as np
import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from timm.data import create_transform
from torch import Tensor

from app.domain.model_spec import ModelSpec, Preprocessing
from tests.fixtures.weights import HALF, packaged
from workers.zoo.preprocessing import Preprocessor
from workers.zoo.torchvision_entry import find_entry, resolve


@cache
def noise(width: int, height: int) -> Image.Image:
    rng = np.random.default_rng(width * 10_000 + height)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def prepared(steps: Preprocessing, image: Image.Image) -> Tensor:
    preprocess = Preprocessor(steps)
    batch_BCHW: Tensor = preprocess(torch.from_numpy(np.stack([preprocess.pixels(image)])))
    assert batch_BCHW.is_contiguous(memory_format=torch.channels_last)
    return batch_BCHW[0]


SIDES = st.integers(20, 700)


@settings(deadline=None, max_examples=25)
@given(
    SIDES, SIDES, st.sampled_from(["mobilenet_v2.IMAGENET1K_V1", "resnet50.IMAGENET1K_V2", "vit_b_16.IMAGENET1K_V1"])
)
def test_agrees_with_torchvision(width: int, height: int, entry: str) -> None:
    source = {"type": "torchvision", "entry": entry}
    steps = resolve(ModelSpec.from_dict({"name": "x", "source": source}), "0" * 64).preprocessing
    assert steps is not None
    image = noise(width, height)
    torch.testing.assert_close(prepared(steps, image), find_entry(entry).transforms()(image), rtol=0, atol=1e-6)


@settings(deadline=None, max_examples=25)
@given(SIDES, SIDES, st.sampled_from(["efficientnet-lite0", "efficientnet-lite1", "efficientnet-lite2"]))
def test_agrees_with_timm(width: int, height: int, name: str) -> None:
    spec = packaged(name)
    assert spec.preprocessing is not None
    config = timm.get_pretrained_cfg(spec.architecture.removeprefix("timm:")).to_dict()
    keys = ("input_size", "interpolation", "crop_pct", "mean", "std")
    transform = create_transform(**{key: config[key] for key in keys}, is_training=False)
    image = noise(width, height)
    torch.testing.assert_close(prepared(spec.preprocessing, image), transform(image), rtol=0, atol=1e-6)


def test_bgr_without_division_subtracts_the_mean_of_each_channel() -> None:
    steps = Preprocessing(
        resize=4, crop=(4, 4), interpolation="bilinear", mean=(1, 2, 3), std=(1, 1, 2), channels="BGR", divide_by=1
    )
    x_CHW = prepared(steps, Image.new("RGB", (8, 8), (10, 20, 30)))
    torch.testing.assert_close(x_CHW[:, 0, 0], torch.tensor([29.0, 18.0, 3.5]))


def test_without_resize_the_whole_image_is_stretched() -> None:
    steps = Preprocessing(resize=None, crop=(6, 4), interpolation="bicubic", mean=(0, 0, 0), std=(1, 1, 1))
    image = noise(40, 30)
    expected = np.asarray(image.resize((4, 6), Image.Resampling.BICUBIC), np.float32) / 255
    np.testing.assert_allclose(prepared(steps, image).permute(1, 2, 0), expected, atol=1e-6)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK"])
def test_other_modes_are_refused(mode: str) -> None:
    steps = Preprocessing(resize=4, crop=(4, 4), interpolation="bilinear", mean=HALF, std=HALF)
    with pytest.raises(ValueError, match=mode):
        Preprocessor(steps).pixels(Image.new(mode, (8, 8)))
