"""Statements of the scores of the data a model was pretrained on."""

from app.scoring.contract import Input, Invariance, Score

_INPUTS: tuple[Input, ...] = ("features", "labels", "source_classes")
_UNCHANGED: frozenset[Invariance] = frozenset({"offset", "rotation", "sample_permutation", "class_permutation"})
_COST = "n d + Z C d + a linear programme of Z C pairs"

STATEMENTS = (
    Score(
        group="source_data",
        name="domain_similarity",
        meaning="How near the images' classes lie to those the model was pretrained on, as the paper has it.",
        implementation="app.scoring.source_data.distance:domain_similarity",
        inputs=_INPUTS,
        invariances=_UNCHANGED,
        cost=_COST,
        paper="Cui et al. 2018, arXiv:1806.06193",
        equation="Section 4.1, Eq. 2 and 3: exp(-0.01 EMD)",
    ),
    Score(
        group="source_data",
        name="domain_similarity_scalefree",
        meaning="How near the classes lie to those the model was pretrained on, as a share of the mean distance.",
        implementation="app.scoring.source_data.distance:domain_similarity_scalefree",
        inputs=_INPUTS,
        invariances=_UNCHANGED | {"scale"},
        cost=_COST,
        paper="Cui et al. 2018, arXiv:1806.06193",
        equation="Section 4.1, with 1 / mean distance in place of 0.01",
    ),
    Score(
        group="source_data",
        name="otce",
        meaning="How well classes follow from the nearest source classes, less how far those are away.",
        implementation="app.scoring.source_data.distance:otce",
        inputs=_INPUTS,
        invariances=_UNCHANGED | {"scale"},
        cost=_COST,
        paper="Tan, Li and Huang 2021, arXiv:2103.13843",
        equation="Section 3, on class means, both weights one and the cost relative to independent coupling",
    ),
)
