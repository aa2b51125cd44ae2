"""Names of the label sets that pretrained classifiers have, told by their number of classes."""

_SETS = {
    1000: "imagenet-1k",
    11221: "imagenet-21k-miil",
    11821: "imagenet-12k",
    21841: "imagenet-22k",
    21843: "imagenet-21k",
}
_IMAGE_TEXT = ("clip", "openai", "laion", "datacomp", "dfn2b", "dfn5b", "merged2b", "webli")


def label_set(classes: int, tag: str = "") -> str:
    """Return the label set of a classifier; ``embedding`` for the projection of an image-text network.

    Args:
        classes: its number of outputs.
        tag: timm's words for the training.
    """
    if any(word in tag for word in _IMAGE_TEXT) and "ft_in" not in tag:
        return "embedding"
    return _SETS.get(classes, "other")
