"""What timm's tags say of the data and the method of pretraining: ``in12k_ft_in1k``, ``lvd142m``, ``laion2b``."""

from app.domain.model_spec import Pretraining

_DATASETS = {
    "in1k": "imagenet-1k",
    "in12k": "imagenet-12k",
    "in21k": "imagenet-21k",
    "in22k": "imagenet-22k",
    "openai": "openai-wit-400m",
    "laion400m": "laion-400m",
    "laion2b": "laion-2b",
    "laiona": "laion-aesthetic",
    "datacomp1b": "datacomp-1b",
    "datacompxl": "datacomp-1b",
    "dfn2b": "dfn-2b",
    "dfn5b": "dfn-5b",
    "dfndr2b": "dfn-dr-2b",
    "metaclip": "metaclip",
    "metaclip2": "metaclip-2",
    "merged2b": "merged-2b",
    "webli": "webli",
    "lvd142m": "lvd-142m",
    "lvd1689m": "lvd-1689m",
    "sat493m": "sat-493m",
    "m38m": "merged-38m",
    "yfcc15m": "yfcc-15m",
    "yfcc100m": "yfcc-100m",
    "ig1b": "instagram-1b",
    "swag": "instagram-3.6b",
    "jft": "jft-300m",
}
_IMAGE_TEXT = (
    "openai laion400m laion2b laiona datacomp1b datacompxl dfn2b dfn5b dfndr2b "
    "metaclip metaclip2 merged2b webli yfcc15m"
)
_METHODS = {
    **dict.fromkeys(_IMAGE_TEXT.split(), "image-text"),
    "dino": "dino",
    "lvd142m": "dinov2",
    "lvd1689m": "dinov3",
    "sat493m": "dinov3",
    "mae": "masked-images",
    "fcmae": "masked-images",
    "mim": "masked-images",
    "ijepa": "i-jepa",
    "ns": "semi-supervised",
    "ssl": "semi-supervised",
    "swsl": "semi-supervised",
    "dist": "distilled",
    "distilled": "distilled",
}

_ON_IMAGENET = {"dino", "mae", "fcmae"}
"""Words of methods whose networks saw ImageNet-1k where the tag names no data."""


def pretraining_of(tag: str) -> Pretraining:
    """Return data sets, in the order of training, and the method; both are what the tag's words are known for.

    A network that was then fine-tuned with labels is ``METHOD, fine-tuned``.
    """
    words = tag.lower().split("_")
    datasets = tuple(dict.fromkeys(name for word in words if (name := _DATASETS.get(word))))
    if not datasets:
        datasets = ("imagenet-1k",) if _ON_IMAGENET & set(words) else ()
    method = next((_METHODS[word] for word in words if word in _METHODS), "supervised")
    if method != "supervised" and "ft_in" in tag:
        method += ", fine-tuned"
    return Pretraining(datasets=datasets, method=method)
