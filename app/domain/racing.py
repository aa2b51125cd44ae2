"""Racing: models are compared on growing subsets of the images, and one that cannot win any more is dropped.

A selection looks several times. Each look asks, of every model, whether at least k others are surely better; all looks
together may drop one of the true first k with no more than a stated probability, so each gets an equal part of it.

What is bounded is the error of sampling images. A model whose probe learns slowly from few images, and overtakes others
only with many, can be dropped although it would win on all of them: the first look waits for enough images.
"""

from collections.abc import Sequence

from numpy.typing import ArrayLike

from app.domain.ranking import Candidate, rank

FIRST_LOOK = 64


def looks(images: int, *, first: int = FIRST_LOOK) -> tuple[int, ...]:
    """Return the subset sizes of a race: doubling from ``first``, the last one being all images.

    A last step of less than half the subset before it is joined to the step before: it would hardly tell more.
    """
    sizes = []
    size = first
    while size * 1.5 < images:
        sizes.append(size)
        size *= 2
    return (*sizes, images)


def eliminated(
    candidates: Sequence[Candidate],
    labels_N: ArrayLike,
    *,
    keep: int,
    error_probability: float,
    number_of_looks: int,
    units_N: ArrayLike | None = None,
    replicates: int = 1000,
) -> list[str]:
    """Return the ids of the candidates that are surely not among the first ``keep``.

    Args:
        candidates: those still in the race, with their answers on the images of this look.
        labels_N: the class of each of these images.
        keep: k; a candidate is dropped when at least so many others are told apart from it, and better.
        error_probability: of dropping one of the true first k, over all looks and candidates together.
        number_of_looks: looks that drop candidates; the last subset, all images, drops none.
        units_N: images with the same number are near-duplicates.
        replicates: resamples of the images.

    Raises:
        ValueError: an argument is out of range.
    """
    if keep < 1 or not 0 < error_probability < 1 or number_of_looks < 1:
        raise ValueError("a race keeps at least one model, and needs an error probability between 0 and 1 and a look")
    if len(candidates) <= keep:
        return []
    # Only one of the true first k can be dropped wrongly, so the error is shared among these and the looks.
    level = 1 - error_probability / (number_of_looks * keep)
    ranking = rank(candidates, labels_N, level=level, units_N=units_N, replicates=replicates)
    return [model.id for model in ranking.models if model.rank_interval[0] > keep]
