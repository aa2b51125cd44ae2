"""Whose classes a network's last layer names, told by their number; and last layers that name none.

An image-text network ends in a projection: a vector that is compared with that of a text. Its outputs are no classes,
and no score of labels may read them as such.
"""

from timm.models import get_arch_pretrained_cfgs

from app.domain.model_spec import Head

EMBEDDING = "embedding"
"""The label set of a projection."""

_SETS = {
    1000: "imagenet-1k",
    11221: "imagenet-21k-miil",
    11821: "imagenet-12k",
    19168: "imagenet-21k-winter",
    21841: "imagenet-22k",
    21842: "imagenet-22k",
    21843: "imagenet-21k",
}
_IMAGE_TEXT = ("clip", "openai", "laion", "datacomp", "dfn2b", "dfn5b", "merged2b", "webli", "pe_core")
"""What timm's names of image-text networks hold, in the architecture or in the tag."""


def names_classes(head: Head | None) -> bool:
    """Tell whether the outputs of a head are classes."""
    return head is not None and head.label_set != EMBEDDING


def label_set(classes: int) -> str:
    """Return the label set of a classifier with so many outputs."""
    return _SETS.get(classes, "other")


def timm_label_set(classes: int, architecture: str, tag: str) -> str:
    """Return the label set of timm's weights; ``embedding`` for the projection of an image-text network.

    A projection has as many outputs as one of those that timm lists for the architecture: a network that was trained
    further on somebody's labels keeps the words of its name, and has as many outputs as there are labels.

    Args:
        classes: the number of outputs.
        architecture: timm's name of it.
        tag: timm's words for the training.
    """
    name = f"{architecture}.{tag}"
    if classes in _SETS or "ft_in" in tag or not any(word in name for word in _IMAGE_TEXT):
        return label_set(classes)
    listed = get_arch_pretrained_cfgs(architecture).values()
    return EMBEDDING if any(config.num_classes == classes for config in listed) else "other"
