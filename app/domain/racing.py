"""Racing: models are compared on growing subsets of the images, and one that cannot win any more is dropped.

A selection looks several times. Each look asks, of every model, whether at least k others are surely better; all looks
together may drop one of the true first k with no more than a stated probability, so each gets an equal part of it.

What is bounded is the error of sampling images. A model whose probe learns slowly from few images, and overtakes others
only with many, can be dropped although it would win on all of them: the first look waits for enough images.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from app.domain.ranking import Candidate, Ranking, rank


@dataclass(frozen=True, kw_only=True, eq=False)
class Look:
    """Models with their answers on the images of one look.

    Attributes:
        candidates: those that are ranked by this look.
        labels_N: the class of each of its images.
        held_out_N: images that were predicted at all.
        units_N: images with the same number are near-duplicates.
    """

    candidates: Sequence[Candidate]
    labels_N: NDArray[np.int64]
    held_out_N: NDArray[np.bool_]
    units_N: NDArray[np.int64]


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


def rank_race(looks: Sequence[Look], *, keep: int, level: float, replicates: int) -> Ranking:
    """Rank the models of a race: those still in it, and behind them those that were dropped, the latest first.

    What a dropped model's place rests on is that it is not among the first ``keep``: its rank may be any behind them.

    Args:
        looks: that of the models still in the race, then those at which others were dropped, the latest first.
        keep: how many models the race is for.
        level: confidence of rank intervals and tie groups.
        replicates: resamples of the images.
    """
    total = sum(len(look.candidates) for look in looks)
    first, *others = [
        rank(
            look.candidates,
            look.labels_N,
            held_out_N=look.held_out_N,
            units_N=look.units_N,
            level=level,
            replicates=replicates,
            top_k=keep,
            dropped=total - len(look.candidates),
        )
        for look in looks
    ]
    models = list(first.models)
    if others:
        # One that may not be among the first may be behind a model that was dropped.
        models = [
            dataclasses.replace(model, rank_interval=(model.rank_interval[0], total))
            if model.rank_interval[1] > keep
            else model
            for model in models
        ]
    for ranking in others:
        ahead, groups = len(models), max(model.tie_group for model in models)
        models += [
            dataclasses.replace(
                model,
                rank=ahead + model.rank,
                rank_interval=(keep + 1, total),
                tie_group=groups + model.tie_group,
                probability_of_best=0.0,
                probability_of_top_k=0.0,
            )
            for model in ranking.models
        ]
    return dataclasses.replace(first, models=tuple(models))
