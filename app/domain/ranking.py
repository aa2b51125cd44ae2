"""From each model's held-out right and wrong answers to a ranking that says how sure it is.

Legend: N images, H held-out images, J candidates, R resamples, I images of one class.

Accuracies are compared in pairs, on the same images. Resampling images within their class, the same way for all
candidates, shows by how much a difference varies; a difference counts when it exceeds what the largest of a candidate's
J-1 differences reaches by chance. Ranks, tie groups and verdict all follow from these comparisons.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

_Array = NDArray[np.float64]

SIGNAL_LEVEL = 0.02  # chance to report a signal where there is none, over all candidates together
# Models of different folds share training images, so cross-validated answers err together. With permuted labels their
# count varies up to 1.8 times as much as that of independent answers: the test counts half of them.
_INDEPENDENT_SHARE = 0.5
_BLOCK_ENTRIES = 4_000_000  # resampled counts held at a time: 32 MB
_EQUAL = 1e-9  # accuracies closer than this are equal: rounding must not decide


@dataclass(frozen=True, kw_only=True, eq=False)
class Candidate:
    """One model with its answers.

    Attributes:
        id: the model's id.
        name: what users call it.
        parameters: number of weights; the smaller model wins a tie.
        correct_N: whether the linear probe's held-out prediction of each image was right.
    """

    id: str
    name: str
    parameters: int
    correct_N: NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """One model's place.

    Attributes:
        rank: 1 is the best; by accuracy, then fewer parameters, then name.
        accuracy: share of held-out images predicted right.
        stderr: its standard error.
        rank_interval: the ranks this model may really have: 1 + models surely better .. all but those surely worse.
        tie_group: 1 for the models not told apart from the best one, 2 for those of the rest not told apart from the
            best of the rest, and so on.
        probability_of_best: share of resamples in which it is first; several first ones share a resample.
    """

    id: str
    name: str
    rank: int
    accuracy: float
    stderr: float
    rank_interval: tuple[int, int]
    tie_group: int
    probability_of_best: float


@dataclass(frozen=True, kw_only=True)
class Stability:
    """How firm the top is: the first model's probability of being first, and how many models share its tie group."""

    top1_probability: float
    tie_group_size: int


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """Models in order, with what is known of that order.

    Attributes:
        models: best first.
        stability: None when no model was evaluated.
        signal: whether the best model is really better than always answering the largest class: a binomial test,
            corrected for the number of candidates.
        verdict: the result in one plain sentence.
        method: what was resampled, in words.
    """

    models: tuple[Ranked, ...]
    stability: Stability | None
    signal: bool
    verdict: str
    method: str


def rank(
    candidates: Sequence[Candidate],
    labels_N: ArrayLike,
    *,
    replicates: int = 1000,
    level: float = 0.9,
    seed: int = 0,
    held_out_N: NDArray[np.bool_] | None = None,
) -> Ranking:
    """Rank candidates by accuracy on the same images.

    Args:
        candidates: in any order; the ranking does not depend on it.
        labels_N: the class of each image.
        replicates: resamples of the images.
        level: confidence of rank intervals and tie groups.
        seed: of the resamples.
        held_out_N: images that were predicted at all; by default those of classes with at least two images.

    Raises:
        ValueError: answers and labels differ in number, no image is held out, or an argument is out of range.
    """
    if not candidates:
        return Ranking(models=(), stability=None, signal=False, verdict="No model could be evaluated.", method="")
    labels_N = np.unique(np.asarray(labels_N), return_inverse=True)[1].reshape(-1)
    if held_out_N is None:
        held_out_N = np.bincount(labels_N)[labels_N] > 1
    if any(candidate.correct_N.shape != labels_N.shape for candidate in candidates):
        raise ValueError("every candidate needs one answer per label")
    if not held_out_N.any() or replicates < 2 or not 0 < level < 1:
        raise ValueError("ranking needs a held-out image, two replicates and a level between 0 and 1")
    labels_H = labels_N[held_out_N]
    by_size = sorted(candidates, key=lambda candidate: (candidate.parameters, candidate.name, candidate.id))
    correct_HJ = np.stack([candidate.correct_N[held_out_N] for candidate in by_size], axis=1)
    order_J = np.argsort(-correct_HJ.sum(axis=0), kind="stable")  # ties stay in order of size
    ordered, correct_HJ = [by_size[j] for j in order_J], correct_HJ[:, order_J].astype(np.float64)
    right_J, images = correct_HJ.sum(axis=0).astype(np.intp), len(labels_H)

    resampled_RJ = _resampled_accuracies(correct_HJ, labels_H, replicates, np.random.default_rng(seed))
    accuracy_J = right_J / images
    apart_JJ = _told_apart(right_J, images, _difference_stderr(correct_HJ, labels_H), resampled_RJ, level)
    groups = _tie_groups(apart_JJ)
    first_J = _share_first(resampled_RJ)
    ranked = tuple(
        Ranked(
            id=candidate.id,
            name=candidate.name,
            rank=j + 1,
            accuracy=float(accuracy_J[j]),
            stderr=accuracy_stderr(int(right_J[j]), images),
            rank_interval=(1 + int(apart_JJ[j, :j].sum()), len(ordered) - int(apart_JJ[j, j:].sum())),
            tie_group=groups[j],
            probability_of_best=float(first_J[j]),
        )
        for j, candidate in enumerate(ordered)
    )
    majority = float(np.bincount(labels_H).max() / images)
    chance = binomial_tail(int(right_J[0] * _INDEPENDENT_SHARE), math.ceil(images * _INDEPENDENT_SHARE), majority)
    signal = len(ordered) * chance <= SIGNAL_LEVEL
    tied = [candidate for candidate, group in zip(ordered, groups, strict=True) if group == 1]
    return Ranking(
        models=ranked,
        stability=Stability(top1_probability=ranked[0].probability_of_best, tie_group_size=len(tied)),
        signal=signal,
        verdict=_verdict(ranked, tied, majority, signal=signal),
        method=(
            f"{replicates} bootstrap resamples of the {images} held-out images, drawn within each of the "
            f"{len(np.unique(labels_H))} classes and the same for every model; rank intervals and tie groups hold with "
            f"{level:.0%} confidence, all comparisons of a model together. Training was not repeated."
        ),
    )


def accuracy_stderr(right: int, total: int) -> float:
    """Return the standard error of a share of right answers, with half an answer added each way.

    So it is not zero for a model without mistakes (the mean of Jeffreys' posterior stands in for the share).
    """
    share = (right + 0.5) / (total + 1)
    return math.sqrt(share * (1 - share) / total)


def binomial_tail(right: int, total: int, share: float) -> float:
    """Return the exact probability of at least ``right`` successes in ``total`` trials of probability ``share``."""
    if right <= 0 or share >= 1:
        return 1.0
    log_terms = [
        math.lgamma(total + 1)
        - math.lgamma(k + 1)
        - math.lgamma(total - k + 1)
        + k * math.log(share)
        + (total - k) * math.log1p(-share)
        for k in range(right, total + 1)
    ]
    largest = max(log_terms)
    return min(1.0, math.exp(largest) * math.fsum(math.exp(term - largest) for term in log_terms))


def _classes(correct_HJ: _Array, labels_H: NDArray[np.intp]) -> list[_Array]:
    return [correct_HJ[labels_H == label] for label in np.unique(labels_H)]


def _resampled_accuracies(
    correct_HJ: _Array, labels_H: NDArray[np.intp], replicates: int, random: np.random.Generator
) -> _Array:
    """Return every candidate's accuracy in every resample (R x J).

    Of a class's I images, I - 1 are drawn and counted I / (I - 1) times: with as many draws as images the variance
    would come out too small by that factor, which matters in classes of a few images (Rao and Wu 1988).
    """
    right_RJ = np.zeros((replicates, correct_HJ.shape[1]))
    for correct_IJ in _classes(correct_HJ, labels_H):
        images = len(correct_IJ)
        if images == 1:
            right_RJ += correct_IJ
            continue
        block = max(1, _BLOCK_ENTRIES // images)
        for start in range(0, replicates, block):
            rows = min(block, replicates - start)
            drawn = random.integers(0, images, size=(rows, images - 1)) + images * np.arange(rows)[:, None]
            counts = np.bincount(drawn.ravel(), minlength=rows * images).reshape(rows, images)
            right_RJ[start : start + rows] += counts @ correct_IJ * (images / (images - 1))
    return right_RJ / len(labels_H)


def _difference_stderr(correct_HJ: _Array, labels_H: NDArray[np.intp]) -> _Array:
    """Return the standard error of every difference of two accuracies (J x J).

    It is the resamples' own standard deviation in closed form, with one image of disagreement added (half an image each
    way, Agresti and Min 2005): two models that differ on one image only are not told apart by it.
    """
    covariance_JJ = np.zeros((correct_HJ.shape[1],) * 2)
    for correct_IJ in _classes(correct_HJ, labels_H):
        images = len(correct_IJ)
        if images > 1:
            centred_IJ = correct_IJ - correct_IJ.mean(axis=0)
            covariance_JJ += centred_IJ.T @ centred_IJ * (images / (images - 1))
    variance_J = np.diag(covariance_JJ)
    variance_JJ = np.maximum(variance_J[:, None] + variance_J - 2 * covariance_JJ, 0.0)
    return np.asarray(np.sqrt(variance_JJ + 1) / len(labels_H))


def _told_apart(
    right_J: NDArray[np.intp], images: int, stderr_JJ: _Array, resampled_RJ: _Array, level: float
) -> NDArray[np.bool_]:
    """Return whether row's candidate differs from column's beyond chance.

    A candidate's differences to all others are judged together: each has to exceed, in standard errors, what the
    largest of them exceeds in only ``1 - level`` of the resamples (Mogstad et al. 2024, for one candidate's rank). And
    it has to be a number of images that a fair coin would not give at this level: resamples say nothing about classes
    of a few images that are all right or all wrong.
    """
    fewest = math.log2(2 / (1 - level))
    apart_JJ = np.zeros(stderr_JJ.shape, dtype=bool)
    for j, right in enumerate(right_J):
        observed_J = (right - right_J) / images
        deviation_RJ = np.abs(resampled_RJ[:, [j]] - resampled_RJ - observed_J)
        spread_J = np.sqrt((deviation_RJ**2).mean(axis=0))
        steps_RJ = np.divide(deviation_RJ, spread_J, out=np.zeros_like(deviation_RJ), where=spread_J > _EQUAL)
        threshold = float(np.quantile(steps_RJ.max(axis=1), level))
        apart_JJ[j] = (np.abs(observed_J) > threshold * stderr_JJ[j]) & (np.abs(right - right_J) >= fewest)
    return apart_JJ


def _tie_groups(apart_JJ: NDArray[np.bool_]) -> list[int]:
    """Return group numbers: from the top, the best model left and all that are left and not told apart from it."""
    groups = np.zeros(len(apart_JJ), dtype=int)
    while (groups == 0).any():
        leader = int(np.flatnonzero(groups == 0)[0])
        groups[(groups == 0) & ~apart_JJ[leader]] = groups.max() + 1
    return [int(group) for group in groups]


def _share_first(resampled_RJ: _Array) -> _Array:
    """Return how often each candidate is first; several first ones share the resample."""
    leading_RJ = resampled_RJ >= resampled_RJ.max(axis=1, keepdims=True) - _EQUAL
    return np.asarray((leading_RJ / leading_RJ.sum(axis=1, keepdims=True)).mean(axis=0))


def wilson_interval(right: int, total: int, level: float) -> tuple[float, float]:
    """Return the two-sided confidence interval of a share, which covers it also near 0 and 1 (Wilson 1927)."""
    z = NormalDist().inv_cdf((1 + level) / 2)
    share, weight = right / total, z * z / total
    centre = (share + weight / 2) / (1 + weight)
    half = z * math.sqrt(share * (1 - share) / total + weight / (4 * total)) / (1 + weight)
    return max(0.0, centre - half), min(1.0, centre + half)


def _verdict(ranked: Sequence[Ranked], tied: Sequence[Candidate], majority: float, *, signal: bool) -> str:
    best = ranked[0]
    if not signal:
        return (
            "No signal: no model predicts these labels reliably better than always answering the largest class would "
            f"({majority:.1%} of the images)."
        )
    if len(ranked) == 1:
        return f"Only one model was evaluated: {best.name} gets {best.accuracy:.1%} of the held-out images right."
    if len(tied) == 1:
        lead = 100 * (best.accuracy - ranked[1].accuracy)
        return (
            f"{best.name} is the best of {len(ranked)} models: it gets {best.accuracy:.1%} of the held-out images "
            f"right, {lead:.1f} points more than {ranked[1].name}, the next one."
        )
    smallest = min(tied, key=lambda candidate: candidate.parameters)  # of equal sizes the better one: tied is ordered
    if len({candidate.parameters for candidate in tied}) == 1:
        return f"{len(tied)} models of equal size are statistically tied at the top; {best.name} is the first of them."
    return f"{len(tied)} models are statistically tied at the top; {smallest.name} is the smallest of them."
