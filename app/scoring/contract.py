"""What a score states about itself, and what it returns.

Legend: N images.
"""

from __future__ import annotations  # so that the service, which only reads statements, loads no numpy

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Group = Literal["features", "gradients", "head", "source_data", "prior"]
Input = Literal[
    "features", "labels", "gradients", "source_probabilities", "reference_features", "source_classes", "facts"
]
Invariance = Literal["scale", "offset", "rotation", "sample_permutation", "class_permutation"]


@dataclass(frozen=True, kw_only=True)
class Score:
    """The statement of one score. Larger values always mean a better model.

    Attributes:
        group: what it needs beyond the user's labels: the model's features, its gradients, its own classifier, its
            source data, or nothing that depends on the user's labels (a prior).
        name: stable identifier, as users write it.
        meaning: one sentence for users.
        implementation: ``module:function``, loaded on first use; the function maps a ``Panel`` to a ``Result``.
        inputs: the arrays it reads.
        invariances: the changes of the input that leave the value as it is. ``scale``: all features, or gradients,
            times a positive number. ``offset``: one vector added to every row. ``rotation``: rows times an orthogonal
            matrix.
            ``sample_permutation``: images in another order. ``class_permutation``: classes under other names.
        cost: leading term of the work, in images n, feature dimensions d, classes C and source classes Z.
        paper: where the score was defined.
        equation: the equation, section or table there.
        negated: the publication's value is better when smaller; ours has the other sign.
        combines: parts of a score that is relative to the zoo, (name of a score, weight): each is scaled to 0..1 over
            the candidates and the weighted sum is taken, so the value depends on the other candidates and is never
            cached as absolute. Such a score has no implementation of its own.
        stochastic: it draws random numbers (from a fixed seed).
    """

    group: Group
    name: str
    meaning: str
    implementation: str = ""
    inputs: tuple[Input, ...] = ("features", "labels")
    invariances: frozenset[Invariance]
    cost: str
    paper: str
    equation: str
    negated: bool = False
    combines: tuple[tuple[str, float], ...] = ()
    stochastic: bool = False

    @property
    def zoo_relative(self) -> bool:
        """Whether the value depends on the other candidates."""
        return bool(self.combines)

    @property
    def needs_gradients(self) -> bool:
        """Whether a pass backwards through the model is needed."""
        return "gradients" in self.inputs

    @property
    def needs_head(self) -> bool:
        """Whether only models that kept the classifier they were pretrained with have it."""
        return "source_probabilities" in self.inputs


@dataclass(frozen=True, kw_only=True, eq=False)
class Result:
    """One score of one model on one data set.

    Attributes:
        value: finite; larger is better.
        stderr: standard error over the draw of the images, in the unit of ``value``; None where it is not estimated.
        null_value: the value to expect, on average, of the same features when the labels are shuffled; None where
            there is no closed form (``nulls.by_permutation`` estimates it then).
        warnings: stable codes, explained in docs/scores.md.
        influence_N: by how much the value rises, to first order, when image i counts once more: with weights w_i in
            place of ones the value is about ``value + sum((w_i - 1) * influence_i)``. None where it is not known.
        per_image_N: for scores that predict images: whether each image's held-out prediction was right.
        predicted_N: the class predicted for each held-out image, -1 where classes tie or none was predicted.
        held_out_N: which images the estimate counts; the others are False in ``per_image_N``.
        log_likelihood_N: held-out log-probability of the true class in nats; 0 where ``held_out_N`` is False.
    """

    value: float
    stderr: float | None = None
    null_value: float | None = None
    warnings: tuple[str, ...] = ()
    influence_N: NDArray[np.float64] | None = None
    per_image_N: NDArray[np.bool_] | None = None
    predicted_N: NDArray[np.intp] | None = None
    held_out_N: NDArray[np.bool_] | None = None
    log_likelihood_N: NDArray[np.float64] | None = None
