"""What a score is worth where labels say nothing: the value to expect when they are shuffled.

A score of 0.2 may be a lot or nothing: the paper's LFC gives pure noise 0.06 with 128 feature dimensions and 0.12 with
2048. Shuffling keeps the features and the class sizes, and so the width of the model, and takes the meaning away.
"""

import math
from dataclasses import dataclass

import numpy as np

from app.domain.errors import EvaluationFailed
from app.scoring.contract import Result, Score
from app.scoring.measurement import measure_score
from app.scoring.panel import Panel


@dataclass(frozen=True, kw_only=True)
class Null:
    """The score of shuffled labels.

    Attributes:
        mean: what to expect.
        stderr: how far ``mean`` itself may be off; 0 for a closed form.
        origin: how it was found, in words.
    """

    mean: float
    stderr: float
    origin: str


def of(score: Score, panel: Panel, result: Result, *, permutations: int = 20, seed: int = 0) -> Null:
    """Return the null value that ``result`` carries in closed form, else an estimate by permutation."""
    if result.null_value is not None:
        return Null(mean=result.null_value, stderr=0.0, origin="closed form")
    return by_permutation(score, panel, permutations=permutations, seed=seed)


def by_permutation(score: Score, panel: Panel, *, permutations: int = 20, seed: int = 0) -> Null:
    """Return the mean score over random permutations of the labels; what does not depend on labels is computed once.

    Raises:
        EvaluationFailed: ``no_null``: the score does not read labels, so shuffling them says nothing.
        ValueError: fewer than two permutations.
    """
    if "labels" not in score.inputs:
        raise EvaluationFailed(
            "no_null",
            f"The score {score.name} does not read labels, so it has no value of shuffled labels.",
            param=score.name,
            hint="Leave the null value out for this score.",
        )
    if permutations < 2:
        raise ValueError("at least two permutations are needed")
    random = np.random.default_rng(seed)
    values = [
        measure_score(score, panel.with_labels(random.permutation(panel.labels_N))).value for _ in range(permutations)
    ]
    return Null(
        mean=float(np.mean(values)),
        stderr=float(np.std(values, ddof=1)) / math.sqrt(permutations),
        origin=f"{permutations} permutations of the labels",
    )
