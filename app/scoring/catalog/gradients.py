"""Statements of the scores of a model's gradients."""

from app.scoring.contract import Input, Invariance, Score

# Whatever happens to the features does not reach these scores; changes are those of the gradients.
_INPUTS: tuple[Input, ...] = ("labels", "gradients")
_ORDER_FREE: frozenset[Invariance] = frozenset({"sample_permutation", "class_permutation"})
_LABEL_GRADIENT_CORRELATION = "Deshpande et al. 2021, arXiv:2102.00084"
_COST = "n^3, after a forward pass and P backwards through the model"

STATEMENTS = (
    Score(
        group="gradients",
        name="lgc",
        meaning="How strongly pairs of images that move the model alike share a label, as the paper defines it.",
        implementation="app.scoring.gradients.scores:lgc",
        inputs=_INPUTS,
        invariances=_ORDER_FREE | {"scale", "rotation"},
        cost=_COST,
        paper=_LABEL_GRADIENT_CORRELATION,
        equation="Eq. 8, all pairs, each image with itself included",
    ),
    Score(
        group="gradients",
        name="lgc_offdiagonal",
        meaning="Label-gradient correlation over pairs of different images.",
        implementation="app.scoring.gradients.scores:lgc_offdiagonal",
        inputs=_INPUTS,
        invariances=_ORDER_FREE | {"scale", "rotation"},
        cost=_COST,
        paper=_LABEL_GRADIENT_CORRELATION,
        equation="Eq. 8 without the diagonal",
    ),
    Score(
        group="gradients",
        name="lgc_centered",
        meaning="Label-gradient correlation after removing what the gradients of all images have in common.",
        implementation="app.scoring.gradients.scores:lgc_centered",
        inputs=_INPUTS,
        invariances=_ORDER_FREE | {"scale", "offset", "rotation"},
        cost=_COST,
        paper="Kornblith et al. 2019, arXiv:1905.00414",
        equation="Eq. 3 and 4, of the kernel of the gradients",
    ),
    Score(
        group="gradients",
        name="gradient_alignment_speed",
        meaning="How fast the model's own weights start to learn the labels, per unit of the learning rate.",
        implementation="app.scoring.gradients.scores:gradient_alignment_speed",
        inputs=_INPUTS,
        invariances=_ORDER_FREE | {"offset", "rotation"},
        cost=_COST,
        paper=_LABEL_GRADIENT_CORRELATION,
        equation="Eq. 3, over the initial loss; its logarithm",
    ),
    Score(
        group="gradients",
        name="gradient_ridge_generalization",
        meaning="How far the labels lie along the strongest directions of the gradients: the nearer to 0 the simpler.",
        implementation="app.scoring.gradients.scores:gradient_ridge_generalization",
        inputs=_INPUTS,
        invariances=_ORDER_FREE | {"scale", "offset", "rotation"},
        cost=_COST,
        paper=_LABEL_GRADIENT_CORRELATION,
        equation="Eq. 4, with a ridge",
        negated=True,
    ),
    Score(
        group="gradients",
        name="gradient_gcv",
        meaning="Share of the labels' variance that training near the pretrained weights predicts, cross-validated.",
        implementation="app.scoring.gradients.scores:gradient_gcv",
        inputs=_INPUTS,
        invariances=_ORDER_FREE | {"scale", "offset", "rotation"},
        cost=_COST,
        paper="Wei et al. 2022, arXiv:2203.06176",
        equation="generalised cross-validation of kernel ridge regression, over that of the class shares",
    ),
    Score(
        group="gradients",
        name="gradient_loo",
        meaning="Share of images that training near the pretrained weights on all other images gets right.",
        implementation="app.scoring.gradients.scores:gradient_loo",
        inputs=_INPUTS,
        invariances=_ORDER_FREE | {"scale", "offset", "rotation"},
        cost=_COST,
        paper="Wei et al. 2022, arXiv:2203.06176",
        equation="leave-one-out residuals of kernel ridge regression",
    ),
)
