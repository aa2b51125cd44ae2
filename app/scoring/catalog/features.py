"""Statements of the scores of labelled features."""

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
    Score(
        group="features",
        name="logme",
        meaning="How probable the labels are under a Bayesian linear model on the features, per image.",
        implementation="app.scoring.features.logme:logme",
        invariances=_ORDER_FREE | {"scale", "rotation"},
        cost="n d min(n, d)",
        paper="You et al. 2021, arXiv:2102.11005",
        equation="Eq. 2, maximised exactly and right for n < d",
    ),
    Score(
        group="features",
        name="knn",
        meaning="Share of images whose nearest other images belong to the same class.",
        implementation="app.scoring.features.knn:knn",
        invariances=_ORDER_FREE | {"scale", "offset", "rotation"},
        cost="n^2 d",
        paper="Cover and Hart 1967, doi:10.1109/TIT.1967.1053964",
        equation="k-nearest-neighbour rule, leave-one-out",
    ),
    Score(
        group="features",
        name="linear_probe",
        meaning="Share of images that a linear classifier on the features gets right when it has not seen them.",
        implementation="app.scoring.features.linear_probe:linear_probe",
        invariances=frozenset({"scale", "offset", "rotation", "class_permutation"}),
        cost="n C min(n, d), some thousand times",
        paper="Alain and Bengio 2016, arXiv:1610.01644",
        equation="multinomial logistic regression, stratified 5-fold cross-validation",
    ),
)
