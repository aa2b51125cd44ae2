"""Statements of the scores of means and covariances by class."""

from app.scoring.contract import Invariance, Score

_ORDER_FREE: frozenset[Invariance] = frozenset({"sample_permutation", "class_permutation"})
_BHATTACHARYYA = "Pandy et al. 2022, arXiv:2111.12780"

STATEMENTS = (
    Score(
        group="features",
        name="hscore",
        meaning="How much of the features' variance, all directions counted alike, lies between the classes.",
        implementation="app.scoring.features.hscore:hscore",
        invariances=_ORDER_FREE | {"scale", "offset", "rotation"},
        cost="n d min(n, d)",
        paper="Bao et al. 2019, arXiv:2212.10082",
        equation="the H-score: trace of pseudo-inverse covariance times covariance of class means",
    ),
    Score(
        group="features",
        name="hscore_regularized",
        meaning="The H-score with a covariance matrix that stays reliable when there are few images.",
        implementation="app.scoring.features.hscore:hscore_regularized",
        invariances=_ORDER_FREE | {"scale", "offset", "rotation"},
        cost="n d min(n, d)",
        paper="Ibrahim et al. 2021, arXiv:2110.06893",
        equation="shrinkage-based H-score, with the shrinkage of Ledoit and Wolf 2004",
    ),
    Score(
        group="features",
        name="transrate",
        meaning="How many fewer nats describe the features once the class is known, as the paper defines it.",
        implementation="app.scoring.features.transrate:transrate",
        invariances=_ORDER_FREE | {"offset", "rotation"},
        cost="n d min(n, d)",
        paper="Huang et al. 2022, arXiv:2106.09362",
        equation="the listing: eps = 1e-4, classes weighted equally",
    ),
    Score(
        group="features",
        name="transrate_scalefree",
        meaning="How many fewer nats describe the features once the class is known, whatever the unit of the features.",
        implementation="app.scoring.features.transrate:transrate_scalefree",
        invariances=_ORDER_FREE | {"scale", "offset", "rotation"},
        cost="n d min(n, d)",
        paper="Huang et al. 2022, arXiv:2106.09362",
        equation="the coding rates, of features with a mean square length of one, classes weighted by size",
    ),
    Score(
        group="features",
        name="gbc",
        meaning="How little the classes overlap when each is taken for a Gaussian of any shape.",
        implementation="app.scoring.features.gbc:gbc",
        invariances=_ORDER_FREE | {"scale", "offset", "rotation"},
        cost="n d min(n, d) + min(n, d)^3 + C^2 64^3",
        paper=_BHATTACHARYYA,
        equation="the Gaussian Bhattacharyya coefficient, full covariance, at most 64 principal dimensions",
    ),
    Score(
        group="features",
        name="gbc_diagonal",
        meaning="How little the classes overlap when each is taken for a Gaussian with uncorrelated dimensions.",
        implementation="app.scoring.features.gbc:gbc_diagonal",
        invariances=_ORDER_FREE | {"scale", "offset"},
        cost="n d + C^2 d",
        paper=_BHATTACHARYYA,
        equation="the Gaussian Bhattacharyya coefficient, diagonal covariance",
    ),
    Score(
        group="features",
        name="gbc_spherical",
        meaning="How little the classes overlap when each is taken for a ball.",
        implementation="app.scoring.features.gbc:gbc_spherical",
        invariances=_ORDER_FREE | {"scale", "offset", "rotation"},
        cost="n d + C^2 d",
        paper=_BHATTACHARYYA,
        equation="the Gaussian Bhattacharyya coefficient, spherical covariance",
    ),
)
