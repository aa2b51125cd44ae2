"""Scores that only exist among candidates: parts scaled to 0..1 over the zoo and summed.

Adding or dropping a candidate changes the value of the others, so values are computed for a zoo and never kept.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from app.domain.errors import EvaluationFailed
from app.scoring.contract import Score
from app.scoring.measurement import measure, zoo_required
from app.scoring.panel import Panel
from app.scoring.registry import find


def combine(score: Score, parts: Mapping[str, Sequence[float]]) -> list[float]:
    """Return the score of every candidate from the values of its parts.

    Each part is scaled so that the candidates' smallest value is 0 and the largest 1; a part in which all agree counts
    as 0. A single candidate therefore scores 0.

    Args:
        score: a score with ``combines``.
        parts: for every part the values of the candidates, in the same order.

    Raises:
        ValueError: a part is missing, or parts differ in length.
    """
    missing = [name for name, _ in score.combines if name not in parts]
    if missing or not score.combines:
        raise ValueError(f"{score.name} needs the parts {[name for name, _ in score.combines]}, without {missing}")
    totals = [0.0] * len(parts[score.combines[0][0]])
    for name, weight in score.combines:
        scaled = _scaled(parts[name])
        totals = [total + weight * value for total, value in zip(totals, scaled, strict=True)]
    return totals


def compare(name: str, panels: Sequence[Panel]) -> list[float]:
    """Return a score of every candidate; for a score that is not zoo-relative, its value of each panel.

    Args:
        name: a name in ``registry.SCORES``.
        panels: the candidates' panels of the same images, in any order.

    Raises:
        BadRequest: ``unknown_score``.
        EvaluationFailed: ``different_images``: the panels differ in their number of images or in their labels;
            ``zoo_required``: the score is zoo-relative, and there are fewer than two candidates; or a part is not
            defined on a panel.
    """
    score = find(name)
    for place, panel in enumerate(panels[1:], start=2):
        if not np.array_equal(panel.labels_N, panels[0].labels_N):
            differs = (
                "has other labels than the first candidate"
                if panel.num_images == panels[0].num_images
                else f"has {panel.num_images} images, the first {panels[0].num_images}"
            )
            raise EvaluationFailed(
                "different_images",
                f"Candidate {place} {differs}, so their scores cannot be compared.",
                param="panels",
                hint="Compute the features of all candidates on the same images, in the same order.",
            )
    if not score.zoo_relative:
        return [measure(name, panel).value for panel in panels]
    if len(panels) < 2:
        raise zoo_required(score)
    return combine(score, {part: [measure(part, panel).value for panel in panels] for part, _ in score.combines})


def _scaled(values: Sequence[float]) -> list[float]:
    low, high = min(values, default=0.0), max(values, default=0.0)
    # Halves, so that the range of two huge values of opposite sign does not overflow.
    half = high / 2 - low / 2
    return [(value / 2 - low / 2) / half if half > 0 else 0.0 for value in values]
