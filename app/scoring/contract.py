"""What a score states about itself, and what it returns.

Legend: N images.
"""

from __future__ import annotations  # so that the service, which only reads statements, loads no numpy

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Input = Literal["features", "labels", "source_probabilities"]
Invariance = Literal["scale", "offset", "rotation", "sample_permutation", "class_permutation"]


@dataclass(frozen=True, kw_only=True)
class Score:
    """The statement of one score. Larger values always mean a better model.

    Attributes:
        name: stable identifier, as users write it.
        meaning: one sentence for users.
        implementation: ``module:function``, loaded on first use; the function maps a ``Panel`` to a ``Result``.
        inputs: the arrays it reads.
        invariances: the changes of the input that leave the value as it is. ``scale``: all features times a positive
            number. ``offset``: one vector added to every row. ``rotation``: features times an orthogonal matrix.
            ``sample_permutation``: images in another order. ``class_permutation``: classes under other names.
        cost: leading term of the work, in images n, feature dimensions d and classes C.
        paper: where the score was defined.
        equation: the equation, section or table there.
        zoo_relative: the value depends on the other candidates, so it is never cached as absolute.
        needs_head: only models that kept the classifier they were pretrained with have it.
        stochastic: it draws random numbers (from a fixed seed).
    """

    name: str
    meaning: str
    implementation: str
    inputs: tuple[Input, ...] = ("features", "labels")
    invariances: frozenset[Invariance]
    cost: str
    paper: str
    equation: str
    zoo_relative: bool = False
    needs_head: bool = False
    stochastic: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class Result:
    """One score of one model on one data set.

    Attributes:
        value: finite; larger is better.
        stderr: standard error over the draw of the images, in the unit of ``value``; None where it is not estimated.
        warnings: stable codes, explained in docs/scores.md.
        per_image_N: for scores that predict images: whether each image's held-out prediction was right.
        held_out_N: which images the estimate counts; the others are False in ``per_image_N``.
        log_likelihood_N: held-out log-probability of the true class in nats; 0 where ``held_out_N`` is False.
    """

    value: float
    stderr: float | None = None
    warnings: tuple[str, ...] = ()
    per_image_N: NDArray[np.bool_] | None = None
    held_out_N: NDArray[np.bool_] | None = None
    log_likelihood_N: NDArray[np.float64] | None = None
