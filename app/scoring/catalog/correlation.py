"""Statements of the label-feature correlations."""

from app.scoring.contract import Invariance, Score

_ORDER_FREE: frozenset[Invariance] = frozenset({"sample_permutation", "class_permutation"})
_LABEL_FEATURE_CORRELATION = "Deshpande et al. 2021, arXiv:2102.00084"

STATEMENTS = (
    Score(
        group="features",
        name="lfc",
        meaning="How strongly pairs of images with similar features share a label, as the paper defines it.",
        implementation="app.scoring.features.lfc:lfc",
        invariances=_ORDER_FREE | {"scale", "rotation"},
        cost="n d min(n, d)",
        paper=_LABEL_FEATURE_CORRELATION,
        equation="Eq. 8, all pairs, each image with itself included",
    ),
    Score(
        group="features",
        name="lfc_offdiagonal",
        meaning="Label-feature correlation over pairs of different images, free of the bias that grows with width.",
        implementation="app.scoring.features.lfc:lfc_offdiagonal",
        invariances=_ORDER_FREE | {"scale", "rotation"},
        cost="n d min(n, d)",
        paper=_LABEL_FEATURE_CORRELATION,
        equation="Eq. 8 without the diagonal",
    ),
    Score(
        group="features",
        name="lfc_centered",
        meaning="Label-feature correlation after removing what all images have in common.",
        implementation="app.scoring.features.lfc:lfc_centered",
        invariances=_ORDER_FREE | {"scale", "offset", "rotation"},
        cost="n d min(n, d)",
        paper="Kornblith et al. 2019, arXiv:1905.00414",
        equation="Eq. 3 and 4, linear kernel: centered kernel alignment of features and labels",
    ),
)

COSINE = (
    Score(
        group="features",
        name="lfc_cosine",
        meaning="How strongly pairs of images whose features point the same way share a label.",
        implementation="app.scoring.features.lfc:lfc_cosine",
        invariances=_ORDER_FREE | {"scale", "rotation"},
        cost="n d min(n, d)",
        paper=_LABEL_FEATURE_CORRELATION,
        equation="Eq. 8, all pairs, of rows divided by their length",
    ),
)
