"""Statements of the scores of what is known without labels."""

from app.scoring.contract import Invariance, Score

_ORDER_FREE: frozenset[Invariance] = frozenset({"sample_permutation", "class_permutation"})
_UNCHANGED: frozenset[Invariance] = _ORDER_FREE | {"scale", "offset", "rotation"}
_STATIC = "Renggli et al. 2022, arXiv:2010.06402"

STATEMENTS = (
    Score(
        group="prior",
        name="parameters",
        meaning="How many parameters the model has, as a power of ten.",
        implementation="app.scoring.priors.facts:parameters",
        inputs=("facts",),
        invariances=_UNCHANGED,
        cost="1",
        paper=_STATIC,
        equation="task-agnostic search",
    ),
    Score(
        group="prior",
        name="flops",
        meaning="How many floating-point operations the model takes for an image, as a power of ten.",
        implementation="app.scoring.priors.facts:flops",
        inputs=("facts",),
        invariances=_UNCHANGED,
        cost="1",
        paper=_STATIC,
        equation="task-agnostic search",
    ),
    Score(
        group="prior",
        name="source_accuracy",
        meaning="How accurate the model is on the data it was pretrained on.",
        implementation="app.scoring.priors.facts:source_accuracy",
        inputs=("facts",),
        invariances=_UNCHANGED,
        cost="1",
        paper="Kornblith, Shlens and Le 2019, arXiv:1805.08974",
        equation="accuracy on ImageNet",
    ),
    Score(
        group="prior",
        name="rankme",
        meaning="How many dimensions the features use, by the entropy of their singular values; no label is read.",
        implementation="app.scoring.priors.effective_dimension:rankme",
        inputs=("features",),
        invariances=_ORDER_FREE | {"scale", "rotation"},
        cost="n d min(n, d)",
        paper="Garrido et al. 2023, arXiv:2210.02885",
        equation="Section 3, not centred",
    ),
    Score(
        group="prior",
        name="participation_ratio",
        meaning="How many axes the variance of the features is spread over; no label is read.",
        implementation="app.scoring.priors.effective_dimension:participation_ratio",
        inputs=("features",),
        invariances=_UNCHANGED,
        cost="n d min(n, d)",
        paper="Gao et al. 2017, doi:10.1101/214262",
        equation="participation ratio tr(S)^2 / |S|^2 of the covariance S",
    ),
)
