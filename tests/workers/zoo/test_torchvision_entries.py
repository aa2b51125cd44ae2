"""Every set of classification weights that the installed torchvision names says all that a specification needs."""

import re

import pytest
import torch
import torchvision.models
from torchvision.models import get_model_weights, list_models

from app.domain.errors import ModelRejected
from app.domain.model_spec import ModelSpec, Pretraining
from workers.zoo.architectures import skeleton
from workers.zoo.torchvision_entry import find_entry, resolve

ENTRIES = [f"{name}.{one.name}" for name in list_models(module=torchvision.models) for one in get_model_weights(name)]
PARTIAL = "vgg16.IMAGENET1K_FEATURES"


def resolved(entry: str) -> ModelSpec:
    spec = ModelSpec.from_dict({"name": entry, "source": {"type": "torchvision", "entry": entry}})
    return resolve(spec, "0" * 64)


def test_every_entry_is_complete_without_a_download() -> None:
    assert len(ENTRIES) > 100
    for entry in ENTRIES:
        if entry == PARTIAL:
            continue
        spec = resolved(entry)
        assert spec.license in {"BSD-3-Clause", "CC-BY-NC-4.0"}, entry
        assert spec.preprocessing is not None, entry
        assert spec.head is not None, entry
        assert (spec.head.num_classes, spec.head.label_set) == (1000, "imagenet-1k")
        assert spec.pretraining is not None, entry
        assert spec.pretraining.datasets[-1] == "imagenet-1k"
        assert ModelSpec.from_dict(spec.as_dict()) == spec
        assert re.fullmatch(r".*-[0-9a-f]{8,10}\.pth", find_entry(entry).url), entry


@pytest.mark.parametrize("entry", [entry for entry in ENTRIES if entry.startswith("vit_")])
def test_a_vision_transformer_takes_the_size_that_its_weights_state(entry: str) -> None:
    spec = resolved(entry)
    assert spec.preprocessing is not None
    with torch.inference_mode():
        logits_BZ = skeleton(spec)(torch.empty(1, 3, *spec.preprocessing.crop, device="meta"))
    assert logits_BZ.shape == (1, 1000), entry


def test_what_torchvision_does_to_a_network_with_weights_is_stated() -> None:
    assert resolved("googlenet.IMAGENET1K_V1").arguments == {"transform_input": True}
    assert resolved("inception_v3.IMAGENET1K_V1").arguments == {"transform_input": True}
    assert resolved("vit_h_14.IMAGENET1K_SWAG_E2E_V1").arguments == {"image_size": 518}
    assert resolved("resnet18.IMAGENET1K_V1").arguments == {}
    assert skeleton(resolved("googlenet.IMAGENET1K_V1")).transform_input is True


def test_weights_from_instagram_are_not_for_commerce() -> None:
    spec = resolved("regnet_y_16gf.IMAGENET1K_SWAG_LINEAR_V1")
    assert spec.license == "CC-BY-NC-4.0"
    assert spec.pretraining == Pretraining(
        datasets=("instagram-3.6b", "imagenet-1k"), method="weakly supervised, fine-tuned"
    )


def test_weights_of_a_part_are_refused() -> None:
    with pytest.raises(ModelRejected) as caught:
        resolved(PARTIAL)
    assert (caught.value.code, caught.value.param) == ("unknown_weights_entry", "source.entry")
