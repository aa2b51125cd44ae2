"""The manifests ``zoo/torchvision.yaml`` and ``zoo/timm.yaml``, written from what the installed libraries state.

    python -m workers.zoo.manifests     write both anew, after torchvision or timm was updated

A row says what an admin wants to know before the download. The rest is filled in at admission.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torchvision.models
import yaml
from torchvision.models import get_model_weights, list_models

from app.domain.model_sources import TimmSource
from app.domain.model_spec import ModelSpec
from app.manifest import PACKAGED
from workers.zoo.resolution import resolve
from workers.zoo.timm_hub import registered

FOLDER = PACKAGED.parent

WITHOUT_A_CLASSIFIER_ON_FEATURES = ("squeezenet", "vgg16.IMAGENET1K_FEATURES")

# fmt: off
TIMM = (
    "resnet18.a1_in1k", "resnet34.a1_in1k", "resnet50.a1_in1k", "resnet50.tv2_in1k", "resnet101.a1h_in1k",
    "resnet152.a1h_in1k",
    "resnet50.fb_ssl_yfcc100m_ft_in1k", "resnet18.fb_swsl_ig1b_ft_in1k", "resnext50_32x4d.a1h_in1k",
    "wide_resnet50_2.racm_in1k",
    "resnetv2_50x1_bit.goog_in21k_ft_in1k", "seresnet50.ra2_in1k", "ecaresnet50t.ra2_in1k", "resnest50d.in1k",
    "regnety_016.tv2_in1k", "regnety_032.ra_in1k", "regnety_160.swag_ft_in1k", "regnetx_016.tv2_in1k",
    "densenet121.ra_in1k", "dpn68b.ra_in1k", "hrnet_w18.ms_aug_in1k", "dla34.in1k", "repvgg_b0.rvgg_in1k",
    "vgg16_bn.tv_in1k", "inception_v3.tv_in1k", "inception_v4.tf_in1k", "xception41.tf_in1k",
    "efficientnet_b0.ra_in1k", "efficientnet_b3.ra2_in1k", "tf_efficientnet_b4.ns_jft_in1k",
    "tf_efficientnetv2_b0.in1k", "tf_efficientnetv2_s.in21k_ft_in1k",
    "mobilenetv2_100.ra_in1k", "mobilenetv3_small_100.lamb_in1k", "mobilenetv3_large_100.miil_in21k_ft_in1k",
    "mobilenetv4_conv_small.e2400_r224_in1k", "mobilenetv4_conv_medium.e500_r256_in1k",
    "mnasnet_100.rmsp_in1k", "lcnet_100.ra2_in1k", "ghostnet_100.in1k", "mobileone_s1.apple_in1k",
    "convnext_tiny.fb_in1k", "convnext_tiny.in12k_ft_in1k", "convnext_small.fb_in22k",
    "convnext_base.fb_in22k_ft_in1k",
    "convnext_base.clip_laion2b_augreg_ft_in12k_in1k",
    "convnextv2_atto.fcmae_ft_in1k", "convnextv2_tiny.fcmae", "convnextv2_base.fcmae_ft_in22k_in1k",
    "vit_tiny_patch16_224.augreg_in21k_ft_in1k", "vit_small_patch16_224.augreg_in21k",
    "vit_base_patch16_224.augreg_in21k_ft_in1k", "vit_small_patch16_224.dino", "vit_base_patch16_224.dino",
    "vit_base_patch16_224.mae", "vit_small_patch14_dinov2.lvd142m", "vit_base_patch14_dinov2.lvd142m",
    "vit_small_patch14_reg4_dinov2.lvd142m", "vit_base_patch32_clip_224.laion2b_ft_in12k_in1k",
    "vit_base_patch16_clip_224.openai_ft_in1k", "vit_base_patch16_siglip_224.webli",
    "eva02_tiny_patch14_224.mim_in22k",
    "deit_tiny_patch16_224.fb_in1k", "deit3_small_patch16_224.fb_in22k_ft_in1k",
    "beit_base_patch16_224.in22k_ft_in22k", "beitv2_base_patch16_224.in1k_ft_in22k_in1k",
    "swin_tiny_patch4_window7_224.ms_in1k", "swin_small_patch4_window7_224.ms_in22k_ft_in1k",
    "swinv2_tiny_window8_256.ms_in1k",
    "caformer_s18.sail_in22k_ft_in1k", "poolformer_s12.sail_in1k", "maxvit_tiny_tf_224.in1k",
    "mixer_b16_224.goog_in21k_ft_in1k",
    "mobilevit_s.cvnets_in1k", "edgenext_small.usi_in1k", "tiny_vit_5m_224.dist_in22k_ft_in1k",
    "xcit_tiny_12_p16_224.fb_in1k", "focalnet_tiny_srf.ms_in1k",
)
# fmt: on
"""Of many families, sizes and kinds of pretraining; each has a licence and lies on the Hub."""

_WRITTEN = "Written by python -m workers.zoo.manifests. What a row does not say, admission fills in."
_HEADS = {
    "torchvision.yaml": "Every set of classification weights that torchvision names, less those without a classifier "
    "on features.",
    "timm.yaml": "Networks of timm: many families, sizes and kinds of pretraining.",
}


def torchvision_specs() -> list[ModelSpec]:
    """Return a specification of every entry, in the order of torchvision's table, best weights of a network first."""
    entries = [
        f"{name}.{weights.name}"
        for name in list_models(module=torchvision.models)
        for weights in sorted(get_model_weights(name), key=lambda one: str(one.name), reverse=True)
    ]
    usable = [entry for entry in entries if not entry.startswith(WITHOUT_A_CLASSIFIER_ON_FEATURES)]
    return [_spec(entry.lower(), {"type": "torchvision", "entry": entry}) for entry in usable]


def timm_specs() -> list[ModelSpec]:
    """Return a specification of every name in ``TIMM``.

    Raises:
        ModelRejected: ``unknown_weights_entry``: the installed timm does not know a name.
    """
    for name in TIMM:
        registered(TimmSource(id=name))
    return [_spec(name, {"type": "timm", "id": name}) for name in TIMM]


def row(spec: ModelSpec) -> dict[str, Any]:
    """Return what a manifest says of a specification: its source, licence and pretraining."""
    stated = resolve(spec, "0" * 64)
    assert stated.pretraining is not None
    pretraining = {"datasets": list(stated.pretraining.datasets), "method": stated.pretraining.method}
    source = {name: value for name, value in spec.as_dict()["source"].items() if value is not None}
    return {"name": spec.name, "source": source, "license": stated.license, "pretraining": pretraining}


def text(name: str, specs: Iterable[ModelSpec]) -> str:
    """Return the text of a manifest."""
    head = f"# {_HEADS[name]}\n# {_WRITTEN}\n"
    return head + yaml.safe_dump({"models": [row(spec) for spec in specs]}, sort_keys=False, default_flow_style=None)


def manifests() -> dict[str, str]:
    """Return the text of every manifest by its file name."""
    return {
        "torchvision.yaml": text("torchvision.yaml", torchvision_specs()),
        "timm.yaml": text("timm.yaml", timm_specs()),
    }


def _spec(name: str, source: dict[str, Any]) -> ModelSpec:
    return ModelSpec.from_dict({"name": name, "source": source})


def write(folder: Path = FOLDER) -> None:
    """Write every manifest."""
    for name, content in manifests().items():
        (folder / name).write_text(content, encoding="utf-8")


if __name__ == "__main__":
    write()
