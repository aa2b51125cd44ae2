"""Statements of the scores of how alike pairs of images are."""

from app.scoring.contract import Invariance, Score

_ORDER_FREE: frozenset[Invariance] = frozenset({"sample_permutation", "class_permutation"})

STATEMENTS = (
    Score(
        group="features",
        name="parc",
        meaning="Whether pairs of images that look alike to the model are those that share a label, by rank.",
        implementation="app.scoring.features.parc:parc",
        invariances=_ORDER_FREE | {"scale", "offset"},
        cost="n^2 d",
        paper="Bolya et al. 2021, arXiv:2111.06977",
        equation="100 times Spearman's correlation of feature and label distances, all dimensions",
    ),
    Score(
        group="features",
        name="rsa",
        meaning="Whether the model finds the same pairs of images alike as a reference model does, by rank.",
        implementation="app.scoring.features.reference:rsa",
        inputs=("features", "reference_features"),
        invariances=_ORDER_FREE | {"scale", "offset"},
        cost="n^2 d",
        paper="Dwivedi and Roig 2019, arXiv:1904.11740",
        equation="100 times Spearman's correlation of the two models' distances",
    ),
    Score(
        group="features",
        name="dds",
        meaning="How well the model's cosine distances between images agree with those of a reference model.",
        implementation="app.scoring.features.reference:dds",
        inputs=("features", "reference_features"),
        invariances=_ORDER_FREE | {"scale", "offset"},
        cost="n d min(n, d)",
        paper="Dwivedi et al. 2020, arXiv:2008.02107",
        equation="100 times the debiased centred kernel alignment of cosine distances, features standardised",
    ),
)
