"""Which images a fine-tuning trains on, which choose its learning rate, and which measure it in the end.

N images of the data set, P images of a pool, C classes, U units of near-duplicates
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.domain.errors import EvaluationFailed

HELD_OUT = 0.2
"""Share of each class that is held out for the test, and of what is left, for the validation."""

SEED = 0
"""Of every split that is made, whatever the seed of a recipe: so that all accuracies are of the same test images."""

_Rows = NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Split:
    """Ascending rows of the data set, in three parts.

    ``warnings`` are codes: ``class_not_tested`` (with one image, or one unit, it stays in training),
    ``class_not_validated``, ``class_not_trained`` (it occurs in the data set's own test split alone) and
    ``near_duplicates_of_test`` (training images that show what the data set's own test split shows).
    """

    train_T: _Rows
    validation_V: _Rows
    test_S: _Rows
    warnings: tuple[str, ...] = ()


def split_images(
    labels_N: NDArray[np.int64],
    *,
    split_names: Sequence[str] | None = None,
    units_N: NDArray[np.int64] | None = None,
    seed: int = SEED,
) -> Split:
    """Split a data set for training, validation and test, every class by itself; the same seed, the same split.

    The data set's own test split is kept, and so is its validation split beside a training one; where there is none, a
    fifth of each class is held out, at least one image of two. A class keeps at least one training image. Images of a
    unit are never parted, but by the data set's own splits.

    Args:
        labels_N: the class of each image.
        split_names: the name of each image's split (``train``, ``validation``, ``test``), where the data set has some.
        units_N: images with the same number are near-duplicates.
        seed: of the choice.

    Raises:
        EvaluationFailed: ``nothing_to_test``, ``nothing_to_validate``, ``nothing_to_train``: too few images.
    """
    everything = np.arange(len(labels_N))
    units_N = everything if units_N is None else units_N
    random = np.random.default_rng(seed)
    names_N = np.array(["train"] * len(labels_N) if split_names is None else list(split_names), dtype=object)
    known = set(names_N.tolist())
    own_test = len(known) > 1 and "test" in known
    own_validation = {"train", "validation"} <= known
    if own_test:
        test_S = np.flatnonzero(names_N == "test")
    else:
        pool_P = np.flatnonzero(names_N == "train") if own_validation else everything
        test_S = pool_P[_held_out(labels_N[pool_P], units_N[pool_P], random)]
    if own_validation:
        validation_V = np.flatnonzero(names_N == "validation")
    else:
        pool_P = np.setdiff1d(everything, test_S)
        validation_V = pool_P[_held_out(labels_N[pool_P], units_N[pool_P], random)]
    train_T = np.setdiff1d(everything, np.concatenate([test_S, validation_V]))
    _require(test_S, "nothing_to_test", labels_N)
    _require(validation_V, "nothing_to_validate", labels_N)
    _require(train_T, "nothing_to_train", labels_N)
    return Split(train_T, validation_V, test_S, _warnings(labels_N, units_N, train_T, validation_V, test_S))


def _require(rows: _Rows, code: str, labels_N: NDArray[np.int64]) -> None:
    if not len(rows):
        raise EvaluationFailed(
            code,
            f"of {len(labels_N)} images none is left {code.removeprefix('nothing_').replace('_', ' ')} with",
            hint="Add images: every class needs at least three that are no copies of each other.",
        )


def _held_out(
    labels_P: NDArray[np.int64], units_P: NDArray[np.int64], random: np.random.Generator
) -> NDArray[np.bool_]:
    """Return which images of a pool are held out."""
    class_P = np.unique(labels_P, return_inverse=True)[1]
    unit_P = np.unique(units_P, return_inverse=True)[1]
    counts_UC = np.zeros((unit_P.max(initial=-1) + 1, class_P.max(initial=-1) + 1), dtype=np.int64)
    np.add.at(counts_UC, (unit_P, class_P), 1)
    total_C = counts_UC.sum(axis=0)
    quota_C = np.where(total_C > 1, np.maximum(1, np.floor(HELD_OUT * total_C + 0.5)), 0).astype(np.int64)
    held_C = np.zeros_like(quota_C)
    held_U = np.zeros(len(counts_UC), dtype=np.bool_)
    order = random.permutation(len(counts_UC))
    for unit in order:
        if (held_C + counts_UC[unit] <= np.where(counts_UC[unit] > 0, quota_C, held_C)).all():
            held_U[unit] = True
            held_C += counts_UC[unit]
    # A class all of whose units are larger than its share gives its smallest, unless that leaves a class untrained.
    for class_ in np.flatnonzero((held_C == 0) & (quota_C > 0)):
        if held_C[class_]:
            continue
        units = [unit for unit in order if counts_UC[unit, class_] and (held_C + counts_UC[unit] < total_C).all()]
        if units:
            smallest = min(units, key=lambda unit: counts_UC[unit].sum())
            held_U[smallest] = True
            held_C += counts_UC[smallest]
    held_P: NDArray[np.bool_] = held_U[unit_P]
    return held_P


def _warnings(
    labels_N: NDArray[np.int64], units_N: NDArray[np.int64], train_T: _Rows, validation_V: _Rows, test_S: _Rows
) -> tuple[str, ...]:
    classes = set(labels_N.tolist())
    trained, validated, tested = (set(labels_N[rows].tolist()) for rows in (train_T, validation_V, test_S))
    found = {
        "class_not_tested": bool(classes - tested),
        "class_not_validated": bool(classes - validated),
        "class_not_trained": bool(classes - trained),
        "near_duplicates_of_test": bool(np.isin(units_N[train_T], units_N[test_S]).any()),
    }
    return tuple(code for code, is_so in found.items() if is_so)
