"""Which images of a data set are looked at: one split, and of it, in a race, growing subsets."""

from collections.abc import Collection

FIRST_LOOK = 128
IMAGES_PER_CLASS = 8
"""A probe that is trained on fewer says little, and models that learn slowly are dropped though they would win: of 200
measured races with such a model, 8 lost the winner when they began at 64 images, and 1 when it was 128."""


def evaluated_split(splits: Collection[str]) -> str | None:
    """Return the split to look at: the training one, else the validation one; None, all images, of a single split.

    A test split beside another one stays unseen: a ranking that has seen it would make the user's later test look
    better than it is.
    """
    if len(splits) == 1:
        return None
    return "train" if "train" in splits else "validation"


def looks(images: int, *, classes: int = 1, first: int = FIRST_LOOK) -> tuple[int, ...]:
    """Return the subset sizes of a race: doubling from ``first``, the last one being all images.

    A last step of less than half the subset before it is joined to the step before: it would hardly tell more. Many
    classes need a larger first subset.
    """
    sizes = []
    size = max(first, IMAGES_PER_CLASS * classes)
    while size * 1.5 < images:
        sizes.append(size)
        size *= 2
    return (*sizes, images)
