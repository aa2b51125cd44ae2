"""From each model's held-out right and wrong answers to a ranking that says how sure it is.

Legend: N images, H held-out images, G units (near-duplicates together), J candidates, R resamples.

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

from app.domain.resampling import effective_number, resample_weights, units

_Array = NDArray[np.float64]

SIGNAL_LEVEL = 0.02  # chance to report a signal where there is none, over all candidates together
# Models of different folds share training images, so cross-validated answers err together. With permuted labels their
# count varies up to 1.8 times as much as that of independent answers: the test counts half of them.
_INDEPENDENT_SHARE = 0.5
_BLOCK_ENTRIES = 4_000_000  # resampled weights held at a time: 32 MB
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
        probability_of_top_k: share of resamples in which it is among the first k; models tied for the last of these
            places share it.
    """

    id: str
    name: str
    rank: int
    accuracy: float
    stderr: float
    rank_interval: tuple[int, int]
    tie_group: int
    probability_of_best: float
    probability_of_top_k: float


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
        top_k: the k of ``probability_of_top_k``.
        method: what was resampled, in words.
    """

    models: tuple[Ranked, ...]
    stability: Stability | None
    signal: bool
    verdict: str
    top_k: int
    method: str


def rank(
    candidates: Sequence[Candidate],
    labels_N: ArrayLike,
    *,
    replicates: int = 1000,
    level: float = 0.9,
    seed: int = 0,
    held_out_N: NDArray[np.bool_] | None = None,
    units_N: ArrayLike | None = None,
    top_k: int = 3,
    dropped: int = 0,
) -> Ranking:
    """Rank candidates by accuracy on the same images.

    Args:
        candidates: in any order; the ranking does not depend on it.
        labels_N: the class of each image.
        replicates: resamples of the images.
        level: confidence of rank intervals and tie groups.
        seed: of the resamples.
        held_out_N: images that were predicted at all; by default those of classes with at least two images.
        units_N: images with the same number are near-duplicates and drawn together; by default each stands alone.
        top_k: for ``probability_of_top_k``; no more than there are candidates.
        dropped: models that left a race before these images were seen; the verdict counts them.

    Raises:
        ValueError: answers and labels differ in number, no image is held out, or an argument is out of range.
    """
    if not candidates:
        nothing = "No model could be evaluated."
        return Ranking(models=(), stability=None, signal=False, verdict=nothing, top_k=0, method="")
    labels_N = np.unique(np.asarray(labels_N), return_inverse=True)[1].reshape(-1)
    if held_out_N is None:
        held_out_N = np.bincount(labels_N)[labels_N] > 1
    if any(candidate.correct_N.shape != labels_N.shape for candidate in candidates):
        raise ValueError("every candidate needs one answer per label")
    if not held_out_N.any() or replicates < 2 or not 0 < level < 1 or top_k < 1:
        raise ValueError("ranking needs a held-out image, two replicates, a level between 0 and 1 and a top k")
    labels_H = labels_N[held_out_N]
    by_size = sorted(candidates, key=lambda candidate: (candidate.parameters, candidate.name, candidate.id))
    correct_HJ = np.stack([candidate.correct_N[held_out_N] for candidate in by_size], axis=1)
    order_J = np.argsort(-correct_HJ.sum(axis=0), kind="stable")  # ties stay in order of size
    ordered, correct_HJ = [by_size[j] for j in order_J], correct_HJ[:, order_J].astype(np.float64)
    right_J, images = correct_HJ.sum(axis=0).astype(np.intp), len(labels_H)

    accuracy_J = right_J / images
    unit_H, class_G = units(labels_H, None if units_N is None else np.asarray(units_N)[held_out_N])
    excess_GJ = np.zeros((len(class_G), len(ordered)))
    np.add.at(excess_GJ, unit_H, correct_HJ - accuracy_J)  # what each unit adds to the right answers beyond its share
    resampled_RJ = accuracy_J + _resampled_excess(excess_GJ, class_G, replicates, seed) / images
    apart_JJ = _told_apart(right_J, images, _difference_stderr(excess_GJ, class_G, images), resampled_RJ, level)
    groups = _tie_groups(apart_JJ)
    independent = images if units_N is None else effective_number(np.asarray(units_N)[held_out_N])
    first_J = _share_among_first(resampled_RJ, 1)
    top_k = min(top_k, len(ordered))
    among_J = _share_among_first(resampled_RJ, top_k)
    ranked = tuple(
        Ranked(
            id=candidate.id,
            name=candidate.name,
            rank=j + 1,
            accuracy=float(accuracy_J[j]),
            stderr=accuracy_stderr(float(accuracy_J[j]) * independent, independent),
            rank_interval=(1 + int(apart_JJ[j, :j].sum()), len(ordered) - int(apart_JJ[j, j:].sum())),
            tie_group=groups[j],
            probability_of_best=float(first_J[j]),
            probability_of_top_k=float(among_J[j]),
        )
        for j, candidate in enumerate(ordered)
    )
    majority = float(np.bincount(labels_H).max() / images)
    chance = binomial_tail(int(right_J[0] * _INDEPENDENT_SHARE), math.ceil(images * _INDEPENDENT_SHARE), majority)
    signal = (len(ordered) + dropped) * chance <= SIGNAL_LEVEL
    tied = [candidate for candidate, group in zip(ordered, groups, strict=True) if group == 1]
    return Ranking(
        models=ranked,
        stability=Stability(top1_probability=ranked[0].probability_of_best, tie_group_size=len(tied)),
        signal=signal,
        verdict=_verdict(ranked, tied, majority, signal=signal, dropped=dropped),
        top_k=top_k,
        method=(
            f"{replicates} bootstrap resamples of the {images} held-out images{_units_in_words(class_G, images)}, "
            f"drawn within each of the {len(np.unique(labels_H))} classes and the same for every model; rank intervals "
            f"and tie groups hold with {level:.0%} confidence, all comparisons of a model together. "
            "Training was not repeated."
        ),
    )


def accuracy_stderr(right: float, total: float) -> float:
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


def _units_in_words(class_G: NDArray[np.intp], images: int) -> str:
    return "" if len(class_G) == images else f" ({len(class_G)} units of near-duplicates)"


def _resampled_excess(excess_GJ: _Array, class_G: NDArray[np.intp], replicates: int, seed: int) -> _Array:
    """Return how many more right answers every candidate has in every resample than in the sample (R x J)."""
    random = np.random.default_rng(seed)
    block = max(1, _BLOCK_ENTRIES // len(class_G))
    blocks = [
        (resample_weights(class_G, min(block, replicates - start), random=random) - 1.0) @ excess_GJ
        for start in range(0, replicates, block)
    ]
    return np.concatenate(blocks)


def _difference_stderr(excess_GJ: _Array, class_G: NDArray[np.intp], images: int) -> _Array:
    """Return the standard error of every difference of two accuracies (J x J).

    It is the resamples' own standard deviation in closed form, with one image of disagreement added (half an image each
    way, Agresti and Min 2005): two models that differ on one image only are not told apart by it.
    """
    covariance_JJ = np.zeros((excess_GJ.shape[1],) * 2)
    for label in np.unique(class_G):
        excess_IJ = excess_GJ[class_G == label]
        count = len(excess_IJ)
        if count > 1:
            centred_IJ = excess_IJ - excess_IJ.mean(axis=0)
            covariance_JJ += centred_IJ.T @ centred_IJ * (count / (count - 1))
    variance_J = np.diag(covariance_JJ)
    variance_JJ = np.maximum(variance_J[:, None] + variance_J - 2 * covariance_JJ, 0.0)
    return np.asarray(np.sqrt(variance_JJ + 1) / images)


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
    excess_RJ = resampled_RJ - right_J / images
    steps_RJ = np.empty_like(excess_RJ)  # filled anew for each candidate: fresh memory would take most of the time
    for j, right in enumerate(right_J):
        np.subtract(excess_RJ, excess_RJ[:, [j]], out=steps_RJ)
        np.abs(steps_RJ, out=steps_RJ)
        spread_J = np.sqrt(np.einsum("rj,rj->j", steps_RJ, steps_RJ) / len(steps_RJ))
        steps_RJ *= np.divide(1.0, spread_J, out=np.zeros_like(spread_J), where=spread_J > _EQUAL)
        threshold = float(np.quantile(steps_RJ.max(axis=1), level))
        beyond_J = np.abs(right - right_J) / images > threshold * stderr_JJ[j]
        apart_JJ[j] = beyond_J & (np.abs(right - right_J) >= fewest)
    return apart_JJ


def _tie_groups(apart_JJ: NDArray[np.bool_]) -> list[int]:
    """Return group numbers: from the top, the best model left and all that are left and not told apart from it."""
    groups = np.zeros(len(apart_JJ), dtype=int)
    while (groups == 0).any():
        leader = int(np.flatnonzero(groups == 0)[0])
        groups[(groups == 0) & ~apart_JJ[leader]] = groups.max() + 1
    return [int(group) for group in groups]


def _share_among_first(resampled_RJ: _Array, k: int) -> _Array:
    """Return how often each candidate is among the first k; those tied for the last of these places share it."""
    last_R1 = -np.partition(-resampled_RJ, k - 1, axis=1)[:, [k - 1]]
    above_RJ, level_RJ = resampled_RJ > last_R1 + _EQUAL, np.abs(resampled_RJ - last_R1) <= _EQUAL
    left_R1 = k - above_RJ.sum(axis=1, keepdims=True)
    return np.asarray((above_RJ + level_RJ * left_R1 / level_RJ.sum(axis=1, keepdims=True)).mean(axis=0))


def wilson_interval(right: float, total: float, level: float) -> tuple[float, float]:
    """Return the two-sided confidence interval of a share, which covers it also near 0 and 1 (Wilson 1927)."""
    z = NormalDist().inv_cdf((1 + level) / 2)
    share, weight = right / total, z * z / total
    centre = (share + weight / 2) / (1 + weight)
    half = z * math.sqrt(share * (1 - share) / total + weight / (4 * total)) / (1 + weight)
    # At the ends rounding must not leave the share itself out.
    return min(share, max(0.0, centre - half)), max(share, min(1.0, centre + half))


def _verdict(
    ranked: Sequence[Ranked], tied: Sequence[Candidate], majority: float, *, signal: bool, dropped: int
) -> str:
    best = ranked[0]
    if not signal:
        return (
            "No signal: no model predicts these labels reliably better than always answering the largest class would "
            f"({majority:.1%} of the held-out images)."
        )
    if len(ranked) == 1 and dropped:
        return (
            f"{best.name} is the best of {1 + dropped} models: it gets {best.accuracy:.1%} of the held-out images "
            "right; the others were dropped on fewer images."
        )
    if len(ranked) == 1:
        return f"Only one model was evaluated: {best.name} gets {best.accuracy:.1%} of the held-out images right."
    if len(tied) == 1:
        lead = 100 * (best.accuracy - ranked[1].accuracy)
        return (
            f"{best.name} is the best of {len(ranked) + dropped} models: it gets {best.accuracy:.1%} of the held-out "
            f"images right, {lead:.1f} points more than {ranked[1].name}, the next one."
        )
    smallest = min(tied, key=lambda candidate: candidate.parameters)  # of equal sizes the better one: tied is ordered
    if len({candidate.parameters for candidate in tied}) == 1:
        return f"{len(tied)} models of equal size are statistically tied at the top; {best.name} is the first of them."
    return f"{len(tied)} models are statistically tied at the top; {smallest.name} is the smallest of them."
