"""Statements of the scores of how far classes stand apart."""

from app.scoring.contract import Invariance, Score

_ORDER_FREE: frozenset[Invariance] = frozenset({"sample_permutation", "class_permutation"})

STATEMENTS = (
    Score(
        group="features",
        name="separation_index",
        meaning="Share of images whose nearest other image belongs to the same class.",
        implementation="app.scoring.features.separation:separation_index",
        invariances=_ORDER_FREE | {"scale", "offset", "rotation"},
        cost="n^2 d",
        paper="Kalhor et al. 2020, arXiv:2012.13717",
        equation="the separation index: nearest neighbour by Euclidean distance, leave-one-out",
    ),
    Score(
        group="features",
        name="fisher_ratio",
        meaning="How much larger the variance between classes is than the variance within them.",
        implementation="app.scoring.features.separation:fisher_ratio",
        invariances=_ORDER_FREE | {"scale", "offset", "rotation"},
        cost="n d",
        paper="Fisher 1936, doi:10.1111/j.1469-1809.1936.tb02137.x",
        equation="ratio of the traces of the between-class and within-class scatter matrices",
    ),
    Score(
        group="features",
        name="silhouette",
        meaning="How much nearer images are to their own class than to the next one, on average.",
        implementation="app.scoring.features.separation:silhouette",
        invariances=_ORDER_FREE | {"scale", "offset", "rotation"},
        cost="n^2 d",
        paper="Rousseeuw 1987, doi:10.1016/0377-0427(87)90125-7",
        equation="the overall average silhouette width, exact Euclidean distances",
    ),
)
